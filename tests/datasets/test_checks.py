"""Each fault is found, with its count, a place and a remedy; data without any have no finding."""

import copy
import itertools

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mmsolov2.datasets import checks
from mmsolov2.datasets.checks import KINDS, LEVELS, check, crosses_itself

HEIGHT, WIDTH = 60, 80


def image(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (WIDTH, HEIGHT))


def box(x: float, y: float, side: float = 20) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def made(folder) -> dict[str, dict]:
    """Two splits of two pictures, each with an instance of both classes."""
    contents = {}
    for start, split in enumerate(('train', 'val')):
        images, annotations = [], []
        for number in (1, 2):
            name = f'{split} {number}.png'
            cv2.imwrite(str(folder / name), image(10 * start + number))
            images.append(dict(id=number, file_name=name, height=HEIGHT, width=WIDTH))
            annotations += [
                dict(id=2 * number + category, image_id=number, category_id=category, iscrowd=0,
                     segmentation=[box(30 * category - 20, 10)], area=400,
                     bbox=[30 * category - 20, 10, 20, 20])
                for category in (1, 2)
            ]  # fmt: skip
        categories = [dict(id=1, name='left'), dict(id=2, name='right')]
        contents[split] = dict(images=images, annotations=annotations, categories=categories)
    return contents


@pytest.fixture
def contents(tmp_path):
    return made(tmp_path)


def counts(contents, folder) -> dict[str, int]:
    return {one.what: one.count for one in check(contents, folder)}


def test_nothing_is_found_where_nothing_is_wrong(tmp_path, contents, capfd):
    before = copy.deepcopy(contents)
    assert check(contents, tmp_path) == []
    assert contents == before and capfd.readouterr() == ('', '')


