"""What the tools' command lines share."""

import argparse
from collections.abc import Callable


def tool_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is a tool's docstring: its first line, the options, then the rest."""
    first, _, rest = doc.partition('\n\n')
    return argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def at_least(least: int) -> Callable[[str], int]:
    """The ``type`` of an argument that is a whole number, not below ``least`` (0 or more)."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f'{text!r} is not a number of at least {least}')
        return int(text)

    return parse
