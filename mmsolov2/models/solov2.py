"""The SOLOv2 detector: backbone, neck, mask neck and mask head."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

from mmsolov2.errors import InputError
from mmsolov2.models.backbones.probe import check_backbone
from mmsolov2.models.data_samples import check_count, check_ground_truth
from mmsolov2.models.solov2_head import SOLOv2Head, covered_size, input_size
from mmsolov2.models.state_dicts import mismatches, require_match, state_dict_of, with_mask_neck
from mmsolov2.models.views import MaskFeatures, Outputs, View, Views
from mmsolov2.registry import MODELS
from mmsolov2.structures.masks import MASK_STRIDE


def check_fit(neck: nn.Module, mask_neck: nn.Module, mask_head: SOLOv2Head) -> None:
    """Raise ValueError unless the parts of a SOLOv2 agree on channels and levels."""
    if mask_head.mask_channels != mask_neck.out_channels:
        raise ValueError(
            f'SOLOv2: mask_neck.out_channels is {mask_neck.out_channels}, but '
            f'mask_head.mask_channels is {mask_head.mask_channels}: leave the latter out'
        )
    width = getattr(neck, 'out_channels', None)
    for name, part in dict(mask_neck=mask_neck, mask_head=mask_head).items():
        channels = getattr(part, 'in_channels', width)
        if width is not None and channels != width:
            raise ValueError(
                f'SOLOv2: neck.out_channels is {width}, but {name}.in_channels is {channels}: '
                'give both the same value'
            )
    levels = len(mask_head.num_grids)
    num_outs = getattr(neck, 'num_outs', levels)
    if num_outs != levels:
        raise ValueError(
            f'SOLOv2: neck.num_outs is {num_outs}, but mask_head.num_grids has {levels} levels: '
            f'set num_outs={levels}'
        )
    if getattr(mask_neck, 'end_level', 0) >= levels:
        raise ValueError(
            f'SOLOv2: mask_neck.end_level is {mask_neck.end_level}, but the neck gives {levels} '
            f'levels, counted from 0: set end_level={levels - 1} or lower'
        )
    if getattr(mask_neck, 'num_levels', levels) != levels:
        raise ValueError(
            f'SOLOv2: mask_neck.num_levels is {mask_neck.num_levels}, but mask_head.num_grids has '
            f'{levels} levels: give both the same number'
        )


def check_stride(mask_features: MaskFeatures, size: Sequence[int]) -> None:
    """Raise InputError unless mask features are a quarter of images' size, rounded up."""
    found = input_size(mask_features)
    needed = covered_size(size)
    if found != needed:
        raise InputError(
            f'SOLOv2: the neck makes mask features of {found[0] // MASK_STRIDE}x'
            f'{found[1] // MASK_STRIDE} of images of {size[0]}x{size[1]}, but their first level '
            f'must be at stride {MASK_STRIDE}, {needed[0] // MASK_STRIDE}x'
            f'{needed[1] // MASK_STRIDE}: let backbone.out_indices and the neck begin at stride '
            f'{MASK_STRIDE}, and set data_preprocessor.pad_size_divisor=32'
        )


DTYPES = dict(bfloat16=torch.bfloat16, float16=torch.float16)


def checked_dtype(predict_dtype: str | None) -> torch.dtype | None:
    """The type that prediction computes in, None for that of the weights.

    Raises:
        ValueError: if there is none of this name.
    """
    if predict_dtype not in (None, *DTYPES):
        raise ValueError(
            f'SOLOv2: predict_dtype must be None or one of {sorted(DTYPES)}, not {predict_dtype!r}'
        )
    return DTYPES[predict_dtype] if predict_dtype else None


def checked_compile_options(compile: bool | dict | None) -> dict | None:
    """The arguments of ``torch.compile``, None to go without.

    Raises:
        ValueError: if it is neither a switch nor arguments.
    """
    if not isinstance(compile, bool | dict | None):
        raise ValueError(
            f"SOLOv2: compile must be True, False, None or a dict of torch.compile's arguments, "
            f'not {compile!r}'
        )
    return ({} if compile else None) if isinstance(compile, bool) else compile


