"""Errors of pictures that are a few rectangles."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmsolov2.evaluation.instance_errors import (
    KINDS,
    Error,
    Instances,
    instance_errors,
    overlaps,
    parts,
    shares,
)

HEIGHT, WIDTH = 20, 60
CAT, DOG = 0, 1


def rectangle(x, y, width, height):
    bitmap = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
    bitmap[y : y + height, x : x + width] = 1
    return coco_mask.encode(bitmap)


def instances(*boxes, labels=None):
    """Instances of rectangles (x, y, width, height)."""
    labels = np.array([CAT] * len(boxes) if labels is None else labels, dtype=int)
    return Instances([rectangle(*box) for box in boxes], labels)


def errors_of(truth, found, match):
    return instance_errors(truth, found, np.array(match, dtype=int))


def test_overlaps_and_shares_of_rectangles():
    first, second = [rectangle(0, 0, 10, 10)], [rectangle(0, 0, 5, 10), rectangle(5, 0, 15, 10)]
    assert overlaps(first, second).tolist() == [[0.5, 5 / 20]]
    assert shares(first, second).tolist() == [[0.5, 0.5]]
    assert shares(second, first).tolist() == [[1.0], [5 / 15]]
    assert overlaps([], second).shape == (0, 2) and shares(first, []).shape == (1, 0)


@pytest.mark.parametrize(
    ('boxes', 'expected'),
    [
        ([(0, 0, 10, 10), (10, 0, 10, 10)], [0, 1]),  # two halves
        ([(0, 0, 20, 10), (10, 0, 10, 10)], None),  # the second is within the first
        ([(0, 0, 10, 10), (2, 0, 10, 10)], None),  # two of the same
        ([(0, 0, 10, 10), (10, 0, 1, 10)], None),  # a twentieth is no part
        ([(0, 0, 10, 10), (15, 0, 15, 10)], None),  # two thirds of it are outside
        ([(0, 0, 8, 10), (1, 0, 7, 10), (8, 0, 6, 10), (14, 0, 6, 10)], [0, 2, 3]),
        ([(0, 0, 20, 10)], None),
        ([], None),
    ],
)
def test_parts_of_a_rectangle(boxes, expected):
    found = list(parts([rectangle(0, 0, 20, 10)], [rectangle(*box) for box in boxes]))
    assert found == ([(0, expected)] if expected else [])


@pytest.mark.parametrize(
    ('truth', 'found', 'match', 'expected'),
    [
        # right
        (instances((0, 0, 10, 10)), instances((0, 0, 10, 9)), [0], []),
        # nothing found, nothing there, neither
        (instances((0, 0, 10, 10)), instances(), [], [Error('missed', (0,), ())]),
        (instances(), instances((0, 0, 10, 10)), [-1], [Error('false', (), (0,))]),
        (instances(), instances(), [], []),
        # far from each other: an IoU of 10 / 190
        (
            instances((0, 0, 10, 10)),
            instances((9, 0, 10, 10)),
            [-1],
            [Error('missed', (0,), ()), Error('false', (), (0,))],
        ),
        # the same again, and with another class
        (
            instances((0, 0, 10, 10)),
            instances((0, 0, 10, 10), (0, 0, 10, 9), (0, 1, 10, 9), labels=[CAT, CAT, DOG]),
            [0, -1, -1],
            [Error('duplicate', (0,), (1,)), Error('duplicate', (0,), (2,))],
        ),
        # two become one, which matches neither, or the larger one
        (
            instances((0, 0, 10, 10), (10, 0, 10, 10)),
            instances((0, 0, 20, 10)),
            [-1],
            [Error('merged', (0, 1), (0,))],
        ),
        (
            instances((0, 0, 14, 10), (14, 0, 6, 10)),
            instances((0, 0, 20, 10)),
            [0],
            [Error('merged', (0, 1), (0,))],
        ),
        # found merged twice: the second is a second one
        (
            instances((0, 0, 14, 10), (14, 0, 6, 10)),
            instances((0, 0, 20, 10), (0, 0, 20, 9)),
            [0, -1],
            [Error('merged', (0, 1), (0,)), Error('duplicate', (0,), (1,))],
        ),
        # one becomes two or three
        (
            instances((0, 0, 20, 10)),
            instances((0, 0, 10, 10), (10, 0, 10, 10)),
            [0, -1],
            [Error('split', (0,), (0, 1))],
        ),
        (
            instances((0, 0, 21, 10)),
            instances((0, 0, 7, 10), (7, 0, 7, 10), (14, 0, 7, 10)),
            [-1, -1, -1],
            [Error('split', (0,), (0, 1, 2))],
        ),
        # a piece of what was found already is an error, but splits nothing
        (
            instances((0, 0, 20, 10)),
            instances((0, 0, 20, 10), (0, 0, 8, 10)),
            [0, -1],
            [Error('false', (), (1,))],
        ),
        # another class
        (
            instances((0, 0, 10, 10)),
            instances((0, 0, 10, 9), labels=[DOG]),
            [-1],
            [Error('class', (0,), (0,))],
        ),
        # an IoU of 5 / 15, and a second one that is left over
        (
            instances((0, 0, 10, 10)),
            instances((5, 0, 10, 10), (6, 0, 10, 10)),
            [-1, -1],
            [Error('loose', (0,), (0,)), Error('false', (), (1,))],
        ),
        # the better one has its truth, whatever its place in the file
        (
            instances((30, 0, 10, 10), (0, 0, 10, 10)),
            instances((4, 0, 10, 10), (34, 0, 10, 10)),
            [-1, -1],
            [Error('loose', (1,), (0,)), Error('loose', (0,), (1,))],
        ),
    ],
)
def test_errors_of_rectangles(truth, found, match, expected):
    assert errors_of(truth, found, match) == expected


def test_each_instance_without_a_match_is_in_one_error():
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        boxes = np.c_[random.integers(0, (40, 12), (9, 2)), random.integers(3, (20, 8), (9, 2))]
        split = random.integers(0, 10)
        truth, found = (
            instances(*group, labels=random.integers(0, 2, len(group)))
            for group in (boxes[:split], boxes[split:])
        )
        match = np.full(len(found.masks), -1)
        for index in range(min(split, len(match), int(random.integers(0, 3)))):
            match[index] = index
        errors = instance_errors(truth, found, match)
        truths = [one for error in errors if error.kind != 'duplicate' for one in error.truths]
        predictions = [one for error in errors for one in error.found]
        assert sorted({*truths, *match.tolist()} - {-1}) == list(range(split))
        assert len(set(truths)) == len(truths)
        assert {*predictions, *np.flatnonzero(match >= 0)} == set(range(len(match)))
        assert len({one for one in predictions if match[one] < 0}) == sum(
            match[one] < 0 for one in predictions
        )
        seen |= {error.kind for error in errors}
    assert seen == set(KINDS)
