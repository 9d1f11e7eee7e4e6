"""What every part does with instance masks: boxes, centres of mass, sizes, RLE, polygons."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmdet.structures.mask import BaseInstanceMasks
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from torch import Tensor

from mmsolov2.device import to_device
from mmsolov2.errors import InputError

MASK_STRIDE = 4  # of the mask features


def span(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First index and one past the last of occupied (n, length) bool; 0 and 0 where none is."""
    length = occupied.shape[1]
    position = torch.arange(length, device=occupied.device)
    end = (occupied * (position + 1)).amax(1)
    return position.where(occupied, length).amin(1).minimum(end), end


def tight_boxes(masks: Tensor) -> Tensor:
    """Boxes (n, 4) float32 xyxy around masks (n, H, W) bool; zeros for empty masks.

    x2 and y2 are one past the last pixel, so that a box of one pixel has width and height 1.

    >>> tight_boxes(torch.tensor([[[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]]).bool()).tolist()
    [[1.0, 1.0, 3.0, 2.0]]
    """
    spans = [span(masks.any(1)), span(masks.any(2))]
    (x1, x2), (y1, y2) = spans
    return torch.stack([x1, y1, x2, y2], dim=1).float()


def pixel_counts(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels in each row (n, H) and in each column (n, W), int64, of masks (n, H, W) bool."""
    width = masks.shape[2]
    if width % 4:
        masks = F.pad(masks, (0, -width % 4))
    words = masks.flatten().view(torch.int32).view(*masks.shape[:2], masks.shape[2] // 4)
    rows = [four(part.sum(2, dtype=torch.int32)).sum(2) for part in words.split(PIECE, 2)]
    columns = [four(part.sum(1, dtype=torch.int32)).long() for part in words.split(PIECE, 1)]
    return torch.stack(rows).sum(0), torch.stack(columns).sum(0).flatten(1)[:, :width]


PIECE = 96  # int32 words of four 0/1 bytes that are added up before a byte could overflow, at 127


def four(words: Tensor) -> Tensor:
    """The bytes (n, k, 4) uint8 of words (n, k) int32."""
    return words[..., None].view(torch.uint8)


def center_of_mass(rows: Tensor, columns: Tensor) -> Tensor:
    """Mean row and column (n, 2) float32, y first, of masks; 0 for empty masks.

    Of ``pixel_counts``: how many pixels they have in each row (n, H) and column (n, W). Rows and
    columns count from 0 at the centre of the first pixel, as in all published code.

    >>> center_of_mass(*pixel_counts(torch.tensor([[[1, 1, 1], [0, 1, 0]]]).bool())).tolist()
    [[0.25, 1.0]]
    """
    area = rows.sum(1).float().clamp(min=1e-6)
    y = (rows * torch.arange(rows.shape[1], device=rows.device)).sum(1) / area
    x = (columns * torch.arange(columns.shape[1], device=columns.device)).sum(1) / area
    return torch.stack([y, x], dim=1)


def quarter_masks(masks: Tensor) -> Tensor:
    """Shrink masks (n, H, W) bool to (n, H/4, W/4) bool; H and W divide by 4.

    A pixel of the result is set where at least 2 of the central 2x2 pixels of its 4x4 block are:
    what a bilinear resize of a 0/1 image by 1/4 with rounding gives, as the published code does.

    >>> masks = torch.zeros(1, 4, 8, dtype=torch.bool)
    >>> masks[0, 1, 1:3] = True  # two of the central pixels of the first block
    >>> masks[0, 0, 4:] = True  # none of the second's
    >>> quarter_masks(masks).tolist()
    [[[True, False]]]
    """
    bits = masks.view(torch.uint8)
    rows = bits[:, 1::4] + bits[:, 2::4]
    return rows[..., 1::4] + rows[..., 2::4] >= 2


def without_small_parts(masks: Tensor, least: float) -> Tensor:
    """Masks (n, h, w) bool without connected parts below a share of the mask's largest part.

    Pixels that touch at a corner are connected.

    >>> without_small_parts(torch.tensor([[[1, 1, 1, 0, 1, 1, 0, 1]]]).bool(), 0.5).int().tolist()
    [[[1, 1, 1, 0, 1, 1, 0, 0]]]
    """
    kept = masks.cpu().numpy().copy()
    for mask in kept:
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        if not width:
            continue
        box = mask[y : y + height, x : x + width]
        count, parts, stats, _ = cv2.connectedComponentsWithStats(box.view(np.uint8))
        if count > 2:
            areas = stats[:, cv2.CC_STAT_AREA]
            areas[0] = 0  # the background's
            box[:] = ((areas >= least * areas.max()) & (areas > 0))[parts]
    return torch.from_numpy(kept).to(masks.device)


def padded_masks(
    masks: Tensor | BaseInstanceMasks, size: Sequence[int], device: torch.device
) -> Tensor:
    """Instance masks, mmdet's or a tensor, padded at the right and below: (n, *size) bool.

    Without a copy where there is nothing to pad or to convert: never to be written to.

    Raises:
        InputError: if they are larger than ``size``.
    """
    if not isinstance(masks, Tensor):
        bitmaps = np.ascontiguousarray(masks.to_ndarray())
        if bitmaps.dtype != np.uint8 or bitmaps.max(initial=0) > 1:
            bitmaps = bitmaps != 0
        masks = torch.from_numpy(bitmaps.view(bool))
    masks = to_device(masks.bool(), device)
    padding = [side - own for side, own in zip(size, masks.shape[-2:], strict=True)]
    if min(padding) < 0:
        raise InputError(
            f'masks of {tuple(masks.shape[-2:])} do not fit into images of {tuple(size)}: every '
            'step that resizes or crops images must do it to their masks'
        )
    return F.pad(masks, (0, padding[1], 0, padding[0])) if any(padding) else masks


class Crop(NamedTuple):
    """A part of a mask that has all of its pixels."""

    mask: np.ndarray  # (h, w) bool
    top: int
    left: int

    def box(self) -> list[int]:
        """The box xyxy around the mask in the image; zeros if it is empty."""
        if not self.mask.any():
            return [0, 0, 0, 0]
        x, y, width, height = cv2.boundingRect(self.mask.view(np.uint8))
        return [x + self.left, y + self.top, x + width + self.left, y + height + self.top]


def encode_rle(masks: Tensor) -> list[dict]:
    """COCO's compressed RLE of masks (n, H, W) bool: n dicts of ``size`` and ``counts``.

    >>> coco_mask.decode(encode_rle(torch.tensor([[[0, 1], [1, 1]]]).bool())[0]).tolist()
    [[0, 1], [1, 1]]
    """
    bitmaps = masks.cpu().numpy().view(np.uint8)
    return [coco_mask.encode(cv2.transpose(bitmap).T) for bitmap in bitmaps]


def encode_crop(crop: Crop, height: int, width: int) -> dict:
    """COCO's compressed RLE of a mask in an image that is never made."""
    runs = dict(size=[height, width], counts=run_lengths(crop, height, width))
    return coco_mask.frPyObjects(runs, height, width)


def run_lengths(crop: Crop, height: int, width: int) -> list[int]:
    """Lengths of the runs outside and inside in turn, down the columns of the whole image.

    >>> run_lengths(Crop(np.ones((2, 1), bool), top=1, left=1), height=4, width=2)
    [5, 2, 1]
    """
    rows, columns = crop.mask.shape
    flat = np.zeros(columns * (rows + 1) + 1, dtype=bool)  # column by column, False between them
    flat[:-1].reshape(columns, rows + 1)[:, 1:] = crop.mask.T
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), rows + 1)
    changes = (column + crop.left) * height + row + crop.top
    ends = changes[1::2][:-1] == changes[2::2]  # at the bottom, and on at the next column's top
    if ends.any():
        changes = changes[np.pad(~np.repeat(ends, 2), 1, constant_values=True)]
    lengths = np.diff(changes, prepend=0, append=height * width)
    return lengths[: -1 if len(lengths) > 1 and lengths[-1] == 0 else None].tolist()


