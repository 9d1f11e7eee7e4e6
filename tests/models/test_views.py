"""Views of images: which there are, and that what is found in them is averaged."""

import pytest
import torch
from torch import nn

from mmsolov2.models.dynamic_conv import AveragedKernels, CellKernels
from mmsolov2.models.position_terms import cell_positions
from mmsolov2.models.solov2_head import SOLOv2Head
from mmsolov2.models.views import Outputs, View, Views

GRIDS = (6, 5, 4, 3, 2)
SIZES = ((12, 16), (6, 8), (3, 4), (2, 2), (1, 1))
META = dict(img_shape=(48, 64), ori_shape=(96, 128))
SIGNS = (1, -1, 1, 1, 1, -1)  # of position terms, when left and right are exchanged


@pytest.fixture
def head(device):
    """A head that finds something in noise, each cell's mask in another place."""
    head = SOLOv2Head(
        num_classes=3,
        in_channels=8,
        mask_channels=16,
        feat_channels=32,
        stacked_convs=1,
        num_grids=GRIDS,
        position_terms='quadratic',
        assigner=dict(type='mmsolov2.GridAssigner'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_mask=dict(type='DiceLoss', use_sigmoid=True, activate=True),
    )
    nn.init.normal_(head.conv_cls.weight, std=0.5)
    nn.init.normal_(head.conv_kernel.weight, std=0.1)
    return head.to(device).eval()


@torch.no_grad()
def outputs_of(head, seed=0, batch=2):
    """The outputs for noise."""
    torch.manual_seed(seed)
    device = head.cell_levels.device
    levels = [torch.randn(batch, 8, *size).to(device) for size in SIZES]
    return Outputs(*head(levels), torch.randn(batch, 16, *SIZES[0]).to(device))


def mirrored(outputs):
    """What a network without a preferred side makes of the mirrored images."""
    signs = torch.cat([torch.ones(16), torch.tensor(SIGNS)]).to(outputs.mask_features.device)
    return Outputs(
        [level.flip(-1) for level in outputs.category_logits],
        [level.flip(-1) * signs[:, None, None] for level in outputs.kernels],
        outputs.mask_features.flip(-1),
    )


def same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs) > 3
        torch.testing.assert_close(ours.scores, theirs.scores)
        assert torch.equal(ours.labels, theirs.labels)
        assert (ours.masks != theirs.masks).float().mean() < 1e-4
        torch.testing.assert_close(ours.bboxes, theirs.bboxes, atol=1, rtol=0)


def test_one_view_is_the_prediction(head):
    outputs = outputs_of(head)
    found = head.predict_views([View(outputs)], [META] * 2)
    same(found, head.predict_by_feat(*outputs, [META] * 2))


def test_a_mirrored_view_says_the_same(head):
    outputs = outputs_of(head)
    expected = head.predict_by_feat(*outputs, [META] * 2)
    view = View(mirrored(outputs), is_mirrored=True)
    same(head.predict_views([View(outputs), view], [META] * 2), expected)
    same(head.predict_views([view], [META] * 2), expected)


def test_probabilities_are_averaged(device):
    """Beside convolution by a plain sum, cell by cell, pixel by pixel."""
    torch.manual_seed(0)
    positions = cell_positions((3,)).to(device)
    views = [
        CellKernels(
            torch.randn(4, 6, 8).to(device),
            torch.randn(9, 4).to(device),
            torch.zeros(9, 0).to(device),
            positions,
            torch.zeros(9, dtype=torch.int64).to(device),
        )
        for _ in range(2)
    ]
    averaged = AveragedKernels(views, [False, True], (6, 8))
    chosen = torch.tensor([7, 2], device=device)
    logits = averaged[chosen].keep_few().rows(slice(0, 6))
    for row, cell in enumerate((7, 2)):
        plain, turned = (
            torch.sigmoid((view.features * view.kernels[cell][:, None, None]).sum(0))
            for view in views
        )
        expected = (plain + turned.flip(-1)) / 2
        torch.testing.assert_close(logits[row].sigmoid(), expected)


def test_larger_views_are_brought_to_the_size_of_the_first(head):
    """Features of twice the size, each pixel four times: the same masks but for their edges."""
    outputs = outputs_of(head)
    larger = outputs._replace(
        mask_features=outputs.mask_features.repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
    (one, *_), (both, *_) = (
        head.predict_views(views, [META] * 2)
        for views in ([View(outputs)], [View(outputs), View(larger)])
    )
    assert both.masks.shape[1:] == one.masks.shape[1:] == (96, 128)
    assert len(both) > 3


def test_which_views_there_are():
    images = torch.arange(2 * 3 * 64 * 96.0).view(2, 3, 64, 96)
    assert [view.shape[2:] for view, _ in Views()(images, 32)] == [(64, 96)]
    views = list(Views(flip=True, scales=(0.5, 1, 1.6, 0.1))(images, 32))
    sizes = [tuple(view.shape[2:]) for view, _ in views]
    assert sizes[::2] == sizes[1::2] == [(64, 96), (32, 64), (96, 160), (32, 32)]
    assert [is_mirrored for _, is_mirrored in views] == [False, True] * 4
    assert torch.equal(views[0][0], images)
    for plain, turned in zip(views[::2], views[1::2], strict=True):
        assert torch.equal(turned[0], plain[0].flip(3))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(flip='yes'), "tta.flip must be True or False, not 'yes'"),
        (dict(scales=(0.5, 0)), r'tta.scales must be factors from 0.1 to 10, not \(0.5, 0\)'),
        (dict(scales='1.5'), "tta.scales must be factors .* not '1.5'"),
    ],
)
def test_views_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Views(**settings)
