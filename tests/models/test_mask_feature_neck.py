"""The mask features against plain calls of torch.nn.functional on the same parameters."""

import pytest
import torch
import torch.nn.functional as F

from mmsolov2.models.mask_feature_neck import MaskFeatureNeck, SeparateMaskFeatureNeck

CHANNELS = 6


def pyramid(height, width, batch=2, num_levels=5, device='cpu'):
    """Levels as a feature pyramid makes them: half as large each time, rounded up."""
    return [
        torch.randn(batch, CHANNELS, -(-height // stride), -(-width // stride), device=device)
        for stride in (4, 8, 16, 32, 64)[:num_levels]
    ]


def make_neck(**settings):
    """A neck in which every parameter matters, those of the normalisation too."""
    norm = dict(type='GN', num_groups=4)
    channels = dict(in_channels=CHANNELS, feat_channels=8, out_channels=12)
    neck = MaskFeatureNeck(**{**channels, 'norm_cfg': norm, **settings})
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter)
    return neck


def with_coordinates(x):
    batch, _, height, width = x.shape
    column = torch.linspace(-1, 1, width).view(1, 1, 1, -1).expand(batch, 1, height, -1)
    row = torch.linspace(-1, 1, height).view(1, 1, -1, 1).expand(batch, 1, -1, width)
    return torch.cat([x, column.to(x), row.to(x)], 1)


def layer(parameters, name, x, padding=1):
    x = F.conv2d(x, parameters[f'{name}.conv.weight'], padding=padding)
    x = F.group_norm(x, 4, parameters[f'{name}.gn.weight'], parameters[f'{name}.gn.bias'])
    return x.clamp(min=0)


def enlarge(x, size):
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)


def by_hand(parameters, features, start, end, use_coords):
    """Level by level: convolve, and enlarge to the next larger level, down to the first."""
    total = 0
    for level in range(start, end + 1):
        x = features[level]
        if use_coords and level == end:
            x = with_coordinates(x)
        name = f'convs_all_levels.{level - start}'
        if level == 0:
            x = layer(parameters, f'{name}.conv0', x)
        for step in range(level):
            x = layer(parameters, f'{name}.conv{step}', x)
            x = enlarge(x, features[level - 1 - step].shape[-2:])
        total = total + x
    return layer(parameters, 'conv_pred', total, padding=0)


LEVELS = ((0, 3), (0, 4), (1, 3), (2, 3), (0, 0), (1, 1), (3, 3))


@pytest.mark.parametrize(
    ('size', 'start', 'end', 'use_coords'),
    [
        *(((75, 133), *levels, True) for levels in LEVELS),
        *(((75, 133), *levels, False) for levels in LEVELS[:3]),
        *((size, 0, 3, True) for size in ((64, 96), (33, 1))),
    ],
    ids=str,
)
def test_equals_plain_functions(size, start, end, use_coords, device):
    features = pyramid(*size, device=device)
    neck = make_neck(start_level=start, end_level=end, use_coords=use_coords).to(device)
    parameters = neck.state_dict()
    with torch.no_grad():
        out = neck(features)
    assert out.shape == (2, 12, *features[0].shape[-2:])
    torch.testing.assert_close(out, by_hand(parameters, features, start, end, use_coords))
    assert not out.isnan().any()
    assert out.any()


def test_parameters_are_those_of_the_published_weights():
    neck = MaskFeatureNeck(in_channels=256, feat_channels=128, out_channels=256)
    shapes = {name: tuple(value.shape) for name, value in neck.state_dict().items()}
    convs = {'0.conv0': 256, '1.conv0': 256, '2.conv0': 256, '2.conv1': 128}
    convs |= {'3.conv0': 258, '3.conv1': 128, '3.conv2': 128}
    expected = {}
    for name, channels in convs.items():
        expected[f'convs_all_levels.{name}.conv.weight'] = (128, channels, 3, 3)
        expected[f'convs_all_levels.{name}.gn.weight'] = (128,)
        expected[f'convs_all_levels.{name}.gn.bias'] = (128,)
    expected['conv_pred.conv.weight'] = (256, 128, 1, 1)
    expected['conv_pred.gn.weight'] = expected['conv_pred.gn.bias'] = (256,)
    assert shapes == expected


