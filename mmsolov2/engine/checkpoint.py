"""Reading checkpoints: safely, and with errors that say what is wrong with the file."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import mmengine
import torch
from mmengine.runner import checkpoint as stock
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmsolov2.errors import InputError

ADDRESSES = ('http://', 'https://')
FOREIGN = (  # what only other SOLOv2 code calls its parts
    'bbox_head.kernel_convs.', 'bbox_head.solo_', 'mask_feat_head.', 'ins_head.',
    'mask_head.convs_all_levels.'
)
TORCH_MAGICS = (b'PK\x03\x04', b'\x80\x02\x8a\nl\xfc\x9c')  # torch's zip and its older format


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location=None) -> dict:
    """Load a checkpoint file with torch's safe loader: its dict.

    Takes the place of mmengine's loader of local files, which before torch 2.6 runs what a file
    says, and whose errors do not name the file.

    Raises:
        InputError: if the file is missing, truncated, no checkpoint, or holds unsafe types.
    """
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise InputError(f'{filename}: there is no such checkpoint; check the path')
    try:
        checkpoint = torch.load(filename, map_location=map_location, weights_only=True)
    except Exception as error:
        raise InputError(f'{filename}: {_reason(filename, error)}') from error
    if not isinstance(checkpoint, Mapping):
        raise InputError(
            f'{filename}: this file holds a value of type {type(checkpoint).__name__}, not a '
            'checkpoint: pass a file that holds a state dict'
        )
    return checkpoint


@CheckpointLoader.register_scheme(prefixes=ADDRESSES, force=True)
def load_from_http(address: str, map_location=None) -> dict:
    """Download a checkpoint into torch's cache and load it with its safe loader: its dict.

    Takes the place of mmengine's loader of addresses, which runs what a file says.

    Raises:
        InputError: as ``load_from_local``, or if it cannot be downloaded.
    """
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    filename = os.path.join(folder, os.path.basename(urlsplit(address).path))
    if not os.path.isfile(filename):
        os.makedirs(folder, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, filename)
        except OSError as error:
            raise InputError(f'{address}: it cannot be downloaded: {error}') from error
    return load_from_local(filename, map_location)


stock.load_from_http = load_from_http  # what mmengine's aliases, as open-mmlab://, call


@CheckpointLoader.register_scheme(prefixes=('torchvision://', 'modelzoo://'), force=True)
def load_from_torchvision(alias: str, map_location=None) -> dict:
    """Download weights by torchvision's name for them, as in ``torchvision://resnet50``.

    Takes the place of mmengine's loader, which wants torchvision installed even for the addresses
    that mmengine itself lists.

    Raises:
        InputError: as ``load_from_http``, or if the name is unknown.
    """
    name = alias.partition('://')[2]
    listed = mmengine.load(os.path.join(mmengine.__path__[0], 'hub', 'torchvision_0.12.json'))
    if name in listed:
        return load_from_http(listed[name], map_location)
    try:
        return stock.load_from_torchvision(alias, map_location)
    except (ImportError, KeyError) as error:
        raise InputError(
            f'{alias}: mmengine lists no such weights, only names as resnet18 and resnet50; the '
            f'names of newer weights need torchvision: pip install torchvision ({error!r})'
        ) from error


def latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint that training in a work folder goes on from, or None without one.

    It is the one that mmengine notes in ``last_checkpoint``, or else the newest in the folder: a
    run that is killed while it writes the note leaves it empty, and a folder may have been moved.
    Newest is the highest number, as copies may have any time.
    """
    folder = Path(work_dir)
    note = folder / 'last_checkpoint'
    noted = note.read_text().strip() if note.is_file() else ''
    if os.path.exists(noted) or '://' in noted:
        return noted
    found = []
    for kind in ('epoch', 'iter'):
        names = [re.fullmatch(rf'{kind}_(\d+)\.pth', path.name) for path in folder.glob('*.pth')]
        numbers = [int(name[1]) for name in names if name]
        found += [folder / f'{kind}_{max(numbers)}.pth'] if numbers else []
    return str(max(found, key=os.path.getmtime)) if found else None


def require_resumable(filename: str) -> None:
    """Raise InputError unless a checkpoint holds the progress of a training, not weights alone."""
    meta = CheckpointLoader.load_checkpoint(filename, 'cpu', logger='silent').get('meta')
    if not isinstance(meta, Mapping) or not {'epoch', 'iter'} <= meta.keys():
        raise InputError(
            f'{filename}: it holds weights alone, no training to go on with: leave --resume out, '
            f'and start from the weights with --cfg-options load_from={filename}'
        )


def _reason(filename: str, error: Exception) -> str:
    """What is wrong with a file that torch.load refused, and the remedy."""
    with open(filename, 'rb') as file:
        start = file.read(8)
    if not start:
        return 'the file is empty: take an earlier checkpoint or download it again'
    if not start.startswith(TORCH_MAGICS):
        return f'this is no checkpoint of torch, it begins with {start!r}: pass a .pth file'
    unsafe = re.search(r'GLOBAL (\S+)', str(error))
    if unsafe:
        return (
            f'the checkpoint holds {unsafe[1]}, which is not loaded because it could run code: '
            "save its weights alone, torch.save(dict(state_dict=model.state_dict()), 'new.pth')"
        )
    return 'the checkpoint is truncated or damaged: take an earlier one or download it again'


def state_dict_of(checkpoint: Mapping) -> dict:
    """The entries of a checkpoint of mmengine, mmcv or detectron2, without a wrapper's prefix.

    Raises:
        InputError: if one among the weights is no tensor, or none is.
    """
    inside = (checkpoint.get(key) for key in ('state_dict', 'model'))
    entries = next((each for each in inside if isinstance(each, Mapping)), checkpoint)
    strange = [name for name, value in entries.items() if not hasattr(value, 'shape')]
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
        for name, value in state_dict.items() if name.startswith(prefix)
    }
    matched = sum(theirs.get(name) == shape for name, shape in ours.items())
    wrong = [f'{name} (missing)' for name in ours if name not in theirs and not _counter(name)]
    wrong += [
        f'{name} (is {theirs[name]}, needs {shape})' for name, shape in ours.items()
        if theirs.get(name, shape) != shape
    ]
    return matched, wrong + [f'{name} (unknown)' for name in theirs if name not in ours]


def _counter(name: str) -> bool:
    """Whether an entry only counts batches: older checkpoints lack it, and nothing needs it."""
    return name.endswith('num_batches_tracked')


def require_match(
    model: nn.Module, state_dict: Mapping, prefix: str = '', *, strict: bool = False
) -> None:
    """Raise InputError unless half of a model's entries, ``strict`` all, are in the state dict."""
    matched, wrong = mismatches(model, state_dict, prefix)
    total = len(model.state_dict())
    if not wrong or (matched >= total / 2 and not strict):
        return
    more = f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''
    raise InputError(
        f'the checkpoint is of another model: {matched} of the {total} entries of '
        f'{type(model).__name__} match; the first that do not: {", ".join(wrong[:5])}{more}. '
        'Use the config that the checkpoint was trained with. To start from the backbone of '
        "another model, use backbone.init_cfg=dict(type='Pretrained', checkpoint=..., "
        "prefix='backbone.')"
    )
