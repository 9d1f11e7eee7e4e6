"""Checkpoints in the layouts of other SOLOv2 code: converted entry by entry, or refused."""

from pathlib import Path

import layouts
import mmdet
import numpy as np
import pytest
import torch
from layouts import without_values
from mmengine.config import Config

from mmsolov2.apis import load_config
from mmsolov2.converters.convert import convert, report, to_checkpoint
from mmsolov2.converters.formats import ORIGINAL, renamed
from mmsolov2.registry import MODELS

GRIDS = (10, 8, 6, 5, 4)  # coarse, to be fast: no tensor depends on them


def build(conversion, **others):
    """The model of the config that a conversion names, with other settings."""
    config = load_config(conversion.config)
    for settings in (conversion.overrides, others):
        config.merge_from_dict(dict(model=settings))
    return MODELS.build(config.model).eval()


def shapes_of(state_dict):
    return {name: tuple(value.shape) for name, value in state_dict.items()}


# Every entry


@pytest.mark.parametrize(
    ('model', 'name'),
    [
        ('light r18', 'solov2-light_r18_fpn_ms-3x_coco'),
        ('light r50 dcnv2', 'solov2-light_r50-dcn_fpn_ms-3x_coco'),
        ('x101 dcn', 'solov2_x101-dcn_fpn_ms-3x_coco'),
    ],
)
def test_layouts_are_those_of_mmdet(model, name):
    theirs = Config.fromfile(Path(mmdet.__file__).parent / f'.mim/configs/solov2/{name}.py').model
    built = MODELS.build(theirs.to_dict())
    assert shapes_of(built.state_dict()) == layouts.layout('mmdet', model)


CASES = {  # names, model: entries, format, config
    ('original', 'r50'): (386, 'WXinlong/SOLO', 'solov2_r50_fpn_ms-3x_coco'),
    ('original', 'r101'): (692, 'WXinlong/SOLO', 'solov2_r101_fpn_ms-3x_coco'),
    ('original', 'light r18'): (176, 'WXinlong/SOLO', 'solov2-light_r18_fpn_ms-3x_coco'),
    ('original', 'light r34'): (272, 'WXinlong/SOLO', 'solov2-light_r34_fpn_ms-3x_coco'),
    ('original', 'light r50'): (374, 'WXinlong/SOLO', 'solov2-light_r50_fpn_ms-3x_coco'),
    ('mmdet', 'r50'): (386, 'MMDetection', 'solov2_r50_fpn_ms-3x_coco'),
    ('mmdet', 'light r18'): (176, 'MMDetection', 'solov2-light_r18_fpn_ms-3x_coco'),
    ('adelaidet', 'r50'): (333, 'AdelaiDet', 'solov2_r50-caffe_fpn_ms-3x_coco'),
    ('adelaidet', 'r101'): (588, 'AdelaiDet', 'solov2_r101-caffe_fpn_ms-3x_coco'),
}


@pytest.mark.parametrize('case', CASES, ids='-'.join)
def test_every_entry_is_converted(case):
    count, source, config = CASES[case]
    state_dict = without_values(*case)
    conversion = convert(dict(state_dict=state_dict))
    assert len(state_dict) == count
    assert len(conversion.weights) == count + conversion.added
    assert conversion.source == source
    assert conversion.config == f'solov2/{config}.py' and conversion.overrides == {}
    assert conversion.dropped == []


@pytest.mark.parametrize(('names', 'added'), [('original', 0), ('mmdet', 0), ('adelaidet', 53)])
def test_what_is_converted_are_the_entries_of_the_model(names, added):
    conversion = convert(dict(state_dict=without_values(names, 'r50')))
    assert shapes_of(conversion.weights) == shapes_of(build(conversion).state_dict())
    assert conversion.added == added


@pytest.mark.parametrize(
    'case', [('original', 'light r18'), ('mmdet', 'light r18'), ('adelaidet', 'r50')], ids='-'.join
)
def test_values_are_kept(case):
    state_dict = layouts.with_values(*case)
    before = dict(state_dict)
    weights = convert(dict(state_dict=state_dict)).weights
    assert state_dict.keys() == before.keys()
    ours, theirs = ({id(value) for value in each.values()} for each in (weights, state_dict))
    assert theirs <= ours  # the same tensors, each of them
    counters = [value for value in weights.values() if id(value) not in theirs]
    assert all(value.shape == () and value == 0 for value in counters)


