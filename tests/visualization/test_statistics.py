"""Statistics as tables and as a picture."""

import numpy as np

from mmsolov2.datasets.statistics import statistics
from mmsolov2.visualization.statistics import levels_table, parts_table, plot_parts, spread


def content(boxes, classes):
    """A picture of 80x80 with instances of (class, box)."""
    return dict(
        images=[dict(id=1, height=80, width=80)],
        annotations=[dict(image_id=1, category_id=label, bbox=box) for label, box in boxes],
        categories=[dict(id=label, name=name) for label, name in enumerate(classes)],
    )


TRAIN = statistics(
    content([(0, [0, 0, 10, 10]), (0, [4, 4, 10, 10]), (1, [40, 40, 40, 40])], ['cat', 'dog'])
)
EMPTY = statistics(content([], ['dog', 'owl']))


def test_spread():
    assert spread(np.arange(101)) == '50 (5 to 95)'
    assert spread(np.array([])) == '–'


def test_parts():
    head, rows = parts_table(dict(train=TRAIN, val=EMPTY))
    assert head == ['', 'train', 'val']
    assert rows[0] == ['pictures', '1', '1']
    assert rows[3:] == [
        ['instances', '3', '0'],
        ['instances a picture', '3 (3 to 3)', '0 (0 to 0)'],
        ['side of an instance', '10 (10 to 37)', '–'],
        ['cat', '2', '0'],
        ['dog', '1', '0'],
        ['owl', '0', '0'],
    ]


def test_levels():
    _, rows = levels_table(TRAIN, (160, 160), [(1, 32), (16, 64)], (4, 2))
    assert rows == [
        ['1 to 32', '4x4', '2'],  # the two of 20 pixels, in one cell
        ['16 to 64', '2x2', '2'],
        ['on no level', '', '1'],  # that of 80
        ['without a cell of their own', '', '2'],
    ]


def test_plot():
    sides, numbers, classes = plot_parts(dict(train=TRAIN, val=EMPTY)).axes
    assert sum(patch.get_height() for patch in sides.patches) == 3
    assert sum(patch.get_height() for patch in numbers.patches) == 2
    assert [patch.get_width() for patch in classes.patches] == [2, 1, 0, 0]
