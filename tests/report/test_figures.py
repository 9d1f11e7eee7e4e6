"""Figures of pictures of a few rectangles, and of generated sets beside COCO's code."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from mmsolov2.evaluation.instance_errors import Error
from mmsolov2.report.figures import (
    THRESHOLDS,
    ReportMetric,
    average_precisions,
    best_threshold,
    confusion,
    panoptic_quality,
)

HEIGHT, WIDTH = 40, 60
nan = float('nan')
A, B, C = (0, 0, 10, 10), (20, 0, 10, 10), (40, 0, 10, 10)


def test_figures_of_rectangles(rectangles):
    """Two pictures: a cat found, a dog found as a cat, a dog missed; a cat twice, a false dog."""
    truths = [[(0, A), (1, B), (1, C)], [(0, A)]]
    found = [
        [(0, A, 0.9), (0, B, 0.8)],
        [(0, (0, 0, 10, 9), 0.7), (0, A, 0.6), (1, (0, 20, 10, 10), 0.305)],
    ]
    result, _ = rectangles(truths, found)
    assert result.instances.tolist() == [4, 2, 2]
    # cats by score: right 0.9, wrong 0.8, right 0.7 (the first of its place), wrong 0.6
    # F1 of all: 0.9 on 2/(1+4), 0.8 on 2/(2+4), 0.7 on 4/(3+4), 0.6 on 4/(4+4), 0.305 on 4/(5+4)
    expected = np.full(100, 0.0)
    for score, value in ((90, 2 / 5), (80, 2 / 6), (70, 4 / 7), (60, 4 / 8), (30, 4 / 9)):
        expected[: score + 1] = value
    assert result.f1[0].tolist() == expected.tolist()
    assert result.f1[1, [0, 60, 70, 80, 90, 91]].tolist() == [4 / 6, 4 / 6, 4 / 5, 2 / 4, 2 / 3, 0]
    assert result.f1[2].tolist() == [0] * 100
    assert result.best[:2].tolist() == [0.66, 0.66] and np.isnan(result.best[2])
    assert result.threshold == 0.66
    first, second = result.pictures
    assert first.errors == [Error('class', (1,), (1,)), Error('missed', (2,), ())]
    assert (first.name, first.right, first.match.tolist()) == ('0.png', 1, [0, -1])
    assert second.errors == [] and second.scores.tolist() == [0.7]  # 0.6 is below the threshold
    assert first.quality == 1 / 2.5 and second.quality == 0.9
    assert confusion(result.pictures, 2).tolist() == [[2, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert result.kinds == {'class': 1, 'missed': 1}
    assert result.tide['Cls'][1] == result.tide['Miss'][1] == result.tide['Dupe'][1] == 1
    assert result.calibration['num_detections'] == 5


def test_precision_of_rectangles(rectangles):
    """One of two cats, a wrong one, the other cat: half of recall at 1, half at 2/3."""
    truths, found = [[(0, A), (0, B)]], [[(0, A, 0.9), (0, C, 0.8), (0, B, 0.7)]]
    result, _ = rectangles(truths, found)
    precision = [1.0] * 51 + [2 / 3] * 50
    np.testing.assert_allclose(result.precision[1], precision)
    np.testing.assert_allclose(result.precision[0], precision)  # dogs do not count
    assert np.isnan(result.precision[2]).all()
    mean = np.mean(precision)
    np.testing.assert_allclose(result.ap['segm'][1], [mean, mean, mean, mean, nan, nan])
    np.testing.assert_allclose(result.ap['bbox'][2], [nan] * 6)


def test_crowds_are_left_out_of_all_counts(rectangles):
    truths = [[(0, (0, 0, 30, 30), 1), (0, C)]]
    found = [[(0, A, 0.9), (0, C, 0.4)]]
    result, _ = rectangles(truths, found)
    assert result.instances.tolist() == [1, 1, 0]
    (picture,) = result.pictures
    assert picture.errors == [] and picture.match.tolist() == [0] and picture.quality == 1
    assert result.f1[0, :41].tolist() == [1] * 41
    assert confusion(result.pictures, 2).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ('truths', 'found', 'f1', 'kinds'),
    [
        ([[(0, A)]], [[]], 0, {'missed': 1}),  # nothing found
        ([[]], [[(0, A, 0.9)]], 0, {'false': 1}),  # nothing there
        ([[]], [[]], nan, {}),
        ([[(0, A)]], [[(0, C, 0.2)]], 0, {'missed': 1}),  # no right one: by a threshold of 0.5
    ],
)
def test_where_nothing_is_right(rectangles, truths, found, f1, kinds):
    result, _ = rectangles(truths, found)
    np.testing.assert_equal(result.f1[0, :20], [f1] * 20)
    assert np.isnan(result.best).all() and result.threshold == 0.5
    assert result.kinds == kinds
    ap = nan if truths == [[]] else 0
    np.testing.assert_equal(result.ap['segm'][:, 0], [ap, ap, nan])


def test_one_class_and_odd_names(rectangles):
    result, _ = rectangles([[(0, A)]], [[(0, A, 1.0)]], classes=('<b>&"\'',))
    assert result.classes == ('<b>&"\'',) and result.best[0] == 0.5  # the middle of 0 to 0.99
    assert result.ap['segm'][:, 0] == pytest.approx([1, 1])


def generated(seed):
    """Truths and predictions of twelve pictures: shifted, in other classes, twice, elsewhere."""
    random = np.random.default_rng(seed)

    def box():
        x, y = random.integers(0, (WIDTH - 20, HEIGHT - 20))
        return (int(x), int(y), *random.integers(3, 20, 2).tolist())

    truths = [
        [(int(random.integers(2)), box(), int(random.random() < 0.15)) for _ in range(count)]
        for count in random.integers(0, 7, 12)
    ]
    found = []
    for entries in truths:
        own = [
            ((label + (random.random() < 0.2)) % 2, (x + int(random.integers(3)), y, width, height))
            for label, (x, y, width, height), _ in entries
            if random.random() < 0.8
        ]
        own += [(int(random.integers(2)), box()) for _ in range(random.integers(3))]
        found.append([(int(a), b, float(random.integers(100)) / 100) for a, b in own])
    return truths, found


@pytest.mark.parametrize('seed', range(4))
def test_figures_are_those_of_cocos_code(rectangles, seed):
    result, numbers = rectangles(*generated(seed))
    for kind in ('segm', 'bbox'):
        names = [f'coco/{kind}_mAP{end}' for end in ('', '_50', '_75', '_s', '_m', '_l')]
        ours = np.nan_to_num(result.ap[kind][0], nan=-1).round(3)
        assert ours.tolist() == [numbers[name] for name in names]


@pytest.mark.parametrize('seed', range(4))
def test_matches_are_those_of_cocos_code(rectangles, bitmap, tmp_path, seed):
    """With its matches, by class, F1 is counted one prediction after the other."""
    truths, found = generated(seed)
    result, _ = rectangles(truths, found)
    metric = ReportMetric(str(tmp_path / 'truth.json'))
    entries = [
        dict(
            image_id=index + 1,
            category_id=2 - label,  # the file has them in reverse
            score=score,
            segmentation=coco_mask.encode(np.asfortranarray(bitmap(box), np.uint8)),
        )
        for index, each in enumerate(found)
        for label, box, score in each
    ]
    counted = COCOeval(metric._coco_api, metric._coco_api.loadRes(entries), 'segm')
    counted.params.iouThrs = [0.5]
    counted.evaluate()
    whole = [one for one in counted.evalImgs if one and one['aRng'][1] > 1e9]
    for threshold in (0, 17, 50, 66):
        right = wrong = there = 0
        for one in whole:
            there += sum(not ignored for ignored in one['gtIgnore'])
            rows = zip(one['dtScores'], one['dtMatches'][0], one['dtIgnore'][0], strict=True)
            for score, truth, ignored in rows:
                if score >= THRESHOLDS[threshold] and not ignored:
                    right, wrong = right + (truth > 0), wrong + (truth == 0)
        assert result.f1[0, threshold] == pytest.approx(2 * right / (right + wrong + there))
        if THRESHOLDS[threshold] == result.threshold:
            assert sum(picture.right for picture in result.pictures) == right
    assert whole and result.f1.max() > 0.3


def test_best_threshold():
    f1 = np.zeros(100)
    assert np.isnan(best_threshold(f1)) and np.isnan(best_threshold(f1 * nan))
    f1[[20, 21, 22, 40]] = 0.7
    f1[:5] = nan
    assert best_threshold(f1) == 0.22  # of four, not between them
    f1[41] = 0.8
    assert best_threshold(f1) == 0.41


def test_average_precision_of_all_is_the_mean_of_what_there_is():
    precision = np.full((10, 101, 2, 4), nan)
    precision[:, :, 0, 0] = 0.5
    precision[0, :, 1, 0], precision[1:, :, 1, 0] = 1, 0
    expected = [[0.3, 0.75, 0.25], [0.5, 0.5, 0.5], [0.1, 1, 0]]
    found = average_precisions(precision)
    np.testing.assert_allclose(found[:, :3], expected)
    assert np.isnan(found[:, 3:]).all()


def test_quality_of_a_picture():
    assert panoptic_quality(np.zeros((0, 0)), np.zeros(0, int)) == 1
    assert panoptic_quality(np.zeros((0, 3)), np.zeros(0, int)) == 0
    assert panoptic_quality(np.array([[0.6], [0.0]]), np.array([0, -1])) == 0.6 / 1.5
