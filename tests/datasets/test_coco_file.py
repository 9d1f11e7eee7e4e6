"""COCO files as exports write them: nothing is lost in silence, and errors name file and entry."""

import copy
import gzip
import json
import logging
import math
import re

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.logging import MMLogger
from pycocotools import mask as coco_mask

from mmsolov2.datasets.coco_file import CheckedCOCO
from mmsolov2.datasets.segmentation import each_runs, without_empty_runs
from mmsolov2.errors import InputError
from mmsolov2.evaluation import CocoInstanceMetric
from mmsolov2.structures.masks import encode_rle

CLASSES = ('left', 'right')
HEIGHT, WIDTH = 48, 64
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs'),
]


def square(x: int) -> list[int]:
    """16 pixels wide and high, from column x and row 8 on."""
    return [x, 8, x + 16, 8, x + 16, 24, x, 24]


def made() -> dict:
    """Two images with two squares each."""
    starts = {1: (4, 30), 2: (8, 40)}
    annotations = [
        dict(
            id=10 * image + category,
            image_id=image,
            category_id=category,
            bbox=[x, 8, 16, 16],
            area=256.0,
            iscrowd=0,
            segmentation=[square(x)],
        )
        for image, columns in starts.items()
        for category, x in enumerate(columns, 1)
    ]
    size = dict(height=HEIGHT, width=WIDTH)
    return dict(
        images=[dict(id=image, file_name=f'{image}.png', **size) for image in starts],
        annotations=annotations,
        categories=[dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)],
    )


def write(folder, data) -> str:
    for name in ('1.png', '2.png'):
        cv2.imwrite(str(folder / name), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    file = folder / 'a.json'
    file.write_text(json.dumps(data))
    return str(file)


def build(file: str, **options):
    settings = dict(
        type='mmsolov2.CocoInstanceDataset',
        ann_file=file,
        data_prefix=dict(img=file.rpartition('/')[0]),
        metainfo=dict(classes=CLASSES),
        pipeline=copy.deepcopy(PIPELINE),
    )
    return DATASETS.build({**settings, **options})


def trained(dataset) -> list[tuple]:
    """What each instance is trained on: image, class, box, and pixels of its mask."""
    found = []
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        instances = sample.gt_instances
        rows = zip(
            instances.labels.tolist(), instances.bboxes.tensor.tolist(), instances.masks.masks
        )
        for label, box, mask in rows:
            assert box_around(mask) == box
            found.append((sample.img_path[-5], dataset.metainfo['classes'][label], int(mask.sum())))
    return found


def box_around(mask) -> list[int]:
    x, y, width, height = cv2.boundingRect(mask)
    return [x, y, x + width, y + height]


ALL = [('1', 'left', 256), ('1', 'right', 256), ('2', 'left', 256), ('2', 'right', 256)]


def evaluated(file: str, classes=CLASSES, **options) -> dict:
    """Figures of perfect predictions of ``made()``, labels in the order of ``classes``."""
    metric = CocoInstanceMetric(file, **{'metric': ['bbox', 'segm'], **options})
    metric.dataset_meta = dict(classes=classes)
    for image in (1, 2):
        own = [one for one in made()['annotations'] if one['image_id'] == image]
        masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
        for mask, one in zip(masks, own):
            mask[8:24, one['bbox'][0] : one['bbox'][0] + 16] = True
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (one['bbox'] for one in own)]
        found = dict(
            bboxes=torch.tensor(boxes).float(),
            scores=torch.ones(2),
            labels=torch.tensor([classes.index(CLASSES[one['category_id'] - 1]) for one in own]),
            masks=encode_rle(masks),
        )
        metric.process({}, [dict(pred_instances=found, img_id=image, ori_shape=(HEIGHT, WIDTH))])
    return metric.evaluate(2)


def assert_all_count(folder, data) -> None:
    """All four instances train, each at its place, and are the ground truth of an evaluation."""
    file = write(folder, data)
    assert trained(build(file)) == ALL
    figures = evaluated(file)
    assert figures['coco/segm_mAP'] == figures['coco/bbox_mAP'] == figures['coco/segm_mAP_s'] == 1


