"""The head: layers and losses against plain functions, results against drawings."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmsolov2.models import solov2_head
from mmsolov2.models.mask_feature_neck import MaskFeatureNeck, SeparateMaskFeatureNeck
from mmsolov2.models.solov2_head import SOLOv2Head, flatten_cells
from mmsolov2.models.targets.grid_assigner import ImageTargets, positives
from mmsolov2.registry import TASK_UTILS
from mmsolov2.structures.masks import (
    quarter_masks,
    tight_boxes,
    with_bitmaps,
)

GRIDS = (10, 8, 6, 4, 3)
SIZES = ((32, 40), (16, 20), (8, 10), (4, 5), (2, 3))
IMAGE_SIZE = (128, 160)
SETTINGS = dict(
    num_classes=4,
    in_channels=32,
    mask_channels=64,
    feat_channels=32,
    stacked_convs=2,
    num_grids=GRIDS,
    assigner=dict(
        type='mmsolov2.GridAssigner',
        scale_ranges=((1, 24), (12, 48), (24, 96), (48, 192), (96, 512)),
    ),
    loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
    loss_mask=dict(type='DiceLoss', use_sigmoid=True, activate=True, loss_weight=3.0),
)


def make_head(**settings):
    return SOLOv2Head(**{**SETTINGS, **settings})


def make_mask_neck(kind=MaskFeatureNeck, **settings):
    return kind(in_channels=32, feat_channels=32, out_channels=64, **settings)


def lively_head(**settings):
    """A head that finds dozens of instances in noise."""
    head = make_head(**settings)
    nn.init.normal_(head.conv_cls.weight, std=0.1)
    nn.init.constant_(head.conv_cls.bias, -1.0)
    nn.init.normal_(head.conv_kernel.weight, std=0.1)
    return head.eval()


def pyramid(batch=2, device='cpu'):
    return [torch.randn(batch, 32, *size, device=device) for size in SIZES]


def mask_features(batch=2, channels=64, device='cpu'):
    return torch.randn(batch, channels, *SIZES[0], device=device)


def samples_of(*rectangles, size=IMAGE_SIZE, device='cpu'):
    """One sample an image, its instances rectangles (x1, y1, x2, y2) with labels 0, 1, 2, …"""
    samples = []
    for image in rectangles:
        masks = np.zeros((len(image), *size), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, image, strict=True):
            mask[y1:y2, x1:x2] = 1
        instances = InstanceData(
            masks=BitmapMasks(masks, *size),
            bboxes=torch.tensor(image).float().view(-1, 4),
            labels=torch.arange(len(image)) % 4,
        )
        samples.append(DetDataSample(gt_instances=instances.to(device)))
    return samples


SOME = [(10, 10, 30, 40), (60, 20, 150, 120), (100, 90, 110, 99), (14, 12, 34, 42)]
OTHERS = [(0, 0, 160, 128), (70, 60, 72, 62)]

# Cells


def test_cells_come_level_by_level_and_row_by_row():
    first = torch.tensor([[[[1, 2], [3, 4]], [[10, 20], [30, 40]]]])
    second = torch.tensor([[[[5]], [[50]]]])
    cells = flatten_cells([first, second])
    assert cells.tolist() == [[[1, 10], [2, 20], [3, 30], [4, 40], [5, 50]]]


def losses_of(head, features, mask_features, samples):
    """Losses of pyramid levels and mask features."""
    return head.loss_by_feat(
        *head(features), mask_features, [sample.gt_instances for sample in samples]
    )


def predict(head, features, mask_features, samples, **options):
    """Results of pyramid levels and mask features."""
    metas = [sample.metainfo for sample in samples]
    return head.predict_by_feat(*head(features), mask_features, metas, **options)


# Settings


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(strides=(8, 8, 16, 32)), 'have 4, 5 and 5'),
        (dict(num_grids=(10, 8, 6)), 'have 5, 3 and 5'),
        (dict(assigner=dict(type='mmsolov2.GridAssigner', scale_ranges=((1, 9),))), '5, 5 and 1'),
        (dict(kernel_size=2), 'kernel_size must be odd, 1 as published or 3, not 2'),
        (dict(kernel_size=0), 'kernel_size must be odd, .* not 0'),
        (dict(kernel_size=-1), 'kernel_size must be odd, .* not -1'),
        (dict(kernel_size='3'), "kernel_size must be odd, .* not '3'"),
        (dict(test_cfg=dict(sigma=2.0)), r"unknown settings \['sigma'\]"),
        (dict(test_cfg=dict(mask_format='png')), "mask_format must be .*not 'png'"),
        (dict(test_cfg=dict(nms_pre=5.0)), 'nms_pre must be a whole number.*not 5.0'),
        (dict(test_cfg=dict(score_thr=30)), 'score_thr must be a number from 0 to 1, not 30'),
        (dict(test_cfg=dict(mask_thr=-0.1)), 'mask_thr must be a number from 0 to 1, not -0.1'),
        (dict(test_cfg=dict(filter_thr=None)), 'filter_thr must be a number .*, not None'),
        (dict(test_cfg=dict(nms_pre=0)), 'nms_pre must be a whole number.*not 0'),
        (dict(test_cfg=dict(max_per_img=-1)), 'max_per_img must be a whole number.*not -1'),
        (
            dict(
                loss_cls=dict(type='VarifocalLoss', use_sigmoid=True),
                loss_mask=dict(type='CrossEntropyLoss', use_sigmoid=True),
            ),
            'loss_cls=VarifocalLoss learns the Dice .* loss_mask=CrossEntropyLoss does not tell',
        ),
        (
            dict(
                loss_cls=dict(type='VarifocalLoss', use_sigmoid=True),
                loss_mask=dict(SETTINGS['loss_mask'], loss_weight=0),
            ),
            'loss_mask=DiceLoss of weight 0 does not tell',
        ),
        (dict(position_terms='cubic'), "position_terms must be one of .*, not 'cubic'"),
        (dict(test_cfg=dict(min_part=2)), 'min_part must be a number from 0 to 1, or None, not 2'),
        (dict(test_cfg=dict(min_mask_pixels=0)), 'min_mask_pixels must be a whole number.*not 0'),
        (
            dict(test_cfg=dict(nms=dict(type='mmsolov2.MatrxNMS'))),
            "no type 'mmsolov2.MatrxNMS'; there are .*FastMaskNMS.*HardMaskNMS.*MatrixNMS.*Soft",
        ),
        (dict(test_cfg=dict(nms=dict(sigma=2.0))), 'test_cfg.nms has no type None'),
        (dict(test_cfg=dict(nms=None)), 'test_cfg.nms has no type None; there are'),
        (dict(test_cfg=dict(nms='mmsolov2.MatrixNMS')), 'test_cfg.nms has no type None'),
        (
            dict(test_cfg=dict(nms=dict(type='mmsolov2.HardMaskNMS', kernel='gaussian'))),
            r"unexpected keyword argument 'kernel'.*nms=dict\(_delete_=True",
        ),
        (
            dict(test_cfg=dict(nms={**SETTINGS['assigner'], 'owner': 'last'})),
            r'GridAssigner.*called as nms\(scores, labels, masks\)',
        ),
        (dict(num_grids=(10, 8, 0, 4, 3)), r'must be at least 1, not .*\(10, 8, 0, 4, 3\)'),
        (dict(strides=(0, 0, 16, 32, 32)), r'must be at least 1, not \(0, 0, 16, 32, 32\)'),
        (dict(strides=(4, 8, 16, 32, 64)), r"neighbour's stride, not \(4, 8, 16, 32, 64\)"),
        (dict(stacked_convs=0), 'stacked_convs must be at least 1, not 0'),
        (dict(test_cfg=dict(nms=dict(type='mmsolov2.MatrixNMS', kernel='hard'))), "not 'hard'"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_head(**settings)


def test_two_levels_are_too_few():
    assigner = dict(type='mmsolov2.GridAssigner', scale_ranges=((1, 9), (9, 99)))
    with pytest.raises(ValueError, match='at least 3 pyramid levels, but have 2, 2 and 2'):
        make_head(strides=(8, 16), num_grids=(4, 2), assigner=assigner)


def test_levels_that_do_not_fit_the_grids_are_refused():
    with pytest.raises(ValueError, match=r'gives 4 levels, but num_grids has 5: .*num_outs=5'):
        make_head()(pyramid()[:4])


def test_settings_of_testing_have_the_published_defaults():
    head = make_head(test_cfg=dict(max_per_img=7))
    assert head.test_cfg == dict(
        score_thr=0.1,
        mask_thr=0.5,
        nms_pre=500,
        filter_thr=0.05,
        max_per_img=7,
        nms=dict(type='mmsolov2.MatrixNMS', kernel='gaussian', sigma=2.0),
        mask_format='bitmap',
        min_mask_pixels=None,
        min_part=None,
    )
    assert head.nms.settings == dict(kernel='gaussian', sigma=2.0, class_agnostic=False)
    assert make_head().test_cfg['max_per_img'] == 100


def test_a_new_head_expects_one_cell_in_a_hundred():
    head = make_head()
    head.init_weights()
    logits, kernels = head([torch.zeros_like(level) for level in pyramid()])
    for level in logits:
        torch.testing.assert_close(level.sigmoid().mean(), torch.tensor(0.01), rtol=0.05, atol=0)
    assert all(0 < level.abs().max() < 1 for level in kernels)


# Layers


def tower(parameters, name, x):
    for i in range(2):
        x = F.conv2d(x, parameters[f'{name}.{i}.conv.weight'], padding=1)
        norm = (parameters[f'{name}.{i}.gn.weight'], parameters[f'{name}.{i}.gn.bias'])
        x = F.group_norm(x, 32, *norm).clamp(min=0)
    return x


def predict_level(parameters, x, grid, use_coords):
    batch, channels, height, width = x.shape
    if use_coords:
        column = torch.linspace(-1, 1, width).expand(batch, 1, height, width)
        row = torch.linspace(-1, 1, height)[:, None].expand(batch, 1, height, width)
        x = torch.cat([x, column.to(x), row.to(x)], 1)
    x = F.interpolate(x, size=(grid, grid), mode='bilinear')
    category = tower(parameters, 'cls_convs', x[:, :channels])
    kernel = tower(parameters, 'kernel_convs', x)
    last = ('conv_cls.weight', 'conv_cls.bias', 'conv_kernel.weight', 'conv_kernel.bias')
    weights = [parameters[name] for name in last]
    return [
        F.conv2d(category, *weights[:2], padding=1),
        F.conv2d(kernel, *weights[2:], padding=1),
    ]


@pytest.mark.parametrize('kernel_size', [1, 3])
@pytest.mark.parametrize('use_coords', [True, False])
def test_layers_equal_plain_functions(use_coords, kernel_size, device):
    head = make_head(use_coords=use_coords, kernel_size=kernel_size).to(device)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    features = pyramid(device=device)
    with torch.no_grad():
        logits, kernels = head(features)
    halved = F.interpolate(features[0], scale_factor=0.5, mode='bilinear')
    enlarged = F.interpolate(features[4], size=SIZES[3], mode='bilinear')
    levels = [halved, *features[1:4], enlarged]
    for i, (level, grid) in enumerate(zip(levels, GRIDS, strict=True)):
        expected = predict_level(head.state_dict(), level, grid, use_coords)
        assert logits[i].shape == (2, 4, grid, grid)
        assert kernels[i].shape == (2, 64 * kernel_size**2, grid, grid)
        torch.testing.assert_close(logits[i], expected[0], rtol=1e-4, atol=1e-3)
        if kernel_size == 3:
            taps = torch.tensor(64 * [*[1 / 9] * 4, 1, *[1 / 9] * 4], device=device)
            expected[1] *= taps[:, None, None]
        torch.testing.assert_close(kernels[i], expected[1], rtol=1e-4, atol=1e-3)


def test_parameters_are_those_of_the_published_weights():
    head = make_head(feat_channels=96)
    channels = {'cls_convs.0': 32, 'cls_convs.1': 96, 'kernel_convs.0': 34, 'kernel_convs.1': 96}
    expected = {}
    for name, before in channels.items():
        expected[f'{name}.conv.weight'] = (96, before, 3, 3)
        expected[f'{name}.gn.weight'] = expected[f'{name}.gn.bias'] = (96,)
    expected |= {'conv_cls.weight': (4, 96, 3, 3), 'conv_cls.bias': (4,)}
    expected |= {'conv_kernel.weight': (64, 96, 3, 3), 'conv_kernel.bias': (64,)}
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == expected


# Losses


def focal_loss(logits, label):
    """Of the logits of one cell; a label beyond the last class is the background."""
    p = logits.sigmoid()
    losses = -0.75 * p**2 * torch.log(1 - p)
    if label < len(logits):
        losses[label] = -0.25 * (1 - p[label]) ** 2 * torch.log(p[label])
    return losses.sum()


def dice_loss(logits, target):
    p, t = logits.sigmoid(), target.float()
    return 1 - 2 * (p * t).sum() / ((p**2).sum() + (t**2).sum() + 0.002)


@pytest.mark.parametrize('size', [IMAGE_SIZE, (121, 151)], ids=['exact', 'padded'])
def test_losses_equal_loops_over_cells(size, device):
    head, features = lively_head(), mask_features()
    samples = samples_of(SOME, OTHERS, size=size)
    logits, kernels = head(pyramid())
    losses = head.to(device).loss_by_feat(
        [level.to(device) for level in logits],
        [level.to(device) for level in kernels],
        features.to(device),
        [sample.gt_instances.to(device) for sample in samples],
    )
    category, mask, num_positive, num_pairs = 0, 0, 0, 0
    for b, sample in enumerate(samples):
        instances = sample.gt_instances
        masks = F.pad(
            torch.from_numpy(instances.masks.masks).bool(), (0, 160 - size[1], 0, 128 - size[0])
        )
        targets = head.assigner(
            masks, instances.labels, instances.bboxes, num_grids=GRIDS, background=4
        )
        cells = torch.cat([level[b].flatten(1) for level in logits], 1).T
        category += sum(focal_loss(*cell) for cell in zip(cells, targets.labels, strict=True))
        weights = torch.cat([level[b].flatten(1) for level in kernels], 1).T
        ((positive, owner),) = positives([targets])
        for cell, instance in zip(positive, owner, strict=True):
            predicted = torch.einsum('e,ehw->hw', weights[cell], features[b])
            mask += dice_loss(predicted, quarter_masks(masks)[instance])
        num_positive += targets.num_positive
        num_pairs += len(positive)
    assert num_pairs > num_positive > 12
    tolerance = dict(rtol=1e-5, atol=1e-5) if device.type == 'cuda' else {}
    loss_cls, loss_mask = (losses[name].cpu() for name in ('loss_cls', 'loss_mask'))
    torch.testing.assert_close(loss_cls, category / (num_positive + 1), **tolerance)
    torch.testing.assert_close(loss_mask, 3 * mask / num_positive, **tolerance)


BATCHES = {
    'all have instances': (SOME, OTHERS),
    'one has none': ([], SOME),
    'none has any': ([], []),
    'one image without any': ([],),
    'an empty mask': ([(0, 0, 0, 0)], []),
}


@pytest.mark.parametrize('position_terms', [None, 'quadratic'])
@pytest.mark.parametrize('kernel_size', [1, 3])
@pytest.mark.parametrize('images', BATCHES.values(), ids=BATCHES)
def test_every_parameter_gets_a_gradient(images, kernel_size, position_terms, device):
    head = make_head(kernel_size=kernel_size, position_terms=position_terms).to(device)
    neck = make_mask_neck().to(device)
    features = pyramid(len(images), device)
    losses = losses_of(head, features, neck(features), samples_of(*images, device=device))
    assert losses.keys() == {'loss_cls', 'loss_mask'}
    assert all(loss.isfinite() and loss >= 0 for loss in losses.values())
    assert (losses['loss_mask'] > 0) == (SOME in images)
    sum(losses.values()).backward()
    for module in (head, neck):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_every_parameter_and_every_level_learns_from_instances():
    head, neck = make_head(), make_mask_neck()
    features = [level.requires_grad_() for level in pyramid()]
    sum(
        losses_of(head, features, neck(features).detach(), samples_of(SOME, OTHERS)).values()
    ).backward()
    assert all(level.grad.any() for level in features)
    sum(losses_of(head, features, neck(features), samples_of(SOME, OTHERS)).values()).backward()
    for module in (head, neck):
        assert all(parameter.grad.any() for parameter in module.parameters())


VARIANTS = {
    'default': ({}, {}),
    '3x3': (dict(kernel_size=3), {}),
    'no coordinates': (dict(use_coords=False), dict(use_coords=False)),
    'coordinates of the kernel': ({}, dict(use_coords=False)),
    'coordinates of the features': (dict(use_coords=False), {}),
    'separate': ({}, dict(kind=SeparateMaskFeatureNeck)),
    'separate, 3x3': (dict(kernel_size=3), dict(kind=SeparateMaskFeatureNeck)),
    'position terms': (dict(position_terms='quadratic'), {}),
    'position terms, 3x3': (dict(position_terms='linear', kernel_size=3), {}),
    'position terms, separate': (
        dict(position_terms='quadratic'),
        dict(kind=SeparateMaskFeatureNeck),
    ),
    'qualities': (dict(loss_cls=dict(type='VarifocalLoss', use_sigmoid=True)), {}),
    'deformable': (dict(conv_cfg=dict(type='DCNv2')), dict(conv_cfg=dict(type='DCNv2'))),
    'deformable at the end': (dict(last_conv_cfg=dict(type='DCN')), {}),
}


@pytest.mark.parametrize('variant', VARIANTS.values(), ids=VARIANTS)
def test_the_losses_fall(variant, device):
    head, neck = make_head(**variant[0]).to(device), make_mask_neck(**variant[1]).to(device)
    optimizer = torch.optim.SGD([*head.parameters(), *neck.parameters()], lr=0.05, momentum=0.9)
    features, samples = pyramid(device=device), samples_of(SOME, OTHERS, device=device)
    history = []
    for _ in range(8):
        losses = losses_of(head, features, neck(features), samples)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    assert history[-1]['loss_cls'] < history[0]['loss_cls']
    assert history[-1]['loss_mask'] < history[0]['loss_mask']


def test_losses_under_autocast_are_close_to_those_in_float32(device):
    head, neck = lively_head().to(device), make_mask_neck().to(device)
    features, samples = pyramid(device=device), samples_of(SOME, OTHERS, device=device)
    expected = losses_of(head, features, neck(features), samples)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        losses = losses_of(head, features, neck(features), samples)
    for name, loss in losses.items():
        torch.testing.assert_close(loss.float(), expected[name], rtol=0.05, atol=0)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_the_mask_loss_of_half_precision_outputs_is_computed_in_float32(dtype, device):
    """Features that the type holds exactly, and kernels that each take one channel of them."""
    head, features = make_head().to(device), mask_features(device=device).to(dtype)
    logits = [torch.zeros(2, 4, grid, grid, device=device) for grid in GRIDS]
    kernels = [torch.zeros(2, 64, grid, grid, device=device) for grid in GRIDS]
    for level in kernels:
        level[:, 5] = 1
    instances = [one.gt_instances for one in samples_of(SOME, OTHERS, device=device)]
    expected = head.loss_by_feat(logits, kernels, features.float(), instances)['loss_mask']
    halves = [level.to(dtype) for level in kernels]
    loss = head.loss_by_feat(logits, halves, features, instances)['loss_mask']
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize('copies', [1, 2])
def test_a_loss_of_single_pixels_is_their_mean_over_a_mask(copies):
    """In the whole image or in one of twice the width, of the same content twice."""
    head = lively_head(loss_mask=dict(type='CrossEntropyLoss', use_sigmoid=True))
    features = mask_features(batch=1).repeat(1, 1, 1, copies)
    kernels = torch.randn(1, len(head.cell_levels), 64)
    masks = torch.rand(2, *features.shape[-2:]) > 0.5
    masks = masks[..., :40].repeat(1, 1, copies)
    cell, instance = torch.tensor([3, 5, 8]), torch.tensor([0, 1, 1])
    targets = ImageTargets(
        labels=None, num_positive=None, cell=cell, instance=instance, masks=masks
    )
    terms = torch.zeros(*kernels.shape[:2], 0)
    losses = head._mask_losses(features, kernels, terms, [targets])
    logits = torch.einsum('ne,ehw->nhw', kernels[0, cell], features[0, ..., :40])
    expected = F.binary_cross_entropy_with_logits(
        logits, masks[instance][..., :40].float(), reduction='none'
    )
    torch.testing.assert_close(losses, expected.mean((1, 2)))


def test_targets_of_a_batch_are_those_of_the_parts():
    """Images of 121x151, padded to the size of the network's input."""
    head = make_head()
    instances = [one.gt_instances for one in samples_of(SOME, [], OTHERS, size=(121, 151))]
    for gt, targets in zip(instances, head.targets(instances, IMAGE_SIZE), strict=True):
        masks = F.pad(torch.from_numpy(gt.masks.masks).bool(), (0, 9, 0, 7))
        assigned = head.assigner(masks, gt.labels, gt.bboxes, num_grids=GRIDS, background=4)
        ((cell, instance),) = positives([assigned])
        assert torch.equal(targets.labels, assigned.labels)
        assert targets.num_positive == assigned.num_positive
        assert torch.equal(targets.cell, cell) and torch.equal(targets.instance, instance)
        assert torch.equal(targets.masks, quarter_masks(masks))
        assert (len(cell) > 0) == (len(gt) > 0)


