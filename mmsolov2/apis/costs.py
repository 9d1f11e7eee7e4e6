"""What a model costs, counted on tensors without values: nothing is computed."""

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.config import Config
from torch.utils.flop_counter import FlopCounterMode

from mmsolov2.cli.config import dataset_of
from mmsolov2.errors import InputError
from mmsolov2.models.backbones.probe import input_channels
from mmsolov2.registry import MODELS


def without_values(config: Config) -> BaseDetector:
    """The model of a config on torch's meta device: shapes alone."""
    settings = Config(config.model.to_dict())
    for part in settings.values():
        if isinstance(part, dict) and 'init_cfg' in part:
            part['init_cfg'] = None
    with torch.device('meta'):
        return MODELS.build(settings._cfg_dict).eval()


def tested_size(config: Config) -> tuple[int, int]:
    """Height and width of a padded network input of the config's test pipeline."""
    (scale,) = (step.scale for step in dataset_of(config, 'test').pipeline if 'scale' in step)
    divisor = config.model.data_preprocessor.pad_size_divisor
    width, height = (-(-side // divisor) * divisor for side in scale)
    return height, width


def model_costs(config: Config, size: tuple[int, int]) -> tuple[float, float]:
    """Millions of parameters and billions of multiply-adds of the network on one image of a size.

    ``size`` is (height, width). What follows the network is left out.

    Raises:
        InputError: if the model is of another kind than SOLO and SOLOv2.
    """
    if 'mask_head' not in config.model:
        raise InputError(
            f'{config.filename}: its model has no mask_head; only SOLO and SOLOv2 are counted'
        )
    model = without_values(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        channels = input_channels(model.backbone)
        features = model.extract_feat(torch.empty(1, channels, *size, device='meta'))
        model.mask_head(features)
        if hasattr(model, 'mask_neck'):
            model.mask_neck(features)
    parameters = sum(one.numel() for one in model.parameters())
    return parameters / 1e6, counter.get_total_flops() / 2e9