@pytest.fixture
def warnings(caplog, monkeypatch):
    """The warnings that mmengine logs, which it keeps from the root logger."""
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'handlers', [*logger.handlers, caplog.handler])
    caplog.set_level(logging.WARNING)
    return lambda: [record.message for record in caplog.records if 'left out' in record.message]


def test_a_clean_file_counts_whole(tmp_path, warnings):
    assert_all_count(tmp_path, made())
    assert not warnings()


# Ids


@pytest.mark.parametrize('convert', [str, float, '{:012}'.format], ids=['text', 'float', 'zeros'])
@pytest.mark.parametrize(
    ('entries', 'key'),
    [
        ('images', 'id'),
        ('annotations', 'image_id'),
        ('annotations', 'category_id'),
        ('categories', 'id'),
    ],
)
def test_ids_that_differ_only_in_type_are_one(tmp_path, entries, key, convert):
    data = made()
    for entry in data[entries]:
        entry[key] = convert(entry[key])
    assert_all_count(tmp_path, data)


def test_texts_that_differ_in_zeros_are_two_ids(tmp_path):
    data = made()
    for one, text in zip(data['images'], ('01', '1'), strict=True):
        one['id'] = text
    for one in data['annotations']:
        one['image_id'] = {1: '01', 2: '1'}[one['image_id']]
    assert trained(build(write(tmp_path, data))) == ALL


@pytest.mark.parametrize('number', [3, '3', 'x', -1, 10**30])
def test_a_category_that_is_not_listed_is_named(tmp_path, number):
    data = made()
    data['annotations'][2]['category_id'] = number
    file = write(tmp_path, data)
    for read in (build, evaluated):
        with pytest.raises(InputError) as caught:
            read(file)
        assert str(caught.value) == (
            f'{file}: annotations[2] (id 21) has the category_id {number!r}, which no category '
            'has: the ids are 1, 2'
        )


@pytest.mark.parametrize('number', [1, '1', 1.0])
def test_images_of_one_id_are_named_with_the_first_annotation(tmp_path, number):
    data = made()
    data['images'][1]['id'] = number
    data['annotations'] = data['annotations'][::-1]
    file = write(tmp_path, data)
    for read in (build, evaluated):
        with pytest.raises(InputError) as caught:
            read(file)
        assert str(caught.value).startswith(
            f'{file}: images[1] has the id {number!r} of another one (1.png and 2.png), '
            'annotations[2] (id 12) first: give each its own'
        )


def test_categories_of_one_id_or_one_name(tmp_path):
    data = made()
    data['categories'].append(dict(id='2', name='middle'))
    with pytest.raises(InputError, match=r"categories\[2\] has the id '2' of another one \(right"):
        build(write(tmp_path, data))
    data['categories'][2] = dict(id=3, name='right')
    for read in (build, evaluated):
        with pytest.raises(
            InputError, match="two categories have the name 'right', with the ids 2"
        ):
            read(write(tmp_path, data))


@pytest.mark.parametrize('classes', [CLASSES, CLASSES[::-1]])
def test_categories_in_any_order(tmp_path, classes):
    data = made()
    data['categories'].reverse()
    file = write(tmp_path, data)
    assert trained(build(file, metainfo=dict(classes=classes))) == ALL
    figures = evaluated(file, classes, classwise=True)
    assert figures['coco/segm_mAP'] == figures['coco/left_precision'] == 1


def test_another_numbering_of_the_same_categories(tmp_path):
    data = made()
    data['categories'] = [dict(id=7, name='right'), dict(id=5, name='left')]
    for one in data['annotations']:
        one['category_id'] = {1: 5, 2: 7}[one['category_id']]
    assert_all_count(tmp_path, data)


# Boxes and areas

BOXES = {
    'missing': None,
    'zeros': [0, 0, 0, 0],
    'fractions of the image': [0.1, 0.2, 0.25, 0.33],
    'not a number': [math.nan, 8, 16, 16],
    'infinite': [4, 8, math.inf, 16],
    'outside': [500, 500, 16, 16],
    'turned': [20, 24, -16, -16],
    'thin': [4, 8, 0.4, 16],
    'of something else': [0, 30, 10, 10],
    'of the whole image': [0, 0, 64, 48],
}


@pytest.mark.parametrize('bbox', BOXES.values(), ids=BOXES)
def test_a_box_that_contradicts_the_mask_is_the_masks(tmp_path, bbox):
    data = made()
    for one in data['annotations']:
        one['bbox'] = bbox
    assert_all_count(tmp_path, data)


