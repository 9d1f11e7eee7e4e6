"""The files of predictions: of each image when it is predicted, and of all at the end."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from mmdet.structures import DetDataSample

from mmsolov2.apis.inference import to_coco
from mmsolov2.apis.prediction_formats import OF_ALL, OF_IMAGE, About, encode_png
from mmsolov2.apis.prediction_parts import Job, Part
from mmsolov2.errors import InputError
from mmsolov2.fileio import write_whole
from mmsolov2.visualization.overlay import draw_overlay

LONGEST_NAME = 255 - len('.unfinished')  # bytes that file systems take, with what a backend adds


class PredictionFiles:
    """Predictions of images in a folder: a part that grows with each, and each one's own files.

    ``name_of`` gives the name of an image by its place in the job, from 0, and ``stem_of`` what its
    own files are called, without extension. Overlays are pictures, or with ``video`` its frames.
    """

    def __init__(
        self,
        part: Part,
        name_of: Callable[[int], str],
        stem_of: Callable[[int], str],
        video: 'OverlayVideo | None' = None,
    ) -> None:
        self.part = part
        self.name_of = name_of
        self.stem_of = stem_of
        self.video = video

    def add(self, index: int, image: np.ndarray, sample: DetDataSample) -> InputError | None:
        """Write the files of an image (H, W, 3), and keep its sample: what hindered a file, if any.

        The image's id is ``index`` + 1.

        Raises:
            InputError: if the sample cannot be kept.
        """
        name, classes = self.name_of(index), self.part.job.classes
        height, width = image.shape[:2]
        results = to_coco(sample, image_id=index + 1, file_name=name, classes=classes)
        record = dict(id=index + 1, file_name=name, width=width, height=height, results=results)
        try:
            self._draw(index, image, sample)
            self._write(index, record)
        except InputError as error:
            self.part.add(dict(record, error=str(error)))
            return error
        self.part.add(record)
        return None

    def add_error(self, index: int, error: InputError) -> None:
        """Keep why there is no prediction of an image.

        Raises:
            InputError: if it cannot be kept.
        """
        self.part.add(dict(id=index + 1, file_name=self.name_of(index), error=str(error)))

    def close(self) -> list[dict]:
        """Finish the files, those of all images too where this is the one part: all records.

        Without a record nothing is written.
        """
        if self.video:
            self.video.close()
        records = self.part.close()
        if records and self.part.is_whole:
            write_all(self.part.job, self.part.about, records)
        return records

    def _draw(self, index: int, image: np.ndarray, sample: DetDataSample) -> None:
        """Write the overlay of an image."""
        if not self.part.job.overlays:
            return
        drawn = draw_overlay(image, sample, self.part.job.classes)
        if self.video:
            self.video.add(drawn)
            return
        height, width = image.shape[:2]
        about = f'{self.name_of(index)}: its overlay of {width}x{height} pixels'
        path = self.part.about.out_dir / 'overlays' / fitting(f'{self.stem_of(index)}.png')
        write_whole(path, encode_png(drawn, about))

    def _write(self, index: int, record: dict) -> None:
        """Write the files of an image in each format that has such."""
        about = self.part.about
        for name in filter(OF_IMAGE.__contains__, self.part.job.formats):
            folder, extension, content = OF_IMAGE[name]
            path = about.out_dir / folder / fitting(self.stem_of(index) + extension)
            write_whole(path, content(record, about))


def write_all(job: Job, about: About, records: Sequence[dict]) -> None:
    """Write the files of all images that were predicted, in each format that has such."""
    done = [record for record in records if 'results' in record]
    for name in filter(OF_ALL.__contains__, job.formats):
        for file_name, content in OF_ALL[name](done, about).items():
            write_whole(about.out_dir / file_name, content)


class OverlayVideo:
    """Pictures as ``overlay.mp4`` in a folder, with a number of them in a second.

    It has its name when it is closed, whole.
    """

    def __init__(self, folder: Path, rate: float) -> None:
        self.path = folder / 'overlay.mp4'
        self.unfinished = folder / 'overlay.unfinished.mp4'
        self.rate = rate
        self.writer: cv2.VideoWriter | None = None
        self.size = (0, 0)

    def add(self, picture: np.ndarray) -> None:
        """Write a picture (H, W, 3) uint8 BGR; the first gives the size.

        Raises:
            InputError: if it is of another size, or no video can be written.
        """
        height, width = picture.shape[:2]
        if self.writer is None:
            self.size = (width, height)
            codec = cv2.VideoWriter.fourcc(*'mp4v')
            self.writer = cv2.VideoWriter(str(self.unfinished), codec, self.rate, self.size)
        if not self.writer.isOpened():
            raise InputError(
                f'{self.path}: no video of {width}x{height} pixels can be written here: make room, '
                'or leave it out with --no-overlays'
            )
        if self.size != (width, height):
            raise InputError(
                f'{self.path}: a frame of {width}x{height} pixels in a video of '
                f'{self.size[0]}x{self.size[1]}: it is left out'
            )
        self.writer.write(np.ascontiguousarray(picture))

    def close(self) -> None:
        """Finish the file; one of an earlier run stays if there was no picture."""
        if self.writer is not None:
            self.writer.release()
            if self.unfinished.is_file():
                os.replace(self.unfinished, self.path)


def relative_names(images: Sequence[Path]) -> tuple[Path, list[str]]:
    """The folder that all images share, and the path of each from there."""
    paths = [os.path.abspath(image) for image in images]
    root = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    return root, [Path(path).relative_to(root).as_posix() for path in paths]


def unique_stems(names: Sequence[str]) -> list[str]:
    """The images' names without extension, and with it where two would be alike."""
    stems = [Path(name).with_suffix('').as_posix() for name in names]
    used = Counter(name.casefold() for name in (*stems, *names))  # no stem may be another's name
    return [
        stem if used[stem.casefold()] == 1 else name
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