@pytest.mark.parametrize('loss', ['QualityFocalLoss', 'VarifocalLoss'])
def test_quality_losses_learn_the_dice_of_each_cells_mask(loss, device):
    """A cell of several instances learns that of the last, which gives the class too."""
    dice = dict(type='DiceLoss', use_sigmoid=True, activate=True, loss_weight=2.0)
    head = lively_head(loss_cls=dict(type=loss, use_sigmoid=True), loss_mask=dice).to(device)
    features, outputs = mask_features(device=device), head(pyramid(device=device))
    samples = samples_of(SOME, OTHERS, device=device)
    instances = [sample.gt_instances for sample in samples]
    targets = head.targets(instances, IMAGE_SIZE)
    kernels = flatten_cells(outputs[1])
    expected = torch.zeros(2, kernels.shape[1], 4)
    for b, image in enumerate(targets):
        pairs = sorted(zip(image.cell.tolist(), image.instance.tolist(), strict=True))
        for cell, owner in dict(pairs).items():  # of each cell the last one
            logits = torch.einsum('e,ehw->hw', kernels[b, cell], features[b])
            expected[b, cell, image.labels[cell]] = 1 - dice_loss(logits, image.masks[owner]).cpu()
    found = []
    head.loss_cls.register_forward_pre_hook(lambda _, inputs: found.append(inputs[1]))
    losses = head.loss_by_feat(*outputs, features, instances)
    torch.testing.assert_close(found[0].cpu().view_as(expected), expected, rtol=1e-4, atol=1e-5)
    assert not found[0].requires_grad and (expected.flatten(0, 1).sum(1) > 0).sum() > 12
    losses['loss_cls'].backward()
    assert head.conv_cls.weight.grad.any() and head.conv_kernel.weight.grad is None