@pytest.mark.parametrize('area', [None, 0, -5, math.nan, math.inf, 1e9, 0.08, 1], ids=str)
def test_an_area_that_contradicts_the_mask_is_the_masks(tmp_path, area):
    data = made()
    for one in data['annotations']:
        one['area'] = area
    assert_all_count(tmp_path, data)
    truth = CheckedCOCO(write(tmp_path, data)).dataset['annotations']
    assert [one['area'] for one in truth] == [256] * 4


def test_boxes_and_areas_near_the_masks_stay(tmp_path):
    """They decide on COCO's sizes and on mmdet's targets."""
    data = made()
    data['annotations'][0].update(bbox=[3.5, 7.5, 17.5, 16.25], area=199.5)
    first = CheckedCOCO(write(tmp_path, data)).dataset['annotations'][0]
    assert (first['bbox'], first['area']) == ([3.5, 7.5, 17.5, 16.25], 199.5)


def test_a_mask_outside_of_its_image_is_left_out(tmp_path, warnings):
    data = made()
    data['annotations'][3].update(segmentation=[square(70)], bbox=[70, 8, 16, 16])
    assert trained(build(write(tmp_path, data))) == ALL[:3]
    (line,) = warnings()
    assert line.endswith('1 without a pixel in their image, first annotations[3] (id 22)')


POLYLINES = {
    'a line of three points': lambda x: [x, 8, x + 8, 16, x + 16, 24],
    'there and back': lambda x: [x, 8, x + 16, 24, x, 8],
    'a triangle outside, whose box is not': lambda x: [-40, 30, -40, -40, 30, -40],
}


@pytest.mark.parametrize('polygon', POLYLINES.values(), ids=POLYLINES)
def test_masks_without_a_pixel_are_no_instances(tmp_path, warnings, polygon):
    data = made()
    one = data['annotations'][0]
    one['segmentation'] = [polygon(one['bbox'][0])]
    if one['segmentation'][0][0] < 0:
        one.update(bbox=[0, 0, 30, 30], area=900)
    build(write(tmp_path, data))
    (line,) = warnings()
    assert line.endswith('1 without a pixel in their image, first annotations[0] (id 11)')
    for one in data['annotations']:
        one.update(segmentation=[polygon(one['bbox'][0])], area=256)
    with pytest.raises(InputError, match='only 0 of 4 annotations .* 4 without a pixel'):
        build(write(tmp_path, data))


def test_thin_boxes_stay_in_figures_and_train(tmp_path):
    """mmdet's data set drops them; its figures count them as they are."""
    data = made()
    data['annotations'][0].update(
        bbox=[4, 8.1, 16, 0.9], area=14.4, segmentation=[[4, 8.1, 20, 8.1, 20, 9, 4, 9]]
    )
    file = write(tmp_path, data)
    assert CheckedCOCO(file).dataset['annotations'][0]['bbox'] == [4, 8.1, 16, 0.9]
    assert len(build(file).get_data_info(0)['instances']) == 2


def test_loose_boxes_stay_where_boxes_alone_are_evaluated(tmp_path, warnings):
    data = made()
    for one in data['annotations']:
        one['bbox'] = [one['bbox'][0], 8, 16, 40]
    file = write(tmp_path, data)
    boxes = CheckedCOCO(file, boxes_alone=True)
    assert all(one['bbox'][3] == 40 for one in boxes.dataset['annotations'])
    assert all(one['bbox'][3] == 16 for one in CheckedCOCO(file).dataset['annotations'])
    build(file)
    assert not warnings()  # nothing is left out, but:


def test_boxes_that_gave_way_are_counted(tmp_path, caplog, monkeypatch):
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'handlers', [*logger.handlers, caplog.handler])
    data = made()
    data['annotations'][1]['bbox'] = [0, 30, 10, 10]
    data['annotations'][2]['segmentation'].append([1, 2])
    file = write(tmp_path, data)
    build(file)
    (line,) = (text for text in caplog.messages if 'mended' in text)
    assert line == (
        f'{file}: mended 1 that lost parts which are no polygons, first annotations[2] (id 21), '
        '1 whose boxes contradict their masks, first annotations[1] (id 12)'
    )


