"""Checkpoints of other SOLOv2 code, converted: new names, and the settings that they need."""

import copy
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, NoReturn

import torch
from mmengine.registry import init_default_scope
from torch import Tensor

from mmsolov2.cli.config import CONFIG_FOLDERS, open_config
from mmsolov2.errors import InputError
from mmsolov2.models.dynamic_conv import with_balanced_taps
from mmsolov2.models.state_dicts import mismatches, state_dict_of
from mmsolov2.registry import MODELS

# Formats: how each code base names what


class Convention(NamedTuple):
    """What a backbone was trained with, and no tensor tells."""

    order: str  # of the colours, in mean and std too
    mean: list[float]
    std: list[float]
    style: str  # mmdet's name for which convolution of a bottleneck has the stride


class Format(NamedTuple):
    """The names that one code base gives to the parts of a SOLOv2."""

    name: str
    needs: tuple[str, ...]  # what names begin with in every file of this format
    rules: tuple[tuple[str, str | Callable], ...]  # pattern of a whole name: our name
    convention: Convention


def renamed(name: str, rules: Iterable[tuple[str, str | Callable]]) -> str | None:
    """A name after the first rule that fits all of it; None if none does.

    >>> renamed('backbone.fpn_output3.weight', ADELAIDET.rules)
    'neck.fpn_convs.1.conv.weight'
    """
    for pattern, new in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return new(match) if callable(new) else match.expand(new)
    return None


def _tower(match: re.Match) -> str | None:
    """A layer of AdelaiDet's towers, in which convolution, GroupNorm and ReLU take turns."""
    branch = {'cate': 'cls', 'kernel': 'kernel'}[match[1]]
    index, part = divmod(int(match[2]), 3)
    layer = ('conv', 'gn', None)[part]
    return layer and f'mask_head.{branch}_convs.{index}.{layer}.{match[3]}'


def _block(match: re.Match) -> str | None:
    """A parameter of a block of detectron2's ResNet, whose stages begin at res2."""
    name = renamed(match[3], DETECTRON2_BLOCK)
    return name and f'backbone.layer{int(match[1]) - 1}.{match[2]}.{name}'


def _pyramid(match: re.Match) -> str:
    """A convolution of detectron2's feature pyramid, whose levels begin at 2."""
    kind = {'lateral': 'lateral', 'output': 'fpn'}[match[1]]
    return f'neck.{kind}_convs.{int(match[2]) - 2}.conv.{match[3]}'


TORCHVISION = Convention('RGB', [123.675, 116.28, 103.53], [58.395, 57.12, 57.375], 'pytorch')
MSRA = Convention('BGR', [103.53, 116.28, 123.675], [1.0, 1.0, 1.0], 'caffe')
DETECTRON2_BLOCK = (
    (r'conv(\d)\.weight', r'conv\1.weight'),
    (r'conv(\d)\.norm\.(\w+)', r'bn\1.\2'),
    (r'conv2_offset\.(\w+)', r'conv2.conv_offset.\1'),  # of its deformable blocks
    (r'shortcut\.weight', r'downsample.0.weight'),
    (r'shortcut\.norm\.(\w+)', r'downsample.1.\1'),
)
RESNET_AND_PYRAMID = (
    (r'backbone\.(conv1|bn1|layer\d\.\d+\..+)\.\w+', r'\g<0>'),
    (r'neck\.(lateral|fpn)_convs\.\d+\.conv\.\w+', r'\g<0>'),
)
HEAD = ((r'mask_head\.(cls_convs|kernel_convs|conv_cls|conv_kernel)\..+', r'\g<0>'),)

