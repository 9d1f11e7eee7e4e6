"""What mmdet's SOLOv2 and ours cost: same weights, same inputs, by turns in one process.

    python tools/benchmark.py postprocess --candidates 100 500 --classes 80
    python tools/benchmark.py all --out work_dirs/benchmark/cpu
    python tools/benchmark.py gpu --out work_dirs/benchmark/gpu
    python tools/benchmark.py report --out work_dirs/benchmark/cpu --page docs/benchmarks.md

Every subcommand writes OUT/SUBCOMMAND.json and .md; ``report`` makes a page of them. The results
of both are compared in every case, and a difference that rounding cannot explain is an error.
"""

import argparse
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import torch
from benchmarks.compare import differing_pixels, differing_scores, encoded, rounded_pixels
from benchmarks.evaluation import measured_evaluation
from benchmarks.inputs import MASK_KINDS
from benchmarks.measure import by_turns, in_fresh_process, machine, peak_memory, seconds, waits
from benchmarks.models import AMP, OPTIONS, SIZE, Runs, parse_size, pictures_of
from benchmarks.plus import PARTS, plus_runs
from benchmarks.prediction import (
    STRATEGIES,
    memory_runs,
    network_runs,
    nms_runs,
    postprocess_runs,
    predict_runs,
)
from benchmarks.reading import measured_reading
from benchmarks.report import table, write_page, write_whole
from benchmarks.training import (
    differing_losses,
    differing_targets,
    loss_runs,
    step_runs,
    targets_runs,
)
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from mmsolov2.apis.inference import choose_device
from mmsolov2.cli.config import OptionsAction
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.device import available_memory
from mmsolov2.fileio import require_folder

OUT = 'work_dirs/benchmark/cpu'  # a folder for each machine: its name is in those of plots
CONFIG = 'solov2_r50_fpn_1x_coco'
LIGHT = 'solov2-light_r18_fpn_ms-3x_coco'
WARM = dict(candidates=2, instances=2, positives=2, size='64x96')  # a small case
CHOICES = dict(  # of axes, wherever they are
    masks=MASK_KINDS,
    option=tuple(OPTIONS),
    strategy=tuple(STRATEGIES),
    format=('bitmap', 'rle'),
    stage=('post-processing', 'prediction'),
    part=tuple(PARTS),
    backend=('pycocotools', 'faster'),
)
PRECISIONS = {'fp32': [], 'tf32': ['--tf32'], 'bf16': ['--amp', 'bf16']}  # on the command line


@dataclass(frozen=True)
class Subcommand:
    """One benchmark: a case for each combination of its axes' values."""

    help: str
    axes: dict[str, tuple]  # options, and their values unless the user gives others
    floor: str = ''  # what the column 'floor' is the time and memory of
    build: Callable[[argparse.Namespace, dict], Runs] | None = None
    differing: Callable[[object, object], int] | None = None
    measure: Callable[..., dict] | None = None  # ``measured`` unless it says otherwise
    overhead: bool = False  # whether the others contain the floor
    trains: bool = False  # whether it needs gradients
    amp: bool = False  # whether it can run under autocast
    encode: bool = False  # whether results are instances, compared as plain values


# Measuring


def measured(bench: Subcommand, args: argparse.Namespace, case: dict) -> dict:
    """Times by turns, differences, peak memory and, on a GPU, waits for it."""
    runs, notes = dict(bench.build(args, case)), too_large(args, case)
    if notes:
        runs.pop('mmdet', None)
    found = dict(case=case, seconds={}, memory={}, notes=notes)
    if bench.differing is not None and 'mmdet' in runs:
        found |= first_results(bench, runs, notes)
    found['seconds'] = by_turns(runs, device=args.device, repeats=args.repeats, warmup=args.warmup)
    if args.device.type == 'cuda':
        names = [name for name in ('mmdet', 'ours') if name in runs]
        found['waits'] = {name: waits(runs[name], args.device) for name in names}
    for name in runs if args.memory else ():
        if args.device.type == 'cuda':  # which knows what the run takes, and nobody else does
            found['memory'][name] = peak_memory(runs[name], args.device)
            continue
        one = probe(args, case, name)
        found['memory'][name] = one['memory']
        notes += one['notes']
    return found


