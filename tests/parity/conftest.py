"""mmdet's SOLOv2 and ours, side by side, with the same random weights."""

import copy
import functools
from pathlib import Path
from typing import NamedTuple

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner.checkpoint import load_checkpoint, save_checkpoint
from torch import nn

CONFIGS = Path(__file__).parents[2] / 'configs' / 'solov2'
MMDET_CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs' / 'solov2'
NAMES = ('solov2_r50_fpn_1x_coco', 'solov2-light_r18_fpn_ms-3x_coco')


class Outputs(NamedTuple):
    """What a network gives for images: per level logits and kernels, and mask features."""

    logits: list
    kernels: list
    features: torch.Tensor

    def first(self, count: int) -> 'Outputs':
        """The outputs of the first images."""
        return Outputs(
            [level[:count] for level in self.logits],
            [level[:count] for level in self.kernels],
            self.features[:count],
        )


class Pair:
    """The two models on a device; ``outputs`` runs both networks once for every size."""

    def __init__(
        self, theirs: nn.Module, ours: nn.Module, checkpoint: Path, device: str = 'cpu'
    ) -> None:
        self.theirs, self.ours = theirs.to(device), ours.to(device)
        self.checkpoint, self.device = checkpoint, torch.device(device)
        self.outputs = functools.lru_cache(self._outputs)

    def copied(self, device: str) -> 'Pair':
        """Copies of the models on another device."""
        return Pair(copy.deepcopy(self.theirs), copy.deepcopy(self.ours), self.checkpoint, device)

    @torch.no_grad()
    def _outputs(self, size: tuple[int, int]) -> tuple[Outputs, Outputs]:
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 3
        images = images.to(self.device)
        ((kernels, logits, features),) = self.theirs(images)
        return Outputs(logits, kernels, features), Outputs(*self.ours(images))


def build(path: Path) -> nn.Module:
    config = Config.fromfile(path)
    config.model.backbone.init_cfg = None
    return MODELS.build(config.model).eval()


def liven(model: nn.Module) -> None:
    """Random weights under which hundreds of cells pass 0.1, with masks of all sizes."""
    model.init_weights()
    head = model.mask_head
    nn.init.normal_(head.conv_cls.weight, std=0.02)
    nn.init.constant_(head.conv_cls.bias, -3.8)
    nn.init.normal_(head.conv_kernel.weight, std=0.02)


@pytest.fixture(scope='session', params=NAMES)
def pairs(request, tmp_path_factory) -> dict[str, Pair]:
    """The models of a config by their device, once they were asked for."""
    torch.manual_seed(1)
    theirs = build(MMDET_CONFIGS / f'{request.param}.py')
    liven(theirs)
    checkpoint = tmp_path_factory.mktemp('weights') / 'mmdet.pth'
    save_checkpoint(dict(state_dict=theirs.state_dict()), str(checkpoint))
    ours = build(CONFIGS / f'{request.param}.py')
    load_checkpoint(ours, str(checkpoint), strict=True)
    return dict(cpu=Pair(theirs, ours, checkpoint))


@pytest.fixture
def pair(pairs, device) -> Pair:
    if device.type not in pairs:
        pairs[device.type] = pairs['cpu'].copied(device.type)
    return pairs[device.type]
