"""Check one's own data, whatever wrote them, bring them into COCO's format, and split them.

    python tools/dataset.py check DATA [--json FILE]
    python tools/dataset.py convert DATA [--out DIR]
    python tools/dataset.py split DATA [--out DIR] [--val-share 0.2] [--seed 0]
    python tools/dataset.py stats DATA [--out PNG]
    python tools/dataset.py configure DATA --out DIR [--model M] [--weights W] [--epochs N]

DATA is a folder, or the one file in it that describes the pictures: COCO JSON (also of Roboflow,
CVAT and Label Studio), YOLO-seg, CVAT for images 1.1, labelme, or pictures with masks; docs/data.md
has a tree of each. What is in DATA stays as it is.

- ``check`` decodes every picture and looks at every mask, and prints what it found and what to do;
  the exit status is 1 if there are errors. ``--json`` writes the same for other programs.
- ``convert`` writes {train,val,test}.json, or all.json where there are no splits.
- ``split`` writes train.json and val.json: every class in both, copies of a picture never apart.
- ``stats`` prints sizes and counts, and which levels of the model that fits them learn how many.
- ``configure`` writes the config that tools/fit.py would train, and the COCO files that it names.

convert and split write into DATA/annotations_coco or ``--out``, and replace only files that they
wrote themselves, unless ``--force`` says so. Names of pictures start from the folder that is
printed: the ``data_prefix`` of a config.
"""

import argparse
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from mmsolov2.apis.configure import choose_model, propose
from mmsolov2.apis.fit import write_config
from mmsolov2.cli.arguments import at_least, tool_parser
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.cli.signals import stop_on_signals
from mmsolov2.cli.tables import markdown_table
from mmsolov2.datasets.checks import LEVELS, Finding, check, usable
from mmsolov2.datasets.importers import Source, find_source
from mmsolov2.datasets.splits import split
from mmsolov2.datasets.statistics import statistics
from mmsolov2.errors import InputError
from mmsolov2.fileio import write_whole
from mmsolov2.visualization.statistics import levels_table, parts_table, plot_parts

DESCRIPTION = 'written by tools/dataset.py of mmsolov2'
SHOWN = 20  # names of pictures printed
Command = Callable[[argparse.Namespace], int]


def in_one_line(text: object) -> str:
    """A text for a cell of a table, in which what cannot be printed is escaped."""
    shown = ''.join(one if one.isprintable() else repr(one)[1:-1] for one in str(text))
    return shown.replace('|', '\\|')


def opened(args: argparse.Namespace) -> tuple[Source, dict[str, dict]]:
    """The data, read, and said what they are."""
    source = find_source(args.data, classes=args.classes)
    contents = source.read()
    print(in_one_line(f'{args.data}: {source.kind}; pictures are named from {source.picture_root}'))
    for name, content in contents.items():
        counts = len(content['images']), len(content.get('annotations') or ())
        print(f'{name}: {counts[0]} pictures, {counts[1]} instances')
    return source, contents


def print_notes(source: Source) -> None:
    for note in source.notes:
        print(f'note: {in_one_line(note)}')


# Commands


def run_check(args: argparse.Namespace) -> int:
    """Print what is wrong; 1 if there are errors."""
    source, contents = opened(args)
    findings = check(contents, source.picture_root)
    findings += [
        Finding('note', what, count, source.tally.examples[what], 'read so: see docs/data.md')
        for what, count in source.tally.counts.items()
    ]
    if args.json:
        about = dict(data=str(args.data), kind=source.kind, root=str(source.picture_root))
        content = {**about, 'findings': [asdict(one) for one in findings]}
        write_whole(args.json, json.dumps(content, indent=1) + '\n')
    rows = [
        [one.level, str(one.count), one.what, in_one_line(one.examples[0]), one.remedy]
        for one in findings
    ]
    if rows:
        print('\n' + markdown_table(['', 'count', 'what', 'first', 'do'], rows))
    kinds = Counter(one.level for one in findings)
    print(', '.join(f'{kinds[level]} kinds of {level}s' for level in LEVELS))
    return 1 if kinds['error'] else 0


def run_convert(args: argparse.Namespace) -> int:
    """Write each split as a COCO file."""
    source, contents = opened(args)
    print_notes(source)
    write(source, contents, args)
    return 0


def run_split(args: argparse.Namespace) -> int:
    """Write the two parts of data that have none, and say which pictures are in which."""
    source, contents = opened(args)
    print_notes(source)
    whole = [name for name in ('all', 'train') if name in contents]
    if 'val' in contents or not whole:
        raise InputError(
            f'{args.data}: these data are in parts already ({", ".join(contents)}); use convert, '
            'or give one of their files'
        )
    content = contents.pop(whole[0])
    parts = split(content, val_share=args.val_share, seed=args.seed, root=source.picture_root)
    write(source, {**parts, **contents}, args)
    counts = {name: instances_of(part) for name, part in parts.items()}
    rows = [
        [in_one_line(name), *(str(count[name]) for count in counts.values())]
        for name in counts['train']
    ]
    print('\n' + markdown_table(['instances of', *counts], rows))
    names = [str(image.get('file_name')) for image in parts['val']['images']]
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    print(f'val: {", ".join(map(in_one_line, names[:SHOWN]))}{more}; all others train')
    return 0


