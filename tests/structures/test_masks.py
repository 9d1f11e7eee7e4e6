"""Instance masks, against loops, SciPy, OpenCV, pycocotools and drawings."""

import mmcv
import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from pycocotools import mask as coco_mask
from scipy import ndimage

from mmsolov2.errors import InputError
from mmsolov2.structures.masks import (
    Crop,
    center_of_mass,
    encode_crop,
    encode_rle,
    joined,
    mask_polygons,
    padded_masks,
    pixel_counts,
    quarter_masks,
    tight_boxes,
    without_small_parts,
)

# Boxes


def draw(*lines):
    """A mask of a drawing with '#' for its pixels."""
    return torch.tensor([[character == '#' for character in line] for line in lines])


def box_by_loops(mask):
    ys, xs = np.where(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]


def test_boxes_equal_loops(device):
    rng = np.random.default_rng(0)
    masks = rng.random((300, 9, 13)) < rng.random((300, 1, 1)) ** 4
    assert 0 < sum(not mask.any() for mask in masks) < 100
    boxes = tight_boxes(torch.from_numpy(masks).to(device))
    assert boxes.dtype == torch.float32
    assert boxes.tolist() == [box_by_loops(mask) for mask in masks]


@pytest.mark.parametrize(
    ('rows', 'columns', 'box'),
    [
        (slice(1, 3), slice(2, 5), [2, 1, 5, 3]),
        (slice(0, 4), slice(0, 6), [0, 0, 6, 4]),  # full
        (slice(0, 1), slice(0, 1), [0, 0, 1, 1]),  # the first pixel
        (slice(3, 4), slice(5, 6), [5, 3, 6, 4]),  # the last pixel
        (slice(0, 0), slice(0, 0), [0, 0, 0, 0]),  # empty
    ],
)
def test_boxes_of_rectangles(rows, columns, box):
    masks = torch.zeros(1, 4, 6, dtype=torch.bool)
    masks[0, rows, columns] = True
    assert tight_boxes(masks).tolist() == [box]


def test_a_box_spans_separate_parts():
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 1, 6] = masks[0, 5, 2] = True
    assert tight_boxes(masks).tolist() == [[2, 1, 7, 6]]


def test_no_boxes(device):
    boxes = tight_boxes(torch.zeros(0, 4, 6, dtype=torch.bool, device=device))
    assert boxes.shape == (0, 4)
    assert boxes.dtype == torch.float32


# Centres and quarter masks


def test_centres_of_mass_equal_scipys(device):
    rng = np.random.default_rng(0)
    masks = rng.random((200, 13, 22)) < rng.random((200, 1, 1))
    expected = [ndimage.center_of_mass(mask) for mask in masks]
    found = center_of_mass(*pixel_counts(torch.from_numpy(masks).to(device)))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=1e-6)


def test_centres_of_mass_of_drawings():
    masks = [draw('....', '..#.', '....'), draw('##..', '##..', '....'), draw(*['....'] * 3)]
    assert center_of_mass(*pixel_counts(torch.stack(masks))).tolist() == [
        [1, 2],
        [0.5, 0.5],
        [0, 0],
    ]


def test_centres_of_mass_of_large_masks_are_exact(device):
    """Sums of rows are far beyond float32's integers; only the quotient is rounded."""
    masks = torch.rand(3, 1000, 1500) < 0.7
    expected = [np.argwhere(mask).mean(0) for mask in masks.numpy()]
    found = center_of_mass(*pixel_counts(masks.to(device))).cpu()
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-7)


@pytest.mark.parametrize('size', [(1, 1), (3, 5), (4, 383), (97, 384), (1100, 1301)])
@pytest.mark.parametrize('density', [0.3, 1])
def test_pixel_counts_equal_numpys(size, density, device):
    """Also of masks that cover everything, far beyond what a byte can count."""
    masks = np.random.default_rng(0).random((3, *size)) < density
    rows, columns = pixel_counts(torch.from_numpy(masks).to(device))
    assert np.array_equal(rows.cpu().numpy(), masks.sum(2))
    assert np.array_equal(columns.cpu().numpy(), masks.sum(1))


