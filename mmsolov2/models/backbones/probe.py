"""What a backbone gives, asked with tensors without values: nothing is computed."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmsolov2.structures.masks import MASK_STRIDE

SIDE = 224  # pixels: what most models were published for, and all strides from 2 to 32 divide it

NO_PYRAMID = (
    'the finest level must be at stride 4: let backbone.out_indices and the neck begin there; a '
    'plain vision transformer has one stride: take a backbone with maps at strides 4, 8, 16 and '
    '32, as ConvNeXt, Swin or PVT'
)


def meta_twin(net: nn.Module) -> nn.Module:
    """A copy of a network on torch's meta device, in eval mode; its weights take no memory."""
    known: dict[int, Tensor] = {
        id(one): nn.Parameter(one.detach().to('meta'), requires_grad=one.is_floating_point())
        for one in net.parameters()
    }
    known |= {id(one): one.detach().to('meta') for one in net.buffers()}
    twin = copy.deepcopy(net, known)
    twin.eval()  # of mmdet's ResNet it returns nothing
    return twin


def probe_images(channels: int) -> Tensor:
    """An image (1, channels, SIDE, SIDE) without values."""
    return torch.empty(1, channels, SIDE, SIDE, device='meta')


def stride_of(features: Tensor) -> int:
    """The stride of a map (1, C, h, w) of the probe's image."""
    return SIDE // max(features.shape[-1], 1)


def needed_by(maps: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[bool]:
    """Whether any of some maps depends on each of the parameters (n)."""
    if not maps:
        return [False] * len(parameters)
    gradients = torch.autograd.grad(
        [one.sum() for one in maps], parameters, retain_graph=True, allow_unused=True
    )
    return [gradient is not None for gradient in gradients]


def input_channels(backbone: nn.Module) -> int:
    """The channels of a backbone's images: what it says, or those of its first convolution."""
    first = next((one for one in backbone.modules() if isinstance(one, nn.Conv2d)), None)
    return getattr(backbone, 'in_channels', getattr(first, 'in_channels', 3))


def run_twin(part: nn.Module, inputs: object) -> Any:
    """What a part makes of tensors without values, or None, and a line of the log, if it cannot."""
    try:
        return meta_twin(part)(inputs)
    except Exception as error:  # noqa: BLE001  (it is any code of others)
        reason = str(error).partition('\n')[0]
        print_log(
            f'{type(part).__name__} is not checked before the first iteration, as it cannot run on '
            f'tensors without values ({type(error).__name__}: {reason})',
            logger='current',
        )
        return None


@torch.no_grad()
def check_backbone(backbone: nn.Module, neck: nn.Module, mask_neck: nn.Module) -> None:
    """Raise ValueError unless a neck takes a backbone's maps, and mask features are at stride 4.

    Parts that cannot run on tensors without values are left to the first iteration.
    """
    maps = run_twin(backbone, probe_images(input_channels(backbone)))
    if not isinstance(maps, list | tuple):
        return
    channels, strides = [one.shape[1] for one in maps], [stride_of(one) for one in maps]
    given = f'{type(backbone).__name__} gives maps of {channels} channels at strides {strides}'
    expected = getattr(neck, 'in_channels', None)
    if not isinstance(expected, list | tuple) or list(expected) == channels:
        check_finest_level(tuple(maps), neck, mask_neck, given)
    elif min(strides) != MASK_STRIDE:
        raise ValueError(f'SOLOv2: {given}; {NO_PYRAMID}')
    else:
        raise ValueError(
            f'SOLOv2: neck.in_channels is {list(expected)}, but {given}: set '
            f'neck.in_channels={channels}'
        )


def check_finest_level(
    maps: tuple[Tensor, ...], neck: nn.Module, mask_neck: nn.Module, given: str
) -> None:
    """Raise ValueError unless the mask features of maps, told of in ``given``, are at stride 4."""
    levels = run_twin(neck, maps)
    features = None if levels is None else run_twin(mask_neck, levels)
    if features is None:
        return
    finest = stride_of(features if isinstance(features, Tensor) else features[0])
    if finest != MASK_STRIDE:
        raise ValueError(f'SOLOv2: {given}, and mask features are at {finest}; {NO_PYRAMID}')
