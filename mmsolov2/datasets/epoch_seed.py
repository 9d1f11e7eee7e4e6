"""Random augmentation that starts anew each epoch, so that a resumed run repeats none of it."""

import random

import numpy as np
import torch
from torch.utils.data import get_worker_info


def seed_everything(*numbers: int) -> int:
    """Seed Python, NumPy and torch with numbers of at least 0: the one seed made of them."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    return seed


class EpochSeed:
    """A seed that the main process sets and the workers of a data loader take over.

    It lies in shared memory, because persistent workers hold their own copy of the dataset.
    """

    def __init__(self) -> None:
        self._shared = torch.full((), -1, dtype=torch.int64).share_memory_()
        self._taken = -1

    def set(self, seed: int) -> None:
        """Set the seed of the epoch to come, of at least 0."""
        self._shared.fill_(seed)

    def take(self) -> None:
        """In a worker: seed the random generators, once for each seed that was set."""
        worker, seed = get_worker_info(), int(self._shared)
        if worker is not None and seed != self._taken:
            seed_everything(seed, worker.id)
            self._taken = seed
