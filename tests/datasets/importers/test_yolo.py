"""YOLO-seg: descriptions in all their spellings, polygons with bridges, and lines that are none."""

import os

import numpy as np
import pytest

from mmsolov2.datasets.importers import find_source
from mmsolov2.datasets.importers.content import UNSIZED
from mmsolov2.errors import InputError

UNREAD = 'which are not read here (export them as JPEG or PNG)'


def bridged(parts: list[list[float]]) -> list[float]:
    """One polygon of several: from each, at the point next to it, to the next one and back."""
    points = np.reshape(parts[0], (-1, 2))
    if len(parts) == 1:
        return points.ravel().tolist()
    inner = np.reshape(bridged(parts[1:]), (-1, 2))
    first = np.reshape(parts[1], (-1, 2))  # where the way into the rest may end
    gaps = np.linalg.norm(points[:, None] - first[None], axis=2)
    here, there = np.unravel_index(gaps.argmin(), gaps.shape)
    start = np.flatnonzero((inner == first[there]).all(1))[0]
    rest = np.roll(inner, -start, 0)
    whole = [points[: here + 1], rest, rest[:1], points[here:]]
    return np.concatenate(whole).ravel().tolist()


def line(drawn, name: str, parts: list[list[float]]) -> str:
    height, width = drawn.size
    fractions = np.reshape(bridged(parts), (-1, 2)) / (width, height)
    return ' '.join([str(drawn.classes.index(name)), *(f'{n:.6g}' for n in fractions.ravel())])


def write(drawn, root, images: str = 'images/{}', labels: str = 'labels/{}') -> None:
    """All pictures and their labels, with the split in the names of folders."""
    for split, pictures in drawn.splits.items():
        for picture in pictures:
            path = drawn.save(picture, root / images.format(split))
            text = '\n'.join(line(drawn, *one) for one in picture.instances)
            file = root / labels.format(split) / f'{path.stem}.txt'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + '\n')


NAMES = "names: ['bolt', 'nut & washer', 'Mutter ü']\n"
DESCRIPTIONS = dict(
    ultralytics='path: .\ntrain: images/train\nval: images/val\ntest:\n' + NAMES,
    path_of_nowhere='path: ../datasets/mine\ntrain: images/train\nval: images/val\n' + NAMES,
    mapping='train: [images/train]\nval: ./images/val/\n'
    'names:\n  0: bolt\n  2: Mutter ü\n  1: nut & washer\n',
    roboflow='train: ../images/train\nval: ../images/val\nnc: 3\n' + NAMES,
    lists='train: train.txt\nval: [val.txt]\n' + NAMES,
    windows='train: images\\train\nval: images\\val\n' + NAMES,
)


def assert_all(drawn, source) -> None:
    contents = source.read()
    assert source.kind == 'YOLO-seg' and [*contents] == ['train', 'val']
    for split, content in contents.items():
        drawn.assert_same(content, split, source.picture_root)
        assert [one['name'] for one in content['categories']] == drawn.classes


@pytest.mark.parametrize('name', DESCRIPTIONS)
def test_descriptions(tmp_path, drawn, name):
    write(drawn, tmp_path)
    (tmp_path / 'data.yaml').write_text(DESCRIPTIONS[name], 'utf-8')
    for split, pictures in drawn.splits.items():
        lines = [f'./images/{split}/{one.name}' for one in pictures]
        (tmp_path / f'{split}.txt').write_text('\n'.join(lines), 'utf-8')
    source = find_source(tmp_path)
    assert_all(drawn, source)
    assert not source.notes
    assert_all(drawn, find_source(tmp_path / 'data.yaml'))


@pytest.mark.parametrize(
    'images, labels',
    [('{}/images', '{}/labels'), ('{}', '{}'), ('images/x/images/{}', 'images/x/labels/{}')],
)
def test_places_of_labels(tmp_path, drawn, images, labels):
    root = tmp_path / 'images' / 'set'  # a folder of that name above is none of it
    write(drawn, root, images, labels)
    text = f'train: {images.format("train")}\nval: {images.format("val")}\n{NAMES}'
    (root / 'dataset.yaml').write_text(text, 'utf-8')
    source = find_source(root)
    assert_all(drawn, source)
    assert not source.notes


def test_an_absolute_path_elsewhere(tmp_path, drawn):
    write(drawn, tmp_path / 'set')
    text = f'path: {tmp_path}/set\ntrain: images/train\nval: images/val\n{NAMES}'
    (tmp_path / 'here').mkdir()
    (tmp_path / 'here' / 'mine.yaml').write_text(text, 'utf-8')
    assert_all(drawn, find_source(tmp_path / 'here'))


