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
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median, stdev
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from mmsolov2.cli.arguments import at_least
from mmsolov2.cli.config import add_cfg_options, find_config, open_config
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.cli.schedule import schedule_options
from mmsolov2.cli.signals import stop_on_signals
from mmsolov2.cli.tables import markdown_table
from mmsolov2.datasets.epoch_seed import seed_everything
from mmsolov2.errors import InputError
from mmsolov2.fileio import latest_figures, require_folder, trained_checkpoint, write_whole
from mmsolov2.registry import DATASETS, MODELS

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
    'nms-hard': (36.3,),
    'nms-soft': (36.5,),
    'nms-fast': (36.2,),
    'nms-matrix': (36.6,),
    'features-separate': (37.3, 58.2, 40.0),
    'features-unified': (37.8, 58.5, 40.4),
}
PAPER_NMS = {'nms-hard': '9', 'nms-soft': '22', 'nms-fast': '<1', 'nms-matrix': '<1'}  # ms
OPTIONS = (
    'heads-solo',
    'heads-decoupled-solo',
    'heads-mask-rcnn',
    'nms-matrix-linear',
    'owner-last',
    'sync-avg-factor',
    'min-mask-1',
    'position-bias',
    'position-linear',
    'position-quadratic',
    'quality',
    'min-part',
    'plus',
    'without-position',
    'without-quality',
    'without-min-part',
    'without-min-mask',
)
ROWS = ('default', *PAPER, *OPTIONS)
RUNNING: set[subprocess.Popen] = set()  # tools that were started, at work or done
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
    positive = at_least(1)
    parser.add_argument('rows', nargs='+', help='rows, or their first word: kernel, coords, nms …')
    parser.add_argument('--config', default=BASE, help='config that the rows change')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    text = 'squeeze the schedule into this many epochs'
    parser.add_argument('--epochs', type=positive, help=text)
    text = 'trainings at a time; they share the CPUs, or take OMP_NUM_THREADS each'
    parser.add_argument('--jobs', type=positive, default=1, help=text)
    text = 'GPUs of each training, through dist_train.sh'
    parser.add_argument('--gpus', type=positive, help=text)
    parser.add_argument('--out-dir', default='work_dirs/ablations')
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.gpus and args.jobs > 1:
        parser.error('--jobs is for CPUs; with --gpus one training after the other has all of them')
    return args


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


def base_config(args: argparse.Namespace, file: Path) -> Path:
    """The config that the rows change, with the options of the command line, as a file.

    Raises:
        InputError: if it cannot be read, or has no epochs to squeeze.
    """
    config = open_config(args.config, args.cfg_options)
    if args.epochs:
        config.merge_from_dict(schedule_options(config, args.epochs))
    config.setdefault('default_hooks', {})
    config.default_hooks.setdefault('checkpoint', dict(type='CheckpointHook'))
    config.default_hooks.checkpoint.max_keep_ckpts = 1
    config.custom_hooks = [*config.get('custom_hooks', []), dict(type='mmsolov2.NMSTimeHook')]
    require_folder(file.parent)
    config.dump(file)
    return file


def row_config(row: str, base: Path, file: Path) -> Config:
    """The config of a row over a base config; it is written to a file on the way.

    Raises:
        InputError: if the base has not the parts that the row changes.
    """
    changes = '' if row == 'default' else changes_of(find_config(row_file(row)))
    write_whole(file, f'_base_ = {str(base.resolve())!r}\n{changes}')
    try:
        return Config.fromfile(file)
    except (KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f'{base}: the row {row} does not fit this config: {error!r}; rows change the parts of '
            'a SOLOv2 of this project'
        ) from error


def plan_runs(args: argparse.Namespace) -> list[Run]:
    """The runs of all rows and seeds, their configs written under --out-dir.

    A training has the name of the first of ``ROWS`` that trains like it, whichever are chosen: all
    but the settings of prediction are equal.
    """
    out_dir, trainings, runs = Path(args.out_dir), {}, []
    chosen = chosen_rows(args.rows)
    base = base_config(args, out_dir / 'base.py')
    for row in ROWS:
        try:
            config = row_config(row, base, out_dir / 'rows' / f'{row}.py')
        except InputError:
            if row in chosen:
                raise
            continue
        training = Config(config.to_dict())
        training.model.pop('test_cfg', None)
        name = trainings.setdefault(repr(training.to_dict()), row)
        if row not in chosen:
            continue
        keep_or_refuse(out_dir / 'train' / f'{name}.py', training.pretty_text)
        file = out_dir / 'configs' / f'{row}.py'
        keep_or_refuse(file, config.pretty_text)
        for seed in dict.fromkeys(args.seeds):
            folder = out_dir / 'train' / f'{name}-seed-{seed}'
            result = out_dir / 'results' / f'{row}-seed-{seed}.json'
            runs.append(Run(row, seed, file, folder, result))
    return runs


