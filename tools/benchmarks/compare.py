"""Whether results of mmdet's SOLOv2 and ours are the same."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from torch import Tensor

SCORE_TOLERANCE = 1e-5
ROUNDING = 1e-6  # share of pixels that may be so near the threshold that rounding decides


class Instance(NamedTuple):
    """One instance of a result."""

    label: int
    score: float
    mask: dict  # COCO's RLE


def encoded(results: Sequence[InstanceData]) -> list[list[Instance]]:
    """Results of images as plain values, that another process can send."""
    return [
        [
            Instance(label, score, mask if isinstance(mask, dict) else encode(mask))
            for label, score, mask in zip(
                one.labels.tolist(), one.scores.tolist(), one.masks, strict=True
            )
        ]
        for one in results
    ]


def encode(mask: Tensor) -> dict:
    """COCO's RLE of a mask (H, W) bool."""
    return coco_mask.encode(np.asfortranarray(mask.byte().cpu().numpy()))


def pixels_between(one: dict, other: dict) -> int:
    """Pixels that only one of two RLEs has; all of them for other sizes."""
    if one['size'] != other['size']:
        return int(coco_mask.area(one)) + int(coco_mask.area(other))
    if one['counts'] == other['counts']:
        return 0
    shared = coco_mask.area(coco_mask.merge([one, other], intersect=True))
    return int(coco_mask.area(one)) + int(coco_mask.area(other)) - 2 * int(shared)


def differing_pixels(theirs: list[list[Instance]], ours: list[list[Instance]]) -> int:
    """Pixels in which results differ; an instance that only one has counts with all its pixels.

    Instances are the same if their labels are, and their scores to 1e-5: as both are in the order
    of the scores, so are the pairs.
    """
    return sum(_differing_image(*images) for images in zip(theirs, ours, strict=True))


def rounded_pixels(results: list[list[Instance]]) -> int:
    """Pixels of results that may differ because products are rounded in another order."""
    return int(ROUNDING * sum(math.prod(one.mask['size']) for image in results for one in image))


def _differing_image(theirs: list[Instance], ours: list[Instance]) -> int:
    left, total = list(ours), 0
    for one in theirs:
        distances = [
            (pixels_between(one.mask, other.mask), index)
            for index, other in enumerate(left)
            if other.label == one.label and abs(other.score - one.score) <= SCORE_TOLERANCE
        ]
        pixels, index = min(distances, default=(max(int(coco_mask.area(one.mask)), 1), None))
        total += pixels
        left = left if index is None else left[:index] + left[index + 1 :]
    return total + sum(max(int(coco_mask.area(other.mask)), 1) for other in left)


def differing_scores(theirs: Tensor, ours: Tensor) -> int:
    """How many scores differ by more than 1e-5."""
    return int(((theirs - ours).abs() > SCORE_TOLERANCE).sum())