# What is left out


def test_one_line_counts_every_reason_alike_in_training_and_evaluation(tmp_path, warnings):
    data = made()
    more = [copy.deepcopy(data['annotations'][0]) for _ in range(4)]
    more[0].update(iscrowd=1)
    more[1].update(ignore=1)
    more[2].update(segmentation=[])
    more[3].update(image_id=77)
    data['annotations'] += more
    file = write(tmp_path, data)
    assert trained(build(file)) == ALL
    CocoInstanceMetric(file, metric='segm')
    lines = warnings()
    assert len(lines) == 2 and lines[0] == lines[1]
    assert lines[0].startswith(f'{file}: left out 4 annotations of 8: ')
    for reason in (
        '1 crowd regions (iscrowd=1), first annotations[4] (id 11)',
        '1 marked with ignore, first annotations[5] (id 11)',
        '1 without a segmentation, first annotations[6] (id 11)',
        '1 of images that the file does not list, first annotations[7] (id 11)',
    ):
        assert reason in lines[0]


def test_training_data_that_lose_more_than_half_stop(tmp_path):
    data = made()
    for one in data['annotations'][:2]:
        one['iscrowd'] = 1
    assert trained(build(write(tmp_path, data))) == ALL[2:]  # half of them
    data['annotations'][2]['iscrowd'] = 1
    file = write(tmp_path, data)
    with pytest.raises(InputError) as caught:
        build(file)
    assert str(caught.value).startswith(
        f"{file}: only 1 of 4 annotations of the classes ('left', 'right') would train; left out: "
        '3 crowd regions (iscrowd=1), first annotations[0] (id 11).'
    )
    assert 'max_left_out=1' in str(caught.value)
    assert (
        trained(build(file, max_left_out=0.75)) == trained(build(file, max_left_out=1)) == ALL[3:]
    )
    assert len(build(file, test_mode=True)) == 2


def test_training_data_without_an_instance_stop(tmp_path):
    file = write(tmp_path, {**made(), 'annotations': []})
    with pytest.raises(InputError, match='only 0 of 0 annotations'):
        build(file)
    with pytest.raises(InputError, match='only 0 of 0 annotations'):
        build(file, max_left_out=0.99)
    assert len(build(file, max_left_out=1)) == 2


def test_other_categories_are_no_loss(tmp_path, warnings):
    """A person who asks for one class of many has asked for it; the line says how many."""
    data = made()
    data['annotations'][1]['category_id'] = 1
    data['categories'].append(dict(id=3, name='middle'))
    file = write(tmp_path, data)
    found = trained(build(file, metainfo=dict(classes=('right',))))
    assert found == ALL[3:]
    (line,) = warnings()
    assert line.endswith('left out 3 annotations of 4: 3 of categories that are no classes')


def test_images_that_filter_cfg_leaves_out_are_counted(tmp_path, warnings):
    """And are no loss: the config has asked for it."""
    data = made()
    data['images'].append(dict(data['images'][0], id=3))
    data['annotations'] += [dict(one, image_id=3) for one in data['annotations']]
    for image in data['images'][:2]:
        image.update(height=30, width=63)
    dataset = build(write(tmp_path, data), filter_cfg=dict(min_size=32))
    assert len(dataset) == 1
    (line,) = warnings()
    assert "4 of images left out by filter_cfg={'min_size': 32}" in line


def test_what_other_classes_lose_is_no_loss(tmp_path, warnings):
    data = made()
    data['categories'].append(dict(id=3, name='face'))
    data['annotations'] += [
        dict(data['annotations'][0], category_id=3, **change)
        for change in (dict(segmentation=[]), dict(iscrowd=1), dict(image_id=9))
        for _ in range(9)
    ]
    file = write(tmp_path, data)
    assert trained(build(file)) == ALL
    (line,) = warnings()
    assert line == f'{file}: left out 27 annotations of 31: 27 of categories that are no classes'
    with pytest.raises(InputError, match='only 0 of 27 annotations of the classes'):
        build(file, metainfo=dict(classes=('face',)))


# Types


