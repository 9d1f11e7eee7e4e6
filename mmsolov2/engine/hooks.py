"""Checks, seeds and measurements around training and testing."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from functools import partial
from statistics import median

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import CheckpointHook, Hook, RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmsolov2.datasets.epoch_seed import seed_everything
from mmsolov2.datasets.pipeline import mask_loaders, require_masks_kept
from mmsolov2.errors import InputError
from mmsolov2.fileio import latest_checkpoint
from mmsolov2.models.state_dicts import unwrap_model
from mmsolov2.registry import HOOKS

RUNNING = ('running_mean', 'running_var')  # what BatchNorm and its kin gather


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Stop before the first iteration if model, data and evaluator do not belong together.

    The model's classes are those of the training data, and in a test those that the checkpoint
    names: their places are its labels.

    Raises:
        InputError: if the head's ``num_classes`` is not the number of classes of a dataset; if a
            dataset has a class of the model in another place; if the evaluator's file lacks an
            image of its dataset or has another under its id; or if a step of the training data
            loses masks.
    """

    classes: Sequence[str] = ()  # of the model, as far as they are known
    checked: Dataset | None = None  # the validation data, once for all epochs

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take note of the classes that the weights were trained for."""
        meta = (checkpoint.get('meta') or {}).get('dataset_meta') or {}
        self.classes = meta.get('classes') or ()

    def before_train(self, runner: Runner) -> None:
        """Check the training data, and the validation data where there are any."""
        dataset = runner.train_dataloader.dataset
        self.classes = classes_of(next(base_datasets(dataset)))
        check_mixing(dataset)
        self._check(runner, dataset)
        if runner.val_loop is not None:
            self.before_val(runner)

    def before_val(self, runner: Runner) -> None:
        """Check the validation data, unless it is done."""
        dataset = runner.val_dataloader.dataset
        if dataset is not self.checked:
            self._check(runner, dataset, runner.val_evaluator)
            self.checked = dataset

    def before_test(self, runner: Runner) -> None:
        """Check the test data."""
        self._check(runner, runner.test_dataloader.dataset, runner.test_evaluator)

    def _check(self, runner: Runner, dataset: Dataset, evaluator: Evaluator | None = None) -> None:
        model = unwrap_model(runner.model)
        parts = model.roi_head if hasattr(model, 'roi_head') else model
        head = getattr(parts, 'bbox_head' if parts is not model else 'mask_head', None)
        check_classes(
            runner.cfg.filename or 'training', getattr(head, 'num_classes', None), dataset
        )
        check_order(self.classes, dataset)
        for metric in evaluator.metrics if evaluator is not None else ():
            check_metric(metric, dataset)


def base_datasets(dataset: Dataset) -> Iterator[Dataset]:
    """The datasets inside wrappers as RepeatDataset and ConcatDataset, or the dataset itself."""
    inside = parts_of(dataset)
    for part in inside:
        yield from base_datasets(part)
    if not inside:
        yield dataset


def parts_of(dataset: Dataset) -> list[Dataset]:
    """The datasets that a wrapper holds."""
    inside = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    return [part for part in inside if part is not None]


def classes_of(dataset: Dataset) -> tuple[str, ...]:
    """The names of the classes of a dataset that is no wrapper; none if it has none."""
    return tuple(getattr(dataset, 'metainfo', {}).get('classes') or ())


def file_of(dataset: Dataset) -> str:
    """What a message calls a dataset that is no wrapper: its annotation file, if it has one."""
    return getattr(dataset, 'ann_file', None) or type(dataset).__name__


def check_classes(config: str, num_classes: int | None, dataset: Dataset) -> None:
    """Raise InputError if the ``num_classes`` of a config's head is not that of a dataset."""
    for plain in base_datasets(dataset):
        classes = classes_of(plain)
        if None not in (num_classes, classes or None) and len(classes) != num_classes:
            raise InputError(
                f"{config}: the head's num_classes is {num_classes}, but the dataset "
                f'{file_of(plain)} has {len(classes)} classes {classes}: set '
                f'num_classes={len(classes)}, or metainfo=dict(classes=...) of the dataset'
            )


def check_order(classes: Sequence[str], dataset: Dataset) -> None:
    """Raise InputError if a dataset has a class of the model's in another place."""
    places = {name: place for place, name in enumerate(classes)}
    for plain in base_datasets(dataset):
        for label, name in enumerate(classes_of(plain)):
            if places.get(name, label) != label:
                raise InputError(
                    f'{file_of(plain)}: {name!r} is class {label} of this dataset, and class '
                    f'{places[name]} of the model: set metainfo=dict(classes={tuple(classes)}), '
                    'whatever the order of the file'
                )


def check_metric(metric: BaseMetric, dataset: Dataset) -> None:
    """Raise InputError if the file of a metric is not that of a dataset's images and classes."""
    if getattr(metric, 'ann_file', None) is None or not hasattr(metric, 'check_data'):
        return
    parts = list(base_datasets(dataset))
    infos = (
        plain.get_data_info(index)
        for plain in parts
        if isinstance(plain, Sized) and hasattr(plain, 'get_data_info')
        for index in range(len(plain))
    )
    same = len(parts) == 1 and getattr(parts[0], 'ann_file', None) == metric.ann_file
    metric.check_data(classes_of(parts[0]), () if same else infos)


