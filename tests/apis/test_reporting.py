"""From a config and weights to a page; predictions are the truth with some faults."""

import json
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from mmsolov2.apis import load_config, report, reporting
from mmsolov2.apis.reporting import shared_cells
from mmsolov2.cli.config import open_config
from mmsolov2.cli.launch import CheckedRunner, build_loops
from mmsolov2.errors import InputError
from mmsolov2.models import SOLOv2Head
from mmsolov2.registry import MODELS
from mmsolov2.report.page import Level

NAMES = ('b #1.png', 'a b.png', 'ü.png', "it's.png", '<i>.png', 'z.png')


@pytest.fixture(scope='module')
def shapes(tiny_shapes, tmp_path_factory):
    """Six pictures with odd names and ids, which fall."""
    data = tmp_path_factory.mktemp('my data')
    shutil.copytree(tiny_shapes / 'train', data / 'train')
    (data / 'val').mkdir()
    (data / 'annotations').mkdir()
    shutil.copy(tiny_shapes / 'annotations/train.json', data / 'annotations')
    content = json.loads((tiny_shapes / 'annotations/val.json').read_text())
    ids = {}
    for index, (image, name) in enumerate(zip(content['images'], NAMES, strict=True)):
        shutil.copy(tiny_shapes / 'val' / image['file_name'], data / 'val' / name)
        ids[image['id']] = 900 - 7 * index
        image.update(id=ids[image['id']], file_name=name)
    for one in content['annotations']:
        one['image_id'] = ids[one['image_id']]
    (data / 'annotations/val.json').write_text(json.dumps(content))
    return data


@pytest.fixture
def config(shapes, tiny_config, tmp_path):
    """A config of these pictures."""
    file = tmp_path / 'model.py'
    text = tiny_config.read_text()
    (root,) = [line for line in text.splitlines() if line.startswith('data_root')]
    file.write_text(text.replace(root, f"data_root = '{shapes}/'"))
    return file


@pytest.fixture
def checkpoint(config, tmp_path):
    """Random weights."""
    torch.manual_seed(0)
    path = tmp_path / 'random.pth'
    torch.save(dict(state_dict=MODELS.build(load_config(config).model).state_dict()), path)
    return path