def test_only_the_levels_asked_for_are_used():
    features = pyramid(64, 64)
    neck = make_neck(start_level=1, end_level=2)
    with torch.no_grad():
        expected = neck(features)
        others = [torch.full_like(features[0], torch.nan), *features[1:3]]
        assert torch.equal(neck(others), expected)
        assert not torch.equal(neck([features[0], features[1] + 1, features[2]]), expected)


def test_every_parameter_gets_a_gradient(device):
    neck = make_neck().to(device)
    neck(pyramid(64, 64, device=device)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in neck.parameters())


def test_inputs_are_not_modified():
    features = pyramid(40, 40)
    tensors, values = list(features), [level.clone() for level in features]
    make_neck()(features)
    assert all(now is before for now, before in zip(features, tensors, strict=True))
    assert all(torch.equal(level, value) for level, value in zip(features, values, strict=True))


@pytest.mark.parametrize('container', [list, tuple])
def test_any_sequence_of_levels_will_do(container):
    assert make_neck()(container(pyramid(32, 32, num_levels=4))).shape == (2, 12, 8, 8)


def test_too_few_levels_are_refused():
    with pytest.raises(
        ValueError, match='end_level=3 needs 4 pyramid levels, but the neck gives 3'
    ):
        make_neck()(pyramid(64, 64, num_levels=3))


@pytest.mark.parametrize(('start', 'end'), [(-1, 3), (3, 2)])
def test_impossible_levels_are_refused(start, end):
    with pytest.raises(ValueError, match=f'0 <= start_level <= end_level, not {start} and {end}'):
        MaskFeatureNeck(start_level=start, end_level=end)


def test_convolutions_without_normalisation_have_a_bias():
    neck = make_neck(norm_cfg=None)
    assert neck.conv_pred.conv.bias.shape == (12,)
    assert neck(pyramid(32, 32)).shape == (2, 12, 8, 8)


# Separate features


def make_separate(**settings):
    norm = dict(type='GN', num_groups=4)
    channels = dict(in_channels=CHANNELS, feat_channels=8, out_channels=12)
    neck = SeparateMaskFeatureNeck(**{**channels, 'norm_cfg': norm, **settings})
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter)
    return neck


def separate_by_hand(parameters, features, stacked_convs, use_coords):
    """Level by level: to the head's stride, through the convolutions, and twice as large."""
    halved = F.interpolate(features[0], scale_factor=0.5, mode='bilinear')
    last = enlarge(features[4], features[3].shape[-2:])
    sizes = [features[i].shape[-2:] for i in (0, 0, 1, 2, 2)]
    outs = []
    for x, size in zip([halved, *features[1:4], last], sizes, strict=True):
        if use_coords:
            x = with_coordinates(x)
        for i in range(stacked_convs):
            x = layer(parameters, f'convs.{i}', x)
        outs.append(layer(parameters, 'conv_pred', enlarge(x, size), padding=0))
    return outs


@pytest.mark.parametrize(
    ('size', 'stacked_convs', 'use_coords'),
    [((64, 96), 7, True), ((75, 133), 7, True), ((64, 64), 2, False)],
    ids=str,
)
def test_separate_features_equal_plain_functions(size, stacked_convs, use_coords, device):
    features = pyramid(*size, device=device)
    neck = make_separate(stacked_convs=stacked_convs, use_coords=use_coords).to(device)
    expected = separate_by_hand(neck.state_dict(), features, stacked_convs, use_coords)
    with torch.no_grad():
        outs = neck(features)
    assert [level.shape[-2:] for level in outs] == [features[i].shape[-2:] for i in (0, 0, 1, 2, 2)]
    for out, level in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, level)


def test_separate_features_are_seven_shared_convolutions():
    neck = SeparateMaskFeatureNeck()
    shapes = [tuple(conv.conv.weight.shape) for conv in neck.convs]
    assert shapes == [(128, 258, 3, 3)] + [(128, 128, 3, 3)] * 6
    assert neck.conv_pred.conv.weight.shape == (256, 128, 1, 1)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(stacked_convs=0), 'stacked_convs >= 1 and num_levels >= 3, not 0 and 5'),
        (dict(num_levels=2), 'not 7 and 2'),
    ],
    ids=str,
)
def test_impossible_separate_features_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_separate(**settings)


def test_separate_features_of_other_levels_are_refused():
    with pytest.raises(ValueError, match='the neck gives 4 levels: set num_levels=4, or neck.num_'):
        make_separate()(pyramid(64, 64, num_levels=4))
