"""Points NMS against loops and a drawing."""

import numpy as np
import torch

from mmsolov2.models.decode.points_nms import points_nms


def peaks_by_loops(scores):
    """A score stays unless the cell above, the one to the left or the one between is higher."""
    out = scores.clone()
    for b, c, y, x in np.ndindex(*scores.shape):
        block = scores[b, c, max(y - 1, 0) : y + 1, max(x - 1, 0) : x + 1]
        if (block > scores[b, c, y, x]).any():
            out[b, c, y, x] = 0
    return out


def test_peaks_equal_loops(device):
    scores = torch.randint(0, 20, (2, 3, 7, 7)) / 20
    expected = peaks_by_loops(scores)
    assert 0 < (expected == scores).float().mean() < 1
    assert torch.equal(points_nms(scores.to(device)).cpu(), expected)


def test_peaks_by_hand():
    """A peak looks up and to the left only; equal neighbours both stay."""
    scores = torch.tensor([[5.0, 4, 6], [5, 1, 2], [3, 2, 9]])
    assert points_nms(scores[None, None])[0, 0].tolist() == [[5, 0, 6], [5, 0, 0], [0, 0, 9]]