PAIRS = {  # of deformable layers: ours, theirs
    ('original', 'light r50 dcn'): {
        'mask_head.cls_convs.2.conv.conv_offset': 'bbox_head.cate_convs.2.conv.conv_offset',
        'mask_head.kernel_convs.2.conv.conv_offset': 'bbox_head.kernel_convs.2.conv.conv_offset',
        'backbone.layer3.1.conv2.conv_offset': 'backbone.layer3.1.conv2.conv_offset',
    },
    ('original', 'r50 dcn'): {
        'mask_neck.convs_all_levels.3.conv1.conv.conv_offset': 'mask_feat_head.convs_all_levels.3.conv1.conv.conv_offset',  # noqa: E501
        'mask_neck.conv_pred.conv.conv_offset': 'mask_feat_head.conv_pred.0.conv.conv_offset',
    },
    ('adelaidet', 'r50 dcn backbone'): {
        'backbone.layer2.3.conv2.conv_offset': 'backbone.bottom_up.res3.3.conv2_offset',
        'backbone.layer4.0.conv2.conv_offset': 'backbone.bottom_up.res5.0.conv2_offset',
    },
}


@pytest.mark.parametrize('case', PAIRS, ids='-'.join)
def test_offsets_of_deformable_layers_come_to_their_own_layers(case):
    state_dict = without_values(*case)
    weights = convert(dict(state_dict=state_dict)).weights
    for ours, theirs in PAIRS[case].items():
        for part in ('weight', 'bias'):
            assert weights[f'{ours}.{part}'] is state_dict[f'{theirs}.{part}']


@pytest.mark.parametrize(
    ('meta', 'classes'),
    [
        (dict(CLASSES=('a',) * 80), ('a',) * 80),
        (dict(dataset_meta=dict(classes=['a'] * 80)), ('a',) * 80),
        (dict(CLASSES='person'), None),
        (dict(CLASSES=('cat', 'dog')), None),  # of another head
        ('some text', None),
        (None, None),
    ],
    ids=str,
)
def test_class_names_are_kept_if_they_are_as_many_as_the_head_has(meta, classes):
    conversion = convert(dict(state_dict=without_values('original', 'light r18'), meta=meta))
    assert conversion.classes == classes


def test_entries_that_are_no_tensors_are_refused(message):
    state_dict = {**without_values('original', 'light r18'), 'backbone.conv1.weight': None}
    assert '1 entries are no tensors, backbone.conv1.weight first' in message(
        dict(state_dict=state_dict)
    )


# The same network


@pytest.mark.parametrize(
    'case',
    [
        ('original', 'r50'),
        ('original', 'light r18'),
        ('mmdet', 'light r50'),
        ('adelaidet', 'r50'),
        ('original', 'light r50 dcn'),
        ('mmdet', 'light r50 dcnv2'),
        ('original', 'r50 dcn'),
        ('adelaidet', 'r50 dcn backbone'),
    ],
    ids='-'.join,
)
def test_the_model_computes_what_the_tensors_say(case):
    state_dict = layouts.with_values(*case)
    conversion = convert(dict(state_dict=state_dict))
    model = build(conversion, mask_head=dict(num_grids=GRIDS))
    model.load_state_dict(conversion.weights, strict=True)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        logits, kernels, features = model(images)
    outputs = [*logits, *kernels, features]
    for ours, theirs in zip(
        outputs, layouts.Network(*case, state_dict)(images, GRIDS), strict=True
    ):
        assert ours.shape == theirs.shape and theirs.std() > 0.05
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_the_place_of_the_strides_matters():
    """Else the test above would not tell caffe's backbones from PyTorch's."""
    state_dict = layouts.with_values('adelaidet', 'r50')
    conversion = convert(dict(model=state_dict))
    model = build(conversion, backbone=dict(style='pytorch'))
    model.load_state_dict(conversion.weights, strict=True)
    images = torch.randn(1, 3, 64, 96)
    expected = layouts.Network('adelaidet', 'r50', state_dict).backbone(images)
    with torch.no_grad():
        features = model.backbone(images)
    assert (features[3] - expected[3]).abs().max() > 0.1 * expected[3].abs().max()


def test_larger_kernels_stay_what_they_were():
    """Our head divides the taps beside the centre by 9; the centre is the fifth of each nine."""
    state_dict = without_values('original', 'light r18')
    for name, shape in dict(weight=(128 * 9, 256, 3, 3), bias=(128 * 9,)).items():
        state_dict[f'bbox_head.solo_kernel.{name}'] = torch.ones(shape)
    weights = convert(state_dict).weights
    nines = [9.0] * 4 + [1.0] + [9.0] * 4
    assert weights['mask_head.conv_kernel.bias'].tolist() == nines * 128
    assert weights['mask_head.conv_kernel.weight'][:9, 3, 1, 2].tolist() == nines