WRONG = [
    *(('images', 'id', value) for value in (None, [], {}, True, 1.5, math.nan, '')),
    *(('images', 'file_name', value) for value in (None, 3, [], '', ' ')),
    *(('images', 'height', value) for value in (None, '48', [], 0, -1, 48.5, math.inf, 1e30, True)),
    *(('images', 'width', value) for value in (None, 'wide', {}, math.nan)),
    *(('categories', 'id', value) for value in (None, [], 1.5)),
    *(('categories', 'name', value) for value in (None, 3, ['left'])),
    *(('annotations', 'image_id', value) for value in (None, [], {}, math.inf, False)),
    *(('annotations', 'category_id', value) for value in (None, [], 'left', math.nan)),
    *(('annotations', 'bbox', value)
      for value in ([], 'x', 5, [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, '3', 4], [[1, 2], [3, 4]], {})),
    *(('annotations', 'area', value) for value in ('256', [], {}, True)),
    *(('annotations', 'iscrowd', value) for value in ('0', {}, [], 2, math.nan)),
    *(('annotations', 'ignore', value) for value in ('0', 'false', [], 2)),
]  # fmt: skip


@pytest.mark.parametrize(('entries', 'key', 'value'), WRONG)
def test_a_value_of_a_wrong_type_is_named(tmp_path, entries, key, value):
    data = made()
    data[entries][1][key] = value
    file = write(tmp_path, data)
    names = {
        'images': 'images[1]' if key == 'id' else 'image 2',
        'categories': 'categories[1]' if key == 'id' else 'category 2',
        'annotations': 'annotations[1] (id 12)',
    }
    for read in (build, evaluated) if key != 'file_name' else (build,):
        with pytest.raises(InputError) as caught:
            read(file)
        assert str(caught.value).startswith(f'{file}: {names[entries]} ')
        assert key in str(caught.value)


@pytest.mark.parametrize('key', ['bbox', 'area', 'iscrowd', 'id', 'ignore'])
def test_null_is_missing(tmp_path, key):
    data = made()
    for one in data['annotations']:
        one[key] = None
    assert_all_count(tmp_path, data)


def test_sides_may_be_written_as_floats(tmp_path):
    data = made()
    for image in data['images']:
        image.update(height=48.0, width=64.0)
    assert_all_count(tmp_path, data)


@pytest.mark.parametrize('key', ['images', 'annotations', 'categories'])
@pytest.mark.parametrize('value', [3, 'x', {}, [3], [None], [[]]], ids=str)
def test_lists_of_objects_are_that(tmp_path, key, value):
    file = write(tmp_path, {**made(), key: value})
    for read in (build, evaluated):
        with pytest.raises(InputError, match=f'a.json: .*{key}'):
            read(file)


# Segmentations

FORMS = {
    'flat': lambda p: p,
    'pairs': lambda p: [[x, y] for x, y in zip(p[::2], p[1::2])],
    'pairs in a list': lambda p: [[[x, y] for x, y in zip(p[::2], p[1::2])]],
    'points': lambda p: [dict(x=x, y=y) for x, y in zip(p[::2], p[1::2])],
    'points in a list': lambda p: [[dict(x=x, y=y) for x, y in zip(p[::2], p[1::2])]],
    'texts': lambda p: [[str(number) for number in p]],
    'flat texts': lambda p: [f'{number}.0' for number in p],
    'a text of JSON': lambda p: json.dumps([p]),
    'RLE in a list': lambda p: [rle(p)],
    'RLE without a size': lambda p: dict(counts=rle(p)['counts']),
    'RLE with a size of floats': lambda p: dict(rle(p), size=[48.0, 64.0]),
    'RLE with runs of no pixels': lambda p: dict(rle(p), counts=with_empty_runs(rle(p)['counts'])),
    'compressed RLE': lambda p: compressed(p),  # noqa: PLW0108
    'RLE with runs of floats': lambda p: dict(
        rle(p), counts=[float(run) for run in rle(p)['counts']]
    ),
    'compressed RLE as str of bytes': lambda p: dict(
        compressed(p), counts=str(compressed(p)['counts'].encode())
    ),
    'with a broken part': lambda p: [p, [1, 2], [5] * 7, 'x'],
}


def rle(polygon) -> dict:
    """Uncompressed RLE of a square."""
    runs = [polygon[0] * HEIGHT + 8, *[16, HEIGHT - 16] * 15, 16]
    return dict(size=[HEIGHT, WIDTH], counts=[*runs, HEIGHT * WIDTH - sum(runs)])


