"""Very large pictures, predicted slice by slice: what is small in them is found."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from mmsolov2.apis.inference import predict_batch
from mmsolov2.structures.masks import Crop, encode_crop, encode_rle

OVERLAP = 0.25  # share of a slice's side that neighbours have in common, at least
TOGETHER = 4  # slices in a batch
SAME = 0.5  # share of the smaller of two masks of a class that both have: they are one instance
CUT = 0.1  # the same of two that are cut off at the border of a slice: they are parts of one

Slice = tuple[slice, slice]  # rows and columns


def pieces(length: int, side: int) -> list[slice]:
    """Parts of a length, as long as ``side`` if that fits; neighbours overlap.

    >>> pieces(10, 20), pieces(100, 40)
    ([slice(0, 10, None)], [slice(0, 40, None), slice(30, 70, None), slice(60, 100, None)])
    """
    count = math.ceil(max(length - side, 0) / max(round(side * (1 - OVERLAP)), 1)) + 1
    starts = np.linspace(0, max(length - side, 0), count).round().astype(int).tolist()
    return [slice(start, min(start + side, length)) for start in starts]


def slices_of(size: Sequence[int], side: int) -> list[Slice]:
    """The slices of a picture of a size (height, width), row by row."""
    height, width = size[:2]
    return [(rows, columns) for rows in pieces(height, side) for columns in pieces(width, side)]


def predict_sliced(model: BaseDetector, image: np.ndarray, side: int) -> DetDataSample:
    """The sample of an image (H, W, 3) uint8 BGR, of its slices and of all of it, resized.

    Masks are RLE. Slices have sides of ``side`` pixels, and overlap. What several of them show is
    one instance: that of the best score which no border of a slice cuts off; parts that are cut
    off everywhere are joined.
    """
    whole = predict_batch(model, [image])[0].cpu()
    found, cut = [with_rle(whole.pred_instances)], [np.zeros(len(whole.pred_instances), bool)]
    slices = slices_of(image.shape, side)
    for first in range(0, len(slices) if len(slices) > 1 else 0, TOGETHER):
        chosen = slices[first : first + TOGETHER]
        samples = predict_batch(model, [np.ascontiguousarray(image[part]) for part in chosen])
        for part, sample in zip(chosen, samples, strict=True):
            instances = with_rle(sample.cpu().pred_instances)
            cut.append(cut_off(instances.bboxes.numpy(), part, image.shape))
            found.append(placed(instances, part, image.shape))
    whole.pred_instances = one_each(InstanceData.cat(found), np.concatenate(cut))
    return whole


def with_rle(instances: InstanceData) -> InstanceData:
    """Instances whose masks are RLE."""
    if isinstance(instances.masks, torch.Tensor):
        instances.masks = encode_rle(instances.masks)
    return instances


def cut_off(boxes: np.ndarray, part: Slice, size: Sequence[int]) -> np.ndarray:
    """Whether boxes (n, 4) xyxy in a slice touch a border of it that is none of the picture's."""
    rows, columns = part
    near = boxes[:, :2] <= 1
    far = boxes[:, 2:] >= np.array([columns.stop - columns.start, rows.stop - rows.start]) - 1
    inner_near = np.array([columns.start > 0, rows.start > 0])
    inner_far = np.array([columns.stop < size[1], rows.stop < size[0]])
    return ((near & inner_near) | (far & inner_far)).any(1)


def placed(instances: InstanceData, part: Slice, size: Sequence[int]) -> InstanceData:
    """Instances of a slice in the picture of a size (height, width)."""
    top, left = part[0].start, part[1].start
    instances.masks = [
        encode_crop(Crop(coco_mask.decode(mask).astype(bool), top, left), size[0], size[1])
        for mask in instances.masks
    ]
    instances.bboxes = instances.bboxes + torch.tensor([left, top, left, top])
    return instances


def one_each(instances: InstanceData, cut: np.ndarray) -> InstanceData:
    """Of n instances those that are not of one with a better, the best score first.

    ``cut`` (n,) says which are cut off. Such are joined where they overlap, and come last.
    """
    if not len(instances):
        return instances
    parts = parts_of_one(instances, cut)
    scores = np.array([instances.scores[part].max() for part in parts])
    labels = np.array([instances.labels[part[0]] for part in parts])
    masks = [coco_mask.merge([instances.masks[index] for index in part]) for part in parts]
    is_one = (shares(masks) > SAME) & (labels[:, None] == labels)
    kept: list[int] = []
    for index in np.lexsort((-scores, cut[[part[0] for part in parts]])):
        if not is_one[index, kept].any():
            kept.append(index)
    kept.sort(key=lambda index: -scores[index])
    chosen = [masks[index] for index in kept]
    x, y, width, height = coco_mask.toBbox(chosen).T
    return InstanceData(
        scores=torch.from_numpy(scores[kept]),
        labels=torch.from_numpy(labels[kept]),
        bboxes=torch.from_numpy(np.stack([x, y, x + width, y + height], 1)).float(),
        masks=chosen,
    )


def parts_of_one(instances: InstanceData, cut: np.ndarray) -> list[list[int]]:
    """The places of instances (n), those together that are cut off parts of one, overlapping."""
    labels = instances.labels.numpy()
    linked = (shares(instances.masks) > CUT) & cut[:, None] & cut & (labels[:, None] == labels)
    np.fill_diagonal(linked, val=True)
    first = np.arange(len(cut))  # of the parts that each belongs to
    while True:
        spread = np.where(linked, first, len(cut)).min(1)
        if np.array_equal(spread, first):
            return [np.flatnonzero(first == one).tolist() for one in np.unique(first)]
        first = spread


def shares(masks: Sequence[dict]) -> np.ndarray:
    """For each two of n masks, which share of the smaller both have: (n, n)."""
    of_first = coco_mask.iou(masks, masks, [1] * len(masks))  # with crowds it is a share
    return np.maximum(of_first, of_first.T)
