"""Slices of large pictures: where they are, and that each instance comes once, in its place."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from mmsolov2.apis import slices as module
from mmsolov2.apis.slices import cut_off, one_each, pieces, predict_sliced, slices_of
from mmsolov2.structures.masks import encode_rle, tight_boxes

SIDE = 64


@pytest.mark.parametrize('length', [1, 63, 64, 65, 100, 112, 113, 1000])
def test_pieces_cover_a_length_and_overlap(length):
    found = pieces(length, SIDE)
    assert (found[0].start, found[-1].stop) == (0, length)
    assert all(piece.stop - piece.start == min(SIDE, length) for piece in found)
    for piece, following in pairwise(found):
        assert piece.stop - following.start >= SIDE / 4
    assert length != 112 or len(found) == 2
    assert length != 113 or len(found) == 3


def test_slices_row_by_row():
    assert [(rows.start, columns.start) for rows, columns in slices_of((64, 112, 3), SIDE)] == [
        (0, 0),
        (0, 48),
    ]


def seen(image):
    """What a perfect model says of grey blobs, whose grey is their label; others overlap none."""
    masks, labels = [], []
    for grey in np.unique(image[image > 0]).tolist():
        count, parts = cv2.connectedComponents((image[..., 0] == grey).astype(np.uint8))
        masks += [parts == part for part in range(1, count)]
        labels += [grey] * (count - 1)
    bitmaps = torch.from_numpy(np.array(masks, bool).reshape(-1, *image.shape[:2]))
    scores = 0.5 + bitmaps.flatten(1).sum(1) / bitmaps[0].numel() / 2 if len(masks) else []
    return InstanceData(
        scores=torch.as_tensor(scores).float(),
        labels=torch.tensor(labels, dtype=torch.int64),
        bboxes=tight_boxes(bitmaps),
        masks=encode_rle(bitmaps),
    )


@pytest.fixture
def model(monkeypatch):
    """A model that sees blobs, but none in a picture larger than a slice; batches are noted."""
    batches = []

    def predict_batch(model, images):
        batches.append([image.shape[:2] for image in images])
        nothing = np.zeros((1, 1, 3), np.uint8)
        small = [image if max(image.shape) <= SIDE else nothing for image in images]
        return [
            DetDataSample(pred_instances=seen(image), metainfo=dict(ori_shape=whole.shape[:2]))
            for image, whole in zip(small, images, strict=True)
        ]

    monkeypatch.setattr(module, 'predict_batch', predict_batch)
    return batches


def blobs(size, *circles):
    """A picture of circles: x, y, radius and label."""
    image = np.zeros((*size, 3), np.uint8)
    for x, y, radius, label in circles:
        cv2.circle(image, (x, y), radius, (label,) * 3, -1)
    return image


def masks_of(instances):
    found = zip(instances.labels.tolist(), coco_mask.decode(instances.masks).transpose(2, 0, 1),
                strict=True)  # fmt: skip
    return {(label, mask.tobytes()) for label, mask in found}


def test_each_instance_once_and_in_its_place(model):
    rng = np.random.default_rng(0)
    circles = [
        (20 + 30 * column, 20 + 30 * row, int(rng.integers(2, 8)), int(rng.integers(1, 4)))
        for row in range(9)
        for column in range(12)
    ]
    image = blobs((300, 400), *circles)
    sample = predict_sliced(model, image, SIDE)
    found, expected = sample.pred_instances, seen(image)
    assert len(found) == len(expected) == len(circles)
    assert masks_of(found) == masks_of(expected)
    assert (found.scores[:-1] >= found.scores[1:]).all()
    boxes = coco_mask.toBbox(found.masks)
    assert np.array_equal(found.bboxes.numpy()[:, :2], boxes[:, :2])
    assert np.array_equal((found.bboxes[:, 2:] - found.bboxes[:, :2]).numpy(), boxes[:, 2:])
    assert sample.ori_shape == (300, 400)
    assert max(map(len, model)) <= 4


def test_what_no_slice_holds_is_joined(model):
    image = blobs((64, 300), (150, 30, 60, 2))  # 121 pixels wide, seen in pieces
    found = predict_sliced(model, image, SIDE).pred_instances
    assert masks_of(found) == masks_of(seen(image))


def test_neighbours_that_touch_stay_two(model):
    image = blobs((64, 300), (50, 30, 12, 1), (75, 30, 12, 2))
    assert len(predict_sliced(model, image, SIDE).pred_instances) == 2


def test_small_pictures_are_no_slices(model):
    image = blobs((60, 64), (30, 30, 9, 1))
    assert masks_of(predict_sliced(model, image, SIDE).pred_instances) == masks_of(seen(image))
    assert model == [[(60, 64)]]


def test_nothing_is_found(model):
    assert len(predict_sliced(model, blobs((100, 100)), SIDE).pred_instances) == 0


def test_cut_off():
    part = slice(48, 112), slice(0, 64)  # of 112 rows: the upper and the right border are inner
    boxes = np.array([[0, 9, 9, 20], [9, 0, 20, 9], [9, 50, 20, 64], [50, 9, 64, 20]])
    assert cut_off(boxes, part, (112, 200)).tolist() == [False, True, False, True]


def test_an_uncut_instance_goes_before_a_better_score():
    masks = torch.zeros(3, 8, 16, dtype=torch.bool)
    masks[0, :, :6], masks[1, :, :10], masks[2, :, 8:] = True, True, True
    instances = InstanceData(
        scores=torch.tensor([0.9, 0.5, 0.7]),
        labels=torch.tensor([1, 1, 1]),
        bboxes=tight_boxes(masks),
        masks=encode_rle(masks),
    )
    found = one_each(instances, np.array([True, False, False]))
    assert found.scores.tolist() == pytest.approx([0.7, 0.5])
