"""Pictures of training targets."""

import numpy as np

from mmsolov2.visualization.overlay import instance_color
from mmsolov2.visualization.targets import Level, Targets, draw_level


def test_cells_have_the_colour_of_their_instance():
    """Two instances claim cell 5, the last owns it. Cells are 160 pixels wide in the picture."""
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 16:48, 16:48] = masks[1, 0:32, 0:32] = True
    level = Level(4, (8, 64), np.array([5, 6, 5, 0]), np.array([0, 0, 1, 1]))
    targets = Targets(
        name='x.png',
        image=np.zeros((64, 64, 3), np.uint8),
        masks=masks,
        boxes=np.array([[16, 16, 48, 48], [0, 0, 32, 32]]),
        classes=['nut', 'fig'],
        levels=[level],
    )
    picture = draw_level(targets, level).astype(int)
    assert picture.shape == (640, 640, 3)
    empty = picture[5 * 80, 7 * 80]
    for cell, instance in ((0, 1), (5, 1), (6, 0)):
        row, column = divmod(cell, 4)
        middle = picture[row * 160 + 110, column * 160 + 110]
        expected = 0.6 * np.array(instance_color(instance)) + 0.4 * empty
        assert np.abs(middle - expected).max() < 2
    framed, plain = picture[165:315, 160], picture[165:315, 479]
    assert (framed == 255).all() and not (plain == 255).all(1).any()
