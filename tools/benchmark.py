"""What mmdet's SOLOv2 and ours cost: same weights, same inputs, by turns in one process.

    python tools/benchmark.py postprocess --candidates 100 500 --classes 80
    python tools/benchmark.py all --out work_dirs/benchmark/cpu
    python tools/benchmark.py report --out work_dirs/benchmark/cpu --page docs/benchmarks.md

Every subcommand writes OUT/SUBCOMMAND.json and .md; ``report`` makes a page of them. The results
of both are compared in every case, and a difference that rounding cannot explain is an error.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from benchmarks.compare import differing_pixels, differing_scores, encoded, rounded_pixels
from benchmarks.evaluation import evaluate
from benchmarks.inputs import MASK_KINDS, Outputs, candidates_of, made_batch
from benchmarks.measure import by_turns, in_fresh_process, machine, peak_memory, seconds
from benchmarks.models import (
    AMP,
    OPTIONS,
    SIZE,
    Runs,
    autocast,
    build_heads,
    build_models,
    parse_size,
    pictures_of,
)
from benchmarks.reading import TYPES, differing_images, read, write_file
from benchmarks.report import table, write_page, write_whole
from benchmarks.training import (
    differing_losses,
    differing_targets,
    loss_runs,
    step_runs,
    targets_runs,
)
from mmdet.models.layers import mask_matrix_nms
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmsolov2.apis.inference import choose_device
from mmsolov2.cli.config import OptionsAction
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.device import available_memory
from mmsolov2.fileio import require_folder
from mmsolov2.registry import TASK_UTILS

OUT = 'work_dirs/benchmark/cpu'  # a folder for each machine: its name is in those of plots
CONFIG = 'solov2_r50_fpn_1x_coco'
WARM = dict(candidates=2, instances=2, positives=2, size='64x96')  # a small case
STRATEGIES = {
    'matrix': dict(type='mmsolov2.MatrixNMS'),
    'matrix-linear': dict(type='mmsolov2.MatrixNMS', kernel='linear'),
    'hard': dict(type='mmsolov2.HardMaskNMS'),
    'soft': dict(type='mmsolov2.SoftMaskNMS'),
    'fast': dict(type='mmsolov2.FastMaskNMS'),
}


@dataclass(frozen=True)
class Subcommand:
    """One benchmark: a case for each combination of its axes' values."""

    help: str
    floor: str  # what the column 'floor' is the time and memory of
    axes: dict[str, tuple]  # options, and their values unless the user gives others
    build: Callable[[argparse.Namespace, dict], Runs]
    differing: Callable[[object, object], int] | None
    warm: dict  # settings of a small case: run first where memory is measured
    choices: dict[str, Sequence] = field(default_factory=dict)
    measure: Callable[..., dict] = None  # ``measured`` unless it says otherwise
    overhead: bool = False  # whether the others contain the floor
    trains: bool = False  # whether it needs gradients
    amp: bool = False  # whether it can run under autocast
    encode: bool = False  # whether results are instances, compared as plain values


def make_outputs(args: argparse.Namespace, head: nn.Module, case: dict, size) -> Outputs:
    """The batch of made outputs of a case, for a head and a size of mask features."""
    return made_batch(
        case['candidates'],
        args.batch_size,
        num_classes=head.num_classes,
        num_grids=head.num_grids,
        channels=head.conv_kernel.out_channels,
        size=size,
        masks=case.get('masks', 'compact'),
    ).to(args.device)


# What is measured


def postprocess_runs(args: argparse.Namespace, case: dict) -> Runs:
    """From the network's outputs to results."""
    theirs, ours = build_heads(args, case)
    pictures = pictures_of(args, case)
    made = make_outputs(args, ours, case, pictures.mask_size())
    metas = [pictures.meta()] * args.batch_size
    picked = [candidates_of(image)[2][..., None, None] for image in one_by_one(made)]

    def convolve() -> list[Tensor]:
        return [
            F.conv2d(features[None], kernels)
            for features, kernels in zip(made.features, picked, strict=True)
            if len(kernels)
        ]

    return dict(
        mmdet=lambda: theirs.predict_by_feat(
            list(made.kernels), list(made.logits), made.features, metas
        ),
        ours=lambda: ours.predict_by_feat(
            list(made.logits), list(made.kernels), made.features, metas, rescale=True
        ),
        floor=convolve,
    )


def one_by_one(outputs: Outputs) -> list[Outputs]:
    """The outputs of each image of a batch."""
    return [
        Outputs(
            [level[i : i + 1] for level in outputs.logits],
            [level[i : i + 1] for level in outputs.kernels],
            outputs.features[i : i + 1],
        )
        for i in range(len(outputs.features))
    ]


