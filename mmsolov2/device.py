"""Memory of CPUs and GPUs: what is free, and the way there."""

import math
from pathlib import Path

import torch
from torch import Tensor

from mmsolov2.errors import InputError

MEMORY, GROUP = Path('/proc/meminfo'), Path('/sys/fs/cgroup')
GROUP_FILES = (  # limit, what is used, and of that the file cache; versions 2 and 1
    ('memory.max', 'memory.current', ('memory.stat', 'inactive_file')),
    (
        'memory/memory.limit_in_bytes',
        'memory/memory.usage_in_bytes',
        ('memory/memory.stat', 'total_inactive_file'),
    ),
)
SURE_BYTES = 2**28  # that need no look at the memory


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; a GPU copies it when its turn comes, and nobody waits for that."""
    if device.type == 'cuda' and tensor.device.type == 'cpu':
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def check_memory(device: torch.device, needed: float, what: str, remedy: str) -> None:
    """Raise InputError if ``what`` needs more bytes than are free on a device."""
    if needed < SURE_BYTES:
        return
    free = available_memory(device)
    if needed > free:
        raise InputError(
            f'{what} take {needed / 1e9:.1f} GB, but {device} has {free / 1e9:.1f} GB left: '
            f'{remedy}'
        )


def available_memory(device: torch.device) -> float:
    """Bytes that can still be taken on a device; infinitely many if that cannot be known."""
    if device.type == 'cuda':
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != 'cpu':
        return math.inf
    return min(_free_of_machine(), _free_of_group())


def _free_of_machine() -> float:
    """Bytes that Linux could give to a new program."""
    try:
        fields = dict(line.split(':') for line in MEMORY.read_text().splitlines())
        return 1024 * int(fields['MemAvailable'].split()[0])
    except (OSError, KeyError, ValueError):
        return math.inf


def _free_of_group() -> float:
    """Bytes left of a container's limit, by version 2 or 1 of control groups.

    The cache of files that were read counts as used there, but makes room when it is asked to.
    """
    for limit, used, cached in GROUP_FILES:
        try:
            stat = dict(line.split() for line in (GROUP / cached[0]).read_text().splitlines())
            taken = int((GROUP / used).read_text()) - int(stat.get(cached[1], 0))
            return int((GROUP / limit).read_text()) - taken
        except (OSError, ValueError):  # not this version, no limit, or 'max'
            continue
    return math.inf