@MODELS.register_module()
class SOLOv2(BaseDetector):
    """SOLOv2 (Wang et al., NeurIPS 2020) on any mmdet backbone and feature pyramid.

    Args:
        backbone: config of the backbone.
        neck: config of the feature pyramid, 5 levels by default.
        mask_neck: config of the mask features.
        mask_head: config of the head.
        train_cfg: as mmdet's configs have it; there are no settings of training.
        test_cfg: settings of prediction, see ``SOLOv2Head``.
        data_preprocessor: config of the data preprocessor.
        channels_last: keep weights and activations in channels-last memory.
        predict_dtype: 'bfloat16' or 'float16': autocast of prediction, dynamic convolution
            included; what follows that is float32. Training has mmengine's AmpOptimWrapper.
        tta: views that prediction averages, see ``Views``: dict(flip=True, scales=(0.8, 1.25)).
        compile: compile the network with ``torch.compile``: True, or its arguments. Losses and
            results are not compiled: their sizes depend on the data.

    Raises:
        ValueError: if the parts disagree on channels, levels or strides, predict_dtype is another
            type, or compile neither a switch nor arguments.
    """

    def __init__(
        self,
        *,
        backbone: dict,
        neck: dict,
        mask_neck: dict,
        mask_head: dict,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        channels_last: bool = False,
        predict_dtype: str | None = None,
        tta: dict | None = None,
        compile: bool | dict | None = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.channels_last = channels_last
        self.predict_dtype = checked_dtype(predict_dtype)
        self.views = Views(**(tta or {}))
        self.compile_options = checked_compile_options(compile)
        self._compiled: Callable[..., tuple] | None = None  # until the first images
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck)
        self.mask_neck = MODELS.build(mask_neck)
        self.mask_head = MODELS.build(
            {'mask_channels': self.mask_neck.out_channels, **mask_head, 'test_cfg': test_cfg}
        )
        check_fit(self.neck, self.mask_neck, self.mask_head)
        check_backbone(self.backbone, self.neck, self.mask_neck)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def extract_feat(self, batch_inputs: Tensor) -> Sequence[Tensor]:
        """Pyramid levels (B, C, h, w) of images (B, 3, H, W)."""
        if self.channels_last:
            batch_inputs = batch_inputs.contiguous(memory_format=torch.channels_last)
        return self.neck(self.backbone(batch_inputs))

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None) -> tuple:
        """Category logits, kernels, each one a level, and mask features (B, E, H/4, W/4)."""
        features = self.extract_feat(batch_inputs)
        return (*self.mask_head(features), self.mask_neck(features))

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_mask`` of images (B, 3, H, W).

        Raises:
            InputError: if the samples have no masks or labels, or do not fit the images.
        """
        divisor = getattr(self.data_preprocessor, 'pad_size_divisor', 1)
        check_ground_truth(batch_data_samples, batch_inputs, divisor)
        instances = [sample.gt_instances for sample in batch_data_samples]
        return self.mask_head.loss_by_feat(*self.network(batch_inputs), instances)

    def predict(self, batch_inputs: Tensor, batch_data_samples: list, rescale: bool = True) -> list:
        """The data samples of images (B, 3, H, W), with ``pred_instances`` added.

        Masks and boxes are at the original size, or with ``rescale=False`` at the network's.

        Raises:
            InputError: if the samples do not say of which size the images are, or are not as many.
        """
        check_count(batch_data_samples, batch_inputs)
        divisor = getattr(self.data_preprocessor, 'pad_size_divisor', 32)
        with self.precision(batch_inputs.device.type):
            views = [
                View(Outputs(*self.network(images)), is_mirrored)
                for images, is_mirrored in self.views(batch_inputs, divisor)
            ]
        metas = [sample.metainfo for sample in batch_data_samples]
        if len(views) == 1:
            results = self.mask_head.predict_by_feat(*views[0].outputs, metas, rescale=rescale)
        else:
            results = self.mask_head.predict_views(views, metas, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def precision(self, device: str) -> AbstractContextManager:
        """The autocast of prediction."""
        if self.predict_dtype is None:
            return nullcontext()
        if device == 'cpu' and self.predict_dtype == torch.float16:
            warnings.warn(
                "SOLOv2: predict_dtype='float16' takes minutes an image on CPUs without float16 "
                "arithmetic, as most are: set 'bfloat16', or None",
                stacklevel=2,
            )
        return torch.autocast(device, dtype=self.predict_dtype)

    def network(self, batch_inputs: Tensor) -> tuple:
        """What ``_forward`` gives, compiled if that is asked for.

        Raises:
            InputError: if the mask features are not a quarter of the images' size, rounded up.
        """
        forward: Callable[..., tuple] = self._forward
        if self.compile_options is not None:
            self._compiled = self._compiled or torch.compile(forward, **self.compile_options)
            forward = self._compiled
        outputs = forward(batch_inputs)
        check_stride(outputs[-1], batch_inputs.shape[-2:])
        return outputs

    def __getstate__(self) -> dict:
        """What copies and pickles take: all but the compiled network, which has these weights."""
        return {**self.__dict__, '_compiled': None}

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """Take mmdet's names for the mask features; refuse weights of which none fits."""
        renamed = with_mask_neck(state_dict if prefix else state_dict_of(state_dict), prefix)
        state_dict.clear()
        state_dict.update(renamed)
        if state_dict and not mismatches(self, state_dict, prefix)[0]:
            require_match(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
