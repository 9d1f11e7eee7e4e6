"""What the tensors of a SOLOv2 tell of its model, and the shipped config that comes nearest."""

import functools
import math
import re
from collections.abc import Mapping
from typing import NoReturn

from torch import Tensor

from mmsolov2.cli.config import CONFIG_FOLDERS, open_config
from mmsolov2.converters.formats import Convention
from mmsolov2.errors import InputError


class Shapes(dict[str, tuple[int, ...]]):
    """Shapes of weights by their names; one that is missing is an error for the user."""

    def __missing__(self, name: str) -> NoReturn:
        raise InputError(f'the file is incomplete, {name} is missing: take the whole file')

    def count(self, before: str, after: str) -> int:
        """How many indices there are between two parts of names."""
        pattern = re.compile(rf'{re.escape(before)}(\d+){re.escape(after)}')
        return sum(pattern.fullmatch(name) is not None for name in self)


def model_settings(weights: Mapping[str, Tensor], convention: Convention) -> dict:
    """The settings of a model's config that weights and convention tell, nested as there."""
    shapes = Shapes({name: tuple(value.shape) for name, value in weights.items()})
    return dict(
        data_preprocessor=dict(
            mean=convention.mean, std=convention.std, bgr_to_rgb=convention.order == 'RGB'
        ),
        backbone=dict(**backbone_settings(shapes), style=convention.style),
        neck=neck_settings(shapes),
        mask_neck=mask_neck_settings(shapes),
        mask_head=mask_head_settings(shapes),
    )


STAGES = (1, 2, 3, 4)
Blocks = tuple[bool, tuple[int, ...]]  # whether they are bottlenecks; how many in each stage
DEPTHS: dict[Blocks, int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}


