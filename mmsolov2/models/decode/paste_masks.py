"""Masks at 1/4 scale to masks at image size: as it is defined, and the same in tiles."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsolov2.structures.masks import MASK_STRIDE

TILE = 16  # side of a tile in pixels of the mask features
BAND_PIXELS = 2**20  # image pixels made at a time
MARGIN = 2e-6  # how near the threshold a product is too inexact to decide

Maps = Callable[[slice, Tensor], Tensor]  # of rows and some masks (m,): values (m, rows, w)


def image_masks(
    masks: Tensor, threshold: float, image_size: Sequence[int], final_size: Sequence[int]
) -> Tensor:
    """Upsample masks (n, h, w) in [0, 1] and cut at the threshold: (n, *final_size) bool.

    First by the mask stride, cropped to ``image_size`` (h, w), the network input without its
    padding; then to ``final_size``. Bilinear both times, as in all published code.
    """
    full_size = [MASK_STRIDE * side for side in masks.shape[-2:]]
    bilinear = partial(F.interpolate, mode='bilinear', align_corners=False)
    masks = bilinear(masks[:, None], size=full_size)[..., : image_size[0], : image_size[1]]
    if tuple(final_size) != tuple(image_size):
        masks = bilinear(masks, size=tuple(final_size))
    return masks[:, 0] > threshold


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

    def resize(self, values: Tensor) -> Tensor:
        """Resize values (source, m) to (target, m)."""
        weight = self.weight[:, None]
        return values[self.high] * weight + values[self.low] * (1 - weight)


class Side(NamedTuple):
    """One axis of the way to the image, cut into tiles of ``length`` final pixels."""

    up: Axis  # by the mask stride
    final: Axis  # of the image without padding to the final one
    length: int
    window: Tensor  # (tiles, reach) int64, what a tile reads of the mask's map
    weights: Tensor  # (tiles, length, reach) float32, both resizes in one product

    @classmethod
    @lru_cache(maxsize=32)
    def between(cls, size: int, image_size: int, final_size: int) -> 'Side':
        """From a map of ``size`` by the stride, cut to ``image_size``, to ``final_size``."""
        up = Axis.resized(size, MASK_STRIDE * size)
        final = Axis.resized(image_size, final_size)
        length = max(TILE * MASK_STRIDE * final_size // image_size, 1)
        begin = torch.arange(0, final_size, length)
        end = (begin + length).clamp(max=final_size) - 1
        first, last = up.low[final.low[begin]], up.high[final.high[end]]
        reach = torch.arange(int((last - first).amax()) + 1)
        window = first.clamp(max=size - len(reach))[:, None] + reach
        matrix = final.resize(up.resize(torch.eye(size)))
        matrix = F.pad(matrix, (0, 0, 0, len(begin) * length - final_size))
        weights = matrix.view(len(begin), length, size)
        weights = weights.gather(2, window[:, None].expand(-1, length, -1))
        return cls(up, final, length, window, weights)


def occupied_tiles(inside: Tensor, rows: Side, columns: Side) -> Tensor:
    """Where masks can have pixels at image size: (n, tiles down, tiles across) bool.

    ``inside`` (n, h, w) says where their maps are above the threshold: values up to it stay so when
    they are interpolated.
    """
    occupied = inside.view(torch.uint8)
    windows = (slice(window[0], window[-1] + 1) for window in rows.window.tolist())
    down = torch.stack([occupied[:, window].amax(1) for window in windows], 1)
    return down[..., columns.window].amax(-1) > 0


def paint(
    images: Tensor, tiles: Tensor, read: Maps, threshold: float, rows: Side, columns: Side
) -> None:
    """Make in empty images what ``image_masks`` gives for n masks, in their occupied tiles.

    Images (n, tiles down, rows.length, tiles across, columns.length) bool may be padded.
    """
    pixels = rows.length * columns.length * len(columns.window)
    for row, window in enumerate(rows.window.tolist()):
        window = slice(window[0], window[-1] + 1)
        masks = tiles[:, row].any(1).nonzero()[:, 0]
        for some in masks.split(max(BAND_PIXELS // pixels, 1)) if len(masks) else ():
            mask, column = tiles[some, row].nonzero(as_tuple=True)
            inside = inside_of_tiles(
                mask, row, column, read(window, some), threshold, rows, columns
            )
            images[some[mask], row, :, column] = inside


def inside_of_tiles(
    mask: Tensor,
    row: int,
    column: Tensor,
    maps: Tensor,
    threshold: float,
    rows: Side,
    columns: Side,
) -> Tensor:
    """Tiles of a row, of masks (t,) at columns (t,), of rows of maps (m, reach, w): (t, …) bool.

    A tile is a product with the weights of both resizes; pixels too near the threshold are done
    again as they are defined. Those beyond the image's end are outside.
    """
    parts = maps[mask[:, None], :, columns.window[column]].mT
    values = products(rows.weights[row], parts, columns.weights[column].mT)
    inside = values > threshold
    distance = values.sub_(threshold).abs_()
    if distance.amin() < MARGIN:
        tile, y, x = (distance < MARGIN).nonzero(as_tuple=True)
        final_y = (row * rows.length + y).clamp(max=len(rows.final.low) - 1)
        final_x = (column[tile] * columns.length + x).clamp(max=len(columns.final.low) - 1)
        exact = sample(maps, int(rows.window[row, 0]), mask[tile], final_y, final_x, rows, columns)
        inside[tile, y, x] = exact > threshold
    return inside


def rounds_products() -> bool:
    """Whether the user lets a CPU round the factors of float32 products.

    torch refuses the older question once somebody has used the newer settings, which know both.
    """
    newer = getattr(torch.backends.mkldnn, 'matmul', None)  # from torch 2.9 on
    if newer is None:
        return torch.get_float32_matmul_precision() != 'highest'
    return newer.fp32_precision not in ('none', 'ieee')


def products(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """The product of three (batches of) matrices, whatever precision the user allows products."""
    with torch.autocast(middle.device.type, enabled=False):
        if rounds_products():
            return (left.double() @ middle.double() @ right.double()).float()
        return left @ middle @ right


def sample(
    maps: Tensor, first: int, mask: Tensor, y: Tensor, x: Tensor, rows: Side, columns: Side
) -> Tensor:
    """Pixels y, x (n,) of masks' final images (n,), rounded as ``image_masks`` does.

    ``maps`` (m, rows, w) are the masks' maps from row ``first`` on.
    """

    def resized(read, row_axis: Axis, column_axis: Axis, y: Tensor, x: Tensor) -> Tensor:

        def across(row: Tensor) -> Tensor:
            left, right = read(row, column_axis.low[x]), read(row, column_axis.high[x])
            return column_axis.blend(left, right, x)

        return row_axis.blend(across(row_axis.low[y]), across(row_axis.high[y]), y)

    def upsampled(y: Tensor, x: Tensor) -> Tensor:
        return resized(lambda y, x: maps[mask, y - first, x], rows.up, columns.up, y, x)

    return resized(upsampled, rows.final, columns.final, y, x)