def check_mixing(dataset: Dataset) -> None:
    """Raise InputError if a pipeline around datasets with masks moves images, but not masks."""
    own = getattr(dataset, 'pipeline', ())
    if any(mask_loaders(getattr(plain, 'pipeline', ())) for plain in base_datasets(dataset)):
        require_masks_kept(own, file_of(next(base_datasets(dataset))))
    for part in parts_of(dataset):
        check_mixing(part)


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed each epoch by the run's seed, the epoch and the rank.

    mmengine keeps no random state in a checkpoint, so a resumed run would repeat the first epoch's
    augmentation. With this hook it goes on as an uninterrupted one: same flips, same losses.
    Workers take the seed over if their dataset has an ``epoch_seed``, as CocoInstanceDataset.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed this process, and leave a seed for the workers of the training data."""
        seed = seed_everything(runner.seed, runner.epoch, get_rank())
        for number, dataset in enumerate(base_datasets(runner.train_dataloader.dataset)):
            if hasattr(dataset, 'epoch_seed'):
                dataset.epoch_seed.set(seed + number)  # joined datasets draw differently


@HOOKS.register_module()
class FiniteHook(Hook):
    """Stop a training that has diverged, before it saves weights that are not finite.

    Otherwise it would run on to its end, and ``max_keep_ckpts`` remove every good checkpoint.
    Several processes stop together: they compare every ``interval`` iterations, and before
    anything is saved. Gradients that overflow in mixed precision are left to its loss scaling.

    Raises:
        InputError: if the loss, a parameter or a running mean or variance is not finite, also of
            an averaged model.
    """

    priority = 'LOW'  # before CheckpointHook, after those that change weights, as EMAHook

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self.found: str | None = None

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Look at the loss, which mmengine has just fetched from the device for its log."""
        losses = losses_of(runner, outputs or {})
        if self.found is None and not all(map(math.isfinite, losses.values())):
            values = ', '.join(f'{name}: {value:.6g}' for name, value in losses.items())
            self.found = f'the loss is not finite in iteration {runner.iter + 1} ({values})'
        if saves_iteration(runner):
            self._check_weights(runner)
        elif get_world_size() == 1 or self.every_n_train_iters(runner, self.interval):
            self._stop_if_found(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Look at the weights before they are saved."""
        self._check_weights(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Look at the weights before they are saved as the best."""
        self._check_weights(runner)

    def _check_weights(self, runner: Runner) -> None:
        averaged = [hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model')]
        names = [
            name for model in (unwrap_model(runner.model), *averaged) for name in not_finite(model)
        ]
        if names and self.found is None:
            self.found = f'{len(names)} weights are not finite, {names[0]} first'
        self._stop_if_found(runner)

    def _stop_if_found(self, runner: Runner) -> None:
        found = torch.tensor(float(self.found is not None))
        all_reduce(found, op='max')
        if found:
            raise InputError(
                f'{runner.cfg.filename or "training"}: training has diverged: '
                f'{self.found or "another process has found a value that is not finite"}. Lower '
                'the learning rate, warm up for longer, clip gradients '
                '(optim_wrapper.clip_grad=dict(max_norm=35)), or check the data; the last '
                f'checkpoint before: {latest_checkpoint(runner.work_dir) or "none"}'
            )


def saves_iteration(runner: Runner) -> bool:
    """Whether a CheckpointHook that counts iterations is about to save the one just done."""
    return any(
        hook.every_n_train_iters(runner, hook.interval) or hook.is_last_train_iter(runner)
        for hook in runner.hooks
        if isinstance(hook, CheckpointHook) and not hook.by_epoch
    )


def losses_of(runner: Runner, outputs: Mapping) -> dict[str, float]:
    """The losses of an iteration, without waiting for the device where mmengine has done so."""
    has_log = any(isinstance(hook, RuntimeInfoHook) for hook in runner.hooks)
    log = runner.message_hub.log_scalars if has_log else {}
    return {
        name: log[f'train/{name}'].current()
        if f'train/{name}' in log
        else torch.as_tensor(value).item()
        for name, value in outputs.items()
        if 'loss' in name
    }


def not_finite(model: nn.Module) -> list[str]:
    """The names of a model's parameters, running means and variances that are NaN or infinite.

    Other buffers may be so by design, as a mask of attention.
    """
    running = (item for item in model.named_buffers() if item[0].endswith(RUNNING))
    return [
        name for name, value in (*model.named_parameters(), *running) if not value.isfinite().all()
    ]


@HOOKS.register_module()
class NMSTimeHook(Hook):
    """Measure the mask NMS of a test: ``nms/milliseconds`` and ``nms/candidates``, medians.

    The time is that of the whole call, overlaps included, an image at a time. Models whose
    ``mask_head`` has no ``nms`` are left alone.
    """

    def before_test(self, runner: Runner) -> None:
        """Put a stop-watch around the model's mask NMS."""
        model = unwrap_model(runner.model)
        self.calls: list[tuple[float, int]] = []  # milliseconds and candidates
        self.head = getattr(model, 'mask_head', model)
        self.nms = getattr(self.head, 'nms', None)
        if self.nms is not None:  # by the way of vars: a module's place refuses other callables
            vars(self.head)['nms'] = partial(self._timed, self.nms)

    def _timed(self, nms: Callable, scores: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        started = self._now(scores)
        rescored = nms(scores, labels, masks)
        self.calls.append((1000 * (self._now(rescored) - started), len(scores)))
        return rescored

    @staticmethod
    def _now(tensor: Tensor) -> float:
        """The time in seconds at which all work for a tensor is done."""
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)
        return time.perf_counter()

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
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