@pytest.mark.parametrize(
    ('meta', 'source'),
    [
        (dict(mmdet_version='2.25.0', CLASSES=('a', 'b')), 'MMDetection 2.x'),
        (dict(mmengine_version='0.10.7', dataset_meta=dict(classes=('a', 'b'))), 'MMDetection 3.x'),
        (dict(mmengine_version='0.1', dataset_meta=dict(CLASSES=('a', 'b'))), 'MMDetection 3.x'),
    ],
    ids=['2.x', '3.x', '3.0rc'],
)
def test_versions_and_class_names(meta, source):
    model = layouts.MODELS['light r18']._replace(num_classes=2)
    conversion = convert(dict(state_dict=without_values('mmdet', model), meta=meta))
    assert conversion.source == source
    assert to_checkpoint(conversion)['meta']['dataset_meta'] == dict(classes=('a', 'b'))


# Files as they are


def test_detectron2_file():
    """Arrays of NumPy, an optimizer beside the model, and buffers that are no weights."""
    entries = {
        name: value.numpy() for name, value in layouts.with_values('adelaidet', 'r50').items()
    }
    mean = np.float32([103.53, 116.28, 123.675]).reshape(3, 1, 1)
    entries |= dict(pixel_mean=mean, pixel_std=np.ones((3, 1, 1), np.float32))
    conversion = convert(dict(model=entries, optimizer=dict(state={}), iteration=269999))
    assert conversion.dropped == ['pixel_mean', 'pixel_std']
    assert conversion.overrides == {}
    weight = conversion.weights['mask_head.conv_cls.weight']
    assert isinstance(weight, torch.Tensor)
    assert np.array_equal(weight, entries['ins_head.cate_pred.weight'])


@pytest.mark.parametrize('wrap', [dict, lambda x: dict(state_dict=x), lambda x: dict(model=x)])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_wrappers(wrap, prefix):
    entries = without_values('mmdet', 'light r18').items()
    conversion = convert(wrap({f'{prefix}{name}': value for name, value in entries}))
    assert conversion.config == 'solov2/solov2-light_r18_fpn_ms-3x_coco.py'


def test_meta_is_plain():
    conversion = convert(dict(model=without_values('adelaidet', 'r50')))
    checkpoint = to_checkpoint(conversion)
    assert checkpoint['state_dict'] is conversion.weights
    assert checkpoint['meta'] == dict(
        source_format='AdelaiDet',
        color_order='BGR',
        mean=[103.53, 116.28, 123.675],
        std=[1.0, 1.0, 1.0],
        backbone_style='caffe',
        config='solov2/solov2_r50-caffe_fpn_ms-3x_coco.py',
        config_overrides={},
    )


def test_report():
    conversion = convert(without_values('original', 'light r18'))
    assert report(conversion).splitlines() == [
        'format: WXinlong/SOLO',
        (
            'model: ResNet-18, light head of 2 convolutions with 256 channels, 128 mask features, '
            '80 classes'
        ),
        (
            'input: RGB, mean [123.675, 116.28, 103.53], std [58.395, 57.12, 57.375]; '
            "backbone style 'pytorch'"
        ),
        'entries: 176, of which 0 are new counters of BatchNorm; left out: none',
        'config: solov2/solov2-light_r18_fpn_ms-3x_coco.py',
    ]


# Refused


@pytest.mark.parametrize(
    'name',
    [
        'backbone.conv1.weight',
        'backbone.layer3.1.bn2.running_mean',
        'neck.fpn_convs.2.conv.bias',
        'neck.lateral_convs.0.conv.weight',
        'bbox_head.solo_cate.weight',
        'bbox_head.solo_kernel.bias',
        'bbox_head.cate_convs.1.gn.weight',
        'bbox_head.kernel_convs.1.conv.weight',
        'mask_feat_head.conv_pred.0.conv.weight',
        'mask_feat_head.convs_all_levels.2.conv1.conv.weight',
    ],
)
def test_a_missing_entry_is_named(message, name):
    entries = without_values('original', 'light r18')
    del entries[name]
    text = message(entries)
    ours = renamed(name, ORIGINAL.rules)
    assert f'{ours} (missing)' in text or f'{ours} is missing' in text
    assert 'incomplete' in text


def test_another_shape(message):
    entries = without_values('original', 'light r18') | {
        'backbone.layer2.0.conv1.weight': torch.empty(128, 64, 5, 5)
    }
    text = message(entries)
    assert '1 entries do not fit' in text
    assert 'backbone.layer2.0.conv1.weight (is (128, 64, 5, 5), needs (128, 64, 3, 3))' in text


def test_channels_that_group_norm_cannot_divide(message):
    model = layouts.Model(18, feat_channels=48, stacked_convs=2, mask_channels=128)
    assert 'mmsolov2 has no such model: num_channels' in message(without_values('original', model))


def test_resnext_of_detectron2(message):
    model = layouts.Model(50, groups=32, group_width=8)
    text = message(dict(model=without_values('adelaidet', model)))
    assert 'ResNeXt' in text and 'only ResNets are converted' in text
