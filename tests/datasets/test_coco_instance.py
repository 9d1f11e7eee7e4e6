"""What the dataset says about wrong files, and what it makes of odd ones."""

import json
import logging
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, TASK_UTILS
from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

from mmsolov2.cli.errors import exit_with_message
from mmsolov2.datasets import CocoInstanceDataset
from mmsolov2.errors import InputError
from mmsolov2.evaluation import CocoInstanceMetric
from mmsolov2.structures.masks import encode_rle

CLASSES = ('ant', 'bee', 'cat')
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='mmsolov2.MatchAnnotatedSize'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmsolov2.Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs'),
]
SQUARE = [[4, 4, 20, 4, 20, 20, 4, 20]]
DEGENERATE = {
    'no segmentation': None,
    'empty list': [],
    'empty polygon': [[]],
    'two points': [[4, 4, 20, 20]],
    'RLE without counts': dict(size=[32, 32], counts=[]),
    'RLE with empty counts': dict(size=[32, 32], counts=''),
    'not a number': [[4, 4, 20, 4, float('nan'), 20]],
    'infinite': [[4, 4, 20, 4, float('inf'), 20]],
    'far away': [[4, 4, 20, 4, 1e9, 20]],
    'a string': 'masks/1.png',
    'a number': 5,
    'words': [['4', '4', '20', '4', '20', 'twenty']],
    'points of three numbers': [[[4, 4, 2], [20, 4, 2], [20, 20, 2], [4, 20, 2]]],
}


def annotation(number: int = 1, segmentation=SQUARE, **others) -> dict:
    """An annotation of the first image and category; without a segmentation if that is None."""
    entry = dict(id=number, image_id=1, category_id=1, bbox=[4, 4, 16, 16], area=256, iscrowd=0)
    if segmentation is not None:
        entry['segmentation'] = segmentation
    return {**entry, **others}


def write(folder: Path, annotations: list, **others) -> str:
    """A COCO file of one 32x32 image in a folder, with the image: its path."""
    cv2.imwrite(str(folder / 'a.png'), np.full((32, 32, 3), 90, np.uint8))
    content = dict(
        images=[dict(id=1, file_name='a.png', width=32, height=32)],
        annotations=annotations,
        categories=[dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)],
    )
    file = folder / 'instances.json'
    file.write_text(json.dumps({**content, **others}))
    return str(file)


def build(file: str, classes=CLASSES, **options) -> CocoInstanceDataset:
    """The dataset of a file, as a config gives it."""
    settings = dict(
        type='mmsolov2.CocoInstanceDataset',
        ann_file=file,
        data_prefix=dict(img=str(Path(file).parent)),
        metainfo=dict(classes=classes),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=PIPELINE,
    )
    return DATASETS.build({**settings, **options})


@pytest.fixture
def warnings(caplog, monkeypatch):
    """The warnings that mmengine logs, which it keeps from the root logger."""
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'handlers', [*logger.handlers, caplog.handler])
    caplog.set_level(logging.WARNING)
    return lambda: [record.message for record in caplog.records]


# The annotation file


def test_missing_annotation_file(tmp_path):
    file = str(tmp_path / 'none.json')
    with pytest.raises(
        InputError, match=r'none\.json: there is no such annotation file.*data_root'
    ):
        build(file)


@pytest.mark.parametrize('content', ['', 'images: []', '[1, 2]', '3', '{"images": [], '])
def test_annotation_file_that_is_no_coco_file(tmp_path, content):
    file = tmp_path / 'text.json'
    file.write_text(content)
    with pytest.raises(InputError, match=r'text\.json: this is no COCO file'):
        build(str(file))


