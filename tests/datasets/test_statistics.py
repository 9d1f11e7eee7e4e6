"""What a set is like, beside plain counting."""

import numpy as np
import pytest

from mmsolov2.datasets.statistics import crowded_out, on_levels, statistics


def content(sizes, boxes, classes=('cat', 'dog')):
    """COCO content of pictures (height, width) and of instances (picture, class, box)."""
    images = [dict(id=10 + i, height=h, width=w) for i, (h, w) in enumerate(sizes)]
    annotations = [dict(image_id=10 + i, category_id=5 + c, bbox=box) for i, c, box in boxes]
    categories = [dict(id=5 + i, name=name) for i, name in enumerate(classes)]
    return dict(images=images, annotations=annotations, categories=categories)


def random_content(seed, pictures=20, instances=200):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(50, 400, (pictures, 2)).tolist()
    boxes = []
    for _ in range(instances):
        i = int(rng.integers(pictures))
        h, w = sizes[i]
        x, y = rng.uniform(0, w - 5), rng.uniform(0, h - 5)
        boxes.append(
            (i, int(rng.integers(2)), [x, y, rng.uniform(3, w - x), rng.uniform(3, h - y)])
        )
    return content(sizes, boxes)


def test_counts():
    found = statistics(content([(60, 80), (90, 30)], [(0, 1, [0, 0, 4, 9]), (0, 0, [8, 8, 2, 8])]))
    assert found.classes == ('cat', 'dog')
    assert found.per_class.tolist() == [1, 1]
    assert found.per_picture.tolist() == [2, 0]
    assert found.sides.tolist() == [6, 4]
    assert found.median_size() == (75, 55)


def test_crowds_are_no_instances():
    given = content([(60, 80)], [(0, 0, [0, 0, 4, 9])] * 2)
    given['annotations'][0]['iscrowd'] = 1
    assert len(statistics(given).labels) == 1


@pytest.mark.parametrize('boxes', [[], [(0, 0, [0, 0, 4, 9])]])
def test_nothing_is_a_size(boxes):
    found = statistics(content([(60, 80)], boxes))
    taken = on_levels(found.input_sides((80, 60)), [(1, 32), (16, 64)])
    assert taken.shape == (2, len(boxes))
    assert crowded_out(found, taken, (4, 2)).tolist() == [False] * len(boxes)
    assert statistics(content([], [])).per_picture.tolist() == []


@pytest.mark.parametrize('scale', [(300, 200), (200, 300), (512, 512)])
def test_pictures_are_magnified_as_the_pipeline_does(scale):
    from mmcv.image.geometric import rescale_size

    found = statistics(random_content(0))
    for (height, width), factor in zip(found.sizes, found.factors(scale), strict=True):
        assert rescale_size((width, height), scale, return_scale=True)[1] == pytest.approx(factor)


@pytest.mark.parametrize('seed', range(3))
def test_crowded_out_is_what_counting_says(seed):
    given = random_content(seed)
    found = statistics(given)
    ranges, grids = [(1, 60), (30, 120), (60, 900)], (9, 6, 3)
    sides = found.input_sides((300, 200))
    taken = on_levels(sides, ranges)
    expected = []
    for i in range(len(sides)):
        levels = [k for k, (low, high) in enumerate(ranges) if low <= sides[i] <= high]
        cells = {}
        for k in levels:
            y, x = (found.centers[i] * grids[k]).astype(int)
            cells[k] = sum(
                found.picture[j] == found.picture[i]
                and ranges[k][0] <= sides[j] <= ranges[k][1]
                and (found.centers[j] * grids[k]).astype(int).tolist() == [y, x]
                for j in range(len(sides))
            )
        expected.append(bool(levels) and min(cells.values()) > 1)
    assert 0 < sum(expected) < len(expected)
    assert crowded_out(found, taken, grids).tolist() == expected
