import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope

import mmsolov2  # noqa: F401  (first: it lets mmdet be imported on mmcv-lite)

ROOT = Path(__file__).parents[1]
torch.set_num_threads(1)  # test files run side by side
torch.backends.cudnn.allow_tf32 = False  # on a GPU float32 is float32 too
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # deterministic GPUs ask for it

TINY = """
_base_ = '{base}'
data_root = '{data}/'
model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    mask_neck=dict(in_channels=32, feat_channels=32, out_channels=32),
    mask_head=dict(in_channels=32, feat_channels=32, num_grids=(10, 8, 6, 4, 3)),
    test_cfg=dict(score_thr=0.001, filter_thr=0.0005),
)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root)
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=3, val_interval=3)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1))
randomness = dict(seed=0)
"""


def pytest_collection_modifyitems(config, items):
    """Without a GPU leave out what is marked cuda, or skip it where that mark is asked for."""
    if torch.cuda.is_available():
        return
    marked = [item for item in items if item.get_closest_marker('cuda')]
    if 'cuda' in config.option.markexpr:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason='there is no GPU'))
    else:
        items[:] = [item for item in items if not item.get_closest_marker('cuda')]
        config.hook.pytest_deselected(items=marked)


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.cuda)])
def device(request):
    """A test that takes it runs on the CPU and, where there is one, on a GPU."""
    return torch.device(request.param)


@pytest.fixture(autouse=True, scope='session')
def _mmdet_scope():
    """What ``default_scope = 'mmdet'`` of every config does."""
    init_default_scope('mmdet')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _run_python(*arguments, cwd=ROOT, python=sys.executable, check=True, **variables):
    """Run Python in a process of its own, which finds the checkout and uses one thread."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **variables}
    result = subprocess.run(
        [python, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert not check or result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result


@pytest.fixture(scope='session')
def run_python():
    """Runs Python in a process of its own: ``run_python(script, argument, ...)``."""
    return _run_python


@pytest.fixture
def free_port() -> str:
    """A port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope='session')
def tiny_shapes(tmp_path_factory):
    """The folder of a few generated shapes."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    size = ('--height', 96, '--width', 128)
    _run_python(ROOT / 'tools/make_shapes.py', folder, '--num-train', 8, '--num-val', 6, *size)
    return folder


@pytest.fixture(scope='session')
def tiny_config(tiny_shapes):
    """The path of the shapes config with a model that trains in seconds."""
    base = ROOT / 'configs/shapes/solov2-light_r18_fpn_shapes.py'
    path = tiny_shapes.parent / 'tiny.py'
    path.write_text(TINY.format(base=base, data=tiny_shapes))
    return path
