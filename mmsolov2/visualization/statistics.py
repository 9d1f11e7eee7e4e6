"""Statistics of data as a table and as a picture."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from mmsolov2.datasets.statistics import Ranges, Statistics, crowded_out, on_levels

QUANTILES = (0.05, 0.5, 0.95)


def spread(values: np.ndarray) -> str:
    """The value in the middle, between those with a twentieth below and above."""
    if not len(values):
        return '–'
    low, middle, high = np.quantile(values, QUANTILES)
    return f'{middle:.0f} ({low:.0f} to {high:.0f})'


def parts_table(parts: Mapping[str, Statistics]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of each part's pictures and instances."""
    found = list(parts.values())
    rows = [
        ['pictures', *(str(len(one.sizes)) for one in found)],
        ['their height', *(spread(one.sizes[:, 0]) for one in found)],
        ['their width', *(spread(one.sizes[:, 1]) for one in found)],
        ['instances', *(str(len(one.labels)) for one in found)],
        ['instances a picture', *(spread(one.per_picture) for one in found)],
        ['side of an instance', *(spread(one.sides) for one in found)],
    ]
    names = dict.fromkeys(name for one in found for name in one.classes)
    counts = [dict(zip(one.classes, one.per_class, strict=True)) for one in found]
    rows += [[name, *(str(count.get(name, 0)) for count in counts)] for name in names]
    return ['', *parts], rows


def levels_table(
    found: Statistics, scale: tuple[int, int], ranges: Ranges, grids: Sequence[int]
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of the levels that learn instances of a size.

    Pictures are resized into ``scale``, w x h; each of the levels has a range and a grid.
    """
    taken = on_levels(found.input_sides(scale), ranges)
    crowded = crowded_out(found, taken, grids)
    rows = [
        [f'{low:g} to {high:g}', f'{grid}x{grid}', str(inside.sum())]
        for (low, high), grid, inside in zip(ranges, grids, taken, strict=True)
    ]
    rows.append(['on no level', '', str((~taken.any(axis=0)).sum())])
    rows.append(['without a cell of their own', '', str(crowded.sum())])
    return ['side in the input', 'cells', 'instances'], rows


def plot_parts(parts: Mapping[str, Statistics]) -> Figure:
    """A picture of the sides, the numbers and the classes of the instances of each part."""
    figure = Figure((13, 4), dpi=100, layout='tight')
    sides, numbers, classes = figure.subplots(1, 3)
    for name, found in parts.items():
        sides.hist(np.log2(np.maximum(found.sides, 1)), bins=24, alpha=0.6, label=name)
        numbers.hist(found.per_picture, bins=20, alpha=0.6, label=name)
        classes.barh(found.classes, found.per_class, alpha=0.6, label=name)
    sides.xaxis.set_major_locator(MultipleLocator(1))
    sides.xaxis.set_major_formatter(lambda exponent, _: f'{2**exponent:.0f}')
    sides.set(title='side of an instance, pixels of the picture', ylabel='instances')
    numbers.set(title='instances a picture', ylabel='pictures')
    classes.set(title='instances of a class')
    classes.invert_yaxis()
    for axes in (sides, numbers, classes):
        axes.legend()
    return figure
