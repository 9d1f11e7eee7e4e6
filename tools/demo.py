"""Train, evaluate and look at SOLOv2 on generated shapes: ``python tools/demo.py``.

What it runs are the project's own tools, printed so that you can run them yourself. Data and
training are kept: a second run skips them, and an interrupted training goes on.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from mmengine.config import Config

from mmsolov2.cli.errors import exit_with_message
from mmsolov2.cli.signals import stop_on_signals
from mmsolov2.errors import InputError
from mmsolov2.fileio import latest_figures, require_folder, trained_checkpoint

ROOT = Path(__file__).resolve().parents[1]
CONFIG = os.path.relpath(ROOT / 'configs/shapes/solov2-plus_r18_fpn_shapes.py')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train and see SOLOv2 on generated shapes')
    parser.add_argument('--out-dir', default='demo', help='folder for everything but the data')
    parser.add_argument('--epochs', type=int, help='epochs to train; the default is the config')
    parser.add_argument('--min-ap', type=float, default=0, help='fail if segm AP is lower')
    return parser.parse_args()


def run(script: str, *arguments: str | Path | int) -> None:
    """Print and run one of the project's tools; exit with its status if it fails."""
    program = [os.path.relpath(path) for path in (sys.executable, ROOT / 'tools' / script)]
    command = [*program, *map(str, arguments)]
    print(f'\n$ {" ".join(command)}', flush=True)
    status = subprocess.run(command).returncode  # noqa: PLW1510
    if status:
        sys.exit(status)


def train(work_dir: Path, epochs: int | None) -> str:
    """Train unless it is done: the last checkpoint."""
    config = Config.fromfile(CONFIG, import_custom_modules=False)
    prepare(work_dir, f'{epochs}\n{config.pretty_text}')
    done = work_dir / 'done'
    if not done.is_file():
        options = ['--epochs', epochs] if epochs else []
        run('train.py', CONFIG, '--work-dir', work_dir, '--resume', *options)
        done.touch()
    return trained_checkpoint(work_dir)


def prepare(work_dir: Path, wanted: str) -> None:
    """Make the folder of a training, and remove an earlier one's progress if its plan was another.

    Raises:
        InputError: if the folder is not of this demo, or cannot be made.
    """
    plan = work_dir / 'plan'
    if not plan.is_file() and work_dir.is_dir() and any(work_dir.iterdir()):
        raise InputError(f'{work_dir}: it holds other files than of a demo; give another --out-dir')
    require_folder(work_dir)
    if plan.is_file() and plan.read_text() != wanted:
        for name in ('done', 'last_checkpoint', 'epoch_*.pth'):
            for path in work_dir.glob(name):
                path.unlink()
    plan.write_text(wanted)


def demonstrate(args: argparse.Namespace) -> None:
    """Make the data, train, evaluate and predict."""
    out_dir = Path(args.out_dir)
    tested, pictures = out_dir / 'test', out_dir / 'predictions'
    run('make_shapes.py', 'data/shapes')
    checkpoint = train(out_dir / 'train', args.epochs)
    run('test.py', CONFIG, checkpoint, '--work-dir', tested)
    images = [f'data/shapes/val/{number:06}.png' for number in range(1, 13)]
    model = ('--config', CONFIG, '--checkpoint', checkpoint)
    run('predict.py', *images, *model, '--out-dir', pictures)
    segm, bbox = (latest_figures(tested)[f'coco/{kind}_mAP'] for kind in ('segm', 'bbox'))
    print(f'\nAP on held-out shapes: masks {segm:.3f}, boxes {bbox:.3f}')
    print(f'Look at the predicted masks: {(pictures / "overlays").resolve()}')
    if segm < args.min_ap:
        sys.exit(f'error: mask AP {segm:.3f} is lower than --min-ap {args.min_ap}')


def main() -> None:
    args = parse_args()
    with exit_with_message(CONFIG):
        demonstrate(args)


if __name__ == '__main__':
    stop_on_signals()  # with the tool at work
    main()