def test_a_bridge_there_and_back_fills_nothing(tmp_path, drawn):
    parts = [
        [20, 20, 60, 20, 60, 60, 20, 60],
        [120, 30, 180, 30, 180, 70],
        [30, 100, 90, 90, 60, 140],
    ]
    picture = drawn.splits['train'][0]._replace(instances=[(drawn.classes[0], parts)])
    alone = drawn._replace(splits=dict(train=[picture]))
    write(alone, tmp_path)
    (tmp_path / 'data.yaml').write_text('train: images/train\n' + NAMES, 'utf-8')
    content = find_source(tmp_path).read()['train']
    assert len(content['annotations'][0]['segmentation']) == 1
    found, union = drawn.mask(content['annotations'][0]['segmentation']), drawn.mask(parts)
    assert (found & union).sum() / (found | union).sum() >= 0.99
    assert not found[:, 65:115][25:60].any()  # between the first two
    hole = [30, 30, 30, 50, 50, 50, 50, 30]
    fractions = np.reshape(bridged([parts[0], hole]), (-1, 2)) / (drawn.size[::-1])
    (tmp_path / 'labels/train/a.txt').write_text('0 ' + ' '.join(map(str, fractions.ravel())))
    ring = drawn.mask(find_source(tmp_path).read()['train']['annotations'][0]['segmentation'])
    expected = drawn.mask([parts[0]]) & ~drawn.mask([hole])
    assert (ring & expected).sum() / (ring | expected).sum() >= 0.99


def one_label(tmp_path, drawn, text):
    drawn.save(drawn.splits['train'][0], tmp_path / 'images')
    (tmp_path / 'labels').mkdir(exist_ok=True)
    (tmp_path / 'labels' / 'a.txt').write_text(text)
    (tmp_path / 'data.yaml').write_text('train: images\n' + NAMES, 'utf-8')
    source = find_source(tmp_path)
    return source, source.read()['train']['annotations']


TRIANGLE = '0 0.1 0.1 0.5 0.1 0.3 0.6'


def test_boxes_are_left_out_counted_and_said(tmp_path, drawn):
    source, found = one_label(tmp_path, drawn, f'0 .5 .5 .2 .2\n{TRIANGLE}\n\n1 .5 .5 .2 .2\n')
    assert len(found) == 1
    source.read()  # counts anew
    assert source.notes == [
        '2 lines of labels left out, which are boxes and no masks, first labels/a.txt:1'
    ]


@pytest.mark.parametrize(
    'line', ['0 0.1 0.1 0.5 0.1 0.3', '0 x 0.1 0.5 0.1 0.3 0.6', '0 10 10 50 10 30 60', '0',
             '0.5 0.1 0.1 0.5 0.1 0.3 0.6', '0 nan 0.1 0.5 0.1 0.3 0.6',
             '0 0.1 0.1 0.5 0.1 0.3 0.6 0.7']
)  # fmt: skip
def test_lines_that_are_no_polygons(tmp_path, drawn, line):
    source, found = one_label(tmp_path, drawn, f'{TRIANGLE}\n{line}')
    assert len(found) == 1
    assert source.notes[0].startswith('1 lines of labels left out, which are no class and polygon')
    assert source.notes[0].endswith('first labels/a.txt:2')


def test_a_class_without_a_name_is_refused(tmp_path, drawn):
    with pytest.raises(InputError, match=r'labels/a\.txt:1: there is no class 3'):
        one_label(tmp_path, drawn, TRIANGLE.replace('0', '3', 1))


def test_pictures_without_labels_are_empty_and_broken_ones_left_out(tmp_path, drawn):
    write(drawn, tmp_path)
    os.remove(tmp_path / 'labels/train/a.txt')
    (tmp_path / 'images/val/a.png').write_bytes(b'nothing')
    (tmp_path / 'images/val/x.heic').write_bytes(b'')
    (tmp_path / 'data.yaml').write_text(DESCRIPTIONS['ultralytics'] + 'test: tests\n', 'utf-8')
    source = find_source(tmp_path)
    contents = source.read()
    assert [len(one['images']) for one in contents.values()] == [4, 1]
    assert sorted(source.notes) == [
        f'1 .heic files, {UNREAD}, first images/val/x.heic',
        f'1 {UNSIZED}, first images/val/a.png',
        '1 pictures without a file of labels, taken as empty, first images/train/a.png',
        '1 places of pictures that are not there, as test of data.yaml, first tests',
    ]


@pytest.mark.parametrize(
    'text, message',
    [
        ('train: images\nnames: 3\n', 'names is number'),
        ('train: images\nnames: [a, a]\n', 'a class twice'),
        ('train: images\nnames: {a: b}\n', 'keys that are no numbers'),
        ('train: nowhere\nnames: [a]\n', 'none of its folders has a picture'),
        ('train: [images\n', 'this is no YAML'),
        ('train: !!python/object/apply:os.system ["x"]\nnames: [a]', 'this is no YAML'),
    ],
)
def test_descriptions_that_are_wrong(tmp_path, drawn, text, message):
    write(drawn, tmp_path)
    (tmp_path / 'data.yaml').write_text(text)
    with pytest.raises(InputError, match=rf'data\.yaml: .*{message}'):
        find_source(tmp_path).read()


def test_two_descriptions_are_refused(tmp_path, drawn):
    write(drawn, tmp_path)
    for name in ('data.yaml', 'other.yml'):
        (tmp_path / name).write_text(DESCRIPTIONS['ultralytics'], 'utf-8')
    with pytest.raises(InputError, match='2 files describe data of YOLO'):
        find_source(tmp_path)
    assert_all(drawn, find_source(tmp_path / 'other.yml'))
