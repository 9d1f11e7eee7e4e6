"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``."""

import argparse
from pathlib import Path

from mmsolov2.cli.config import add_tta, with_tta
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.cli.launch import (
    add_common_options,
    build_loops,
    build_runner,
    paint_results,
    read_config,
)
from mmsolov2.cli.signals import stop_on_signals
from mmsolov2.evaluation import DumpInstances
from mmsolov2.fileio import require_folder
from mmsolov2.models.state_dicts import read_matching, unwrap_model


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or address')
    parser.add_argument('--out', help='write all predictions to this pickle file (.pkl)')
    parser.add_argument('--show', action='store_true', help='show painted images in a window')
    parser.add_argument('--show-dir', help='write painted images to this folder in the work folder')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds between windows')
    add_tta(parser)
    add_common_options(parser)
    args = parser.parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end in .pkl or .pickle, not {args.out!r}')
    return args


def main() -> None:
    args = parse_args()
    stop_on_signals(within=5)
    with exit_with_message(args.config):
        args.cfg_options = with_tta(args)
        config = read_config(args)
        config.load_from = args.checkpoint
        if args.out:
            require_folder(Path(args.out).parent)
        if args.show or args.show_dir:
            paint_results(config, args)
        runner = build_runner(config)
        read_matching(unwrap_model(runner.model), args.checkpoint)  # or say what does not match
        build_loops(runner, 'test')
        if args.out:
            runner.test_evaluator.metrics.append(DumpInstances(out_file_path=args.out))
        runner.test()


if __name__ == '__main__':
    main()
