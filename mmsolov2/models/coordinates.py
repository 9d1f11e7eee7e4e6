"""The coordinate channels of CoordConv, shared by the kernel branch and the mask features."""

import torch
from torch import Tensor


def coordinates(features: Tensor) -> Tensor:
    """Coordinates x and y, each in [-1, 1], of features (B, C, h, w): (B, 2, h, w).

    The first column is at x = -1 and the last at x = 1, whatever the size (SOLOv2, section 3.1;
    CoordConv, Liu et al., NeurIPS 2018). In float32 at least: half precision's steps do not add up.

    >>> coordinates(torch.zeros(1, 8, 2, 3)).tolist()
    [[[[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]], [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]]]
    """
    height, width = features.shape[-2:]
    precise = torch.promote_types(features.dtype, torch.float32)
    y, x = (
        torch.linspace(-1, 1, side, dtype=precise, device=features.device)
        for side in (height, width)
    )
    return torch.stack(torch.meshgrid(x, y, indexing='xy')).expand(len(features), -1, -1, -1)


def append_coordinates(features: Tensor, xy: Tensor | None = None) -> Tensor:
    """Append ``coordinates``, or others (B, 2, h, w), to features (B, C, h, w): (B, C + 2, h, w).

    The type stays; under autocast all is float32, as in mmdet, until a convolution rounds it.
    """
    xy = coordinates(features) if xy is None else xy
    if not autocasts(features.device.type):
        xy = xy.to(features.dtype)
    return torch.cat([features, xy], dim=1)


def autocasts(device: str) -> bool:
    """Whether autocast is on for a kind of devices; some kinds have none."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
