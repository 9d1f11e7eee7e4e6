"""Train a model: ``python tools/train.py CONFIG``."""

import argparse

import torch

from mmsolov2.cli.errors import exit_with_message
from mmsolov2.cli.launch import add_common_options, build_loops, build_runner, read_config
from mmsolov2.cli.resume import require_same_training
from mmsolov2.cli.signals import stop_on_signals
from mmsolov2.errors import InputError
from mmsolov2.fileio import latest_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from the last checkpoint in the work folder, or from the given one',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (GPU)')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the batch size over auto_scale_lr.base_batch_size',
    )
    add_common_options(parser)
    return parser.parse_args()


def apply_options(config, args: argparse.Namespace) -> None:
    """Put the options of training into the config.

    Raises:
        InputError: if an option does not go with the config or the machine.
    """
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


def main() -> None:
    args = parse_args()
    stop_on_signals(within=5)
    with exit_with_message(args.config):
        config = read_config(args)
        apply_options(config, args)
        runner = build_runner(config)
        build_loops(runner, 'train', 'val')
        require_same_training(runner)
        runner.train()


if __name__ == '__main__':
    main()
