"""The metric on ground truth that pycocotools stumbles over."""

import json

import numpy as np
import pytest
import torch

from mmsolov2.errors import InputError
from mmsolov2.evaluation import CocoInstanceMetric
from mmsolov2.models.mask_results import encode_rle

SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]


def evaluate(tmp_path, annotations, metric=('bbox', 'segm'), sample=(), **options):
    """Figures of a perfect prediction of SQUARE in one 16x16 image."""
    content = dict(
        images=[dict(id=1, file_name='a.png', width=16, height=16)],
        categories=[dict(id=1, name='ant')],
        annotations=annotations
    )
    file = tmp_path / 'instances.json'
    file.write_text(json.dumps(content))
    evaluator = CocoInstanceMetric(ann_file=str(file), metric=metric, **options)
    evaluator.dataset_meta = dict(classes=('ant', ))
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, 2:12, 2:12] = True
    found = dict(
        bboxes=torch.tensor([[2., 2., 12., 12.]]),
        scores=torch.ones(1),
        labels=torch.zeros(1, dtype=torch.long),
        masks=encode_rle(mask)
    )
    predicted = dict(pred_instances=found, img_id=1, ori_shape=(16, 16))
    evaluator.process({}, [{**predicted, **dict(sample)}])
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


# Settings


@pytest.mark.parametrize('iou_thrs', [
    0.5, [0.5], (0.5, 0.75), [0.5 + 0.05 * index for index in range(10)], np.array([0.5, 0.9])
])  # yapf: disable
def test_thresholds_of_any_kind(tmp_path, iou_thrs):
    figures = evaluate(tmp_path, [annotation(1)], iou_thrs=iou_thrs, classwise=True)
    assert figures['coco/segm_mAP'] == figures['coco/bbox_mAP_50'] == 1
    assert figures['coco/segm_mAP_75'] == (1 if np.isin(0.75, np.round(iou_thrs, 9)) else -1)


@pytest.mark.parametrize('proposal_nums', [(1, 10, 300), (1, 10, 100), [100, 300, 1000]])
def test_the_mean_ap_of_any_proposal_nums(tmp_path, proposal_nums):
    """COCO's summary has no figure where 100 is not among them."""
    annotations = [annotation(1), annotation(2)]
    figures = evaluate(tmp_path, annotations, proposal_nums=proposal_nums)
    assert np.isclose(figures['coco/segm_mAP'], 0.505, atol=0.01)  # one of two is found


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(iou_thrs='half'), "iou_thrs must be a number from 0 to 1 or a list of such, not 'half'"),
    (dict(iou_thrs=[0.5, 75]), 'iou_thrs must be'),
    (dict(iou_thrs=[]), 'iou_thrs must be'),
    (dict(metric_items=['mAP', 'AP']), r"metric_items has unknown figures \['AP'\]"),
    (dict(metric_items='AP'), r"metric_items has unknown figures \['AP'\]"),
    (dict(proposal_nums=(100, )), r'proposal_nums must be three ascending .*not \[100\]'),
    (dict(proposal_nums=(1000, 300, 100)), 'proposal_nums must be'),
    (dict(proposal_nums=(1, 10, 'all')), 'proposal_nums must be'),
])
def test_wrong_settings_are_refused_before_the_evaluation(settings, message):
    with pytest.raises(InputError, match=f'CocoInstanceMetric: {message}'):
        CocoInstanceMetric(metric='segm', **settings)


def test_a_single_item(tmp_path):
    figures = evaluate(tmp_path, [annotation(1)], metric_items='mAP_50')
    assert figures == {'coco/bbox_mAP_50': 1, 'coco/segm_mAP_50': 1}


def test_masks_that_a_model_does_not_predict(tmp_path):
    boxes = dict(bboxes=torch.ones(1, 4), scores=torch.ones(1), labels=torch.zeros(1).long())
    with pytest.raises(InputError, match='needs masks, and the model predicts none'):
        evaluate(tmp_path, [annotation(1)], sample=dict(pred_instances=boxes))


# Images


@pytest.mark.parametrize('path', [None, 'x/a.png', 'a.jpg', r'C:\\photos\\a.png'])
@pytest.mark.parametrize('number', [1, '1', 1.0])
def test_images_are_those_of_the_file(tmp_path, number, path):
    sample = dict(img_id=number) | (dict(img_path=path) if path else {})
    assert evaluate(tmp_path, [annotation(1)], sample=sample)['coco/segm_mAP'] == 1


@pytest.mark.parametrize(('sample', 'message'), [
    (dict(img_id=2), 'has no image 2: set ann_file of the evaluator'),
    (dict(img_id=2, img_path='x/b.png'), 'has no image 2, x/b.png: set'),
    (dict(img_path='x/b.png'), 'has the image 1 as a.png, which is not x/b.png: set'),
])
def test_an_evaluator_of_other_images_says_so_at_once(tmp_path, sample, message):
    with pytest.raises(InputError, match=f"instances.json: the evaluator's file {message}"):
        evaluate(tmp_path, [annotation(1)], sample=sample)
