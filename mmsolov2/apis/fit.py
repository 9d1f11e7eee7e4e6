"""From a folder of labelled pictures to a trained model, one step after the other."""

import importlib.util
import io
import json
import logging
import os
import statistics as averages
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from mmsolov2.apis.configure import LEAST_ITERATIONS, Settings, choose_model, leaf, propose
from mmsolov2.apis.inferencer import SOLOv2Inferencer
from mmsolov2.apis.reporting import report
from mmsolov2.cli.config import open_config
from mmsolov2.cli.launch import CheckedRunner, build_loops
from mmsolov2.cli.resume import require_same_training
from mmsolov2.datasets.checks import REFUSED, check, usable
from mmsolov2.datasets.importers import find_source
from mmsolov2.datasets.splits import split
from mmsolov2.datasets.statistics import Statistics, statistics
from mmsolov2.errors import InputError
from mmsolov2.fileio import (
    latest_checkpoint,
    require_folder,
    trained_checkpoint,
    write_whole,
)
from mmsolov2.registry import DATASETS, MODELS

DONE = 'done'  # a file in the folder of a training that is
PLAN = 'fit.json'  # what was asked for, in the folder of a fit
OVERLAYS = 12  # pictures, at most
TRIED = 5  # iterations by which a training's time is told, the first of them without


@dataclass(frozen=True)
class Fitted:
    """What ``fit`` has made."""

    config: Path
    checkpoint: Path  # the best of the validations
    figures: dict[str, float]  # of the validation pictures, by CocoInstanceMetric's names


def fit(
    data: str | Path,
    out_dir: str | Path | None = None,
    *,
    model: str | None = None,
    weights: str | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    classes: Sequence[str] | None = None,
    val_share: float = 0.2,
    seed: int = 0,
) -> Fitted:
    """Train a model of labelled pictures in any layout of docs/data.md, and say what is done.

    A second call with the same arguments goes on where the first ended.

    Args:
        data: folder or file.
        out_dir: folder for config, training and results; ``work_dirs/NAME`` of the data's name.
        model: effl0, r18, r50, or a config, whose model is taken; None: see ``choose_model``.
        weights: file or address of a whole model's weights to start from, 'published' for COCO's,
            'none' for random ones; None: the backbone's trained ones, where it has any.
        epochs: of the training, to which the schedule is fitted.
        minutes: that the training may take, instead of epochs.
        classes: name of the one class where the layout has no names.
        val_share: share of pictures to validate on, where the data are not split.
        seed: of the split and of the training.

    Raises:
        InputError: if the data cannot be used, an argument is wrong, or the folder is of another
            fit.
    """
    if (minutes is not None and not minutes > 0) or (epochs is not None and epochs < 1):
        raise InputError(f'minutes={minutes}, epochs={epochs}: give more than none')
    folder = Path(out_dir or Path('work_dirs') / Path(data).resolve().stem)
    asked = dict(
        data=str(Path(data).resolve()), model=model, weights=weights, epochs=epochs,
        minutes=minutes, classes=classes and list(classes), val_share=val_share, seed=seed,
    )  # fmt: skip
    config = folder / f'{folder.resolve().name}.py'
    if not is_begun(folder, asked):
        require_folder(folder)
        write_config(config, asked)
        write_whole(folder / PLAN, json.dumps(asked, indent=1))
    checkpoint = train(config, folder / 'train', seed)
    figures = evaluate(config, checkpoint, folder / 'test')
    draw(config, checkpoint, folder / 'predictions')
    show(config, checkpoint, folder / 'report.html')
    say('done', f'mask AP {figures["coco/segm_mAP"]:.3f}, box AP {figures["coco/bbox_mAP"]:.3f}')
    say('use it', f'python tools/predict.py PHOTOS --checkpoint {checkpoint} --out-dir outputs')
    return Fitted(config, checkpoint, figures)