def with_empty_runs(runs: list) -> list:
    return [0, 0, *runs[:3], 0, 0, *runs[3:]]


def compressed(polygon, runs=None) -> dict:
    """COCO's compressed RLE, as JSON has it."""
    runs = dict(size=[HEIGHT, WIDTH], counts=runs or rle(polygon)['counts'])
    found = coco_mask.frPyObjects(runs, HEIGHT, WIDTH)
    return dict(found, counts=found['counts'].decode())


@pytest.mark.parametrize('form', FORMS.values(), ids=FORMS)
def test_segmentations_of_another_shape_are_taken(tmp_path, form):
    data = made()
    for one in data['annotations']:
        one['segmentation'] = form(one['segmentation'][0])
    assert_all_count(tmp_path, data)


@pytest.mark.parametrize(
    ('segmentation', 'shape'),
    [
        ([[4, 8, 20, 24]], '1 x 4 x number'),
        ([4, 8, 20, 24], '4 x number'),
        ([[0.1, 0.2, 0.3, 0.2, 0.3, 0.4]], '1 x 6 x number, fractions of the image or'),
        (
            [[n for k in range(0, 8, 2) for n in (*square(4)[k : k + 2], 2)]],
            '1 x 12 x number, fractions of the image or three numbers a point',
        ),
        (
            [[n for k in range(0, 8, 2) for n in (*square(4)[k : k + 2], 255)]],
            '1 x 12 x number, frac',
        ),
        ('4 8 20 24', '4 x text'),
        ('masks/1.png', 'text'),
        (True, 'true'),
        (dict(points=[1, 2]), r"object of \['points'\]"),
        ([[[[4, 8], [20, 8], [20, 24]]]], '1 x 1 x 3 x 2 x number'),
    ],
)
def test_segmentations_that_can_be_read_in_no_or_several_ways_are_reported(
    tmp_path, warnings, segmentation, shape
):
    data = made()
    data['annotations'][0].update(segmentation=segmentation, bbox=None)
    assert trained(build(write(tmp_path, data))) == ALL[1:]
    (line,) = warnings()
    pattern = rf'neither polygons nor RLE, first annotations\[0\] \(id 11\): {shape}'
    assert re.search(pattern, line), line


READINGS = {
    'x, y, visible': lambda p: [[n for k in range(0, 8, 2) for n in (*p[k : k + 2], 2)]],
    'x, y, 255': lambda p: [[n for k in range(0, 8, 2) for n in (*p[k : k + 2], 255)]],
    'x, y, confidence': lambda p: [[n for k in range(0, 8, 2) for n in (*p[k : k + 2], 0.93)]],
    'fractions': lambda p: [[n / (WIDTH, HEIGHT)[k % 2] for k, n in enumerate(p)]],
    'percents': lambda p: [[100 * n / (WIDTH, HEIGHT)[k % 2] for k, n in enumerate(p)]],
    'all x, all y': lambda p: [[*p[::2], *p[:4:2]], [*p[1::2], *p[1:5:2]]],
    'y before x': lambda p: [[n for k in range(0, 8, 2) for n in (p[k + 1], p[k])]],
}


@pytest.mark.parametrize('form', READINGS.values(), ids=READINGS)
def test_a_box_says_how_numbers_are_to_be_read(tmp_path, form):
    data = made()
    for one in data['annotations']:
        if one['bbox'][0] != 8:  # there x and y are alike
            one['segmentation'] = form(one['segmentation'][0])
    assert_all_count(tmp_path, data)


def test_a_polygon_whose_box_says_so_is_one(tmp_path):
    """Every third number is 0, 1 or 2, but the box is that of the points in pairs."""
    data = made()
    polygon = [30, 40, 0, 20, 20, 1, 30, 9, 2, 30, 30, 1]
    data['annotations'][0].update(segmentation=[polygon], bbox=[0, 1, 30, 39])
    truth = CheckedCOCO(write(tmp_path, data))
    assert len(truth.anns) == 4 and truth.anns[1]['segmentation'] == [polygon]
    data['annotations'][0].update(bbox=[20, 20, 9, 9])
    assert len(CheckedCOCO(write(tmp_path, data)).anns) == 3


