"""Checkpoints of other SOLOv2 code, converted: new names, and the settings that they need."""

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from mmengine.registry import init_default_scope
from torch import Tensor

from mmsolov2.cli.config import open_config
from mmsolov2.converters.formats import (
    ADELAIDET,
    DROPPED,
    Convention,
    convention_of,
    recognise,
    rename_all,
    version_of,
)
from mmsolov2.converters.settings import config_lines, describe, model_settings, nearest_config
from mmsolov2.errors import InputError
from mmsolov2.models.dynamic_conv import with_balanced_taps
from mmsolov2.models.state_dicts import class_names, mismatches, some_of, state_dict_of
from mmsolov2.registry import MODELS


class Conversion(NamedTuple):
    """A converted checkpoint, and what was found out about it."""

    source: str  # the format
    weights: dict[str, Tensor]
    convention: Convention
    settings: dict  # of the model's config, as far as the file tells
    config: str  # the nearest one that mmsolov2 ships
    overrides: dict  # settings that this one has otherwise
    added: int  # counters of BatchNorm
    dropped: list[str]
    classes: tuple[str, ...] | None


def convert(checkpoint: Mapping) -> Conversion:
    """Convert a checkpoint of another SOLOv2: every entry, with nothing missing.

    The formats are those of MMDetection 2.x and 3.x, of WXinlong/SOLO and of AdelaiDet. The
    tensors are the checkpoint's own, in a new dict, but for those of kernels larger than 1x1
    (``dynamic_conv.with_balanced_taps``). The names of AdelaiDet's backbone are
    detectron2's, those of its deformable blocks too.

    Raises:
        InputError: if it is none of these, or any of its entries has no place.
    """
    entries = state_dict_of(checkpoint)
    state_dict = {name: value for name, value in entries.items() if name not in DROPPED}
    source = recognise(state_dict)
    weights = rename_all(state_dict, source)
    complete = with_counters(weights)
    convention = convention_of(source, entries)
    settings = model_settings(complete, convention)
    if source is ADELAIDET and settings['backbone']['type'] != 'ResNet':
        raise InputError(
            "AdelaiDet's SOLOv2 with a ResNeXt: detectron2 trains these with other strides and "
            'scaling than ResNets, which the file does not tell; only ResNets are converted'
        )
    complete = for_balanced_taps(complete, settings['mask_head']['kernel_size'])
    config, overrides = nearest_config(settings)
    require_complete(complete, config, overrides)
    meta = checkpoint.get('meta')
    names = class_names(meta)
    return Conversion(
        source=version_of(source, meta),
        weights=complete,
        convention=convention,
        settings=settings,
        config=config,
        overrides=overrides,
        added=len(complete) - len(weights),
        dropped=sorted(entries.keys() - state_dict.keys()),
        classes=names if len(names) == settings['mask_head']['num_classes'] else None,
    )


def with_counters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the batch counters that detectron2's BatchNorm lacks, at 0."""
    counters = (
        name.replace('running_var', 'num_batches_tracked')
        for name in weights
        if name.endswith('.running_var')
    )
    return {**{name: torch.tensor(0) for name in counters}, **weights}


def for_balanced_taps(weights: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Weights that give the same kernels of side ``size`` although our head divides outer taps."""
    if size == 1:
        return weights
    names = [name for name in weights if name.startswith('mask_head.conv_kernel.')]
    ones = torch.ones(1, len(weights[names[0]]), 1, 1)
    share = with_balanced_taps(ones, size).flatten()
    scaled = {name: (weights[name].movedim(0, -1) / share).movedim(-1, 0) for name in names}
    return weights | {name: value.to(weights[name].dtype) for name, value in scaled.items()}


def require_complete(weights: Mapping[str, Tensor], name: str, overrides: Mapping) -> None:
    """Raise InputError unless weights are all that a config's model has, in the same shapes."""
    config = open_config(name)
    config.merge_from_dict(dict(model=copy.deepcopy(overrides)))
    init_default_scope('mmdet')
    try:
        model = MODELS.build(config.model)
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(f'mmsolov2 has no such model: {error}; {overrides}') from error
    _, wrong = mismatches(model, weights)
    if wrong:
        raise InputError(
            f'{len(wrong)} entries do not fit the model that the others describe: {some_of(wrong)}'
            '. The file is incomplete or half converted; convert the file as it was published'
        )


def to_checkpoint(conversion: Conversion) -> dict:
    """A checkpoint that mmengine loads; its ``meta`` has plain types alone."""
    classes = conversion.classes
    meta = dict(
        source_format=conversion.source,
        color_order=conversion.convention.order,
        mean=conversion.convention.mean,
        std=conversion.convention.std,
        backbone_style=conversion.convention.style,
        config=conversion.config,
        config_overrides=conversion.overrides,
        **({} if classes is None else dict(dataset_meta=dict(classes=classes))),
    )
    return dict(meta=meta, state_dict=conversion.weights)


def report(conversion: Conversion) -> str:
    """What was found and done, and the config to use, in a few lines."""
    convention = conversion.convention
    lines = [
        f'format: {conversion.source}',
        f'model: {describe(conversion.settings)}',
        'input: {}, mean {}, std {}; backbone style {!r}'.format(*convention),
        (
            f'entries: {len(conversion.weights)}, of which {conversion.added} are new counters of '
            f'BatchNorm; left out: {", ".join(conversion.dropped) or "none"}'
        ),
    ]
    if conversion.overrides:
        text = config_lines(conversion.config, conversion.overrides)
        return '\n'.join([*lines, 'config: none that is shipped fits; this one does:', text])
    return '\n'.join([*lines, f'config: {conversion.config}'])
