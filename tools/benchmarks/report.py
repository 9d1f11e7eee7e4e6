"""Benchmarks' JSON to Markdown tables, plots and a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.ticker import LogFormatter

from mmsolov2.errors import InputError
from mmsolov2.fileio import AtomicLocalBackend

SIDES = ('mmdet', 'ours', 'floor')
COLORS = dict(mmdet='tab:red', ours='tab:blue', floor='tab:gray')
GROWTH = ('candidates', 'instances', 'positives', 'image')  # axes that plots go along
PAGE = """# Benchmarks

Made by `tools/benchmark.py report` from the results of its subcommands; do not edit.

mmdet's SOLOv2 and ours have the same weights and inputs and run by turns in one process. Times are
medians of all rounds (the least and the largest in brackets); "faster" is mmdet's time over ours,
round by round. Memory is the peak of one run above what model and inputs hold already. "Floor"
is what cannot be saved; each table says what it is. "Differing" counts the pixels (scores with
`nms`, figures with `evaluate`, images with `read`) in which the results are not equal. mmdet
convolves and we multiply matrices: with several threads their last bits differ, and with them a
pixel in ten million or so whose value is at the threshold (configs.md, "Equal to the pixel"). More
than one in a million is an error. "Waits" is how often one run makes the CPU wait for a GPU.

Outputs of networks are made, not predicted, so that their number of candidates is known: pairs of
a cell and a class that pass the point NMS and the score threshold. Each has a cell of its own as
far as cells last, the case that is hardest for us: a trained model often gives one cell several
classes. Compact masks cover 1 to 5 % of the picture, eight or so around each object; speckled ones
half of all pixels at random, the worst case. With the network included, it computes all it has to,
and then its outputs are the made ones.
"""
NO_GPU = """Not measured yet: GPUs. Where there is one, and Python has torch with CUDA and what
setup.cfg lists, `make gpu` tests and measures in eight minutes, and fetches nothing. Then
`tools/benchmark.py report --out work_dirs/benchmark/cpu work_dirs/benchmark/gpu` makes this page
of both machines."""


def write_whole(file: Path, text: str) -> None:
    """Write a file at once, so that an interrupted run leaves none or all of it."""
    AtomicLocalBackend().put(text.encode(), file)


# Tables


def number(value: float) -> str:
    """A number with three digits that count."""
    return f'{value:.0f}' if value >= 100 else f'{value:#.3g}'


def spread(values: Sequence[float]) -> str:
    """Median of values with the least and the largest."""
    if not values:
        return '–'
    middle, low, high = (number(pick(values)) for pick in (median, min, max))
    return f'{middle} ({low}–{high})'


def milliseconds(values: Sequence[float] = ()) -> str:
    """Median and spread of seconds, in ms."""
    return spread([1000 * value for value in values])


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """How many times ``below`` goes into ``above``, round by round."""
    return [a / b for a, b in zip(above, below, strict=False)]


def percent_more(found: Sequence[float]) -> str:
    """By how much the median of ratios is more than 1."""
    return f'{100 * (median(found) - 1):.1f} %' if found else '–'


def megabytes(memory: dict, side: str) -> str:
    """Bytes in MB."""
    if side not in memory:
        return '–'
    return 'not measured' if memory[side] is None else f'{memory[side] / 1e6:.1f}'


def images_a_second(case: dict, side: str) -> str:
    """Images in a batch over the median time, where the case says how many there are."""
    seconds, images = case['seconds'].get(side), case['case'].get('batch')
    return number(images / median(seconds)) if seconds and images else '–'


def row(case: dict, overhead: bool) -> dict[str, str]:
    """The cells of a case by their column's head."""
    seconds, memory = {side: case['seconds'].get(side, ()) for side in SIDES}, case['memory']
    compare = percent_more if overhead else spread
    cells = {name: str(value) for name, value in case['case'].items()}
    for side in SIDES:
        cells[f'{side}, ms'] = milliseconds(seconds[side])
    cells['faster'] = spread(ratios(seconds['mmdet'], seconds['ours']))
    for side in SIDES[:2]:
        cells[f'{side}, images/s'] = images_a_second(case, side)
    for side in SIDES[:2]:
        cells[f'{side} over floor'] = compare(ratios(seconds[side], seconds['floor']))
    for side in SIDES:
        cells[f'{side}, MB'] = megabytes(memory, side)
    for other in sorted(case['seconds'].keys() - set(SIDES)):
        cells[f'{other}, ms'] = milliseconds(case['seconds'][other])
        cells[f'{other} / floor'] = spread(ratios(case['seconds'][other], seconds['floor']))
    cells |= {f'{side} waits': str(count) for side, count in case.get('waits', {}).items()}
    whole, part = memory.get('mmdet'), memory.get('ours')
    cells['memory, ours : mmdet'] = f'{part / whole:.3f}' if whole and part is not None else '–'
    cells |= {name: number(value) for name, value in case.get('figures', {}).items()}
    cells['differing'] = str(case.get('differing', '–'))
    cells['notes'] = '; '.join(case['notes'])
    return cells


