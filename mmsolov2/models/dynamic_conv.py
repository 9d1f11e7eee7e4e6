"""The dynamic convolution that training and prediction share: M = G * F."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsolov2.models.pyramid import resize


def dynamic_conv(features: Tensor, kernels: Tensor, size: int = 1) -> Tensor:
    """Convolve features (E, h, w) with n kernels (n, E·size²): mask logits (n, h, w).

    The borders are padded with zeros, so that every odd ``size`` keeps the mask size (SOLOv2,
    section 3.1, M_ij = G_ij * F).

    >>> features = torch.tensor([[[1.0, 2.0, 3.0]], [[0.0, 1.0, 0.0]]])
    >>> dynamic_conv(features, torch.tensor([[1.0, 0.0], [1.0, 10.0]])).tolist()
    [[[1.0, 2.0, 3.0]], [[1.0, 12.0, 3.0]]]
    """
    if size == 1:
        return (kernels @ features.flatten(1)).unflatten(1, features.shape[1:])
    if not len(kernels):  # conv2d refuses; this product leaves both inputs a (zero) gradient
        return kernels[:, :1, None] * features[:1]
    weight = kernels.view(-1, len(features), size, size)
    return F.conv2d(features[None], weight, padding=size // 2)[0]


def with_balanced_taps(kernels: Tensor, size: int) -> Tensor:
    """Kernels (B, E·size², S, S) as a branch predicts them, all taps but the centre over size².

    A mask logit is then near that of a 1x1 kernel plus a mean over the neighbours'. With taps of
    equal weight the products of all taps add up, and 3x3 kernels learn more slowly
    (docs/ablations.md). Kernels of size 1 stay as they are.
    """
    if size == 1:
        return kernels
    taps = kernels.new_full((size, size), 1 / size**2)
    taps[size // 2, size // 2] = 1
    return (kernels.unflatten(1, (-1, size, size)) * taps[..., None, None]).flatten(1, 3)


def dynamic_conv_rows(features: Tensor, kernels: Tensor, rows: slice, size: int = 1) -> Tensor:
    """Some rows of ``dynamic_conv``, without computing the others: mask logits (n, rows, w)."""
    halo = size // 2
    first = max(rows.start - halo, 0)
    logits = dynamic_conv(features[:, first : rows.stop + halo], kernels, size)
    return logits[:, rows.start - first : rows.stop - first]


def dynamic_conv_levels(
    features: Sequence[Tensor], kernels: Tensor, counts: Sequence[int], size: int = 1
) -> Tensor:
    """Convolve levels (E, h, w) with kernels (n, E·size²): mask logits (n, *size of the first).

    The first ``counts[0]`` kernels belong to the first level, and so on. Logits of later levels
    are resized, bilinearly.
    """
    final = features[0].shape[-2:]
    levels = zip(features, kernels.split(list(counts)), strict=True)
    logits = [dynamic_conv(level, part, size) for level, part in levels]
    return torch.cat([resize(level[:, None], final)[:, 0] for level in logits])
