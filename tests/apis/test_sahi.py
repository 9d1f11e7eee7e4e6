"""SAHI, which predicts large images slice by slice, with the shipped configs as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmsolov2.apis import load_config, load_detector, predict
from mmsolov2.registry import MODELS

sahi = pytest.importorskip('sahi', reason='SAHI is not installed: pip install mmsolov2[sahi]')

from sahi.models.mmdet import DetInferencerWrapper, MmdetDetectionModel  # noqa: E402
from sahi.predict import get_prediction, get_sliced_prediction  # noqa: E402

CONFIGS = Path(__file__).parents[2] / 'configs'
LEAVES = [path for path in sorted(CONFIGS.rglob('*.py')) if '_base_' not in path.parts]
CONFIG = CONFIGS / 'solov2' / 'solov2-light_r18_fpn_ms-3x_coco.py'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    """Random weights under which some cells pass the thresholds."""
    torch.manual_seed(0)
    model = MODELS.build(load_config(CONFIG, {'model.backbone.init_cfg': None}).model)
    nn.init.normal_(model.mask_head.conv_cls.weight, std=0.1)
    nn.init.constant_(model.mask_head.conv_cls.bias, -1)
    nn.init.normal_(model.mask_head.conv_kernel.weight, std=0.1)
    path = tmp_path_factory.mktemp('weights') / 'random.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture(scope='module')
def detector(checkpoint) -> MmdetDetectionModel:
    return MmdetDetectionModel(
        model_path=str(checkpoint),
        config_path=str(CONFIG),
        device='cpu',
        confidence_threshold=0.2,
        image_size=96,
    )


def photo(height: int, width: int) -> np.ndarray:
    """Noise, (height, width, 3) uint8 RGB."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize('leaf', LEAVES, ids=lambda leaf: leaf.stem)
def test_takes_the_pipeline_of_every_config(leaf):
    inferencer = object.__new__(DetInferencerWrapper)
    inferencer.image_size = 96
    pipeline = inferencer._init_pipeline(Config.fromfile(leaf))
    assert max(pipeline(photo(64, 128))['inputs'].shape[1:]) == 96


def test_masks_and_boxes_are_ours(detector, checkpoint):
    image = photo(64, 96)
    found = get_prediction(image, detector).object_prediction_list
    options = {'test_dataloader.dataset.pipeline.2.scale': (96, 96)}
    model = load_detector(CONFIG, checkpoint, device='cpu', cfg_options=options)
    expected = predict(model, np.ascontiguousarray(image[..., ::-1])).pred_instances
    expected = expected[expected.scores >= 0.2]
    assert len(found) == len(expected) > 0
    for one, box, mask in zip(found, expected.bboxes, expected.masks, strict=True):
        assert np.abs(np.subtract(one.bbox.to_xyxy(), box.tolist())).max() <= 1  # of polygons
        assert (one.mask.bool_mask == mask.numpy()).mean() > 0.95


def test_slices_come_together(detector):
    result = get_sliced_prediction(
        photo(100, 170),
        detector,
        slice_height=96,
        slice_width=96,
        postprocess_type='NMS',
        perform_standard_pred=False,
        verbose=0,
    )
    found = result.object_prediction_list
    assert all(one.mask.bool_mask.shape == (100, 170) and one.mask.bool_mask.any() for one in found)
    assert min(one.bbox.minx for one in found) < 48 and max(one.bbox.maxx for one in found) > 130
