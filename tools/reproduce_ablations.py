"""Train and compare rows of the paper's table 3, and this project's options, on any COCO data.

    python tools/reproduce_ablations.py coords features --config CONFIG --epochs 6 --seeds 0 1 2

A row is a file of ``configs/ablations``: what it changes is put over CONFIG. Rows that train alike
share their training. Everything is kept in --out-dir: a second run goes on where the first ended.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median, stdev
from typing import NamedTuple

import matplotlib
import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from mmsolov2.apis.inference import find_config
from mmsolov2.errors import InputError, exit_with_message
from mmsolov2.registry import DATASETS, MODELS, TASK_UTILS

BASE = 'solov2_r50_fpn_ms-3x_coco'
PAPER = {  # mask AP, AP50, AP75 on COCO val2017: SOLOv2, table 3 a to d
    'kernel-3x3x64': (37.4, 58.0, 39.9),
    'kernel-1x1x64': (37.4, 58.1, 40.1),
    'kernel-1x1x128': (37.4, 58.1, 40.2),
    'kernel-1x1x256': (37.8, 58.5, 40.4),
    'kernel-1x1x512': (37.7, 58.3, 40.4),
    'coords-none': (36.3, 57.4, 38.6),
    'coords-kernel': (36.3, 57.3, 38.5),
    'coords-feature': (37.1, 58.0, 39.4),
    'coords-both': (37.8, 58.5, 40.4),
    'nms-hard': (36.3, None, None),
    'nms-soft': (36.5, None, None),
    'nms-fast': (36.2, None, None),
    'nms-matrix': (36.6, None, None),
    'features-separate': (37.3, 58.2, 40.0),
    'features-unified': (37.8, 58.5, 40.4),
}
OPTIONS = (
    'heads-solo', 'heads-decoupled-solo', 'heads-mask-rcnn', 'nms-matrix-linear', 'owner-last',
    'owner-smallest', 'owner-nearest', 'vanishing-drop', 'vanishing-cover', 'open-ended',
    'half-pixel', 'sync-avg-factor', 'min-mask-1', 'symmetric-peaks'
)
ROWS = ('default', *PAPER, *OPTIONS)
METRICS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


class Run(NamedTuple):
    """A row with a seed: which config to test, and the training that it needs."""

    row: str
    seed: int
    config: Path  # resolved, of the row
    training: Path  # folder of the training, shared by rows that train alike
    result: Path  # JSON of the figures, once there


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train and compare rows of SOLOv2's table 3", epilog=f'rows: {", ".join(ROWS)}'
    )
    parser.add_argument('rows', nargs='+', help='rows, or their first word: kernel, coords, nms …')
    parser.add_argument('--config', default=BASE, help='config that the rows change')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--epochs', type=int, help='squeeze the schedule into this many epochs')
    parser.add_argument('--jobs', type=int, default=1, help='trainings at a time, one CPU each')
    parser.add_argument('--gpus', type=int, default=0, help='GPUs of a training; 0: no launcher')
    parser.add_argument('--out-dir', default='work_dirs/ablations')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='settings that override every config'
    )
    return parser.parse_args()


# Rows and configs


def chosen_rows(names: Iterable[str]) -> list[str]:
    """Rows by name or first word, in the order of the paper's tables.

    Raises:
        InputError: if a name is neither.
    """
    names = set(names)
    words = {row.split('-')[0] for row in ROWS}
    unknown = sorted(names - words - set(ROWS))
    if unknown:
        raise InputError(f'there are no rows {unknown}; there are {", ".join(ROWS)}')
    return [row for row in ROWS if row in names or row.split('-')[0] in names]


def row_file(row: str) -> str:
    """The name of a row's leaf among the shipped configs."""
    if row.startswith('heads-'):
        return f'{row.removeprefix("heads-")}_r50_fpn_ms-3x_coco'
    return f'solov2_r50_fpn_ms-3x_{row}_coco'


def changes_of(leaf: Path) -> str:
    """What a leaf says beyond its base, or its base does if it says nothing itself."""
    base = re.compile(r"^_base_ = '(.*)'$", re.MULTILINE)
    text = leaf.read_text()
    return base.sub('', text).strip() or changes_of(leaf.parent / base.search(text)[1])


def row_config(row: str, base: Path, file: Path) -> Config:
    """The config of a row over a base config; it is written to a file on the way."""
    changes = '' if row == 'default' else changes_of(find_config(row_file(row)))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'_base_ = {str(base.resolve())!r}\n{changes}')
    return Config.fromfile(file)


def squeeze_schedule(config: Config, epochs: int) -> None:
    """Scale the schedule of a config to a number of epochs."""
    share = epochs / config.train_cfg.max_epochs
    config.train_cfg.max_epochs = config.train_cfg.val_interval = epochs
    for scheduler in config.param_scheduler:
        if not scheduler.get('by_epoch', True):
            continue
        for name in ('begin', 'end', 'T_max'):
            if name in scheduler:
                scheduler[name] = round(scheduler[name] * share)
        if 'milestones' in scheduler:
            scheduler.milestones = [max(round(one * share), 1) for one in scheduler.milestones]