def backbone_settings(shapes: Shapes) -> dict:
    """Type and depth of a ResNet, what of a ResNeXt, and where it is deformable.

    Raises:
        InputError: if it has other numbers of blocks than any of these.
    """
    blocks = tuple(shapes.count(f'backbone.layer{stage}.', '.conv1.weight') for stage in STAGES)
    depth = DEPTHS.get(('backbone.layer1.0.conv3.weight' in shapes, blocks))
    if depth is None:
        raise InputError(
            f'the backbone has {blocks} blocks in its stages: no ResNet of depth 18, 34, 50, 101 '
            'or 152, or the file is incomplete'
        )
    width, group_width = shapes['backbone.layer1.0.conv2.weight'][:2]
    grouped = dict(groups=width // group_width, base_width=group_width)
    kinds = [deformable(shapes, f'backbone.layer{stage}.0.conv2') for stage in STAGES]
    kind = next(filter(None, kinds), None)
    return dict(
        type='ResNet' if width == group_width else 'ResNeXt',
        depth=depth,
        base_channels=shapes['backbone.conv1.weight'][0],
        **(grouped if width != group_width else {}),
        dcn=kind and dict(type=kind, deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=tuple(each is not None for each in kinds),
    )


def deformable(shapes: Shapes, conv: str) -> str | None:
    """The type of a convolution: 'DCN', 'DCNv2', or None for a plain one.

    Raises:
        InputError: if its offsets have channels of neither.
    """
    offsets = f'{conv}.conv_offset.weight'
    if offsets not in shapes:
        return None
    taps = math.prod(shapes[f'{conv}.weight'][2:])
    kinds = {2 * taps: 'DCN', 3 * taps: 'DCNv2'}  # x and y of each tap; its weight too
    channels = shapes[offsets][0]
    if channels not in kinds:
        raise InputError(
            f'{offsets} has {channels} channels: deformable convolution of one group has '
            f'{2 * taps} (version 1) or {3 * taps} (version 2)'
        )
    return kinds[channels]


def neck_settings(shapes: Shapes) -> dict:
    """Channels of the feature pyramid."""
    count = shapes.count('neck.lateral_convs.', '.conv.weight')
    lateral = [shapes[f'neck.lateral_convs.{level}.conv.weight'] for level in range(count)]
    return dict(
        in_channels=[shape[1] for shape in lateral],
        out_channels=shapes['neck.lateral_convs.0.conv.weight'][0],
    )


def mask_neck_settings(shapes: Shapes) -> dict:
    """Channels, levels and coordinates of the mask features."""
    last = shapes.count('mask_neck.convs_all_levels.', '.conv0.conv.weight') - 1
    feat_channels, in_channels = shapes['mask_neck.convs_all_levels.0.conv0.conv.weight'][:2]
    deepest = shapes[f'mask_neck.convs_all_levels.{last}.conv0.conv.weight'][1]
    kind = deformable(shapes, 'mask_neck.conv_pred.conv')
    return dict(
        in_channels=in_channels,
        feat_channels=feat_channels,
        out_channels=shapes['mask_neck.conv_pred.conv.weight'][0],
        end_level=last,
        use_coords=deepest == in_channels + 2,
        conv_cfg=kind and dict(type=kind),
    )


def mask_head_settings(shapes: Shapes) -> dict:
    """Classes, channels, kernels and coordinates of the head, and where it is deformable."""
    feat_channels, in_channels = shapes['mask_head.cls_convs.0.conv.weight'][:2]
    count = shapes.count('mask_head.cls_convs.', '.conv.weight')
    taps = shapes['mask_head.conv_kernel.weight'][0] / shapes['mask_neck.conv_pred.conv.weight'][0]
    first, last = (deformable(shapes, f'mask_head.cls_convs.{i}.conv') for i in (0, count - 1))
    return dict(
        num_classes=shapes['mask_head.conv_cls.weight'][0],
        in_channels=in_channels,
        feat_channels=feat_channels,
        stacked_convs=count,
        kernel_size=round(math.sqrt(taps)),
        use_coords=shapes['mask_head.kernel_convs.0.conv.weight'][1] == in_channels + 2,
        conv_cfg=first and dict(type=first),
        last_conv_cfg=dict(type=last) if last != first else None,
    )


@functools.cache
def shipped_models() -> dict[str, dict]:
    """The models of the COCO configs that mmsolov2 ships, by name: those that others have too."""
    root = next(folder for folder in CONFIG_FOLDERS if folder.is_dir())
    names = sorted(path.relative_to(root).as_posix() for path in root.glob('solov2/*.py'))
    models = {name: open_config(name).model.to_dict() for name in names}
    return {name: one for name, one in models.items() if not one['mask_head']['position_terms']}


DEFAULTS = dict(  # of the classes, where a config says nothing
    base_channels=64,
    dcn=None,
    stage_with_dcn=(False,) * 4,
    conv_cfg=None,
    last_conv_cfg=None,
)


def nearest_config(settings: Mapping) -> tuple[str, dict]:
    """The shipped config with the fewest other settings, and the settings it needs beside.

    Of several with the same network, the one for 36 epochs.
    """
    changes = {name: differences(settings, model) for name, model in shipped_models().items()}
    sizes = {name: sum(map(len, parts.values())) for name, parts in changes.items()}
    name = min(changes, key=lambda name: (sizes[name], 'ms-3x' not in name, len(name)))
    chosen = changes[name]
    if 'backbone' in chosen:
        chosen['backbone']['init_cfg'] = None  # the weights are of another backbone
    return name, chosen


def differences(settings: Mapping, config: Mapping) -> dict:
    """The settings of each part that a config has otherwise."""
    found = {
        part: {
            key: value
            for key, value in own.items()
            if _plain(config[part].get(key, DEFAULTS.get(key))) != _plain(value)
        }
        for part, own in settings.items()
    }
    return {part: own for part, own in found.items() if own}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def config_lines(name: str, overrides: Mapping) -> str:
    """A config that inherits a shipped one, with other settings of its model."""
    parts = [
        f'    {part}=dict({", ".join(f"{key}={value!r}" for key, value in settings.items())}),'
        for part, settings in overrides.items()
    ]
    return '\n'.join([f"_base_ = 'mmsolov2::{name}'", 'model = dict(', *parts, ')'])


def describe(settings: Mapping) -> str:
    """A model in one line."""
    backbone, head, features = (settings[key] for key in ('backbone', 'mask_head', 'mask_neck'))
    groups = f' {backbone["groups"]}x{backbone["base_width"]}d' if 'groups' in backbone else ''
    size = {512: 'full head', 256: 'light head'}.get(head['feat_channels'], 'head')
    stages = [stage for stage, dcn in zip(STAGES, backbone['stage_with_dcn'], strict=True) if dcn]
    parts = [
        f'{backbone["type"]}-{backbone["depth"]}{groups}',
        f'{size} of {head["stacked_convs"]} convolutions with {head["feat_channels"]} channels',
        f'{features["out_channels"]} mask features',
        f'{head["num_classes"]} classes',
    ]
    deformables = {
        f'stages {stages} of the backbone': backbone['dcn'],
        'the head': head['conv_cfg'],
        'the last convolutions of the head': head['last_conv_cfg'],
        'the mask features': features['conv_cfg'],
    }
    parts += [f'{conv["type"]} in {place}' for place, conv in deformables.items() if conv]
    return ', '.join(parts)