def test_pictures_that_are_missing_unreadable_or_of_another_size(tmp_path, contents):
    data = (tmp_path / 'train 2.png').read_bytes()
    (tmp_path / 'train 1.png').unlink()
    (tmp_path / 'train 2.png').write_bytes(data[: len(data) // 2])
    cv2.imwrite(str(tmp_path / 'val 1.png'), image(11)[:-3])
    contents['val']['images'][1].pop('file_name')
    found = {one.what: one for one in check(contents, tmp_path)}
    assert {what: one.count for what, one in found.items()} == {
        checks.MISSING: 1, checks.UNREADABLE: 1, checks.OTHER_SIZE: 1, checks.NAMELESS: 1
    }  # fmt: skip
    assert found[checks.MISSING].examples == ['train: train 1.png']
    assert found[checks.OTHER_SIZE].examples == ['val: val 1.png (80x57, annotated as 80x60)']
    assert all(one.level == 'error' and one.remedy for one in found.values())


@pytest.mark.parametrize('orientation', [1, 6])
def test_pictures_on_their_side(tmp_path, contents, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image(1)).save(tmp_path / 'train 1.jpg', exif=exif)
    listed = contents['train']['images'][0]
    listed['file_name'] = 'train 1.jpg'
    assert counts(contents, tmp_path) == ({checks.TURNED: 1} if orientation == 6 else {})
    for one in contents['train']['annotations'][:2]:
        one['segmentation'], one['bbox'] = [box(5, 5 * one['category_id'] ** 3)], None
    listed.update(height=WIDTH, width=HEIGHT)
    assert counts(contents, tmp_path) == ({} if orientation == 6 else {checks.OTHER_SIZE: 1})


def test_copies_within_and_across_splits(tmp_path, contents):
    cv2.imwrite(str(tmp_path / 'train 2.png'), image(1))
    assert counts(contents, tmp_path) == {checks.COPIES: 2}
    cv2.imwrite(str(tmp_path / 'val 1.jpg'), image(1))
    contents['val']['images'][0]['file_name'] = 'val 1.jpg'
    found = check(contents, tmp_path)
    assert [(one.level, one.what, one.count) for one in found] == [
        ('error', checks.LEAK, 3), ('warning', checks.COPIES, 2)
    ]  # fmt: skip
    assert found[0].examples == ['train: train 1.png = train: train 2.png = val: val 1.jpg']


def test_the_same_file_in_both_splits(tmp_path, contents):
    contents['val']['images'][0]['file_name'] = 'train 1.png'
    assert counts(contents, tmp_path) == {checks.LEAK: 2}


FIGURE_8 = [10, 10, 40, 40, 40, 10, 10, 40]


@pytest.mark.parametrize(
    'change, what, count',
    [
        (dict(segmentation=[FIGURE_8], bbox=None), checks.CROSSING, 1),
        (dict(segmentation=[box(10, 10, 3)], bbox=None), checks.LITTLE, 1),
        (dict(segmentation=[box(-30, 10, 60)], bbox=None), checks.OUTSIDE, 1),
        (dict(segmentation=[box(0, 0, 200)], bbox=None), checks.OUTSIDE, 1),
        (
            dict(segmentation=[box(300, 10)], bbox=None),
            'annotations without a pixel in their image',
            1,
        ),
        (
            dict(segmentation=[[10.1, 10.1, 10.2, 10.1, 10.2, 10.2]], bbox=[10.1, 10.1, 0.1, 0.1]),
            'annotations without a pixel in their image',
            1,
        ),
        (dict(segmentation=[]), 'annotations without a segmentation', 1),
        (dict(segmentation='what'), f'annotations {checks.coco_file.OTHER_SHAPE}', 1),
        (dict(bbox=[50, 40, 20, 20]), 'annotations whose boxes contradict their masks', 1),
        (dict(iscrowd=1), 'crowd regions (iscrowd=1)', 1),
        (dict(ignore=1), 'annotations marked with ignore', 1),
        (dict(image_id=99), 'annotations of images that the file does not list', 1),
        (dict(category_id=7), checks.WRONG_FILE, 1),
    ],
)
def test_masks(tmp_path, contents, change, what, count):
    contents['train']['annotations'][0].update(change)
    found = {one.what: one for one in check(contents, tmp_path)}
    assert found[what].count == count and set(found) <= {what, checks.CROSSING}
    assert 'train' in found[what].examples[0]
    assert (found[what].level, found[what].remedy) == KINDS[what]


def test_rle_is_looked_at_too(tmp_path, contents):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
    mask[3:6, 3:6] = 1
    rle = coco_mask.encode(mask)
    rle['counts'] = rle['counts'].decode()
    contents['train']['annotations'][0].update(segmentation=rle, bbox=None)
    assert counts(contents, tmp_path) == {checks.LITTLE: 1}


def test_the_same_instance_twice(tmp_path, contents):
    first = contents['train']['annotations'][0]
    contents['train']['annotations'] += [
        {**first, 'segmentation': [box(10.4, 10)]},
        {**first, 'category_id': 2},  # of another class
        {**first, 'segmentation': [box(15, 10)], 'bbox': None},  # half of it
        {**first, 'image_id': 2, 'segmentation': [box(10, 35)], 'bbox': None},
    ]
    assert counts(contents, tmp_path) == {checks.TWICE: 1}


def test_crowds_are_no_instances(tmp_path, contents):
    first, second, *_ = contents['train']['annotations']
    first['iscrowd'] = second['iscrowd'] = 1
    second['segmentation'], second['bbox'] = first['segmentation'], first['bbox']
    found = counts(contents, tmp_path)
    assert found == {'crowd regions (iscrowd=1)': 2, checks.EMPTY: 1}


def test_classes(tmp_path, contents):
    for content in contents.values():
        content['categories'].append(dict(id=3, name='nowhere'))
    contents['val']['annotations'] = contents['val']['annotations'][::2]
    found = {one.what: one for one in check(contents, tmp_path)}
    assert {what: one.examples for what, one in found.items()} == {
        checks.UNUSED: ['nowhere'], checks.ONE_SPLIT: ['right (train)']
    }  # fmt: skip
    del contents['val']['annotations']  # pictures to be predicted
    assert counts(contents, tmp_path) == {checks.UNUSED: 1}
    for content in contents.values():
        content['annotations'] = []
    assert counts(contents, tmp_path) == {checks.NO_INSTANCES: 1, checks.EMPTY: 4}


@pytest.mark.parametrize('wrong', [dict(images=3), dict(images=[1]), dict(categories=None)])
def test_content_that_is_none_is_a_finding(tmp_path, contents, wrong):
    contents['train'].update(wrong)
    contents['val']['categories'].append(dict(id=3, name='of train alone'))
    found = check(contents, tmp_path)
    assert [one.what for one in found] == [checks.WRONG_FILE]
    assert found[0].examples[0].startswith('train: ')


def test_what_checked_coco_says_has_a_level_and_a_remedy():
    file = checks.coco_file
    names = [file.UNLISTED, file.NO_MASK, file.OTHER_SHAPE, file.NO_PIXELS, file.BROKEN_PARTS,
             file.OTHER_READING, file.OTHER_BOXES]  # fmt: skip
    assert {f'annotations {name}' for name in names} < KINDS.keys()
    assert all(level in LEVELS and remedy for level, remedy in KINDS.values())


def crosses_slowly(polygon) -> bool:
    """By whole numbers, pair by pair."""
    points = [(int(x), int(y)) for x, y in np.reshape(polygon, (-1, 2))]
    sides = list(zip(points, points[1:] + points[:1]))

    def turn(a, b, c):
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    return any(
        turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0
        for (a, b), (c, d) in itertools.combinations(sides, 2)
    )


@pytest.mark.parametrize('rows', [3, 256])
def test_crossings_equal_those_found_pair_by_pair(rows, monkeypatch):
    monkeypatch.setattr(checks, 'ROWS', rows)
    rng = np.random.default_rng(0)
    polygons = [rng.integers(0, 12, 2 * rng.integers(3, 7)).tolist() for _ in range(400)]
    found = [crosses_itself(polygon) for polygon in polygons]
    assert found == [crosses_slowly(polygon) for polygon in polygons]
    assert 50 < sum(found) < 350


def test_a_bridge_there_and_back_is_no_crossing():
    assert not crosses_itself([0, 0, 10, 0, 20, 0, 30, 0, 30, 10, 20, 0, 10, 0, 10, 10, 0, 10])
