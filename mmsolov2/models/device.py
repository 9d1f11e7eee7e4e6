"""What is done otherwise on a CPU: there looking at values costs no wait, and caches are small."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MEMORY, GROUP = Path('/proc/meminfo'), Path('/sys/fs/cgroup')


def on_cpu(tensor: Tensor) -> bool:
    """Whether a tensor is on a CPU."""
    return tensor.device.type == 'cpu'


def zeros(shape: Sequence[int], dtype: torch.dtype, like: Tensor) -> Tensor:
    """Zeros where ``like`` is; on a CPU they take memory only where they are written to."""
    if on_cpu(like):
        return torch.from_numpy(np.zeros(shape, str(dtype).removeprefix('torch.')))
    return torch.zeros(shape, dtype=dtype, device=like.device)


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
    """Bytes left of the limit of a container, control groups version 2."""
    try:
        return int((GROUP / 'memory.max').read_text()) - int((GROUP / 'memory.current').read_text())
    except (OSError, ValueError):  # none, or 'max'
        return math.inf
