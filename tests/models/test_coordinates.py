"""The coordinate channels against numbers by hand."""

import pytest
import torch

from mmsolov2.models.coordinates import append_coordinates


def test_x_then_y_are_appended(device):
    out = append_coordinates(torch.zeros(1, 1, 3, 5, device=device))
    x, y = out[0, 1:]
    assert x.tolist() == [[-1, -0.5, 0, 0.5, 1]] * 3
    assert y.tolist() == [[-1] * 5, [0] * 5, [1] * 5]


def test_features_stay_as_they_are():
    features = torch.randn(2, 4, 3, 5)
    before = features.clone()
    out = append_coordinates(features)
    assert out.shape == (2, 6, 3, 5)
    assert torch.equal(out[:, :4], before)
    assert torch.equal(features, before)
    assert torch.equal(out[0, 4:], out[1, 4:])


@pytest.mark.parametrize(
    ('size', 'x', 'y'),
    [
        ((1, 2), [[-1, 1]], [[-1, -1]]),
        ((2, 1), [[-1], [-1]], [[-1], [1]]),
        ((1, 1), [[-1]], [[-1]]),
    ],
    ids=str,
)
def test_a_side_of_one_pixel_is_at_minus_one(size, x, y, device):
    out = append_coordinates(torch.zeros(1, 0, *size, device=device))
    assert out[0].tolist() == [x, y]


def test_sizes_of_the_pyramid_span_the_same_range(device):
    for height, width in ((25, 42), (7, 11), (160, 2)):
        coordinates = append_coordinates(torch.zeros(1, 0, height, width, device=device))[0].cpu()
        expected_x = [-1 + 2 * column / (width - 1) for column in range(width)]
        expected_y = [-1 + 2 * row / (height - 1) for row in range(height)]
        torch.testing.assert_close(coordinates[0], torch.tensor([expected_x] * height))
        torch.testing.assert_close(coordinates[1].T, torch.tensor([expected_y] * width))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_stays(dtype):
    assert append_coordinates(torch.zeros(1, 1, 2, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_rounds_coordinates_once(dtype, device):
    """A step of 2/167, which bfloat16 rounds, is added up in float32."""
    out = append_coordinates(torch.zeros(1, 0, 100, 168, dtype=dtype, device=device))[0]
    assert torch.equal(out[0, 0], torch.linspace(-1, 1, 168, device=device).to(dtype))
    assert torch.equal(out[1, :, 0], torch.linspace(-1, 1, 100, device=device).to(dtype))


def test_autocast_leaves_coordinates_to_the_convolution(device):
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out = append_coordinates(torch.ones(1, 1, 3, 168, dtype=torch.bfloat16, device=device))
    assert out.dtype == torch.float32
    assert torch.equal(out[0, 1, 0], torch.linspace(-1, 1, 168, device=device))


def test_the_device_stays():
    assert append_coordinates(torch.zeros(1, 1, 2, 3, device='meta')).device.type == 'meta'


def test_no_images():
    assert append_coordinates(torch.zeros(0, 4, 3, 5)).shape == (0, 6, 3, 5)