def test_pixel_counts_of_views(device):
    masks = torch.rand(5, 12, 16, device=device) < 0.5
    for view in (masks[1:], masks[:, 1:9, 3:11], masks.transpose(1, 2), masks.flip(2), masks[:0]):
        rows, columns = pixel_counts(view)
        assert torch.equal(rows, view.sum(2)) and torch.equal(columns, view.sum(1))


def shrink(mask):
    return mmcv.imrescale(mask.astype(np.uint8), scale=1 / 4)


@pytest.mark.parametrize('size', [(4, 4), (8, 12), (64, 32), (100, 132), (256, 320)])
def test_quarter_masks_equal_opencvs(size, device):
    rng = np.random.default_rng(0)
    masks = rng.random((20, *size)) < rng.random((20, 1, 1))
    found = quarter_masks(torch.from_numpy(masks).to(device))
    assert found.dtype == torch.bool
    for quarter, mask in zip(found.cpu().numpy(), masks, strict=True):
        assert np.array_equal(quarter, shrink(mask))


def test_quarter_masks_of_every_4x4_block():
    """All 65,536 blocks, side by side in one image."""
    bits = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    image = bits.reshape(256, 256, 4, 4).transpose(0, 2, 1, 3).reshape(1024, 1024).astype(bool)
    found = quarter_masks(torch.from_numpy(image)[None])[0].numpy()
    assert np.array_equal(found, shrink(image))


@pytest.mark.parametrize('around', [False, True])
def test_quarter_masks_of_single_blocks(around):
    for central in range(16):
        block = np.full((4, 4), around)
        block[1:3, 1:3] = [[central & 1, central & 2], [central & 4, central & 8]]
        expected = central.bit_count() >= 2
        assert quarter_masks(torch.from_numpy(block)[None]).tolist() == [[[expected]]]
        assert shrink(block).tolist() == [[expected]]


def test_masks_are_padded_at_the_right_and_below(device):
    masks = BitmapMasks(np.ones((1, 2, 3), np.uint8), 2, 3)
    padded = padded_masks(masks, (4, 4), device)
    assert padded.device.type == device.type
    assert padded.int().tolist() == [[[1, 1, 1, 0], [1, 1, 1, 0], [0] * 4, [0] * 4]]
    nobody = BitmapMasks(np.zeros((0, 2, 3), np.uint8), 2, 3)
    assert padded_masks(nobody, (4, 4), device).shape == (0, 4, 4)


def test_masks_that_fit_are_not_copied():
    bitmaps = BitmapMasks(np.eye(4, dtype=np.uint8)[None], 4, 4)
    masks = padded_masks(bitmaps, (4, 4), torch.device('cpu'))
    assert masks.dtype == torch.bool and torch.equal(masks[0], torch.eye(4).bool())
    assert masks.data_ptr() == bitmaps.masks.ctypes.data


@pytest.mark.parametrize('dtype', [np.uint8, np.int64, bool, np.float32])
def test_any_value_but_zero_is_in_the_mask(dtype, device):
    bitmaps = BitmapMasks(np.array([[[0, 255, 2, 1]] * 4], dtype), 4, 4)
    bitmaps.masks = bitmaps.masks[:, ::-1, ::-1]
    masks = padded_masks(bitmaps, (4, 4), device)
    assert masks.view(torch.uint8).tolist() == [[[1, 1, 1, 0]] * 4]


def test_flipped_masks_are_masks():
    bitmaps = BitmapMasks(np.array([[[0, 1, 1, 1]] * 4], np.uint8), 4, 4)
    bitmaps.masks = bitmaps.masks[:, :, ::-1]
    masks = padded_masks(bitmaps, (4, 4), torch.device('cpu'))
    assert masks.int().tolist() == [[[1, 1, 1, 0]] * 4]


