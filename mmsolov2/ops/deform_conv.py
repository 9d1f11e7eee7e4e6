"""Deformable convolution in plain torch, for mmcv-lite, which has no compiled operators.

``compat`` puts the two functions in the place of mmcv's; they take the same arguments in the same
order. Symbols: G deform groups, k taps of a kernel, h and w the size of the output.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

Pair = int | tuple[int, int]


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: bool = False,
    im2col_step: int = 32,
) -> Tensor:
    """Convolve (B, C, H, W) at taps moved by offset (B, G·k·2, h, w), y before x: (B, O, h, w).

    Deformable convolution, version 1 (Dai et al. 2017, Deformable Convolutional Networks, eq. 2).
    ``im2col_step`` is ignored: the whole batch is sampled at once. Raises ValueError for a bias,
    which version 1 has not, and for shapes that do not fit.
    """
    if bias:
        raise ValueError(f'bias={bias}: deformable convolution of version 1 has no bias')
    geometry = (stride, padding, dilation, groups, deform_groups)
    return modulated_deform_conv2d(input, offset, None, weight, None, *geometry)


def modulated_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """Convolve as ``deform_conv2d``, each tap times its mask (B, G·k, h, w): (B, O, h, w).

    Deformable convolution, version 2 (Zhu et al. 2019, Deformable ConvNets v2, eq. 1). The type of
    ``offset`` is the type of the output, as in mmcv: under autocast the layer before it has made it
    half. Raises ValueError for shapes that do not fit.
    """
    points = regular_points(input, weight, stride, padding, dilation)
    check_shapes(input, offset, mask, weight, points, groups, deform_groups)
    taps = sample_taps(input, offset, mask, points, deform_groups)
    output = combine_taps(taps, weight, groups)
    return output if bias is None else output + bias.type_as(output)[:, None, None]


def sample_taps(
    input: Tensor, offset: Tensor, mask: Tensor | None, points: Tensor, deform_groups: int
) -> Tensor:
    """What the taps (k, h, w, 2) see of (B, C, H, W), moved and masked: (B, C, k, h, w).

    Points are float32 at least: half floats cannot tell one pixel of a large image from the next.
    """
    batch, (count, height, width, _) = len(input) * deform_groups, points.shape
    precise = torch.promote_types(offset.dtype, torch.float32)
    moves = offset.reshape(batch, count, 2, height, width).movedim(2, -1)
    images = input.to(precise).reshape(batch, input.size(1) // deform_groups, *input.shape[2:])
    taps = sample(images, points + moves.to(precise)).type_as(offset)
    if mask is not None:
        taps = taps * mask.type_as(offset).reshape(batch, 1, count, height, width)
    return taps.reshape(len(input), input.size(1), count, height, width)


def sample(images: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of images (N, C, H, W) at pixels (y, x) (N, k, h, w, 2): (N, C, k, h, w).

    Outside the image lie zeros. As in mmcv, points a whole pixel outside have no gradient.
    """
    y, x = points.unbind(-1)
    inside = ((y > -1) & (x > -1) & (y < images.size(2)) & (x < images.size(3)))[..., None]
    if torch.are_deterministic_algorithms_enabled():  # CUDA's grid_sample has no such gradient
        return sample_rows(images, points.where(inside, -2))
    return sample_grid(images, points, inside)


def sample_grid(images: Tensor, points: Tensor, inside: Tensor) -> Tensor:
    """``sample`` by grid_sample; ``inside`` (N, k, h, w, 1) says which points see the images."""
    height, width = images.shape[2:]
    y, x = points.unbind(-1)
    # grid_sample multiplies by the size. A power of two makes that exact for whole pixels, where
    # the slope has a kink: the offsets of a new layer are zero, so it sees nothing else.
    bottom, right = (1 << (length - 1).bit_length() for length in (height, width))
    images = F.pad(images, (0, right - width, 0, bottom - height))
    grid = torch.stack([(2 * x + 1) / right, (2 * y + 1) / bottom], -1) - 1
    grid = grid.where(inside, -3)
    values = F.grid_sample(images, grid.flatten(1, 2), align_corners=False)
    return values.unflatten(2, points.shape[1:3])


def sample_rows(images: Tensor, points: Tensor) -> Tensor:
    """``sample`` by indexing, whose gradient adds up in the same order every time.

    Slower than grid_sample, and with four times the values in memory. Points that see nothing are
    at -2; two rows and columns of zeros before each image and one after it are what they read.
    """
    images = F.pad(images, (2, 1, 2, 1))
    pixels, width = images.size(2) * images.size(3), images.size(3)
    rows = images.permute(0, 2, 3, 1).flatten(0, 2)
    corner = points.detach().floor()
    y, x = (corner.long() + 2).unbind(-1)
    first = pixels * torch.arange(len(images), device=images.device)[:, None, None, None]
    at = first + y * width + x
    below, right = (points - corner)[..., None].unbind(-2)
    upper = rows[at] * (1 - right) + rows[at + 1] * right
    lower = rows[at + width] * (1 - right) + rows[at + width + 1] * right
    return (upper * (1 - below) + lower * below).movedim(-1, 1)


def combine_taps(taps: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Weigh taps (B, C, k, h, w) by kernels (O, C/groups, kh, kw): (B, O, h, w)."""
    batch, channels, count, height, width = taps.shape
    depth = channels // groups * count
    columns = taps.reshape(batch, groups, depth, height * width)
    kernels = weight.type_as(taps).reshape(groups, len(weight) // groups, depth)
    output = (kernels @ columns).type_as(taps)  # autocast may lower a product
    return output.reshape(batch, len(weight), height, width)


def regular_points(
    input: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """The pixels (y, x) that a plain convolution sees: (k, h, w, 2).

    Raises ValueError for an input without batch, and for one too small for any output.
    """
    if input.dim() != 4:
        raise ValueError(f'the input must be (B, C, H, W), and is {tuple(input.shape)}')
    sizes = (input.shape[2:], weight.shape[2:], *map(_pair, (stride, padding, dilation)))
    y, x = (axis_points(*axis, device=input.device) for axis in zip(*sizes, strict=True))
    if not y.numel() or not x.numel():
        shapes = f'{tuple(input.shape)} for kernels {tuple(weight.shape)}'
        raise ValueError(f'the input is too small: {shapes}, padding {padding}')
    return torch.stack(torch.broadcast_tensors(y[:, None, :, None], x[:, None]), -1).flatten(0, 1)


def axis_points(
    size: int, taps: int, stride: int, padding: int, dilation: int, *, device: torch.device
) -> Tensor:
    """Where along an axis the taps of each output cell lie: (taps, cells), none if too small."""
    cells = (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
    starts = stride * torch.arange(max(cells, 0), device=device) - padding
    return dilation * torch.arange(taps, device=device)[:, None] + starts


def check_shapes(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    points: Tensor,
    groups: int,
    deform_groups: int,
) -> None:
    """Raise ValueError where channels, groups, offset or mask do not fit."""
    batch, channels = input.shape[:2]
    if channels != groups * weight.size(1) or len(weight) % groups or channels % deform_groups:
        raise ValueError(
            f'{channels} channels do not fit kernels {tuple(weight.shape)} with groups={groups} '
            f'and deform_groups={deform_groups}'
        )
    count, *size, _ = points.shape
    for name, tensor, depth in ('offset', offset, 2), ('mask', mask, 1):
        needed = (batch, deform_groups * count * depth, *size)
        if tensor is not None and tensor.shape != needed:
            raise ValueError(f'the {name} must be {needed}, and is {tuple(tensor.shape)}')