@pytest.fixture
def faulty_truth(shapes, monkeypatch):
    """Every fourth instance is missed, and every third one has the next class."""
    content = json.loads((shapes / 'annotations/val.json').read_text())
    sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
    order = [category['id'] for category in content['categories']]

    def predict_by_feat(self, *outputs, rescale=True):
        (meta,) = outputs[-1]
        own = [one for one in content['annotations'] if one['image_id'] == meta['img_id']]
        found = [one for one in own if one['id'] % 4]
        labels = [(order.index(one['category_id']) + (one['id'] % 3 == 0)) % 5 for one in found]
        masks = [rle(one['segmentation'], *sizes[one['image_id']]) for one in found]
        boxes = np.array([coco_mask.toBbox(mask) for mask in masks]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([0.9 - 0.01 * (one['id'] % 20) for one in found])
        return [
            InstanceData(
                scores=scores,
                labels=torch.tensor(labels, dtype=torch.int64),
                bboxes=torch.tensor(boxes, dtype=torch.float32),
                masks=masks,
            )
        ]

    monkeypatch.setattr(SOLOv2Head, 'predict_by_feat', predict_by_feat)


def rle(segmentation, height, width):
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation['counts'], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def figures_of_tests(config, checkpoint, folder):
    """What tools/test.py says of a model."""
    settings = open_config(config, {'load_from': str(checkpoint), 'work_dir': str(folder)})
    runner = CheckedRunner.from_cfg(settings)
    build_loops(runner, 'test')
    return runner.test()


def test_figures_are_those_of_the_test(config, checkpoint, faulty_truth, tmp_path):
    out = tmp_path / 'new folder' / 'page #1.html'
    result = report(config, checkpoint, out, device='cpu')
    numbers = figures_of_tests(config, checkpoint, tmp_path / 'test')
    for kind in ('segm', 'bbox'):
        names = [f'coco/{kind}_mAP{end}' for end in ('', '_50', '_75', '_s', '_m', '_l')]
        ours = np.nan_to_num(result.ap[kind][0], nan=-1).round(3)
        assert ours.tolist() == [numbers[name] for name in names]
    assert 0.3 < numbers['coco/segm_mAP'] < 0.9
    assert {'class', 'missed'} == set(result.kinds)
    text = out.read_text(encoding='utf-8')
    assert text.count('<tr data-classes') == 6 and '<i>' not in text
    assert 'loading' in text and 'post-processing' in text
    assert len(text) < 2e6


@pytest.mark.parametrize('indices', [range(6), [4, 2]])
def test_pictures_are_those_of_their_names(
    config, checkpoint, shapes, faulty_truth, tmp_path, monkeypatch, indices
):
    """Also where the data set has some of the file's."""
    checked = []

    def check(pictures, classes, load):
        for picture in pictures:
            image = cv2.imread(str(shapes / 'val' / picture.name))
            np.testing.assert_array_equal(load(picture.number), image)
            checked.append(picture.name)
        return make_pictures(pictures, classes, load)

    make_pictures = reporting.make_pictures
    monkeypatch.setattr(reporting, 'make_pictures', check)
    options = {'val_dataloader.dataset.indices': list(indices)}
    report(config, checkpoint, tmp_path / 'r.html', device='cpu', cfg_options=options)
    assert checked == [NAMES[index] for index in sorted(indices)]
    assert ('2 of the 6 pictures' in (tmp_path / 'r.html').read_text()) == (len(indices) == 2)


def test_without_hotcoco_its_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'hotcoco', None)
    with pytest.raises(InputError, match=r"pip install 'mmsolov2\[report\]'"):
        report('missing.py', 'missing.pth', tmp_path / 'report.html')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'val_dataloader': None}, 'has no val_dataloader'),
        ({'val_dataloader.dataset.ann_file': 'missing.json'}, r'missing\.json'),
        ({'val_dataloader.dataset.data_prefix.img': 'nowhere'}, 'nowhere/.*: there is no such'),
        (
            {'val_dataloader.dataset.metainfo': dict(classes=('circle', 'ring'), palette=None)},
            'num_classes is 5, but the validation data have 2 classes',
        ),
    ],
)
def test_what_does_not_fit_is_refused(config, checkpoint, tmp_path, options, message):
    out = tmp_path / 'report.html'
    with pytest.raises(InputError, match=message):
        report(config, checkpoint, out, device='cpu', cfg_options=options)
    assert not out.exists()


def test_joined_sets_are_refused(config, checkpoint, tmp_path):
    one = load_config(config).val_dataloader.dataset.to_dict()
    joined = dict(_delete_=True, type='ConcatDataset', datasets=[one, one])
    file = tmp_path / 'joined.py'
    file.write_text(f"_base_ = '{config}'\nval_dataloader = dict(dataset={joined})")
    with pytest.raises(InputError, match='val_dataloader joins 2 data sets'):
        report(file, checkpoint, tmp_path / 'report.html', device='cpu')


def test_a_page_without_a_place_is_refused_before_the_work(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be written'):
        report('missing.py', 'missing.pth', tmp_path / 'file' / 'report.html')


def test_shared_cells():
    """Magnified by two, 10 pixels are of both levels; two share a cell of 4 x 4 and of 2 x 2."""
    boxes = {3: ([0, 0, 10, 10], [12, 0, 10, 10], [60, 60, 10, 10]), 5: ([0, 0, 40, 40],)}
    content = dict(
        images=[dict(id=number, height=80, width=80) for number in boxes],
        categories=[dict(id=1, name='cat')],
        annotations=[
            dict(image_id=number, category_id=1, bbox=box)
            for number, own in boxes.items()
            for box in own
        ],
    )
    found = shared_cells(content, {3: 2.0, 5: 1.0}, (2, 4), [(1, 32), (16, 64)])
    assert found.levels == [Level(2, 1, 32, 3), Level(4, 16, 64, 4)]
    assert found.crowded == {3: 2}


def test_the_tool(config, checkpoint, run_python, tmp_path):
    out = tmp_path / 'report.html'
    result = run_python('tools/report.py', config, checkpoint, '--out', out, '--device', 'cpu')
    assert result.stdout.splitlines()[-1].startswith('mask AP 0.0')
    assert 'creating index' not in result.stdout
    assert out.read_text(encoding='utf-8').startswith('<!DOCTYPE html>')
