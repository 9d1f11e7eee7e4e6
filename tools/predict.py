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
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn
from tqdm import tqdm

from mmsolov2.apis import (
    PredictionFiles,
    find_images,
    load_config,
    load_detector,
    predict,
    read_image,
)
from mmsolov2.cli.arguments import tool_parser
from mmsolov2.cli.config import add_cfg_options, require_images
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.cli.signals import stop_on_signals
from mmsolov2.errors import InputError
from mmsolov2.fileio import require_folder

INTERRUPTED = 130  # exit status, as of a shell


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


def in_one_line(text: str) -> str:
    """A text in which characters that cannot be printed, as a path may have, are escaped."""
    return ''.join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def add(files: PredictionFiles, index: int, path: Path, model: nn.Module, score_thr: float) -> bool:
    """Predict an image for the files; report it where that fails, and return False."""
    try:
        image = read_image(path)
        sample = predict(model, image).cpu()
        found = sample.pred_instances
        sample.pred_instances = found[found.scores >= score_thr]
        files.add(index, image, sample)
    except InputError as error:
        about = '' if str(path) in str(error) else f'{path}: '
        tqdm.write(f'error: {in_one_line(f"{about}{error}")}', file=sys.stderr)
        return False
    return True


def run(args: argparse.Namespace) -> int:
    """Predict images one by one, and report those where it fails; the exit status."""
    images = images_to_do(args.inputs, args.out_dir)
    require_folder(args.out_dir / 'overlays')
    options = {'model.test_cfg.mask_format': 'rle', **(args.cfg_options or {})}  # less memory
    config = load_config(args.config, options)
    require_images(config, 'predict.py')
    model = load_detector(config, args.checkpoint, device=args.device)
    files = PredictionFiles(args.out_dir, images, model.dataset_meta['classes'])
    failed = 0
    try:
        for index, path in enumerate(tqdm(images, unit='image', disable=None)):
            failed += not add(files, index, path, model, args.score_thr)
        status = 1 if failed else 0
    except KeyboardInterrupt as stopped:  # by a signal: it has the exit status
        status = getattr(stopped, 'code', INTERRUPTED)
        print('interrupted', file=sys.stderr)
    finally:
        if files.images or failed:  # else those of an earlier run stay
            files.write()
    print(
        f'{len(files.images)} of {len(images)} images, {len(files.results)} instances: '
        f'{args.out_dir}'
    )
    if failed:
        print(f'{failed} images could not be read, predicted or drawn', file=sys.stderr)
    return status


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    text = 'image, folder (with all below it) or quoted pattern, such as "photos/**/*.jpg"'
    parser.add_argument('inputs', metavar='INPUT', nargs='+', help=text)
    text = 'config file, or the name of one that mmsolov2 ships'
    parser.add_argument('--config', required=True, help=text)
    parser.add_argument('--checkpoint', required=True, help='checkpoint file or address')
    parser.add_argument('--out-dir', required=True, type=Path, help='folder for the results')
    text = (
        'leave out instances with a lower score (default: %(default)s); those below '
        'model.test_cfg.filter_thr of the config are never found'
    )
    parser.add_argument('--score-thr', type=float, default=0.3, help=text)
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
