"""Samples as Detections of supervision, if that is installed."""

import sys

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmsolov2.apis import to_supervision
from mmsolov2.errors import InputError
from mmsolov2.structures.masks import encode_rle, tight_boxes

CLASSES = ('cat', 'dog')


def sample(count: int, rle: bool) -> DetDataSample:
    """Squares of two classes in turn, (9, 12)."""
    masks = torch.zeros(count, 9, 12, dtype=torch.bool)
    for number, mask in enumerate(masks):
        mask[number : number + 4, number : number + 5] = True
    instances = InstanceData(
        scores=torch.linspace(0.9, 0.5, count),
        labels=torch.arange(count) % 2,
        bboxes=tight_boxes(masks),
        masks=encode_rle(masks) if rle else masks,
    )
    return DetDataSample(pred_instances=instances, metainfo=dict(ori_shape=(9, 12)))


@pytest.mark.parametrize('rle', [False, True])
@pytest.mark.parametrize('count', [0, 1, 3])
def test_detections(count, rle):
    supervision = pytest.importorskip('supervision')
    given = sample(count, rle)
    found = to_supervision(given, CLASSES)
    assert isinstance(found, supervision.Detections) and len(found) == count
    expected = sample(count, rle=False).pred_instances
    assert np.array_equal(found.mask, expected.masks.numpy()) and found.mask.dtype == bool
    assert np.array_equal(found.xyxy, expected.bboxes.numpy())
    assert np.array_equal(found.confidence, expected.scores.numpy())
    assert found.class_id.tolist() == [number % 2 for number in range(count)]
    assert found.data['class_name'].tolist() == [CLASSES[number % 2] for number in range(count)]
    assert found.area.tolist() == [20] * count
    assert isinstance(given.pred_instances.masks, list) == rle  # it is not changed
    kept = found[found.confidence > 0.8]
    assert len(kept) == min(count, 1) and 'class_name' not in to_supervision(given).data
    picture = supervision.MaskAnnotator().annotate(np.zeros((9, 12, 3), np.uint8), found)
    assert np.array_equal(picture.any(2), expected.masks.numpy().any(0))


def test_supervision_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(InputError, match='cannot be imported .*: pip install supervision'):
        to_supervision(sample(1, rle=True))
