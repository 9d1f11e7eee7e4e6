"""What the tools share: options, configs, and the checks before a run."""

import argparse
import os
from itertools import chain
from pathlib import Path

import torch
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.registry import RUNNERS
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.optim import ConstantParamScheduler, LinearParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmsolov2.cli.config import add_cfg_options, dataset_of, open_config, require_images
from mmsolov2.cli.errors import error_context
from mmsolov2.cli.schedule import schedule_options
from mmsolov2.errors import InputError
from mmsolov2.fileio import latest_checkpoint, require_folder

RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add mmdet's options for configs, work folders and launchers."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def read_config(args: argparse.Namespace) -> Config:
    """The config of a run, with the common options applied.

    Raises:
        InputError: if the config cannot be used, the work folder cannot be made, or the launcher
            has not started this process.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    setup_cache_size_limit_of_dynamo()
    rank = RANKS.get(args.launcher)
    if rank and rank not in os.environ:
        raise InputError(
            f'--launcher {args.launcher}: {rank} is not set; start with tools/dist_train.sh, '
            'tools/dist_test.sh or the launcher itself'
        )
    config = open_config(args.config, args.cfg_options)
    config.launcher = args.launcher
    config.work_dir = (
        args.work_dir or config.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    )
    require_folder(config.work_dir)
    return config


def apply_training_options(config: Config, args: argparse.Namespace) -> None:
    """Put --epochs, --amp, --auto-scale-lr and --resume into the config of a training.

    Raises:
        InputError: if an option does not go with the config or the machine.
    """
    if args.epochs:
        config.merge_from_dict(schedule_options(config, args.epochs))
    if args.amp:
        if not torch.cuda.is_available():
            raise InputError('--amp needs a GPU, and torch sees none: leave it out')
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.loss_scale = 'dynamic'
    if args.auto_scale_lr:
        if 'base_batch_size' not in config.get('auto_scale_lr', {}):
            raise InputError(
                f'{args.config}: --auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in '
                'the config'
            )
        config.auto_scale_lr.enable = True
    if args.resume:
        is_auto = args.resume == 'auto'
        checkpoint = latest_checkpoint(config.work_dir) if is_auto else args.resume
        if checkpoint is None:
            print(f'--resume: {config.work_dir} has no checkpoint yet: training starts anew')
        else:
            config.resume, config.load_from = True, checkpoint


def paint_results(config: Config, args: argparse.Namespace) -> None:
    """Let mmdet's visualization hook paint the tested images, as --show and --show-dir say.

    Raises:
        InputError: if the config has no such hook, or its pictures are no images.
    """
    if 'visualization' not in config.get('default_hooks', {}):
        raise InputError(
            f'{args.config}: --show and --show-dir need a hook that paints: '
            "default_hooks=dict(visualization=dict(type='DetVisualizationHook'))"
        )
    require_images(config, '--show or --show-dir')
    trigger_visualization_hook(config, args)


def is_of_the_machine(error: Exception) -> bool:
    """Whether an error is of memory, disk, GPU or other processes, and not of a setting."""
    kinds = (MemoryError, OSError, torch.cuda.OutOfMemoryError, torch.distributed.DistError)
    words = ('DefaultCPUAllocator', 'CUDA error', 'gloo')  # of torch's plain RuntimeErrors
    return isinstance(error, kinds) or (
        type(error) is RuntimeError and any(word in str(error) for word in words)
    )


class CheckedRunner(Runner):
    """mmengine's runner, which names the config for what is wrong before the first iteration."""

    begun = False

    def train(self) -> nn.Module:
        """Train: the model.

        Errors of the machine stay what they are, with their traceback.

        Raises:
            InputError: if a setting fails before the first data are loaded.
        """
        try:
            return super().train()
        except Exception as error:
            if self.begun or is_of_the_machine(error):
                raise
            with error_context(self._name):
                raise

    @property
    def _name(self) -> str:
        """What messages call this training: its config's file, if it has one."""
        return self.cfg.filename or 'training'

    def call_hook(self, fn_name: str, **kwargs: object) -> None:
        """Let the hooks do what is due, and note when training begins."""
        self.begun = self.begun or fn_name == 'before_train_epoch'
        super().call_hook(fn_name, **kwargs)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop.

        Raises:
            InputError: if it would fail when validation is due.
        """
        loop = super().build_train_loop(loop)
        interval = getattr(loop, 'val_interval', 1)
        if self._val_loop is not None and not (isinstance(interval, int) and interval >= 1):
            raise InputError(
                f'{self._name}: train_cfg.val_interval must be a whole number of at least '
                f'1, not {interval!r}; to train without validation, set val_cfg, val_dataloader '
                'and val_evaluator to None'
            )
        return loop

    def build_param_scheduler(self, scheduler: list | dict) -> list | dict:
        """Build schedulers, and warn of a warm-up that the training ends in."""
        schedulers = super().build_param_scheduler(scheduler)
        parts = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
        warming = (ConstantParamScheduler, LinearParamScheduler)
        for each in chain(*parts):
            unit, last = ('epoch', self.max_epochs) if each.by_epoch else ('iter', self.max_iters)
            if isinstance(each, warming) and last < each.end != INF:  # INF: no end is set
                self.logger.warning(
                    f'{self._name}: {type(each).__name__} changes the {each.param_name} up '
                    f'to {unit} {each.end}, but this training ends with {unit} {last}: lower its '
                    'end in param_scheduler, or train for longer'
                )
        return schedulers


def build_runner(config: Config) -> Runner:
    """Mmengine's runner, or the one that the config names.

    Processes that torchrun started on a machine without GPUs are joined by gloo here, and the
    model is wrapped without naming a GPU: mmengine would select one for each process.

    Raises:
        InputError: if a part of the config cannot be built.
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
    with error_context(config.filename or 'training'):
        return RUNNERS.build(config) if 'runner_type' in config else CheckedRunner.from_cfg(config)


def build_loops(runner: Runner, *names: str) -> None:
    """Build loops of a runner, train, val or test, with their data, before anything is run.

    With train comes the optimizer.

    Raises:
        InputError: if a part of them cannot be built, or the first is not in the config.
    """
    dataset_of(runner.cfg, names[0])
    for name in names:
        with error_context(runner.cfg.filename or 'training'):
            getattr(runner, f'{name}_loop')
            if name == 'train' and isinstance(runner, Runner):  # others build it on their own
                runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