ORIGINAL = Format(
    'WXinlong/SOLO',
    ('bbox_head.kernel_convs.', 'mask_feat_head.'),
    (
        *RESNET_AND_PYRAMID,
        (r'bbox_head\.cate_convs\.(.+)', r'mask_head.cls_convs.\1'),
        (r'bbox_head\.kernel_convs\.(.+)', r'mask_head.kernel_convs.\1'),
        (r'bbox_head\.solo_cate\.(.+)', r'mask_head.conv_cls.\1'),
        (r'bbox_head\.solo_kernel\.(.+)', r'mask_head.conv_kernel.\1'),
        (r'mask_feat_head\.(convs_all_levels\..+)', r'mask_neck.\1'),
        (r'mask_feat_head\.conv_pred\.0\.(.+)', r'mask_neck.conv_pred.\1'),
    ),
    TORCHVISION,
)
ADELAIDET = Format(
    'AdelaiDet',
    ('ins_head.', 'mask_head.convs_all_levels.'),
    (
        (r'backbone\.bottom_up\.stem\.conv1\.weight', r'backbone.conv1.weight'),
        (r'backbone\.bottom_up\.stem\.conv1\.norm\.(\w+)', r'backbone.bn1.\1'),
        (r'backbone\.bottom_up\.res([2-5])\.(\d+)\.(.+)', _block),
        (r'backbone\.fpn_(lateral|output)([2-5])\.(\w+)', _pyramid),
        (r'ins_head\.(cate|kernel)_tower\.(\d+)\.(\w+)', _tower),
        (r'ins_head\.cate_pred\.(\w+)', r'mask_head.conv_cls.\1'),
        (r'ins_head\.kernel_pred\.(\w+)', r'mask_head.conv_kernel.\1'),
        (r'mask_head\.(convs_all_levels\.\d+\.conv\d+)\.0\.(\w+)', r'mask_neck.\1.conv.\2'),
        (r'mask_head\.(convs_all_levels\.\d+\.conv\d+)\.1\.(\w+)', r'mask_neck.\1.gn.\2'),
        (r'mask_head\.conv_pred\.0\.(\w+)', r'mask_neck.conv_pred.conv.\1'),
        (r'mask_head\.conv_pred\.1\.(\w+)', r'mask_neck.conv_pred.gn.\1'),
    ),
    MSRA,
)
MMDET = Format(
    'MMDetection',
    ('mask_head.kernel_convs.', 'mask_head.mask_feature_head.'),
    (
        *RESNET_AND_PYRAMID,
        *HEAD,
        (r'mask_head\.mask_feature_head\.(.+)', r'mask_neck.\1'),
    ),
    TORCHVISION,
)
OURS = Format(
    'mmsolov2',
    ('mask_head.kernel_convs.', 'mask_neck.'),
    (*RESNET_AND_PYRAMID, *HEAD, (r'mask_neck\..+', r'\g<0>')),
    TORCHVISION,
)
FORMATS = (ORIGINAL, ADELAIDET, MMDET, OURS)
DROPPED = ('pixel_mean', 'pixel_std')  # detectron2's, no weights
OTHER_MODELS = {  # by what a name of theirs begins with
    'bbox_head.solo_ins_list.': 'a SOLO, the first version, of WXinlong/SOLO',
    'bbox_head.dsolo_ins_list': 'a decoupled SOLO of WXinlong/SOLO',
    'mask_head.conv_mask_list': 'a SOLO, the first version, of MMDetection',
    'bbox_head.controller.': 'a CondInst of MMDetection',
    'roi_head.': 'a two-stage model of MMDetection, as Mask R-CNN',
    'roi_heads.': 'a two-stage model of detectron2, as Mask R-CNN',
    'proposal_generator.': 'a model of detectron2 or AdelaiDet that proposes boxes',
    'proto_net.': 'a YOLACT',
    'mask_head.protonet.': 'a YOLACT of MMDetection',
    'fc.weight': 'a classifier, as a ResNet of torchvision',
}

# Which format


def recognise(names: Iterable[str]) -> Format:
    """The one format that names belong to.

    Raises:
        InputError: if they are of another model, or of several formats or of a part of one.
    """
    names = list(names)
    found = [each for each in FORMATS if all(_count(names, start) for start in each.needs)]
    if len(found) == 1:
        return found[0]
    starts = dict.fromkeys(start for each in FORMATS for start in each.needs)
    present = [start for start in starts if _count(names, start)]
    raise _mixed(names, present) if present else _other_model(names)


def _count(names: Iterable[str], start: str) -> int:
    return sum(name.startswith(start) for name in names)


def _mixed(names: list[str], starts: list[str]) -> InputError:
    owners = {start: [each.name for each in FORMATS if start in each.needs] for start in starts}
    parts = [
        f'{_count(names, start)} begin with {start} (as of {" and ".join(owners[start])})'
        for start in starts
    ]
    return InputError(
        f'of its {len(names)} entries {", ".join(parts)}: names of several formats, or not all of '
        'one. It is half converted, incomplete or another model; convert the file as it was '
        'published'
    )


def _other_model(names: list[str]) -> InputError:
    kinds = [kind for start, kind in OTHER_MODELS.items() if _count(names, start)]
    parts = Counter(name.partition('.')[0] for name in names)
    listed = ', '.join(f'{part} ({count})' for part, count in parts.most_common(8))
    return InputError(
        f'this is {kinds[0] if kinds else "no SOLOv2"}: its entries are {listed or "none"}; the '
        f'first are {_some(names)}. Only SOLOv2 is converted, of MMDetection 2.x and 3.x, '
        'WXinlong/SOLO and AdelaiDet'
    )