def first_results(bench: Subcommand, runs: dict, notes: list[str]) -> dict[str, int]:
    """How far the results of both differ; without mmdet's run if it fails."""
    try:
        theirs = runs['mmdet']()
    except RuntimeError as error:  # of memory, or of what a device cannot do
        notes.append(f'mmdet failed: {error}'.partition('\n')[0])
        del runs['mmdet']
        return {}
    results = theirs, runs['ours']()
    return compared(bench, *(map(encoded, results) if bench.encode else results))


def measured_apart(bench: Subcommand, args: argparse.Namespace, case: dict) -> dict:
    """Peak memory and times of a case whose runs are too large to share a process."""
    notes = too_large(args, case)
    names = ['ours', 'floor'] if notes else ['mmdet', 'ours', 'floor']
    rounds = [
        {name: probe(args, case, name) for name in names} for _ in range(min(args.repeats, 3))
    ]
    notes += dict.fromkeys(
        note for one in rounds for found in one.values() for note in found['notes']
    )
    values = {name: [one[name] for one in rounds if one[name]['seconds']] for name in names}
    found = dict(
        case=case,
        seconds={name: [one['seconds'] for one in found] for name, found in values.items()},
        memory={
            name: max((one['memory'] for one in found if one['memory'] is not None), default=None)
            for name, found in values.items()
        },
        notes=notes,
    )
    if values.get('mmdet') and values['ours']:
        found |= compared(bench, *(values[name][0]['results'] for name in ('mmdet', 'ours')))
    return found


def compared(bench: Subcommand, theirs, ours) -> dict[str, int]:
    """How far results differ, and how far rounding may explain it."""
    return dict(
        differing=bench.differing(theirs, ours),
        rounding=rounded_pixels(ours) if bench.encode else 0,
    )


def too_large(args: argparse.Namespace, case: dict) -> list[str]:
    """Why mmdet's side of a case is left out, if it is."""
    need, free = memory_of_mmdet(args, case), args.memory_limit or available_memory(args.device)
    if need <= free:
        return []
    return [f'mmdet would need {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB may be taken']


def memory_of_mmdet(args: argparse.Namespace, case: dict) -> int:
    """Bytes of mmdet's masks, as its code takes them; 0 for what has no candidates.

    Four float32 of each candidate's mask, or those of 100 at the padded input's size, at the
    original one, and bool there.
    """
    pictures = pictures_of(args, case)
    candidates, pixels = case.get('candidates', 0), math.prod(pictures.mask_size())
    original = math.prod(pictures.original)
    results = min(candidates, 100) * (4 * math.prod(pictures.padded) + 5 * original)
    earlier = (args.batch_size - 1) * min(candidates, 100) * original
    return max(16 * candidates * pixels, results) + earlier


def probe(args: argparse.Namespace, case: dict, name: str) -> dict:
    """``memory``, ``seconds``, ``results`` and ``notes`` of a run, on the CPU in a new process."""
    nothing = dict(memory=None, seconds=None, results=None)
    try:
        if args.device.type == 'cuda':
            return probe_here(args, case, name)
        return in_fresh_process(probe_here, args, case, name)
    except torch.cuda.OutOfMemoryError as error:
        return dict(**nothing, notes=[f'{name} ran out of memory: {error}'.partition('. ')[0]])
    except BrokenProcessPool:
        return dict(**nothing, notes=[f'{name} was killed, likely for its memory'])


def probe_here(args: argparse.Namespace, case: dict, name: str) -> dict:
    """Run a small case first, then measure one run of the case."""
    prepare(args)
    bench, found = BENCHES[args.command], dict(notes=[], results=None)
    with torch.inference_mode(not bench.trains):
        bench.build(args, {**case, **WARM})[name]()
        run = bench.build(args, case)[name]

        def timed() -> None:
            found['seconds'] = seconds(lambda: found.update(results=run()), args.device)

        found['memory'] = peak_memory(timed, args.device)
        results = found.pop('results')
        found['results'] = encoded(results) if bench.encode and name != 'floor' else None
    return found