def with_bitmaps(instances: InstanceData, size: Sequence[int]) -> InstanceData:
    """Instances with masks (n, H, W) bool of a size (H, W), also if theirs are n RLE dicts."""
    if not isinstance(instances.get('masks'), list):
        return instances
    masks = np.zeros((len(instances), *size), bool)
    for bitmap, rle in zip(masks, instances.masks, strict=True):
        bitmap[:] = coco_mask.decode(rle)
    instances = instances.new()
    instances.masks = torch.from_numpy(masks)
    return instances


def mask_polygons(mask: np.ndarray, tolerance: float = 0.0) -> list[list[int]]:
    """COCO polygons [x, y, x, y ...] in pixels of a mask (H, W) bool, one a connected part.

    They run on the borders of the pixels, so that to fill them gives the mask back; pixels that
    touch at a corner alone are two parts. No polygon of COCO's is a hole, each is filled: here the
    outline of a part goes on a straight line to each of its holes, around it, and back on the same
    line, which encloses nothing. With a ``tolerance``, corners are left out as far as each outline
    stays that close, in pixels.

    >>> mask_polygons(np.array([[0, 1, 1, 0, 1]], bool))
    [[1, 0, 3, 0, 3, 1, 1, 1], [4, 0, 5, 0, 5, 1, 4, 1]]
    """
    bitmap = np.ascontiguousarray(mask).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(bitmap)
    count, parts = cv2.connectedComponents(bitmap[y : y + height, x : x + width], connectivity=4)
    polygons = []
    for part in range(1, count):
        rings = [simplified(ring, tolerance) for ring in border_rings(parts == part)]
        polygons.append(np.add(joined(rings), (x, y)).ravel().tolist())
    return polygons


