"""Masks at image size, against plain resizes and drawings; and in blocks as by the definition."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict

from mmsolov2.models.bilinear import TiledAxis, rounds_products
from mmsolov2.models.decode import cpu_blocks
from mmsolov2.models.decode import paste_masks as module
from mmsolov2.models.decode.candidates import Candidates
from mmsolov2.models.decode.cpu_blocks import Tiles
from mmsolov2.models.decode.paste_masks import paste, paste_masks
from mmsolov2.models.dynamic_conv import KeptLogits
from mmsolov2.structures.masks import encode_rle

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
    found = paste_masks(masks, threshold, image_size, final_size)
    assert found.dtype == torch.bool
    assert torch.equal(found, expected)


def test_four_pixels_for_one():
    """Between 0 and 1 the first row rises as 0, 0, 1/8, 3/8, 5/8, 7/8, 1, 1."""
    masks = torch.tensor([[[0.0, 1.0]]])
    assert paste_masks(masks, 0.5, (4, 8), (4, 8)).int().tolist() == [
        [[0, 0, 0, 0, 1, 1, 1, 1]] * 4
    ]
    assert paste_masks(masks, 0.3, (2, 6), (2, 6)).int().tolist() == [[[0, 0, 0, 1, 1, 1]] * 2]


def test_the_padding_is_cut_off_before_the_last_resize():
    """Of 8 columns the image has 6, of which 2 are inside: a third of the original's 12."""
    masks = torch.tensor([[[0.0, 1.0]]])
    assert paste_masks(masks, 0.5, (4, 6), (4, 12)).int().tolist() == [[[0] * 8 + [1] * 4] * 4]


def test_a_probability_at_the_threshold_is_outside():
    masks = torch.full((1, 2, 2), 0.5)
    assert not paste_masks(masks, 0.5, (8, 8), (8, 8)).any()
    assert paste_masks(masks, 0.49, (8, 8), (8, 8)).all()


# In tiles

SIZES = [
    ((32, 48), (32, 48)),
    ((30, 41), (30, 41)),
    ((30, 41), (61, 80)),
    ((29, 48), (11, 17)),
    ((32, 48), (300, 2)),
    ((1, 1), (9, 1)),
]


class Given(torch.Tensor):
    """Its own sigmoid."""

    def sigmoid(self):
        return self.as_subclass(torch.Tensor)


def instances_of(masks, threshold=0.5):
    """Candidates with the maps (n, h, w) of probabilities."""
    n = len(masks)
    cells, labels = torch.arange(n), torch.zeros(n, dtype=torch.long)
    logits = KeptLogits(masks.as_subclass(Given))
    return Candidates(torch.ones(n), labels, masks > threshold, cells, logits=logits)


def in_tiles(masks, threshold, image_size, final_size):
    """Masks (n, *final_size), pasted tile by tile."""
    cfg = ConfigDict(mask_thr=threshold, mask_format='bitmap')
    return paste(instances_of(masks, threshold), image_size, final_size, cfg)[1]


@pytest.fixture(autouse=True)
def _no_cache():
    TiledAxis.between.cache_clear()


@pytest.mark.parametrize('margin', [0, 1e-5, 2], ids=['products', 'both', 'sampled'])
@pytest.mark.parametrize('threshold', [0.3, 0.5])
@pytest.mark.parametrize(('image_size', 'final_size'), SIZES, ids=str)
def test_tiles_equal_the_definition(image_size, final_size, threshold, margin, monkeypatch):
    """By products alone, and pixel by pixel alone, too."""
    monkeypatch.setattr(cpu_blocks, 'TILE', 3)
    monkeypatch.setattr(cpu_blocks, 'BAND_PIXELS', 1000)
    monkeypatch.setattr(cpu_blocks, 'PRODUCT_MARGIN', margin)
    masks = torch.rand(20, 8, 12)
    masks[5:, :4] = 0
    masks[10:, :, 5:] = 0
    expected = paste_masks(masks, threshold, image_size, final_size)
    assert torch.equal(in_tiles(masks, threshold, image_size, final_size), expected)


@pytest.mark.parametrize('way', ['products', 'definition'])
def test_values_at_the_threshold_are_decided_by_the_definition(way, monkeypatch):
    """Thresholds that are some pixel's value, to the last bit: products fall on either side.

    Where torch's resize does not fuse multiplication and addition, pixels so near may differ.
    """
    if way == 'products':
        monkeypatch.setattr(cpu_blocks, 'PRODUCT_MARGIN', 0)
    masks = torch.rand(1, 48, 60)
    sizes = (187, 231), (333, 211)
    image = F.interpolate(masks[None], size=(192, 240), mode='bilinear')[:, :, :187, :231]
    final = F.interpolate(image, size=sizes[1], mode='bilinear')[0]
    values = final.flatten()[::2009]
    differing = 0
    for threshold in values.tolist():
        expected = paste_masks(masks, threshold, *sizes)
        wrong = in_tiles(masks, threshold, *sizes) != expected
        differing += wrong.sum()
        assert ((final[wrong] - threshold).abs() < 1e-6).all()
    if way == 'products':
        assert differing > 0
    elif torch.backends.cpu.get_cpu_capability() in FUSED:
        assert differing == 0


@pytest.mark.parametrize('precision', ['medium', 'high'])
def test_products_are_full_where_others_may_be_rough(precision):
    masks = torch.rand(3, 8, 12)
    expected = paste_masks(masks, 0.5, (30, 41), (61, 80))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert torch.equal(in_tiles(masks, 0.5, (30, 41), (61, 80)), expected)
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
    expected = paste_masks(masks, 0.5, (30, 41), (61, 80))
    newer_settings[part].fp32_precision = precision
    assert rounds_products() == (precision != 'ieee')
    assert torch.equal(in_tiles(masks, 0.5, (30, 41), (61, 80)), expected)


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