BENCHES = {
    'predict': Subcommand(
        help='images to results, the network included',
        floor='our network alone with the same option, without post-processing',
        overhead=True,
        axes=dict(
            candidates=(100, 500),
            masks=('compact',),
            option=('none', 'channels-last'),
        ),
        build=predict_runs,
        differing=differing_pixels,
        encode=True,
        amp=True,
    ),
    'postprocess': Subcommand(
        help="the network's outputs to results",
        floor="the convolution of the candidates' kernels alone",
        axes=dict(candidates=(10, 100, 300, 500, 2000), classes=(1, 3, 80), masks=MASK_KINDS),
        build=postprocess_runs,
        differing=differing_pixels,
        encode=True,
    ),
    'network': Subcommand(
        help="the network alone, with the model's options for speed",
        floor='our network without the option',
        axes=dict(option=tuple(OPTIONS)),
        build=network_runs,
    ),
    'nms': Subcommand(
        help='mask NMS alone, its overlaps included',
        floor='one matrix product of all masks with all',
        axes=dict(
            candidates=(10, 100, 300, 500, 2000),
            strategy=tuple(STRATEGIES),
            classes=(80,),
            masks=('compact',),
        ),
        build=nms_runs,
        differing=differing_scores,
    ),
    'memory': Subcommand(
        help='peak memory and time of prediction by the size of the original image',
        floor="the candidates' convolution, or our network alone",
        axes=dict(
            image=('800x1333', '2000x3000', '4000x6000'),
            format=('bitmap', 'rle'),
            stage=('post-processing', 'prediction'),
            candidates=(100,),
        ),
        build=memory_runs,
        differing=differing_pixels,
        amp=True,
        measure=measured_apart,
        encode=True,
    ),
    'targets': Subcommand(
        help='instances of one image to what a loss compares with',
        axes=dict(instances=(1, 10, 40, 100, 200, 300)),
        build=targets_runs,
        differing=differing_targets,
    ),
    'step': Subcommand(
        help='a training step without the optimizer, and the loss with its targets alone',
        floor='forward and backward of our network with a trivial loss',
        axes=dict(instances=(1, 10, 40, 100)),
        build=step_runs,
        differing=differing_losses,
        overhead=True,
        trains=True,
        amp=True,
    ),
    'loss-memory': Subcommand(
        help='the loss with its targets and its backward, of outputs of a network',
        axes=dict(positives=(10, 40, 100, 300)),
        build=loss_runs,
        differing=differing_losses,
        trains=True,
    ),
    'plus': Subcommand(
        help='solov2-plus beside the same model without',
        floor='the same model without',
        axes=dict(part=tuple(PARTS), candidates=(100,), masks=('compact',), instances=(10,)),
        build=plus_runs,
        overhead=True,
        trains=True,
        amp=True,
    ),
    'evaluate': Subcommand(
        help='prediction results to COCO figures, the network excluded',
        axes=dict(
            images=(300,),
            instances=(60,),
            classes=(20,),
            format=('bitmap', 'rle'),
            backend=('pycocotools', 'faster'),
        ),
        measure=measured_evaluation,
    ),
    'read': Subcommand(
        help='an annotation file to a data set; ours checks every entry',
        axes=dict(images=(118_000,), annotations=(860_000,), classes=(80,)),
        measure=measured_reading,
    ),
}

# The command line


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What mmdet's SOLOv2 and ours cost, by turns in one process",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='SUBCOMMAND')
    for name, bench in BENCHES.items():
        command = add_command(commands, name, bench.help)
        add_common(command)
        command.set_defaults(amp=None)
        if bench.amp:
            text = "autocast of the network's part, of both"
            command.add_argument('--amp', choices=sorted(AMP), help=text)
        for axis, values in bench.axes.items():
            least = 1 if axis in ('images', 'classes') else 0
            kind = at_least(least) if isinstance(values[0], int) else str
            command.add_argument(
                f'--{axis}', nargs='+', type=kind, default=values, choices=CHOICES.get(axis)
            )
    add_common(add_command(commands, 'all', 'all of these, with their own values'))
    add_gpu(add_command(commands, 'gpu', 'what a GPU is asked first, the cheapest before the rest'))
    report = add_command(commands, 'report', 'a page with tables and plots of all results')
    report.add_argument('--out', nargs='+', default=[OUT], help='folders of results, one a machine')
    report.add_argument('--page', default='docs/benchmarks.md', help='page to write')
    return parser.parse_args(words)


