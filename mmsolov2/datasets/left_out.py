"""What of an annotation file does not count, and what was mended: in one line of the log."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mmengine.logging import print_log

from mmsolov2.datasets.json_file import clipped
from mmsolov2.datasets.segmentation import Extent


class Entry(NamedTuple):
    """An annotation and where it is in its file, its image, and what its polygons span."""

    annotation: dict
    place: int  # in the file's list
    image: dict
    extent: Extent | None = None  # None of RLE
    iou: float = 0  # of its box and its extent

    @property
    def name(self) -> str:
        """What a message calls it: its place in the file, and its id there."""
        own = f' (id {clipped(self.annotation["id"])})' if 'id' in self.annotation else ''
        return f'annotations[{self.place}]{own}'


class LeftOut:
    """Annotations that are left out, or are no instances, and what else is worth a word.

    Each annotation is counted for one reason, with the first of them by name; notes are of those
    that stay.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, int | str]] = Counter()  # by reason and category
        self.first: dict[str, str] = {}
        self.notes: Counter[str] = Counter()

    def add(self, reason: str, entry: Entry, detail: str = '') -> None:
        """Count an annotation."""
        if reason not in self.first:
            self.first[reason] = f'{entry.name}: {detail}' if detail else entry.name
        self.counts[reason, entry.annotation['category_id']] += 1

    def note(self, what: str, entry: Entry) -> None:
        """Count an annotation that stays, but not as it was."""
        self.first.setdefault(what, entry.name)
        self.notes[what] += 1

    def reasons(self, categories: Iterable[int | str] | None = None) -> Counter[str]:
        """How many annotations of categories, or of all, are left out for each reason."""
        chosen = None if categories is None else set(categories)
        found: Counter[str] = Counter()
        for (reason, category), count in self.counts.items():
            if chosen is None or category in chosen:
                found[reason] += count
        return found

    def describe(self, counts: Mapping[str, int] | None = None) -> str:
        """Counts in words, all reasons by default, each with its first annotation if known."""
        counts = self.reasons() if counts is None else counts
        return ', '.join(
            f'{count} {what}' + (f', first {self.first[what]}' if what in self.first else '')
            for what, count in Counter(counts).most_common()
        )

    def log(self, file: str, total: int, reasons: Counter[str] | None = None) -> None:
        """Say in one line what of a file is left out or mended; nothing if all is as it was."""
        reasons = self.reasons() if reasons is None else reasons
        texts = []
        if reasons:
            count = reasons.total()
            texts.append(f'left out {count} annotations of {total}: {self.describe(reasons)}')
        if self.notes:
            texts.append(f'mended {self.describe(self.notes)}')
        if texts:
            print_log(f'{file}: {"; ".join(texts)}', logger='current', level=logging.WARNING)