def border_rings(part: np.ndarray) -> list[np.ndarray]:
    """The corners (k, 2) xy of the rings around a part (h, w) bool; the outer one first.

    The part is at the right hand of who walks along a ring.
    """
    starts, ways = _border(part)
    corner = starts @ (1, part.shape[1] + 1)  # as a number
    after = (starts + STEPS[ways]) @ (1, part.shape[1] + 1)
    order = np.argsort(corner * 4 + ways)
    known = np.append((corner * 4 + ways)[order], -1)
    following = np.empty(len(ways), int)
    for turn in (-1, 0, 1):  # where pixels touch at a corner, two exist: either encloses the part
        wanted = after * 4 + (ways + turn) % 4
        place = np.searchsorted(known[:-1], wanted)
        exists = known[place] == wanted
        following[exists] = order[place[exists]]
    return [starts[ring][ways[ring] != ways[np.roll(ring, 1)]] for ring in _cycles(following)]


STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])  # xy to the right, down, left and up


def _border(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sides of pixels on the border of a part (h, w) bool: starts (k, 2) xy and ways (k,).

    A way is the place in ``STEPS``; sides come row by row, those at the top of pixels first.
    """
    padded = np.pad(part, 1)
    inner = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))  # xy of a pixel's at which its sides start
    starts = [
        np.argwhere(inner & ~other)[:, ::-1] + corner
        for other, corner in zip(neighbours, corners, strict=True)
    ]
    return np.concatenate(starts), np.repeat(np.arange(4), list(map(len, starts)))


def _cycles(following: np.ndarray) -> list[np.ndarray]:
    """The places that lead to each other, in turn, of the place that follows each."""
    cycles, left, steps = [], np.ones(len(following), bool), following.tolist()
    for first in range(len(steps)):
        if not left[first]:
            continue
        cycle, at = [first], steps[first]
        while at != first:
            cycle.append(at)
            at = steps[at]
        left[cycle] = False
        cycles.append(np.array(cycle))
    return cycles


def simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """A ring (k, 2) without the corners that it can lack and stay as close as ``tolerance``."""
    if not tolerance:
        return ring
    fewer = cv2.approxPolyDP(ring.astype(np.int32)[:, None], tolerance, closed=True)[:, 0]
    return fewer if len(fewer) > 2 else ring


def joined(rings: Sequence[np.ndarray]) -> np.ndarray:
    """One ring (k, 2) of several: a line leads to the first corner of each, and back.

    >>> joined([np.array([[0, 0], [9, 0], [9, 9]]), np.array([[8, 1], [8, 2]])]).tolist()
    [[0, 0], [9, 0], [8, 1], [8, 2], [8, 1], [9, 0], [9, 9]]
    """
    whole = rings[0]
    for ring in rings[1:]:
        near = np.square(whole - ring[0]).sum(1).argmin()
        whole = np.concatenate([whole[: near + 1], ring, ring[:1], whole[near:]])
    return whole
