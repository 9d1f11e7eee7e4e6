"""mmdet's SOLOv2 and ours for benchmarks: the same weights, sizes and type of numbers."""

import argparse
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import mmcv
import mmdet
import torch
from mmengine.config import Config
from torch import nn

from benchmarks.inputs import Pictures, pad_to
from mmsolov2.cli.config import find_config, open_config
from mmsolov2.errors import InputError
from mmsolov2.registry import MODELS

THEIRS = Path(mmdet.__file__).parent / '.mim' / 'configs' / 'solov2'
SIZE = '800x1067'  # what the test pipeline makes of COCO's 480x640, before padding to 800x1088
TEST_SCALE = (1333, 800)  # of COCO's test pipelines: long and short side at most
AMP = dict(bf16=torch.bfloat16, fp16=torch.float16)
OPTIONS = {  # of the network part, by their names on the command line
    'none': {},
    'channels-last': dict(channels_last=True),
    'bfloat16': dict(predict_dtype='bfloat16'),
    'float16': dict(predict_dtype='float16'),
    'compile': dict(compile=True),
    'all-bfloat16': dict(channels_last=True, predict_dtype='bfloat16', compile=True),
}
Runs = Mapping[str, Callable[[], object]]  # by 'mmdet', 'ours' and 'floor'


class Pair(NamedTuple):
    """mmdet's model and ours, with the same weights."""

    theirs: nn.Module
    ours: nn.Module


def open_pair(args: argparse.Namespace, case: dict) -> tuple[Config, Config]:
    """Mmdet's config and ours, with the case's classes, mask format and option of the network.

    Raises:
        InputError: if mmdet has no config of that name.
    """
    path = find_config(args.config)
    twin = THEIRS / f'{path.stem}.py'
    if not twin.is_file():
        names = ', '.join(sorted(file.stem for file in THEIRS.glob('*.py')))
        raise InputError(f'{args.config}: mmdet has no config of this name; it has {names}')
    theirs, ours = Config.fromfile(twin), open_config(path, args.cfg_options)
    ours.model.update(OPTIONS[case.get('option', 'none')])
    ours.model.test_cfg.mask_format = case.get('format', 'bitmap')
    for config in (theirs, ours):
        config.model.backbone.init_cfg = None
        config.model.mask_head.num_classes = case.get('classes', 80)
    return theirs, ours


def build_models(args: argparse.Namespace, case: dict) -> Pair:
    """Both models, with the same random weights."""
    torch.manual_seed(0)
    theirs, ours = (MODELS.build(one.model).eval() for one in open_pair(args, case))
    theirs.init_weights()
    ours.load_state_dict(theirs.state_dict())
    return Pair(theirs.to(args.device), ours.to(args.device))


def build_heads(args: argparse.Namespace, case: dict) -> Pair:
    """Both heads alone, for what does not need their weights."""
    theirs, ours = (one.model for one in open_pair(args, case))
    ours.mask_head.mask_channels = ours.mask_neck.out_channels
    heads = [MODELS.build({**one.mask_head, 'test_cfg': one.test_cfg}) for one in (theirs, ours)]
    return Pair(*(head.eval().to(args.device) for head in heads))


def pictures_of(args: argparse.Namespace, case: dict) -> Pictures:
    """Sizes of a case's pictures: its ``image`` in the test pipeline, or the command line's."""
    size = case.get('size', args.size)
    if 'image' in case and 'size' not in case:
        height, width = parse_size(case['image'])
        box = TEST_SCALE if size == SIZE else parse_size(size)
        resized = mmcv.rescale_size((width, height), box)[::-1]
        return Pictures((height, width), resized, pad_to(resized))
    resized = parse_size(size)
    shrunk = tuple(max(round(0.6 * side), 1) for side in resized)
    return Pictures(
        parse_size(args.original) if args.original else shrunk, resized, pad_to(resized)
    )


def autocast(args: argparse.Namespace):
    """The context of the network's type of numbers."""
    if args.amp is None:
        return nullcontext()
    return torch.autocast(args.device.type, dtype=AMP[args.amp])


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of HxW.

    Raises:
        InputError: if it is not two numbers of at least 1.
    """
    parts = text.lower().split('x')
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f'a size is HxW, as 480x640, not {text!r}')
    return int(parts[0]), int(parts[1])
