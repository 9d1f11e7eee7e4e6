"""Errors that a user can mend, and how the tools show them."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A file or a setting is wrong: the message names it, its value and the remedy."""


class MissingOpError(ImportError):
    """A compiled operator of mmcv was called, but only mmcv-lite is installed."""


@contextmanager
def exit_with_message(config: str) -> Iterator[None]:
    """Turn an error that the user can mend into one line on stderr and exit status 2.

    ``config`` is the config at work; the message names it where an operator is missing. If
    ``MMSOLOV2_TRACEBACK=1`` is set, the whole traceback comes before the line.
    """
    try:
        yield
    except InputError as error:
        sys.exit(_say(_last_message(error)))
    except MissingOpError as error:
        sys.exit(_say(f'{config}: {_last_message(error)}'))


def _say(message: str) -> int:
    if os.environ.get('MMSOLOV2_TRACEBACK') == '1':
        traceback.print_exc()
    print(f'error: {message}', file=sys.stderr)
    return 2


def _last_message(error: Exception) -> str:
    """The message alone, also where a data loader's worker wrapped it into its traceback."""
    return str(error).rsplit(f'{type(error).__name__}: ', maxsplit=1)[-1].strip()
