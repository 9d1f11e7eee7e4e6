"""Predict images: masks, boxes and scores as pictures and as COCO results.

    python tools/predict.py INPUT... --config CONFIG --checkpoint CHECKPOINT --out-dir DIR

writes, below DIR,

- ``overlays/NAME.png``: each image with its instances. NAME is the image's path from the folder
  that all images share, without its extension unless another image would get the same name; a
  name that no file system takes is cut, with a number behind it.
- ``predictions.json``: a COCO results list, one dict an instance.
- ``images.json``: the images and categories that the results refer to. For pycocotools:

    coco = COCO('images.json')
    results = json.load(open('predictions.json'))
    masks = coco.loadRes([{key: r[key] for key in r if key != 'bbox'} for r in results])

  ``loadRes('predictions.json')`` takes the area of an instance from its box, not from its mask:
  mask AP of small, medium and large objects is then another than that of tools/test.py.

An image that cannot be read, or whose overlay cannot be written, is reported, and the rest are
done; the exit status is then 1. When interrupted, the JSON files hold what was done; those of an
earlier run stay if no image was tried.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from mmsolov2.apis import (
    coco_categories,
    draw_overlay,
    find_images,
    load_detector,
    predict,
    read_image,
    to_coco,
)
from mmsolov2.cli.config import add_cfg_options
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.cli.signals import stop_on_signals
from mmsolov2.errors import InputError
from mmsolov2.fileio import AtomicLocalBackend

INTERRUPTED = 130  # exit status, as of a shell
LONGEST_NAME = 255 - len('.unfinished')  # bytes that file systems take, with what a backend adds


class Predictions:
    """What was found so far, and the folder that it goes to."""

    def __init__(self, folder: Path, images: Sequence[Path], classes: Sequence[str]) -> None:
        self.folder = folder
        self.classes = classes
        self.root, self.names = relative_names(images)
        self.overlays = dict(zip(self.names, overlay_names(self.names), strict=True))
        self.tried = 0
        self.images: list[dict] = []
        self.results: list[dict] = []

    def add(self, index: int, image: np.ndarray, sample) -> None:
        """Keep the sample of an image (H, W, 3), the one at ``index``, and draw its overlay.

        Raises:
            InputError: if the overlay cannot be written; the sample is kept.
        """
        name, number = self.names[index], index + 1
        height, width = image.shape[:2]
        results = to_coco(sample, image_id=number, file_name=name, classes=self.classes)
        self.images.append(dict(id=number, file_name=name, width=width, height=height))
        self.results.extend(results)
        done, data = cv2.imencode('.png', draw_overlay(image, sample, self.classes))
        if not done:
            raise InputError(f'{name}: its overlay of {width}x{height} pixels is too large for PNG')
        self._save(f'overlays/{self.overlays[name]}', data.tobytes())

    def write(self) -> None:
        """Write the JSON files; those of an earlier run stay if no image was tried."""
        if not self.tried:
            return
        info = dict(description='images predicted by mmsolov2', folder=str(self.root))
        categories = coco_categories(self.classes)
        about = dict(info=info, images=self.images, annotations=[], categories=categories)
        self._save('images.json', json.dumps(about).encode())
        self._save('predictions.json', json.dumps(self.results).encode())

    def _save(self, name: str, data: bytes) -> None:
        """Write a file of the folder, whole or not at all."""
        with writing(self.folder / name):
            AtomicLocalBackend().put(data, self.folder / name)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make an error of the system an InputError of the path that is written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f'{path}: it cannot be written ({error.strerror}); give another --out-dir'
        ) from error


def require_writable(folder: Path) -> None:
    """Make a folder for results, or raise InputError, before hours go by."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


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
    ending = f'-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.png'
    start = os.fsencode(path.name)[: LONGEST_NAME - len(ending)].decode(errors='ignore')
    return path.with_name(start + ending).as_posix()


def images_to_do(inputs: Sequence[str], out_dir: Path) -> list[Path]:
    """The images of all inputs, but for the overlays of an earlier run below one of them.

    Raises:
        InputError: if no image is left.
    """
    own = Path(os.path.abspath(out_dir))
    images = [p for p in find_images(inputs) if own not in Path(os.path.abspath(p)).parents]
    if not images:
        raise InputError(f'{out_dir}: all images are in --out-dir itself; give another folder')
    return images


def predict_all(model, images: Sequence[Path], predictions: Predictions, score_thr: float) -> int:
    """Predict images one by one, and report those where it fails; their number."""
    failed = 0
    for index, path in enumerate(tqdm(images, unit='image', disable=None)):
        try:
            image = read_image(path)
            sample = predict(model, image).cpu()
            found = sample.pred_instances
            sample.pred_instances = found[found.scores >= score_thr]
            predictions.add(index, image, sample)
        except InputError as error:
            failed += 1
            about = '' if str(path) in str(error) else f'{path}: '
            tqdm.write(f'error: {in_one_line(f"{about}{error}")}', file=sys.stderr)
        predictions.tried += 1
    return failed


def in_one_line(text: str) -> str:
    """A text in which characters that cannot be printed, as a path may have, are escaped."""
    return ''.join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def run(args: argparse.Namespace) -> int:
    """Predict as the command line says; the exit status."""
    images = images_to_do(args.inputs, args.out_dir)
    require_writable(args.out_dir / 'overlays')
    options = {'model.test_cfg.mask_format': 'rle', **(args.cfg_options or {})}  # less memory
    model = load_detector(args.config, args.checkpoint, device=args.device, cfg_options=options)
    predictions = Predictions(args.out_dir, images, model.dataset_meta['classes'])
    try:
        failed = predict_all(model, images, predictions, args.score_thr)
        status = 1 if failed else 0
    except KeyboardInterrupt as stopped:  # by a signal: it has the exit status
        failed, status = 0, getattr(stopped, 'code', INTERRUPTED)
        print('interrupted', file=sys.stderr)
    finally:
        predictions.write()
    done, count = len(predictions.images), len(predictions.results)
    print(f'{done} of {len(images)} images, {count} instances: {args.out_dir}')
    if failed:
        print(f'{failed} images could not be read, predicted or drawn', file=sys.stderr)
    return status


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition('\n')[0],
        epilog=__doc__.partition('\n\n')[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'inputs',
        metavar='INPUT',
        nargs='+',
        help='image, folder (with all below it) or quoted pattern, such as "photos/**/*.jpg"',
    )
    parser.add_argument(
        '--config', required=True, help='config file, or the name of one that mmsolov2 ships'
    )
    parser.add_argument('--checkpoint', required=True, help='checkpoint file or address')
    parser.add_argument('--out-dir', required=True, type=Path, help='folder for the results')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='leave out instances with a lower score (default: %(default)s); those below '
        'model.test_cfg.filter_thr of the config are never found',
    )
    parser.add_argument('--device', default='auto', help='auto (default), cpu, cuda:0 ...')
    add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with exit_with_message(args.config):
        return run(args)


if __name__ == '__main__':
    stop_on_signals()  # a killed run writes its results
    sys.exit(main())
