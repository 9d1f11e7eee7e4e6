"""Checks, seeds and measurements around training and testing."""

import time
from collections.abc import Iterator
from statistics import median

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmsolov2.datasets.epoch_seed import seed_everything
from mmsolov2.engine.launch import bare
from mmsolov2.errors import InputError
from mmsolov2.registry import HOOKS


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Stop before the first iteration if the head and a dataset disagree on the classes.

    Raises:
        InputError: if the head's ``num_classes`` is not the number of classes of the dataset.
    """

    def before_train(self, runner) -> None:
        """Check the training data, and the validation data where there are any."""
        self._check(runner, runner.train_dataloader)
        if runner.val_loop is not None:
            self._check(runner, runner.val_dataloader)

    def before_val(self, runner) -> None:
        """Check the validation data."""
        self._check(runner, runner.val_dataloader)

    def before_test(self, runner) -> None:
        """Check the test data."""
        self._check(runner, runner.test_dataloader)

    @staticmethod
    def _check(runner, loader: DataLoader) -> None:
        model = bare(runner.model)
        head = getattr(model, 'mask_head',
                       None) if not hasattr(model, 'roi_head') else (model.roi_head.bbox_head)
        num_classes = getattr(head, 'num_classes', None)
        classes = getattr(loader.dataset, 'metainfo', {}).get('classes')
        if None in (num_classes, classes) or len(classes) == num_classes:
            return
        dataset = next(innermost(loader.dataset))
        name = getattr(dataset, 'ann_file', type(dataset).__name__)
        raise InputError(
            f"{runner.cfg.filename}: the head's num_classes is {num_classes}, but the dataset "
            f'{name} has {len(classes)} classes {classes}: set '
            f'num_classes={len(classes)}, or metainfo=dict(classes=...) of the dataset'
        )


def innermost(dataset: Dataset) -> Iterator[Dataset]:
    """The datasets inside wrappers as RepeatDataset and ConcatDataset, or the dataset itself."""
    inside = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for part in inside:
        yield from [dataset] if part is None else innermost(part)


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed each epoch by the run's seed, the epoch and the rank.

    mmengine keeps no random state in a checkpoint, so a resumed run would repeat the first epoch's
    augmentation. With this hook it goes on as an uninterrupted one: same flips, same losses.
    Workers take the seed over if their dataset has an ``epoch_seed``, as CocoInstanceDataset.
    """

    def before_train_epoch(self, runner) -> None:
        """Seed this process, and leave a seed for the workers of the training data."""
        seed = seed_everything(runner.seed, runner.epoch, get_rank())
        for number, dataset in enumerate(innermost(runner.train_dataloader.dataset)):
            if hasattr(dataset, 'epoch_seed'):
                dataset.epoch_seed.set(seed + number)  # joined datasets draw differently


@HOOKS.register_module()
class NMSTimeHook(Hook):
    """Measure the mask NMS of a test: ``nms/milliseconds`` and ``nms/candidates``, medians.

    The time is that of the whole call, overlaps included, an image at a time. Models whose
    ``mask_head`` has no ``nms`` are left alone.
    """

    def before_test(self, runner) -> None:
        """Put a stop-watch around the model's mask NMS."""
        self.calls, self.head = [], getattr(bare(runner.model), 'mask_head', None)
        self.nms = getattr(self.head, 'nms', None)
        if self.nms is not None:  # by the way of vars: a module's place refuses other callables
            vars(self.head)['nms'] = self._timed

    def _timed(self, scores: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        started = self._now(scores)
        rescored = self.nms(scores, labels, masks)
        self.calls.append((1000 * (self._now(rescored) - started), len(scores)))
        return rescored

    @staticmethod
    def _now(tensor: Tensor) -> float:
        """The time in seconds at which all work for a tensor is done."""
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)
        return time.perf_counter()

    def after_test_epoch(self, runner, metrics: dict | None = None) -> None:
        """Add the medians to the figures, and take the stop-watch away."""
        if self.nms is not None:
            del vars(self.head)['nms']
            self.head.nms = self.nms
        if metrics is not None and self.calls:
            milliseconds, candidates = zip(*self.calls, strict=True)
            found = {'nms/milliseconds': median(milliseconds), 'nms/candidates': median(candidates)}
            metrics.update(found)
            for name, value in found.items():  # for the logger, which has the others already
                runner.message_hub.update_scalar(f'test/{name}', value)