def say(what: str, text: str) -> None:
    """Tell a person what has been found or is done next, at once."""
    print(f'{what:<10} {text}', flush=True)


def quiet() -> AbstractContextManager:
    """Keep what is printed, as the tables of COCO's code, from the console; logs are shown."""
    return redirect_stdout(io.StringIO())


def is_begun(folder: Path, asked: Mapping) -> bool:
    """Whether a folder holds a fit of the same arguments.

    Raises:
        InputError: if it is one of others.
    """
    plan = folder / PLAN
    if not plan.is_file():
        return False
    known = json.loads(plan.read_text())
    others = [f'{key}={known.get(key)!r}' for key in asked if known.get(key) != asked[key]]
    if others:
        raise InputError(
            f'{folder}: this folder is of another fit, with {", ".join(others)}: repeat these, '
            'or give another --out'
        )
    say('goes on', f'{folder}: config and training are there; remove it to begin anew')
    return True


# Before the training


def write_config(file: Path, asked: Mapping) -> None:
    """Read the data, write them as COCO files, and write the config that fits them.

    Where the minutes are too few for a training of the size that fits best, pictures are smaller.
    """
    files, root, training = prepare(asked, file.parent)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    base, load_from = choose_model(asked['model'], asked['weights'], device, file.parent)
    minutes, scratch = asked.get('minutes'), asked['weights'] == 'none'
    fitting = partial(propose, training, base, device, load_from=load_from, scratch=scratch)
    text_of = partial(leaf, classes=training.classes, files=files, root=root)
    settings = fitting()
    epoch = seconds_of_epoch(text_of(settings), settings)
    needed = epoch * LEAST_ITERATIONS / settings.iterations
    if minutes and 60 * minutes < needed:
        settings = fitting(share=60 * minutes / needed)
        epoch = seconds_of_epoch(text_of(settings), settings)
    epochs = max(int(60 * minutes / epoch), 1) if minutes else asked['epochs']
    settings = replace(settings, epochs=epochs or settings.epochs)
    write_whole(file, text_of(settings))
    say('model', f'{Path(base).stem}, pictures of {settings.scale[0]}x{settings.scale[1]}')
    about = f'{settings.epochs} epochs of {settings.iterations} iterations'
    expected = max(settings.epochs * epoch / 60, 1)
    say('plan', f'{about}, about {expected:.0f} min on the {device.upper()}')
    say('config', f'{file}: read it, edit it, inherit it')


def prepare(asked: Mapping, folder: Path) -> tuple[dict[str, Path], Path, Statistics]:
    """COCO files of ``train`` and ``val``, the folder of their pictures, and statistics of train.

    Raises:
        InputError: if the data cannot be used as a whole; pictures that cannot are left out.
    """
    source = find_source(asked['data'], classes=asked['classes'])
    contents, root = source.read(), source.picture_root.resolve()
    say('data', f'{asked["data"]}: {source.kind}')
    for note in source.notes:
        say('', note)
    findings = check(contents, root)
    for finding in findings:
        if finding.what in REFUSED:
            raise InputError(f'{asked["data"]}: {finding.what}: {finding.examples[0]}')
        if finding.level != 'note':
            example = f'{finding.count} {finding.what}, as {finding.examples[0]}'
            say(finding.level, f'{example}: {finding.remedy}')
    contents = usable(contents, root)
    if not {'train', 'val'} <= contents.keys():
        whole = contents.get('train', contents.get('all'))
        if whole is None:
            raise InputError(
                f'{asked["data"]}: there is nothing to train on, only {", ".join(contents)}: add '
                'pictures to train on, or give the file of those that are to be split'
            )
        contents = split(whole, val_share=asked['val_share'], seed=asked['seed'], root=root)
    files = {}
    for name in ('train', 'val'):
        files[name] = folder.resolve() / 'annotations' / f'{name}.json'
        write_whole(files[name], json.dumps(contents[name]))
        say(name, described(statistics(contents[name])))
    return files, root, statistics(contents['train'])


