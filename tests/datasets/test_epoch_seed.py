"""Random numbers of a data loader's workers follow the epoch, not what was drawn before."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from torch.utils.data import DataLoader, Dataset

from mmsolov2.datasets.epoch_seed import EpochSeed, seed_everything
from mmsolov2.engine import EpochSeedHook


class Draws(BaseDataset):
    """Four samples; each draws from Python, NumPy and torch."""

    def __init__(self) -> None:
        self.epoch_seed = EpochSeed()
        super().__init__()

    def load_data_list(self) -> list[dict]:
        return [{} for _ in range(4)]

    def __getitem__(self, index: int) -> tuple[float, float, float]:
        self.epoch_seed.take()
        return random.random(), np.random.rand(), torch.rand(()).item()


def epochs(dataset: Dataset, which: range, *, num_workers: int, seed: int = 0) -> list:
    """What is drawn in some epochs of a run that starts with the first of them."""
    loader = DataLoader(
        dataset,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=lambda number: seed_everything(7, number),
    )
    drawn = []
    for epoch in which:
        runner = SimpleNamespace(seed=seed, epoch=epoch, train_dataloader=loader)
        EpochSeedHook().before_train_epoch(runner)
        drawn.append([tuple(float(number) for number in sample) for sample in loader])
    return drawn


@pytest.mark.parametrize('num_workers', [0, 1, 2])
def test_later_epochs_need_no_earlier_ones(num_workers):
    whole = epochs(Draws(), range(3), num_workers=num_workers)
    assert epochs(Draws(), range(1, 3), num_workers=num_workers) == whole[1:]
    different = {number for epoch in whole for sample in epoch for number in sample}
    assert len(different) == 3 * 4 * 3  # no number twice: not in an epoch, nor between workers


def test_another_seed_draws_others():
    first, second = (epochs(Draws(), range(1), num_workers=1, seed=seed) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    'wrap',
    [lambda data: RepeatDataset(data, times=2), lambda data: ConcatDataset([Draws(), data])],
    ids=['repeated', 'joined'],
)
def test_wrapped_data(wrap):
    whole = epochs(wrap(Draws()), range(2), num_workers=1)
    assert epochs(wrap(Draws()), range(1, 2), num_workers=1) == whole[1:]
    assert len(set(whole[0])) == len(whole[0]) == 8  # joined data draw differently


def test_a_repeated_sample_is_drawn_anew():
    [drawn] = epochs(RepeatDataset(Draws(), times=2), range(1), num_workers=1)
    assert len(set(drawn)) == 8


def test_ranks_draw_differently(monkeypatch):
    monkeypatch.setattr('mmsolov2.engine.hooks.get_rank', lambda: 1)
    other = epochs(Draws(), range(1), num_workers=1)
    monkeypatch.undo()
    assert epochs(Draws(), range(1), num_workers=1) != other


def test_data_without_a_seed_of_their_own_are_left_alone():
    assert epochs([(1,), (2,)], range(1), num_workers=0) == [[(1,), (2,)]]


def test_without_the_hook_nothing_is_seeded():
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    EpochSeed().take()
    assert torch.rand(()) == expected
