"""The names of the files that predictions of many images are written to."""

import os
from pathlib import Path

import pytest

from mmsolov2.apis.prediction_files import fitting, unique_stems


def overlay_names(names):
    return [fitting(f'{stem}.png') for stem in unique_stems(names)]


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (['a.png', 'b.jpg'], ['a.png', 'b.png']),
        (['x/a.png', 'y/a.png'], ['x/a.png', 'y/a.png']),
        (['a.png', 'a.jpg', 'b.jpg'], ['a.png.png', 'a.jpg.png', 'b.png']),
        (['a.png', 'a.jpg', 'a.jpg.png'], ['a.png.png', 'a.jpg.png', 'a.jpg.png.png']),
        (['v1.2.png', 'v1.3.png'], ['v1.2.png', 'v1.3.png']),
        (['noextension', 'dir.d/a.png'], ['noextension.png', 'dir.d/a.png']),
        (['A.jpg', 'a.png'], ['A.jpg.png', 'a.png.png']),  # where case makes no difference
    ],
)
def test_overlay_names(names, expected):
    assert overlay_names(names) == expected
    assert len({name.casefold() for name in expected}) == len(names)


def test_long_overlay_names_are_cut_and_differ():
    names = ['d/' + 250 * 'a' + end for end in ('.jpg', '1.jpg', '.png', '2')] + [90 * '\u20ac']
    overlays = overlay_names(names)
    lengths = [len(os.fsencode(Path(overlay).name)) for overlay in overlays]
    assert len(set(overlays)) == 5 and max(lengths) == 255 - len('.unfinished')
    assert all(overlay.startswith('d/aaa') and overlay.endswith('.png') for overlay in overlays[:4])
    assert overlays[4].startswith('\u20ac\u20ac') and min(lengths) > 200
    fits = 240 * 'a'
    assert overlay_names([f'{fits}.jpg']) == [f'{fits}.png']
