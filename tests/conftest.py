import pytest
import torch
from mmengine.registry import init_default_scope

import mmsolov2  # noqa: F401  (first: it lets mmdet be imported on mmcv-lite)


@pytest.fixture(autouse=True, scope='session')
def _mmdet_scope():
    """What ``default_scope = 'mmdet'`` of every config does."""
    init_default_scope('mmdet')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
