"""From candidates to masks, boxes and RLE, against plain functions and drawings."""

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from pycocotools import mask as coco_mask

from mmsolov2 import device
from mmsolov2.errors import InputError
from mmsolov2.models.decode.candidates import Candidates
from mmsolov2.models.decode.paste_masks import paste_masks
from mmsolov2.models.decode.results import to_results
from mmsolov2.models.dynamic_conv import KeptLogits
from mmsolov2.structures.masks import tight_boxes

META = dict(img_shape=(30, 41), ori_shape=(61, 80, 3), batch_input_shape=(32, 48))
SIZES = {True: (61, 80), False: (30, 41)}


def settings(mask_thr=0.5, mask_format='bitmap'):
    return ConfigDict(mask_thr=mask_thr, mask_format=mask_format)


def some_candidates(n, threshold=0.5):
    """Candidates of n instances, half of them small."""
    logits = torch.randn(n, 8, 12)
    logits[::2] = logits[::2].index_fill(1, torch.tensor([0, 1, 4, 5, 6, 7]), -9)
    masks, cells = logits.sigmoid() > threshold, torch.arange(n)
    labels = torch.randint(0, 9, (n,))
    return Candidates(torch.rand(n), labels, masks, cells, logits=KeptLogits(logits))


@pytest.mark.parametrize('rescale', [True, False])
def test_results_are_the_masks_at_image_size(rescale):
    candidates = some_candidates(4, 0.6)
    results = to_results(candidates, META, settings(0.6), rescale=rescale)
    masks = candidates.logits.values.sigmoid()
    expected = paste_masks(masks, 0.6, (30, 41), SIZES[rescale])
    assert results.masks.shape == (4, *SIZES[rescale])
    assert torch.equal(results.masks, expected)
    assert torch.equal(results.bboxes, tight_boxes(expected))
    assert torch.equal(results.scores, candidates.scores)
    assert torch.equal(results.labels, candidates.labels)


def test_a_rectangle_at_image_size():
    """It is at rows 2 to 3 and columns 4 to 8 of the mask features, the original twice as large."""
    logits = torch.full((1, 8, 12), -9.0)
    logits[0, 2:4, 4:9] = 9
    one = torch.tensor([0])
    candidates = Candidates(torch.tensor([0.7]), one, logits > 0, one, logits=KeptLogits(logits))
    meta = dict(img_shape=(32, 48), ori_shape=(64, 96))
    assert to_results(candidates, meta, settings(), rescale=False).bboxes.tolist() == [
        [16, 8, 36, 16]
    ]
    assert to_results(candidates, meta, settings(), rescale=True).bboxes.tolist() == [
        [32, 16, 72, 32]
    ]


@pytest.mark.parametrize('rescale', [True, False])
@pytest.mark.parametrize('n', [0, 5])
def test_rle_results_are_the_bitmaps(n, rescale):
    candidates = some_candidates(n)
    bitmaps = to_results(candidates, META, settings(), rescale=rescale)
    rles = to_results(candidates, META, settings(mask_format='rle'), rescale=rescale)
    assert isinstance(rles.masks, list)
    assert len(rles.masks) == n
    for rle, mask in zip(rles.masks, bitmaps.masks, strict=True):
        assert np.array_equal(coco_mask.decode(rle), mask.numpy())
    for name in ('scores', 'labels', 'bboxes'):
        assert torch.equal(rles[name], bitmaps[name])


@pytest.mark.parametrize('rescale', [True, False])
@pytest.mark.parametrize('n', [0, 1, 3])
def test_results_of_any_number_have_the_same_types(n, rescale):
    results = to_results(some_candidates(n), META, settings(), rescale=rescale)
    types = {name: (value.dtype, value.shape) for name, value in results.items()}
    assert types == dict(
        scores=(torch.float32, (n,)),
        labels=(torch.int64, (n,)),
        bboxes=(torch.float32, (n, 4)),
        masks=(torch.bool, (n, *SIZES[rescale])),
    )
    assert len(results) == n


def test_inputs_are_not_modified():
    candidates = some_candidates(3)
    tensors = [*candidates.tensors, candidates.logits.values]
    before = [tensor.clone() for tensor in tensors]
    to_results(candidates, META, settings(), rescale=True)
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))


def test_bitmaps_that_do_not_fit_are_refused(monkeypatch):
    """One byte a pixel: 3 masks of 40x50 take 6000."""
    logits, none = torch.ones(3, 8, 12), torch.zeros(3, dtype=torch.long)
    candidates = Candidates(
        torch.rand(3), none, logits > 0, torch.arange(3), logits=KeptLogits(logits)
    )
    meta = dict(img_shape=(32, 48), ori_shape=(40, 50))
    monkeypatch.setattr(device, 'SURE_BYTES', 0)
    monkeypatch.setattr(device, 'available_memory', lambda where: 5999)
    with pytest.raises(InputError, match=r"3 masks of 40x50 .* cpu has .*mask_format='rle'"):
        to_results(candidates, meta, settings(), rescale=True)
    rles = to_results(candidates, meta, settings(mask_format='rle'), rescale=True)
    assert len(rles.masks) == 3
    monkeypatch.setattr(device, 'available_memory', lambda where: 6000)
    assert to_results(candidates, meta, settings(), rescale=True).masks.all()
