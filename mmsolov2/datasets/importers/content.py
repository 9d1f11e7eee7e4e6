"""COCO content in the making."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from mmsolov2.datasets.image_files import image_size
from mmsolov2.datasets.segmentation import extent_of
from mmsolov2.datasets.tally import Tally
from mmsolov2.errors import InputError
from mmsolov2.structures.masks import Crop, encode_crop

ROUNDED = 3  # digits of a coordinate
UNSIZED = 'pictures left out, which are missing or cannot be read and whose size nothing tells'

UNSPLIT = 'pictures in no folder of a split, so that all were taken together'


class Shape(NamedTuple):
    """A part of an instance, as it was drawn."""

    label: int
    group: str | None  # shapes of one label and group are one instance; None is no group
    part: list | dict  # polygon x, y, x, y, … or compressed RLE
    name: str  # where it is, for a person


class Content:
    """Images with instances of named classes, as COCO writes them."""

    def __init__(self, classes: Sequence[str], tally: Tally) -> None:
        self.classes = classes
        self.tally = tally
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add_image(self, name: str, size: Sequence[int]) -> dict:
        """An image of a name and a size (height, width)."""
        height, width = size
        image = dict(id=len(self.images) + 1, file_name=name, height=height, width=width)
        self.images.append(image)
        return image

    def add(self, image: dict, label: int, parts: Sequence[list | dict], name: object) -> None:
        """An instance of some parts, polygons x, y, x, y, … or RLE; ``name`` says where it is.

        Polygons stay, each with its holes; with RLE among them all become RLE.
        """
        height, width = image['height'], image['width']
        sound = [part for part in parts if isinstance(part, dict) or extent_of([part]) is not None]
        if len(sound) < len(parts):
            self.tally.add('shapes left out, with less than three points or far away', name)
        if not sound:
            return
        sound = [
            [round(n, ROUNDED) for n in part] if isinstance(part, list) else part for part in sound
        ]
        rle = merged_rle(sound, height, width)
        segmentation: list | dict = sound
        if any(isinstance(part, dict) for part in sound):
            segmentation = dict(size=[height, width], counts=rle['counts'].decode('ascii'))
        self.annotations.append(
            dict(
                id=len(self.annotations) + 1,
                image_id=image['id'],
                category_id=label + 1,
                segmentation=segmentation,
                bbox=coco_mask.toBbox(rle).tolist(),
                area=int(coco_mask.area(rle)),
                iscrowd=0,
            )
        )

    def add_shapes(self, image: dict, shapes: Iterable[Shape]) -> None:
        """The instances of an image, of one shape each or of those of a group."""
        together = defaultdict(list)
        for index, shape in enumerate(shapes):
            key = (None, index) if shape.group is None else (shape.label, shape.group)
            together[key].append(shape)
        for own in together.values():
            self.add(image, own[0].label, [shape.part for shape in own], own[0].name)

    def to_coco(self) -> dict:
        """The whole."""
        categories = [dict(id=number, name=name) for number, name in enumerate(self.classes, 1)]
        return dict(images=self.images, annotations=self.annotations, categories=categories)


def common_splits(splits: Sequence[str | None], tally: Tally, example: object) -> list[str]:
    """The split of each picture; all are in one, ``all``, unless each belongs to one."""
    if None not in splits:
        return [str(split) for split in splits]
    if set(splits) != {None}:
        tally.add(UNSPLIT, example, splits.count(None))
    return ['all'] * len(splits)


def merged_rle(parts: Iterable[list | dict], height: int, width: int) -> dict:
    """Compressed RLE of all parts of an instance, polygons or compressed RLE."""
    rles = [
        part if isinstance(part, dict) else coco_mask.frPyObjects([part], height, width)[0]
        for part in parts
    ]
    return coco_mask.merge(rles)


def box_polygon(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """A rectangle as a polygon."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def ellipse_polygon(
    x: float, y: float, across: float, down: float, points: int = 128
) -> list[float]:
    """An ellipse of two radii as a polygon: an outline of 128 points lacks 0.04% of the area."""
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + across * np.cos(turn), y + down * np.sin(turn)], 1).ravel().tolist()


def turned(polygon: Sequence[float], x: float, y: float, degrees: float) -> list[float]:
    """A polygon turned clockwise, as one sees it, around a point.

    >>> turned([2, 1, 4, 1, 4, 3], 2, 1, 90)
    [2.0, 1.0, 2.0, 3.0, 0.0, 3.0]
    """
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    across, down = np.reshape(polygon, (-1, 2)).T - [[x], [y]]
    points = np.stack([x + across * cosine - down * sine, y + across * sine + down * cosine], 1)
    return points.ravel().round(9).tolist()


def crop_rle(mask: np.ndarray, left: int, top: int, height: int, width: int) -> dict:
    """Compressed RLE of a mask (h, w) bool that lies in an image, cut to it."""
    inside = mask[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    return encode_crop(Crop(inside, max(top, 0), max(left, 0)), height, width)


def size_of(path: Path | None) -> tuple[int, int] | None:
    """Height and width of a picture, upright; None if there is none that can be read."""
    size = image_size(path) if path and os.path.isfile(path) else None
    return size and (size.height, size.width)


def require_no_classes(classes: Sequence[str] | None, path: Path) -> None:
    """Raise InputError if classes are named for data that name theirs."""
    if classes is not None:
        raise InputError(
            f'{path}: these data name their classes themselves; leave out the classes '
            f'{list(classes)}, which are for pictures with masks alone'
        )
