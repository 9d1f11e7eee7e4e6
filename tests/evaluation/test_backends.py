"""Every backend and mask format gives mmdet's figures; each COCOeval equals pycocotools'."""

import json
import pickle
import sys

import cv2
import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmsolov2.errors import InputError
from mmsolov2.evaluation import CocoInstanceMetric
from mmsolov2.evaluation.coco_instance_metric import find_evaluator
from mmsolov2.evaluation.dump import DumpInstances
from mmsolov2.registry import METRICS
from mmsolov2.structures.masks import encode_rle, tight_boxes

HEIGHT, WIDTH = 90, 130
CLASSES = ('ant', 'bee', 'cat')
TRUTHS = (4, 0, 9, 3, 7)  # annotations an image
FOUND = (12, 5, 0, 320, 40)  # predictions an image


def polygon(random):
    """A polygon (n, 2) around a point, with angles that grow."""
    angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 12)))
    radius = random.uniform(3, 60) * random.uniform(0.5, 1, len(angles))
    points = random.uniform(0, 1, 2) * (WIDTH, HEIGHT)
    points = points + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points.clip(0, (WIDTH, HEIGHT))


def annotation(random, number, image, points):
    """A polygon, or crowd as uncompressed RLE; some with a wrong area or an ignore flag."""
    segmentation = [points.round(2).ravel().tolist()]
    rle = coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH)[0]
    entry = dict(
        id=number,
        image_id=image,
        category_id=int(random.integers(len(CLASSES))),
        segmentation=segmentation,
        bbox=coco_mask.toBbox(rle).tolist(),
        area=float(random.choice([coco_mask.area(rle), 32**2, 500.5])),
        iscrowd=0,
    )
    if random.random() < 0.2:
        pixels = coco_mask.decode(rle).ravel(order='F')
        counts = np.diff(np.flatnonzero(np.diff(pixels)) + 1, prepend=0, append=pixels.size)
        entry.update(iscrowd=1, segmentation=dict(size=[HEIGHT, WIDTH], counts=counts.tolist()))
    if random.random() < 0.2:
        entry.update(ignore=1)
    return entry


def predict(random, outlines, count):
    """Results of ``count`` instances: shifted outlines or others; some scores are equal."""
    masks = np.zeros((count, HEIGHT, WIDTH), np.uint8)
    for mask in masks:
        points = polygon(random)
        if outlines and random.random() < 0.8:
            points = outlines[random.integers(len(outlines))] + random.normal(0, 2, 2)
        cv2.fillPoly(mask, [points.round().astype(np.int32)], 1)
    masks = torch.from_numpy(masks).bool()
    return dict(
        bboxes=tight_boxes(masks),
        scores=torch.from_numpy(random.choice([0.25, 0.5, *random.random(20)], count)).float(),
        labels=torch.from_numpy(random.integers(len(CLASSES), size=count)),
        masks=masks,
    )


def generate(folder, seed):
    """An annotation file with ids from 0, and the data samples of its images, masks as bitmaps."""
    random = np.random.default_rng(seed)
    annotations, samples = [], []
    for image, (truths, found) in enumerate(zip(TRUTHS, FOUND, strict=True)):
        outlines = [polygon(random) for _ in range(truths)]
        annotations += [
            annotation(random, len(annotations) + index, image, outline)
            for index, outline in enumerate(outlines)
        ]
        found = predict(random, outlines, found)
        samples.append(dict(pred_instances=found, img_id=image, ori_shape=(HEIGHT, WIDTH)))
    size = dict(file_name='a.png', height=HEIGHT, width=WIDTH)
    content = dict(
        images=[dict(id=image, **size) for image in range(len(TRUTHS))],
        categories=[dict(id=index, name=name) for index, name in enumerate(CLASSES)],
        annotations=annotations,
    )
    file = folder / 'instances.json'
    file.write_text(json.dumps(content))
    return str(file), samples


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """An annotation file and the data samples of its images."""
    return generate(tmp_path_factory.mktemp('case'), seed=0)


def with_ids_from_1(file):
    """The annotations' ids counted up by one, as CocoInstanceMetric does."""
    content = json.loads(open(file).read())
    for entry in content['annotations']:
        entry['id'] += 1
    return content


def as_rle(sample):
    found = sample['pred_instances']
    return {**sample, 'pred_instances': {**found, 'masks': encode_rle(found['masks'])}}


def evaluate(metric, samples):
    metric.dataset_meta = dict(classes=CLASSES)
    for sample in samples:
        metric.process({}, [sample])
    return metric.evaluate(len(samples))


def theirs(file, samples, folder, **options):
    """What mmdet's CocoMetric says of bitmaps; ids from 1, which it needs."""
    (folder / 'from_1.json').write_text(json.dumps(with_ids_from_1(file)))
    return evaluate(CocoMetric(ann_file=str(folder / 'from_1.json'), **options), samples)


