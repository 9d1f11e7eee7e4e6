"""Published SOLOv2 checkpoints: their names and shapes by rule, and what they compute.

Names and shapes were compared with those of models that the code bases themselves built; those of
AdelaiDet's backbone are detectron2's. ``Network`` calls torch.nn.functional alone, on tensors under
the names that the checkpoint has.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
MASK_CONVS = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]  # level, convolution


class Model(NamedTuple):
    """The sizes of a SOLOv2."""

    depth: int
    feat_channels: int = 512
    stacked_convs: int = 4
    mask_channels: int = 256
    num_classes: int = 80
    groups: int = 1
    group_width: int = 64  # in the first stage
    offsets: int = 0  # a tap: 2 in version 1 of deformable convolution, 3 in version 2
    deformable: str = ''  # 'last' convolution of the towers, or 'all' of head and mask features

    @property
    def bottleneck(self) -> bool:
        return self.depth >= 50

    def in_tower(self, index: int) -> int:
        """Channels of offsets a tap, in a convolution of the towers."""
        last = self.deformable == 'last' and index == self.stacked_convs - 1
        return self.offsets if last or self.deformable == 'all' else 0

    @property
    def in_mask(self) -> int:
        """Channels of offsets a tap, in the mask features."""
        return self.offsets if self.deformable == 'all' else 0


MODELS = {
    'r50': Model(50),
    'r101': Model(101),
    'light r18': Model(18, 256, 2, 128),
    'light r34': Model(34, 256, 2, 128),
    'light r50': Model(50, 256, 2, 128),
    'light r50 dcn': Model(50, 256, 3, 128, offsets=2, deformable='last'),
    'light r50 dcnv2': Model(50, 256, 3, 128, offsets=3, deformable='last'),
    'r101 dcn': Model(101, offsets=3, deformable='all'),
    'x101 dcn': Model(101, groups=64, group_width=4, offsets=3, deformable='all'),
    'r50 dcn backbone': Model(50, offsets=3),
    'r50 dcn': Model(50, offsets=3, deformable='all'),
}

# Names


class Original:
    """WXinlong/SOLO."""

    counters = True
    stem = ('backbone.conv1', 'backbone.bn1')
    head, mask = 'bbox_head', 'mask_feat_head'
    branches = dict(category=('cate_convs', 'solo_cate'), kernel=('kernel_convs', 'solo_kernel'))
    mask_pred = ('mask_feat_head.conv_pred.0.conv', 'mask_feat_head.conv_pred.0.gn')

    def conv(self, stage: int, block: int, number: int) -> tuple[str, str]:
        prefix = f'backbone.layer{stage}.{block}'
        return f'{prefix}.conv{number}', f'{prefix}.bn{number}'

    def shortcut(self, stage: int, block: int) -> tuple[str, str]:
        prefix = f'backbone.layer{stage}.{block}.downsample'
        return f'{prefix}.0', f'{prefix}.1'

    def pyramid(self, level: int) -> tuple[str, str]:
        return f'neck.lateral_convs.{level}.conv', f'neck.fpn_convs.{level}.conv'

    def tower(self, branch: str, index: int) -> tuple[str, str]:
        prefix = f'{self.head}.{self.branches[branch][0]}.{index}'
        return f'{prefix}.conv', f'{prefix}.gn'

    def prediction(self, branch: str) -> str:
        return f'{self.head}.{self.branches[branch][1]}'

    def mask_conv(self, level: int, index: int) -> tuple[str, str]:
        prefix = f'{self.mask}.convs_all_levels.{level}.conv{index}'
        return f'{prefix}.conv', f'{prefix}.gn'

    def offset(self, conv: str) -> str:
        return f'{conv}.conv_offset'


class MMDetection(Original):
    """MMDetection 2.x and 3.x."""

    head, mask = 'mask_head', 'mask_head.mask_feature_head'
    branches = dict(category=('cls_convs', 'conv_cls'), kernel=('kernel_convs', 'conv_kernel'))
    mask_pred = (f'{mask}.conv_pred.conv', f'{mask}.conv_pred.gn')


class AdelaiDet(Original):
    """AdelaiDet, with the backbone of detectron2."""

    counters = False
    stem = ('backbone.bottom_up.stem.conv1', 'backbone.bottom_up.stem.conv1.norm')
    mask_pred = ('mask_head.conv_pred.0', 'mask_head.conv_pred.1')

    def conv(self, stage: int, block: int, number: int) -> tuple[str, str]:
        name = f'backbone.bottom_up.res{stage + 1}.{block}.conv{number}'
        return name, f'{name}.norm'

    def shortcut(self, stage: int, block: int) -> tuple[str, str]:
        name = f'backbone.bottom_up.res{stage + 1}.{block}.shortcut'
        return name, f'{name}.norm'

    def pyramid(self, level: int) -> tuple[str, str]:
        return f'backbone.fpn_lateral{level + 2}', f'backbone.fpn_output{level + 2}'

    def tower(self, branch: str, index: int) -> tuple[str, str]:
        prefix = f'ins_head.{branch.replace("category", "cate")}_tower'
        return f'{prefix}.{3 * index}', f'{prefix}.{3 * index + 1}'

    def prediction(self, branch: str) -> str:
        return f'ins_head.{branch.replace("category", "cate")}_pred'

    def mask_conv(self, level: int, index: int) -> tuple[str, str]:
        prefix = f'mask_head.convs_all_levels.{level}.conv{index}'
        return f'{prefix}.0', f'{prefix}.1'

    def offset(self, conv: str) -> str:
        return f'{conv}_offset'


FORMATS = dict(original=Original(), mmdet=MMDetection(), adelaidet=AdelaiDet())

# Shapes


class Shapes(dict):
    """Shapes of a checkpoint, entry by entry."""

    def __init__(self, names: Original, model: Model) -> None:
        super().__init__()
        self.names, self.model = names, model
        self._backbone()
        self._pyramid()
        self._head()
        self._mask_features()

    def conv(self, name: str, out: int, into: int, size: int, *, bias=False, offsets=0, groups=1):
        self[f'{name}.weight'] = (out, into // groups, size, size)
        if bias:
            self[f'{name}.bias'] = (out,)
        if offsets:
            self.conv(self.names.offset(name), offsets * size**2, into, size, bias=True)

    def norm(self, name: str, channels: int, *, batch: bool = False) -> None:
        self[f'{name}.weight'] = self[f'{name}.bias'] = (channels,)
        if batch:
            self[f'{name}.running_mean'] = self[f'{name}.running_var'] = (channels,)
        if batch and self.names.counters:
            self[f'{name}.num_batches_tracked'] = ()

    def conv_and_norm(self, names: tuple[str, str], out: int, *sizes, batch=False, **options):
        self.conv(names[0], out, *sizes, **options)
        self.norm(names[1], out, batch=batch)

    def _backbone(self) -> None:
        self.conv_and_norm(self.names.stem, 64, 3, 7, batch=True)
        channels = 64
        for stage, blocks in enumerate(BLOCKS[self.model.depth], start=1):
            for block in range(blocks):
                channels = self._block(stage, block, channels)

    def _block(self, stage: int, block: int, into: int) -> int:
        """One block; its output channels."""
        model, planes = self.model, 32 * 2**stage
        width = planes * model.group_width * model.groups // 64
        out = 4 * planes if model.bottleneck else planes
        offsets = model.offsets if stage > 1 else 0
        sizes = [(width, into, 1), (width, width, 3), (out, width, 1)]
        if not model.bottleneck:
            sizes = [(out, into, 3), (out, out, 3)]
        for number, size in enumerate(sizes, start=1):
            middle = dict(offsets=offsets, groups=model.groups) if number == 2 else {}
            names = self.names.conv(stage, block, number)
            self.conv_and_norm(names, *size, batch=True, **middle)
        if block == 0 and into != out:
            self.conv_and_norm(self.names.shortcut(stage, block), out, into, 1, batch=True)
        return out

    def _pyramid(self) -> None:
        for level in range(4):
            into = 64 * 2**level * (4 if self.model.bottleneck else 1)
            lateral, output = self.names.pyramid(level)
            self.conv(lateral, 256, into, 1, bias=True)
            self.conv(output, 256, 256, 3, bias=True)

    def _head(self) -> None:
        model = self.model
        outputs = dict(category=model.num_classes, kernel=model.mask_channels)
        for branch, out in outputs.items():
            for i in range(model.stacked_convs):
                into = model.feat_channels if i else 256 + 2 * (branch == 'kernel')
                options = dict(offsets=model.in_tower(i))
                names = self.names.tower(branch, i)
                self.conv_and_norm(names, model.feat_channels, into, 3, **options)
            self.conv(self.names.prediction(branch), out, model.feat_channels, 3, bias=True)

    def _mask_features(self) -> None:
        options = dict(offsets=self.model.in_mask)
        for level, i in MASK_CONVS:
            into = 128 if i else 258 if level == 3 else 256
            self.conv_and_norm(self.names.mask_conv(level, i), 128, into, 3, **options)
        self.conv_and_norm(self.names.mask_pred, self.model.mask_channels, 128, 1, **options)


def layout(names: str, model: str | Model) -> dict[str, tuple]:
    """The names and shapes of a checkpoint."""
    return dict(Shapes(FORMATS[names], MODELS.get(model, model)))


def without_values(names: str, model: str | Model) -> dict[str, torch.Tensor]:
    """A checkpoint's state dict that takes no memory."""
    shapes = layout(names, model)
    return {name: torch.empty(shape, device='meta') for name, shape in shapes.items()}


