"""The dynamic convolution against loops and against numbers by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmsolov2.models import dynamic_conv as module
from mmsolov2.models.dynamic_conv import (
    CellKernels,
    KeptLogits,
    MaskedLogits,
    dynamic_conv,
    with_balanced_taps,
)


def kernels_of(features, count, levels=None, size=1, terms=6, device='cpu'):
    """Random kernels and position terms on features of one or of several levels."""
    first = features if isinstance(features, torch.Tensor) else features[0]
    kernels = torch.randn(count, len(first) * size**2, device=device)
    weights = torch.randn(count, terms, device=device)
    levels = torch.zeros(count, dtype=torch.long, device=device) if levels is None else levels
    positions = torch.tensor([[i % 4, i % 3, 4] for i in range(count)], device=device).view(-1, 3)
    return CellKernels(features, kernels, weights, positions, levels, size)


def convolve_by_loops(features, kernels, size):
    """Every output pixel as the sum over channels and over the pixels around it."""
    channels, height, width = features.shape
    weights = kernels.reshape(-1, channels, size, size)
    out = np.zeros((len(weights), height, width))
    for n, y, x in np.ndindex(*out.shape):
        for e, i, j in np.ndindex(channels, size, size):
            row, column = y + i - size // 2, x + j - size // 2
            if 0 <= row < height and 0 <= column < width:
                out[n, y, x] += weights[n, e, i, j] * features[e, row, column]
    return out


@pytest.mark.parametrize('shape', [(3, 4, 6), (2, 1, 2)], ids=str)
@pytest.mark.parametrize('size', [1, 3, 5])
def test_equals_loops(size, shape, device):
    features = torch.randn(shape, dtype=torch.float64)
    kernels = torch.randn(4, shape[0] * size**2, dtype=torch.float64)
    out = dynamic_conv(features.to(device), kernels.to(device), size).cpu()
    assert out.shape == (4, *shape[1:])
    np.testing.assert_allclose(out, convolve_by_loops(features.numpy(), kernels.numpy(), size))


def test_a_1x1_kernel_weighs_the_channels():
    features = torch.tensor([[[1.0, 2.0, 3.0]], [[10.0, 20.0, 30.0]]])
    kernels = torch.tensor([[1.0, 0.0], [2.0, -0.1]])
    assert dynamic_conv(features, kernels).tolist() == [[[1, 2, 3]], [[1, 2, 3]]]


def test_a_3x3_kernel_reads_the_pixels_around():
    """Row by row: the kernel takes what is at the right of every pixel, and zero outside."""
    features = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    right = torch.tensor([[0.0, 0, 0, 0, 0, 1, 0, 0, 0]])
    below = torch.tensor([[0.0, 0, 0, 0, 0, 0, 0, 1, 0]])
    out = dynamic_conv(features, torch.cat([right, below]), 3)
    assert out.tolist() == [[[2, 3, 0], [5, 6, 0]], [[4, 5, 6], [0, 0, 0]]]


def test_channels_come_before_the_pixels_of_a_kernel():
    features = torch.stack([torch.full((1, 1), 1.0), torch.full((1, 1), 10.0)])
    kernels = torch.zeros(2, 2 * 9)
    kernels[0, 4] = kernels[1, 9 + 4] = 1
    assert dynamic_conv(features, kernels, 3).flatten().tolist() == [1, 10]


def test_taps_beside_the_centre_are_divided():
    """Two cells beside each other, and two channels of nine taps."""
    kernels = torch.stack([torch.full((18,), 9.0), torch.full((18,), 18.0)], 1)
    first, second = with_balanced_taps(kernels[None, :, None], 3)[0, :, 0].T.tolist()
    assert first == [1, 1, 1, 1, 9, 1, 1, 1, 1] * 2
    assert second == [2, 2, 2, 2, 18, 2, 2, 2, 2] * 2


def test_other_channels_than_taps_stay_as_they_are():
    kernels = torch.full((1, 9 + 2, 1, 1), 9.0)
    assert with_balanced_taps(kernels, 3, 2).flatten().tolist() == [1] * 4 + [9] + [1] * 4 + [9, 9]


def test_kernels_of_one_tap_stay_as_they_are():
    kernels = torch.randn(2, 4, 3, 3)
    assert with_balanced_taps(kernels, 1) is kernels


@pytest.mark.parametrize('n', [0, 2])
@pytest.mark.parametrize('size', [1, 3, 5])
def test_gradients_reach_both_inputs(size, n, device):
    features = torch.randn(3, 4, 6, device=device, requires_grad=True)
    kernels = torch.randn(n, 3 * size**2, device=device, requires_grad=True)
    out = dynamic_conv(features, kernels, size)
    assert out.shape == (n, 4, 6)
    out.square().sum().backward()
    assert features.grad.shape == features.shape
    assert kernels.grad.shape == kernels.shape
    assert features.grad.any() == (n > 0)


@pytest.mark.parametrize('size', [1, 3, 5])
def test_kernels_may_be_slices_of_transposed_maps(size, device):
    """As the head cuts them out of maps (D, cells)."""
    features = torch.randn(3, 4, 6, device=device)
    maps = torch.randn(3 * size**2, 7, device=device)
    out = dynamic_conv(features, maps.T[2:5], size)
    torch.testing.assert_close(out, dynamic_conv(features, maps.T[2:5].contiguous(), size))


@pytest.mark.parametrize('levels', [(0, 0, 1, 2, 2, 2), (2, 0, 2, 1), (1, 1), ()], ids=str)
@pytest.mark.parametrize('size', [1, 3])
def test_levels_have_features_of_their_own(size, levels, device):
    """Whatever the order of the kernels, and if a level has none."""
    features = [torch.randn(3, *shape, device=device) for shape in ((8, 12), (8, 12), (4, 6))]
    of_level = torch.tensor(levels, dtype=torch.long, device=device)
    cells = kernels_of(features, len(levels), of_level, size, device=device)
    out = cells.logits()
    assert out.shape == (len(levels), 8, 12)
    forms = torch.zeros_like(out)
    cells.form().add_to(forms)
    for level, kernel, form, mask in zip(levels, cells.kernels, forms, out, strict=True):
        alone = dynamic_conv(features[level], kernel[None], size)[None]
        expected = F.interpolate(alone, size=(8, 12), mode='bilinear', align_corners=False)[0, 0]
        torch.testing.assert_close(mask, expected + form)
    kept = cells.keep_few()
    assert isinstance(kept, KeptLogits) and torch.equal(kept.values, out)


@pytest.mark.parametrize('rows', [slice(0, 2), slice(1, 7), slice(5, 8), slice(0, 8)], ids=str)
@pytest.mark.parametrize('size', [1, 3, 5])
def test_rows_are_those_of_the_whole(size, rows, device):
    cells = kernels_of(torch.randn(3, 8, 6, device=device), 4, size=size, device=device)
    some = torch.tensor([2, 0], device=device)
    for logits in (cells, KeptLogits(cells.logits())):
        torch.testing.assert_close(logits.rows(rows), cells.logits()[:, rows])
        torch.testing.assert_close(logits.rows(rows, some), cells.logits()[some, rows])


def test_logits_are_kept_if_they_are_few(monkeypatch):
    monkeypatch.setattr(module, 'KEPT_LOGITS', 4 * 8 * 6)
    cells = kernels_of(torch.randn(3, 8, 6), 5)
    assert cells.keep_few() is cells
    assert len(cells[torch.arange(4)].keep_few().values) == 4


def test_levels_are_kept_however_many_they_are(monkeypatch):
    """Their rows cannot be computed apart."""
    monkeypatch.setattr(module, 'KEPT_LOGITS', 0)
    levels = [torch.randn(3, 8, 6), torch.randn(3, 4, 3)]
    kept = kernels_of(levels, 5, torch.arange(5) % 2).keep_few()
    assert kept.mask_size == (8, 6) and len(kept) == 5


def test_masked_logits_are_those_of_their_cells_but_for_removed_pixels():
    kept = KeptLogits(torch.arange(24.0).view(3, 2, 4))
    removed = torch.zeros(2, 2, 4, dtype=torch.bool)
    removed[0, 1, 2] = removed[1, 0, 0] = True
    logits = MaskedLogits(kept, torch.tensor([2, 0]), removed)
    assert len(logits) == 2 and logits.mask_size == (2, 4)
    out = -np.inf
    assert logits.rows(slice(1, 2)).tolist() == [[[20, 21, out, 23]], [[4, 5, 6, 7]]]
    assert logits.rows(slice(0, 1), torch.tensor([1])).tolist() == [[[out, 1, 2, 3]]]
    assert torch.equal(kept.values, torch.arange(24.0).view(3, 2, 4))
