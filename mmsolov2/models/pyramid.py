"""Sizes of pyramid levels: what the head and the mask features do before they convolve."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resize(features: Tensor, size: Sequence[int]) -> Tensor:
    """Resize features (B, C, h, w) to (B, C, *size), bilinearly; as they are if they fit."""
    if features.shape[-2:] == tuple(size):
        return features
    return F.interpolate(features, size=tuple(size), mode='bilinear', align_corners=False)


def to_head_strides(features: Sequence[Tensor]) -> list[Tensor]:
    """Halve the first pyramid level and bring the last to the size of the one before.

    Strides 4, 8, 16, 32, 64 become 8, 8, 16, 32, 32, as in SOLO and all published code.
    """
    first, *middle, last = features
    first = F.interpolate(first, scale_factor=0.5, mode='bilinear')
    return [first, *middle, resize(last, middle[-1].shape[-2:])]
