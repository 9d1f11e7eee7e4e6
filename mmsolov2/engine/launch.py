"""What the tools share: options, configs, and the checks before a run."""

import argparse
import os
from pathlib import Path

import torch
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.registry import RUNNERS
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config, DictAction
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmsolov2.errors import InputError


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add mmdet's options for configs, work folders and launchers."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config, as key=value; lists as key="[a,b]" or key=a,b',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def read_config(args: argparse.Namespace) -> Config:
    """The config of a run, with the common options applied.

    Raises:
        InputError: if the file is missing or is no config.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    setup_cache_size_limit_of_dynamo()
    config = open_config(args.config)
    config.launcher = args.launcher
    merge_options(config, args.cfg_options, args.config)
    config.work_dir = (
        args.work_dir or config.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    )
    return config


def merge_options(config: Config, options: dict | None, path: str) -> None:
    """Set the options of ``--cfg-options`` in the config of a file.

    Raises:
        InputError: if the config has no place for one.
    """
    try:
        config.merge_from_dict(options or {})
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise InputError(f'{path}: --cfg-options {options} do not fit: {error}') from error


def open_config(path: str) -> Config:
    """Read a config file.

    Raises:
        InputError: if the file is missing or is no detector's config.
    """
    if not os.path.isfile(path):
        raise InputError(f'{path}: there is no such config file; check the path')
    try:
        config = Config.fromfile(path)
    except (OSError, SyntaxError) as error:
        raise InputError(f'{path}: this config cannot be read: {error}') from error
    if 'model' not in config:
        raise InputError(f'{path}: this config has no model; pass a leaf, not a file of _base_')
    return config


def bare(model: nn.Module) -> nn.Module:
    """A model without the wrapper that several processes put around it."""
    return model.module if is_model_wrapper(model) else model


def paint_results(config: Config, args: argparse.Namespace) -> None:
    """Let mmdet's visualization hook paint the tested images, as --show and --show-dir say.

    Raises:
        InputError: if the results are RLE, which mmdet does not paint.
    """
    if config.model.get('test_cfg', {}).get('mask_format') == 'rle':
        raise InputError(
            f"{args.config}: mmdet paints bitmaps alone: --cfg-options "
            "model.test_cfg.mask_format=bitmap, or tools/predict.py"
        )
    trigger_visualization_hook(config, args)


def build_runner(config: Config) -> Runner:
    """mmengine's runner, or the one that the config names.

    Processes that torchrun started on a machine without GPUs are joined by gloo here, and the
    model is wrapped without naming a GPU: mmengine would select one for each process.
    """
    if config.launcher == 'pytorch' and not torch.cuda.is_available():
        torch.distributed.init_process_group('gloo')
        if 'model_wrapper_cfg' not in config:
            config.model_wrapper_cfg = dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=config.get('find_unused_parameters', False),
            )
    if 'runner_type' in config:
        return RUNNERS.build(config)
    return Runner.from_cfg(config)
