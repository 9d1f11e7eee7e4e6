"""Predict images or a video: masks, boxes and scores as pictures and in files of many kinds.

    python tools/predict.py INPUT... --checkpoint CHECKPOINT --out-dir DIR

writes, below DIR,

- ``overlays/NAME.png``: each image with its instances. NAME is the image's path from the folder
  that all images share, without its extension unless another image would get the same name; a
  name that no file system takes is cut, with a number behind it. Of a video ``overlay.mp4``.
- with ``--format coco``, the default, ``predictions.json``: a COCO results list, one dict an
  instance; and ``images.json``: the images and categories that the results refer to. For
  pycocotools:

    coco = COCO('images.json')
    results = json.load(open('predictions.json'))
    masks = coco.loadRes([{key: r[key] for key in r if key != 'bbox'} for r in results])

  ``loadRes('predictions.json')`` takes the area of an instance from its box, not from its mask:
  mask AP of small, medium and large objects is then another than that of tools/test.py.
- with ``--format`` labelme, masks, yolo, csv or polygons what docs/predict.md says.
- ``parts/1-of-1.jsonl``: all predictions, written as they come, which ``--resume`` goes on with.

An image that cannot be read, or whose overlay cannot be written, is reported, and the rest are
done; the exit status is then 1. When interrupted, the files hold what was done; those of an
earlier run stay if no image was tried.

Large jobs: ``--shard 2/8`` does the second of eight parts, and in the end ``--merge --out-dir DIR``
writes the files of all, which are those that one process would have written.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import cv2
from tqdm import tqdm

from mmsolov2.apis import SOLOv2Inferencer, find_images, read_image
from mmsolov2.apis.inferencer import Answer
from mmsolov2.apis.pictures import Picture, frames_of, is_video, open_video
from mmsolov2.apis.prediction_files import (
    OverlayVideo,
    PredictionFiles,
    relative_names,
    unique_stems,
    write_all,
)
from mmsolov2.apis.prediction_formats import FORMATS, About
from mmsolov2.apis.prediction_parts import (
    Job,
    Part,
    digest,
    join_parts,
    left_to_do,
    model_digest,
    places,
)
from mmsolov2.cli.arguments import at_least, tool_parser
from mmsolov2.cli.config import add_cfg_options, add_tta, require_images, with_tta
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.cli.shards import Shard, parse_shard
from mmsolov2.cli.signals import stop_on_signals
from mmsolov2.errors import InputError
from mmsolov2.fileio import require_folder

INTERRUPTED = 130  # exit status, as of a shell
RATE = 25.0  # frames a second, of a camera that does not tell


class Work(NamedTuple):
    """Pictures to predict, each with its place in the job, and the files that they go to."""

    files: PredictionFiles
    todo: Iterable[int]
    pictures: Iterable[Picture]
    total: int | None  # how many pictures this part has, if it is known
    left: int | None  # how many of them are not done


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


def job_of(
    args: argparse.Namespace, model: SOLOv2Inferencer, folder: Path, names: Sequence[str]
) -> Job:
    """What all parts of a job share; a video has no names."""
    return Job(
        images_dir=str(folder),
        images=len(names),
        names=digest(names),
        classes=list(model.classes),
        model=model_digest(model.model),
        score_thr=args.score_thr,
        batch_size=args.batch_size,
        slice_side=args.slice,
        formats=sorted({*(args.format or ['coco'])}),
        overlays=not args.no_overlays,
    )


def work_on_images(
    args: argparse.Namespace, model: SOLOv2Inferencer, images: Sequence[Path], shard: Shard
) -> Work:
    """The images of a part, without those that are done already."""
    folder, names = relative_names(images)
    job = job_of(args, model, folder, names)
    part = Part(args.out_dir, job, shard)
    mine = places(job, shard)
    todo = left_to_do(mine, part.resume() if args.resume else [], args.batch_size)
    if args.resume:
        print(f'{len(mine) - len(todo)} of {len(mine)} images were done before')
    files = PredictionFiles(part, names.__getitem__, unique_stems(names).__getitem__)
    pictures = (Picture(str(images[at]), partial(read_image, images[at])) for at in todo)
    return Work(files, todo, pictures, len(mine), len(todo))


def work_on_video(
    args: argparse.Namespace, model: SOLOv2Inferencer, name: str, capture: cv2.VideoCapture
) -> Work:
    """The frames of a video."""
    part = Part(args.out_dir, job_of(args, model, Path(name).absolute().parent, []), Shard())
    rate = capture.get(cv2.CAP_PROP_FPS)
    video = OverlayVideo(args.out_dir, rate if 0 < rate < 1000 else RATE)
    clip = Path(name).name
    files = PredictionFiles(
        part, lambda at: f'{clip}/{at + 1:06}', lambda at: f'{at + 1:06}', video
    )
    return Work(files, count(), frames_of(capture, name), None, None)


def add(files: PredictionFiles, index: int, answer: Answer) -> None:
    """Write the files of an answer; report it where that fails, or there is none."""
    error = answer.error
    if error is None:
        error = files.add(index, answer.image, answer.sample)
    else:
        files.add_error(index, error)
    if error is not None:
        name = answer.picture.name
        about = '' if name in str(error) else f'{name}: '
        tqdm.write(f'error: {in_one_line(f"{about}{error}")}', file=sys.stderr)


def predict_all(args: argparse.Namespace, model: SOLOv2Inferencer, work: Work) -> int:
    """Predict pictures in turn, and write the files; the exit status."""
    answers = model.answers(
        work.pictures, batch_size=args.batch_size, score_thr=args.score_thr, workers=args.workers
    )
    started, done, status = time.perf_counter(), 0, 0
    try:
        for index, answer in tqdm(
            zip(work.todo, answers, strict=False), total=work.left, unit='image', disable=None
        ):
            add(work.files, index, answer)
            done += 1
    except KeyboardInterrupt as stopped:  # by a signal: it has the exit status
        status = getattr(stopped, 'code', INTERRUPTED)
        print('interrupted', file=sys.stderr)
    finally:
        records = work.files.close()
    seconds = time.perf_counter() - started
    print(f'{done} images in {seconds:.1f} s: {done / max(seconds, 1e-9):.1f} images/s')
    failed = report(args.out_dir, records, work.total)
    return status or failed


def report(out_dir: Path, records: Sequence[dict], total: int | None) -> int:
    """Say what was found and what failed; the exit status."""
    results = [record['results'] for record in records if 'results' in record]
    counts = Counter(result['category_name'] for found in results for result in found)
    failed = sum('error' in record for record in records)
    if counts:
        print('by class: ' + ', '.join(f'{name} {number}' for name, number in counts.most_common()))
    print(
        f'{len(results)} of {len(records) if total is None else total} images, '
        f'{counts.total()} instances: {out_dir}'
    )
    if failed:
        print(f'{failed} images could not be read, predicted or drawn', file=sys.stderr)
    return 1 if failed else 0


def merge(args: argparse.Namespace) -> int:
    """Write the files of all images of a job of which all parts are done; the exit status.

    Raises:
        InputError: if inputs are given, or parts do not fit together.
    """
    if args.inputs or args.shard:
        raise InputError('--merge: give --out-dir alone, of the parts; it predicts nothing')
    job, records = join_parts(args.out_dir)
    write_all(job, About(args.out_dir, job.images_dir, job.classes), records)
    return report(args.out_dir, records, job.images)


def run(args: argparse.Namespace) -> int:
    """Predict what the arguments say; the exit status."""
    if args.merge:
        return merge(args)
    if not args.inputs or not args.checkpoint:
        raise InputError('give at least one INPUT and --checkpoint, or --merge')
    shard = parse_shard(args.shard, os.environ)
    video = video_of(args)
    images = images_to_do(args.inputs, args.out_dir) if video is None else []
    capture = None if video is None else open_video(video)
    require_folder(args.out_dir / ('' if video or args.no_overlays else 'overlays'))
    model = SOLOv2Inferencer(
        args.config, args.checkpoint, args.device, with_tta(args), slice_side=args.slice
    )
    require_images(model.model.cfg, 'predict.py')
    if video is None or capture is None:
        work = work_on_images(args, model, images, shard)
    else:
        work = work_on_video(args, model, video, capture)
    status = predict_all(args, model, work)
    if shard.total > 1:
        print(f'part {shard.number} of {shard.total}: when all are done, run predict.py --merge')
    return status


def video_of(args: argparse.Namespace) -> str | None:
    """The name of the video that is to be predicted, if it is one.

    Raises:
        InputError: if there are other inputs, or an option is for images alone.
    """
    videos = [name for name in args.inputs if is_video(name) and not os.path.isdir(name)]
    if not videos:
        return None
    if len(args.inputs) > 1:
        raise InputError(f'{videos[0]}: a video is predicted alone: give it, or the images')
    for name, given in (('--shard', args.shard), ('--resume', args.resume)):
        if given:
            raise InputError(f'{videos[0]}: {name} is for images: leave it out')
    if 'labelme' in (args.format or []):
        raise InputError(f'{videos[0]}: --format labelme is for images, which labelme opens')
    return videos[0]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    text = (
        'image, folder (with all below it) or quoted pattern, such as "photos/**/*.jpg"; or one '
        'video, or camera:0'
    )
    parser.add_argument('inputs', metavar='INPUT', nargs='*', help=text)
    text = (
        'config file, or the name of one that mmsolov2 ships; without it that in the checkpoint '
        'is read, not run'
    )
    parser.add_argument('--config', help=text)
    parser.add_argument('--checkpoint', help='checkpoint file or address')
    parser.add_argument('--out-dir', required=True, type=Path, help='folder for the results')
    text = (
        'leave out instances with a lower score (default: %(default)s); those below '
        'model.test_cfg.filter_thr of the config are never found'
    )
    parser.add_argument('--score-thr', type=float, default=0.3, help=text)
    parser.add_argument('--device', default='auto', help='auto (default), cpu, cuda:0 ...')
    text = 'what to write, coco if not said; may be given several times'
    parser.add_argument('--format', action='append', choices=FORMATS, help=text)
    parser.add_argument('--no-overlays', action='store_true', help='draw no pictures')
    text = 'images that are predicted together (default: %(default)s)'
    parser.add_argument('--batch-size', type=at_least(1), default=1, help=text)
    text = 'threads that read images ahead (default: %(default)s, each is read when it is due)'
    parser.add_argument('--workers', type=at_least(0), default=0, help=text)
    text = (
        'do a part of the images, as 2/8; auto takes the number of the process, and how many there '
        'are, from torchrun or Slurm, auto/8 the number of a Kubernetes job'
    )
    parser.add_argument('--shard', help=text)
    text = 'go on with an earlier run of the same job in --out-dir'
    parser.add_argument('--resume', action='store_true', help=text)
    text = 'join the parts in --out-dir to the files of all images'
    parser.add_argument('--merge', action='store_true', help=text)
    text = 'predict larger images by slices of so many pixels, which overlap'
    parser.add_argument('--slice', type=at_least(64), metavar='SIDE', help=text)
    add_tta(parser)
    add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with exit_with_message(args.config or args.checkpoint or 'predict'):
        return run(args)


if __name__ == '__main__':
    stop_on_signals()  # a killed run writes its results
    sys.exit(main())
