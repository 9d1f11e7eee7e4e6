"""The metric on ground truth that pycocotools stumbles over."""

import json

import numpy as np
import pytest
import torch

from mmsolov2.evaluation import CocoInstanceMetric
from mmsolov2.models.mask_results import encode_rle

SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]


def evaluate(tmp_path, annotations, metric=('bbox', 'segm')):
    """Figures of a perfect prediction of SQUARE in one 16x16 image."""
    content = dict(
        images=[dict(id=1, file_name='a.png', width=16, height=16)],
        categories=[dict(id=1, name='ant')],
        annotations=annotations
    )
    file = tmp_path / 'instances.json'
    file.write_text(json.dumps(content))
    evaluator = CocoInstanceMetric(ann_file=str(file), metric=list(metric))
    evaluator.dataset_meta = dict(classes=('ant', ))
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, 2:12, 2:12] = True
    found = dict(
        bboxes=torch.tensor([[2., 2., 12., 12.]]),
        scores=torch.ones(1),
        labels=torch.zeros(1, dtype=torch.long),
        masks=encode_rle(mask)
    )
    evaluator.process({}, [dict(pred_instances=found, img_id=1, ori_shape=(16, 16))])
    return evaluator.evaluate(1)


def annotation(number, segmentation=SQUARE):
    entry = dict(id=number, image_id=1, category_id=1, bbox=[2, 2, 10, 10], area=100, iscrowd=0)
    return entry if segmentation is None else {**entry, 'segmentation': segmentation}


@pytest.mark.parametrize('segmentation', [None, [], [[]], [[1, 2]], [[1, 2, 3, 4]], [1, 2, 3, 4]])
def test_annotations_without_a_mask_are_left_out(tmp_path, segmentation):
    figures = evaluate(tmp_path, [annotation(1), annotation(2, segmentation)])
    assert figures['coco/segm_mAP'] == figures['coco/bbox_mAP'] == 1


def test_boxes_alone_need_no_masks(tmp_path):
    figures = evaluate(tmp_path, [annotation(1, segmentation=None)], metric=['bbox'])
    assert figures['coco/bbox_mAP'] == 1


@pytest.mark.parametrize('metric', ['bbox', 'proposal', 'proposal_fast'])
def test_boxes_alone_need_no_areas(tmp_path, metric):
    lacking = {name: v for name, v in annotation(1, None).items() if name != 'area'}
    figures = evaluate(tmp_path, [lacking], metric=[metric])
    name = dict(bbox='bbox_mAP', proposal='AR@100', proposal_fast='AR@100')[metric]
    assert figures[f'coco/{name}'] == 1


def test_an_id_of_zero_counts(tmp_path):
    assert evaluate(tmp_path, [annotation(0)])['coco/segm_mAP'] == 1
    assert np.isclose(
        evaluate(tmp_path, [annotation(0), annotation(1)])['coco/segm_mAP'], 0.505, atol=0.01
    )
