"""What is free on a machine."""

import math

import pytest
import torch

from mmsolov2 import device

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
    monkeypatch.setattr(device, 'MEMORY', tmp_path / 'meminfo')
    monkeypatch.setattr(device, 'GROUP', tmp_path)
    return tmp_path


def test_the_container_limits(machine):
    assert device.available_memory(CPU) == 1500


def test_the_older_container_limits(machine):
    (machine / 'memory').mkdir()
    for old, new in (('max', 'limit_in_bytes'), ('current', 'usage_in_bytes'), ('stat', 'stat')):
        (machine / f'memory.{old}').rename(machine / 'memory' / f'memory.{new}')
    (machine / 'memory/memory.stat').write_text('inactive_file 7\ntotal_inactive_file 300\n')
    assert device.available_memory(CPU) == 1400


def test_the_machine_limits(machine):
    (machine / 'memory.max').write_text('max\n')
    assert device.available_memory(CPU) == 3000 * 1024


def test_what_cannot_be_known_is_no_limit(machine):
    for file in machine.iterdir():
        file.unlink()
    assert device.available_memory(CPU) == math.inf


def test_tensors_are_sent_to_gpus_from_pinned_memory(monkeypatch):
    values, calls = torch.arange(3), []
    assert device.to_device(values, CPU) is values
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda self: calls.append('pin') or self)
    monkeypatch.setattr(torch.Tensor, 'to', lambda self, *where, **how: calls.append((where, how)))
    device.to_device(values, torch.device('cuda'))
    assert calls == ['pin', ((torch.device('cuda'),), dict(non_blocking=True))]
