"""The metric on ground truth that pycocotools stumbles over."""

import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import eval_recalls

from mmsolov2.errors import InputError
from mmsolov2.evaluation import CocoInstanceMetric
from mmsolov2.evaluation.coco_instance_metric import average_recalls
from mmsolov2.structures.masks import encode_rle

SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]


def square() -> dict:
    """The perfect prediction of SQUARE."""
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, 2:12, 2:12] = True
    return dict(
        bboxes=torch.tensor([[2.0, 2.0, 12.0, 12.0]]),
        scores=torch.ones(1),
        labels=torch.zeros(1, dtype=torch.long),
        masks=encode_rle(mask),
    )


def evaluate(tmp_path, annotations, metric=('bbox', 'segm'), sample=(), **options):
    """Figures of a perfect prediction of SQUARE in one 16x16 image."""
    content = dict(
        images=[dict(id=1, file_name='a.png', width=16, height=16)],
        categories=[dict(id=1, name='ant')],
        annotations=annotations,
    )
    file = tmp_path / 'instances.json'
    file.write_text(json.dumps(content))
    evaluator = CocoInstanceMetric(ann_file=str(file), metric=metric, **options)
    evaluator.dataset_meta = dict(classes=('ant',))
    predicted = dict(pred_instances=square(), img_id=1, ori_shape=(16, 16))
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
])  # fmt: skip
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


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            dict(iou_thrs='half'),
            "iou_thrs must be a number from 0 to 1 or a list of such, not 'half'",
        ),
        (dict(iou_thrs=[0.5, 75]), 'iou_thrs must be'),
        (dict(iou_thrs=[]), 'iou_thrs must be'),
        (dict(metric_items=['mAP', 'AP']), r"metric_items has unknown figures \['AP'\]"),
        (dict(metric_items='AP'), r"metric_items has unknown figures \['AP'\]"),
        (dict(proposal_nums=(100,)), r'proposal_nums must be three ascending .*not \[100\]'),
        (dict(proposal_nums=(1000, 300, 100)), 'proposal_nums must be'),
        (dict(proposal_nums=(1, 10, 'all')), 'proposal_nums must be'),
    ],
)
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


@pytest.mark.parametrize('counts', [(2, 2), (3, 1), (0, 4)])
def test_recalls_of_boxes_are_those_of_mmdet(counts):
    """Which takes images of equally many boxes alone; others are done one by one here."""
    random = np.random.default_rng(0)
    thresholds, numbers = np.array([0.3, 0.5, 0.7]), [1, 2, 9]

    def boxes(count):
        corners = random.uniform(0, 20, (count, 2))
        return np.c_[corners, corners + random.uniform(5, 15, (count, 2))].astype(np.float32)

    truths, found = [boxes(count) for count in counts], [boxes(6) for _ in counts]
    hits = sum(
        eval_recalls([truth], [own], numbers, thresholds) * len(truth)
        for truth, own in zip(truths, found, strict=True)
        if len(truth)
    )
    expected = (hits / sum(counts)).mean(1)
    assert np.allclose(average_recalls(found, truths, numbers, thresholds), expected)
    assert 0 < expected[0] <= expected[-1]


def test_no_images_at_all_have_figures_of_zero(tmp_path):
    file = tmp_path / 'instances.json'
    evaluate(tmp_path, [annotation(1)])
    metric = CocoInstanceMetric(str(file), metric=['bbox', 'segm'])
    metric.dataset_meta = dict(classes=('ant',))
    assert metric.compute_metrics([])['segm_mAP'] == -1  # of no image there is no ground truth


def test_without_a_file_samples_bring_their_instances():
    sample = dict(pred_instances={}, img_id=1, ori_shape=(16, 16))
    with pytest.raises(InputError, match='nothing to compare with: set ann_file'):
        CocoInstanceMetric(metric='segm').process({}, [sample])


# Images