def test_only_tiles_with_pixels_are_made(monkeypatch):
    """A pixel of the second mask at 40, 8 is in the third of four tiles down, the first across."""
    masks = torch.zeros(2, 64, 64)
    masks[1, 40, 8] = 1
    side = TiledAxis.between(64, 256, 256, 16)
    tiles, candidates, asked = Tiles(side, side, 0.5), instances_of(masks), []
    occupied = tiles.occupied(masks > 0.5)
    assert occupied.nonzero().tolist() == [[1, 2, 0]]
    read = candidates.probabilities

    def probabilities(rows, some):
        asked.append((rows.start <= 40 < rows.stop, some.tolist()))
        return read(rows, some)

    monkeypatch.setattr(candidates, 'probabilities', probabilities)
    images = tiles.paste(candidates, occupied)
    assert asked == [(True, [1])]
    assert torch.equal(images, paste_masks(masks, 0.5, (256, 256), (256, 256)))


def test_a_pixel_between_tiles_is_in_both():
    """Interpolation reaches a pixel further; the padding of images is nobody's."""
    masks = torch.zeros(1, 40, 17)
    masks[0, 16, 16] = 1
    sides = TiledAxis.between(40, 160, 160, 16), TiledAxis.between(17, 68, 68, 16)
    occupied = Tiles(*sides, 0.5).occupied(masks > 0.5)
    assert occupied[0].tolist() == [[True, True], [True, True], [False, False]]


# In tiles and whole, boxes and RLE too

SIDES = (1, 2, 3, 5, 31, 32, 33, 250, 1333, 2000)


def kinds_of_masks(height, width):
    """Masks (n, height, width) whose edges are where cutting goes wrong."""
    masks = torch.zeros(9, height, width)
    masks[0, 0, 0] = masks[1, -1, -1] = masks[2, height // 2, width // 2] = 1  # one pixel
    masks[3] = 1  # everything
    masks[4] = 0.5  # everything at the threshold
    masks[5, 0] = masks[5, :, -1] = 0.9  # along two borders
    masks[6] = torch.rand(height, width)
    masks[7, height // 3 : height // 2 + 1, width // 4 : width // 2 + 1] = torch.rand(1)
    return masks  # the last is empty


def settings(mask_format='bitmap'):
    return ConfigDict(mask_thr=0.5, mask_format=mask_format)


@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
@pytest.mark.parametrize('index', range(len(SIDES)))
def test_both_ways_give_the_same(index, mask_format, monkeypatch):
    """For images of 1 to 2000 pixels a side, larger, smaller and as large as the input."""
    monkeypatch.setattr(cpu_blocks, 'BAND_PIXELS', 5000)
    monkeypatch.setattr(cpu_blocks, 'RLE_PIXELS', 5 * 10**6)
    height, width = SIDES[index], SIDES[-1 - index]
    for image_size in ((height, width), (min(height, 61), min(width, 200))):
        padded = [-(-side // 32) * 8 for side in image_size]
        args = instances_of(kinds_of_masks(*padded)), image_size, (height, width)
        boxes, masks = paste(*args, settings(mask_format))
        expected_boxes, expected = paste.__wrapped__(*args, settings())
        assert torch.equal(boxes, expected_boxes)
        if mask_format == 'rle':
            assert masks == encode_rle(expected)
            assert paste.__wrapped__(*args, settings('rle'))[1] == masks
        else:
            assert torch.equal(masks, expected)


def test_masks_in_the_padding_alone_are_empty():
    masks = torch.zeros(1, 8, 8)
    masks[0, 7, 7] = 1
    for way in (paste, paste.__wrapped__):
        boxes, found = way(instances_of(masks), (20, 20), (40, 30), settings())
        assert boxes.tolist() == [[0, 0, 0, 0]]
        assert not found.any()


@pytest.mark.parametrize('n', [0, 1, 7])
@pytest.mark.parametrize('pixels', [1, 3 * 61 * 80])
def test_chunks_change_nothing(n, pixels, monkeypatch):
    args = instances_of(torch.rand(n, 8, 12)), (30, 41), (61, 80), settings()
    boxes, masks = paste.__wrapped__(*args)
    monkeypatch.setattr(module, 'CHUNK_PIXELS', pixels)
    chunked_boxes, chunked = paste.__wrapped__(*args)
    assert torch.equal(chunked_boxes, boxes)
    assert torch.equal(chunked, masks)


@pytest.mark.parametrize(
    ('image_size', 'final_size', 'pixels'),
    [
        ((30, 41), (61, 80), 61 * 80),  # the original is the largest
        ((30, 41), (8, 9), 32 * 48),  # the network's input is, with its padding
        ((3, 4), (3, 4), 32 * 48),  # the padding to the size of a larger image of the batch
    ],
)
def test_chunks_bound_the_pixels_at_a_time(image_size, final_size, pixels, monkeypatch):
    lengths = []

    def counted(masks, *args):
        lengths.append(len(masks))
        return paste_masks(masks, *args)

    monkeypatch.setattr(module, 'CHUNK_PIXELS', 3 * pixels + 1)
    monkeypatch.setattr(module, 'paste_masks', counted)
    paste.__wrapped__(instances_of(torch.rand(7, 8, 12)), image_size, final_size, settings())
    assert lengths == [3, 3, 1]