def test_a_file_of_test_images_has_no_annotations(tmp_path):
    file = Path(write(tmp_path, []))
    content = json.loads(file.read_text())
    del content['annotations']
    file.write_text(json.dumps(content))
    assert build(str(file), test_mode=True).get_data_info(0)['instances'] == []
    with pytest.raises(InputError, match=f'{file}: it has no annotations .* format_only=True'):
        CocoInstanceMetric(str(file), metric='segm')
    evaluator = CocoInstanceMetric(
        str(file), metric='segm', format_only=True, outfile_prefix=str(tmp_path / 'x')
    )
    evaluator.dataset_meta = dict(classes=CLASSES)
    found = dict(
        bboxes=torch.tensor([[2.0, 2.0, 12.0, 12.0]]),
        scores=torch.ones(1),
        labels=torch.ones(1, dtype=torch.long),
        masks=encode_rle(torch.ones(1, 32, 32, dtype=torch.bool)),
    )
    evaluator.process({}, [dict(pred_instances=found, img_id=1, ori_shape=(32, 32))])
    evaluator.evaluate(1)
    (result,) = json.loads((tmp_path / 'x.segm.json').read_text())
    assert (result['image_id'], result['category_id']) == (1, 2)


@pytest.mark.parametrize('key', ['images', 'annotations', 'categories'])
def test_annotation_file_lacks_a_part(tmp_path, key):
    file = Path(write(tmp_path, [annotation()]))
    content = json.loads(file.read_text())
    del content[key]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=re.escape(str(file))):
        build(str(file))


def test_lacking_categories_are_named(tmp_path):
    file = tmp_path / 'instances.json'
    file.write_text(json.dumps(dict(images=[], annotations=[])))
    with pytest.raises(InputError, match=r"it lacks \['categories'\]"):
        build(str(file))


def test_names_that_do_not_match(tmp_path):
    with pytest.raises(InputError) as caught:
        build(write(tmp_path, [annotation()]), classes=('ant', 'cow'))
    message = str(caught.value)
    assert "no category ['cow']" in message
    assert "the file has ('ant', 'bee', 'cat'), the config has ('ant', 'cow')" in message
    assert 'metainfo=dict(classes=' in message


def test_labels_go_by_name_whatever_the_order_of_the_file(tmp_path):
    entries = [annotation(number, category_id=number) for number in (1, 2, 3)]
    dataset = build(write(tmp_path, entries), classes=('cat', 'ant', 'bee'))
    assert [one['bbox_label'] for one in dataset.get_data_info(0)['instances']] == [1, 2, 0]


def test_a_class_named_twice(tmp_path):
    with pytest.raises(InputError, match='instances.json: the classes name a category twice'):
        build(write(tmp_path, [annotation()]), classes=('ant', 'bee', 'ant'))


def test_classes_as_a_string(tmp_path):
    with pytest.raises(InputError, match=r"must be a tuple of names, \('ant',\)"):
        build(write(tmp_path, [annotation()]), classes='ant')


def test_subset_of_the_classes_in_the_order_of_the_file(tmp_path):
    annotations = [annotation(number, category_id=number) for number in (1, 2, 3)]
    dataset = build(write(tmp_path, annotations), classes=('ant', 'cat'))
    assert [entry['bbox_label'] for entry in dataset.get_data_info(0)['instances']] == [0, 1]
    assert dataset[0]['data_samples'].gt_instances.labels.tolist() == [0, 1]


def test_no_image_left(tmp_path):
    file = write(tmp_path, [])
    with pytest.raises(InputError, match='none of its 1 images is left') as caught:
        build(file, filter_cfg=dict(filter_empty_gt=True, min_size=8))
    assert str(caught.value).startswith(file)
    assert "'min_size': 8" in str(caught.value) and str(CLASSES) in str(caught.value)


def test_no_image_is_large_enough(tmp_path):
    with pytest.raises(InputError, match='none of its 1 images is left'):
        build(write(tmp_path, [annotation()]), filter_cfg=dict(min_size=33))


def test_no_image_listed(tmp_path):
    with pytest.raises(InputError, match='none of its 0 images is left'):
        build(write(tmp_path, [], images=[]))