def instances_of(content: dict) -> Counter[str]:
    """How many instances each class has."""
    names = {str(one.get('id')): str(one.get('name')) for one in content['categories']}
    found = Counter(dict.fromkeys(names.values(), 0))
    found.update(names.get(str(one.get('category_id')), '?') for one in content['annotations'])
    return found


def run_stats(args: argparse.Namespace) -> int:
    """Print sizes and counts of the data, and draw them if asked to."""
    source, contents = opened(args)
    print_notes(source)
    parts = {name: statistics(part) for name, part in usable(contents, source.picture_root).items()}
    print('\n' + markdown_table(*parts_table(parts)))
    training = next(iter(parts.values()))
    base, _ = choose_model(args.model, None, 'cpu', Path())
    fitting = propose(training, base, 'cpu')
    size = 'x'.join(map(str, fitting.scale))
    print(f'\n{next(iter(parts))}, resized to {size}, as tools/fit.py would:\n')
    levels = levels_table(training, fitting.scale, fitting.scale_ranges, fitting.num_grids)
    print(markdown_table(*levels))
    if args.out:
        file = io.BytesIO()
        plot_parts(parts).savefig(file, format='png')
        write_whole(args.out, file.getvalue())
        print(f'\nwritten: {in_one_line(args.out)}')
    return 0


def run_configure(args: argparse.Namespace) -> int:
    """Write the config that fits the data, and train nothing."""
    names = ('model', 'weights', 'epochs', 'classes', 'val_share', 'seed')
    asked = {name: getattr(args, name) for name in names}
    write_config(args.out / f'{args.out.resolve().name}.py', dict(asked, data=args.data))
    return 0


# Files


def write(source: Source, contents: dict[str, dict], args: argparse.Namespace) -> None:
    """Write a file for each split, all or, where one must not be replaced, none."""
    folder = args.out or source.root / 'annotations_coco'
    paths = {folder / f'{name}.json': content for name, content in contents.items()}
    for path in paths:
        if path.exists() and not args.force and not is_own(path):
            raise InputError(
                f'{path}: this is there, and of somebody else; give another --out, or --force to '
                'replace it'
            )
    root = os.path.abspath(source.picture_root)
    for path, content in paths.items():
        info = content.get('info')
        told = {**(info if isinstance(info, dict) else {}), 'description': DESCRIPTION}
        write_whole(path, json.dumps({**content, 'info': {**told, 'folder': root}}))
        print(f'written: {in_one_line(path)}')


def is_own(path: Path) -> bool:
    """Whether this tool wrote a file."""
    try:
        content = json.loads(path.read_bytes())
        return content['info']['description'] == DESCRIPTION
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


# Command line


def add_command(
    parsers: argparse._SubParsersAction, name: str, run: Command, text: str
) -> argparse.ArgumentParser:
    """A command with what all share."""
    parser = parsers.add_parser(name, help=text, description=text)
    parser.add_argument('data', metavar='DATA', type=Path, help='folder, or a file that describes')
    text = 'name of the class of pictures with masks (default: object)'
    parser.add_argument('--classes', nargs='+', metavar='NAME', help=text)
    parser.set_defaults(run=run)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parsers = parser.add_subparsers(metavar='COMMAND', required=True)
    checking = add_command(parsers, 'check', run_check, 'say what is wrong, and what to do')
    checking.add_argument('--json', type=Path, metavar='FILE', help='write the findings here too')
    converting = add_command(parsers, 'convert', run_convert, 'write COCO files')
    splitting = add_command(parsers, 'split', run_split, 'write COCO files for train and val')
    telling = add_command(parsers, 'stats', run_stats, 'print sizes and counts')
    telling.add_argument('--out', type=Path, metavar='PNG', help='draw them too')
    configuring = add_command(parsers, 'configure', run_configure, 'write a config that fits')
    configuring.add_argument('--out', type=Path, required=True, metavar='DIR', help='its folder')
    text = "weights to start from: file, address, published (COCO's), or none"
    configuring.add_argument('--weights', help=text)
    configuring.add_argument('--epochs', type=at_least(1), help='epochs to train')
    for fitting in (telling, configuring):
        fitting.add_argument('--model', help='effl0, r18, r50, or a config, as of tools/fit.py')
    for writing in (converting, splitting):
        text = 'folder for the files (default: DATA/annotations_coco)'
        writing.add_argument('--out', type=Path, metavar='DIR', help=text)
        writing.add_argument('--force', action='store_true', help="replace others' files")
    for parting in (splitting, configuring):
        text = 'share of the pictures for val (default: %(default)s)'
        parting.add_argument('--val-share', type=float, default=0.2, metavar='SHARE', help=text)
        text = 'another number, another split (default: %(default)s)'
        parting.add_argument('--seed', type=int, default=0, help=text)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with exit_with_message(str(args.data)):
        return args.run(args)


if __name__ == '__main__':
    stop_on_signals()
    sys.exit(main())
