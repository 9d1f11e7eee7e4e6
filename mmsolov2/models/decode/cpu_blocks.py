"""What a CPU does in blocks that its caches hold: the same results as elsewhere, sooner.

The definitions stand where they are used, with ``in_blocks`` above them. The sizes of blocks are
those of the least time in ``tools/benchmark.py postprocess`` and ``nms``.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from mmengine.config import ConfigDict
from torch import Tensor

from mmsolov2.models.bilinear import TiledAxis, products, sample
from mmsolov2.structures.masks import Crop, encode_crop, span

if TYPE_CHECKING:
    from mmsolov2.models.decode.candidates import Candidates
    from mmsolov2.models.dynamic_conv import MaskLogits

LOGIT_STRIP = 2**20  # logits looked at together
STRIP_PIXELS = 2**13  # of a mask in a strip of logits, at most
MASK_STRIP = 2**19  # pixels of masks compared together
TILE = 16  # side of a tile in pixels of the mask features
BAND_PIXELS = 2**20  # image pixels made together
RLE_PIXELS = 2**27  # mask pixels made before they are encoded: 128 MiB of bool
LOGIT_MARGIN = 1e-3  # below the threshold's logit; no logit under it can be inside
PRODUCT_MARGIN = 2e-6  # how near the threshold a product is too inexact to decide

Function = TypeVar('Function', bound=Callable[..., Any])


def in_blocks(blocked: Callable[..., Any]) -> Callable[[Function], Function]:
    """Let another function take a function's place where its first argument is on a CPU."""

    def decorate(whole: Function) -> Function:
        @wraps(whole)
        def choose(first: Any, *args: Any) -> Any:
            return (blocked if first.device.type == 'cpu' else whole)(first, *args)

        return cast('Function', choose)

    return decorate


