"""labelme: every kind of shape, groups, pictures by any of their names, and what is left out."""

import base64
import json

import cv2
import numpy as np
import pytest

from mmsolov2.datasets.importers import find_source
from mmsolov2.errors import InputError


def shape(label: str, points, kind: str | None = 'polygon', **extra) -> dict:
    points = np.reshape(points, (-1, 2)).tolist()
    return dict(label=label, points=points, shape_type=kind, group_id=None, flags={}, **extra)


def mask_shape(label: str, pixels: np.ndarray) -> dict:
    x, y, width, height = cv2.boundingRect(pixels.astype(np.uint8))
    crop = pixels[y : y + height, x : x + width].astype(np.uint8) * 255
    data = base64.b64encode(cv2.imencode('.png', crop)[1].tobytes()).decode()
    return shape(label, [x, y, x + width - 1, y + height - 1], 'mask', mask=data)


def as_polygons(drawn, picture) -> list[dict]:
    found = []
    for group, (name, parts) in enumerate(picture.instances):
        own = [shape(name, part) for part in parts]
        found += [{**one, 'group_id': group} for one in own] if len(own) > 1 else own
    return found


def as_masks(drawn, picture) -> list[dict]:
    return [mask_shape(name, drawn.mask(parts)) for name, parts in picture.instances]


def write(folder, name: str, shapes: list[dict], picture: str, size=(None, None), **extra):
    folder.mkdir(parents=True, exist_ok=True)
    content = dict(version='5.4.1', flags={}, shapes=shapes, imagePath=picture, imageData=None)
    content.update(imageHeight=size[0], imageWidth=size[1], **extra)
    path = folder / f'{name}.json'
    path.write_text(json.dumps(content), 'utf-8')
    return path


@pytest.mark.parametrize('shapes', [as_polygons, as_masks])
@pytest.mark.parametrize('place', ['{}', '..\\pictures\\{}', 'C:\\old\\{}'])
def test_every_mask_is_read(tmp_path, drawn, shapes, place):
    for split, pictures in drawn.splits.items():
        folder = tmp_path / split / ('pictures' if 'pictures' in place else 'json')
        for picture in pictures:
            path = drawn.save(picture, folder)
            found = shapes(drawn, picture)
            write(tmp_path / split / 'json', path.stem, found, place.format(path.name), drawn.size)
    source = find_source(tmp_path)
    contents = source.read()
    assert source.kind == 'labelme' and [*contents] == ['train', 'val']
    for split, content in contents.items():
        drawn.assert_same(content, split, tmp_path)
        assert [one['name'] for one in content['categories']] == sorted(drawn.classes)
    assert all(note.startswith('6 pictures found by the last part') for note in source.notes)
    assert bool(source.notes) == place.startswith('C:')


def read_one(tmp_path, drawn, shapes, **extra):
    drawn.save(drawn.splits['train'][0], tmp_path)
    write(tmp_path, 'a', shapes, 'a.png', **extra)
    source = find_source(tmp_path)
    return source, source.read()['all']


def test_rectangles_and_circles(tmp_path, drawn):
    shapes = [
        shape('x', [60, 40, 100, 60], 'rectangle'),
        shape('x', [100, 60, 60, 40], 'rectangle'),
        shape('x', [80, 70, 80, 110], 'circle'),
        shape('x', [1, 1, 60, 1, 60, 60], None),
    ]
    source, content = read_one(tmp_path, drawn, shapes)
    first, second, circle, old = (drawn.mask(one['segmentation']) for one in content['annotations'])
    assert first[40:60, 60:100].all() and first.sum() == 800 and (first == second).all()
    y, x = np.mgrid[: drawn.size[0], : drawn.size[1]] + 0.5
    expected = np.hypot(x - 80, y - 70) <= 40
    assert (circle & expected).sum() / (circle | expected).sum() > 0.98
    assert old.any()
    assert source.notes == ['2 rectangles, taken as masks, first a.json: shapes[0]']
    assert (content['images'][0]['height'], content['images'][0]['width']) == drawn.size


def test_what_is_no_mask_is_counted(tmp_path, drawn):
    shapes = [
        shape('x', [1, 1, 60, 1, 60, 60]),
        shape('x', [1, 1], 'point'),
        shape('x', [1, 1, 2, 2], 'polygon'),
        dict(label='x', points=[[1, 'a']]),
        shape('x', [5, 5, 9, 9], 'mask', mask='no base64!'),
        shape('x', [float('nan')] * 6),
        shape(None, [1, 1, 60, 1, 60, 60]),
        'x',
    ]
    source, content = read_one(tmp_path, drawn, shapes)
    assert len(content['annotations']) == 1
    assert [note.partition(',')[0] for note in source.notes] == [
        '5 shapes left out',
        '1 shapes of the type point left out',
        '1 shapes left out',
    ]


def test_pictures_that_are_not_there(tmp_path, drawn):
    triangle = [shape('x', [1, 1, 60, 1, 60, 60])]
    first = drawn.splits['train'][0]
    drawn.save(first, tmp_path)
    drawn.save(first._replace(name='other.png'), tmp_path)
    write(tmp_path, 'a', triangle, 'renamed.jpg')
    write(tmp_path, 'embedded', triangle, 'embedded.jpg', imageData='aGVsbG8=')
    write(tmp_path, 'gone', triangle, 'gone.jpg')
    write(tmp_path, 'lost', triangle, 'lost.jpg', drawn.size)
    (tmp_path / 'cut.json').write_text('{"shapes": [')
    (tmp_path / 'settings.json').write_text('{}')
    source = find_source(tmp_path)
    images = source.read()['all']['images']
    assert [one['file_name'] for one in images] == ['a.png', 'lost.jpg']  # which a check will miss
    assert sorted(note.partition(',')[0] for note in source.notes) == [
        '1 JSON files left out',
        '1 JSON files left out',
        '1 pictures left out',
        '1 pictures left out',
        '1 pictures left out',
        '1 pictures that have the name of their JSON file',
    ]
    said = ' '.join(source.notes)
    for name in ('cut.json', 'settings.json', 'embedded.json', 'gone.json', 'other.png', 'renamed'):
        assert f'first {name}' in said


def test_nothing_left_is_an_error(tmp_path):
    write(tmp_path, 'embedded', [], 'embedded.jpg', imageData='aGVsbG8=')
    with pytest.raises(
        InputError, match='no picture is left: 1 pictures left out, which are in the'
    ):
        find_source(tmp_path).read()


def test_some_pictures_in_folders_of_splits(tmp_path, drawn):
    triangle = [shape('x', [1, 1, 60, 1, 60, 60])]
    for number, folder in enumerate(('train', 'more')):
        picture = drawn.splits['train'][number]._replace(name=f'{number}.png')
        drawn.save(picture, tmp_path / folder)
        write(tmp_path / folder, str(number), triangle, f'{number}.png', drawn.size)
    source = find_source(tmp_path)
    assert [len(one['images']) for one in source.read().values()] == [2]
    assert source.splits == ('all',) and 'in no folder of a split' in source.notes[0]
