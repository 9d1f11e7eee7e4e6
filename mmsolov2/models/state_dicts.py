"""State dicts: found in a checkpoint, under this package's names, and compared with a model."""

from collections.abc import Mapping

import numpy as np
import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmsolov2.errors import InputError
from mmsolov2.models.position_terms import NUM_TERMS

FOREIGN = (  # what only other SOLOv2 code calls its parts
    'bbox_head.kernel_convs.',
    'bbox_head.solo_',
    'mask_feat_head.',
    'ins_head.',
    'mask_head.convs_all_levels.',
)


def unwrap_model(model: nn.Module) -> nn.Module:
    """A model without what several processes, or augmentation in tests, put around it."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule('module')
    return model


def weights_in(checkpoint: Mapping) -> list[Mapping]:
    """The state dicts in a checkpoint of mmengine, mmcv or detectron2, or else it itself."""
    inside = [checkpoint.get(key) for key in ('state_dict', 'model', 'ema_state_dict')]
    return [part for part in inside if isinstance(part, Mapping)] or [checkpoint]


def class_names(meta: object) -> tuple[str, ...]:
    """The names of classes in a checkpoint's meta, of mmengine or of mmcv; none if it has none."""
    stored = (meta.get('dataset_meta') or meta) if isinstance(meta, Mapping) else None
    if not isinstance(stored, Mapping):
        return ()
    names = stored.get('classes') or stored.get('CLASSES')
    names = [names] if isinstance(names, str) else names
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def some_of(names: list[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def is_plain(value: object) -> bool:
    """Whether a value is an array, or a tensor with its values at places of a memory."""
    if isinstance(value, Tensor):
        return value.layout == torch.strided and not (value.is_quantized or value.is_nested)
    return isinstance(value, np.ndarray) and value.dtype.kind in 'biuf'


def state_dict_of(checkpoint: Mapping) -> dict:
    """The entries of a checkpoint of mmengine, mmcv or detectron2, without a wrapper's prefix.

    Raises:
        InputError: if one among the weights is no plain tensor, or none is.
    """
    entries = weights_in(checkpoint)[0]
    strange = [name for name, value in entries.items() if not is_plain(value)]
    if strange and (entries is not checkpoint or len(strange) == len(entries)):
        raise InputError(
            f'{len(strange)} entries are no tensors, {strange[0]} first, of type '
            f'{type(entries[strange[0]]).__name__}: take the file as it was published'
        )
    return {str(name).removeprefix('module.'): value for name, value in entries.items()}


def weights_for(model: nn.Module, checkpoint: Mapping) -> dict:
    """The state dict in a checkpoint, without a wrapper's prefix, under the model's names."""
    weights = state_dict_of(checkpoint)
    return with_mask_neck(weights) if hasattr(model, 'mask_neck') else weights


def read_matching(model: nn.Module, filename: str) -> tuple[dict, dict]:
    """Weights and meta of a checkpoint that holds every entry of a model, and no other.

    Raises:
        InputError: if the checkpoint cannot be read or is of another model.
    """
    checkpoint = CheckpointLoader.load_checkpoint(filename, 'cpu', logger='silent')
    weights = weights_for(model, checkpoint)
    try:
        require_match(model, weights, strict=True)
    except InputError as error:
        raise InputError(f'{filename}: {error}') from error
    return weights, checkpoint.get('meta') or {}


def with_mask_neck(weights: Mapping, prefix: str = '') -> dict:
    """A state dict with mmdet's name of the mask features changed to ours.

    Raises:
        InputError: if it is of other SOLOv2 code, or was converted by half.
    """
    theirs, ours = f'{prefix}mask_head.mask_feature_head.', f'{prefix}mask_neck.'
    foreign = [name for name in weights if name.removeprefix(prefix).startswith(FOREIGN)]
    if any(name.startswith(ours) for name in weights):
        foreign += [name for name in weights if name.startswith(theirs)]
    if foreign:
        raise InputError(
            f'the checkpoint has {len(foreign)} entries of other SOLOv2 code, {foreign[0]} first: '
            'convert the file as it was published, tools/convert_checkpoint.py IN OUT'
        )
    return {
        ours + name.removeprefix(theirs) if name.startswith(theirs) else name: value
        for name, value in weights.items()
    }


def mismatches(model: nn.Module, state_dict: Mapping, prefix: str = '') -> tuple[int, list[str]]:
    """Count entries of a state dict that fit a model by name and shape; name all that do not.

    The names are those of the model that the state dict lacks or has in another shape, then those
    that the model does not know.
    """
    ours = {f'{prefix}{name}': tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {
        name: tuple(value.shape) if hasattr(value, 'shape') else 'no tensor'
        for name, value in state_dict.items()
        if name.startswith(prefix)
    }
    matched = sum(theirs.get(name) == shape for name, shape in ours.items())
    wrong = [f'{name} (missing)' for name in ours if name not in theirs and not _counter(name)]
    wrong += [
        f'{name} (is {theirs[name]}, needs {shape})'
        for name, shape in ours.items()
        if theirs.get(name, shape) != shape
    ]
    return matched, wrong + [f'{name} (unknown)' for name in theirs if name not in ours]


def _counter(name: str) -> bool:
    """Whether an entry only counts batches: older checkpoints lack it, and nothing needs it."""
    return name.endswith('num_batches_tracked')


def _other_terms(model: nn.Module, state_dict: Mapping, prefix: str) -> str:
    """What to know where kernels have another number of position terms than the model's; or ''."""
    name = 'mask_head.conv_kernel.bias'
    ours, theirs = model.state_dict().get(name), state_dict.get(f'{prefix}{name}')
    if ours is None or theirs is None:
        return ''
    kinds = {count: kind for kind, count in NUM_TERMS.items()}
    own: int = getattr(model.get_submodule('mask_head'), 'num_terms', 0)
    other = len(theirs) - len(ours) + own
    if other == own or other not in kinds:
        return ''
    return (
        f'It has mask_head.position_terms={kinds[other]!r}, the model {kinds[own]!r}: to train on, '
        'load_from takes all but conv_kernel. '
    )


def require_match(
    model: nn.Module, state_dict: Mapping, prefix: str = '', *, strict: bool = False
) -> None:
    """Raise InputError unless half of a model's entries, ``strict`` all, are in the state dict."""
    matched, wrong = mismatches(model, state_dict, prefix)
    total = len(model.state_dict())
    if not wrong or (matched >= total / 2 and not strict):
        return
    raise InputError(
        f'the checkpoint is of another model: {matched} of the {total} entries of '
        f'{type(model).__name__} match; the first that do not: {some_of(wrong)}. '
        f'{_other_terms(model, state_dict, prefix)}Use the config '
        'that the checkpoint was trained with. To start from the backbone of another model, use '
        "backbone.init_cfg=dict(type='Pretrained', checkpoint=..., "
        "prefix='backbone.')"
    )