def mask_stats(logits: 'MaskLogits', threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """``candidates.mask_stats``: in strips of rows, in each only of masks with pixels there."""
    count, (height, width) = len(logits), logits.mask_size
    masks = torch.from_numpy(np.zeros((count, height, width), bool))  # no memory yet
    area, total = torch.zeros(2, count)
    lowest = torch.tensor(threshold).logit() - LOGIT_MARGIN
    step = max(min(LOGIT_STRIP // max(count, 1), STRIP_PIXELS) // width, 1)
    for first in range(0, height if count else 0, step):
        rows = slice(first, min(first + step, height))
        strip = logits.rows(rows)
        some = (strip.amax((1, 2)) > lowest).nonzero()[:, 0]
        probability = strip.index_select(0, some).sigmoid()
        inside = probability > threshold
        masks[some, rows] = inside
        inside = inside.float()
        area.index_add_(0, some, inside.sum((1, 2)))
        total.index_add_(0, some, inside.mul_(probability).sum((1, 2)))
    return masks, area, total


@torch.autocast('cpu', enabled=False)
def shared_pixels(masks: Tensor, labels: Tensor) -> Tensor:
    """``mask_nms.shared_pixels``: label by label, in each strip only of masks with pixels there."""
    shared = torch.zeros(len(masks), len(masks))
    order = labels.argsort(stable=True)
    for group in order.split(labels[order].unique_consecutive(return_counts=True)[1].tolist()):
        pixels = torch.zeros(len(group), len(group))
        same = masks.view(torch.uint8).index_select(0, group)
        used = same.amax(0).nonzero()[:, 0]
        first, last = used[[0, -1]].tolist() if len(used) else (0, 0)
        same = same[:, first : last + 1]
        for strip in same.split(max(MASK_STRIP // len(group), 1), dim=1):
            some = strip.amax(1).nonzero()[:, 0]
            part = strip.index_select(0, some).float()
            pixels[some[:, None], some] += part @ part.T
        shared[group[:, None], group] = pixels
    return shared


def paste(
    candidates: 'Candidates', image_size: Sequence[int], final_size: Sequence[int], cfg: ConfigDict
) -> tuple[Tensor, Tensor | list[dict]]:
    """``paste_masks.paste``: in tiles, of masks that can have pixels there."""
    sizes = zip(candidates.masks.shape[1:], image_size, final_size, strict=True)
    rows, columns = (TiledAxis.between(*side, TILE) for side in sizes)
    tiles = Tiles(rows, columns, cfg.mask_thr)
    occupied = tiles.occupied(candidates.masks)
    bitmaps = cfg.mask_format == 'bitmap'
    step = max(len(candidates) if bitmaps else RLE_PIXELS // math.prod(final_size), 1)
    boxes, rles = [], []
    for first in range(0, max(len(candidates), 1), step):
        some = slice(first, first + step)
        images = tiles.paste(candidates[some], occupied[some])
        crops = tiles.crops(images, occupied[some])
        boxes += [crop.box() for crop in crops]
        rles += [] if bitmaps else [encode_crop(crop, *final_size) for crop in crops]
    return torch.tensor(boxes).float().view(-1, 4), images if bitmaps else rles


class Tiles(NamedTuple):
    """The tiles of images: both resizes of a mask in one product, where it has pixels."""

    rows: TiledAxis
    columns: TiledAxis
    threshold: float

    def occupied(self, inside: Tensor) -> Tensor:
        """Where masks can have pixels at image size: (n, tiles down, tiles across) bool.

        ``inside`` (n, h, w) says where their maps are above the threshold: values up to it stay so
        when they are interpolated.
        """
        pixels, rows = inside.view(torch.uint8), range(len(self.rows.window))
        down = torch.stack([pixels[:, self.rows.reads(row)].amax(1) for row in rows], 1)
        return down[..., self.columns.window].amax(-1) > 0

    def paste(self, candidates: 'Candidates', occupied: Tensor) -> Tensor:
        """Images (n, H, W) bool of n candidates, made in their occupied tiles."""
        rows, columns = self.rows, self.columns
        shape = (len(rows.window), rows.length, len(columns.window), columns.length)
        images = torch.from_numpy(np.zeros((len(candidates), *shape), bool))  # no memory yet
        for row in range(len(rows.window)):
            used = occupied[:, row].any(1).nonzero()[:, 0]
            bands = used.split(max(BAND_PIXELS // math.prod(shape[1:]), 1))
            for some in bands if len(used) else ():
                mask, column = occupied[some, row].nonzero(as_tuple=True)
                maps = candidates.probabilities(rows.reads(row), some)
                images[some[mask], row, :, column] = self.inside(maps, row, mask, column)
        return images.flatten(3).flatten(1, 2)[:, : len(rows.final.low), : len(columns.final.low)]

    def inside(self, maps: Tensor, row: int, mask: Tensor, column: Tensor) -> Tensor:
        """Tiles (t, length, length) bool of a row, of masks (t,) at columns (t,).

        ``maps`` (m, rows, w) are what the row of tiles reads of the masks' maps. Pixels too near
        the threshold for a product are done again as they are defined.
        """
        parts = maps[mask[:, None], :, self.columns.window[column]].mT
        values = products(self.rows.weights[row], parts, self.columns.weights[column].mT)
        inside = values > self.threshold
        distance = values.sub_(self.threshold).abs_()
        if distance.amin() < PRODUCT_MARGIN:
            tile, y, x = (distance < PRODUCT_MARGIN).nonzero(as_tuple=True)
            image_y, image_x = row * self.rows.length + y, column[tile] * self.columns.length + x
            exact = self.pixels(maps, self.rows.window[row, 0], mask[tile], image_y, image_x)
            inside[tile, y, x] = exact > self.threshold
        return inside

    def pixels(self, maps: Tensor, first: Tensor, mask: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Pixels y, x (n,) of masks' images (n,), rounded as ``F.interpolate`` does.

        ``maps`` are the masks' from row ``first`` on. Beyond an image's end its last pixel counts.
        """
        y, x = (
            y.clamp(max=len(self.rows.final.low) - 1),
            x.clamp(max=len(self.columns.final.low) - 1),
        )

        def source(y: Tensor, x: Tensor) -> Tensor:
            return maps[mask, y - first, x]

        upsampled = partial(sample, source, self.rows.up, self.columns.up)
        return sample(upsampled, self.rows.final, self.columns.final, y, x)

    def crops(self, images: Tensor, occupied: Tensor) -> list[Crop]:
        """The parts of images (n, H, W) bool that occupied tiles (n, down, across) cover."""
        tops, bottoms = (self.rows.length * tile for tile in span(occupied.any(2)))
        lefts, rights = (self.columns.length * tile for tile in span(occupied.any(1)))
        sides = torch.stack([tops, bottoms, lefts, rights], 1).tolist()
        return [
            Crop(image[top:bottom, left:right], top, left)
            for image, (top, bottom, left, right) in zip(images.numpy(), sides, strict=True)
        ]
