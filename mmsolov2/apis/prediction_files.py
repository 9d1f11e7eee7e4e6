"""Predictions of many images as files: pictures and COCO results."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmdet.structures import DetDataSample

from mmsolov2.apis.inference import coco_categories, to_coco
from mmsolov2.errors import InputError
from mmsolov2.fileio import write_whole
from mmsolov2.visualization.overlay import draw_overlay

LONGEST_NAME = 255 - len('.unfinished')  # bytes that file systems take, with what a backend adds


class PredictionFiles:
    """Overlays and COCO results of images, (n) paths, in a folder.

    ``add`` writes ``overlays/NAME.png`` of an image, ``write`` ``images.json`` and
    ``predictions.json`` of all that were added.
    """

    def __init__(self, folder: Path, images: Sequence[Path], classes: Sequence[str]) -> None:
        self.folder = folder
        self.classes = classes
        self.root, self.names = relative_names(images)
        self.overlays = dict(zip(self.names, overlay_names(self.names), strict=True))
        self.images: list[dict] = []
        self.results: list[dict] = []

    def add(self, index: int, image: np.ndarray, sample: DetDataSample) -> None:
        """Keep the sample of an image (H, W, 3), the one at ``index``, and draw its overlay.

        Raises:
            InputError: if the overlay cannot be written; the sample is kept.
        """
        name, number = self.names[index], index + 1
        height, width = image.shape[:2]
        results = to_coco(sample, image_id=number, file_name=name, classes=self.classes)
        self.images.append(dict(id=number, file_name=name, width=width, height=height))
        self.results.extend(results)
        about = f'{name}: its overlay of {width}x{height} pixels'
        data = encode_png(draw_overlay(image, sample, self.classes), about)
        write_whole(self.folder / 'overlays' / self.overlays[name], data)

    def write(self) -> None:
        """Write the JSON files."""
        info = dict(description='images predicted by mmsolov2', folder=str(self.root))
        categories = coco_categories(self.classes)
        about = dict(info=info, images=self.images, annotations=[], categories=categories)
        write_whole(self.folder / 'images.json', json.dumps(about))
        write_whole(self.folder / 'predictions.json', json.dumps(self.results))


def relative_names(images: Sequence[Path]) -> tuple[Path, list[str]]:
    """The folder that all images share, and the path of each from there."""
    paths = [os.path.abspath(image) for image in images]
    root = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    return root, [Path(path).relative_to(root).as_posix() for path in paths]


def overlay_names(names: Sequence[str]) -> list[str]:
    """A PNG's name for each image's name, no two alike, even where case makes no difference."""
    stems = [Path(name).with_suffix('').as_posix() for name in names]
    used = Counter(name.casefold() for name in (*stems, *names))  # no stem may be another's name
    return [
        fitting(f'{stem if used[stem.casefold()] == 1 else name}.png')
        for stem, name in zip(stems, names, strict=True)
    ]


def fitting(name: str) -> str:
    """A path whose last part is as long as file systems take: cut, with a hash of the whole."""
    path = Path(name)
    if len(os.fsencode(path.name)) <= LONGEST_NAME:
        return name
    ending = f'-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{path.suffix}'
    start = os.fsencode(path.name)[: LONGEST_NAME - len(ending)].decode(errors='ignore')
    return path.with_name(start + ending).as_posix()


def encode_png(image: np.ndarray, about: str) -> bytes:
    """The bytes of a PNG of a picture (H, W, 3) uint8 BGR or (H, W) uint16.

    Raises:
        InputError: about it, if it is too large.
    """
    done, data = cv2.imencode('.png', image)
    if not done:
        raise InputError(f'{about} is too large for PNG')
    return data.tobytes()