def test_targets_of_an_input_of_any_size_are_those_of_the_mask_features():
    """Mask features are a quarter of the input, rounded up."""
    head = make_head()
    instances = [one.gt_instances for one in samples_of(SOME, size=(125, 159))]
    (found,), (expected,) = (head.targets(instances, size) for size in ((125, 159), IMAGE_SIZE))
    assert found.masks.shape == (len(SOME), *SIZES[0])
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_losses_wait_for_the_device_in_positives_alone(monkeypatch):
    """Once a batch: all else runs on tensors that have no values."""
    batches = []

    def known_positives(images):
        batches.append(len(images))
        return [(torch.arange(3), torch.zeros(3, dtype=torch.long)) for _ in images]

    monkeypatch.setattr(solov2_head, 'positives', known_positives)
    instances = [one.gt_instances for one in samples_of(SOME, OTHERS)]
    with FakeTensorMode(allow_non_fake_inputs=True):
        head = make_head()
        losses = head.loss_by_feat(*head(pyramid()), mask_features(), instances)
        sum(losses.values()).backward()
    assert batches == [2]


def test_losses_need_no_boxes():
    head, features = lively_head(), mask_features()
    outputs = head(pyramid())
    instances = [sample.gt_instances for sample in samples_of(SOME, OTHERS)]
    expected = head.loss_by_feat(*outputs, features, instances)
    for gt in instances:
        del gt.bboxes
    losses = head.loss_by_feat(*outputs, features, instances)
    assert all(torch.equal(losses[name], expected[name]) for name in expected)


