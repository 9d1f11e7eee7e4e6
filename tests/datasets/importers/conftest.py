"""Drawn pictures, to be written in each layout, and the comparison with what is read of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

CLASSES = ['bolt', 'nut & washer', 'Mutter ü']
HEIGHT, WIDTH = 150, 200


class Picture(NamedTuple):
    """A picture and its instances: a class and the polygons of its parts."""

    name: str
    image: np.ndarray
    instances: list[tuple[str, list[list[float]]]]


class Drawn(NamedTuple):
    """Pictures of splits."""

    splits: dict[str, list[Picture]]
    classes: list[str] = CLASSES
    size: tuple[int, int] = (HEIGHT, WIDTH)

    @staticmethod
    def save(picture: Picture, folder: Path) -> Path:
        """Write a picture as PNG."""
        path = folder / picture.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode('.png', picture.image)[1].tobytes())
        return path

    @staticmethod
    def mask(parts: list[list[float]]) -> np.ndarray:
        """(H, W) bool: all parts of an instance."""
        masks = coco_mask.decode(coco_mask.frPyObjects(parts, HEIGHT, WIDTH))
        return masks.any(2)

    def coco(self, split: str) -> dict:
        """A split as COCO."""
        images, annotations = [], []
        for number, picture in enumerate(self.splits[split], 7):
            size = dict(height=HEIGHT, width=WIDTH)
            images.append(dict(id=number, file_name=picture.name, **size))
            annotations += [
                dict(image_id=number, category_id=CLASSES.index(name) + 1, segmentation=parts)
                for name, parts in picture.instances
            ]
        for number, one in enumerate(annotations, 1):
            mask = self.mask(one['segmentation']).astype(np.uint8)
            one.update(id=number, iscrowd=0, area=int(mask.sum()), bbox=[*cv2.boundingRect(mask)])
        categories = [dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)]
        return dict(images=images, annotations=annotations, categories=categories)

    def assert_same(self, content: dict, split: str, root: Path) -> None:
        """Every mask of a split is there, with its class and its picture, and no other."""
        names = {one['id']: one['name'] for one in content['categories']}
        found = {one['id']: [] for one in content['images']}
        for one in content['annotations']:
            assert not one['iscrowd']
            segmentation = one['segmentation']
            mask = (
                coco_mask.decode(segmentation).astype(bool)
                if isinstance(segmentation, dict)
                else self.mask(segmentation)
            )
            assert one['area'] == mask.sum()
            found[one['image_id']].append((names[one['category_id']], mask))
        assert len(content['images']) == len(self.splits[split])
        wanted = {picture.image.tobytes(): picture for picture in self.splits[split]}
        for image in content['images']:
            assert (image['height'], image['width']) == (HEIGHT, WIDTH)
            picture = wanted.pop(cv2.imread(str(root / image['file_name'])).tobytes())
            own = found[image['id']]
            assert sorted(name for name, _ in own) == sorted(name for name, _ in picture.instances)
            for name, parts in picture.instances:
                assert max(iou(self.mask(parts), mask) for n, mask in own if n == name) >= 0.99


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def blob(rng: np.random.Generator, x: float, y: float, radius: float) -> list[float]:
    """A polygon around a point."""
    turns = np.sort(rng.uniform(0, 2 * np.pi, 12))
    reach = radius * rng.uniform(0.7, 1, 12)
    points = np.stack([x + reach * np.cos(turns), y + reach * np.sin(turns)], 1)
    return points.round(2).ravel().tolist()


def draw(rng: np.random.Generator, name: str) -> Picture:
    """A picture of noise with a bolt, a nut in two parts, and at times another bolt."""
    image = rng.integers(0, 256, (HEIGHT // 10, WIDTH // 10, 3), np.uint8)
    image = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    instances = [
        (CLASSES[0], [blob(rng, 50, 50, 40)]),
        (CLASSES[1], [blob(rng, 130, 40, 30), blob(rng, 165, 110, 30)]),
    ]
    if rng.integers(2):
        instances.append((CLASSES[2], [blob(rng, 70, 115, 28)]))
    return Picture(name, image, instances)


@pytest.fixture(scope='session')
def drawn() -> Drawn:
    """Four pictures of training and two of validation; names with a space, # and ü."""
    rng = np.random.default_rng(0)
    names = dict(train=['a.png', 'b 1.png', 'ü#2.png', 'd.png'], val=['a.png', 'e.png'])
    return Drawn({split: [draw(rng, name) for name in each] for split, each in names.items()})
