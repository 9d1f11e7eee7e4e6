"""Predict images: masks, boxes and scores as pictures and as COCO results.

    python tools/predict.py INPUT... --config CONFIG --checkpoint CHECKPOINT --out-dir DIR

writes, below DIR,

- ``overlays/NAME.png``: each image with its instances. NAME is the image's path from the folder
  that all images share, without its extension unless another image would get the same name.
- ``predictions.json``: a COCO results list, one dict an instance.
- ``images.json``: the images and categories that the results refer to; in Python
  ``COCO('images.json').loadRes('predictions.json')``.

An image that cannot be read is reported, and the rest are done; the exit status is then 1. When
interrupted, the JSON files hold what was done.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
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
from mmsolov2.engine import AtomicLocalBackend
from mmsolov2.engine.config import add_cfg_options
from mmsolov2.engine.signals import stop_on_signals
from mmsolov2.errors import InputError, exit_with_message

INTERRUPTED = 130  # exit status, as of a shell


class Predictions:
    """What was found so far, and the folder that it goes to."""

    def __init__(self, folder: Path, images: Sequence[Path], classes: Sequence[str]) -> None:
        self.folder = folder
        self.classes = classes
        self.root, self.names = relative_names(images)
        self.overlays = dict(zip(self.names, overlay_names(self.names), strict=True))
        self.images: list[dict] = []
        self.results: list[dict] = []

    def add(self, index: int, image: np.ndarray, sample) -> None:
        """Keep the sample of an image (H, W, 3), the one at ``index``, and draw its overlay."""
        name, number = self.names[index], index + 1
        height, width = image.shape[:2]
        record = dict(id=number, file_name=name, width=width, height=height)
        results = to_coco(sample, image_id=number, file_name=name, classes=self.classes)
        overlay = draw_overlay(image, sample, self.classes)
        data = cv2.imencode('.png', overlay)[1].tobytes()
        self._save(f'overlays/{self.overlays[name]}', data)
        self.images.append(record)
        self.results.extend(results)

    def write(self) -> None:
        """Write the JSON files."""
        info = dict(description='images predicted by mmsolov2', folder=str(self.root))
        categories = coco_categories(self.classes)
        about = dict(info=info, images=self.images, annotations=[], categories=categories)
        self._save('images.json', json.dumps(about).encode())
        self._save('predictions.json', json.dumps(self.results).encode())

    def _save(self, name: str, data: bytes) -> None:
        """Write a file of the folder, whole or not at all."""
        path = self.folder / name
        try:
            AtomicLocalBackend().put(data, path)
        except OSError as error:
            raise InputError(
                f'{path}: it cannot be written ({error.strerror}); give another --out-dir'
            ) from error


def relative_names(images: Sequence[Path]) -> tuple[Path, list[str]]:
    """The folder that all images share, and the path of each from there."""
    paths = [os.path.abspath(image) for image in images]
    root = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    return root, [Path(path).relative_to(root).as_posix() for path in paths]


def overlay_names(names: Sequence[str]) -> list[str]:
    """A PNG's name for each image's name, no two alike."""
    stems = [Path(name).with_suffix('').as_posix() for name in names]
    used = Counter(stems) + Counter(names)  # no stem may be the whole name of another image
    return [
        f'{stem if used[stem] == 1 else name}.png' for stem, name in zip(stems, names, strict=True)
    ]


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
    """Predict images one by one, and report those that cannot be read; their number."""
    failed = 0
    for index, path in enumerate(tqdm(images, unit='image', disable=None)):
        try:
            image = read_image(path)
        except InputError as error:
            failed += 1
            tqdm.write(f'error: {error}', file=sys.stderr)
            continue
        sample = predict(model, image).cpu()
        found = sample.pred_instances
        sample.pred_instances = found[found.scores >= score_thr]
        predictions.add(index, image, sample)
    return failed


def run(args: argparse.Namespace) -> int:
    """Predict as the command line says; the exit status."""
    images = images_to_do(args.inputs, args.out_dir)
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
        print(f'{failed} images could not be read', file=sys.stderr)
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
