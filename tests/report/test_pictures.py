"""Pictures of truth and predictions."""

import base64

import cv2
import numpy as np

from mmsolov2.evaluation.instance_errors import KINDS
from mmsolov2.report import pictures
from mmsolov2.report.pictures import (
    CROP,
    LARGE,
    SHOWN,
    SMALL,
    THUMBNAILS,
    beside,
    data_uri,
    extremes,
    make_pictures,
    worst_first,
)
from mmsolov2.visualization.overlay import instance_color

A, B, C = (0, 0, 10, 10), (20, 0, 10, 10), (40, 0, 10, 10)
WHOLE = [[(0, A), (1, B)], [(0, A)], [], [(0, C), (1, (10, 10, 20, 20))]]
FOUND = [[(0, A, 0.9)], [(0, A, 0.9), (0, B, 0.8)], [], [(0, (38, 0, 10, 10), 0.7)]]


def decoded(uri):
    """The image in a data URI."""
    head, _, data = uri.partition(',')
    assert head == 'data:image/jpeg;base64'
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


def grey(_number):
    return np.full((40, 60, 3), 90, np.uint8)


def near(pixel, colour):
    return np.abs(pixel.astype(int) - colour).max() < 25  # JPEG


def tinted(index):
    return 0.6 * 90 + 0.4 * np.array(instance_color(index))


def test_the_truth_is_beside_what_was_found(rectangles):
    """A is found and has one colour in both; B is on the left alone."""
    result, _ = rectangles(WHOLE, FOUND)
    image = decoded(beside(grey(1), result.pictures[0], side=600))
    assert image.shape == (400, 1204, 3)  # ten times as large, and a gap
    left, right = image[:, :600], image[:, 604:]
    assert near(left[50, 50], tinted(0)) and near(right[50, 50], tinted(0))
    assert near(left[50, 250], tinted(1)) and near(right[50, 250], 90)
    assert near(left[300, 300], 90)


def test_an_error_is_shown_with_its_surroundings(rectangles):
    """The window has 16 pixels around the missed B: A, which is not in the error, is grey."""
    result, _ = rectangles(WHOLE, FOUND)
    picture = result.pictures[0]
    (error,) = picture.errors
    assert error.kind == 'missed'
    window = (4, 0, 46, 26)
    options = dict(side=420, classes=result.classes, error=error)
    image = decoded(beside(grey(1), picture, **options))
    assert image.shape == ((window[3] - window[1]) * 10, 844, 3)
    assert near(image[80, 230], tinted(1))
    assert near(image[80, 30], 0.6 * 90 + 0.4 * np.array(pictures.GREY))


def test_what_is_outside_of_a_window_is_not_drawn(rectangles, monkeypatch):
    monkeypatch.setattr(pictures, 'data_uri', lambda image: image)
    result, _ = rectangles([[(0, A), (1, (50, 30, 5, 5))]], [[(1, (50, 30, 5, 5), 0.9)]])
    (picture,) = result.pictures
    options = dict(side=260, classes=result.classes, error=picture.errors[0])
    image = beside(grey(1), picture, **options)
    assert image.shape == (260, 524, 3)
    assert (image[:, 264:] == 90).all()


def test_pictures_are_of_few_sizes(rectangles):
    result, _ = rectangles(WHOLE, FOUND)
    made = make_pictures(result.pictures, result.classes, grey)
    assert max(decoded(made.thumbnails[1]).shape) == 2 * SMALL + 4
    assert max(decoded(made.worst[1]).shape) == 2 * LARGE + 4
    (crop,) = [one for one in made.crops['missed'] if one.picture.number == 1]
    assert max(decoded(crop.image).shape) == 2 * CROP + 4


def test_pictures_of_noise_leave_room_in_ten_megabytes():
    """Nothing is larger as JPEG; all of a page's pictures together."""
    random = np.random.default_rng(0)
    numbers = {LARGE: 2 * SHOWN, CROP: SHOWN * len(KINDS), SMALL: THUMBNAILS}
    total = 0
    for side, number in numbers.items():
        noise = random.integers(0, 256, (side, 2 * side + 4, 3), np.uint8)
        total += number * len(data_uri(noise))
    assert total < 9e6


def test_the_worst_come_first(rectangles):
    """Qualities: 1 / 1.5, 1 / 1.5 with a false alarm, 1 (nothing in nothing), and 8 / 12 / 1.5."""
    result, _ = rectangles(WHOLE, FOUND)
    ranked = worst_first(result.pictures)
    assert [one.number for one in ranked] == [4, 1, 2, 3]
    worst, best = extremes(ranked)
    assert [one.number for one in worst] == [4, 1, 2] and best == []


def test_best_pictures_are_those_with_matches(rectangles):
    result, _ = rectangles([[(0, A)], [], [(1, B)]], [[(0, A, 0.9)], [], [(1, (20, 0, 10, 9), 1)]])
    worst, best = extremes(worst_first(result.pictures))
    assert worst == [] and [one.number for one in best] == [1, 3]


def test_only_some_pictures_are_loaded(rectangles, monkeypatch):
    monkeypatch.setattr(pictures, 'THUMBNAILS', 2)
    monkeypatch.setattr(pictures, 'SHOWN', 1)
    loaded = []

    def load(number):
        loaded.append(number)
        return grey(number)

    truths = [[(0, A)]] * 5
    found = [[], [], [], [(0, A, 0.9)], [(0, A, 0.9)]]
    result, _ = rectangles(truths, found)
    made = make_pictures(result.pictures, result.classes, load)
    assert loaded == [1, 2, 5]
    assert list(made.thumbnails) == [1, 2]
    assert list(made.worst) == [1] and list(made.best) == [5]
    assert [len(crops) for crops in made.crops.values()] == [1, 0, 0, 0, 0, 0, 0]