JOINT_BATCH = """
import copy, sys
import mmsolov2
import numpy as np, torch, torch.distributed as dist
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from mmsolov2.models.mask_feature_neck import MaskFeatureNeck, SeparateMaskFeatureNeck
from mmsolov2.models.solov2_head import SOLOv2Head


class Parts(nn.Module):

    def __init__(self, kind, **settings):
        super().__init__()
        self.neck = kind(in_channels=32, feat_channels=32, out_channels=64)
        self.head = SOLOv2Head(**SETTINGS, **settings)

    def forward(self, levels, instances):
        losses = self.head.loss_by_feat(*self.head(levels), self.neck(levels), instances)
        return sum(losses.values())


def image(step, number):  # levels of a picture and its rectangles
    generator = torch.Generator().manual_seed(10 * step + number)
    sizes = (32, 40), (16, 20), (8, 10), (4, 5), (2, 3)
    levels = [torch.randn(1, 32, *size, generator=generator, dtype=float) for size in sizes]
    count = (0, 0, 3, 1)[number] if step != 2 else 0
    masks = np.zeros((count, 128, 160), np.uint8)
    for i, mask in enumerate(masks):
        mask[8 * i + 4:60, 20 * i + 7:20 * i + 50 - 7 * step] = 1
    return levels, InstanceData(masks=BitmapMasks(masks, 128, 160), labels=torch.arange(count))


def train(model, numbers):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(4):
        levels, instances = zip(*(image(step, number) for number in numbers))
        optimizer.zero_grad()
        model([torch.cat(level) for level in zip(*levels)], list(instances)).backward()
        optimizer.step()


SETTINGS = eval(sys.argv[1])
dist.init_process_group('gloo')
rank = dist.get_rank()
for name, kind, settings in (
    ('unified', MaskFeatureNeck, {}),
    ('3x3', MaskFeatureNeck, dict(kernel_size=3)),
    ('separate', SeparateMaskFeatureNeck, {}),
):
    torch.manual_seed(0)
    apart = Parts(kind, sync_avg_factor=True, **settings).double()
    joint, before = copy.deepcopy(apart), copy.deepcopy(apart.state_dict())
    train(DistributedDataParallel(apart), [2 * rank, 2 * rank + 1])  # the first has nobody
    joint.head.sync_avg_factor = False
    train(joint, range(4))
    for key, value in joint.state_dict().items():
        difference = (apart.state_dict()[key] - value).abs().max().item()
        if difference > 1e-9 or torch.equal(value, before[key]):
            print(f'rank {rank} {name}: {key} differs by {difference}')
    print(f'rank {rank} {name}: compared')
"""


