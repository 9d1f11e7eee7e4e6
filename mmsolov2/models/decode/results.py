"""Candidates to results: masks, boxes and RLE at image size."""

import math
from collections.abc import Sequence

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmsolov2 import device
from mmsolov2.errors import InputError
from mmsolov2.models.decode.paste_masks import Maps, Side, image_masks, occupied_tiles, paint
from mmsolov2.structures.masks import MASK_STRIDE, Crop, encode_crop, span, tight_boxes

CHUNK_PIXELS = 2**24  # mask pixels upsampled at a time on a GPU: 64 MiB of float32
RLE_PIXELS = 2**27  # mask pixels painted at a time before they are encoded: 128 MiB of bool
MASK_FORMATS = ('bitmap', 'rle')


def sizes_of(
    meta: dict, map_size: Sequence[int], rescale: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the network's input without padding, and of the results.

    Raises:
        InputError: if they are not in ``meta``, or more than maps of ``map_size`` (h, w) cover.
    """
    name = meta.get('img_path', 'an image')
    fields = 'img_shape', 'ori_shape' if rescale else 'img_shape'
    missing = sorted({field for field in fields if field not in meta})
    if missing:
        raise InputError(
            f'{name}: the metainfo has no {" and no ".join(missing)}, only {sorted(meta)}: add it '
            'to meta_keys of PackDetInputs in the pipeline'
        )
    image_size, final_size = (tuple(meta[field][:2]) for field in fields)
    covered = tuple(MASK_STRIDE * side for side in map_size)
    fits = all(1 <= side <= whole for side, whole in zip(image_size, covered, strict=True))
    if not fits or min(final_size) < 1:
        raise InputError(
            f'{name}: img_shape {image_size} must be from 1 to {covered}, what the mask features '
            f'cover, and the size of the results at least 1, not {final_size}'
        )
    return image_size, final_size


def to_results(
    scores: Tensor,
    labels: Tensor,
    inside: Tensor,
    read: Maps,
    meta: dict,
    *,
    rescale: bool,
    mask_threshold: float = 0.5,
    mask_format: str = 'bitmap',
) -> InstanceData:
    """Bring n masks to image size: scores (n,), labels (n,), bboxes (n, 4) xyxy and masks.

    Masks are bool (n, H, W) or n COCO RLE dicts; H and W are the original image's with
    ``rescale``, else the network input's. ``read`` gives their probabilities over the padded
    input, ``inside`` (n, h, w) says where these are above the threshold.

    Raises:
        InputError: if bitmaps would not fit into memory, or ``meta`` lacks the image's sizes or has
            impossible ones.
    """
    image_size, final_size = sizes_of(meta, inside.shape[1:], rescale)
    if mask_format == 'bitmap':
        require_memory(len(inside), final_size, inside.device)
    sizes = mask_threshold, image_size, final_size
    if mask_format == 'bitmap' and not device.on_cpu(inside):
        bboxes, masks = from_chunks(inside, read, *sizes)
    else:
        bboxes, masks = from_tiles(*on_cpu(inside, read), *sizes, mask_format)
    bboxes = bboxes.to(scores.device)
    return InstanceData(scores=scores, labels=labels, bboxes=bboxes, masks=masks)


def require_memory(count: int, size: Sequence[int], device_: torch.device) -> None:
    """Raise InputError if ``count`` bitmaps of ``size`` do not fit into a device's memory."""
    lack = device.lacks(device_, count * math.prod(size))
    if lack is not None:
        raise InputError(
            f'{count} masks of {size[0]}x{size[1]} pixels as bitmaps {lack}: set '
            "model.test_cfg.mask_format='rle', or lower model.test_cfg.max_per_img"
        )


def from_tiles(
    inside: Tensor,
    read: Maps,
    threshold: float,
    image_size: Sequence[int],
    final_size: Sequence[int],
    mask_format: str,
) -> tuple[Tensor, Tensor | list[dict]]:
    """Boxes and masks of ``to_results``, each mask made where it can have pixels: on a CPU."""
    sizes = zip(inside.shape[1:], image_size, final_size, strict=True)
    rows, columns = (Side.between(*size) for size in sizes)
    tiles = occupied_tiles(inside, rows, columns)
    padded = tiles.shape[1] * rows.length, tiles.shape[2] * columns.length
    step = len(inside) if mask_format == 'bitmap' else RLE_PIXELS // math.prod(padded)
    boxes, rles = [], []
    for some in torch.arange(len(inside)).split(max(step, 1)):
        images = device.zeros((len(some), *padded), torch.bool, inside)
        paint(
            images.unflatten(2, (-1, columns.length)).unflatten(1, (-1, rows.length)),
            tiles[some],
            lambda window, part, some=some: read(window, some[part]),
            threshold,
            rows,
            columns,
        )
        images = images[:, : final_size[0], : final_size[1]]
        crops = occupied_crops(images, tiles[some], rows, columns)
        boxes.extend(crop.box() for crop in crops)
        if mask_format == 'rle':
            rles.extend(encode_crop(crop, *final_size) for crop in crops)
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return boxes, rles if mask_format == 'rle' else images  # bitmaps are one group


def occupied_crops(images: Tensor, tiles: Tensor, rows: Side, columns: Side) -> list[Crop]:
    """The parts of images (n, H, W) bool that occupied tiles (n, down, across) cover."""
    tops, bottoms = (rows.length * tile for tile in span(tiles.any(2)))
    lefts, rights = (columns.length * tile for tile in span(tiles.any(1)))
    sides = zip(
        images.numpy(), *(side.tolist() for side in (tops, bottoms, lefts, rights)), strict=True
    )
    return [Crop(image[y1:y2, x1:x2], y1, x1) for image, y1, y2, x1, x2 in sides]


def from_chunks(
    inside: Tensor,
    read: Maps,
    threshold: float,
    image_size: Sequence[int],
    final_size: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Boxes and bitmaps of ``to_results``, masks that fit into a chunk at a time: on a GPU."""
    height, width = inside.shape[-2:]
    size = max(CHUNK_PIXELS // max(MASK_STRIDE**2 * height * width, math.prod(final_size)), 1)
    masks = inside.new_empty((len(inside), *final_size))
    indices = torch.arange(len(inside), device=inside.device)
    for some, part in zip(indices.split(size), masks.split(size), strict=True):
        part.copy_(image_masks(read(slice(0, height), some), threshold, image_size, final_size))
    return tight_boxes(masks), masks


def on_cpu(inside: Tensor, read: Maps) -> tuple[Tensor, Maps]:
    """Masks (n, h, w) and their maps where RLE is made: 16 times smaller than images are."""
    if device.on_cpu(inside):
        return inside, read
    indices = torch.arange(len(inside), device=inside.device)
    maps = read(slice(0, inside.shape[1]), indices).cpu()
    return inside.cpu(), lambda rows, some: maps[some, rows]
