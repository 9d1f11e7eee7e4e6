"""The examples in docstrings are true, and the functional core has some."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = [
    'mmsolov2.apis.configure',
    'mmsolov2.apis.slices',
    'mmsolov2.cli.checkpoint_config',
    'mmsolov2.cli.options',
    'mmsolov2.cli.shards',
    'mmsolov2.converters.formats',
    'mmsolov2.datasets.checks',
    'mmsolov2.datasets.coco_file',
    'mmsolov2.datasets.importers.content',
    'mmsolov2.datasets.importers.mask_images',
    'mmsolov2.datasets.importers.tree',
    'mmsolov2.datasets.segmentation',
    'mmsolov2.datasets.statistics',
    'mmsolov2.datasets.tally',
    'mmsolov2.evaluation.coco_instance_metric',
    'mmsolov2.models.backbones.efficientnet_lite',
    'mmsolov2.models.bands',
    'mmsolov2.models.coordinates',
    'mmsolov2.models.decode.mask_nms',
    'mmsolov2.models.dynamic_conv',
    'mmsolov2.models.position_terms',
    'mmsolov2.models.targets.grid_assigner',
    'mmsolov2.report.charts',
    'mmsolov2.report.figures',
    'mmsolov2.report.page',
    'mmsolov2.report.pictures',
    'mmsolov2.structures.masks',
]


@pytest.mark.parametrize('module', WITH_EXAMPLES)
def test_examples(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted, f'{module} has no example'
    assert not results.failed


def test_no_example_is_left_out():
    paths = {path.relative_to(ROOT) for path in (ROOT / 'mmsolov2').rglob('*.py')}
    found = {path for path in paths if '>>> ' in (ROOT / path).read_text(encoding='utf-8')}
    assert sorted('.'.join(path.with_suffix('').parts) for path in found) == WITH_EXAMPLES