def test_two_processes_learn_what_one_does_from_the_joint_batch(tmp_path, run_python):
    """In float64. One has no instances at all, and in the third of four steps neither has."""
    script = tmp_path / 'joint.py'
    script.write_text(JOINT_BATCH)
    options = ('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', 2)
    lines = run_python(*options, script, repr(SETTINGS)).stdout.splitlines()
    assert sorted(line for line in lines if line.startswith('rank')) == [
        f'rank {rank} {name}: compared'
        for rank in (0, 1)
        for name in ('3x3', 'separate', 'unified')
    ]


# Predictions


class Drawing:
    """Outputs of a head for one image in which the named cells have the drawn masks."""

    def __init__(self, channels=4):
        self.logits = [torch.full((1, 4, grid, grid), -20.0) for grid in GRIDS]
        self.kernels = [torch.zeros(1, channels, grid, grid) for grid in GRIDS]
        self.features = torch.full((1, channels, *SIZES[0]), -20.0)

    def add(self, channel, rows, columns, *, logit=2.0, label=0, level=0, cell=(1, 1), inside=20.0):
        """A cell whose mask covers rows and columns (first, end) of the mask features."""
        self.features[0, channel, slice(*rows), slice(*columns)] = inside
        self.logits[level][(0, label, *cell)] = logit
        self.kernels[level][(0, channel, *cell)] = 1
        return self

    def results(self, meta=None, *, rescale=True, device='cpu', **test_cfg):
        """The results of a device, on the CPU."""
        head = make_head(mask_channels=len(self.features[0]), test_cfg=test_cfg).to(device)
        metas = [meta or dict(img_shape=IMAGE_SIZE, ori_shape=IMAGE_SIZE)]
        logits, kernels = ([one.to(device) for one in some] for some in (self.logits, self.kernels))
        outputs = (logits, kernels, self.features.to(device))
        return head.predict_by_feat(*outputs, metas, rescale=rescale)[0].cpu()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_a_drawn_rectangle(device):
    drawing = Drawing().add(1, (4, 12), (8, 20), label=2, logit=1.5)
    results = drawing.results(device=device)
    assert results.labels.tolist() == [2]
    assert results.bboxes.tolist() == [[32, 16, 80, 48]]
    assert results.masks.shape == (1, *IMAGE_SIZE)
    assert results.masks.sum() == 32 * 48 - 4  # the resize rounds the corners
    torch.testing.assert_close(results.scores, torch.tensor([sigmoid(1.5)]))


def test_sizes_of_the_network_and_of_the_image(device):
    drawing = Drawing().add(1, (4, 12), (8, 20))
    meta = dict(img_shape=(120, 150), ori_shape=(240, 75))
    assert drawing.results(meta, device=device).bboxes.tolist() == [[16, 32, 40, 96]]
    network = drawing.results(meta, rescale=False, device=device)
    assert network.bboxes.tolist() == [[32, 16, 80, 48]]
    assert network.masks.shape == (1, 120, 150)


def test_the_score_is_that_of_the_category_times_the_mean_of_the_mask():
    drawing = Drawing().add(0, (0, 8), (0, 8), logit=0.0)
    drawing.features[0, 0, :4, :8] = math.log(3)  # a probability of 3/4 in one half of the mask
    torch.testing.assert_close(drawing.results().scores, torch.tensor([0.5 * 7 / 8]))


@pytest.mark.parametrize(('level', 'stride'), [(0, 8), (1, 8), (2, 16), (3, 32), (4, 32)], ids=str)
def test_masks_need_more_pixels_than_the_stride_of_their_level(level, stride, device):
    as_many = Drawing().add(0, (0, 1), (0, stride), level=level)
    assert len(as_many.results(device=device)) == 0
    more = Drawing().add(0, (0, 1), (0, stride), level=level)
    more.features[0, 0, 1, 0] = 20
    assert len(more.results(device=device)) == 1


@pytest.mark.parametrize(('smallest', 'found'), [(None, 0), (4, 0), (3, 1), (1, 1)])
def test_the_smallest_mask_can_be_set(smallest, found):
    drawing = Drawing().add(0, (0, 1), (0, 3))
    assert len(drawing.results(min_mask_pixels=smallest)) == found


def test_an_empty_mask_is_no_result_however_small_masks_may_be():
    assert len(Drawing().add(0, (0, 0), (0, 0)).results(min_mask_pixels=1)) == 0


@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
@pytest.mark.parametrize('few', [True, False], ids=['kept', 'computed'])
def test_parts_below_a_share_of_the_largest_are_no_part_of_a_mask(
    mask_format, few, monkeypatch, device
):
    """Parts of 64, 16 and 4 pixels; the score stays that of the mask that was found."""
    if not few:
        monkeypatch.setattr('mmsolov2.models.dynamic_conv.KEPT_LOGITS', 0)
    drawing = Drawing().add(0, (0, 8), (0, 8), logit=0.5).add(1, (16, 24), (0, 8), cell=(4, 4))
    drawing.features[0, 0, 20:24, 20:24] = drawing.features[0, 0, 30:32, 38:40] = 20
    boxes, areas = {}, {}
    for least in (None, 0.25, 1.0):
        found = drawing.results(min_part=least, mask_format=mask_format, device=device)
        masks = with_bitmaps(found, IMAGE_SIZE).masks
        assert torch.equal(tight_boxes(masks), found.bboxes)
        torch.testing.assert_close(found.scores, torch.tensor([sigmoid(2.0), sigmoid(0.5)]))
        boxes[least], areas[least] = found.bboxes.tolist(), masks.sum((1, 2)).tolist()
    other = [0, 64, 32, 96]
    assert boxes == {
        None: [other, [0, 0, 160, 128]],
        0.25: [other, [0, 0, 96, 96]],
        1.0: [other, [0, 0, 32, 32]],
    }
    assert areas[None][1] > areas[0.25][1] > areas[1.0][1] == 32 * 32 - 1


