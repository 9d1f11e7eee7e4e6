"""Counts of what is worth a word, with the first of each by name."""

from collections import Counter

SHOWN = 5  # examples kept of each kind


class Tally:
    """How often each thing was seen, and the first few of it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, what: str, example: object, count: int = 1) -> None:
        """Count a thing; ``example`` says where it is."""
        self.counts[what] += count
        shown = self.examples.setdefault(what, [])
        if len(shown) < SHOWN:
            shown.append(str(example))

    def texts(self) -> list[str]:
        """One text a kind, the most frequent first.

        >>> tally = Tally()
        >>> tally.add('lines that are boxes', 'a.txt:3')
        >>> tally.texts()
        ['1 lines that are boxes, first a.txt:3']
        """
        return [
            f'{count} {what}, first {self.examples[what][0]}'
            for what, count in self.counts.most_common()
        ]
