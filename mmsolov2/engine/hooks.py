"""Checks around training and testing."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch.utils.data import DataLoader

from mmsolov2.errors import InputError
from mmsolov2.registry import HOOKS


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Stop before the first iteration if the head and a dataset disagree on the classes.

    Raises:
        InputError: if ``mask_head.num_classes`` is not the number of classes of the dataset.
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
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        num_classes = getattr(getattr(model, 'mask_head', None), 'num_classes', None)
        classes = getattr(loader.dataset, 'metainfo', {}).get('classes')
        if None in (num_classes, classes) or len(classes) == num_classes:
            return
        dataset = loader.dataset
        while hasattr(dataset, 'dataset'):  # RepeatDataset and others of its kind
            dataset = dataset.dataset
        name = getattr(dataset, 'ann_file', type(dataset).__name__)
        raise InputError(
            f'{runner.cfg.filename}: model.mask_head.num_classes is {num_classes}, but the dataset '
            f'{name} has {len(classes)} classes {classes}: set '
            f'num_classes={len(classes)}, or metainfo=dict(classes=...) of the dataset'
        )