@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
@pytest.mark.parametrize('separate', [False, True], ids=['unified', 'separate'])
def test_position_terms_draw_around_the_cell(mask_format, separate, device):
    """A circle of two cells, 32x40 pixels of a grid of 8x8, of kernels that ask for no feature."""
    test_cfg = dict(mask_format=mask_format)
    head = make_head(mask_channels=1, position_terms='quadratic', test_cfg=test_cfg).to(device)
    logits = [torch.full((1, 4, grid, grid), -20.0, device=device) for grid in GRIDS]
    kernels = [torch.zeros(1, 7, grid, grid, device=device) for grid in GRIDS]
    logits[1][0, 0, 2, 5] = 2.0
    terms = torch.tensor([0, 4.0, 0, 0, -16, -16, 0], device=device)  # 4 - 16 u²
    kernels[1][0, :, 2, 5] = terms
    features = [torch.randn(1, 1, *size, device=device) for size in SIZES]
    meta = dict(img_shape=IMAGE_SIZE, ori_shape=IMAGE_SIZE)
    outputs = (logits, kernels, features if separate else features[0])
    (found,) = head.predict_by_feat(*outputs, [meta])
    y, x = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(160) + 0.5, indexing='ij')
    circle = ((x - 110) / 20) ** 2 + ((y - 40) / 16) ** 2 < 1
    (mask,) = with_bitmaps(found.cpu(), IMAGE_SIZE).masks
    assert (mask & circle).sum() / (mask | circle).sum() > 0.95
    expected = torch.tensor([[90.0, 24, 130, 56]])
    torch.testing.assert_close(found.bboxes.cpu(), expected, atol=1, rtol=0)


def test_position_terms_of_bfloat16_outputs_are_those_of_float32():
    """Up to what rounding the predicted numbers to their type changes."""
    head = lively_head(position_terms='quadratic')
    _, kernels = head(pyramid(1))
    halves = [level.bfloat16() for level in kernels]
    rounded = [level.float() for level in halves]
    features = mask_features(1).bfloat16()
    targets = head.targets([one.gt_instances for one in samples_of(SOME)], IMAGE_SIZE)
    losses = [
        head._mask_losses(of, *head._cells(levels), targets)
        for of, levels in ((features, halves), (features.float(), rounded))
    ]
    torch.testing.assert_close(*losses, rtol=0.02, atol=0.02)


CROSS_ENTROPY = dict(loss_mask=dict(type='CrossEntropyLoss', use_sigmoid=True))


@pytest.mark.parametrize('settings', [{}, dict(kernel_size=3), CROSS_ENTROPY], ids=str)
def test_position_terms_in_float64_are_those_of_float32(settings):
    head, features = lively_head(position_terms='quadratic', **settings), mask_features()
    levels, samples = pyramid(), samples_of(SOME, OTHERS)
    expected = losses_of(head, levels, features, samples)
    metas = [
        sample.metainfo | dict(img_shape=IMAGE_SIZE, ori_shape=IMAGE_SIZE) for sample in samples
    ]
    counts = [len(one) for one in head.predict_by_feat(*head(levels), features, metas)]
    head, features, levels = head.double(), features.double(), [one.double() for one in levels]
    losses = losses_of(head, levels, features, samples)
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name].float(), loss, rtol=1e-4, atol=1e-4)
    found = [len(one) for one in head.predict_by_feat(*head(levels), features, metas)]
    assert found == counts and min(counts) > 0


def test_the_nms_of_the_config_is_used(device):
    """Masks of 64 and 56 pixels, one inside the other, of two classes."""
    drawing = Drawing().add(0, (0, 8), (0, 8), cell=(0, 0), label=0)
    drawing.add(1, (0, 8), (0, 7), cell=(4, 4), label=1, logit=1.0)
    hard = dict(type='mmsolov2.HardMaskNMS', iou_thr=0.5)
    assert drawing.results(nms=hard, device=device).labels.tolist() == [0, 1]
    agnostic = drawing.results(nms=dict(**hard, class_agnostic=True), device=device)
    assert agnostic.labels.tolist() == [0]


@TASK_UTILS.register_module()
class FadingNMS(nn.Module):
    """A mask NMS with a weight, that of every score."""

    def __init__(self, weight=0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, scores, labels, masks):
        return scores * self.weight


def test_an_nms_may_be_a_module(device):
    """With weights that are saved, loaded and moved as the head's others."""
    drawing = Drawing().add(0, (0, 8), (0, 8), logit=0.0)
    nms = dict(type='mmsolov2.FadingNMS')
    results = drawing.results(nms=nms, device=device)
    torch.testing.assert_close(results.scores.detach(), torch.tensor([0.25]))
    head, other = (make_head(test_cfg=dict(nms=dict(nms, weight=one))) for one in (0.25, 0.5))
    other.load_state_dict(head.state_dict(), strict=True)
    assert copy.deepcopy(other).double().nms.weight.dtype == torch.float64
    assert other.nms.weight == 0.25


def test_an_nms_module_must_take_what_the_head_gives():
    message = r"test_cfg.nms=\{'type': 'mmsolov2.Blind'\}: .*called as nms\(scores, labels, masks\)"
    TASK_UTILS.register_module(name='Blind', module=nn.Identity, force=True)
    with pytest.raises(ValueError, match=message):
        make_head(test_cfg=dict(nms=dict(type='mmsolov2.Blind')))


def test_an_empty_mask_is_no_result(device):
    results = Drawing().add(0, (0, 0), (0, 0)).results(device=device)
    types = {name: (value.dtype, value.shape) for name, value in results.items()}
    assert types == dict(
        scores=(torch.float32, (0,)),
        labels=(torch.int64, (0,)),
        bboxes=(torch.float32, (0, 4)),
        masks=(torch.bool, (0, *IMAGE_SIZE)),
    )


def test_only_the_higher_of_two_neighbouring_cells_counts():
    drawing = Drawing().add(0, (0, 8), (0, 8), cell=(1, 1), logit=2.0, label=3)
    drawing.add(1, (20, 28), (20, 28), cell=(1, 2), logit=1.0, label=3)
    assert drawing.results().bboxes.tolist() == [[0, 0, 32, 32]]


def test_a_cell_may_be_of_two_classes(device):
    drawing = Drawing().add(0, (0, 8), (0, 8), label=3).add(0, (0, 8), (0, 8), label=1, logit=1.0)
    results = drawing.results(device=device)
    assert results.labels.tolist() == [3, 1]
    torch.testing.assert_close(results.scores, torch.tensor([sigmoid(2), sigmoid(1)]))


