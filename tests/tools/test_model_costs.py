"""Costs of models, counted without running them."""

import re

import pytest

TABLE = re.compile(r'\| `(.+?)` \| (\d+x\d+) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|')


@pytest.mark.parametrize(
    ('config', 'size', 'parameters'),
    [
        ('solov2-light_r18_fpn_ms-3x_coco', '768x448', 18.27),
        ('solov2-light_r50-dcn_fpn_ms-3x_768x448_coco', '768x448', 33.52),
    ],
)
def test_costs_are_mmdets(run_python, config, size, parameters):
    result = run_python('tools/model_costs.py', config)
    ((name, found, ours, theirs, work, their_work),) = TABLE.findall(result.stdout)
    assert (name, found) == (config, size)
    assert float(ours) == float(theirs) == parameters
    assert float(work) == float(their_work) > 50


def test_models_that_mmdet_lacks(run_python):
    result = run_python('tools/model_costs.py', 'solov2-light_r50-dcn_fpn_ms-3x_coco')
    ((_, size, ours, theirs, _, their_work),) = TABLE.findall(result.stdout)
    assert size == '864x512'
    assert (theirs, their_work) == ('–', '–') and float(ours) > 30


def test_other_heads_are_counted_too(run_python):
    result = run_python('tools/model_costs.py', 'solo_r50_fpn_ms-3x_coco')
    ((_, _, ours, theirs, work, their_work),) = TABLE.findall(result.stdout)
    assert ours == theirs and work == their_work
    with pytest.raises(AssertionError, match='has no mask_head; only SOLO and SOLOv2'):
        run_python('tools/model_costs.py', 'mask-rcnn_r50_fpn_ms-3x_coco')


def test_unknown_configs_are_refused(run_python):
    with pytest.raises(AssertionError, match='there is no such config file'):
        run_python('tools/model_costs.py', 'solov3')