@pytest.mark.parametrize(
    'options',
    [
        dict(metric=['bbox', 'segm'], classwise=True),
        dict(metric=['proposal', 'bbox']),
        dict(metric='segm', proposal_nums=(1, 10, 100), iou_thrs=np.array([0.5, 0.75])),
        dict(metric='segm', proposal_nums=(3, 5, 7), metric_items=['mAP_50', 'AR@1000']),
    ],
)
@pytest.mark.parametrize('backend', ['pycocotools', 'faster', 'hotcoco'])
@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
def test_figures_are_those_of_mmdet(case, tmp_path, options, backend, mask_format):
    file, samples = case
    expected = theirs(file, samples, tmp_path, **options)
    given = samples if mask_format == 'bitmap' else [as_rle(sample) for sample in samples]
    ours = evaluate(CocoInstanceMetric(ann_file=file, backend=backend, **options), given)
    np.testing.assert_equal(ours, expected)  # NaN, a class without annotations, equals itself
    assert len(ours) > 1 and max(ours.values()) > 0.05


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
@pytest.mark.parametrize('use_cats', [0, 1])
@pytest.mark.parametrize('max_dets', [[1, 10, 100], [100, 300, 1000], [3, 5, 7]])
@pytest.mark.parametrize(('backend', 'tolerance'), [('faster', 1e-12), ('hotcoco', 0)])
def test_evaluators_are_exact(case, backend, tolerance, kind, use_cats, max_dets):
    counted = [
        count(find_evaluator(name), case, kind, use_cats, max_dets)
        for name in ('pycocotools', backend)
    ]
    for theirs, ours in zip(*counted, strict=True):
        assert np.shape(ours) == np.shape(theirs) and np.size(ours)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize('seed', range(1, 7))
