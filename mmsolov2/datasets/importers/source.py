"""Where a person's data come from, whatever wrote them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mmsolov2.datasets.importers.tree import Tree
from mmsolov2.datasets.tally import Tally

Reader = Callable[[Tally], dict[str, dict]]


@dataclass
class Source:
    """Data of a known layout."""

    kind: str  # the layout, for a person
    tree: Tree
    evidence: Path  # what told the layout
    reader: Reader
    splits: tuple[str, ...] = ()  # once it was read: of train, val and test, or all without any
    tally: Tally = field(default_factory=Tally)

    @property
    def root(self) -> Path:
        """The folder of the data."""
        return self.tree.root

    @property
    def picture_root(self) -> Path:
        """The folder that every ``file_name`` starts from."""
        return self.tree.root

    @property
    def notes(self) -> list[str]:
        """What ``read()`` left out or read in a special way: counts with the first of each."""
        return self.tally.texts()

    def read(self) -> dict[str, dict]:
        """COCO content of each split: ``images``, ``annotations`` and ``categories``.

        All splits have the same categories. COCO files are as they are but for names of pictures,
        and what ``notes`` tells.

        Raises:
            InputError: if a file cannot be read as what it seems to be.
        """
        self.tally = Tally()
        contents = self.reader(self.tally)
        self.splits = tuple(contents)
        self.tree.note_foreign(self.tally)
        return contents