class Replaced:
    """A forward hook: the network runs, and then its outputs are the made ones, of its type."""

    def __init__(self, pick: Callable[[Outputs], object], made: Outputs) -> None:
        self.pick, self.made = pick, made

    def __call__(self, module: nn.Module, inputs, output) -> object:
        """The made outputs instead of ``output``."""
        first = output
        while not isinstance(first, Tensor):
            first = first[0]
        self.made = self.made.to(first.dtype)  # nothing to do but at the first call
        return self.pick(self.made)


def predict_runs(args: argparse.Namespace, case: dict) -> Runs:
    """From images to results; the floor is our network alone, with the case's option."""
    theirs, ours = build_models(args, case)
    pictures = pictures_of(args, case)
    made = make_outputs(args, ours.mask_head, case, pictures.mask_size())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch_size, 3, *pictures.padded, generator=generator)
    images = images.to(args.device)
    replace(theirs.mask_head, lambda out: (list(out.kernels), list(out.logits), out.features), made)
    replace(ours.mask_head, lambda out: (list(out.logits), list(out.kernels)), made)
    layout = torch.channels_last if ours.channels_last else torch.contiguous_format
    replace(ours.mask_neck, lambda out: out.features.contiguous(memory_format=layout), made)

    def predict(model: nn.Module) -> list[InstanceData]:
        samples = [DetDataSample(metainfo=pictures.meta()) for _ in images]
        with autocast(args):
            return [one.pred_instances for one in model.predict(images, samples, rescale=True)]

    def network() -> object:
        with autocast(args), ours.precision(args.device.type):
            return ours.network(images)

    return dict(mmdet=lambda: predict(theirs), ours=lambda: predict(ours), floor=network)


def network_runs(args: argparse.Namespace, case: dict) -> Runs:
    """The networks alone; ours with an option of the case, the floor without."""
    theirs, ours = build_models(args, case)
    plain = build_models(args, {**case, 'option': 'none'}).ours
    images = torch.randn(args.batch_size, 3, *pictures_of(args, case).padded).to(args.device)

    def optional() -> object:
        with ours.precision(args.device.type):
            return ours.network(images)

    return dict(
        mmdet=lambda: theirs(images, mode='tensor'),
        ours=optional,
        floor=lambda: plain.network(images),
    )


def replace(module: nn.Module, pick: Callable[[Outputs], object], made: Outputs) -> None:
    """Make a module give made outputs after it has computed its own."""
    module.register_forward_hook(Replaced(pick, made))


def nms_runs(args: argparse.Namespace, case: dict) -> Runs:
    """Masks in, scores out; the floor is one product of the masks with themselves."""
    head, size = build_heads(args, case).ours, pictures_of(args, case).mask_size()
    made = make_outputs(args, head, case, size)
    scores, labels, _, masks = candidates_of(made)
    area = masks.sum((1, 2)).float()
    settings = STRATEGIES[case['strategy']]
    ours = TASK_UTILS.build(settings)
    flat = masks.flatten(1).float()

    def theirs() -> Tensor:
        kernel = settings.get('kernel', 'gaussian')
        found = mask_matrix_nms(masks, labels, scores, mask_area=area, kernel=kernel)
        return torch.zeros_like(scores).scatter(0, found[3], found[0])

    runs = dict(ours=lambda: ours(scores, labels, masks), floor=lambda: flat @ flat.T)
    return dict(mmdet=theirs, **runs) if case['strategy'].startswith('matrix') else runs


# Measuring


def measured(bench: Subcommand, args: argparse.Namespace, case: dict) -> dict:
    """Times by turns, peak memory and differences of a case."""
    runs, notes = dict(bench.build(args, case)), too_large(args, case)
    if notes:
        runs.pop('mmdet', None)
    found = dict(case=case, seconds={}, memory={}, notes=notes)
    if bench.differing is not None and 'mmdet' in runs:
        results = [runs[name]() for name in ('mmdet', 'ours')]
        found |= compared(bench, *(map(encoded, results) if bench.encode else results))
    found['seconds'] = by_turns(runs, device=args.device, repeats=args.repeats, warmup=args.warmup)
    for name in runs if args.memory else ():
        one = probe(bench, args, case, name)
        found['memory'][name] = one['memory']
        notes += one['notes']
    return found


