"""Deformable convolution against loops, plain convolution and mmcv's compiled operators."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from mmcv import ops
from mmcv.cnn import build_conv_layer
from mmdet.registry import MODELS

from mmsolov2.compat.stack import has_compiled_ops
from mmsolov2.ops.deform_conv import deform_conv2d, modulated_deform_conv2d

needs_lite = pytest.mark.skipif(has_compiled_ops(), reason='mmcv has its compiled operators')
needs_operators = pytest.mark.skipif(
    not has_compiled_ops(), reason='mmcv-lite has no compiled operators to compare with'
)

# input (H, W), kernel, stride, padding, dilation, groups, deform_groups
CASES = {
    'plain': ((4, 5), (3, 3), 1, 1, 1, 1, 1),
    'strides': ((6, 5), (3, 3), (2, 1), 1, 1, 1, 1),
    'dilations': ((6, 7), (3, 2), 1, (2, 1), (2, 3), 1, 1),
    'groups': ((4, 3), (2, 3), 1, 1, 1, 2, 1),
    'deform groups': ((3, 4), (3, 1), 1, (1, 0), 1, 1, 2),
    'all': ((7, 6), (3, 3), 2, 2, (2, 1), 2, 4),
    'one pixel': ((1, 1), (3, 3), 1, 1, 1, 1, 1),
    '1x1': ((3, 1), (1, 1), 1, 0, 1, 1, 2),
}
each_case = pytest.mark.parametrize('case', CASES.values(), ids=CASES.keys())


@pytest.fixture(params=[False, True], ids=['grid_sample', 'deterministic'])
def _both_ways(request):
    """Runs a test with any algorithms and with deterministic ones, as on a GPU."""
    torch.use_deterministic_algorithms(request.param)
    yield
    torch.use_deterministic_algorithms(False)


both_ways = pytest.mark.usefixtures('_both_ways')


def cells(size, taps, stride, padding, dilation):
    """How many output cells there are along an axis."""
    return len(range(-padding, size + padding - dilation * (taps - 1), stride))


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def make_inputs(case, dtype=torch.float64):
    """Input, offset, mask, weight, bias of 2 images and 4 channels; some points on whole pixels."""
    size, kernel, stride, padding, dilation, groups, deform_groups = case
    out = [cells(*axis) for axis in zip(size, kernel, *map(pair, (stride, padding, dilation)))]
    taps = math.prod(kernel)
    offset = 2 * torch.randn(2, 2 * deform_groups * taps, *out, dtype=dtype)
    offset[0] = offset[0].round()
    offset[1, 0, 0, 0] = 1e6
    mask = torch.rand(2, deform_groups * taps, *out, dtype=dtype)
    weight = torch.randn(4, 4 // groups, *kernel, dtype=dtype)
    inputs = torch.randn(2, 4, *size, dtype=dtype), offset, mask, weight, torch.randn(4).to(dtype)
    return [tensor.requires_grad_() for tensor in inputs]


def bilinear(image, y, x):
    """The value of an image (C, H, W) at one point: its four neighbours, and zeros outside."""
    _, height, width = image.shape
    value = 0 * image[:, 0, 0]
    if not (-1 < y < height and -1 < x < width):
        return value
    top, left = math.floor(y.item()), math.floor(x.item())
    for row, row_weight in (top, 1 - (y - top)), (top + 1, y - top):
        for column, column_weight in (left, 1 - (x - left)), (left + 1, x - left):
            if 0 <= row < height and 0 <= column < width:
                value = value + row_weight * column_weight * image[:, row, column]
    return value


def convolve_by_loops(case, inputs, offset, mask, weight, bias):
    """Every output cell as a sum over the taps, for one deform group and one group at a time."""
    _, kernel, stride, padding, dilation, groups, deform_groups = case
    (sy, sx), (py, px), (dy, dx) = map(pair, (stride, padding, dilation))
    batch, _, height, width = offset.shape
    rows = []
    for b, i, j in itertools.product(range(batch), range(height), range(width)):
        seen = []
        for g, image in enumerate(inputs[b].chunk(deform_groups)):
            for tap, (u, v) in enumerate(itertools.product(range(kernel[0]), range(kernel[1]))):
                n = g * math.prod(kernel) + tap
                y = i * sy - py + u * dy + offset[b, 2 * n, i, j]
                x = j * sx - px + v * dx + offset[b, 2 * n + 1, i, j]
                seen.append(mask[b, n, i, j] * bilinear(image, y, x))
        seen = torch.stack(seen).view(deform_groups, math.prod(kernel), -1)
        channels = seen.transpose(1, 2).reshape(groups, -1, math.prod(kernel))
        parts = zip(weight.chunk(groups), channels)
        rows.append(torch.cat([(part.flatten(2) * patch).sum((1, 2)) for part, patch in parts]))
    return (
        torch.stack(rows).view(batch, height, width, -1).permute(0, 3, 1, 2) + bias[:, None, None]
    )


def on(device, *tensors):
    """Leaves of the same values on a device."""
    return [tensor.detach().to(device).requires_grad_() for tensor in tensors]


def output_and_gradients(function, tensors, *arguments):
    """The output, and the gradients that the tensors get from a weighed sum of it."""
    output = function(*arguments)
    weights = torch.arange(output.numel()).cos().view_as(output).type_as(output)
    return output, *torch.autograd.grad((weights * output).sum(), tensors)


def assert_equal(ours, theirs, tolerance):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance, check_device=False)


# Against loops


@both_ways
@each_case
def test_version_1_equals_loops(case, device):
    inputs, offset, mask, weight, bias = make_inputs(case)
    leaves = inputs, offset, weight
    sent = on(device, *leaves)
    ours = output_and_gradients(deform_conv2d, sent, *sent, *case[2:])
    rest = torch.ones_like(mask), weight, torch.zeros_like(bias)
    loops = output_and_gradients(convolve_by_loops, leaves, case, inputs, offset, *rest)
    assert_equal(ours, loops, 1e-10)


@both_ways
@each_case
def test_version_2_equals_loops(case, device):
    leaves = make_inputs(case)
    sent = on(device, *leaves)
    ours = output_and_gradients(modulated_deform_conv2d, sent, *sent, *case[2:])
    loops = output_and_gradients(convolve_by_loops, leaves, case, *leaves)
    assert_equal(ours, loops, 1e-10)


@both_ways
def test_values_by_hand(device):
    """A 1x1 kernel reads pixel (0, 1) of [[1, 2], [3, 4]] at other places (y, x)."""
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], device=device)
    moves = [(0, 0), (0.5, 0), (0, -0.25), (1, -1), (-0.5, 0), (0, 0.75), (-1, 0), (0, 1), (9, -9)]
    seen = [2, 3, 1.75, 3, 1, 0.5, 0, 0, 0]
    for (y, x), value in zip(moves, seen):
        offset = torch.zeros(1, 2, 2, 2)
        offset[0, :, 0, 1] = torch.tensor([y, x])
        out = deform_conv2d(image, offset.to(device), torch.ones(1, 1, 1, 1, device=device))
        assert out.tolist() == [[[[1, value], [3, 4]]]]


@both_ways
def test_offsets_without_a_value_see_nothing(device):
    values = torch.tensor([math.nan, math.inf, -math.inf, 1e30]).view(1, 2, 1, 2)
    offset, image = on(device, values, torch.ones(1, 1, 1, 2))
    out = deform_conv2d(image, offset, torch.ones(1, 1, 1, 1, device=device))
    out.sum().backward()
    for tensor in out, offset.grad, image.grad:
        assert not tensor.any()


@pytest.mark.parametrize('deterministic', [True, False])
def test_deterministic_training_never_meets_grid_sample(deterministic, monkeypatch, device):
    """Its gradient raises on a GPU when torch or a config's ``randomness`` asks for determinism."""
    calls, real = [], F.grid_sample
    monkeypatch.setattr(F, 'grid_sample', lambda *args, **kw: calls.append(0) or real(*args, **kw))
    torch.use_deterministic_algorithms(deterministic)
    try:
        layer = build_conv_layer(dict(type='DCNv2'), 4, 4, 3).to(device)
        layer(torch.randn(1, 4, 6, 7, device=device)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(calls) == (not deterministic)


@pytest.mark.parametrize('kind', [deform_conv2d, modulated_deform_conv2d])
def test_both_ways_are_equal_on_large_images(kind, device):
    """Values, and gradients of input, offsets, masks and weights."""
    made = make_inputs(((60, 90), (3, 3), 1, 1, 1, 1, 2))
    inputs, offset, mask, weight, bias = on(device, *made)
    leaves = (
        [inputs, offset, weight] if kind is deform_conv2d else [inputs, offset, mask, weight, bias]
    )
    geometry = 1, 1, 1, 1, 2
    found = []
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        try:
            found.append(output_and_gradients(kind, leaves, *leaves, *geometry))
        finally:
            torch.use_deterministic_algorithms(False)
    assert_equal(*found, 1e-10)


# Against a plain convolution


@both_ways
@each_case
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_without_offsets_equals_a_plain_convolution(case, dtype):
    inputs, offset, mask, weight, bias = make_inputs(case, dtype)
    plain = F.conv2d(inputs, weight, None, *case[2:6])
    offset, mask = torch.zeros_like(offset), torch.full_like(mask, 0.5)
    version_1 = deform_conv2d(inputs, offset, weight, *case[2:], False, 32)
    version_2 = modulated_deform_conv2d(inputs, offset, mask, weight, bias, *case[2:])
    assert_equal([version_1, version_2], [plain, plain / 2 + bias[:, None, None]], 1e-5)
    without_bias = modulated_deform_conv2d(inputs, offset, mask, weight, None, *case[2:])
    assert_equal([without_bias], [plain / 2], 1e-5)


@both_ways
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_floats_find_every_pixel_of_a_wide_image(dtype, device):
    image = torch.arange(1000.0, device=device).remainder(7)  # float32, as under autocast
    image = image.view(1, 1, 1, 1000)
    offset = torch.zeros(1, 2, 1, 1000, dtype=dtype, device=device)
    mask, (weight, bias) = offset[:, :1] + 1, on(device, torch.ones(1, 1, 1, 1), torch.ones(1))
    out = modulated_deform_conv2d(image, offset, mask.float(), weight, bias)
    assert out.dtype == dtype
    assert out.equal((image + 1).to(dtype))


def test_float_offsets_keep_the_output_float_under_autocast():
    tensors = map(torch.ones, ((1, 2, 4, 4), (1, 2, 4, 4), (2, 2, 1, 1)))
    with torch.autocast('cpu', torch.bfloat16):
        assert deform_conv2d(*tensors).dtype == torch.float32


@both_ways
def test_new_layers_slope_to_the_right(device):
    """Whole pixels are kinks: as in mmcv's operators the slope is that to the next pixel."""
    image = torch.arange(100.0, device=device).square().view(1, 1, 1, 100)
    offset = torch.zeros(1, 2, 1, 100, device=device, requires_grad=True)
    deform_conv2d(image, offset, torch.ones(1, 1, 1, 1, device=device)).sum().backward()
    assert offset.grad[0, 1, 0, :99].tolist() == list(range(1, 199, 2))  # (n + 1)² - n²
    assert offset.grad[0, 1, 0, 99] == -(99**2)  # beyond the last pixel lies zero


@both_ways
def test_an_empty_batch(device):
    case = CASES['all']
    inputs, offset, mask, weight, bias = on(device, *make_inputs(case))
    out = modulated_deform_conv2d(inputs[:0], offset[:0], mask[:0], weight, bias, *case[2:])
    assert out.shape == (0, 4, *offset.shape[2:])


# Wrong arguments


def call(
    size=(1, 2, 4, 4),
    offset=(1, 18, 4, 4),
    mask=(1, 9, 4, 4),
    weight=(2, 2, 3, 3),
    groups=1,
    deform_groups=1,
):
    tensors = map(torch.ones, (size, offset, mask, weight))
    return modulated_deform_conv2d(*tensors, None, 1, 1, 1, groups, deform_groups)


WRONG = [
    (r'\(B, C, H, W\), and is \(2, 4, 4\)', dict(size=(2, 4, 4))),
    (r'too small: \(1, 2, 2, 4\) for', dict(size=(1, 2, 2, 4), weight=(2, 2, 5, 5))),
    ('3 channels do not fit', dict(size=(1, 3, 4, 4))),
    (' groups=2', dict(weight=(3, 1, 3, 3), groups=2)),
    ('deform_groups=3', dict(deform_groups=3)),
    (r'offset must be \(1, 18, 4, 4\), and is \(1, 18, 4, 1\)', dict(offset=(1, 18, 4, 1))),
    (r'mask must be \(1, 9, 4, 4\), and is \(1, 1, 4, 4\)', dict(mask=(1, 1, 4, 4))),
]


@pytest.mark.parametrize('message, arguments', WRONG)
def test_wrong_shapes_are_named(message, arguments):
    assert call().shape == (1, 2, 4, 4)
    with pytest.raises(ValueError, match=message):
        call(**arguments)


def test_version_1_has_no_bias():
    tensors = map(torch.ones, ((1, 2, 4, 4), (1, 2, 4, 4), (2, 2, 1, 1)))
    with pytest.raises(ValueError, match='bias=True'):
        deform_conv2d(*tensors, bias=True)


# mmcv's layers


@needs_lite
def test_ours_stand_in_everywhere():
    from mmdet.models.dense_heads import tood_head

    for module in (ops, ops.deform_conv, ops.saconv, tood_head):
        assert module.deform_conv2d is deform_conv2d
    for module in (ops, ops.modulated_deform_conv):
        assert module.modulated_deform_conv2d is modulated_deform_conv2d


@needs_operators
def test_ours_stand_aside_for_compiled_operators():
    assert ops.deform_conv.deform_conv2d.__self__ is ops.deform_conv.DeformConv2dFunction
    function = ops.modulated_deform_conv.modulated_deform_conv2d
    assert function.__self__ is ops.modulated_deform_conv.ModulatedDeformConv2dFunction


@pytest.mark.parametrize(
    'kind, size, channels', [('DCN', 3, 18), ('DCNv2', 3, 27), ('DCNv2', 1, 3)]
)
def test_layers_train(kind, size, channels):
    layer = build_conv_layer(dict(type=kind), 2, 4, size, padding=size // 2, bias=kind == 'DCNv2')
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    bias = {'bias': (4,)} if kind == 'DCNv2' else {}
    assert shapes == {
        'weight': (4, 2, size, size),
        'conv_offset.weight': (channels, 2, size, size),
        'conv_offset.bias': (channels,),
        **bias,
    }
    out = layer(torch.randn(2, 2, 5, 6))
    assert out.shape == (2, 4, 5, 6)
    out.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


@needs_lite
@pytest.mark.parametrize('kind', ['DCN', 'DCNv2'])
def test_layers_under_autocast(kind, device):
    layer = build_conv_layer(dict(type=kind), 2, 4, 3, padding=1, bias=False).to(device)
    image = torch.randn(2, 2, 5, 6, device=device)
    expected = layer(image)
    with torch.autocast(device.type, torch.bfloat16):
        out = layer(image)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)
    out.float().square().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())


