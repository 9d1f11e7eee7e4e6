"""From candidates to masks, boxes and RLE, against loops, plain functions and drawings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from mmsolov2.models import mask_results
from mmsolov2.models.mask_results import (
    Candidates,
    encode_rle,
    image_masks,
    tight_boxes,
    to_results,
)

# Candidates


def test_candidates_are_ranked_and_indexed_as_rows():
    candidates = Candidates(
        torch.tensor([0.3, 0.9, 0.5, 0.9]), torch.arange(4),
        torch.arange(4.0).view(4, 1, 1)
    )
    ranked = candidates.ranked()
    assert ranked.labels.tolist() == [1, 3, 2, 0]
    assert ranked.masks.flatten().tolist() == [1, 3, 2, 0]
    assert ranked[:2].scores.tolist() == torch.tensor([0.9, 0.9]).tolist()
    assert ranked[ranked.scores < 0.6].labels.tolist() == [2, 0]
    assert candidates.labels.tolist() == [0, 1, 2, 3]


# Boxes


def box_by_loops(mask):
    ys, xs = np.where(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]


def test_boxes_equal_loops():
    rng = np.random.default_rng(0)
    masks = rng.random((300, 9, 13)) < rng.random((300, 1, 1))**4
    assert 0 < sum(not mask.any() for mask in masks) < 100
    boxes = tight_boxes(torch.from_numpy(masks))
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


def test_no_boxes():
    boxes = tight_boxes(torch.zeros(0, 4, 6, dtype=torch.bool))
    assert boxes.shape == (0, 4)
    assert boxes.dtype == torch.float32


# Masks at image size


@pytest.mark.parametrize('threshold', [0.3, 0.5])
@pytest.mark.parametrize(
    ('image_size', 'final_size'),
    [((32, 48), (32, 48)), ((30, 41), (30, 41)), ((30, 41), (61, 80)), ((29, 48), (11, 17))],
    ids=str,
)
def test_masks_equal_two_plain_resizes(image_size, final_size, threshold):
    masks = torch.rand(3, 8, 12)
    padded = F.interpolate(masks[None], size=(32, 48), mode='bilinear')
    image = padded[:, :, :image_size[0], :image_size[1]]
    expected = F.interpolate(image, size=final_size, mode='bilinear')[0] > threshold
    found = image_masks(masks, threshold, image_size, final_size)
    assert found.dtype == torch.bool
    assert torch.equal(found, expected)


def test_four_pixels_for_one():
    """Between 0 and 1 the first row rises as 0, 0, 1/8, 3/8, 5/8, 7/8, 1, 1."""
    masks = torch.tensor([[[0.0, 1.0]]])
    assert image_masks(masks, 0.5, (4, 8),
                       (4, 8)).int().tolist() == [[[0, 0, 0, 0, 1, 1, 1, 1]] * 4]
    assert image_masks(masks, 0.3, (2, 6), (2, 6)).int().tolist() == [[[0, 0, 0, 1, 1, 1]] * 2]


def test_the_padding_is_cut_off_before_the_last_resize():
    """Of 8 columns the image has 6, of which 2 are inside: a third of the original's 12."""
    masks = torch.tensor([[[0.0, 1.0]]])
    assert image_masks(masks, 0.5, (4, 6), (4, 12)).int().tolist() == [[[0] * 8 + [1] * 4] * 4]


def test_a_probability_at_the_threshold_is_outside():
    masks = torch.full((1, 2, 2), 0.5)
    assert not image_masks(masks, 0.5, (8, 8), (8, 8)).any()
    assert image_masks(masks, 0.49, (8, 8), (8, 8)).all()


# RLE


def test_rle_and_back():
    masks = torch.rand(5, 7, 11) < torch.tensor([0, 0.1, 0.5, 0.9, 1.1]).view(5, 1, 1)
    encoded = encode_rle(masks)
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


# Results

META = dict(img_shape=(30, 41), ori_shape=(61, 80, 3), batch_input_shape=(32, 48))
SIZES = {True: (61, 80), False: (30, 41)}