def test_hotcoco_is_exact_to_the_last_bit_on_other_sets(tmp_path, seed):
    case = generate(tmp_path, seed)
    for kind in ('bbox', 'segm'):
        counted = [
            count(find_evaluator(name), case, kind, 1, [1, 10, 100])
            for name in ('pycocotools', 'hotcoco')
        ]
        for theirs, ours in zip(*counted, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert counted[1][-1][0] > 0.01  # mAP


def count(evaluator, case, kind, use_cats, max_dets):
    """Precision, recall, scores and the summary of all predictions."""
    truth, entries = COCO(), []
    truth.dataset = with_ids_from_1(case[0])
    truth.createIndex()
    for sample in case[1]:
        found = as_rle(sample)['pred_instances']
        for box, score, label, mask in zip(*found.values(), strict=True):
            box[2:] -= box[:2].clone()
            entry = dict(image_id=sample['img_id'], category_id=int(label), score=float(score))
            entries.append(entry | (dict(bbox=box.tolist()) if kind == 'bbox' else {}))
            entries[-1].update(segmentation=mask)
            box[2:] += box[:2]
    counting = evaluator(truth, truth.loadRes(entries), kind)
    counting.params.useCats, counting.params.maxDets = use_cats, max_dets
    counting.evaluate()
    counting.accumulate()
    counting.summarize()
    return *(counting.eval[name] for name in ('precision', 'recall', 'scores')), counting.stats


@pytest.mark.parametrize('backend', ['pycocotools', 'faster', 'hotcoco'])
def test_figures_of_classes_go_by_their_names(case, backend):
    """The file numbers the categories in another order than the model."""
    file, samples = case
    figures = []
    for classes in (CLASSES, ('cat', 'ant', 'bee')):
        metric = CocoInstanceMetric(ann_file=file, metric='segm', classwise=True, backend=backend)
        metric.dataset_meta = dict(classes=classes)
        labels = torch.tensor([classes.index(name) for name in CLASSES])
        for sample in samples:
            found = sample['pred_instances']
            found = {**found, 'labels': labels[found['labels']]}
            metric.process({}, [{**sample, 'pred_instances': found}])
        figures.append(metric.evaluate(len(samples)))
    assert figures[0] == figures[1]
    assert len({figures[0][f'coco/{name}_precision'] for name in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize('backend', ['pycocotools', 'faster', 'hotcoco'])
def test_evaluating_twice_gives_the_same(case, backend):
    file, samples = case
    metric = CocoInstanceMetric(ann_file=file, metric=['bbox', 'segm'], backend=backend)
    assert evaluate(metric, samples) == evaluate(metric, samples)


@pytest.mark.parametrize('backend', ['pycocotools', 'faster', 'hotcoco'])
def test_nothing_found_has_figures_of_zero(case, backend):
    """So that the best checkpoint and early stopping have something to go by."""
    file, _ = case
    nothing = predict(np.random.default_rng(0), [], 0)
    sample = dict(pred_instances=nothing, img_id=0, ori_shape=(HEIGHT, WIDTH))
    metric = CocoInstanceMetric(
        ann_file=file, metric=['bbox', 'segm', 'proposal'], classwise=True, backend=backend
    )
    figures = evaluate(metric, [sample, {**sample, 'img_id': 1}])
    assert {'coco/bbox_mAP', 'coco/segm_mAP_50', 'coco/AR@100', 'coco/ant_precision'} < set(figures)
    assert all(
        value == (-1 if name.endswith('_l') else 0)
        for name, value in figures.items()
        if '@' not in name
    )  # no instance here is large
    assert figures['coco/AR@100'] == figures['coco/AR_m@1000'] == 0


@pytest.mark.parametrize('backend', ['pycocotools', 'faster', 'hotcoco'])
def test_ground_truth_from_the_samples(case, backend):
    """Without an annotation file the samples bring their instances."""
    _, samples = case
    kept = [
        {
            **sample,
            'instances': [dict(bbox=[5, 5, 60, 70], bbox_label=1, mask=[[5, 5, 60, 5, 60, 70]])],
        }
        for sample in samples
    ]
    options = dict(metric=['bbox', 'segm'])
    ours = evaluate(CocoInstanceMetric(backend=backend, **options), kept)
    assert ours == evaluate(CocoMetric(**options), kept) and ours['coco/segm_mAP_50'] > 0


@pytest.mark.parametrize('format_only', [True, False])
def test_files_of_predictions_are_those_of_mmdet(case, tmp_path, format_only):
    file, samples = case
    options = dict(metric=['bbox', 'segm'], format_only=format_only)
    theirs(file, samples, tmp_path, **options, outfile_prefix=str(tmp_path / 'theirs'))
    prefix = str(tmp_path / 'ours')
    metric = CocoInstanceMetric(ann_file=file, backend='faster', **options, outfile_prefix=prefix)
    assert (evaluate(metric, samples) == {}) == format_only
    for kind in ('bbox', 'segm'):
        written = json.loads((tmp_path / f'ours.{kind}.json').read_text())
        assert written == json.loads((tmp_path / f'theirs.{kind}.json').read_text())
        assert len(written) == sum(FOUND)


def test_predictions_stay_as_they_were_handed_over(case):
    file, samples = case
    masks = samples[0]['pred_instances']['masks']
    evaluate(CocoInstanceMetric(ann_file=file, metric='segm'), samples)
    assert samples[0]['pred_instances']['masks'] is masks and isinstance(masks, torch.Tensor)


def test_dumped_bitmaps_are_rle(case, tmp_path):
    _file, samples = case
    dump = DumpInstances(out_file_path=str(tmp_path / 'out.pkl'))
    evaluate(dump, [{**sample, 'gt_instances': {}} for sample in samples])
    (first, *_) = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    assert first['pred_instances']['masks'] == as_rle(samples[0])['pred_instances']['masks']


def test_pycocotools_is_the_default(case):
    assert CocoInstanceMetric(ann_file=case[0]).evaluator is COCOeval


def test_an_unknown_backend_is_refused():
    config = dict(type='mmsolov2.CocoInstanceMetric', backend='fast')
    with pytest.raises(InputError, match=r"one of .*'faster', 'hotcoco'\), not 'fast'"):
        METRICS.build(config)


@pytest.mark.parametrize(
    ('backend', 'ours', 'package', 'requirement'),
    [
        ('faster', 'faster_evaluator', 'faster_coco_eval', 'faster-coco-eval>=1.8,<2'),
        ('hotcoco', 'hot_evaluator', 'hotcoco', 'hotcoco>=1.3,<2'),
    ],
)
def test_a_missing_package_is_named(monkeypatch, backend, ours, package, requirement):
    monkeypatch.delitem(sys.modules, f'mmsolov2.evaluation.{ours}', raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"pip install '{requirement}'"):
        CocoInstanceMetric(backend=backend)


@pytest.mark.parametrize('backend', ['faster', 'hotcoco'])
def test_several_processes_are_for_pycocotools(backend):
    with pytest.raises(InputError, match=f"use_mp_eval=True does not go with backend='{backend}'"):
        CocoInstanceMetric(backend=backend, use_mp_eval=True)


@pytest.mark.parametrize('backend', ['faster', 'hotcoco'])
@pytest.mark.parametrize('number', ['a', -1, 2**53])
@pytest.mark.parametrize('entries', ['images', 'categories'])
def test_ids_that_are_no_numbers_are_refused(case, tmp_path, entries, number, backend):
    content = json.loads(open(case[0]).read())
    key = dict(images='image_id', categories='category_id')[entries]
    for one in content['annotations']:
        one[key] = number if one[key] == 0 else one[key]
    content[entries][0]['id'] = number
    file = tmp_path / 'odd.json'
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r'odd\.json: .*not id .*; set backend=.py'):
        CocoInstanceMetric(ann_file=str(file), backend=backend)
    CocoInstanceMetric(ann_file=str(file))
