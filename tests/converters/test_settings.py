"""What the tensors tell: settings of the model, and the shipped config that comes nearest."""

import layouts
import pytest
import torch
from layouts import without_values
from mmengine.config import Config

from mmsolov2.apis import load_config
from mmsolov2.converters.convert import convert, report
from mmsolov2.converters.settings import config_lines, nearest_config, shipped_models
from mmsolov2.models.state_dicts import mismatches
from mmsolov2.registry import MODELS


@pytest.mark.parametrize(
    ('names', 'model', 'config'),
    [
        ('original', 'light r50 dcn', 'solov2-light_r50-dcn_fpn_ms-3x_coco'),
        ('mmdet', 'light r50 dcnv2', 'solov2-light_r50-dcn_fpn_ms-3x_768x448_coco'),
        ('original', 'r101 dcn', 'solov2_r101-dcn_fpn_ms-3x_coco'),
        ('original', 'x101 dcn', 'solov2_x101-dcn_fpn_ms-3x_coco'),
        ('mmdet', 'r101 dcn', 'solov2_r101-dcn_fpn_ms-3x_coco'),
        ('mmdet', 'x101 dcn', 'solov2_x101-dcn_fpn_ms-3x_coco'),
    ],
)
def test_deformable_models(names, model, config):
    conversion = convert(dict(state_dict=without_values(names, model)))
    assert conversion.config == f'solov2/{config}.py' and conversion.overrides == {}
    assert len(conversion.weights) == (410 if 'light' in model else 784)


def test_deformable_backbone_of_detectron2():
    conversion = convert(dict(model=without_values('adelaidet', 'r50 dcn backbone')))
    assert conversion.weights['backbone.layer2.0.conv2.conv_offset.weight'].shape[0] == 27
    backbone = conversion.settings['backbone']
    assert backbone['dcn']['type'] == 'DCNv2' and backbone['style'] == 'caffe'
    assert backbone['stage_with_dcn'] == (False, True, True, True)
    dcn = dict(type='DCNv2', deform_groups=1, fallback_on_stride=False)
    assert conversion.config == 'solov2/solov2_r50-caffe_fpn_ms-3x_coco.py'
    assert conversion.overrides['backbone'] == dict(
        dcn=dcn, stage_with_dcn=backbone['stage_with_dcn'], init_cfg=None
    )


def test_offsets_of_several_groups(message):
    model = layouts.MODELS['light r50 dcn']._replace(offsets=4)
    text = message(without_values('original', model))
    assert 'has 36 channels' in text and '18 (version 1) or 27 (version 2)' in text


def test_settings_of_an_own_model():
    model = layouts.Model(101, feat_channels=384, stacked_convs=3, mask_channels=64, num_classes=3)
    conversion = convert(without_values('original', model))
    assert conversion.config == 'solov2/solov2_r101_fpn_ms-3x_coco.py'
    assert conversion.overrides == dict(
        mask_neck=dict(out_channels=64),
        mask_head=dict(num_classes=3, feat_channels=384, stacked_convs=3),
    )


def test_another_backbone_takes_no_pretrained_weights():
    conversion = convert(without_values('original', layouts.Model(152)))
    assert conversion.overrides == dict(backbone=dict(depth=152, init_cfg=None))


@pytest.mark.parametrize(
    ('names', 'model'),
    [
        ('original', layouts.Model(152, num_classes=3)),
        ('adelaidet', layouts.Model(18, num_classes=1)),
        ('original', layouts.Model(50, groups=32, group_width=4)),
    ],
)
def test_printed_config_is_one_that_fits(names, model, tmp_path):
    conversion = convert(without_values(names, model))
    text = config_lines(conversion.config, conversion.overrides)
    assert text in report(conversion)
    (tmp_path / 'own.py').write_text(text)
    config = Config.fromfile(tmp_path / 'own.py')
    model = MODELS.build(config.model)
    assert mismatches(model, conversion.weights) == (len(conversion.weights), [])
    assert config.model.data_preprocessor.mean == conversion.convention.mean
    assert config.model.backbone.style == conversion.convention.style


@pytest.mark.parametrize('size', [1, 3])
def test_size_of_the_kernels(size):
    state_dict = without_values('original', 'light r18')
    state_dict['bbox_head.solo_kernel.weight'] = torch.empty(128 * size**2, 256, 3, 3)
    state_dict['bbox_head.solo_kernel.bias'] = torch.empty(128 * size**2)
    conversion = convert(state_dict)
    assert conversion.settings['mask_head']['kernel_size'] == size
    assert conversion.overrides == ({} if size == 1 else dict(mask_head=dict(kernel_size=3)))


@pytest.mark.parametrize('name', ['r50-caffe', 'r101-caffe'])
def test_leaves_for_adelaidet(name):
    model = load_config(f'solov2_{name}_fpn_ms-3x_coco').model
    assert model.data_preprocessor.mean == [103.53, 116.28, 123.675]
    assert model.data_preprocessor.std == [1.0, 1.0, 1.0]
    assert not model.data_preprocessor.bgr_to_rgb
    assert model.backbone.style == 'caffe' and not model.backbone.norm_cfg.requires_grad
    depth = name.removeprefix('r').removesuffix('-caffe')
    weights = f'open-mmlab://detectron2/resnet{depth}_caffe'
    assert model.backbone.init_cfg.checkpoint == weights


@pytest.mark.parametrize('name', shipped_models())
def test_every_shipped_config_is_found_again(name):
    """Its own settings differ in nothing; a twin of the same network may come first."""
    model = shipped_models()[name]
    parts = ('data_preprocessor', 'backbone', 'neck', 'mask_neck', 'mask_head')
    keys = dict(backbone=('depth', 'type', 'style'), data_preprocessor=('mean', 'bgr_to_rgb'))
    settings = {
        part: {key: model[part][key] for key in keys.get(part, model[part])} for part in parts
    }
    assert nearest_config(settings)[1] == {}


def test_report_of_a_light_deformable_model():
    text = report(convert(without_values('original', 'light r50 dcn')))
    assert 'light head of 3 convolutions' in text
    assert text.splitlines()[1].endswith(
        'DCN in stages [2, 3, 4] of the backbone, DCN in the last convolutions of the head'
    )


def test_report_of_a_deformable_model():
    text = report(convert(without_values('original', 'x101 dcn')))
    assert 'ResNeXt-101 64x4d, full head of 4 convolutions' in text
    assert 'DCNv2 in stages [2, 3, 4] of the backbone, DCNv2 in the head, DCNv2 in the mask' in text


def test_a_missing_block(message):
    entries = {
        name: value
        for name, value in without_values('original', 'light r18').items()
        if '.layer4.1.' not in name
    }
    assert 'the backbone has (2, 2, 2, 1) blocks' in message(entries)