def three():
    """Three rectangles apart, the second of them the best, the third the worst."""
    drawing = Drawing().add(0, (0, 8), (0, 8), cell=(0, 0), logit=1.0, label=0)
    drawing.add(1, (0, 8), (20, 28), cell=(0, 5), logit=2.0, label=1, level=1)
    return drawing.add(2, (20, 28), (0, 8), cell=(2, 0), logit=0.0, label=2, level=2)


@pytest.mark.parametrize(
    ('test_cfg', 'labels'),
    [
        (dict(), [1, 0, 2]),
        (dict(score_thr=0.5), [1, 0]),  # of 0.5 and more than 0.5, only the second is left
        (dict(filter_thr=0.5), [1, 0, 2]),  # of 0.5 and more, both are
        (dict(filter_thr=0.51), [1, 0]),
        (dict(max_per_img=1), [1]),
        (dict(max_per_img=None, nms_pre=None), [1, 0, 2]),
        (dict(nms_pre=2), [1, 0]),
        (dict(nms_pre=1), [1]),
    ],
    ids=str,
)
def test_thresholds_and_limits(test_cfg, labels, device):
    assert three().results(**test_cfg, device=device).labels.tolist() == labels


def test_rescored_results_are_ranked_again(device):
    """A duplicate of the best is left with exp(-2) of its score, below the third."""
    drawing = three().add(1, (0, 8), (20, 28), cell=(3, 3), logit=1.9, label=1)
    results = drawing.results(device=device)
    assert results.labels.tolist() == [1, 0, 2, 1]
    torch.testing.assert_close(results.scores[3].item(), sigmoid(1.9) * math.exp(-2))
    linear = dict(type='mmsolov2.MatrixNMS', kernel='linear')
    assert drawing.results(nms=linear, device=device).labels.tolist() == [1, 0, 2]
    assert drawing.results(max_per_img=3, device=device).labels.tolist() == [1, 0, 2]


def test_the_mask_threshold_holds_everywhere(device):
    """Around the core, 4 to 12, the mask is sigmoid(1) = 0.73: at 0.8 only the core is inside.

    Outer edges lose a pixel, for 5/8 of 0.73 is under 0.5; inner ones gain it: 0.73 + 3/8 of 0.27.
    """
    drawing = Drawing().add(0, (0, 16), (0, 16), inside=1.0)
    drawing.features[0, 0, 4:12, 4:12] = 20
    loose, strict = (drawing.results(mask_thr=thr, device=device) for thr in (0.5, 0.8))
    assert loose.bboxes.tolist() == [[0, 0, 63, 63]]
    assert strict.bboxes.tolist() == [[15, 15, 49, 49]]
    torch.testing.assert_close(strict.scores, torch.tensor([sigmoid(2)]))
    mean = (64 + 192 * sigmoid(1)) / 256
    torch.testing.assert_close(loose.scores, torch.tensor([sigmoid(2) * mean]))


def test_masks_of_the_threshold_are_what_suppresses(device):
    """Two cores side by side in the same surroundings, which overlap in full below 0.73."""
    drawing = Drawing().add(0, (0, 16), (0, 16), inside=1.0)
    drawing.add(1, (0, 16), (0, 16), inside=1.0, cell=(5, 5), logit=1.5)
    drawing.features[0, 0, :8, :8] = drawing.features[0, 1, 8:16, 8:16] = 20
    strict = drawing.results(mask_thr=0.8, device=device)
    torch.testing.assert_close(strict.scores, torch.tensor([sigmoid(2), sigmoid(1.5)]))
    loose = drawing.results(mask_thr=0.5, device=device)
    mean = (64 + 192 * sigmoid(1)) / 256
    expected = [sigmoid(2) * mean, sigmoid(1.5) * mean * math.exp(-2)]
    torch.testing.assert_close(loose.scores, torch.tensor(expected))


def test_outputs_in_half_precision_are_processed_in_float32(device):
    """Outputs that bfloat16 holds exactly, and masks whose means it would round."""
    drawing = three()
    drawing.features[0, :3] = torch.randn(3, *SIZES[0]).bfloat16().float()
    expected = drawing.results(device=device)
    drawing.logits = [level.bfloat16() for level in drawing.logits]
    drawing.kernels = [level.bfloat16() for level in drawing.kernels]
    drawing.features = drawing.features.bfloat16()
    results = drawing.results(device=device)
    assert len(results) == len(expected) == 3
    assert results.scores.dtype == torch.float32
    torch.testing.assert_close(results.scores, expected.scores)
    assert torch.equal(results.masks, expected.masks)


def metas(count, size=IMAGE_SIZE):
    meta = dict(img_shape=size, ori_shape=(2 * size[0], 2 * size[1]))
    return [DetDataSample(metainfo=meta) for _ in range(count)]


