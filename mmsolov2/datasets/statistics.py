"""What a COCO set is like, in the numbers that a config is chosen by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Ranges = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Statistics:
    """Pictures (m) and instances (n) of a set; crowds are no instances."""

    classes: tuple[str, ...]
    sizes: np.ndarray  # (m, 2) height and width of each picture, pixels
    picture: np.ndarray  # (n,) the picture of each instance
    labels: np.ndarray  # (n,) the class of each instance
    sides: np.ndarray  # (n,) geometric mean of the sides of each box, pixels
    centers: np.ndarray  # (n, 2) y and x of the middle of each box, from 0 to 1 in its picture

    @property
    def per_class(self) -> np.ndarray:
        """Instances of each class."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @property
    def per_picture(self) -> np.ndarray:
        """Instances of each picture."""
        return np.bincount(self.picture, minlength=len(self.sizes))

    def median_size(self) -> tuple[int, int]:
        """Height and width of the picture in the middle, by side."""
        height, width = np.median(self.sizes, axis=0)
        return int(height), int(width)

    def factors(self, scale: tuple[int, int]) -> np.ndarray:
        """By what each picture is magnified (m,) when it is resized into ``scale``, w x h."""
        short, long = sorted(scale)
        sides = np.sort(self.sizes, axis=1)
        return np.minimum(short / sides[:, 0], long / sides[:, 1])

    def input_sides(self, scale: tuple[int, int]) -> np.ndarray:
        """Sides (n,) in pixels of the network's input, of pictures resized into ``scale``."""
        return self.sides * self.factors(scale)[self.picture]


def statistics(content: Mapping) -> Statistics:
    """The statistics of COCO content whose annotations have boxes.

    >>> image = dict(id=5, height=60, width=80)
    >>> box = dict(image_id=5, category_id=2, bbox=[20, 10, 40, 10])
    >>> found = statistics(
    ...     dict(images=[image], annotations=[box], categories=[dict(id=2, name='cat')]))
    >>> found.sides, found.centers, found.factors((160, 120))
    (array([20.]), array([[0.25, 0.5 ]]), array([2.]))
    """
    images = {image['id']: index for index, image in enumerate(content['images'])}
    labels = {category['id']: index for index, category in enumerate(content['categories'])}
    instances = [one for one in content['annotations'] if not one.get('iscrowd')]
    sizes = np.array([[image['height'], image['width']] for image in content['images']])
    boxes = np.array([one['bbox'] for one in instances], dtype=float).reshape(-1, 4)
    picture = np.array([images[one['image_id']] for one in instances], dtype=int)
    middles = boxes[:, [1, 0]] + boxes[:, [3, 2]] / 2
    return Statistics(
        classes=tuple(category['name'] for category in content['categories']),
        sizes=sizes.reshape(-1, 2),
        picture=picture,
        labels=np.array([labels[one['category_id']] for one in instances], dtype=int),
        sides=np.sqrt(boxes[:, 2] * boxes[:, 3]),
        centers=middles / sizes[picture].reshape(-1, 2),
    )


def on_levels(sides: np.ndarray, ranges: Ranges) -> np.ndarray:
    """Whether each level (l) takes instances of sides (n,) in the network's input: (l, n) bool."""
    low, high = np.array(ranges, dtype=float).T[..., None]
    return (sides >= low) & (sides <= high)


def crowded_out(found: Statistics, taken: np.ndarray, grids: Sequence[int]) -> np.ndarray:
    """Instances (n,) without a cell of their own in ``grids`` of l levels.

    On no level that takes them, by ``taken`` (l, n), is their centre alone in its cell.

    >>> image = dict(id=1, height=80, width=80)
    >>> boxes = [dict(image_id=1, category_id=1, bbox=box)
    ...          for box in ([0, 0, 10, 10], [12, 0, 10, 10], [60, 60, 10, 10])]
    >>> found = statistics(
    ...     dict(images=[image], annotations=boxes, categories=[dict(id=1, name='cat')]))
    >>> taken = on_levels(found.sides, [(1, 32), (16, 64)])
    >>> crowded_out(found, taken, (2, 1)), crowded_out(found, taken, (8, 4))
    (array([ True,  True, False]), array([False, False, False]))
    """
    alone = np.zeros(len(found.labels), dtype=bool)
    for inside, grid in zip(taken, grids, strict=True):
        y, x = np.minimum(found.centers[inside] * grid, grid - 1).astype(int).T
        cell = (found.picture[inside] * grid + y) * grid + x
        _, index, counts = np.unique(cell, return_inverse=True, return_counts=True)
        alone[inside] |= counts[index] == 1
    return ~alone & taken.any(axis=0)
