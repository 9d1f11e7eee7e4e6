"""Reading what follows ``--cfg-options``."""

import argparse
from collections.abc import Iterator, Sequence

from mmengine.config import DictAction

CLOSING = {'[': ']', '(': ')', '{': '}'}
QUOTES = ('"', "'")


class OptionsAction(argparse.Action):
    """Read ``key=value`` words into a dict, or say what cannot be read."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[str] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the words to the namespace's dict, or end with the parser's error."""
        options = dict(getattr(namespace, self.dest) or {})
        for text in values or ():
            key, _, value = text.partition('=')
            try:
                if not key or key == text:
                    raise ValueError('there is no key' if not key else 'there is no =')
                options[key] = read_value(value)
            except (TypeError, ValueError) as error:  # TypeError: a list as a key
                parser.error(
                    f'{option_string} {text}: give key=value, lists as key="[a,b]" or key=a,b '
                    f'({error})'
                )
        setattr(namespace, self.dest, options)


def read_value(text: str) -> object:
    """The value of a text: literals of Python and words without quotes; nothing is run.

    As mmengine reads them, ``1``, ``1e-3``, ``true``, ``None``, ``word``, ``a,b``, ``[a,(1,2)]``,
    and quotes around brackets are left out. As Python does, ``[dict(type='EMAHook')]``,
    ``{'a': 1}`` and ``'one, word'``.

    >>> read_value('[a,(1,2.5)]'), read_value('none,1e-3'), read_value('dict(type=EMAHook)')
    (['a', (1, 2.5)], ['none', 0.001], {'type': 'EMAHook'})

    Raises:
        ValueError: if brackets or quotes do not match.
    """
    text = text.strip()
    if text[:1] in QUOTES and text[-1:] == text[:1] and text[1:2] in CLOSING:
        text = text[1:-1]
    if ',' not in text and not text.startswith((*CLOSING, *QUOTES, 'dict(')):
        return DictAction._parse_int_float_bool(text)  # a word, whatever is in it
    return _values(text) if ',' in _outline(text).values() else _value(text)


def _values(text: str) -> list:
    return [_value(part) for part in _parts(text)]


def _parts(text: str) -> list[str]:
    """What is between commas; a last comma may follow."""
    cuts = [index for index, char in _outline(text).items() if char == ',']
    starts, ends = [0, *(cut + 1 for cut in cuts)], [*cuts, len(text)]
    parts = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    return parts if parts[-1].strip() else parts[:-1]


def _value(text: str) -> object:
    text = text.strip()
    match ''.join(_outline(text).values()):
        case '""' | "''":
            return text[1:-1]
        case '[]':
            return _values(text[1:-1])
        case '()':
            return tuple(_values(text[1:-1]))
        case '{}':
            return dict(_pairs(text[1:-1], ':'))
        case 'dict()':
            return dict(_pairs(text[5:-1], '='))
    return DictAction._parse_int_float_bool(text)


def _pairs(text: str, mark: str) -> Iterator[tuple]:
    """The keys and values between commas."""
    for entry in _parts(text):
        at = next((index for index, char in _outline(entry).items() if char == mark), None)
        if at is None:
            raise ValueError(f'{entry.strip()!r} has no {mark}')
        yield _value(entry[:at]), _value(entry[at + 1 :])


def _outline(text: str) -> dict[int, str]:
    """What of a text is not within brackets or quotes, these included, by its position.

    An apostrophe within a word is no quote.
    """
    outline: dict[int, str] = {}
    waiting: list[str] = []  # what closes the brackets and quotes that are open
    before = ','
    for index, char in enumerate(text):
        outermost = not waiting
        if waiting and char == waiting[-1]:
            waiting.pop()
            outermost = not waiting
        elif waiting and waiting[-1] in QUOTES:
            continue
        elif char in CLOSING or (char in QUOTES and before in (*CLOSING, *',=:')):
            waiting.append(CLOSING.get(char, char))
        elif char in CLOSING.values():
            raise ValueError(f'{char} closes nothing in {text}')
        if outermost:
            outline[index] = char
        before = before if char.isspace() else char
    if waiting:
        raise ValueError(f'{waiting[-1]} is missing at the end of {text}')
    return outline
