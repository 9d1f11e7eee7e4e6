"""Formats: recognised by their names, or refused as those of other models."""

import pytest
import torch
from layouts import without_values

from mmsolov2.converters.convert import convert, to_checkpoint


def test_versions_are_of_mmdetection_alone():
    names = ('a',) * 80
    meta = dict(mmdet_version='1.0.0', CLASSES=names)
    conversion = convert(dict(state_dict=without_values('original', 'light r18'), meta=meta))
    assert conversion.source == 'WXinlong/SOLO' and conversion.classes == names


def test_mean_and_scale_of_the_file():
    entries = without_values('adelaidet', 'r50')
    entries |= dict(
        pixel_mean=torch.tensor([100.0, 110, 120.5]).view(3, 1, 1),
        pixel_std=torch.tensor([57.375, 57.12, 58.395]).view(3, 1, 1),
    )
    conversion = convert(dict(model=entries))
    expected = dict(mean=[100.0, 110.0, 120.5], std=[57.375, 57.12, 58.395])
    assert conversion.overrides == dict(data_preprocessor=expected)


def light(names='original') -> dict:
    return without_values(names, 'light r18')


def converted(state_dict: dict, start: str) -> dict:
    """A state dict in which only names with a certain beginning are converted."""
    ours = convert(state_dict).weights
    kept = {name: value for name, value in state_dict.items() if not name.startswith(start)}
    old = {id(value) for value in kept.values()}
    return kept | {name: value for name, value in ours.items() if id(value) not in old}


@pytest.mark.parametrize(
    ('names', 'start', 'words'),
    [
        ('original', 'mask_feat_head.', ['bbox_head.kernel_convs. (as of WXinlong/SOLO)']),
        ('original', 'bbox_head.', ['24 begin with mask_feat_head. (as of WXinlong/SOLO)']),
        ('original', 'bbox_head.cate_convs.', ['of WXinlong/SOLO, but 6 entries', 'cls_convs.0']),
        ('original', 'bbox_head.solo_', ['of WXinlong/SOLO, but 4 entries', 'mask_head.conv_cls']),
        ('mmdet', 'mask_head.mask_feature_head.convs', ['(as of MMDetection)', '(as of mmsolov2)']),
    ],
)
def test_half_converted(message, names, start, words):
    text = message(converted(light(names), start))
    assert 'half converted' in text and 'as it was published' in text
    for each in words:
        assert each in text


@pytest.mark.parametrize('start', ['ins_head.', 'mask_head.', 'backbone.bottom_up.'])
def test_half_converted_adelaidet(message, start):
    text = message(converted(without_values('adelaidet', 'r50'), start))
    assert 'half converted' in text and 'AdelaiDet' in text


def test_adelaidets_backbone_under_mmdets_head(message):
    entries = without_values('mmdet', 'r50')
    backbone = without_values('adelaidet', 'r50')
    mixed = {name: value for name, value in entries.items() if not name.startswith('backbone.')}
    mixed |= {name: value for name, value in backbone.items() if name.startswith('backbone.')}
    text = message(mixed)
    assert 'of MMDetection, but 281 entries have names of AdelaiDet: it is half converted' in text
    assert 'backbone.bottom_up.stem.conv1.weight' in text and 'and 276 more' in text


def test_converted_already(message):
    checkpoint = to_checkpoint(convert(light()))
    assert 'of mmsolov2 already: use it as it is' in message(checkpoint)


@pytest.mark.parametrize(
    ('entries', 'words'),
    [
        (
            ['backbone.conv1.weight', 'rpn_head.rpn_conv.weight', 'roi_head.mask_head.x'],
            'a two-stage model of MMDetection',
        ),
        (
            [
                'backbone.bottom_up.stem.conv1.weight',
                'proposal_generator.a',
                'roi_heads.mask_head.x',
            ],
            'a two-stage model of detectron2',
        ),
        (
            ['backbone.layers.0.0.conv1.weight', 'proto_net.0.weight', 'prediction_layers.0.bbox'],
            'a YOLACT',
        ),
        (
            [
                'backbone.conv1.weight',
                'bbox_head.cate_convs.0.conv.weight',
                'bbox_head.solo_ins_list.0',
            ],
            'a SOLO, the first version, of WXinlong/SOLO',
        ),
        (
            ['mask_head.cls_convs.0.conv.weight', 'mask_head.conv_mask_list.0.weight'],
            'a SOLO, the first version, of MMDetection',
        ),
        (['conv1.weight', 'bn1.weight', 'layer1.0.conv1.weight', 'fc.weight'], 'a classifier'),
        (['epoch', 'net', 'a.b', 'a.c'], 'no SOLOv2: its entries are a (2), epoch (1), net (1)'),
        ([], 'no SOLOv2: its entries are none'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_other_models_are_named(message, entries, words):
    text = message(dict(state_dict=dict.fromkeys(entries, torch.zeros(1))))
    assert f'this is {words}' in text
    assert 'Only SOLOv2 is converted' in text
    assert ', '.join(entries) in text


def test_condinst_of_mmdetection(message):
    """It has mask features under the same name."""
    names = ['backbone.conv1.weight', 'bbox_head.controller.weight']
    names += [f'mask_head.mask_feature_head.{part}' for part in ('a', 'b')]
    text = message(dict.fromkeys(names, torch.zeros(1)))
    assert '2 begin with mask_head.mask_feature_head. (as of MMDetection)' in text
    assert 'another model' in text


def test_entries_without_a_place_are_listed(message):
    extra = {f'extra.{i}': torch.zeros(1) for i in range(7)}
    text = message(light() | extra)
    assert 'SOLOv2 of WXinlong/SOLO, but 7 entries have no place in mmsolov2' in text
    assert 'extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more' in text


def test_other_backbones(message):
    entries = {
        name.replace('backbone.', 'backbone.stages.'): value
        for name, value in light('mmdet').items()
    }
    text = message(entries)
    assert 'of MMDetection, but 120 entries have no place' in text and 'ResNeXt' in text
