"""From candidates to masks, boxes and RLE, against loops, plain functions and drawings."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from mmsolov2 import device
from mmsolov2.errors import InputError
from mmsolov2.models.decode import paste_masks as mask_upsampling
from mmsolov2.models.decode import results as mask_results
from mmsolov2.models.decode.paste_masks import image_masks
from mmsolov2.models.decode.results import from_chunks, from_tiles, to_results
from mmsolov2.structures.masks import encode_rle, tight_boxes

# Results

META = dict(img_shape=(30, 41), ori_shape=(61, 80, 3), batch_input_shape=(32, 48))
SIZES = {True: (61, 80), False: (30, 41)}


def maps_of(masks, threshold=0.5):
    """Masks (n, h, w) as results take them: where they are, and how to read them."""
    return masks > threshold, lambda rows, some: masks[some, rows]


def some_results(n):
    """Scores, labels and masks of n instances, half of them small."""
    masks = torch.rand(n, 8, 12)
    masks[::2] *= torch.zeros(8, 12).index_fill(0, torch.tensor([2, 3]), 1)
    return torch.rand(n), torch.randint(0, 9, (n,)), masks


@pytest.mark.parametrize('rescale', [True, False])
def test_results_are_the_masks_at_image_size(rescale):
    scores, labels, masks = some_results(4)
    results = to_results(
        scores, labels, *maps_of(masks, 0.6), META, rescale=rescale, mask_threshold=0.6
    )
    expected = image_masks(masks, 0.6, (30, 41), SIZES[rescale])
    assert results.masks.shape == (4, *SIZES[rescale])
    assert torch.equal(results.masks, expected)
    assert torch.equal(results.bboxes, tight_boxes(expected))
    assert torch.equal(results.scores, scores)
    assert torch.equal(results.labels, labels)


def test_a_rectangle_at_image_size():
    """It is at rows 2 to 3 and columns 4 to 8 of the mask features, the original twice as large."""
    masks = torch.zeros(1, 8, 12)
    masks[0, 2:4, 4:9] = 1
    meta = dict(img_shape=(32, 48), ori_shape=(64, 96))
    instance = (torch.tensor([0.7]), torch.tensor([3]), *maps_of(masks))
    assert to_results(*instance, meta, rescale=False).bboxes.tolist() == [[16, 8, 36, 16]]
    assert to_results(*instance, meta, rescale=True).bboxes.tolist() == [[32, 16, 72, 32]]


@pytest.mark.parametrize('rescale', [True, False])
@pytest.mark.parametrize('n', [0, 5])
def test_rle_results_are_the_bitmaps(n, rescale):
    scores, labels, masks = some_results(n)
    instances = scores, labels, *maps_of(masks)
    bitmaps = to_results(*instances, META, rescale=rescale)
    rles = to_results(*instances, META, rescale=rescale, mask_format='rle')
    assert isinstance(rles.masks, list)
    assert len(rles.masks) == n
    for rle, mask in zip(rles.masks, bitmaps.masks, strict=True):
        assert np.array_equal(coco_mask.decode(rle), mask.numpy())
    for name in ('scores', 'labels', 'bboxes'):
        assert torch.equal(rles[name], bitmaps[name])


@pytest.mark.parametrize('rescale', [True, False])
@pytest.mark.parametrize('n', [0, 1, 3])
def test_results_of_any_number_have_the_same_types(n, rescale):
    scores, labels, masks = some_results(n)
    results = to_results(scores, labels, *maps_of(masks), META, rescale=rescale)
    types = {name: (value.dtype, value.shape) for name, value in results.items()}
    assert types == dict(
        scores=(torch.float32, (n,)),
        labels=(torch.int64, (n,)),
        bboxes=(torch.float32, (n, 4)),
        masks=(torch.bool, (n, *SIZES[rescale])),
    )
    assert len(results) == n


def test_inputs_are_not_modified():
    instances = some_results(3)
    before = [tensor.clone() for tensor in instances]
    to_results(*instances[:2], *maps_of(instances[2]), META, rescale=True)
    assert all(torch.equal(now, then) for now, then in zip(instances, before, strict=True))


# The two ways to results: mask by mask where it is (CPU), and whole masks in chunks (GPU)

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


@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
@pytest.mark.parametrize('index', range(len(SIDES)))
def test_both_ways_give_the_same(index, mask_format, monkeypatch):
    """For images of 1 to 2000 pixels a side, larger, smaller and as large as the input."""
    monkeypatch.setattr(mask_upsampling, 'BAND_PIXELS', 5000)
    monkeypatch.setattr(mask_results, 'RLE_PIXELS', 5 * 10**6)
    height, width = SIDES[index], SIDES[-1 - index]
    for image_size in ((height, width), (min(height, 61), min(width, 200))):
        padded = [-(-side // 32) * 8 for side in image_size]
        args = (*maps_of(kinds_of_masks(*padded)), 0.5, image_size, (height, width))
        boxes, masks = from_tiles(*args, mask_format)
        expected_boxes, expected = from_chunks(*args)
        assert torch.equal(boxes, expected_boxes)
        if mask_format == 'rle':
            assert masks == encode_rle(expected)
        else:
            assert torch.equal(masks, expected)


def test_masks_in_the_padding_alone_are_empty():
    masks = torch.zeros(1, 8, 8)
    masks[0, 7, 7] = 1
    args = *maps_of(masks), 0.5, (20, 20), (40, 30)
    for boxes, found in (from_tiles(*args, 'bitmap'), from_chunks(*args)):
        assert boxes.tolist() == [[0, 0, 0, 0]]
        assert not found.any()


@pytest.mark.parametrize('n', [0, 1, 7])
@pytest.mark.parametrize('pixels', [1, 3 * 61 * 80])
def test_chunks_change_nothing(n, pixels, monkeypatch):
    args = (*maps_of(some_results(n)[2]), 0.5, (30, 41), (61, 80))
    boxes, masks = from_chunks(*args)
    monkeypatch.setattr(mask_results, 'CHUNK_PIXELS', pixels)
    chunked_boxes, chunked = from_chunks(*args)
    assert torch.equal(chunked_boxes, boxes)
    assert torch.equal(chunked, masks)


@pytest.mark.parametrize('n', [0, 3])
@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
def test_a_gpu_gives_the_same_and_rle_without_bitmaps(n, mask_format, monkeypatch):
    scores, labels, masks = some_results(n)
    args = dict(rescale=True, mask_format=mask_format)
    expected, made = to_results(scores, labels, *maps_of(masks), META, **args), []

    def watched(*args):
        made.append(args)
        return image_masks(*args)

    monkeypatch.setattr(device, 'on_cpu', lambda tensor: False)
    monkeypatch.setattr(mask_results, 'image_masks', watched)
    found = to_results(scores, labels, *maps_of(masks), META, **args)
    assert torch.equal(found.bboxes, expected.bboxes)
    if mask_format == 'rle':
        assert found.masks == expected.masks and not made
    else:
        assert torch.equal(found.masks, expected.masks) and made


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
        return image_masks(masks, *args)

    monkeypatch.setattr(mask_results, 'CHUNK_PIXELS', 3 * pixels + 1)
    monkeypatch.setattr(mask_results, 'image_masks', counted)
    from_chunks(*maps_of(some_results(7)[2]), 0.5, image_size, final_size)
    assert lengths == [3, 3, 1]


# Memory


def test_bitmaps_that_do_not_fit_are_refused(monkeypatch):
    """One byte a pixel: 3 masks of 40x50 take 6000."""
    instances = torch.rand(3), torch.zeros(3).long(), *maps_of(torch.ones(3, 8, 12))
    meta = dict(img_shape=(32, 48), ori_shape=(40, 50))
    monkeypatch.setattr(device, 'SURE_BYTES', 0)
    monkeypatch.setattr(device, 'available_memory', lambda where: 5999)
    with pytest.raises(InputError, match=r"3 masks of 40x50 .* cpu has .*mask_format='rle'"):
        to_results(*instances, meta, rescale=True)
    assert len(to_results(*instances, meta, rescale=True, mask_format='rle').masks) == 3
    monkeypatch.setattr(device, 'available_memory', lambda where: 6000)
    assert to_results(*instances, meta, rescale=True).masks.all()