def plan_runs(args: argparse.Namespace) -> list[Run]:
    """The runs of all rows and seeds, their configs written under --out-dir."""
    out_dir, trainings, runs = Path(args.out_dir), {}, []
    for row in chosen_rows(args.rows):
        config = row_config(row, find_config(args.config), out_dir / 'rows' / f'{row}.py')
        if args.epochs:
            squeeze_schedule(config, args.epochs)
        config.merge_from_dict(args.cfg_options or {})
        config.custom_hooks = [*config.get('custom_hooks', []), dict(type='mmsolov2.NMSTimeHook')]
        config.default_hooks.checkpoint.max_keep_ckpts = 1
        file = out_dir / 'configs' / f'{row}.py'
        keep_or_refuse(file, config.pretty_text)
        name = trainings.setdefault(training_key(config), row)
        for seed in args.seeds:
            folder = out_dir / 'train' / f'{name}-seed-{seed}'
            result = out_dir / 'results' / f'{row}-seed-{seed}.json'
            runs.append(Run(row, seed, file, folder, result))
    return runs


def training_key(config: Config) -> str:
    """A text that is equal for configs that train alike: all but the settings of prediction."""
    content = Config(config.to_dict())
    content.model.pop('test_cfg', None)
    return content.pretty_text


def keep_or_refuse(file: Path, text: str) -> None:
    """Write a row's resolved config, unless results of another one are there already.

    Raises:
        InputError: if the folder holds runs with other settings.
    """
    if file.is_file() and file.read_text() != text:
        raise InputError(
            f'{file}: the folder holds runs of another config or schedule; take another '
            '--out-dir, or remove this one'
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


# Training and testing


def train(run: Run, args: argparse.Namespace) -> None:
    """Train, or go on with a training, unless it is done."""
    done = run.training / 'done'
    if done.is_file():
        return
    options = ['--work-dir', run.training, '--resume', '--cfg-options']
    call('train', run.config, args, [*options, f'randomness.seed={run.seed}'], run.training)
    done.touch()


def test(run: Run, args: argparse.Namespace) -> dict[str, float]:
    """The figures of a run, measured unless they are there."""
    if not run.result.is_file():
        checkpoint = (run.training / 'last_checkpoint').read_text().strip()
        folder = run.result.with_suffix('')
        call('test', run.config, args, [checkpoint, '--work-dir', folder], folder)
        newest = max(folder.glob('*/*.json'), key=lambda path: path.stat().st_mtime)
        run.result.write_text(newest.read_text())
    return json.loads(run.result.read_text())


def call(tool: str, config: Path, args: argparse.Namespace, options: list, folder: Path) -> None:
    """Run one of the project's tools, its output in a log file.

    Raises:
        InputError: if it fails; the message ends with the last line of the log.
    """
    script = Path(__file__).resolve().with_name(f'{tool}.py')
    command = [sys.executable, script]
    if args.gpus:
        command = [script.with_name(f'dist_{tool}.sh')]
        position = 2 if tool == 'test' else 1
        options = [*options[:position - 1], args.gpus, *options[position - 1:]]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f'{tool}.log'
    threads = {} if args.gpus else dict(OMP_NUM_THREADS=str(max(os.cpu_count() // args.jobs, 1)))
    with log.open('w') as file:
        status = subprocess.run(
            [str(part) for part in (*command, config, *options)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                **threads
            },
        ).returncode
    if status:
        last = log.read_text().strip().splitlines()[-1:]
        raise InputError(f'{log}: {tool}.py ended with {status}: {" ".join(last)}')


def train_all(runs: Sequence[Run], args: argparse.Namespace) -> None:
    """Train what the runs need, some at a time, and say how far it is.

    Raises:
        InputError: if a training failed; after the others have ended.
    """
    needed = list({run.training: run for run in runs}.values())
    failed, started, finished = [], time.monotonic(), 0

    def work(run: Run) -> None:
        nonlocal finished
        try:
            train(run, args)
        except InputError as error:
            failed.append(error)
            print(f'error: {error}', flush=True)
        finished += 1
        spent = (time.monotonic() - started) / 60
        left = spent / finished * (len(needed) - finished)
        print(
            f'[{finished}/{len(needed)}] {run.training.name}: {spent:.0f} min spent, about '
            f'{left:.0f} min left',
            flush=True
        )

    print(f'{len(needed)} trainings for {len(runs)} runs', flush=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(work, needed))
    if failed:
        raise InputError(f'{len(failed)} of {len(needed)} trainings failed; run this again')


def shared_cells(config: Config) -> float:
    """Cells that the masks of several instances supervise, in percent of the training's positives.

    NaN for heads without our assigner.
    """
    head = config.model.get('mask_head', {})
    if 'assigner' not in head:
        return math.nan
    assigner = TASK_UTILS.build(head.assigner)
    preprocessor = MODELS.build(config.model.data_preprocessor)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    shared = positive = 0
    for sample in dataset:
        batch = preprocessor(pseudo_collate([sample]), training=True)
        instances = batch['data_samples'][0].gt_instances
        targets = assigner(
            instances.masks.to_tensor(torch.bool, 'cpu'),
            instances.labels,
            instances.get('bboxes'),
            num_grids=head.num_grids,
            background=head.num_classes,
        )
        claims = torch.bincount(targets.cell[targets.valid])
        shared, positive = shared + int((claims > 1).sum()), positive + int((claims > 0).sum())
    return 100 * shared / max(positive, 1)


def shared_cells_of(run: Run) -> float:
    """``shared_cells`` of a run's row, from its file if it is there."""
    file = run.result.with_name(f'{run.row}-shared-cells.json')
    if not file.is_file():
        file.write_text(json.dumps(shared_cells(Config.fromfile(run.config))))
    return json.loads(file.read_text())


# Tables and pictures


def table(results: dict[str, list[dict]], paper: dict[str, tuple] = PAPER) -> str:
    """A Markdown table of rows' figures, mean ± standard deviation over seeds, in percent."""
    names = [name.replace('mAP', 'AP').replace('_', '') for name in METRICS]
    head = ['row', 'seeds', *names, 'shared cells, %', 'NMS, ms (masks)', 'paper AP / 50 / 75']
    lines = [head, ['---'] * len(head)]
    for row, figures in results.items():
        cells = [spread([percent(one, name) for one in figures]) for name in METRICS]
        milliseconds = median(one.get('nms/milliseconds', 0) for one in figures)
        count = median(one.get('nms/candidates', 0) for one in figures)
        published = ' / '.join('–' if one is None else f'{one}' for one in paper.get(row, ()))
        lines.append([
            row,
            str(len(figures)), *cells, f'{figures[0].get("shared_cells", math.nan):.1f}',
            f'{milliseconds:.2f} ({count:.0f})', published
        ])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


def percent(figures: dict[str, float], name: str) -> float:
    """A figure of the masks in percent; 0 where nothing was found in any image."""
    return 100 * figures.get(f'coco/segm_{name}', 0.0)


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation."""
    if min(values) < 0:
        return '–'  # COCOeval's -1: no such objects
    return f'{mean(values):.1f}' + (f' ± {stdev(values):.1f}' if len(values) > 1 else '')


def plot(results: dict[str, list[dict]], file: Path) -> None:
    """Draw each seed's mask AP and the mean, row by row, beside the paper's AP."""
    matplotlib.use('Agg')
    from matplotlib import pyplot

    rows = list(results)[::-1]
    figure, (ours, paper) = pyplot.subplots(
        1, 2, sharey=True, figsize=(9, 1 + 0.35 * len(rows)), width_ratios=(3, 2)
    )
    for y, row in enumerate(rows):
        values = [percent(one, 'mAP') for one in results[row]]
        ours.plot(values, [y] * len(values), 'o', color='tab:blue', alpha=0.4)
        ours.plot(mean(values), y, '|', color='tab:blue', markersize=16, markeredgewidth=2)
        if row in PAPER:
            paper.plot(PAPER[row][0], y, '|', color='tab:red', markersize=16, markeredgewidth=2)
    ours.set(yticks=range(len(rows)), yticklabels=rows, title='measured: seeds and mean')
    paper.set(title='paper: COCO val2017')
    for axes in (ours, paper):
        axes.set_xlabel('mask AP, %')
        axes.grid(axis='x', alpha=0.4)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def report(results: dict[str, list[dict]], out_dir: Path, say: Callable = print) -> None:
    """Write the table and the plot, and print the table."""
    text = table(results)
    (out_dir / 'ablations.md').write_text(text)
    plot(results, out_dir / 'ablations.png')
    say(f'\n{text}\n{out_dir / "ablations.md"}\n{out_dir / "ablations.png"}')


def main() -> None:
    args = parse_args()
    init_default_scope('mmdet')
    with exit_with_message(args.config):
        runs = plan_runs(args)
        train_all(runs, args)
        results = {}
        for number, run in enumerate(runs, 1):
            figures = {**test(run, args), 'shared_cells': shared_cells_of(run)}
            results.setdefault(run.row, []).append(figures)
            ap = percent(results[run.row][-1], 'mAP')
            print(
                f'[{number}/{len(runs)}] {run.row}, seed {run.seed}: mask AP {ap:.1f}', flush=True
            )
        report(results, Path(args.out_dir))


if __name__ == '__main__':
    main()
