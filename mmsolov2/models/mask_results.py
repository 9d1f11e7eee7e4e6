"""Candidates to results: masks, boxes and RLE at image size."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from torch import Tensor

MASK_STRIDE = 4  # of the mask features
CHUNK_PIXELS = 2**24  # mask pixels upsampled at a time: 64 MiB of float32
MASK_FORMATS = ('bitmap', 'rle')


@dataclass
class Candidates:
    """Instances on their way to results."""

    scores: Tensor  # (n,) float32
    labels: Tensor  # (n,) int64
    masks: Tensor  # (n, H/4, W/4) float32, mask probabilities over the padded input

    def __getitem__(self, index: Tensor) -> 'Candidates':
        """The candidates at ``index``: int64 indices (m,) or a mask (n,) bool."""
        return Candidates(self.scores[index], self.labels[index], self.masks[index])

    def ranked(self) -> 'Candidates':
        """The same candidates, the highest score first."""
        return self[self.scores.argsort(descending=True, stable=True)]


def tight_boxes(masks: Tensor) -> Tensor:
    """Boxes (n, 4) float32 xyxy around masks (n, H, W) bool; zeros for empty masks.

    x2 and y2 are one past the last pixel, so that a box of one pixel has width and height 1.
    """
    spans = [_span(masks.any(1)), _span(masks.any(2))]
    (x1, x2), (y1, y2) = spans
    return torch.stack([x1, y1, x2, y2], dim=1).float()


def _span(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First index and one past the last of occupied (n, length) bool; 0 and 0 where none is."""
    length = occupied.shape[1]
    position = torch.arange(length, device=occupied.device)
    end = (occupied * (position + 1)).amax(1)
    return position.where(occupied, length).amin(1).minimum(end), end


def image_masks(
    masks: Tensor, threshold: float, image_size: Sequence[int], final_size: Sequence[int]
) -> Tensor:
    """Upsample masks (n, h, w) in [0, 1] and cut at the threshold: (n, *final_size) bool.

    First by the mask stride, cropped to ``image_size`` (h, w), the network input without its
    padding; then to ``final_size``. Bilinear both times, as in all published code.
    """
    full_size = [MASK_STRIDE * side for side in masks.shape[-2:]]
    bilinear = partial(F.interpolate, mode='bilinear', align_corners=False)
    masks = bilinear(masks[:, None], size=full_size)[..., :image_size[0], :image_size[1]]
    if tuple(final_size) != tuple(image_size):
        masks = bilinear(masks, size=tuple(final_size))
    return masks[:, 0] > threshold


def encode_rle(masks: Tensor) -> list[dict]:
    """COCO's compressed RLE of masks (n, H, W) bool: n dicts of ``size`` and ``counts``."""
    return coco_mask.encode(np.asfortranarray(masks.permute(1, 2, 0).byte().cpu().numpy()))


def to_results(
    candidates: Candidates,
    meta: dict,
    *,
    rescale: bool,
    mask_threshold: float = 0.5,
    mask_format: str = 'bitmap',
) -> InstanceData:
    """Bring n candidates to image size: scores (n,), labels (n,), bboxes (n, 4) and masks.

    Masks are bool (n, H, W) or n COCO RLE dicts; H and W are the original image's with
    ``rescale``, else the network input's. Full-size probabilities exist for a few masks at a time.
    """
    image_size = meta['img_shape'][:2]
    final_size = meta['ori_shape'][:2] if rescale else image_size
    height, width = candidates.masks.shape[-2:]
    pixels = max(MASK_STRIDE**2 * height * width, final_size[0] * final_size[1])
    boxes, masks = [], []
    for chunk in candidates.masks.split(max(CHUNK_PIXELS // pixels, 1)):
        chunk = image_masks(chunk, mask_threshold, image_size, final_size)
        boxes.append(tight_boxes(chunk))
        masks.extend(encode_rle(chunk)) if mask_format == 'rle' else masks.append(chunk)
    return InstanceData(
        scores=candidates.scores,
        labels=candidates.labels,
        bboxes=torch.cat(boxes),
        masks=masks if mask_format == 'rle' else torch.cat(masks),
    )
