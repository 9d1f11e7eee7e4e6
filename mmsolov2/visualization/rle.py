"""Masks as RLE where pictures need bitmaps."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask


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
