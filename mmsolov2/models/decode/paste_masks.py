"""Masks at 1/4 scale to masks at image size."""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from torch import Tensor

from mmsolov2.models.decode import cpu_blocks
from mmsolov2.models.decode.candidates import Candidates
from mmsolov2.structures.masks import MASK_STRIDE, tight_boxes

CHUNK_PIXELS = 2**24  # mask pixels upsampled at a time: 64 MiB of float32


def paste_masks(
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


@cpu_blocks.in_blocks(cpu_blocks.paste)
def paste(
    candidates: Candidates, image_size: Sequence[int], final_size: Sequence[int], cfg: ConfigDict
) -> tuple[Tensor, Tensor | list[dict]]:
    """Boxes (n, 4) xyxy and masks of n candidates: bitmaps (n, *final_size) bool, or RLE dicts.

    RLE is made on a CPU, which gets the masks at 1/4 scale: 16 times less than images are.
    """
    if cfg.mask_format == 'rle':
        return cpu_blocks.paste(candidates.cpu(), image_size, final_size, cfg)
    height, width = candidates.masks.shape[1:]
    size = max(CHUNK_PIXELS // max(MASK_STRIDE**2 * height * width, math.prod(final_size)), 1)
    masks = candidates.masks.new_empty((len(candidates), *final_size))
    chunks = torch.arange(len(candidates), device=masks.device).split(size)
    for some, part in zip(chunks, masks.split(size), strict=True):
        maps = candidates.probabilities(slice(0, height), some)
        part.copy_(paste_masks(maps, cfg.mask_thr, image_size, final_size))
    return tight_boxes(masks), masks
