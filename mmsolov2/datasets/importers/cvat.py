"""CVAT for images 1.1: one XML file of polygons, masks, boxes and ellipses."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn
from xml.etree import ElementTree as ET

import numpy as np

from mmsolov2.datasets.importers.coco import holds
from mmsolov2.datasets.importers.content import (
    Content,
    Shape,
    box_polygon,
    common_splits,
    crop_rle,
    ellipse_polygon,
    require_no_classes,
    turned,
)
from mmsolov2.datasets.importers.source import Source
from mmsolov2.datasets.importers.tree import Tree, split_of
from mmsolov2.datasets.json_file import clipped
from mmsolov2.datasets.tally import Tally
from mmsolov2.errors import InputError

BOXES = 'boxes, taken as masks of rectangles'


class Frame(NamedTuple):
    """A picture of an XML file."""

    element: ET.Element
    name: str  # from the root
    split: str | None


def detect(tree: Tree, classes: Sequence[str] | None) -> Source | None:
    """XML with CVAT's outermost element, of one task or of several."""
    files = [path for path in tree.descriptions('.xml') if holds(path, (b'<annotations',))]
    if not files:
        return None
    require_no_classes(classes, files[0])
    return Source('CVAT for images 1.1', tree, files[0], partial(read, tree, files))


def read(tree: Tree, files: Sequence[Path], tally: Tally) -> dict[str, dict]:
    """The content of each split, which a picture's subset or folder is named after."""
    names: dict[str, None] = {}
    frames: dict[str, Frame] = {}
    for path in files:
        root = parse(path)
        names.update(dict.fromkeys(label_names(root)))
        for frame in frames_of(root, path, tree, tally):
            if frames.setdefault(frame.name, frame) is not frame:
                raise InputError(
                    f'{path}: the picture {frame.name} is listed twice, in one or in several '
                    'files; give one of them, or move the others away'
                )
    labels = {name: label for label, name in enumerate(names)}
    splits = common_splits([one.split for one in frames.values()], tally, next(iter(frames)))
    contents: dict[str, Content] = defaultdict(lambda: Content(list(names), tally))
    for frame, split in zip(frames.values(), splits, strict=True):
        size = [whole(frame.element, key) for key in ('height', 'width')]
        image = contents[split].add_image(frame.name, size)
        contents[split].add_shapes(image, shapes_of(frame, size, labels, tally))
    return {split: content.to_coco() for split, content in contents.items()}


class NoDoctype(ET.TreeBuilder):
    """Refuses what may make a small file large: CVAT writes no types of its own."""

    def doctype(self, *args: object) -> NoReturn:
        """Raise InputError: this is called before anything of it is used."""
        raise InputError('it declares a document type, which is not read: take that line out')


def parse(path: Path) -> ET.Element:
    """The outermost element of an XML file.

    Raises:
        InputError: if it is no XML, or declares a type or entities.
    """
    try:
        parser = ET.XMLParser(target=NoDoctype())  # noqa: S314 (entities are refused)
        return ET.parse(path, parser).getroot()  # noqa: S314
    except (OSError, ET.ParseError, ValueError) as error:  # ValueError: InputError, encodings
        raise InputError(f'{path}: this is no XML that can be read: {error}') from error


def label_names(root: ET.Element) -> list[str]:
    """The names of the labels of a task, a job or a project."""
    meta = root.find('meta')
    return [] if meta is None else [str(label.findtext('name')) for label in meta.iter('label')]


def frames_of(root: ET.Element, path: Path, tree: Tree, tally: Tally) -> Iterator[Frame]:
    """The pictures of an XML file; its folders are those of the subset, if it has one."""
    if not root.findall('image'):
        raise InputError(
            f'{path}: it has no images, as of a video; export as "CVAT for images 1.1"'
        )
    for element in root.iter('image'):
        name, subset = element.get('name', ''), element.get('subset', '')
        near = [path.parent / 'images' / subset, path.parent / 'images', path.parent]
        near += [tree.root / 'images', tree.root]
        found = tree.find(name, near, tally)
        split = split_of(subset) or tree.split_of(found or tree.root / name)
        yield Frame(element, tree.name_of(found) if found else name, split)


def shapes_of(
    frame: Frame, size: Sequence[int], labels: dict[str, int], tally: Tally
) -> Iterator[Shape]:
    """The shapes of a picture that are masks."""
    for index, element in enumerate(frame.element):
        place = f'{frame.name}: <{element.tag}> {index + 1}'
        if element.tag not in PARTS:
            tally.add(f'<{element.tag}> elements left out, which are no masks', place)
            continue
        label = element.get('label', '')
        if label not in labels:
            raise InputError(f'{place} has the label {label!r}, which is none of {list(labels)}')
        if element.tag == 'box':
            tally.add(BOXES, place)
        try:
            part = PARTS[element.tag](element, size)
        except (KeyError, ValueError) as error:
            shown = clipped(ET.tostring(element, 'unicode').strip())
            raise InputError(f'{place} cannot be read ({error}): {shown}') from error
        group = element.get('group_id')
        yield Shape(labels[label], None if group in (None, '', '0') else group, part, place)


def whole(element: ET.Element, key: str) -> int:
    """A number of pixels that an element has."""
    text = element.get(key, '')
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f'image {element.get("name")} has {key}={text!r}, no number of pixels')
    return int(text)


def polygon_of(element: ET.Element, size: Sequence[int]) -> list[float]:
    """The points of a polygon, ``x,y;x,y;…``."""
    return [float(n) for point in element.attrib['points'].split(';') for n in point.split(',')]


def box_of(element: ET.Element, size: Sequence[int]) -> list[float]:
    """A box, turned around its centre, as a polygon."""
    left, top, right, bottom = (float(element.attrib[key]) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
    degrees = float(element.get('rotation', 0))
    box = box_polygon(left, top, right, bottom)
    return turned(box, (left + right) / 2, (top + bottom) / 2, degrees) if degrees else box


def ellipse_of(element: ET.Element, size: Sequence[int]) -> list[float]:
    """An ellipse, turned around its centre, as a polygon."""
    x, y, across, down = (float(element.attrib[key]) for key in ('cx', 'cy', 'rx', 'ry'))
    return turned(ellipse_polygon(x, y, across, down), x, y, float(element.get('rotation', 0)))


def mask_of(element: ET.Element, size: Sequence[int]) -> dict:
    """A mask: the runs outside and inside in turn, along the rows of a box in the picture."""
    left, top, width, height = (
        round(float(element.attrib[key])) for key in ('left', 'top', 'width', 'height')
    )
    runs = np.array([int(run) for run in element.attrib['rle'].split(',')])
    if runs.min() < 0 or runs.sum() != width * height:
        raise ValueError(f'runs of {runs.sum()} pixels for {width}x{height}')
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return crop_rle(mask, left, top, *size)


PARTS: dict[str, Callable[..., list | dict]] = dict(
    polygon=polygon_of, box=box_of, ellipse=ellipse_of, mask=mask_of
)
