"""What is free on a machine."""

import math

import pytest
import torch

from mmsolov2 import device as module
from mmsolov2.device import available_memory, to_device

CPU = torch.device('cpu')


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 3000 KiB available, in a container that may take 1500 bytes more.

    Of the 2000 that it may have it has 900, 400 of them file cache.
    """
    (tmp_path / 'meminfo').write_text('MemTotal: 9000 kB\nMemAvailable:    3000 kB\n')
    (tmp_path / 'memory.max').write_text('2000\n')
    (tmp_path / 'memory.current').write_text('900\n')
    (tmp_path / 'memory.stat').write_text('anon 500\ninactive_file 400\n')
    monkeypatch.setattr(module, 'MEMORY', tmp_path / 'meminfo')
    monkeypatch.setattr(module, 'GROUP', tmp_path)
    return tmp_path


def test_the_container_limits(machine):
    assert available_memory(CPU) == 1500


def test_the_older_container_limits(machine):
    (machine / 'memory').mkdir()
    for old, new in (('max', 'limit_in_bytes'), ('current', 'usage_in_bytes'), ('stat', 'stat')):
        (machine / f'memory.{old}').rename(machine / 'memory' / f'memory.{new}')
    (machine / 'memory/memory.stat').write_text('inactive_file 7\ntotal_inactive_file 300\n')
    assert available_memory(CPU) == 1400


def test_the_machine_limits(machine):
    (machine / 'memory.max').write_text('max\n')
    assert available_memory(CPU) == 3000 * 1024


def test_what_cannot_be_known_is_no_limit(machine):
    for file in machine.iterdir():
        file.unlink()
    assert available_memory(CPU) == math.inf


def test_tensors_that_are_there_are_not_copied(device):
    values = torch.arange(3, device=device)
    assert to_device(values, values.device) is values


@pytest.mark.cuda
@pytest.mark.parametrize('count', [0, 3, 10**7])
def test_nobody_waits_for_what_is_sent_to_a_gpu(count):
    values = torch.arange(count)
    torch.cuda.set_sync_debug_mode('error')
    try:
        sent = to_device(values, torch.device('cuda'))
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert sent.device.type == 'cuda'
    assert torch.equal(sent.cpu(), values)


@pytest.mark.cuda
def test_what_is_free_on_a_gpu():
    """Of what torch keeps for itself, too."""
    gpu = torch.device('cuda')
    before = available_memory(gpu)
    assert 0 < before <= torch.cuda.mem_get_info()[1]
    taken = torch.zeros(2**28, dtype=torch.uint8, device=gpu)
    assert available_memory(gpu) <= before - 2**27
    del taken
    assert available_memory(gpu) > before - 2**27
