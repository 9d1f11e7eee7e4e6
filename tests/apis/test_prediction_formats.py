"""Files of predictions, read back by others' readers or compared with drawings."""

import csv
import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmsolov2.apis.prediction_formats import (
    About,
    coco,
    csv_tables,
    data_yaml,
    labelme,
    masks,
    polygons,
    yolo,
)

CLASSES = ('cat', 'dog, "big"', 'kühe: 3')


def draw(*lines: str) -> np.ndarray:
    return np.array([[character == '#' for character in line] for line in lines])


RING = draw('#####...', '#...#...', '#...#...', '#####...')
TWO = draw('........', '.##..##.', '.##..##.', '........')


def result(mask: np.ndarray, label: int, score: float) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(
        image_id=7,
        file_name='sub/a b.png',
        category_id=label + 1,
        category_name=CLASSES[label],
        bbox=coco_mask.toBbox(rle).tolist(),
        score=score,
        segmentation=dict(size=list(rle['size']), counts=rle['counts'].decode()),
    )


@pytest.fixture
def about(tmp_path) -> About:
    return About(tmp_path / 'out', str(tmp_path / 'photos'), CLASSES)


@pytest.fixture
def record() -> dict:
    """A ring, and, less sure, two squares that overlap it."""
    results = [result(RING, 1, 0.9), result(TWO, 2, 0.5)]
    return dict(id=7, file_name='sub/a b.png', width=8, height=4, results=results)


@pytest.fixture
def nothing(record) -> dict:
    return dict(record, id=8, file_name='none.png', results=[])


def inside(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The pixels of a size (H, W) whose centre a ray from the left meets after an odd number."""
    height, width = size
    crossed = np.zeros(size, int)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0)):
            if y1 != y2:
                spans = (y > min(y1, y2)) & (y < max(y1, y2))
                crossed += spans & (x > x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return crossed % 2 == 1


def test_labelme(record, nothing, about):
    content = json.loads(labelme(record, about))
    image = Path(about.images_dir, 'sub', 'a b.png')
    where = about.out_dir / 'labelme' / 'sub'
    assert os.path.normpath(where / content['imagePath']) == str(image)
    assert (content['imageHeight'], content['imageWidth'], content['imageData']) == (4, 8, None)
    ring, *squares = content['shapes']
    assert ring['label'] == CLASSES[1] and ring['group_id'] is None
    assert [shape['group_id'] for shape in squares] == [2, 2]
    assert {shape['shape_type'] for shape in content['shapes']} == {'polygon'}
    assert [sorted(shape['points']) for shape in squares] == [
        [[1, 1], [1, 3], [3, 1], [3, 3]],
        [[5, 1], [5, 3], [7, 1], [7, 3]],
    ]
    assert json.loads(labelme(nothing, about))['shapes'] == []


def test_yolo(record, nothing, about):
    lines = yolo(record, about).decode().splitlines()
    for line, label, mask in zip(lines, (1, 2), (RING, TWO), strict=True):
        first, *values = line.split(' ')
        ring = np.array(values, float).reshape(-1, 2) * (8, 4)
        assert int(first) == label
        assert np.array_equal(inside([ring], (4, 8)), mask)
    assert yolo(nothing, about) == b''
    (written,) = data_yaml([], about).items()
    assert written[0] == 'yolo/data.yaml'
    assert yaml.safe_load(written[1]) == dict(
        path='.', train='images', val='images', names=dict(enumerate(CLASSES))
    )


def test_masks(record, nothing, about):
    png = cv2.imdecode(np.frombuffer(masks(record, about), np.uint8), cv2.IMREAD_UNCHANGED)
    assert png.dtype == np.uint16
    assert np.array_equal(png, np.where(RING, 1, np.where(TWO, 2, 0)))
    many = dict(record, results=[result(RING, 0, 0.5)] * 300 + [result(TWO, 0, 0.4)])
    png = cv2.imdecode(np.frombuffer(masks(many, about), np.uint8), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(png)) == {0, 1, 301}
    empty = cv2.imdecode(np.frombuffer(masks(nothing, about), np.uint8), cv2.IMREAD_UNCHANGED)
    assert empty.shape == (4, 8) and not empty.any()


def test_csv(record, nothing, about):
    tables = csv_tables([record, nothing], about)
    rows = list(csv.DictReader(io.StringIO(tables['instances.csv'].decode())))
    assert [list(row.values()) for row in rows] == [
        ['sub/a b.png', CLASSES[1], '0.9', '0.0', '0.0', '5.0', '4.0', '14', '2.50', '2.00'],
        ['sub/a b.png', CLASSES[2], '0.5', '1.0', '1.0', '7.0', '3.0', '8', '4.00', '2.00'],
    ]
    counts = list(csv.reader(io.StringIO(tables['counts.csv'].decode())))
    assert counts == [
        ['picture', *CLASSES, 'all'],
        ['sub/a b.png', '0', '1', '1', '2'],
        ['none.png', '0', '0', '0', '0'],
    ]


def test_csv_of_names_of_every_kind(record, about):
    odd = os.fsdecode(b'caf\xe9.png')
    name = dict(record, file_name=odd), dict(record, file_name='two\nlines,.png')
    content = csv_tables(name, about)['counts.csv']
    assert b'caf\xe9.png,' in content and b'"two\nlines,.png",' in content


def test_polygons(record, nothing, about, tmp_path):
    (written,) = polygons([record, nothing], about).values()
    (tmp_path / 'polygons.json').write_bytes(written)
    data = COCO(str(tmp_path / 'polygons.json'))
    ring, two = data.loadAnns(data.getAnnIds(imgIds=7))
    assert np.array_equal(data.annToMask(ring), RING) and ring['area'] == RING.sum()
    assert np.array_equal(data.annToMask(two), TWO) and len(two['segmentation']) == 2
    assert (ring['id'], two['id'], ring['category_id']) == (1, 2, 2)
    assert sorted(data.getImgIds()) == [7, 8] and data.getAnnIds(imgIds=8) == []


def test_coco(record, nothing, about, tmp_path):
    for name, content in coco([record, nothing], about).items():
        (tmp_path / name).write_bytes(content)
    data = COCO(str(tmp_path / 'images.json')).loadRes(str(tmp_path / 'predictions.json'))
    found = data.loadAnns(data.getAnnIds())
    assert [np.array_equal(data.annToMask(one), mask) for one, mask in zip(found, (RING, TWO))]
    assert data.dataset['info']['folder'] == about.images_dir