def measured_apart(bench: Subcommand, args: argparse.Namespace, case: dict) -> dict:
    """Peak memory and times of a case whose runs are too large to share a process."""
    notes = too_large(args, case)
    names = ['ours', 'floor'] if notes else ['mmdet', 'ours', 'floor']
    rounds = [
        {name: probe(bench, args, case, name) for name in names}
        for _ in range(min(args.repeats, 3))
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


def probe(bench: Subcommand, args: argparse.Namespace, case: dict, name: str) -> dict:
    """``memory``, ``seconds``, ``results`` and ``notes`` of a run, on the CPU in a new process."""
    nothing = dict(memory=None, seconds=None, results=None)
    try:
        if args.device.type == 'cuda':
            return probe_here(args, case, name)
        return in_fresh_process(probe_here, args, case, name)
    except torch.OutOfMemoryError as error:
        return dict(**nothing, notes=[f'{name} ran out of memory: {error}'.partition('. ')[0]])
    except BrokenProcessPool:
        return dict(**nothing, notes=[f'{name} was killed, likely for its memory'])


def probe_here(args: argparse.Namespace, case: dict, name: str) -> dict:
    """Run a small case first, then measure one run of the case."""
    prepare(args)
    bench, found = BENCHES[args.command], dict(notes=[], results=None)
    with torch.inference_mode(not bench.trains):
        bench.build(args, {**case, **bench.warm})[name]()
        run = bench.build(args, case)[name]

        def timed() -> None:
            found['seconds'] = seconds(lambda: found.update(results=run()), args.device)

        found['memory'] = peak_memory(timed, args.device)
        results = found.pop('results')
        found['results'] = encoded(results) if bench.encode and name != 'floor' else None
    return found


def measured_evaluation(bench: Subcommand, args: argparse.Namespace, case: dict) -> dict:
    """Seconds from prediction results to COCO figures, by turns; 3 rounds at most."""
    rounds = [evaluate(**case) for _ in range(min(args.repeats, 3))]
    differing = sum(one.figures['mmdet'] != one.figures['ours'] for one in rounds)
    found = {name: [one.seconds[name] for one in rounds] for name in rounds[0].seconds}
    return dict(case=case, seconds=found, memory={}, notes=[], differing=differing)


def measured_reading(bench: Subcommand, args: argparse.Namespace, case: dict) -> dict:
    """Seconds from an annotation file to a data set, by turns; 3 rounds at most."""
    found = {name: [] for name in TYPES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'instances.json'
        write_file(path, **case)
        for turn in range(min(args.repeats, 3)):
            datasets = {}
            for name in list(TYPES)[:: -1 if turn % 2 else 1]:
                datasets[name], spent = read(TYPES[name], path, case['classes'])
                found[name].append(spent)
    differing = differing_images(datasets['mmdet'], datasets['ours'])
    return dict(case=case, seconds=found, memory={}, notes=[], differing=differing)


def memory_runs(args: argparse.Namespace, case: dict) -> Runs:
    """Post-processing alone, or all of prediction."""
    build = postprocess_runs if case['stage'] == 'post-processing' else predict_runs
    return build(args, case)


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
        warm=WARM,
        choices=dict(masks=MASK_KINDS, option=tuple(OPTIONS)),
    ),
    'postprocess': Subcommand(
        help="the network's outputs to results",
        floor="the convolution of the candidates' kernels alone",
        axes=dict(candidates=(10, 100, 300, 500, 2000), classes=(1, 3, 80), masks=MASK_KINDS),
        build=postprocess_runs,
        differing=differing_pixels,
        encode=True,
        warm=WARM,
        choices=dict(masks=MASK_KINDS),
    ),
    'network': Subcommand(
        help="the network alone, with the model's options for speed",
        floor='our network without the option',
        axes=dict(option=tuple(OPTIONS)),
        build=network_runs,
        differing=None,
        warm=WARM,
        choices=dict(option=tuple(OPTIONS)),
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
        warm=WARM,
        choices=dict(strategy=tuple(STRATEGIES), masks=MASK_KINDS),
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
        warm=WARM,
        measure=measured_apart,
        encode=True,
        choices=dict(format=('bitmap', 'rle'), stage=('post-processing', 'prediction')),
    ),
    'targets': Subcommand(
        help='instances of one image to what a loss compares with',
        floor='',
        axes=dict(instances=(1, 10, 40, 100, 200, 300)),
        build=targets_runs,
        differing=differing_targets,
        warm=WARM,
    ),
    'step': Subcommand(
        help='a training step without the optimizer, and the loss with its targets alone',
        floor='forward and backward of our network with a trivial loss',
        axes=dict(instances=(1, 10, 40, 100)),
        build=step_runs,
        differing=differing_losses,
        warm=WARM,
        overhead=True,
        trains=True,
        amp=True,
    ),
    'loss-memory': Subcommand(
        help='the loss with its targets and its backward, of outputs of a network',
        floor='',
        axes=dict(positives=(10, 40, 100, 300)),
        build=loss_runs,
        differing=differing_losses,
        warm=WARM,
        trains=True,
    ),
    'evaluate': Subcommand(
        help='prediction results to COCO figures, the network excluded',
        floor='',
        axes=dict(
            images=(300,),
            instances=(60,),
            classes=(20,),
            format=('bitmap', 'rle'),
            backend=('pycocotools', 'faster'),
        ),
        build=None,
        differing=None,
        warm={},
        measure=measured_evaluation,
        choices=dict(format=('bitmap', 'rle'), backend=('pycocotools', 'faster')),
    ),
    'read': Subcommand(
        help='an annotation file to a data set; ours checks every entry',
        floor='',
        axes=dict(images=(118_000,), annotations=(860_000,), classes=(80,)),
        build=None,
        differing=None,
        warm={},
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
            checked = dict(choices=bench.choices[axis]) if axis in bench.choices else {}
            number = at_least_1 if axis in ('images', 'classes') else at_least_0
            kind = number if isinstance(values[0], int) else str
            command.add_argument(f'--{axis}', nargs='+', type=kind, default=values, **checked)
    add_common(add_command(commands, 'all', 'all of these, with their own values'))
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
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda:0 …')
    parser.add_argument('--threads', type=at_least_1, help='CPU threads (default: all cores)')
    parser.add_argument('--size', default=SIZE, help='HxW of the resized image, before its padding')
    parser.add_argument('--original', help='HxW of the original image (default: 3/5 of --size)')
    parser.add_argument('--batch-size', type=at_least_1, default=1, help='images a batch')
    parser.add_argument('--repeats', type=at_least_1, default=7, help='measured rounds')
    parser.add_argument('--warmup', type=at_least_0, default=2, help='rounds before that')
    parser.add_argument('--tf32', action='store_true', help='let CUDA round products to TF32')
    parser.add_argument(
        '--no-memory', dest='memory', action='store_false', help='do not measure peak memory'
    )
    parser.add_argument(
        '--memory-limit', type=gigabytes, help='GB that may be taken (default: what is free)'
    )
    parser.add_argument('--out', default=OUT, help='folder of the results')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, help='settings of ours')


def at_least_1(text: str) -> int:
    """A positive number of the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of at least 1')
    return int(text)


def at_least_0(text: str) -> int:
    """A number of the command line."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of at least 0')
    return int(text)


def gigabytes(text: str) -> int:
    """Bytes of a number of GB."""
    return int(float(text) * 1e9)


def prepare(args: argparse.Namespace) -> None:
    """Set what belongs to the process: threads, the precision of products, mmdet's scope."""
    init_default_scope('mmdet')
    MMLogger.get_current_instance().setLevel('WARNING')
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.tf32


def run_bench(args: argparse.Namespace) -> int:
    """Measure all cases of a subcommand and write its files: how many have other results."""
    bench, cases, wrong = BENCHES[args.command], [], 0
    combinations = [
        dict(zip(bench.axes, values, strict=True))
        for values in product(*(getattr(args, axis) for axis in bench.axes))
    ]
    measure = bench.measure or measured
    started = time.monotonic()
    for number, case in enumerate(combinations, 1):
        with torch.inference_mode(not bench.trains):
            cases.append(measure(bench, args, case))
        differing, rounding = (cases[-1].get(name, 0) for name in ('differing', 'rounding'))
        half = args.amp or 'float16' in case.get('option', '')  # bfloat16 too
        wrong += differing > rounding and not half
        text = ', '.join(f'{value} {name}' for name, value in case.items())
        spent = time.monotonic() - started
        print(f'[{number}/{len(combinations)}] {text}: {spent:.0f} s', file=sys.stderr, flush=True)
    save(args, bench, cases)
    return wrong


def save(args: argparse.Namespace, bench: Subcommand, cases: list[dict]) -> None:
    """Write a subcommand's JSON and table, whole or not at all, and print the table."""
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
    text = table(content)
    write_whole(out / f'{args.command}.md', text)
    print(text)


def run_all(words: Sequence[str]) -> int:
    """All subcommands with the common options of ``all``: how many cases have other results."""
    return sum(start(parse_args([name, *words])) for name in BENCHES)


def start(args: argparse.Namespace) -> int:
    """Run a subcommand: how many cases have other results than mmdet's."""
    args.device = choose_device(args.device)
    args.threads = args.threads or torch.get_num_threads()
    parse_size(args.size)
    require_folder(args.out)
    prepare(args)
    return run_bench(args)


def main() -> None:
    args = parse_args()
    with exit_with_message('benchmark.py'):
        if args.command == 'report':
            write_page([Path(folder) for folder in args.out], Path(args.page))
            return
        wrong = run_all(sys.argv[2:]) if args.command == 'all' else start(args)
    if wrong:
        sys.exit(f'error: {wrong} cases have other results than mmdet: see column "differing"')


if __name__ == '__main__':
    main()