@pytest.mark.parametrize('path', [None, 'x/a.png', 'a.jpg', r'C:\\photos\\a.png'])
@pytest.mark.parametrize('number', [1, '1', 1.0, '0001', np.int64(1), torch.tensor(1)], ids=repr)
def test_images_are_those_of_the_file(tmp_path, number, path):
    sample = dict(img_id=number) | (dict(img_path=path) if path else {})
    assert evaluate(tmp_path, [annotation(1)], sample=sample)['coco/segm_mAP'] == 1


@pytest.mark.parametrize(
    ('sample', 'message'),
    [
        (dict(img_id=2), 'has no image 2: set ann_file of the evaluator'),
        (dict(img_id=2, img_path='x/b.png'), 'has no image 2, x/b.png: set'),
        (dict(img_path='x/b.png'), 'has the image 1 as a.png, which is not x/b.png: set'),
        (dict(ori_shape=(32, 16)), 'says that the image 1, a.png, is 16x16, not 16x32: set'),
    ],
)
def test_an_evaluator_of_other_images_says_so_at_once(tmp_path, sample, message):
    with pytest.raises(InputError, match=f"instances.json: the evaluator's file {message}"):
        evaluate(tmp_path, [annotation(1)], sample=sample)


def file_of(tmp_path, annotations, images=1) -> CocoInstanceMetric:
    content = dict(
        images=[
            dict(id=number, file_name=f'{number}.png', width=16, height=16)
            for number in range(1, images + 1)
        ],
        categories=[dict(id=1, name='ant'), dict(id=2, name='bee')],
        annotations=annotations,
    )
    (tmp_path / 'val.json').write_text(json.dumps(content))
    return CocoInstanceMetric(str(tmp_path / 'val.json'), metric='segm')


def info(number, **others) -> dict:
    """What a data set says of an image."""
    return dict(img_id=number, img_path=f'x/{number}.png', width=16, height=16) | others


@pytest.mark.parametrize(
    ('classes', 'images', 'message'),
    [
        (('ant',), [info(1), info(3)], 'has no image 3, x/3.png'),
        (('ant',), [info(1, img_path='x/7.png')], 'has the image 1 as 1.png, which is not x/7.png'),
        (
            ('ant',),
            [info(2, height=32)],
            'says that the image 2, x/2.png, is 16x16, not 16x32: set',
        ),
        (
            ('ant',),
            [info(1), info(2), info('1', img_path='y/1.png')],
            'x/1.png and y/1.png have one id, 1: evaluate joined data sets',
        ),
        (('Ant',), [info(1)], r"it has no category \['Ant'\]"),
        (('bee',), [info(1)], r"no instance of the classes \('bee',\)"),
    ],
)
def test_data_that_are_not_the_files(tmp_path, classes, images, message):
    metric = file_of(tmp_path, [annotation(1)], images=2)
    with pytest.raises(InputError, match=f'val.json: .*{message}'):
        metric.check_data(classes, images)
    metric.check_data(('bee', 'ant'), [info(2), info('1', height=None)])
    metric.check_data((), [info(2)])  # of a data set that names none


def test_a_file_of_which_nothing_counts(tmp_path):
    metric = file_of(tmp_path, [{**annotation(1), 'iscrowd': 1}, annotation(2, segmentation=[])])
    with pytest.raises(InputError, match=r'left out: 1 without a segmentation, first annotations'):
        metric.check_data(('ant',), [])


def test_a_part_of_the_files_images_is_compared_alone(tmp_path, caplog):
    """As with ``indices`` of the data set: the others would count as missed."""
    annotations = [annotation(1), {**annotation(2), 'image_id': 2}]
    metric = file_of(tmp_path, annotations, images=2)
    metric.dataset_meta = dict(classes=('ant', 'bee'))
    metric.process({}, [dict(pred_instances=square(), img_id=1, ori_shape=(16, 16))])
    assert metric.evaluate(1)['coco/segm_mAP'] == 1