def test_polygons_are_masks():
    polygons = PolygonMasks([[np.array([0.0, 0, 4, 0, 4, 2, 0, 2])]], 4, 4)
    masks = padded_masks(polygons, (4, 8), torch.device('cpu'))
    assert masks.int().tolist() == [[[1] * 4 + [0] * 4] * 2 + [[0] * 8] * 2]
    assert padded_masks(PolygonMasks([], 4, 4), (4, 4), torch.device('cpu')).shape == (0, 4, 4)


@pytest.mark.parametrize('dtype', [torch.bool, torch.uint8, torch.float32])
def test_a_tensor_may_hold_the_masks(dtype, device):
    masks = torch.tensor([[[0, 1, 1], [1, 0, 1]]]).to(dtype)
    padded = padded_masks(masks, (4, 4), device)
    assert padded.dtype == torch.bool
    assert padded.int().tolist() == [[[0, 1, 1, 0], [1, 0, 1, 0], [0] * 4, [0] * 4]]


@pytest.mark.parametrize('size', [(5, 4), (4, 6), (9, 2)], ids=str)
def test_masks_are_never_cut(size):
    masks = BitmapMasks(np.ones((1, *size), np.uint8), *size)
    message = rf'masks of \({size[0]}, {size[1]}\) do not fit into images of \(4, 4\)'
    with pytest.raises(InputError, match=message):
        padded_masks(masks, (4, 4), torch.device('cpu'))


# RLE


def test_rle_and_back(device):
    masks = torch.rand(5, 7, 11) < torch.tensor([0, 0.1, 0.5, 0.9, 1.1]).view(5, 1, 1)
    encoded = encode_rle(masks.to(device))
    assert [rle['size'] for rle in encoded] == [[7, 11]] * 5
    assert [coco_mask.area(rle) for rle in encoded] == masks.sum((1, 2)).tolist()
    for rle, mask in zip(encoded, masks, strict=True):
        assert np.array_equal(coco_mask.decode(rle), mask.numpy())


def test_rle_counts_down_the_columns():
    mask = torch.tensor([[[0, 1, 1], [0, 0, 1]]], dtype=torch.bool)
    uncompressed = dict(size=[2, 3], counts=[2, 1, 1, 2])
    assert encode_rle(mask) == [coco_mask.frPyObjects(uncompressed, 2, 3)]


def test_no_rle():
    assert encode_rle(torch.zeros(0, 4, 6, dtype=torch.bool)) == []