@torch.no_grad()
def test_predictions_under_autocast_are_finite(device):
    head, features = lively_head().to(device), pyramid(device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        results = predict(head, features, mask_features(device=device), metas(2))
    for image in results:
        assert len(image) > 5
        assert image.scores.dtype == torch.float32
        assert image.scores.isfinite().all()
        assert ((image.scores > 0) & (image.scores <= 1)).all()


@torch.no_grad()
@pytest.mark.parametrize('kernel_size', [1, 3])
def test_predictions_do_not_depend_on_the_batch(kernel_size, device):
    """In float64, so that no pixel is close enough to the threshold to differ."""
    head = lively_head(kernel_size=kernel_size).double().to(device)
    features = [level.double() for level in pyramid(device=device)]
    masks = mask_features(device=device).double()
    together = predict(head, features, masks, metas(2))
    for i, result in enumerate(together):
        one = slice(i, i + 1)
        (alone,) = predict(head, [level[one] for level in features], masks[one], metas(1))
        assert len(result) == len(alone) > 5
        assert torch.equal(result.labels, alone.labels)
        assert torch.equal(result.masks, alone.masks)
        torch.testing.assert_close(result.scores, alone.scores)
    assert not torch.equal(together[0].scores, together[1].scores)


@torch.no_grad()
def test_an_image_without_instances_beside_one_with_some():
    drawing = three()
    logits = [torch.cat([torch.full_like(level, -20), level]) for level in drawing.logits]
    kernels = [level.repeat(2, 1, 1, 1) for level in drawing.kernels]
    meta = dict(img_shape=IMAGE_SIZE, ori_shape=IMAGE_SIZE)
    head = make_head(mask_channels=4)
    features = drawing.features.repeat(2, 1, 1, 1)
    nobody, somebody = head.predict_by_feat(logits, kernels, features, [meta, meta])
    assert len(nobody) == 0
    assert somebody.labels.tolist() == [1, 0, 2]


@pytest.mark.parametrize('kernel_size', [1, 3])
@pytest.mark.parametrize('kind', [MaskFeatureNeck, SeparateMaskFeatureNeck])
def test_features_of_another_type_than_kernels_are_taken_as_these(kind, kernel_size, device):
    """CUDA's autocast gives mask features in float32, as they come out of GroupNorm."""
    head, neck = lively_head(kernel_size=kernel_size), make_mask_neck(kind=kind)
    head, neck, levels = head.to(device), neck.to(device), pyramid(device=device)
    logits, kernels = head(levels)
    kernels = [level.bfloat16() for level in kernels]
    features = neck(levels)
    halves = [level.bfloat16() for level in features]
    halves = torch.stack(halves) if isinstance(features, torch.Tensor) else halves
    sizes = [dict(img_shape=IMAGE_SIZE, ori_shape=IMAGE_SIZE)] * 2
    found = head.predict_by_feat(logits, kernels, features, sizes)
    expected = head.predict_by_feat(logits, kernels, halves, sizes)
    for one, other in zip(found, expected, strict=True):
        assert len(one) and torch.equal(one.masks, other.masks)


def test_predictions_need_no_gradients():
    """Where a caller left them on, results are the same, and have none."""
    head, levels, features = lively_head(), pyramid(), mask_features().requires_grad_()
    found = predict(head, levels, features, metas(2))
    with torch.no_grad():
        expected = predict(head, levels, features, metas(2))
    for one, other in zip(found, expected, strict=True):
        assert len(one) and not one.scores.requires_grad
        assert torch.equal(one.masks, other.masks)


@torch.no_grad()
def test_separate_features_are_convolved_with_kernels_of_their_level():
    """The same cell of two levels: each finds the rectangle of its own level's features."""
    first = Drawing().add(0, (4, 12), (8, 20), level=0)
    second = Drawing().add(0, (2, 6), (4, 10), level=2, label=1, logit=1.0)
    features = [torch.full((1, 4, *SIZES[i]), -20.0) for i in (0, 0, 1, 2, 2)]
    features[0], features[2][0, 0, 2:6, 4:10] = first.features, 20.0
    logits = [torch.maximum(*pair) for pair in zip(first.logits, second.logits, strict=True)]
    kernels = [torch.maximum(*pair) for pair in zip(first.kernels, second.kernels, strict=True)]
    meta = dict(img_shape=IMAGE_SIZE, ori_shape=IMAGE_SIZE)
    head = make_head(mask_channels=4)
    (results,) = head.predict_by_feat(logits, kernels, features, [meta])
    assert results.labels.tolist() == [0, 1]
    assert results.bboxes.tolist() == [[32, 16, 80, 48]] * 2


@torch.no_grad()
def test_predictions_of_separate_features_do_not_depend_on_the_batch():
    head, neck = lively_head(), make_mask_neck(kind=SeparateMaskFeatureNeck).eval()
    levels = pyramid()
    together = predict(head, levels, neck(levels), metas(2))
    for b, result in enumerate(together):
        alone = [level[b : b + 1] for level in levels]
        (expected,) = predict(head, alone, neck(alone), metas(1))
        assert len(result) > 5
        assert torch.equal(result.labels, expected.labels)
        assert (result.masks != expected.masks).float().mean() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    'settings', [dict(kernel_size=3), dict(kernel_size=5), dict(use_coords=False)], ids=str
)
def test_masks_of_every_variant_have_the_size_of_the_image(settings, device):
    head = lively_head(**settings).to(device)
    for rescale, size in ((True, (256, 320)), (False, IMAGE_SIZE)):
        outputs = pyramid(1, device), mask_features(1, device=device)
        (result,) = predict(head, *outputs, metas(1), rescale=rescale)
        assert len(result) > 5
        assert result.masks.shape[1:] == size
        assert result.masks.flatten(1).any(1).all()


def test_a_3x3_kernel_shifts_a_drawn_rectangle():
    """Its one weight reads the pixel at the right, so that the mask moves to the left."""
    drawing = Drawing(channels=1).add(0, (4, 12), (8, 20))
    kernels = [torch.zeros(1, 9, grid, grid) for grid in GRIDS]
    kernels[0][0, 5, 1, 1] = 1
    head = make_head(mask_channels=1, kernel_size=3)
    meta = dict(img_shape=IMAGE_SIZE, ori_shape=IMAGE_SIZE)
    (result,) = head.predict_by_feat(drawing.logits, kernels, drawing.features, [meta])
    assert result.bboxes.tolist() == [[28, 16, 76, 48]]


@torch.no_grad()
def test_rle_results(device):
    features, masks = pyramid(1, device), mask_features(1, device=device)
    head = lively_head().to(device)
    (bitmaps,) = predict(head, features, masks, metas(1))
    head.test_cfg['mask_format'] = 'rle'
    (rles,) = predict(head, features, masks, metas(1))
    assert [rle['size'] for rle in rles.masks] == [[256, 320]] * len(bitmaps)
    assert torch.equal(rles.scores, bitmaps.scores)


# What the head is handed stays as it was


def snapshot(lists):
    return [[(tensor, tensor.clone()) for tensor in one] for one in lists]


def assert_unchanged(lists, before):
    """Every list holds the same tensors with the same values as before."""
    for now, then in zip(lists, before, strict=True):
        for tensor, (same, value) in zip(now, then, strict=True):
            assert tensor is same
            assert torch.equal(tensor, value)


@torch.no_grad()
def test_input_lists_are_not_modified():
    head, features, masks = lively_head(), pyramid(), mask_features()
    before = snapshot([features])
    logits, kernels = head(features)
    assert_unchanged([features], before)
    lists = [logits, kernels, [masks]]
    before = snapshot(lists)
    samples = samples_of(SOME, OTHERS)
    gt_masks = samples[0].gt_instances.masks.masks.copy()
    infos = [sample.metainfo for sample in metas(2)]
    head.predict_by_feat(logits, kernels, masks, infos)
    head.loss_by_feat(logits, kernels, masks, [sample.gt_instances for sample in samples])
    assert_unchanged(lists, before)
    assert infos == [sample.metainfo for sample in metas(2)]
    assert np.array_equal(samples[0].gt_instances.masks.masks, gt_masks)


def test_settings_are_not_modified():
    test_cfg = dict(nms=dict(type='mmsolov2.MatrixNMS', sigma=1.0))
    assigner = dict(SETTINGS['assigner'])
    make_head(test_cfg=test_cfg, assigner=assigner)
    assert test_cfg == dict(nms=dict(type='mmsolov2.MatrixNMS', sigma=1.0))
    assert assigner == SETTINGS['assigner']
