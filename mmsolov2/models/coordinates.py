"""The coordinate channels of CoordConv, shared by the kernel branch and the mask features."""

import torch
from torch import Tensor


def append_coordinates(features: Tensor) -> Tensor:
    """Append x and y, each in [-1, 1], to features (B, C, h, w): (B, C + 2, h, w).

    The first column is at x = -1 and the last at x = 1, whatever the size (SOLOv2, section 3.1;
    CoordConv, Liu et al., NeurIPS 2018).
    """
    height, width = features.shape[-2:]
    like = dict(dtype=features.dtype, device=features.device)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, **like),
        torch.linspace(-1, 1, width, **like),
        indexing='ij',
    )
    coordinates = torch.stack([x, y]).expand(len(features), -1, -1, -1)
    return torch.cat([features, coordinates], dim=1)