def test_resnet_with_deformable_stages(device):
    dcn = dict(type='DCNv2', deform_groups=1, fallback_on_stride=False)
    stages = (False, True, True, True)
    config = dict(type='ResNet', depth=50, base_channels=8, dcn=dcn, stage_with_dcn=stages)
    net = MODELS.build(config).to(device)
    outputs = net(torch.randn(2, 3, 64, 96, device=device))
    assert [tuple(x.shape[1:]) for x in outputs] == [
        (32, 16, 24),
        (64, 8, 12),
        (128, 4, 6),
        (256, 2, 3),
    ]
    sum(x.square().mean() for x in outputs).backward()
    moved = [name for name, _ in net.named_parameters() if name.endswith('conv_offset.weight')]
    assert len(moved) == 4 + 6 + 3
    assert all(net.get_parameter(name).grad.any() for name in moved)


# mmcv's compiled operators


@needs_operators
@each_case
def test_version_1_equals_the_operator(case):
    if case is CASES['one pixel']:
        pytest.skip("mmcv's operator refuses images smaller than the kernel")
    inputs, offset, _, weight, _ = make_inputs(case, torch.float32)
    leaves = inputs, offset, weight
    ours = output_and_gradients(deform_conv2d, leaves, *leaves, *case[2:])
    theirs = output_and_gradients(ops.deform_conv2d, leaves, *leaves, *case[2:])
    assert_equal(ours, theirs, 1e-4)


@needs_operators
@each_case
def test_version_2_equals_the_operator(case):
    leaves = make_inputs(case, torch.float32)
    ours = output_and_gradients(modulated_deform_conv2d, leaves, *leaves, *case[2:])
    theirs = output_and_gradients(ops.modulated_deform_conv2d, leaves, *leaves, *case[2:])
    assert_equal(ours, theirs, 1e-4)