def table(content: dict) -> str:
    """The Markdown table of a subcommand's results; columns without anything are left out."""
    rows = [row(case, content['overhead']) for case in content['cases']]
    heads = list(dict.fromkeys(head for one in rows for head in one))
    heads = [head for head in heads if any(one.get(head, '–') not in ('', '–') for one in rows)]
    lines = [heads, ['---'] * len(heads)]
    lines += [[one.get(head, '–') for head in heads] for one in rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


# Plots


def growth_axis(content: dict) -> str | None:
    """The axis along which a subcommand's cases grow, if there is one."""
    for name in GROWTH[::-1]:
        if len({case['case'].get(name) for case in content['cases']}) > 1:
            return name
    return None


def position(value) -> float:
    """Where a value of a growth axis stands: sizes by their megapixels."""
    if isinstance(value, int):
        return value
    height, width = map(int, value.split('x'))
    return height * width / 1e6


def groups(content: dict, axis: str) -> dict[str, list[dict]]:
    """Cases that differ along an axis alone, by what they share."""
    shared = {}
    for case in content['cases']:
        varying = [f'{name} {value}' for name, value in case['case'].items() if name != axis]
        shared.setdefault(', '.join(varying), []).append(case)
    return shared


def plot(content: dict, file: Path) -> bool:
    """Draw time and memory against what grows, beside mmdet's; False if nothing grows."""
    matplotlib.use('Agg')
    from matplotlib import pyplot

    axis = growth_axis(content)
    if axis is None:
        return False
    parts = groups(content, axis)
    values = {'ms': time_of}
    if any(case['memory'] for case in content['cases']):
        values['MB at the peak'] = memory_of
    figure, axes = pyplot.subplots(
        len(values),
        len(parts),
        squeeze=False,
        sharex=True,
        sharey='row',
        figsize=(1 + 3.2 * len(parts), 3 * len(values)),
    )
    for column, (title, cases) in zip(axes.T, parts.items(), strict=True):
        for one, value_of in zip(column, values.values(), strict=True):
            draw(one, cases, axis, value_of)
        column[0].set_title(title.replace(', ', '\n'), fontsize=9)
        column[-1].set_xlabel('original, megapixels' if axis == 'image' else axis)
    for row_, label in zip(axes, values, strict=True):
        row_[0].set_ylabel(label)
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    pyplot.close(figure)
    return True


def time_of(case: dict, side: str) -> float | None:
    """Median ms of one side of a case."""
    values = case['seconds'].get(side)
    return 1000 * median(values) if values else None


def memory_of(case: dict, side: str) -> float | None:
    """MB of one side of a case; nothing counts as a tenth, for the logarithm."""
    value = case['memory'].get(side)
    return None if value is None else max(value / 1e6, 0.1)


def draw(axes, cases: Sequence[dict], axis: str, value_of) -> None:
    """Draw a value of every side along an axis, both logarithmic."""
    for side in SIDES:
        points = [(position(case['case'][axis]), value_of(case, side)) for case in cases]
        points = sorted(point for point in points if point[1] is not None)
        if points:
            axes.plot(*zip(*points, strict=True), 'o-', color=COLORS[side], label=side)
    axes.set(xscale='log', yscale='log')
    ticks = sorted({position(case['case'][axis]) for case in cases})
    axes.set_xticks(ticks, [f'{tick:.4g}' for tick in ticks], fontsize=8)
    axes.xaxis.minorticks_off()
    axes.yaxis.set_minor_formatter(LogFormatter())
    axes.grid(alpha=0.4)


# The page


def machine_line(machine: dict) -> str:
    """A machine and its software in a sentence."""
    found = dict(machine)
    device, command = found.pop('device'), found.pop('command')
    text = ', '.join(f'{name} {value}' for name, value in found.items())
    return f'{device}: {text}.\n\n`{command}`'


def section(file: Path, page: Path) -> str:
    """A subcommand's part of the page; its picture is written beside the page."""
    content = json.loads(file.read_text())
    picture = page.with_name(f'{page.stem}-{file.parent.name}-{file.stem}.png')
    device = content['machine']['device']
    place = '' if device == 'CPU' else f' on {device}'
    head = f'## {content["subcommand"]}{place}: {content["help"]}'
    lines = [head, machine_line(content['machine'])]
    if content['floor']:
        lines.append(f'Floor: {content["floor"]}.')
    lines.append(table(content).strip())
    if plot(content, picture):
        lines.append(f'![{content["subcommand"]}]({picture.name})')
    return '\n\n'.join(lines)


def write_page(folders: Sequence[Path], page: Path) -> None:
    """Write the page of all results of folders, and its plots beside it.

    Raises:
        InputError: if a folder has no results.
    """
    files = [sorted(folder.glob('*.json')) for folder in folders]
    for folder, found in zip(folders, files, strict=True):
        if not found:
            raise InputError(f'{folder}: there are no results here; run the subcommands first')
    page.parent.mkdir(parents=True, exist_ok=True)
    parts = [section(file, page) for found in files for file in found]
    machines = [json.loads(file.read_text())['machine'] for found in files for file in found]
    if all(machine['device'] == 'CPU' for machine in machines):
        parts.insert(0, NO_GPU)
    write_whole(page, '\n\n'.join([PAGE.strip(), *parts]) + '\n')
    print(page)
