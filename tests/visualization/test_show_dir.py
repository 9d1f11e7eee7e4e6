"""What tools/test.py --show-dir paints."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmsolov2.registry import MODELS


@pytest.fixture(scope='module')
def checkpoint(tiny_config, tmp_path_factory):
    """Random weights under which some cells pass the thresholds."""
    config = Config.fromfile(tiny_config)
    config.model.backbone.init_cfg = None
    model = MODELS.build(config.model)
    nn.init.normal_(model.mask_head.conv_cls.weight, std=0.1)
    nn.init.constant_(model.mask_head.conv_cls.bias, 0)
    path = tmp_path_factory.mktemp('weights') / 'random.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def test_ground_truth_stands_beside_predictions_in_rle(
    checkpoint, tiny_config, tiny_shapes, run_python, tmp_path
):
    run_python(
        'tools/test.py',
        tiny_config,
        checkpoint,
        '--work-dir',
        tmp_path,
        '--show-dir',
        'painted',
        '--cfg-options',
        'model.test_cfg.mask_format=rle',
        'default_hooks.visualization.score_thr=0.01',
    )
    pictures = {path.name: cv2.imread(str(path)) for path in tmp_path.glob('*/painted/*.png')}
    truth = json.loads((tiny_shapes / 'annotations' / 'val.json').read_text())
    assert len(pictures) == len(truth['images']) == 6
    for image in truth['images']:
        width = image['width']
        plain = cv2.imread(str(tiny_shapes / 'val' / image['file_name'])).astype(int)
        picture = pictures[image['file_name']]
        assert picture.shape == (image['height'], 2 * width, 3)
        boxes = [one['bbox'] for one in truth['annotations'] if one['image_id'] == image['id']]
        inside = np.zeros(plain.shape[:2], bool)
        for x, y, w, h in boxes:
            inside[max(int(y) - 8, 0) : int(y + h) + 8, max(int(x) - 8, 0) : int(x + w) + 8] = True
        painted = np.abs(picture[:, :width] - plain).max(2) > 30
        assert painted[inside].mean() > 0.2 and painted[~inside].mean() < 0.05
        assert (np.abs(picture[:, width:] - plain).max(2) > 30).mean() > 0.1  # predictions


def test_without_a_hook_that_paints(checkpoint, tiny_config, run_python, tmp_path):
    result = run_python(
        'tools/test.py',
        tiny_config,
        checkpoint,
        '--show-dir',
        'painted',
        '--work-dir',
        tmp_path,
        '--cfg-options',
        'default_hooks._delete_=True',
        check=False,
    )
    assert result.returncode == 2
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith(f'error: {tiny_config}: --show and --show-dir need a hook that paints')