# Instances


@pytest.mark.parametrize('segmentation', DEGENERATE.values(), ids=DEGENERATE)
def test_annotation_without_a_mask_is_left_out(tmp_path, segmentation, warnings):
    file = write(
        tmp_path,
        [annotation(1, segmentation), annotation(2), annotation(3, segmentation), annotation(4)],
    )
    dataset = build(file)
    assert len(dataset.get_data_info(0)['instances']) == 2
    (warning,) = (text for text in warnings() if 'left out' in text)
    assert warning.startswith(f'{file}: left out 2 annotations of 4: 2 w')
    assert 'first annotations[0] (id 1)' in warning
    found = dataset[0]['data_samples'].gt_instances
    assert len(found) == 2 and found.masks.to_tensor(torch.bool, 'cpu').any()


def test_nothing_is_logged_where_all_is_well(tmp_path, warnings):
    build(write(tmp_path, [annotation()]))
    assert not [text for text in warnings() if 'left out' in text]


@pytest.mark.parametrize('part', [[1, 1, 2, 2], [1, 1, 2, 2, 3, 3, 4], [math.nan] * 6], ids=str)
def test_bad_part_of_a_mask_is_no_reason_to_leave_it_out(tmp_path, part):
    file = write(tmp_path, [annotation(segmentation=[part, *SQUARE])])
    masks = build(file)[0]['data_samples'].gt_instances.masks
    (truth,) = CocoInstanceMetric(ann_file=file, metric='segm')._coco_api.anns.values()
    assert masks.areas.tolist() == [4 * 16 * 16] and truth['segmentation'] == SQUARE


def test_rle_of_another_size_is_refused(tmp_path):
    rle = dict(size=[16, 64], counts=[132, 16, 16, 16, 844])
    file = write(tmp_path, [annotation(segmentation=rle)])
    message = (
        f'{file}: image 1 has height and width [32, 32], but an annotation with RLE of size '
        '[16, 64]'
    )
    for reader in (build, CocoInstanceMetric):
        with pytest.raises(InputError, match=re.escape(message)):
            reader(file)


@pytest.mark.parametrize('ids', [(None, None), (7, None), ('a', 'b'), (3, 3), (0, 1), (5, 2**60)])
def test_ids_of_annotations_may_be_anything(tmp_path, ids):
    """Nobody looks an annotation up by its id, but COCO's code needs them different, and not 0."""
    entries = [annotation(number) for number in ids]
    for entry in entries:
        if entry['id'] is None:
            del entry['id']
    file = write(tmp_path, entries)
    assert len(build(file).get_data_info(0)['instances']) == 2
    for backend in ('pycocotools', 'faster', 'hotcoco'):
        metric = CocoInstanceMetric(file, metric='segm', backend=backend)
        assert list(metric._coco_api.anns) == [1, 2]


def test_annotations_of_unlisted_images_are_left_out(tmp_path):
    file = write(tmp_path, [annotation(), {**annotation(2), 'image_id': 77}])
    truth = CocoInstanceMetric(file, metric='segm')._coco_api
    assert [one['image_id'] for one in truth.anns.values()] == [1]
    assert len(build(file).get_data_info(0)['instances']) == 1


def test_rle_where_the_size_of_the_image_is_not_given(tmp_path):
    """Boxes can be compared; masks to train on need the size, and that is what is said."""
    rle = dict(size=[32, 32], counts=[132, 16, 16, 16, 844])
    file = write(tmp_path, [annotation(segmentation=rle)], images=[dict(id=1, file_name='a.png')])
    assert len(CocoInstanceMetric(file, metric='bbox')._coco_api.anns) == 1
    with pytest.raises(InputError, match="image 1 lacks 'height'"):
        build(file)


