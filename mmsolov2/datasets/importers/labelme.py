"""labelme: a JSON file beside each picture, with polygons, rectangles, circles and masks."""

import base64
import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmsolov2.datasets.image_files import IMAGE_SUFFIXES
from mmsolov2.datasets.importers.coco import holds
from mmsolov2.datasets.importers.content import (
    UNSIZED,
    Content,
    Shape,
    box_polygon,
    common_splits,
    crop_rle,
    ellipse_polygon,
    require_no_classes,
    size_of,
)
from mmsolov2.datasets.importers.source import Source
from mmsolov2.datasets.importers.tree import Tree
from mmsolov2.datasets.json_file import read_json
from mmsolov2.datasets.tally import Tally
from mmsolov2.errors import InputError

MARKS = (b'"shapes"', b'"imagePath"')
EMBEDDED = (
    'pictures left out, which are in the JSON file alone (imageData): put each beside its file '
    '(labelme_export_json writes it as img.png)'
)
NOT_ANNOTATED = 'pictures left out, which have no JSON file'
DAMAGED = 'JSON files left out, which are damaged'
OTHERS = "JSON files left out, which are none of labelme's"
UNREAD = 'shapes left out, which are not as labelme writes them, or without a label'
RECTANGLES = 'rectangles, taken as masks'


class Annotated(NamedTuple):
    """A JSON file of labelme, and its picture."""

    file: str  # from the root
    name: str  # of the picture, from the root
    size: tuple[int, int]
    split: str | None
    shapes: list[dict]


def detect(tree: Tree, classes: Sequence[str] | None) -> Source | None:
    """JSON with ``shapes`` and ``imagePath`` anywhere below a folder."""
    first = next((path for path in tree.descriptions('.json') if holds(path, MARKS)), None)
    if first is None:
        return None
    require_no_classes(classes, first)
    return Source('labelme', tree, first, partial(read, tree))


def read(tree: Tree, tally: Tally) -> dict[str, dict]:
    """The content of each split, whose folders are named after it."""
    annotated = []
    for path in tree.descriptions('.json'):
        one = read_file(path, tree, tally)
        if one is not None:
            annotated.append(one)
    known = {one.name for one in annotated}
    for path in tree.pictures:
        if tree.name_of(path) not in known:
            tally.add(NOT_ANNOTATED, tree.name_of(path))
    if not annotated:
        raise InputError(f'{tree.given}: no picture is left: {"; ".join(tally.texts())}')
    names = sorted({shape['label'] for one in annotated for shape in one.shapes})
    labels = {name: label for label, name in enumerate(names)}
    splits = common_splits([one.split for one in annotated], tally, annotated[0].name)
    contents: dict[str, Content] = defaultdict(lambda: Content(names, tally))
    for one, split in zip(annotated, splits, strict=True):
        image = contents[split].add_image(one.name, one.size)
        contents[split].add_shapes(image, shapes_of(one, labels, tally))
    return {split: content.to_coco() for split, content in contents.items()}


def read_file(path: Path, tree: Tree, tally: Tally) -> Annotated | None:
    """A JSON file and its picture, or None if one of them is none: it is counted."""
    file = tree.name_of(path)
    try:
        content = read_json(str(path), file)
    except InputError as error:
        tally.add(DAMAGED, error)
        return None
    shapes, name = content.get('shapes'), content.get('imagePath')
    if not isinstance(shapes, list) or not isinstance(name, str):
        tally.add(OTHERS, file)
        return None
    picture = picture_of(path, name, tree, tally)
    if picture is None and content.get('imageData'):
        tally.add(EMBEDDED, file)
        return None
    height, width = content.get('imageHeight'), content.get('imageWidth')
    size = size_of(picture)
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        size = height, width
    if size is None:
        tally.add(UNSIZED, file)
        return None
    place = picture or path.parent / name
    sound = [each for each in shapes if isinstance(each, dict) and has_name(each.get('label'))]
    if len(sound) < len(shapes):
        tally.add(UNREAD, file, len(shapes) - len(sound))
    return Annotated(file, tree.name_of(place), size, tree.split_of(path), sound)


def has_name(label: object) -> bool:
    """Whether a label names a class."""
    return isinstance(label, str) and bool(label)


def picture_of(path: Path, name: str, tree: Tree, tally: Tally) -> Path | None:
    """The picture that a JSON file names, or the one beside it of the same name."""
    found = tree.find(name, [path.parent], tally)
    if found is not None:
        return found
    beside = (path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)
    found = next((picture for picture in beside if picture.is_file()), None)
    if found is not None:
        tally.add('pictures that have the name of their JSON file, not that in it', name)
    return found


def shapes_of(one: Annotated, labels: dict[str, int], tally: Tally) -> Iterator[Shape]:
    """The shapes of a picture that are masks."""
    for index, shape in enumerate(one.shapes):
        kind = shape.get('shape_type') or 'polygon'
        place = f'{one.file}: shapes[{index}]'
        if kind not in PARTS:
            tally.add(f'shapes of the type {kind} left out, which are no masks', place)
            continue
        try:
            points = np.array(shape.get('points'), float).reshape(-1, 2)
            if not np.isfinite(points).all():
                raise ValueError('numbers that are none')
            part = PARTS[kind](points, shape, one.size)
        except (OSError, SyntaxError, TypeError, ValueError):
            tally.add(UNREAD, place)
            continue
        if kind == 'rectangle':
            tally.add(RECTANGLES, place)
        group = None if shape.get('group_id') is None else str(shape['group_id'])
        yield Shape(labels[shape['label']], group, part, place)


def polygon_of(points: np.ndarray, shape: dict, size: tuple[int, int]) -> list[float]:
    """A polygon of its points (n, 2)."""
    return points.ravel().tolist()


def rectangle_of(points: np.ndarray, shape: dict, size: tuple[int, int]) -> list[float]:
    """A rectangle of two corners, or of all four."""
    return box_polygon(*points.ravel()) if len(points) == 2 else points.ravel().tolist()


def circle_of(points: np.ndarray, shape: dict, size: tuple[int, int]) -> list[float]:
    """A circle of its centre and a point of its rim."""
    (x, y), rim = points
    radius = math.dist((x, y), rim)
    return ellipse_polygon(x, y, radius, radius)


def mask_of(points: np.ndarray, shape: dict, size: tuple[int, int]) -> dict:
    """A mask, PNG in base64, whose upper left corner is the first point."""
    data = base64.b64decode(str(shape.get('mask')), validate=True)
    with Image.open(io.BytesIO(data)) as image:
        mask = np.asarray(image.convert('L')) > 0
    left, top = points.min(0).round().astype(int).tolist()
    return crop_rle(mask, left, top, *size)


PARTS: dict[str, Callable[..., list | dict]] = dict(
    polygon=polygon_of, rectangle=rectangle_of, circle=circle_of, mask=mask_of
)