def add_command(commands, name: str, text: str) -> argparse.ArgumentParser:
    """A subcommand's parser."""
    return commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every subcommand that measures."""
    parser.add_argument('--config', default=CONFIG, help='config that mmdet has too')
    parser.add_argument('--size', default=SIZE, help='HxW of the resized image, before its padding')
    parser.add_argument('--original', help='HxW of the original image (default: 3/5 of --size)')
    parser.add_argument('--batch-size', type=at_least(1), default=1, help='images a batch')
    parser.add_argument('--tf32', action='store_true', help='let CUDA round products to TF32')
    parser.add_argument(
        '--memory-limit', type=gigabytes, help='GB that may be taken (default: what is free)'
    )
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, help='settings of ours')
    add_measuring(parser, repeats=7)


def add_measuring(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Options of how things are measured, and where."""
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda:0 …')
    parser.add_argument('--threads', type=at_least(1), help='CPU threads (default: all cores)')
    parser.add_argument('--repeats', type=at_least(1), default=repeats, help='measured rounds')
    parser.add_argument('--warmup', type=at_least(0), default=2, help='rounds before that')
    parser.add_argument(
        '--no-memory', dest='memory', action='store_false', help='do not measure peak memory'
    )
    parser.add_argument('--out', default=OUT, help='folder of the results')


def add_gpu(parser: argparse.ArgumentParser) -> None:
    """Options of ``gpu``."""
    models = [f'{CONFIG}:800x1344', f'{LIGHT}:448x768']
    parser.add_argument('--models', nargs='+', default=models, help='CONFIG:SIZE of each')
    parser.add_argument('--batch', nargs='+', type=at_least(1), default=[1, 16], help='images')
    parser.add_argument(
        '--precision', nargs='+', choices=PRECISIONS, default=list(PRECISIONS), help='of products'
    )
    parser.add_argument(
        '--candidates', nargs='+', type=at_least(1), default=[100, 500], help='of an image'
    )
    parser.add_argument('--instances', type=at_least(0), default=10, help='of a training image')
    parser.add_argument(
        '--seconds', type=at_least(0), default=480, help='start nothing that does not fit in'
    )
    add_measuring(parser, repeats=5)


def at_least(least: int) -> Callable[[str], int]:
    """What reads a number of the command line."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f'{text!r} is not a number of at least {least}')
        return int(text)

    return number


def gigabytes(text: str) -> int:
    """Bytes of a number of GB."""
    return int(float(text) * 1e9)


def prepare(args: argparse.Namespace) -> None:
    """Set what belongs to the process: threads, the precision of products, mmdet's scope."""
    init_default_scope('mmdet')
    MMLogger.get_current_instance().setLevel('WARNING')
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.tf32


def run_bench(args: argparse.Namespace, shown: dict, cases: list[dict]) -> int:
    """Measure all cases of a subcommand, and write its files: how many have other results.

    ``shown`` are settings that belong to each of the cases. They are added to the earlier
    ``cases`` of these files, which are written after each.
    """
    bench, wrong = BENCHES[args.command], 0
    combinations = [
        {**shown, **dict(zip(bench.axes, values, strict=True))}
        for values in product(*(getattr(args, axis) for axis in bench.axes))
    ]
    measure = bench.measure or measured
    started = time.monotonic()
    for number, case in enumerate(combinations, 1):
        with torch.inference_mode(not bench.trains):
            found = measure(bench, args, case)
        cases.append(found)
        half = args.amp or args.tf32 or 'float16' in case.get('option', '')  # bfloat16 too
        wrong += found.get('differing', 0) > found.get('rounding', 0) and not half
        save(args, bench, cases)
        text = ', '.join(f'{value} {name}' for name, value in case.items())
        text += f': {time.monotonic() - started:.0f} s'
        for name, values in found['seconds'].items():
            text += f', {name} {1000 * median(values):.3g} ms' if values else ''
        print(f'[{number}/{len(combinations)}] {text}', file=sys.stderr, flush=True)
    return wrong


