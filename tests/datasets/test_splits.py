"""Parts of data: every class in both, copies together, the same for the same seed, none lost."""

import copy
from collections import Counter

import cv2
import numpy as np
import pytest

from mmsolov2.datasets.splits import split
from mmsolov2.errors import InputError


def save(folder, names, copies=()) -> None:
    """A picture of noise for each name; ``copies`` name one and its copy."""
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        image = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
        cv2.imwrite(str(folder / name), image)
    for one, other in copies:
        image = cv2.imread(str(folder / one))
        cv2.imwrite(str(folder / other), image, [cv2.IMWRITE_PNG_COMPRESSION, 0])


def data(classes: list[set[int]], **extra) -> dict:
    """An image for each set of classes, with one instance of each of them."""
    images = [dict(id=n, file_name=f'{n:03}.png', **extra) for n in range(1, len(classes) + 1)]
    annotations = [
        dict(id=100 * image['id'] + category, image_id=image['id'], category_id=category)
        for image, own in zip(images, classes)
        for category in sorted(own)
    ]
    names = sorted(set().union(*classes))
    categories = [dict(id=number, name=f'class {number}') for number in names]
    return dict(info=dict(year=1), images=images, annotations=annotations, categories=categories)


def names_of(parts: dict) -> dict[str, list[str]]:
    return {part: [one['file_name'] for one in each['images']] for part, each in parts.items()}


def pictures_with(content: dict) -> Counter:
    pairs = {(str(one['image_id']), one['category_id']) for one in content['annotations']}
    return Counter(category for _, category in pairs)


def random_classes(seed: int, count: int) -> list[set[int]]:
    """Common and rare classes, several in a picture, also none."""
    rng = np.random.default_rng(seed)
    chances = np.array([0.6, 0.3, 0.2, 0.1, 0.05, 0.03])
    return [set((np.flatnonzero(rng.random(6) < chances) + 1).tolist()) for _ in range(count)]


@pytest.mark.parametrize('seed', range(20))
def test_every_class_of_several_pictures_is_in_both(tmp_path, seed):
    content = data(random_classes(seed, 60))
    before = copy.deepcopy(content)
    parts = split(content, root=tmp_path, seed=seed)
    assert content == before
    totals = pictures_with(content)
    for category, total in totals.items():
        if total > 1:
            assert all(pictures_with(part)[category] for part in parts.values())
        if total >= 20:
            assert 0.1 <= pictures_with(parts['val'])[category] / total <= 0.35
    assert 0.1 <= len(parts['val']['images']) / 60 <= 0.35


def test_nothing_is_lost_or_twice(tmp_path):
    content = data(random_classes(0, 40))
    content['annotations'].append(dict(id=1, image_id=999, category_id=1))  # of no image
    parts = split(content, root=tmp_path)
    for key in ('images', 'annotations'):
        found = [one for part in parts.values() for one in part[key]]
        assert sorted(map(str, found)) == sorted(map(str, content[key]))
    for part in parts.values():
        ids = {image['id'] for image in part['images']}
        assert {one['image_id'] for one in part['annotations']} <= ids | {999}
        assert part['categories'] == content['categories'] and part['info'] == content['info']


def test_the_same_parts_whatever_the_order_and_others_for_another_seed(tmp_path):
    content = data(random_classes(1, 30))
    first = split(content, root=tmp_path)
    turned = {**content, 'images': content['images'][::-1]}
    assert {k: sorted(v) for k, v in names_of(split(turned, root=tmp_path)).items()} == names_of(
        first
    )
    assert names_of(split(content, root=tmp_path)) == names_of(first)
    assert any(
        names_of(split(content, root=tmp_path, seed=n)) != names_of(first) for n in range(1, 4)
    )


@pytest.mark.parametrize('seed', range(5))
def test_copies_stay_together(tmp_path, seed):
    content = data([{1}] * 8)
    names = [image['file_name'] for image in content['images']]
    save(tmp_path, names[:6], copies=[(names[0], names[6]), (names[1], names[7])])
    found = names_of(split(content, root=tmp_path, seed=seed, val_share=0.5))
    for one, other in ((0, 6), (1, 7)):
        assert any({names[one], names[other]} <= set(part) for part in found.values())


def test_ids_of_several_types_and_a_share(tmp_path):
    content = data([{1}, {1}, {1}, {1}, {2}, {2}])
    for one in content['annotations']:
        one['image_id'] = str(one['image_id'])
    parts = split(content, root=tmp_path, val_share=0.5)
    assert len(parts['val']['images']) == 3 == len(parts['val']['annotations'])


@pytest.mark.parametrize('classes', [[{1}, {1}], [{1}, {2}], [set(), set()], [{1, 2}, {1}, set()]])
@pytest.mark.parametrize('share', [0.01, 0.2, 0.99])
def test_each_part_has_a_picture(tmp_path, classes, share):
    content = data([{1}])
    content = (
        data(classes) if any(classes) else {**content, 'images': [*data(classes * 2)['images']]}
    )
    parts = split(content, root=tmp_path, val_share=share)
    assert all(part['images'] for part in parts.values())


def test_a_crowd_is_no_picture_of_a_class(tmp_path):
    content = data([{1}, {1}, {1}, {1}, {1}, {1}])
    for one in content['annotations'][2:]:
        one['iscrowd'] = 1
    for seed in range(5):
        parts = split(content, root=tmp_path, seed=seed)
        crowds = [[one.get('iscrowd', 0) for one in part['annotations']] for part in parts.values()]
        assert all(0 in part for part in crowds)


def test_classes_that_hinder_each_other_end(tmp_path):
    parts = split(data([{1, 3}, {1, 2}, {2, 3}]), root=tmp_path)  # of each two, one must be missed
    assert all(part['images'] for part in parts.values())


@pytest.mark.parametrize('share', [0, 1, -1, float('nan')])
def test_a_share_that_is_none(tmp_path, share):
    with pytest.raises(InputError, match='give a share between 0 and 1'):
        split(data([{1}, {1}]), root=tmp_path, val_share=share)


def test_too_few_pictures(tmp_path):
    with pytest.raises(InputError, match='1 pictures, of which 1 show different things'):
        split(data([{1}]), root=tmp_path)
    content = data([{1}, {1}])
    save(tmp_path, ['001.png'], copies=[('001.png', '002.png')])
    with pytest.raises(InputError, match='2 pictures, of which 1 show different things'):
        split(content, root=tmp_path)
    with pytest.raises(InputError, match='images is number'):
        split({**content, 'images': 3}, root=tmp_path)
