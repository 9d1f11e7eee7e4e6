"""Backbones of timm, where it can be imported: it needs torchvision of the installed torch."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmsolov2.errors import InputError
from mmsolov2.models import TimmBackbone
from mmsolov2.models.backbones.library_backbone import imported
from mmsolov2.models.bands import spread_bands

SMALL = dict(
    convnext_atto=(dict(depths=(1, 1, 1, 1), dims=(8, 16, 32, 64)), [8, 16, 32, 64]),
    resnet18=(dict(layers=(1, 1, 1, 1), channels=(8, 16, 32, 64)), [8, 16, 32, 64]),
    swin_tiny_patch4_window7_224=(
        dict(
            embed_dim=8,
            depths=(1, 1, 1, 1),
            num_heads=(1, 2, 2, 4),
            strict_img_size=False,  # any size
        ),
        [8, 16, 32, 64],  # which it gives as (B, H, W, C)
    ),
)


def can_import_timm():
    try:
        return imported('timm', 'timm') is not None
    except InputError:
        return False


needs_timm = pytest.mark.skipif(not can_import_timm(), reason='timm cannot be imported')


def test_without_timm(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'timm', None)
    with pytest.raises(InputError, match=r"timm cannot be imported .* 'mmsolov2\[timm\]'"):
        MODELS.build(dict(type='mmsolov2.TimmBackbone', model='resnet18'))


@needs_timm
@pytest.mark.parametrize('model', SMALL)
@pytest.mark.parametrize('in_channels', [3, 4])
def test_maps_and_gradients(model, in_channels):
    overrides, channels = SMALL[model]
    net = TimmBackbone(model=model, overrides=overrides, in_channels=in_channels, frozen_stages=1)
    maps = net.train()(torch.randn(2, in_channels, 64, 96))
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [tuple(one.shape) for one in maps] == [
        (2, width, *size) for width, size in zip(channels, sizes, strict=True)
    ]
    assert (net.out_channels, net.strides) == (channels, [4, 8, 16, 32])
    sum((torch.randn_like(one) * one).sum() for one in maps).backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not next(net.parameters()).requires_grad


@needs_timm
@pytest.mark.parametrize('in_channels', [3, 6])
def test_weights_of_a_file(tmp_path, in_channels):
    timm = imported('timm', 'timm')
    overrides = SMALL['resnet18'][0]
    whole = timm.create_model('resnet18', **overrides)
    torch.save(whole.state_dict(), tmp_path / 'weights #1.pth')
    net = TimmBackbone(
        model='resnet18',
        overrides=overrides,
        in_channels=in_channels,
        pretrained=str(tmp_path / 'weights #1.pth'),
    )
    net.init_weights()
    for name, value in net.state_dict().items():
        expected = whole.state_dict()[name.removeprefix('net.')]
        if name == 'net.conv1.weight' and in_channels == 6:
            expected = spread_bands(expected, in_channels)
        torch.testing.assert_close(value, expected)


@needs_timm
@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(model='no_such_net'), 'TimmBackbone: no_such_net cannot be made .*Unknown model'),
        (dict(model='resnet18', out_indices=(1, 9)), 'resnet18 cannot be made'),
        (dict(model='resnet18', overrides=dict(no_such=1)), 'resnet18 cannot be made .*no_such'),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(InputError, match=message):
        TimmBackbone(**settings)


@needs_timm
def test_a_missing_file_is_named():
    net = TimmBackbone(model='resnet18', overrides=SMALL['resnet18'][0], pretrained='a b.pth')
    with pytest.raises(InputError, match=r'a b\.pth: there is no such file; check pretrained'):
        net.init_weights()


@needs_timm
def test_solov2_takes_it(tiny_config):
    config = Config.fromfile(tiny_config)
    model, (overrides, channels) = next(iter(SMALL.items()))
    config.model.backbone = dict(type='mmsolov2.TimmBackbone', model=model, overrides=overrides)
    config.model.neck.in_channels = channels
    detector = MODELS.build(config.model)
    *_, features = detector(torch.randn(1, 3, 64, 96), mode='tensor')
    assert features.shape[-2:] == (16, 24)