@pytest.mark.parametrize('density', [0, 0.02, 0.5, 0.98, 1])
def test_rle_of_a_crop_is_that_of_the_image(density):
    """At every border, and where a run goes on from the bottom to the next column's top."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 9, 2)
        top, bottom = np.sort(rng.integers(0, height + 1, 2))
        left, right = np.sort(rng.integers(0, width + 1, 2))
        part = Crop(rng.random((bottom - top, right - left)) < density, top, left)
        image = np.zeros((height, width), dtype=bool)
        image[top:bottom, left:right] = part.mask
        assert encode_crop(part, height, width) == encode_rle(torch.from_numpy(image)[None])[0]


PARTS = """
##..#...
##..#..#
....#...
#......#
"""
MAIN = [[[c == '#' for c in line] for line in PARTS.split()]]


@pytest.mark.parametrize(
    ('least', 'areas'), [(0.0, 10), (0.25, 10), (0.3, 7), (0.75, 7), (0.8, 4), (1.0, 4)]
)
def test_parts_below_a_share_of_the_largest_go(least, areas, device):
    """Parts of 4, 3, 1, 1 and 1 pixels, of which the last two do not touch."""
    masks = torch.tensor(MAIN * 2)
    masks[1] = False
    found = without_small_parts(masks.to(device), least)
    assert found.sum((1, 2)).tolist() == [areas, 0]
    assert not (found.cpu() & ~masks).any()


def test_corners_connect_and_the_largest_stays_where_two_are_equal():
    masks = torch.tensor([[[1, 0, 0], [0, 1, 0], [0, 0, 0]], [[1, 0, 1], [0, 0, 0], [0, 0, 0]]])
    assert torch.equal(without_small_parts(masks.bool(), 1.0), masks.bool())


def test_parts_are_those_of_scipy():
    ndimage = pytest.importorskip('scipy.ndimage')
    masks = torch.rand(20, 15, 18) > 0.65
    found = without_small_parts(masks, 0.4)
    for mask, kept in zip(masks.numpy(), found.numpy(), strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        chosen = 1 + np.flatnonzero(areas >= 0.4 * areas.max())
        assert np.array_equal(kept, np.isin(labels, chosen))


# Polygons


def filled(polygons, height, width):
    """The mask (height, width) bool of polygons, as COCO fills them."""
    rles = coco_mask.frPyObjects(polygons, height, width)
    return coco_mask.decode(coco_mask.merge(rles)).astype(bool)


def corners(polygon):
    return np.array(polygon).reshape(-1, 2)


def shoelace(polygon):
    """The area of a polygon, in which what is walked around the other way counts negative."""
    x, y = corners(polygon).T
    return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2


def blotches(seed):
    """A mask of a random size with parts, holes, and pixels that touch at their corners."""
    rng = np.random.default_rng(seed)
    noise = rng.random(rng.integers(12, 120, 2)).astype(np.float32)
    noise = ndimage.gaussian_filter(noise, rng.uniform(0, 5)) if seed % 4 else noise
    return noise > np.quantile(noise, rng.uniform(0.2, 0.8))


@pytest.mark.parametrize('seed', range(40))
def test_polygons_filled_give_the_mask_back(seed):
    mask = blotches(seed)
    assert mask.sum() > 40
    polygons = mask_polygons(mask)
    assert len(polygons) == ndimage.label(mask)[1]  # of pixels that share a side
    assert np.array_equal(filled(polygons, *mask.shape), mask)
    assert sum(map(shoelace, polygons)) == mask.sum()
    whole = joined([corners(polygon) for polygon in polygons])
    assert shoelace(whole) == mask.sum()
    assert np.array_equal(filled([whole.ravel().tolist()], *mask.shape), mask)


def test_polygons_of_drawings():
    square = draw('....', '.##.', '.##.')
    assert mask_polygons(square.numpy()) == [[1, 1, 3, 1, 3, 3, 1, 3]]
    ring = draw('###', '#.#', '###')
    outside, hole, back = [0, 0, 3, 0, 3, 3, 0, 3], [1, 2, 2, 2, 2, 1, 1, 1, 1, 2], [0, 3]
    assert mask_polygons(ring.numpy()) == [outside + hole + back]
    corner = draw('#.', '.#')
    assert mask_polygons(corner.numpy()) == [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]


@pytest.mark.parametrize('size', [(0, 0), (3, 0), (5, 7)])
def test_no_pixel_no_polygon(size):
    assert mask_polygons(np.zeros(size, bool)) == []


def test_polygons_of_views_and_of_uint8():
    mask = blotches(1)
    expected = mask_polygons(mask)
    assert mask_polygons(np.asfortranarray(mask)) == mask_polygons(mask.view(np.uint8)) == expected


def test_fewer_corners_stay_close():
    y, x = np.mgrid[:200, :200]
    mask = (np.hypot(x - 100, y - 90) < 70) & (np.hypot(x - 100, y - 90) > 30)
    exact, fewer = mask_polygons(mask)[0], mask_polygons(mask, tolerance=1)[0]
    assert len(fewer) < len(exact) / 4
    back = filled([fewer], *mask.shape)
    assert (back & mask).sum() / (back | mask).sum() > 0.97
    outside = ndimage.distance_transform_edt(~mask)[back].max()
    inside = ndimage.distance_transform_edt(mask)[~back].max()
    assert max(outside, inside) <= 2
    assert mask_polygons(draw('#').numpy(), tolerance=5) == [[0, 0, 1, 0, 1, 1, 0, 1]]