def some_candidates(n):
    return Candidates(torch.rand(n), torch.randint(0, 9, (n, )), torch.rand(n, 8, 12))


@pytest.mark.parametrize('rescale', [True, False])
def test_results_are_the_candidates_at_image_size(rescale):
    candidates = some_candidates(4)
    results = to_results(candidates, META, rescale=rescale, mask_threshold=0.6)
    masks = image_masks(candidates.masks, 0.6, (30, 41), SIZES[rescale])
    assert results.masks.shape == (4, *SIZES[rescale])
    assert torch.equal(results.masks, masks)
    assert results.bboxes.tolist() == [box_by_loops(mask) for mask in masks]
    assert torch.equal(results.scores, candidates.scores)
    assert torch.equal(results.labels, candidates.labels)


def test_a_rectangle_at_image_size():
    """It is at rows 2 to 3 and columns 4 to 8 of the mask features, the original twice as large."""
    masks = torch.zeros(1, 8, 12)
    masks[0, 2:4, 4:9] = 1
    candidates = Candidates(torch.tensor([0.7]), torch.tensor([3]), masks)
    meta = dict(img_shape=(32, 48), ori_shape=(64, 96))
    assert to_results(candidates, meta, rescale=False).bboxes.tolist() == [[16, 8, 36, 16]]
    assert to_results(candidates, meta, rescale=True).bboxes.tolist() == [[32, 16, 72, 32]]


@pytest.mark.parametrize('rescale', [True, False])
@pytest.mark.parametrize('n', [0, 5])
def test_rle_results_are_the_bitmaps(n, rescale):
    candidates = some_candidates(n)
    bitmaps = to_results(candidates, META, rescale=rescale)
    rles = to_results(candidates, META, rescale=rescale, mask_format='rle')
    assert isinstance(rles.masks, list)
    assert len(rles.masks) == n
    for rle, mask in zip(rles.masks, bitmaps.masks, strict=True):
        assert np.array_equal(coco_mask.decode(rle), mask.numpy())
    for name in ('scores', 'labels', 'bboxes'):
        assert torch.equal(rles[name], bitmaps[name])


@pytest.mark.parametrize('rescale', [True, False])
@pytest.mark.parametrize('n', [0, 1, 3])
def test_results_of_any_number_have_the_same_types(n, rescale):
    results = to_results(some_candidates(n), META, rescale=rescale)
    types = {name: (value.dtype, value.shape) for name, value in results.items()}
    assert types == dict(
        scores=(torch.float32, (n, )),
        labels=(torch.int64, (n, )),
        bboxes=(torch.float32, (n, 4)),
        masks=(torch.bool, (n, *SIZES[rescale])),
    )
    assert len(results) == n


@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
@pytest.mark.parametrize('n', [0, 1, 7])
@pytest.mark.parametrize('pixels', [1, 3 * 61 * 80])
def test_chunks_change_nothing(n, pixels, mask_format, monkeypatch):
    candidates = some_candidates(n)
    whole = to_results(candidates, META, rescale=True, mask_format=mask_format)
    monkeypatch.setattr(mask_results, 'CHUNK_PIXELS', pixels)
    chunked = to_results(candidates, META, rescale=True, mask_format=mask_format)
    assert torch.equal(chunked.bboxes, whole.bboxes)
    if mask_format == 'rle':
        assert chunked.masks == whole.masks
    else:
        assert torch.equal(chunked.masks, whole.masks)


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
    meta = dict(img_shape=image_size, ori_shape=final_size)
    to_results(some_candidates(7), meta, rescale=True)
    assert lengths == [3, 3, 1]


def test_candidates_are_not_modified():
    candidates = some_candidates(3)
    before = [tensor.clone() for tensor in (candidates.scores, candidates.labels, candidates.masks)]
    to_results(candidates, META, rescale=True)
    after = (candidates.scores, candidates.labels, candidates.masks)
    assert all(torch.equal(now, then) for now, then in zip(after, before, strict=True))
