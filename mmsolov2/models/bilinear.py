"""What ``F.interpolate`` makes of single pixels, and of tiles, when it resizes bilinearly."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsolov2.structures.masks import MASK_STRIDE

Source = Callable[[Tensor, Tensor], Tensor]  # of rows and columns (n,): values (n,)


class Axis(NamedTuple):
    """Where the pixels of a resized axis come from: weight · source[high] + the rest of low."""

    low: Tensor  # (target,) int64
    high: Tensor  # (target,) int64
    weight: Tensor  # (target,) float32

    @classmethod
    def resized(cls, source: int, target: int) -> 'Axis':
        """A bilinear resize, pixel centres at half pixels, as ``F.interpolate``."""
        scale = float(torch.tensor(source / target))  # rounded to float32, as in torch
        position = (scale * (torch.arange(target).double() + 0.5) - 0.5).float().clamp(min=0)
        low = position.long()
        return cls(low, (low + 1).clamp(max=source - 1), position - low)

    def blend(self, low: Tensor, high: Tensor, at: Tensor) -> Tensor:
        """The target's pixels ``at`` (n,), of the source's (n,): rounded as torch does on x86."""
        weight = self.weight[at]
        return (high * weight).addcmul_(low, 1 - weight)


def sample(source: Source, rows: Axis, columns: Axis, y: Tensor, x: Tensor) -> Tensor:
    """Pixels y, x (n,) of a picture resized by two axes, which read a source."""
    low, high = (
        columns.blend(source(row, columns.low[x]), source(row, columns.high[x]), x)
        for row in (rows.low[y], rows.high[y])
    )
    return rows.blend(low, high, y)


class TiledAxis(NamedTuple):
    """One axis of a mask's way to the image, cut into tiles of ``length`` final pixels."""

    up: Axis  # by the mask stride
    final: Axis  # of the image without padding to the final one
    length: int
    window: Tensor  # (tiles, reach) int64, what a tile reads of the mask's map
    weights: Tensor  # (tiles, length, reach) float32, both resizes in one product

    @classmethod
    @lru_cache(maxsize=32)
    def between(cls, size: int, image_size: int, final_size: int, tile: int) -> 'TiledAxis':
        """From a map of ``size`` by the stride, cut to ``image_size``, to ``final_size``.

        A tile is of ``tile`` pixels of the map.
        """
        up = Axis.resized(size, MASK_STRIDE * size)
        final = Axis.resized(image_size, final_size)
        length = max(tile * MASK_STRIDE * final_size // image_size, 1)
        begin = torch.arange(0, final_size, length)
        end = (begin + length).clamp(max=final_size) - 1
        first, last = up.low[final.low[begin]], up.high[final.high[end]]
        reach = torch.arange(int((last - first).amax()) + 1)
        window = first.clamp(max=size - len(reach))[:, None] + reach
        each = torch.eye(size)[None]  # what becomes of each pixel, resized twice
        each = F.interpolate(each, MASK_STRIDE * size, mode='linear')[..., :image_size]
        each = F.interpolate(each, final_size, mode='linear')[0].T
        weights = F.pad(each, (0, 0, 0, len(begin) * length - final_size))
        weights = weights.view(len(begin), length, size)
        weights = weights.gather(2, window[:, None].expand(-1, length, -1))
        return cls(up, final, length, window, weights)

    def reads(self, tile: int) -> slice:
        """The part of the map that a tile reads."""
        first, last = self.window[tile, [0, -1]].tolist()
        return slice(first, last + 1)


@torch.autocast('cpu', enabled=False)
def products(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """The product of three (batches of) float32 matrices, whatever rounding the user allows."""
    if rounds_products():
        return (left.double() @ middle.double() @ right.double()).float()
    return left @ middle @ right


def rounds_products() -> bool:
    """Whether the user lets a CPU round the factors of float32 products.

    torch refuses the older question once somebody has used the newer settings, which know both.
    """
    newer = getattr(torch.backends.mkldnn, 'matmul', None)  # from torch 2.9 on
    if newer is None:
        return torch.get_float32_matmul_precision() != 'highest'
    return newer.fp32_precision not in ('none', 'ieee')
