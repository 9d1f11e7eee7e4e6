"""Masks at image size, against plain resizes and drawings."""

import pytest
import torch
import torch.nn.functional as F

from mmsolov2.models.decode import paste_masks as mask_upsampling
from mmsolov2.models.decode.paste_masks import (
    Side,
    image_masks,
    occupied_tiles,
    paint,
    rounds_products,
)

FUSED = ('AVX2', 'AVX512')  # kinds of torch's CPU kernels that round a·b + c once

# The definition


@pytest.mark.parametrize('threshold', [0.3, 0.5])
@pytest.mark.parametrize(
    ('image_size', 'final_size'),
    [((32, 48), (32, 48)), ((30, 41), (30, 41)), ((30, 41), (61, 80)), ((29, 48), (11, 17))],
    ids=str,
)
def test_masks_equal_two_plain_resizes(image_size, final_size, threshold):
    masks = torch.rand(3, 8, 12)
    padded = F.interpolate(masks[None], size=(32, 48), mode='bilinear')
    image = padded[:, :, : image_size[0], : image_size[1]]
    expected = F.interpolate(image, size=final_size, mode='bilinear')[0] > threshold
    found = image_masks(masks, threshold, image_size, final_size)
    assert found.dtype == torch.bool
    assert torch.equal(found, expected)


def test_four_pixels_for_one():
    """Between 0 and 1 the first row rises as 0, 0, 1/8, 3/8, 5/8, 7/8, 1, 1."""
    masks = torch.tensor([[[0.0, 1.0]]])
    assert image_masks(masks, 0.5, (4, 8), (4, 8)).int().tolist() == [
        [[0, 0, 0, 0, 1, 1, 1, 1]] * 4
    ]
    assert image_masks(masks, 0.3, (2, 6), (2, 6)).int().tolist() == [[[0, 0, 0, 1, 1, 1]] * 2]


def test_the_padding_is_cut_off_before_the_last_resize():
    """Of 8 columns the image has 6, of which 2 are inside: a third of the original's 12."""
    masks = torch.tensor([[[0.0, 1.0]]])
    assert image_masks(masks, 0.5, (4, 6), (4, 12)).int().tolist() == [[[0] * 8 + [1] * 4] * 4]


def test_a_probability_at_the_threshold_is_outside():
    masks = torch.full((1, 2, 2), 0.5)
    assert not image_masks(masks, 0.5, (8, 8), (8, 8)).any()
    assert image_masks(masks, 0.49, (8, 8), (8, 8)).all()


# Tiles

SIZES = [
    ((32, 48), (32, 48)),
    ((30, 41), (30, 41)),
    ((30, 41), (61, 80)),
    ((29, 48), (11, 17)),
    ((32, 48), (300, 2)),
    ((1, 1), (9, 1)),
]


def from_tiles(masks, threshold, image_size, final_size):
    """Masks (n, *final_size) painted tile by tile."""
    sizes = zip(masks.shape[1:], image_size, final_size, strict=True)
    rows, columns = sides = [Side.between(*size) for size in sizes]
    tiles = occupied_tiles(masks > threshold, *sides)
    n, down, across = tiles.shape
    images = torch.zeros(n, down, rows.length, across, columns.length, dtype=torch.bool)
    paint(images, tiles, lambda rows, some: masks[some, rows], threshold, *sides)
    return images.flatten(3).flatten(1, 2)[:, : final_size[0], : final_size[1]]


@pytest.fixture(autouse=True)
def _no_cache():
    Side.between.cache_clear()


@pytest.mark.parametrize('margin', [0, 1e-5, 2], ids=['products', 'both', 'sampled'])
@pytest.mark.parametrize('threshold', [0.3, 0.5])
@pytest.mark.parametrize(('image_size', 'final_size'), SIZES, ids=str)
def test_tiles_equal_the_definition(image_size, final_size, threshold, margin, monkeypatch):
    """By products alone, and pixel by pixel alone, too."""
    monkeypatch.setattr(mask_upsampling, 'TILE', 3)
    monkeypatch.setattr(mask_upsampling, 'BAND_PIXELS', 1000)
    monkeypatch.setattr(mask_upsampling, 'MARGIN', margin)
    masks = torch.rand(20, 8, 12)
    masks[5:, :4] = 0
    masks[10:, :, 5:] = 0
    expected = image_masks(masks, threshold, image_size, final_size)
    assert torch.equal(from_tiles(masks, threshold, image_size, final_size), expected)