def with_values(names: str, model: str | Model, seed: int = 0) -> dict[str, torch.Tensor]:
    """A checkpoint's state dict of random values, under which the network stays lively.

    Deformable convolutions are at rest: their offsets are 0, wherever they are; only the weights
    of the taps, in version 2, are random.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = layout(names, model)
    return {name: _value(name, shape, generator) for name, shape in shapes.items()}


def _value(name: str, shape: tuple, generator: torch.Generator) -> torch.Tensor:
    value = torch.randn(shape, generator=generator)
    if '_offset.' in name:
        value = 0 * value if len(shape) == 4 else value
        value[: len(value) // 3 * 2] = 0
        return value * (shape[0] % 2)  # of version 2 alone, which has an odd number
    if name.endswith('num_batches_tracked'):
        return torch.tensor(7)
    if name.endswith('running_var'):
        return value.abs() + 0.5
    if name.endswith('weight'):
        return value * (2 / value[0].numel()) ** 0.5 if len(shape) == 4 else 1 + 0.2 * value
    return 0.2 * value


# What they compute


class Network:
    """A SOLOv2 in calls of torch.nn.functional."""

    def __init__(self, names: str, model: str | Model, weights: dict) -> None:
        self.names, self.model = FORMATS[names], MODELS.get(model, model)
        self.weights = weights

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, grids: tuple) -> list[torch.Tensor]:
        """Logits of all levels, kernels of all levels, mask features of images (B, 3, H, W)."""
        levels = self.pyramid(self.backbone(images))
        halved = F.interpolate(levels[0], scale_factor=0.5, mode='bilinear')
        last = F.interpolate(levels[4], size=levels[3].shape[-2:], mode='bilinear')
        inputs = [halved, *levels[1:4], last]
        heads = [self.head(x, grid) for x, grid in zip(inputs, grids, strict=True)]
        logits, kernels = zip(*heads, strict=True)
        return [*logits, *kernels, self.features(levels)]

    def conv(self, x, name: str, stride: int = 1, groups: int = 1):
        weight, bias = self.weights[f'{name}.weight'], self.weights.get(f'{name}.bias')
        offset = self.weights.get(f'{self.names.offset(name)}.bias')
        size = weight.shape[-1]
        if offset is not None and len(offset) == 3 * size**2:
            weight = weight * offset[2 * size**2 :].sigmoid().view(1, 1, size, size)
        return F.conv2d(x, weight, bias, stride, padding=size // 2, groups=groups)

    def batch_norm(self, x, name: str):
        keys = ('running_mean', 'running_var', 'weight', 'bias')
        return F.batch_norm(x, *(self.weights[f'{name}.{key}'] for key in keys))

    def conv_bn(self, x, names: tuple[str, str], stride: int = 1, groups: int = 1):
        return self.batch_norm(self.conv(x, names[0], stride, groups), names[1])

    def conv_gn(self, x, names: tuple[str, str]):
        weight, bias = (self.weights[f'{names[1]}.{key}'] for key in ('weight', 'bias'))
        return F.relu(F.group_norm(self.conv(x, names[0]), 32, weight, bias))

    def backbone(self, x) -> list:
        x = F.relu(self.conv_bn(x, self.names.stem, stride=2))
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        levels = []
        for stage, blocks in enumerate(BLOCKS[self.model.depth], start=1):
            for block in range(blocks):
                x = self.block(x, stage, block, stride=2 if stage > 1 and block == 0 else 1)
            levels.append(x)
        return levels

    def block(self, x, stage: int, block: int, stride: int):
        """AdelaiDet's ResNets halve the size in the first convolution of a bottleneck."""
        first = isinstance(self.names, AdelaiDet) or not self.model.bottleneck
        strides = [stride, 1, 1] if first else [1, stride, 1]
        count = 3 if self.model.bottleneck else 2
        out = x
        for number in range(1, count + 1):
            groups = self.model.groups if number == 2 else 1
            names = self.names.conv(stage, block, number)
            out = self.conv_bn(out, names, strides[number - 1], groups)
            out = F.relu(out) if number < count else out
        shortcut = self.names.shortcut(stage, block)
        if f'{shortcut[0]}.weight' in self.weights:
            x = self.conv_bn(x, shortcut, stride)
        return F.relu(out + x)

    def pyramid(self, levels: list) -> list:
        names = [self.names.pyramid(level) for level in range(4)]
        sums = [self.conv(x, lateral) for x, (lateral, _) in zip(levels, names, strict=True)]
        for level in (2, 1, 0):
            sums[level] = sums[level] + F.interpolate(sums[level + 1], scale_factor=2)
        outputs = [self.conv(x, output) for x, (_, output) in zip(sums, names, strict=True)]
        return [*outputs, outputs[3][:, :, ::2, ::2]]

    def head(self, x, grid: int) -> list:
        """Logits and kernels of a level."""
        x = F.interpolate(with_coordinates(x), size=(grid, grid), mode='bilinear')
        outputs = []
        for branch, cells in dict(category=x[:, :256], kernel=x).items():
            for i in range(self.model.stacked_convs):
                cells = self.conv_gn(cells, self.names.tower(branch, i))
            outputs.append(self.conv(cells, self.names.prediction(branch)))
        return outputs

    def features(self, levels: list):
        """The mask features."""
        total = self.conv_gn(levels[0], self.names.mask_conv(0, 0))
        for level in (1, 2, 3):
            x = with_coordinates(levels[3]) if level == 3 else levels[level]
            for i in range(level):
                x = self.conv_gn(x, self.names.mask_conv(level, i))
                x = F.interpolate(x, scale_factor=2, mode='bilinear')
            total = total + x
        return self.conv_gn(total, self.names.mask_pred)


def with_coordinates(x):
    batch, _, height, width = x.shape
    column = torch.linspace(-1, 1, width).view(1, 1, 1, -1).expand(batch, 1, height, -1)
    row = torch.linspace(-1, 1, height).view(1, 1, -1, 1).expand(batch, 1, -1, width)
    return torch.cat([x, column, row], 1)