def test_instances_are_no_crowd_unless_it_says_so(tmp_path):
    entry = annotation()
    del entry['iscrowd']
    (truth,) = CocoInstanceMetric(write(tmp_path, [entry]))._coco_api.anns.values()
    assert truth['iscrowd'] == 0


def test_rle_is_kept(tmp_path):
    rle = dict(size=[32, 32], counts=[32 * 4 + 4, 16, 16, 16, 32 * 32 - 32 * 4 - 52])
    dataset = build(write(tmp_path, [annotation(segmentation=rle)]))
    masks = dataset[0]['data_samples'].gt_instances.masks
    assert len(masks) == 1 and masks.areas[0] > 0


def test_collinear_polygon_survives_and_gives_no_positives(tmp_path):
    line = [[4, 4, 12, 12, 20, 20]]
    dataset = build(write(tmp_path, [annotation(1, line), annotation(2)]))
    found = dataset[0]['data_samples'].gt_instances
    masks = found.masks.to_tensor(torch.bool, 'cpu')
    assert masks.flatten(1).any(1).tolist() == [False, True]
    assigner = TASK_UTILS.build(
        dict(type='mmsolov2.GridAssigner', center_scale=0.2, scale_ranges=((1, 999),))
    )
    boxes = found.bboxes.tensor
    alone = assigner(masks[:1], found.labels[:1], boxes[:1], num_grids=(8,), background=3)
    assert not alone.valid.any() and alone.num_positive == 0
    assert (alone.labels == 3).all()
    both = assigner(masks, found.labels, boxes, num_grids=(8,), background=3)
    assert set(both.instance[both.valid].tolist()) == {1}


def test_crowd_is_ignored(tmp_path):
    rle = dict(size=[32, 32], counts=[100, 200, 724])
    dataset = build(write(tmp_path, [annotation(1, rle, iscrowd=1), annotation(2, category_id=2)]))
    sample = dataset[0]['data_samples']
    assert sample.gt_instances.labels.tolist() == [1]
    assert sample.ignored_instances.labels.tolist() == [0]
    assert len(sample.ignored_instances.masks) == 1


def test_image_without_instances(tmp_path):
    dataset = build(write(tmp_path, []), max_left_out=1)
    assert len(dataset) == 1
    found = dataset[0]['data_samples'].gt_instances
    assert found.masks.to_tensor(torch.bool, 'cpu').shape == (0, 64, 64)
    assert found.bboxes.tensor.shape == (0, 4) and found.labels.shape == (0,)


# Images


def break_image(path: Path, how: str) -> None:
    """Delete or damage an image file."""
    content = path.read_bytes()
    if how == 'missing':
        path.unlink()
    else:
        path.write_bytes(dict(text=b'not an image', empty=b'', truncated=content[:45])[how])


BROKEN = {
    'missing': 'there is no such image',
    'text': 'this image cannot be decoded',
    'truncated': 'this image cannot be decoded',
    'empty': 'this image cannot be decoded',
}


def broken(tmp_path: Path, how: str) -> tuple[str, str, CocoInstanceDataset]:
    """A COCO file, its image that is broken, and their dataset."""
    name = 'a.jpg' if how == 'text' else 'a.png'
    file = write(tmp_path, [annotation()], images=[dict(id=1, file_name=name, width=32, height=32)])
    image = tmp_path / name
    (tmp_path / 'a.png').rename(image)
    break_image(image, how)
    return file, str(image), build(file)


@pytest.mark.parametrize('how', BROKEN)
def test_broken_image(tmp_path, how):
    file, image, dataset = broken(tmp_path, how)
    with pytest.raises(InputError) as caught:
        dataset[0]
    assert str(caught.value).startswith(f'{image}: {BROKEN[how]}')
    assert file in str(caught.value)