def _some(names: list[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def _version(source: Format, meta: Mapping) -> str:
    """The format's name, with the version of MMDetection if the file's meta tells it."""
    if source is not MMDET or not meta.keys() & {'mmengine_version', 'mmdet_version'}:
        return source.name
    return f'{source.name} {"3.x" if "mmengine_version" in meta else "2.x"}'


# Names


def rename_all(state_dict: Mapping, source: Format) -> dict[str, Tensor]:
    """A new state dict with our names.

    Raises:
        InputError: if a name is left, or all were ours before.
    """
    pairs = {name: renamed(name, source.rules) for name in state_dict}
    left = [name for name, new in pairs.items() if new is None]
    if left:
        raise _left_over(left, source)
    if source is OURS:
        raise InputError(
            'this is a checkpoint of mmsolov2 already: use it as it is, there is nothing to convert'
        )
    return {new: torch.as_tensor(state_dict[name]) for name, new in pairs.items() if new}


def _left_over(left: list[str], source: Format) -> InputError:
    others = [each.name for each in FORMATS if any(renamed(name, each.rules) for name in left)]
    reason = (
        f'have names of {", ".join(others)}: it is half converted'
        if others
        else ('have no place in mmsolov2')
    )
    return InputError(
        f'this is a SOLOv2 of {source.name}, but {len(left)} entries {reason}: {_some(left)}. '
        'Convert the file as it was published; only ResNet and ResNeXt backbones with a feature '
        'pyramid are known'
    )


def with_counters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the batch counters that detectron2's BatchNorm lacks, at 0."""
    counters = (
        name.replace('running_var', 'num_batches_tracked')
        for name in weights
        if name.endswith('.running_var')
    )
    return {**{name: torch.tensor(0) for name in counters}, **weights}


# What the tensors tell


def for_balanced_taps(weights: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Weights that give the same kernels of side ``size`` although our head divides outer taps."""
    if size == 1:
        return weights
    names = [name for name in weights if name.startswith('mask_head.conv_kernel.')]
    ones = torch.ones(1, len(weights[names[0]]), 1, 1)
    share = with_balanced_taps(ones, size).flatten()
    scaled = {name: (weights[name].movedim(0, -1) / share).movedim(-1, 0) for name in names}
    return weights | {name: value.to(weights[name].dtype) for name, value in scaled.items()}


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
DEPTHS: dict[
    tuple[bool, tuple[int, ...]], int
] = {  # whether blocks are bottlenecks, and blocks in each stage
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


# Configs


@functools.cache
def shipped_models() -> dict[str, dict]:
    """The model of every COCO config that mmsolov2 ships, by the config's name."""
    root = next(folder for folder in CONFIG_FOLDERS if folder.is_dir())
    names = sorted(path.relative_to(root).as_posix() for path in root.glob('solov2/*.py'))
    return {name: open_config(name).model.to_dict() for name in names}


DEFAULTS = dict(  # of the classes, where a config says nothing
    base_channels=64,
    dcn=None,
    deform_groups=1,
    fallback_on_stride=False,
    stage_with_dcn=(False,) * 4,
    conv_cfg=None,
    last_conv_cfg=None,
)


def nearest_config(settings: Mapping) -> tuple[str, dict]:
    """The shipped config with the fewest other settings, and the settings it needs beside.

    Of several with the same network, the one for 36 epochs.
    """
    changes = {name: differences(settings, model) for name, model in shipped_models().items()}
    name = min(changes, key=lambda name: (_size(changes[name]), 'ms-3x' not in name, len(name)))
    chosen = changes[name]
    if 'backbone' in chosen:
        chosen['backbone']['init_cfg'] = None  # the weights are of another backbone
    return name, chosen


def differences(settings: Mapping, config: Mapping) -> dict:
    """The settings that a config has otherwise, nested as they are."""
    found = {}
    for key, value in settings.items():
        present = config.get(key, DEFAULTS.get(key))
        if isinstance(value, Mapping) and isinstance(present, Mapping):
            inner = differences(value, present)
            found.update({key: inner} if inner else {})
        elif _plain(value) != _plain(present):
            found[key] = value
    return found


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _size(settings: object) -> int:
    """The number of settings in nested dicts."""
    return sum(map(_size, settings.values())) if isinstance(settings, Mapping) else 1


def config_lines(name: str, overrides: Mapping) -> str:
    """A config that inherits a shipped one, with other settings of its model."""
    parts = [
        f'    {part}=dict({", ".join(f"{key}={value!r}" for key, value in settings.items())}),'
        for part, settings in overrides.items()
    ]
    return '\n'.join([f"_base_ = 'mmsolov2::{name}'", 'model = dict(', *parts, ')'])


def require_complete(weights: Mapping[str, Tensor], name: str, overrides: Mapping) -> None:
    """Raise InputError unless weights are all that a config's model has, in the same shapes."""
    config = open_config(name)
    config.merge_from_dict(dict(model=copy.deepcopy(overrides)))
    init_default_scope('mmdet')
    try:
        model = MODELS.build(config.model)
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(f'mmsolov2 has no such model: {error}; {overrides}') from error
    _, wrong = mismatches(model, weights)
    if wrong:
        raise InputError(
            f'{len(wrong)} entries do not fit the model that the others describe: {_some(wrong)}. '
            'The file is incomplete or half converted; convert the file as it was published'
        )


# All of it


class Conversion(NamedTuple):
    """A converted checkpoint, and what was found out about it."""

    source: str  # the format
    weights: dict[str, Tensor]
    convention: Convention
    settings: dict  # of the model's config, as far as the file tells
    config: str  # the nearest one that mmsolov2 ships
    overrides: dict  # settings that this one has otherwise
    added: int  # counters of BatchNorm
    dropped: list[str]
    classes: tuple[str, ...] | None


def convert(checkpoint: Mapping) -> Conversion:
    """Convert a checkpoint of another SOLOv2: every entry, with nothing missing.

    The formats are those of MMDetection 2.x and 3.x, of WXinlong/SOLO and of AdelaiDet. The
    tensors are the checkpoint's own, in a new dict, but for those of kernels larger than 1x1
    (``dynamic_conv.with_balanced_taps``). The names of AdelaiDet's backbone are
    detectron2's, those of its deformable blocks too.

    Raises:
        InputError: if it is none of these, or any of its entries has no place.
    """
    entries = state_dict_of(checkpoint)
    state_dict = {name: value for name, value in entries.items() if name not in DROPPED}
    source = recognise(state_dict)
    weights = rename_all(state_dict, source)
    complete = with_counters(weights)
    convention = _convention(source, entries)
    settings = model_settings(complete, convention)
    if source is ADELAIDET and settings['backbone']['type'] != 'ResNet':
        raise InputError(
            "AdelaiDet's SOLOv2 with a ResNeXt: detectron2 trains these with other strides and "
            'scaling than ResNets, which the file does not tell; only ResNets are converted'
        )
    complete = for_balanced_taps(complete, settings['mask_head']['kernel_size'])
    config, overrides = nearest_config(settings)
    require_complete(complete, config, overrides)
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    return Conversion(
        source=_version(source, meta),
        weights=complete,
        convention=convention,
        settings=settings,
        config=config,
        overrides=overrides,
        added=len(complete) - len(weights),
        dropped=sorted(entries.keys() - state_dict.keys()),
        classes=_class_names(meta, settings['mask_head']['num_classes']),
    )


def _convention(source: Format, entries: Mapping) -> Convention:
    """The format's input, with the mean and the scale that the file itself may have."""
    usual = source.convention
    mean, std = (
        [round(value, 3) for value in torch.as_tensor(entries.get(name, own)).flatten().tolist()]
        for name, own in (('pixel_mean', usual.mean), ('pixel_std', usual.std))
    )
    return usual._replace(mean=mean, std=std)


def _class_names(meta: Mapping, count: int) -> tuple[str, ...] | None:
    """The class names in a checkpoint's meta, of mmengine or of mmcv; None unless ``count``."""
    stored = meta.get('dataset_meta') or meta
    names = next((stored[key] for key in ('classes', 'CLASSES') if stored.get(key)), ())
    names = (names,) if isinstance(names, str) else tuple(names)
    return names if len(names) == count else None


def to_checkpoint(conversion: Conversion) -> dict:
    """A checkpoint that mmengine loads; its ``meta`` has plain types alone."""
    classes = conversion.classes
    meta = dict(
        source_format=conversion.source,
        color_order=conversion.convention.order,
        mean=conversion.convention.mean,
        std=conversion.convention.std,
        backbone_style=conversion.convention.style,
        config=conversion.config,
        config_overrides=conversion.overrides,
        **({} if classes is None else dict(dataset_meta=dict(classes=classes))),
    )
    return dict(meta=meta, state_dict=conversion.weights)


def report(conversion: Conversion) -> str:
    """What was found and done, and the config to use, in a few lines."""
    convention = conversion.convention
    lines = [
        f'format: {conversion.source}',
        f'model: {describe(conversion.settings)}',
        'input: {}, mean {}, std {}; backbone style {!r}'.format(*convention),
        (
            f'entries: {len(conversion.weights)}, of which {conversion.added} are new counters of '
            f'BatchNorm; left out: {", ".join(conversion.dropped) or "none"}'
        ),
    ]
    if conversion.overrides:
        text = config_lines(conversion.config, conversion.overrides)
        return '\n'.join([*lines, 'config: none that is shipped fits; this one does:', text])
    return '\n'.join([*lines, f'config: {conversion.config}'])


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