def test_a_polygon_around_more_pixels_than_memory_has_is_none(tmp_path, warnings):
    data = made()
    data['annotations'][0]['segmentation'] = [
        [k if k % 2 else 9e5 * (-1) ** (k // 2) for k in range(400)]
    ]
    assert trained(build(write(tmp_path, data))) == ALL[1:]
    assert 'first annotations[0] (id 11): 1 x 400 x number' in warnings()[0]


def test_what_is_no_number_is_named(tmp_path, warnings):
    data = made()
    data['annotations'][0]['segmentation'] = [[4, 8, 20, 8, 20, 24, None, 24]]
    build(write(tmp_path, data))
    assert '1 x 8 x number, with null' in warnings()[0]


# RLE


def faulty(name: str) -> object:
    good = rle(square(4))['counts']
    return {
        'too many': [*good[:-1], good[-1] + 5000],
        'too few': good[:-1],
        'negative': [-8, good[0] + 8, *good[1:]],
        'fractions': [good[0] + 0.5, good[1] - 0.5, *good[2:]],
        'texts': list(map(str, good)),
        'null': [None, *good],
        'flags': [True, *good],
        'an object': dict(a=1),
        'a number': 7,
        'compressed, too many': compressed([], [*good[:-1], good[-1] + 5000])['counts'],
        'compressed, too few': compressed([], good[:-1])['counts'],
        'compressed, cut off': compressed(square(4))['counts'][:-1] + 'P',
        'compressed, other characters': 'Ünicode' + compressed(square(4))['counts'],
        'compressed, no such characters': '~~~' + compressed(square(4))['counts'],
        'compressed, endless': 'o' * 100 + '0',
    }[name]


@pytest.mark.parametrize('name', [
    'too many', 'too few', 'negative', 'fractions', 'texts', 'null', 'flags', 'an object',
    'a number', 'compressed, too many', 'compressed, too few', 'compressed, cut off',
    'compressed, other characters', 'compressed, no such characters', 'compressed, endless',
])  # fmt: skip
def test_rle_that_does_not_add_up_is_named(tmp_path, name):
    data = made()
    data['annotations'][2]['segmentation'] = dict(size=[HEIGHT, WIDTH], counts=faulty(name))
    file = write(tmp_path, data)
    for read in (build, evaluated):
        with pytest.raises(InputError) as caught:
            read(file)
        assert str(caught.value).startswith(
            f'{file}: annotations[2] (id 21), image 2, has RLE with'
        )


def test_compressed_runs_are_decoded_as_by_pycocotools():
    random = np.random.default_rng(0)
    texts, expected = [], []
    for index in range(300):
        height, width = random.integers(1, 60, 2)
        mask = random.random((height, width)) < random.choice([0, 0.02, 0.5, 1])
        if index % 2:
            mask = mask.repeat(random.integers(1, 9), 0).repeat(random.integers(1, 9), 1)
        flat = mask.ravel('F')
        runs = np.diff(np.flatnonzero(np.diff(flat)) + 1, prepend=0, append=flat.size).tolist()
        expected.append([0, *runs] if flat[0] else runs)
        texts.append(coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))['counts'])
    huge = dict(size=[60000, 60000], counts=[3_000_000_000, 600_000_000])
    texts.append(coco_mask.frPyObjects(huge, 60000, 60000)['counts'])
    expected.append(huge['counts'])
    assert [runs.tolist() for runs in each_runs(texts)] == expected


@pytest.mark.parametrize(
    ('runs', 'expected'),
    [
        ([3, 4, 5], [3, 4, 5]),
        ([0, 4, 5], [0, 4, 5]),
        ([0, 0, 5], [5]),
        ([3, 0, 5, 2], [8, 2]),
        ([3, 4, 0, 5, 1], [3, 9, 1]),
        ([3, 0, 0, 5, 0], [3, 5]),
    ],
)
def test_runs_of_no_pixels_are_merged(runs, expected):
    assert without_empty_runs(runs) == expected


def test_rle_that_the_pipeline_would_leave_out(tmp_path):
    data = made()
    data['annotations'][0]['segmentation'] = rle(square(4))
    file = write(tmp_path, data)
    pipeline = [PIPELINE[0], dict(PIPELINE[1], poly2mask=False), PIPELINE[2]]
    with pytest.raises(InputError, match=f'{file}: 1 annotations are RLE, .* poly2mask=False'):
        build(file, pipeline=pipeline)
    data['annotations'][0].update(iscrowd=1)
    assert len(build(write(tmp_path, data), pipeline=pipeline)) == 2


