"""Convert a SOLOv2 checkpoint of MMDetection, WXinlong/SOLO or AdelaiDet for mmsolov2.

    python tools/convert_checkpoint.py IN OUT

says which format IN has, which model it is, how its images must be prepared, and which config has
all that, and writes the same into OUT, under ``meta``. Every entry of IN gets its place, or nothing
is written; the exit status is then 2. IN is read with torch's safe loader: it cannot run code.
"""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.runner.checkpoint import CheckpointLoader

from mmsolov2.cli.arguments import tool_parser
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.converters.convert import convert, report, to_checkpoint
from mmsolov2.errors import InputError
from mmsolov2.fileio import write_whole


def check_paths(source: str, out: Path, *, force: bool) -> None:
    """Raise InputError if OUT is IN, or is there already and must not be replaced."""
    if os.path.realpath(source) == os.path.realpath(out):
        raise InputError(f'{out}: OUT is IN itself, which is never replaced; give another OUT')
    if out.is_dir() or (out.exists() and not force):
        remedy = 'a file' if out.is_dir() else 'another OUT, or --force to replace it'
        raise InputError(f'{out}: this is there already; give {remedy}')


def main(argv: Sequence[str] | None = None) -> int:
    parser = tool_parser(__doc__)
    parser.add_argument('source', metavar='IN', help='checkpoint file (.pth) or address')
    parser.add_argument('out', metavar='OUT', type=Path, help='file to write; folders are made')
    parser.add_argument('--force', action='store_true', help='replace OUT if it is there')
    args = parser.parse_args(argv)
    with exit_with_message(args.source):
        check_paths(args.source, args.out, force=args.force)
        checkpoint = CheckpointLoader.load_checkpoint(args.source, 'cpu', logger='silent')
        try:
            conversion = convert(checkpoint)
        except InputError as error:
            raise InputError(f'{args.source}: {error}') from error
        data = io.BytesIO()
        torch.save(to_checkpoint(conversion), data)
        write_whole(args.out, data.getbuffer())
        print(f'{report(conversion)}\nwritten: {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
