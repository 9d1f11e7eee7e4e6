"""Errors as the tools show them: one line, which says where code of a user's own failed."""

import os
import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsolov2.errors import ForeignError, InputError, MissingOpError

PACKAGE = Path(__file__).parents[1]
LIBRARIES = {
    Path(sysconfig.get_path(name)) for name in ('stdlib', 'platstdlib', 'purelib', 'platlib')
}


@contextmanager
def exit_with_message(config: str) -> Iterator[None]:
    """Turn an error that the user can mend into one line on stderr and exit status 2.

    ``config`` is the config at work; the message names it where an operator is missing. If
    ``MMSOLOV2_TRACEBACK=1`` is set, the whole traceback comes before the line.
    """
    try:
        yield
    except (InputError, MissingOpError) as error:
        whole = os.environ.get('MMSOLOV2_TRACEBACK') == '1'
        if whole:
            traceback.print_exc()
        before = f'{config}: ' if isinstance(error, MissingOpError) else ''
        hint = '; MMSOLOV2_TRACEBACK=1 shows the traceback'
        after = hint if isinstance(error, ForeignError) and not whole else ''
        print(f'error: {before}{_last_message(error)}{after}', file=sys.stderr)
        sys.exit(2)


def _last_message(error: Exception) -> str:
    """The message alone, also where a data loader's worker wrapped it into its traceback."""
    return str(error).rsplit(f'{type(error).__name__}: ', maxsplit=1)[-1].strip()


@contextmanager
def error_context(name: str | Path) -> Iterator[None]:
    """Make whatever goes wrong an InputError of ``name``: a config that is read, or built from.

    The registries, and the classes they call, raise errors of all types for a wrong setting. What
    this package refuses is said as it is, all else with its type and its place.
    """
    try:
        yield
    except (InputError, MissingOpError):
        raise
    except Exception as error:
        files = [frame.filename for frame in _frames(error)]
        if type(error) is ValueError and _is_ours(files[-1]) and not any(map(_is_users, files)):
            raise InputError(f'{name}: {_text(error)}') from error
        raise ForeignError(f'{name}: {_with_place(error)}') from error


def _text(error: BaseException) -> str:
    """What an error says, in one line."""
    alone = isinstance(error, KeyError) and len(error.args) == 1
    return ' '.join(str(error.args[0] if alone else error).split())


def _with_place(error: BaseException) -> str:
    """What an error says, its type and its place, in one line."""
    reason, place = _place(error)
    said = f'{type(error).__name__}: {_text(error)}'
    if reason is not error:
        said = f'{textwrap.shorten(said, 200)}; {type(reason).__name__}: {_text(reason)}'
    return f'{said} (at {place.line}, {place.filename}:{place.lineno})'


def _place(error: BaseException) -> tuple[BaseException, traceback.FrameSummary]:
    """An error, or the one that it was raised for, and its last line in code of a user's own.

    If there is none, that in a part of this package, or else in any library.
    """
    places = (
        (reason, frame)
        for is_sought in (_is_users, _is_of_a_part)
        for reason in _chain(error)
        for frame in reversed(_frames(reason))
        if is_sought(frame.filename)
    )
    return next(places, (error, _frames(error)[-1]))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the one that it was raised for, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The lines that an error came through, that of wrong syntax too."""
    frames = list(traceback.extract_tb(error.__traceback__))
    if isinstance(error, SyntaxError) and error.filename:
        frames.append(traceback.FrameSummary(error.filename, error.lineno, '', line=error.text))
    return frames


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(PACKAGE)


def _is_of_a_part(file: str) -> bool:
    """Whether code is of a model, a data set or the like of this package."""
    return _is_ours(file) and Path(file).parent.name not in ('apis', 'cli', 'tools')


def _is_users(file: str) -> bool:
    """Whether code is of a user's own: of no library, nor of this package or its tools."""
    others = (*LIBRARIES, PACKAGE, PACKAGE.parent / 'tools')
    return not file.startswith('<') and not any(Path(file).is_relative_to(each) for each in others)