@pytest.mark.parametrize('way', ['products', 'definition'])
def test_values_at_the_threshold_are_decided_by_the_definition(way, monkeypatch):
    """Thresholds that are some pixel's value, to the last bit: products fall on either side.

    Where torch's resize does not fuse multiplication and addition, pixels so near may differ.
    """
    if way == 'products':
        monkeypatch.setattr(mask_upsampling, 'MARGIN', 0)
    masks = torch.rand(1, 48, 60)
    sizes = (187, 231), (333, 211)
    image = F.interpolate(masks[None], size=(192, 240), mode='bilinear')[:, :, :187, :231]
    final = F.interpolate(image, size=sizes[1], mode='bilinear')[0]
    values = final.flatten()[::2009]
    differing = 0
    for threshold in values.tolist():
        expected = image_masks(masks, threshold, *sizes)
        wrong = from_tiles(masks, threshold, *sizes) != expected
        differing += wrong.sum()
        assert ((final[wrong] - threshold).abs() < 1e-6).all()
    if way == 'products':
        assert differing > 0
    elif torch.backends.cpu.get_cpu_capability() in FUSED:
        assert differing == 0


@pytest.mark.parametrize('precision', ['medium', 'high'])
def test_products_are_full_where_others_may_be_rough(precision):
    masks = torch.rand(3, 8, 12)
    expected = image_masks(masks, 0.5, (30, 41), (61, 80))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert torch.equal(from_tiles(masks, 0.5, (30, 41), (61, 80)), expected)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.fixture
def newer_settings():
    """torch's settings of single backends, all open at first, and afterwards as before."""
    if not hasattr(torch.backends.mkldnn, 'matmul'):
        pytest.skip('settings of torch 2.9 and later')
    settings = torch.backends, torch.backends.mkldnn.matmul
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = 'none'
    yield settings
    for setting, value in zip(settings, before, strict=True):
        setting.fp32_precision = value


@pytest.mark.parametrize('precision', ['ieee', 'tf32', 'bf16'])
@pytest.mark.parametrize('part', [0, 1], ids=['all backends', 'products of a CPU'])
def test_products_are_full_with_torchs_newer_settings(part, precision, newer_settings):
    """After which torch may refuse to say what the older setting is."""
    masks = torch.rand(3, 8, 12)
    expected = image_masks(masks, 0.5, (30, 41), (61, 80))
    newer_settings[part].fp32_precision = precision
    assert rounds_products() == (precision != 'ieee')
    assert torch.equal(from_tiles(masks, 0.5, (30, 41), (61, 80)), expected)


@pytest.mark.parametrize(('precision', 'rounds'), [('highest', False), ('high', True)])
@pytest.mark.parametrize('newer', [True, False])
def test_the_older_setting_counts_with_any_torch(newer, precision, rounds, monkeypatch):
    if not newer:
        monkeypatch.setattr(torch.backends, 'mkldnn', None)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        assert rounds_products() == rounds
    finally:
        torch.set_float32_matmul_precision(before)


def test_only_tiles_with_pixels_are_made():
    """A pixel of the second mask at 40, 8 is in the third of four tiles down, the first across."""
    masks = torch.zeros(2, 64, 64)
    masks[1, 40, 8] = 1
    side = Side.between(64, 256, 256)
    tiles = occupied_tiles(masks > 0.5, side, side)
    assert tiles.nonzero().tolist() == [[1, 2, 0]]
    images = torch.zeros(2, 4, 64, 4, 64, dtype=torch.bool)
    asked = []

    def read(rows, some):
        asked.append((rows.start <= 40 < rows.stop, some.tolist()))
        return masks[some, rows]

    paint(images, tiles, read, 0.5, side, side)
    assert asked == [(True, [1])]
    assert torch.equal(
        images.view(2, 256, 256),
        image_masks(masks, 0.5, (256, 256), (256, 256)),
    )


def test_a_pixel_between_tiles_is_in_both():
    """Interpolation reaches a pixel further; the padding of images is nobody's."""
    masks = torch.zeros(1, 40, 17)
    masks[0, 16, 16] = 1
    sides = Side.between(40, 160, 160), Side.between(17, 68, 68)
    tiles = occupied_tiles(masks > 0.5, *sides)
    assert tiles[0].tolist() == [[True, True], [True, True], [False, False]]
