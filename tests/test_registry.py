"""A child for every registry of mmdet, and our names in them."""

from pathlib import Path

import pytest
from mmdet import registry as theirs
from mmdet.registry import DATASETS, HOOKS, MODELS, TASK_UTILS, TRANSFORMS, VISUALIZERS
from mmengine.config import Config
from mmengine.registry import Registry

from mmsolov2 import registry as ours

CONFIG = Path(__file__).parents[1] / 'configs' / '_base_' / 'models' / 'solov2-light_r50_fpn.py'
NAMES = [
    name
    for name, value in vars(theirs).items()
    if isinstance(value, Registry) and value.scope == 'mmdet'
]


def model_config() -> Config:
    config = Config.fromfile(CONFIG).model
    config.backbone.init_cfg = None
    return config


def test_walk_finds_them():
    assert len(NAMES) >= 20 and {'MODELS', 'TASK_UTILS', 'VISBACKENDS'} <= set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_every_registry_has_a_child(name):
    parent, child = getattr(theirs, name), getattr(ours, name)
    assert child is not parent and child.parent is parent
    assert child.scope == 'mmsolov2' and child.name == parent.name
    assert parent.children['mmsolov2'] is child


def test_no_other_registries():
    found = {name for name, value in vars(ours).items() if isinstance(value, Registry)}
    assert found == set(NAMES)


@pytest.mark.parametrize(
    'registry, name',
    [
        (MODELS, 'SOLOv2'),
        (MODELS, 'MaskFeatureNeck'),
        (MODELS, 'SeparateMaskFeatureNeck'),
        (MODELS, 'SOLOv2Head'),
        (TASK_UTILS, 'GridAssigner'),
        (TASK_UTILS, 'MatrixNMS'),
        (TASK_UTILS, 'HardMaskNMS'),
        (TASK_UTILS, 'SoftMaskNMS'),
        (TASK_UTILS, 'FastMaskNMS'),
        (DATASETS, 'CocoInstanceDataset'),
        (TRANSFORMS, 'MatchAnnotatedSize'),
        (TRANSFORMS, 'Resize'),
        (HOOKS, 'ClassCheckHook'),
        (HOOKS, 'EpochSeedHook'),
        (HOOKS, 'FiniteHook'),
        (HOOKS, 'NMSTimeHook'),
        (VISUALIZERS, 'InstanceVisualizer'),
    ],
)
def test_names(registry, name):
    found = registry.get(f'mmsolov2.{name}')
    assert found.__name__ == name and found.__module__.startswith('mmsolov2.')


def test_names_of_mmdet_are_its_own():
    assert TRANSFORMS.get('Resize').__module__.startswith('mmdet.')
    assert MODELS.get('SOLOv2').__module__.startswith('mmdet.')


def test_child_falls_back_on_mmdet():
    """What a config that is inherited through ``mmsolov2::`` needs."""
    assert ours.MODELS.get('ResNet') is MODELS.get('ResNet')
    assert ours.HOOKS.get('CheckpointHook') is HOOKS.get('CheckpointHook')


def test_detector_builds():
    model = MODELS.build(model_config())
    names = {name: type(part).__name__ for name, part in model.named_children()}
    assert names['mask_neck'] == 'MaskFeatureNeck' and names['mask_head'] == 'SOLOv2Head'
    assert type(model).__module__ == 'mmsolov2.models.solov2'


def test_parts_build():
    config = model_config()
    assert MODELS.build(config.mask_neck).out_channels == 128
    head = {**config.mask_head, 'mask_channels': 128, 'test_cfg': config.test_cfg}
    assert MODELS.build(head).num_classes == 80


def test_utilities_build():
    config = model_config()
    assigner = TASK_UTILS.build(config.mask_head.assigner)
    assert assigner.scale_ranges[0] == (1, 56) and assigner.center_scale == 0.2
    assert type(TASK_UTILS.build(config.test_cfg.nms)).__name__ == 'MatrixNMS'
    assert callable(TASK_UTILS.build(dict(type='mmsolov2.MatrixNMS', kernel='linear')))
