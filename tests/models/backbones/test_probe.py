"""What a backbone gives is known without values, and parts that do not fit are refused."""

import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

from mmsolov2.models.backbones.probe import (
    check_backbone,
    meta_twin,
    needed_by,
    probe_images,
    run_twin,
    stride_of,
)

ROOT = Path(__file__).parents[3]
LEAVES = sorted((ROOT / 'configs').glob('[!_]*/*.py'))


def small_model(**changes):
    """The small model with settings changed; names of settings have '__' for dots."""
    config = Config.fromfile(ROOT / 'configs/_base_/models/solov2-light_r18_fpn_small.py')
    config.merge_from_dict(
        {f'model.{name.replace("__", ".")}': value for name, value in changes.items()}
    )
    return MODELS.build(config.model)


def plain_net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 2, stride=2)
    )


def test_a_twin_has_no_values_and_leaves_the_network_alone():
    net = plain_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    twin = meta_twin(net)
    output = twin(probe_images(3))
    assert output.is_meta and output.shape == (1, 8, 56, 56) and stride_of(output) == 4
    assert all(one.is_meta for one in (*twin.parameters(), *twin.buffers()))
    assert net.training and not twin.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_what_maps_need():
    net = meta_twin(plain_net())
    first = net[0](probe_images(3))
    last = net[2](net[1](first))
    parameters = list(net.parameters())  # weight and bias, three times
    assert needed_by([first], parameters) == [True] * 2 + [False] * 4
    assert needed_by([first, last], parameters) == [True] * 6
    assert needed_by([], parameters) == [False] * 6


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(neck__in_channels=[64, 128, 256, 512]),
            'is [64, 128, 256, 512], but ResNet gives maps of [32, 64, 128, 256] channels at',
        ),
        (dict(neck__in_channels=[1, 2, 3, 4]), ': set neck.in_channels=[32, 64, 128, 256]'),
        (
            dict(neck__in_channels=[32, 64, 128]),
            'neck.in_channels is [32, 64, 128], but ResNet gives maps of [32, 64, 128, 256]',
        ),
        (
            dict(backbone__out_indices=(1, 2, 3)),
            'ResNet gives maps of [64, 128, 256] channels at strides [8, 16, 32]; the finest level',
        ),
        (
            dict(backbone__out_indices=(1, 2, 3), neck__in_channels=[64, 128, 256]),
            'at strides [8, 16, 32], and mask features are at 8; the finest level must be at',
        ),
        (dict(neck__start_level=1), 'at strides [4, 8, 16, 32], and mask features are at 8;'),
    ],
)
def test_parts_that_do_not_fit_are_refused_when_the_model_is_built(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        small_model(**changes)


@pytest.mark.parametrize(
    'changes',
    [{}, dict(neck__num_outs=5), dict(backbone__in_channels=24), dict(backbone__depth=34)],
)
def test_parts_that_fit_pass(changes):
    assert small_model(**changes).neck.in_channels == [32, 64, 128, 256]


class Stubborn(nn.Module):
    """A backbone that asks for values."""

    def forward(self, images):
        return [images] if images.sum().item() > 0 else []


def test_what_cannot_run_without_values_is_left_to_the_first_iteration(monkeypatch):
    said = []
    log = 'mmsolov2.models.backbones.probe.print_log'
    monkeypatch.setattr(log, lambda message, **settings: said.append(message))
    check_backbone(Stubborn(), nn.Identity(), nn.Identity())
    assert len(said) == 1 and said[0].startswith('Stubborn is not checked before the first iter')


@pytest.mark.parametrize('name', sorted({leaf.stem.split('_')[1] for leaf in LEAVES}))
def test_every_kind_of_shipped_backbone_is_checked(name):
    """None of them is passed over."""
    leaf = next(leaf for leaf in LEAVES if leaf.stem.split('_')[1] == name)
    config = Config.fromfile(leaf)
    config.model.backbone.init_cfg = None
    with torch.device('meta'):
        backbone, neck = MODELS.build(config.model.backbone), MODELS.build(config.model.neck)
    maps = run_twin(backbone, probe_images(3))
    assert [one.shape[1] for one in maps] == config.model.neck.in_channels
    assert [stride_of(level) for level in run_twin(neck, tuple(maps))][:4] == [4, 8, 16, 32]