# Steps that lose masks


@pytest.mark.parametrize(
    'step',
    [
        dict(type='RandomShift'),
        dict(type='RandomApply', transforms=[dict(type='RandomShift')]),
        dict(
            type='RandomChoice',
            transforms=[[dict(type='RandomFlip', prob=1.0)], [dict(type='RandomShift')]],
        ),
        dict(type='RandomAffine'),
    ],
)
def test_steps_that_do_not_move_masks_are_named(tmp_path, step):
    file = write(tmp_path, made())
    with pytest.raises(InputError, match=f'{file}: the step Random(Shift|Affine) of its pipeline'):
        build(file, pipeline=[*PIPELINE[:2], step, PIPELINE[2]])


@TRANSFORMS.register_module()
class Halved(BaseTransform):
    """A step of a person's own that halves the image, and says nothing of it."""

    def transform(self, results: dict) -> dict:
        return {**results, 'img': results['img'][::2, ::2]}


def test_a_step_that_changes_the_image_and_not_its_masks(tmp_path):
    file = write(tmp_path, made())
    dataset = build(file, pipeline=[*PIPELINE[:2], dict(type='Halved'), PIPELINE[2]])
    message = '1.png: the pipeline made an image of 24x32, but masks of 48x64: one of its steps'
    with pytest.raises(InputError, match=message):
        dataset[0]
    late = [PIPELINE[0], dict(type='Halved'), *PIPELINE[1:]]  # as in test pipelines
    assert len(build(file, pipeline=late, test_mode=True)[0]['data_samples'].gt_instances) == 2


def test_what_a_step_refuses_names_the_annotation_file_too(tmp_path):
    data = made()
    data['images'][1].update(width=63)
    file = write(tmp_path, data)
    pipeline = [PIPELINE[0], dict(type='mmsolov2.MatchAnnotatedSize'), *PIPELINE[1:]]
    dataset = build(file, pipeline=pipeline)
    assert len(dataset[0]['data_samples'].gt_instances) == 2
    with pytest.raises(InputError, match=f'2.png: .* annotations say 63x48: .*listed in {file}'):
        dataset[1]


# Files


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-32'])
def test_files_in_other_encodings_are_read(tmp_path, encoding):
    data = made()
    data['categories'][0]['name'] = 'lëft'
    file = write(tmp_path, data)
    (tmp_path / 'a.json').write_bytes(json.dumps(data, ensure_ascii=False).encode(encoding))
    found = trained(build(file, metainfo=dict(classes=('lëft', 'right'))))
    assert [name for _, name, _ in found] == ['lëft', 'right'] * 2


@pytest.mark.parametrize(
    ('start', 'message'),
    [
        (gzip.compress(b'{}'), 'it is a gzip file: unpack it'),
        (b'PK\x03\x04', 'it is a zip file: unpack it'),
        (b'\xff\xfe\xfa', "can't decode"),
    ],
    ids=['gzip', 'zip', 'no text'],
)
def test_a_message_does_not_repeat_the_file(tmp_path, start, message):
    file = tmp_path / 'a.json'
    file.write_bytes(start + b'\x00\xff' * 2**20)
    with pytest.raises(InputError, match=message) as caught:
        build(str(file))
    assert str(caught.value).startswith(f'{file}: this is no COCO file of JSON')
    assert len(str(caught.value)) < 500


def test_endless_nesting(tmp_path):
    file = tmp_path / 'a.json'
    file.write_text('{"images": ' + '[' * 200_000)
    with pytest.raises(InputError, match='a.json: this is no COCO file of JSON: .*recursion'):
        build(str(file))


def test_a_folder_in_the_place_of_the_file(tmp_path):
    with pytest.raises(InputError, match='it cannot be read: Is a directory'):
        build(str(tmp_path))


def test_images_without_a_folder_are_no_fault_of_the_file(tmp_path):
    with pytest.raises(InputError, match=r"data_prefix must be dict\(img='FOLDER OF THE IMAGES'\)"):
        build(write(tmp_path, made()), data_prefix=dict(img_path='images/'))
