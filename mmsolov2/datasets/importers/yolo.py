"""YOLO-seg: a YAML file with the names, and a text file of polygons beside each picture."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import yaml

from mmsolov2.datasets.image_files import IMAGE_SUFFIXES
from mmsolov2.datasets.importers.content import UNSIZED, Content, require_no_classes, size_of
from mmsolov2.datasets.importers.source import Source
from mmsolov2.datasets.importers.tree import Tree
from mmsolov2.datasets.json_file import clipped
from mmsolov2.datasets.segmentation import kind_of
from mmsolov2.datasets.tally import Tally
from mmsolov2.errors import InputError

KEYS = dict(train='train', val='val', valid='val', test='test')
LARGEST = 2**20  # bytes of a description
BOXES = 'lines of labels left out, which are boxes and no masks'
WRONG = 'lines of labels left out, which are no class and polygon in fractions of the picture'
REACH = 0.5  # of the picture, how far beyond it a polygon may go


def detect(tree: Tree, classes: Sequence[str] | None) -> Source | None:
    """A YAML file with ``names`` and the pictures of a split."""
    files = [path for path in tree.descriptions('.yaml', '.yml') if described(path)]
    if not files:
        return None
    if len(files) > 1:
        raise InputError(
            f'{tree.root}: {len(files)} files describe data of YOLO '
            f'({", ".join(tree.name_of(path) for path in files[:5])}); give the one to be read'
        )
    require_no_classes(classes, files[0])
    return Source('YOLO-seg', tree, files[0], partial(read, tree, files[0]))


def described(path: Path) -> dict:
    """The content of a YAML file that describes data of YOLO; empty for any other."""
    try:
        if path.stat().st_size > LARGEST:
            return {}
        content = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if path.stem not in ('data', 'dataset'):
            return {}
        reason = clipped(' '.join(str(error).split()))
        raise InputError(f'{path}: this is no YAML: {reason}') from error
    is_ours = isinstance(content, dict) and 'names' in content and any(map(content.get, KEYS))
    return content if is_ours else {}


def read(tree: Tree, path: Path, tally: Tally) -> dict[str, dict]:
    """The content of each split that a description names."""
    description = described(path)
    names = class_names(description['names'], path)
    contents: dict[str, dict] = {}
    for key, split in KEYS.items():
        if description.get(key):
            pictures = list(split_pictures(description, key, tree, path, tally))
            if pictures:
                contents[split] = read_split(pictures, names, tree, tally)
    if not contents:
        raise InputError(
            f'{path}: none of its folders has a picture; correct path, train and val in it'
        )
    return contents


def class_names(names: object, path: Path) -> dict[int, str]:
    """The names of classes by their numbers, of a list or a mapping."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise InputError(f'{path}: names is {kind_of(names)}, not a list of the classes')
    try:
        found = {int(number): str(name) for number, name in names.items()}
    except (TypeError, ValueError) as error:
        raise InputError(f'{path}: names has keys that are no numbers: {clipped(names)}') from error
    if len(set(found.values())) < len(names):
        raise InputError(f'{path}: names has a class twice: {clipped(list(found.values()))}')
    return dict(sorted(found.items()))


def split_pictures(
    description: dict, key: str, tree: Tree, path: Path, tally: Tally
) -> Iterator[Path]:
    """The pictures of a split: of a folder, of several, or of text files that list them."""
    value = description[key]
    for name in value if isinstance(value, list) else [value]:
        place = located(str(name), str(description.get('path') or ''), path)
        if place is None:
            tally.add(f'places of pictures that are not there, as {key} of {path.name}', name)
        elif place.is_file():
            yield from listed(place, tally)
        else:
            inside = Tree(place)
            yield from inside.pictures


def located(name: str, base: str, path: Path) -> Path | None:
    """The folder or list of a name, from ``path`` of the description, or from its own place.

    Roboflow writes ``../train/images`` for what is beside the file.
    """
    name, base = name.replace('\\', '/'), base.replace('\\', '/')
    bare = name
    while bare.startswith('../'):
        bare = bare.removeprefix('../')
    places = [path.parent / base / name, path.parent / bare]
    return next((place for place in places if os.path.exists(place)), None)


def listed(path: Path, tally: Tally) -> Iterator[Path]:
    """The pictures that a text file lists, one a line, from its own folder."""
    for line in read_lines(path):
        name = line.strip().replace('\\', '/')
        if not name:
            continue
        found = path.parent / name
        if not found.is_file():
            tally.add(f'pictures that {path.name} lists, but are not there', name)
        elif found.suffix.lower() in IMAGE_SUFFIXES:
            yield Path(os.path.normpath(found))


def read_lines(path: Path) -> list[str]:
    """The lines of a text file."""
    try:
        return path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: this is no text that can be read ({error})') from error


def label_file(picture: Path) -> Path:
    """Where the labels of a picture are: in ``labels`` for the last ``images``, or beside it."""
    beside = picture.with_suffix('.txt')
    before, images, after = beside.as_posix().rpartition('/images/')
    path = Path(f'{before}/labels/{after}')
    return path if images and path.is_file() else beside


def read_split(pictures: Sequence[Path], names: dict[int, str], tree: Tree, tally: Tally) -> dict:
    """The content of pictures and the labels beside them."""
    content = Content(list(names.values()), tally)
    labels = {number: label for label, number in enumerate(names)}
    for picture in dict.fromkeys(pictures):
        size = size_of(picture)
        if size is None:
            tally.add(UNSIZED, tree.name_of(picture))
            continue
        image = content.add_image(tree.name_of(picture), size)
        path = label_file(picture)
        if not path.is_file():
            tally.add('pictures without a file of labels, taken as empty', image['file_name'])
            continue
        for place, number, fractions in instances(path, tree, tally):
            if number not in labels:
                raise InputError(
                    f'{place}: there is no class {number}; the description has {clipped(names)}'
                )
            scaled = [n * size[1 - i % 2] for i, n in enumerate(fractions)]
            content.add(image, labels[number], [scaled], place)
    return content.to_coco()


def instances(path: Path, tree: Tree, tally: Tally) -> Iterator[tuple[str, int, list[float]]]:
    """Place, class and polygon, in fractions of the picture, of each line that has one."""
    for row, line in enumerate(read_lines(path), 1):
        words = line.split()
        place = f'{tree.name_of(path)}:{row}'
        if len(words) == 5:
            tally.add(BOXES, place)
        elif words:
            try:
                number, *points = map(float, words)
            except ValueError:
                number, points = 0.5, []
            is_sound = len(points) >= 6 and len(points) % 2 == 0 and number.is_integer()
            if is_sound and all(-REACH <= n <= 1 + REACH for n in points):
                yield place, int(number), points
            else:
                tally.add(WRONG, place)
