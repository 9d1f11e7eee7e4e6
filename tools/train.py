"""Train a model: ``python tools/train.py CONFIG``."""

import argparse

from mmsolov2.cli.arguments import at_least
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.cli.launch import (
    add_common_options,
    apply_training_options,
    build_loops,
    build_runner,
    read_config,
)
from mmsolov2.cli.resume import require_same_training
from mmsolov2.cli.signals import stop_on_signals


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model')
    parser.add_argument('config', help='config file')
    text = 'go on from the last checkpoint in the work folder, or from the given one'
    parser.add_argument('--resume', nargs='?', const='auto', help=text)
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (GPU)')
    text = 'scale the learning rate by the batch size over auto_scale_lr.base_batch_size'
    parser.add_argument('--auto-scale-lr', action='store_true', help=text)
    text = 'epochs to train, to which the schedule of the config is squeezed or stretched'
    parser.add_argument('--epochs', type=at_least(1), help=text)
    add_common_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    stop_on_signals(within=5)
    with exit_with_message(args.config):
        config = read_config(args)
        apply_training_options(config, args)
        runner = build_runner(config)
        build_loops(runner, 'train', 'val')
        require_same_training(runner)
        runner.train()


if __name__ == '__main__':
    main()
