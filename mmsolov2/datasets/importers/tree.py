"""The files below a folder, and those that an annotation names."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from mmsolov2.datasets.image_files import IMAGE_SUFFIXES
from mmsolov2.datasets.tally import Tally
from mmsolov2.errors import InputError

OWN_FOLDER = 'annotations_coco'  # where converted files go, which are no source
ANNOTATIONS = (OWN_FOLDER, 'annotations', 'annotation', 'labels', 'coco')
FOREIGN = ('.heic', '.heif', '.pdf', '.psd', '.svg', '.dng', '.cr2', '.nef', '.arw', '.dcm')
SPLITS = dict(
    train='train', training='train', val='val', valid='val', validation='val', test='test',
    testing='test',
)  # fmt: skip


def split_of(name: str) -> str | None:
    """The split that a file or a folder is named after, if it is exactly one.

    >>> [split_of(name) for name in ('instances_train2017', 'valid', 'trainval', 'straining')]
    ['train', 'val', None, None]
    """
    words = re.findall('[a-z]+', name.lower())
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else None


class Tree:
    """The files below a folder, each once, without hidden ones.

    Of a file it is the folder of the file. Of a folder that is named as one of annotations it is
    the next above, if no picture is there. What describes the pictures is looked for in ``given``.

    Raises:
        InputError: if there is no such file or folder, or it cannot be read.
    """

    def __init__(self, data: Path, *, with_own: bool = False) -> None:
        if not os.path.exists(data):
            raise InputError(f'{data}: there is no such file or folder; give that of the data')
        self.given = data
        self.root = data.parent if data.is_file() else data
        self.with_own = with_own or self.root.name == OWN_FOLDER
        place = Path(os.path.abspath(self.root))
        if place.name.lower() in ANNOTATIONS and not self.pictures:
            self.root = place.parent
            del self.files, self.pictures

    @cached_property
    def files(self) -> list[Path]:
        """All files, sorted."""
        return sorted(self._walk())

    def _walk(self) -> Iterator[Path]:
        seen: set[str] = set()
        for folder, folders, names in os.walk(self.root, followlinks=True, onerror=_refuse):
            place = os.path.realpath(folder)
            if place in seen or (Path(folder).name == OWN_FOLDER and not self.with_own):
                folders.clear()
                continue
            seen.add(place)
            folders[:] = sorted(name for name in folders if is_shown(name))
            yield from (Path(folder, name) for name in names if is_shown(name))

    @cached_property
    def pictures(self) -> list[Path]:
        """The files with the extension of an image."""
        return [path for path in self.files if path.suffix.lower() in IMAGE_SUFFIXES]

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found = defaultdict(list)
        for path in self.pictures:
            found[path.name].append(path)
        return found

    def descriptions(self, *suffixes: str) -> list[Path]:
        """The given files, all or one, that have one of some extensions."""
        files = [path for path in self.files if path.suffix.lower() in suffixes]
        given = Path(os.path.abspath(self.given))
        return [
            path
            for path in files
            if self.given == self.root or Path(os.path.abspath(path)).is_relative_to(given)
        ]

    def name_of(self, path: Path) -> str:
        """The path of a file from the root, with ``..`` if it is elsewhere."""
        return Path(os.path.relpath(path, self.root)).as_posix()

    def split_of(self, path: Path) -> str | None:
        """The split that the innermost folder of a file is named after, if any is."""
        found = (split_of(part) for part in Path(self.name_of(path)).parts[-2::-1])
        return next(filter(None, found), None)

    def folders_of(self, split: str) -> list[Path]:
        """The folders of pictures that are named after a split, the outermost first."""
        folders = {path.parent for path in self.pictures if self.split_of(path) == split}
        return sorted(folders, key=lambda folder: (len(folder.parts), folder))

    def find(
        self, name: str, folders: Sequence[Path], tally: Tally, split: str | None = None
    ) -> Path | None:
        """The picture of a name, also with backslashes turned, below one of some folders.

        If it is in none, the last part of the name is looked for there, or else anywhere, if one
        picture alone has it; never in another split's folder. Such are counted.
        """
        variants = dict.fromkeys((name, name.replace('\\', '/'), unquote(name)))
        for folder in folders:
            for variant in variants:
                if os.path.isfile(path := folder / variant):
                    return path
        last = sorted({re.split(r'[\\/]', variant)[-1] for variant in variants})
        near = [folder / each for folder in folders for each in last if each]
        found = [path for path in dict.fromkeys(near) if os.path.isfile(path)]
        found = found or [path for each in last for path in self._by_name.get(each, ())]
        if split is not None:
            found = [path for path in found if self.split_of(path) in (None, split)]
        if len(found) != 1:
            return None
        tally.add('pictures found by the last part of their name alone', name)
        return found[0]

    def note_foreign(self, tally: Tally) -> None:
        """Count the pictures of kinds that are not read here."""
        for path in self.files:
            if (kind := path.suffix.lower()) in FOREIGN:
                what = f'{kind} files, which are not read here (export them as JPEG or PNG)'
                tally.add(what, self.name_of(path))


def _refuse(error: OSError) -> None:
    raise InputError(f'{error.filename}: the folder cannot be read ({error.strerror})') from error


def is_shown(name: str) -> bool:
    """Whether a file or folder is none of a system's own."""
    return not name.startswith('.') and name != '__MACOSX'