def save(args: argparse.Namespace, bench: Subcommand, cases: list[dict]) -> None:
    """Write a subcommand's JSON and table, whole or not at all."""
    out = Path(args.out)
    settings = {name: str(value) for name, value in vars(args).items() if value is not None}
    content = dict(
        subcommand=args.command,
        help=bench.help,
        floor=bench.floor,
        overhead=bench.overhead,
        machine=machine(args.device),
        settings=settings,
        cases=cases,
    )
    write_whole(out / f'{args.command}.json', json.dumps(content, indent=1))
    write_whole(out / f'{args.command}.md', table(content))


def run_all(words: Sequence[str]) -> int:
    """All subcommands with the common options of ``all``: how many cases have other results."""
    return sum(start(parse_args([name, *words])) for name in BENCHES)


def start(args: argparse.Namespace, shown: dict | None = None, cases: list | None = None) -> int:
    """Run a subcommand and print its table: how many cases have other results than mmdet's."""
    args.device = choose_device(args.device)
    args.threads = args.threads or torch.get_num_threads()
    parse_size(args.size)
    require_folder(args.out)
    prepare(args)
    wrong = run_bench(args, shown or {}, [] if cases is None else cases)
    print((Path(args.out) / f'{args.command}.md').read_text())
    return wrong


def gpu_parts(args: argparse.Namespace) -> Iterator[tuple[dict, list[str]]]:
    """What the cases of each part of ``gpu`` show beside their axes, and its words."""
    candidates = [str(count) for count in args.candidates]
    yield {}, ['nms', '--candidates', candidates[-1], '--strategy', 'matrix']
    made = ['--classes', '80', '--masks', 'compact']
    yield {}, ['postprocess', '--candidates', *candidates, *made]
    axes = dict(
        predict=['--candidates', candidates[0], '--masks', 'compact', '--option', 'none'],
        step=['--instances', str(args.instances)],
    )
    for batch, command, model, precision in product(args.batch, axes, args.models, args.precision):
        config, _, size = model.partition(':')
        shown = dict(config=config, size=size, batch=batch, precision=precision)
        words = ['--config', config, '--size', size, '--batch-size', str(batch)]
        yield shown, [command, *axes[command], *words, *PRECISIONS[precision]]


def run_gpu(args: argparse.Namespace) -> int:
    """All parts that fit into the time: how many failed, or have other results than mmdet's."""
    common = ['--device', args.device, '--out', args.out]
    common += ['--repeats', str(args.repeats), '--warmup', str(args.warmup)]
    common += [] if args.threads is None else ['--threads', str(args.threads)]
    common += [] if args.memory else ['--no-memory']
    begun, longest, wrong, cases = time.monotonic(), 0.0, 0, {}
    for shown, words in gpu_parts(args):
        started = time.monotonic()
        left = args.seconds - (started - begun)
        if left < longest:
            print(f'skipped, for {left:.0f} s are left: {" ".join(words)}', file=sys.stderr)
            continue
        try:
            earlier = cases.setdefault(words[0], [])
            wrong += start(parse_args([*words, *common]), shown, earlier)
        except Exception:  # noqa: BLE001  (whatever it is, the next part tells more than none)
            traceback.print_exc()
            wrong += 1
        longest = max(longest, time.monotonic() - started)
    return wrong


def main() -> None:
    args = parse_args()
    with exit_with_message('benchmark.py'):
        if args.command == 'report':
            write_page([Path(folder) for folder in args.out], Path(args.page))
            return
        if args.command == 'gpu':
            wrong = run_gpu(args)
        else:
            wrong = run_all(sys.argv[2:]) if args.command == 'all' else start(args)
    if wrong:
        sys.exit(
            f'error: {wrong} cases failed or have other results than mmdet: see column "differing"'
        )


if __name__ == '__main__':
    main()