def test_a_cut_jpeg_is_named_whatever_opencv_makes_of_it(tmp_path):
    """Some of its releases refuse it, some fill it up with grey."""
    images = [dict(id=1, file_name='a.jpg', width=96, height=96)]
    dataset = build(write(tmp_path, [annotation()], images=images))
    picture = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    data = cv2.imencode('.jpg', picture)[1].tobytes()
    (tmp_path / 'a.jpg').write_bytes(data)
    assert len(dataset[0]['data_samples'].gt_instances) == 1
    (tmp_path / 'a.jpg').write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r'a\.jpg: this image (cannot be decoded|is truncated)'):
        dataset[0]


@pytest.mark.parametrize('how, num_workers', [('missing', 0), ('truncated', 1)])
def test_broken_image_is_one_line_of_a_tool(tmp_path, how, num_workers, capfd):
    file, image, dataset = broken(tmp_path, how)
    loader = DataLoader(dataset, num_workers=num_workers, collate_fn=list)
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop, exit_with_message('config.py'):
        next(iter(loader))
    errors = capfd.readouterr().err
    assert stop.value.code == 2
    (line,) = (text for text in errors.splitlines() if text.startswith('error: '))
    assert line.startswith(f'error: {image}: {BROKEN[how]}') and file in line
    assert errors.endswith(f'{line}\n') and 'Traceback' not in errors


def test_error_of_the_pipeline_stays_what_it_is(tmp_path):
    """A readable image is not blamed for the mistakes of others."""
    dataset = build(write(tmp_path, [annotation()]))
    dataset.pipeline.transforms[-1] = lambda results: results['nonsense']
    with pytest.raises(KeyError, match='nonsense'):
        dataset[0]


def test_an_image_that_a_users_own_step_loads_is_not_blamed(tmp_path):
    """OpenCV cannot decode it, but it was loaded, and a later step failed."""
    images = [dict(id=1, file_name='a.npy', width=32, height=32)]
    dataset = build(write(tmp_path, [annotation()], images=images))
    np.save(tmp_path / 'a.npy', np.zeros((32, 32, 3), np.uint8))

    def load_array(results: dict) -> dict:
        return {**results, 'img': np.load(results['img_path'])}

    dataset.pipeline.transforms = [load_array, lambda results: results['nonsense']]
    with pytest.raises(KeyError, match='nonsense'):
        dataset[0]


def test_an_annotation_lacks_its_category(tmp_path):
    entry = annotation()
    del entry['category_id']
    with pytest.raises(
        InputError, match=r"instances\.json: annotations\[0\] \(id 1\) lacks 'category_id'"
    ):
        build(write(tmp_path, [entry]))


@pytest.mark.parametrize('key', ['file_name', 'height'])
def test_an_image_lacks_a_key(tmp_path, key):
    image = dict(id=1, file_name='a.png', width=32, height=32)
    del image[key]
    with pytest.raises(InputError, match=rf"instances\.json: image 1 .*lacks '{key}'"):
        build(write(tmp_path, [annotation()], images=[image]))


RLE = dict(size=[32, 32], counts=[132, 16, 16, 16, 844])  # rows 4 to 19 of columns 4 and 5


@pytest.mark.parametrize(
    ('segmentation', 'width'), [(SQUARE, 16), (RLE, 2)], ids=['polygon', 'RLE']
)
@pytest.mark.parametrize('missing', [('bbox',), ('area',), ('bbox', 'area')], ids=str)
def test_annotations_need_no_boxes(tmp_path, missing, segmentation, width):
    """Boxes and areas are the masks', in training data and in ground truth."""
    full = annotation(segmentation=segmentation, bbox=[4, 4, width, 16], area=width * 16)
    file = write(tmp_path, [{key: full[key] for key in full if key not in missing}])
    (instance,) = build(file).get_data_info(0)['instances']
    assert instance['bbox'] == [4, 4, 4 + width, 20]
    (truth,) = CocoInstanceMetric(ann_file=file, metric=['bbox', 'segm'])._coco_api.anns.values()
    assert (truth['bbox'], truth['area']) == (full['bbox'], full['area'])