def keep_or_refuse(file: Path, text: str) -> None:
    """Write a row's resolved config, unless the folder is for another one.

    Raises:
        InputError: if the folder holds runs with other settings.
    """
    if file.is_file() and file.read_text() != text:
        raise InputError(
            f'{file}: the folder is for another config or schedule; take another '
            '--out-dir, or remove this one'
        )
    write_whole(file, text)


# Training and testing


def call(tool: str, config: Path, args: argparse.Namespace, options: list, folder: Path) -> None:
    """Run one of the project's tools, its output in a log file.

    Raises:
        InputError: if it fails; the message ends with the last error in the log.
    """
    script = Path(__file__).resolve().with_name(f'{tool}.py')
    command, environment = [sys.executable, script, config, *options], dict(os.environ)
    if args.gpus:
        script = script.with_name(f'dist_{tool}.sh')
        command = [script, config, *with_gpus(tool, args.gpus, options)]
        environment['PYTHON'] = sys.executable
    else:
        environment.setdefault('OMP_NUM_THREADS', str(max(os.cpu_count() // args.jobs, 1)))
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f'{tool}.log'
    with log.open('w') as file:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        RUNNING.add(process)
        try:
            status = process.wait()
        finally:
            process.terminate()  # if this process was interrupted
    if status:
        errors = re.findall(r'^(?!.*ChildFailed).*[eE]rror: .*$', log.read_text(), re.MULTILINE)
        raise InputError(f'{log}: {tool} ended with status {status}: {" ".join(errors[-1:])}')


def with_gpus(tool: str, gpus: int, options: list) -> list:
    """Options of dist_train.sh or dist_test.sh: the GPUs come after the checkpoint, if any."""
    before = 1 if tool == 'test' else 0
    return [*options[:before], gpus, *options[before:]]


def train_all(runs: Sequence[Run], args: argparse.Namespace) -> set[Path]:
    """Train what the runs need, some at a time, and say how far it is: the folders that failed."""
    needed = {}
    for run in runs:
        if not (run.training / 'done').is_file():
            needed.setdefault(run.training, run)  # by the config of the first row
    failed, started, finished = set(), time.monotonic(), 0

    def work(run: Run) -> None:
        nonlocal finished
        try:
            options = ['--work-dir', run.training, '--resume']
            options += ['--cfg-options', f'randomness.seed={run.seed}']
            call('train', run.config, args, options, run.training)
            (run.training / 'done').touch()
        except InputError as error:
            failed.add(run.training)
            print(f'error: {error}', flush=True)
        finished += 1
        spent = (time.monotonic() - started) / 60
        left = spent / finished * (len(needed) - finished)
        done = f'[{finished}/{len(needed)}] {run.training.name}: {spent:.0f} min spent'
        print(f'{done}, about {left:.0f} min of training left', flush=True)

    print(f'{len(needed)} trainings to do for {len(runs)} runs', flush=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            list(pool.map(work, needed.values()))
        except KeyboardInterrupt:  # those that wait are cancelled by now
            for process in RUNNING:
                process.terminate()
            raise
    return failed


def test_all(runs: Iterable[Run], args: argparse.Namespace) -> tuple[dict, set[Path]]:
    """The figures of each row, a dict for each seed, and the results that could not be had."""
    results, failed = {}, set()
    for run in runs:
        try:
            figures = figures_of(run, args)
        except InputError as error:
            failed.add(run.result)
            print(f'error: {error}', flush=True)
            continue
        results.setdefault(run.row, []).append(figures)
        print(f'{run.row}, seed {run.seed}: mask AP {percent(figures, "mAP"):.1f}', flush=True)
    return results, failed


def figures_of(run: Run, args: argparse.Namespace) -> dict[str, float]:
    """The figures of a run, measured unless they are there.

    Raises:
        InputError: if the checkpoint was removed, or the test fails.
    """
    if not run.result.is_file():
        folder = run.result.with_suffix('')
        options = [trained_checkpoint(run.training), '--work-dir', folder]
        call('test', run.config, args, options, folder)
        write_whole(run.result, json.dumps(latest_figures(folder)))
    shared = run.result.with_name(f'{run.row}-shared-cells.json')
    if not shared.is_file():
        write_whole(shared, json.dumps(shared_cells(Config.fromfile(run.config))))
    figures, cells = (json.loads(file.read_text()) for file in (run.result, shared))
    return {**figures, 'shared_cells': cells}


def shared_cells(config: Config) -> float:
    """Cells that the masks of several instances supervise, in percent of the positive cells.

    Over at most 500 images of the training data; NaN for heads without our assigner.
    """
    head = config.model.get('mask_head', {})
    if 'assigner' not in head:
        return math.nan
    head = MODELS.build(head)
    preprocessor = MODELS.build(config.model.data_preprocessor)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    seed_everything(0)
    shared = positive = 0
    for index in range(0, len(dataset), -(-len(dataset) // 500)):
        batch = preprocessor(pseudo_collate([dataset[index]]), training=True)
        instances = batch['data_samples'][0].gt_instances
        (targets,) = head.targets([instances], batch['inputs'].shape[-2:])
        claims = torch.bincount(targets.cell)
        shared, positive = shared + int((claims > 1).sum()), positive + int((claims > 0).sum())
    return 100 * shared / max(positive, 1)


# Tables and pictures


def table(results: dict[str, list[dict]]) -> str:
    """A Markdown table of rows' figures, mean ± standard deviation over seeds, in percent.

    The paper's time of the NMS is without the overlaps, ours with them.
    """
    names = [name.replace('mAP', 'AP').replace('_', '') for name in METRICS]
    head = ['row', 'seeds', *names, 'box AP', 'shared cells, %', 'NMS, ms (masks)']
    head += ['paper: AP / 50 / 75', 'paper: NMS, ms']
    lines = []
    for row, figures in results.items():
        cells = [spread([percent(one, name) for one in figures]) for name in METRICS]
        cells.append(spread([percent(one, 'mAP', 'bbox') for one in figures]))
        shared = figures[0].get('shared_cells', math.nan)
        cells += ['–' if math.isnan(shared) else f'{shared:.1f}', nms_time(figures)]
        cells += [' / '.join(map(str, PAPER.get(row, '–'))), PAPER_NMS.get(row, '–')]
        lines.append([row, str(len(figures)), *cells])
    return markdown_table(head, lines)


def nms_time(figures: Sequence[dict]) -> str:
    """Median milliseconds and candidates of a row's mask NMS."""
    if 'nms/milliseconds' not in figures[0]:
        return '–'
    milliseconds = median(one['nms/milliseconds'] for one in figures)
    return f'{milliseconds:.2f} ({median(one["nms/candidates"] for one in figures):.0f})'


def percent(figures: dict[str, float], name: str, kind: str = 'segm') -> float:
    """A figure of the masks or the boxes in percent; 0 where nothing was found in any image."""
    return 100 * figures.get(f'coco/{kind}_{name}', 0.0)


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation."""
    if min(values) < 0:
        return '–'  # COCOeval's -1: no such objects
    return f'{mean(values):.1f}' + (f' ± {stdev(values):.1f}' if len(values) > 1 else '')


def plot(results: dict[str, list[dict]], file: Path) -> None:
    """Draw each seed's mask AP and the mean, row by row, beside the paper's AP."""
    rows = list(results)[::-1]
    figure = Figure((9, 1 + 0.35 * len(rows)), dpi=120, layout='tight')
    ours, paper = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
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
    figure.savefig(file)


def main() -> None:
    args = parse_args()
    init_default_scope('mmdet')
    with exit_with_message('reproduce_ablations.py'):
        runs = plan_runs(args)
        failed = train_all(runs, args)
        results, missing = test_all([run for run in runs if run.training not in failed], args)
        if results:
            page, picture = Path(args.out_dir, 'ablations.md'), Path(args.out_dir, 'ablations.png')
            write_whole(page, table(results))
            plot(results, picture)
            print(f'\n{table(results)}\n{page}\n{picture}')
        if failed or missing:
            names = ', '.join(sorted(path.stem for path in failed | missing))
            raise InputError(f'{args.out_dir}: failed: {names}; the rest is kept, run this again')


if __name__ == '__main__':
    stop_on_signals()  # with the tools at work
    main()
