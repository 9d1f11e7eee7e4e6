"""How each code base names the parts of a SOLOv2: its format recognised, and our names for its."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mmsolov2.errors import InputError
from mmsolov2.models.state_dicts import some_of


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


def recognise(names: Iterable[str]) -> Format:
    """The one format that names belong to.

    Raises:
        InputError: if they are of another model, or of several formats or of a part of one.
    """
    names = list(names)
    starts = {start for each in FORMATS for start in each.needs}
    counts = {start: sum(name.startswith(start) for name in names) for start in sorted(starts)}
    found = [each for each in FORMATS if all(counts[start] for start in each.needs)]
    if len(found) == 1:
        return found[0]
    raise _mixed(len(names), counts) if any(counts.values()) else _other_model(names)


def _mixed(total: int, counts: Mapping[str, int]) -> InputError:
    owners = {start: [each.name for each in FORMATS if start in each.needs] for start in counts}
    parts = [
        f'{count} begin with {start} (as of {" and ".join(owners[start])})'
        for start, count in counts.items()
        if count
    ]
    return InputError(
        f'of its {total} entries {", ".join(parts)}: names of several formats, or not all of '
        'one. It is half converted, incomplete or another model; convert the file as it was '
        'published'
    )


def _other_model(names: list[str]) -> InputError:
    kinds = [OTHER_MODELS[one] for one in OTHER_MODELS for name in names if name.startswith(one)]
    parts = Counter(name.partition('.')[0] for name in names)
    listed = ', '.join(f'{part} ({count})' for part, count in parts.most_common(8))
    return InputError(
        f'this is {kinds[0] if kinds else "no SOLOv2"}: its entries are {listed or "none"}; the '
        f'first are {some_of(names)}. Only SOLOv2 is converted, of MMDetection 2.x and 3.x, '
        'WXinlong/SOLO and AdelaiDet'
    )


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
    owners = f'names of {", ".join(others)}: it is half converted'
    reason = f'have {owners if others else "no place in mmsolov2"}'
    return InputError(
        f'this is a SOLOv2 of {source.name}, but {len(left)} entries {reason}: {some_of(left)}. '
        'Convert the file as it was published; only ResNet and ResNeXt backbones with a feature '
        'pyramid are known'
    )


def version_of(source: Format, meta: object) -> str:
    """The format's name, with the version of MMDetection if the file's meta tells it."""
    versions = dict(mmengine_version='3.x', mmdet_version='2.x')
    told = [versions[key] for key in versions if isinstance(meta, Mapping) and key in meta]
    return f'{source.name} {told[0]}' if told and source is MMDET else source.name


def convention_of(source: Format, entries: Mapping) -> Convention:
    """The format's input, with the mean and the scale that the file itself may have."""
    usual = source.convention
    mean, std = (
        [round(value, 3) for value in torch.as_tensor(entries.get(name, own)).flatten().tolist()]
        for name, own in (('pixel_mean', usual.mean), ('pixel_std', usual.std))
    )
    return usual._replace(mean=mean, std=std)