def described(found: Statistics) -> str:
    """Pictures, instances and classes in a line."""
    counts = zip(found.classes, found.per_class, strict=True)
    names = ', '.join(f'{name} {count}' for name, count in counts)
    return f'{len(found.sizes)} pictures, {len(found.labels)} instances: {names}'


def seconds_of_epoch(text: str, settings: Settings) -> float:
    """What an epoch of a config's text takes on this machine: some iterations are timed.

    The model is one of its own, with random weights.
    """
    config = Config.fromstring(text, '.py')
    init_default_scope(config.default_scope)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = MODELS.build(config.model).to(device)
    with quiet():
        dataset = DATASETS.build(config.train_dataloader.dataset)
    seconds = []
    for index in range(TRIED):
        begun = time.perf_counter()
        chosen = range(index * settings.batch_size, (index + 1) * settings.batch_size)
        samples = pseudo_collate([dataset[number % len(dataset)] for number in chosen])
        losses = model(**model.data_preprocessor(samples, training=True), mode='loss')
        sum(losses.values()).backward()
        seconds.append(time.perf_counter() - begun)
    return averages.median(seconds[1:]) * settings.iterations


# The training and what follows it


class FitRunner(CheckedRunner):
    """A runner whose console begins with the training: what is before it is in the log file."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """The logger, whose console waits for the first iteration."""
        logger = super().build_logger(*args, **kwargs)
        self.console = [one for one in logger.handlers if type(one) is logging.StreamHandler]
        self.talk(logging.ERROR)
        return logger

    def talk(self, level: int) -> None:
        """Let the console have messages from a level on."""
        for handler in self.console:
            handler.setLevel(level)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Let the hooks do what is due; from the first epoch on the console is told."""
        if fn_name == 'before_train_epoch':
            self.talk(logging.INFO)
        super().call_hook(fn_name, **kwargs)


def train(file: Path, work_dir: Path, seed: int) -> Path:
    """Train a config, or go on, unless it is done: the best checkpoint, or else the last."""
    if not (work_dir / DONE).is_file():
        config = open_config(file, {'randomness.seed': seed})
        config.work_dir = str(work_dir)
        latest = latest_checkpoint(work_dir)
        if latest is not None:
            config.resume, config.load_from = True, latest
        runner = FitRunner.from_cfg(config)
        with quiet():
            build_loops(runner, 'train', 'val')
            require_same_training(runner)
            runner.train()
        write_whole(work_dir / DONE, '')
    best = sorted(work_dir.glob('best_*.pth'), key=os.path.getmtime)
    return best[-1] if best else Path(trained_checkpoint(work_dir))


def evaluate(file: Path, checkpoint: Path, work_dir: Path) -> dict[str, float]:
    """The figures of a checkpoint on the validation pictures."""
    config = open_config(file, {'load_from': str(checkpoint), 'work_dir': str(work_dir)})
    runner = FitRunner.from_cfg(config)
    with quiet():
        build_loops(runner, 'test')
        return runner.test()


def draw(file: Path, checkpoint: Path, folder: Path) -> None:
    """Overlays of the first validation pictures."""
    config = open_config(file)
    with quiet():
        dataset = DATASETS.build({**config.val_dataloader.dataset, 'indices': OVERLAYS})
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        inferencer = SOLOv2Inferencer(config, checkpoint)
        inferencer([info['img_path'] for info in infos], out_dir=folder)
    say('look', f'{folder / "vis"}: {len(infos)} validation pictures with what was found')


def show(file: Path, checkpoint: Path, page: Path) -> None:
    """The report of a checkpoint on the validation pictures, where what it needs is installed."""
    if importlib.util.find_spec('hotcoco') is None:
        say('report', "none: pip install 'mmsolov2[report]', and call this once more")
        return
    with quiet():
        report(file, checkpoint, page)
    say('report', f'{page}: open it in a browser')
