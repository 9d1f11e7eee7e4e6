"""Segmentations of COCO files: the shapes in which exports write polygons, and runs of RLE."""

import ast
import json
import math
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeGuard

import numpy as np

FARTHEST = 1e6  # pixels; no image is larger, and pycocotools takes memory by the pixel
LONGEST = 1e7  # pixels around a polygon; pycocotools takes some 40 bytes for each
CHUNK = 2**20  # characters of RLE decoded at a time


class ShapeError(ValueError):
    """A segmentation is neither polygons nor RLE: the message says what it is."""


# Polygons


class Extent(NamedTuple):
    """What polygons span, and about how many pixels they have."""

    left: float
    top: float
    right: float
    bottom: float
    area: float  # of the polygons, as if none overlapped


def extent_of(polygons: Sequence[object]) -> Extent | None:
    """The extent of polygons (x, y, x, y, …) of at least three points; None if one is none."""
    left = top = math.inf
    right = bottom = -math.inf
    area = 0
    try:
        for part in polygons:
            if type(part) is not list or len(part) < 6 or len(part) % 2:
                return None
            if not math.isfinite(sum(part)):
                return None
            x, y = part[::2], part[1::2]
            left, right = min(left, min(x)), max(right, max(x))
            top, bottom = min(top, min(y)), max(bottom, max(y))
            area += abs(sum(map(operator.mul, x, y[1:])) + x[-1] * y[0]
                        - sum(map(operator.mul, y, x[1:])) - y[-1] * x[0]) / 2  # fmt: skip
            if (right - left + bottom - top) * len(part) > LONGEST and perimeter(x, y) > LONGEST:
                return None
    except (TypeError, OverflowError):
        return None
    inside = min(left, top) > -FARTHEST and max(right, bottom) < FARTHEST
    return Extent(left, top, right, bottom, area) if inside else None


def has_third_numbers(part: Sequence[float]) -> bool:
    """Whether a polygon reads as x, y and a visibility for each point: 0, 1, 2, or all alike."""
    if len(part) % 3 or len(part) < 9 or part[2] not in (0, 1, 2, part[5]):
        return False
    return all(n == part[2] or n in (0, 1, 2) for n in part[2::3]) and max(part[::3]) > 2


def perimeter(x: Sequence[float], y: Sequence[float]) -> float:
    """The way around a polygon, along rows and columns."""
    return sum(abs(x[i] - x[i - 1]) + abs(y[i] - y[i - 1]) for i in range(len(x)))


def read_segmentation(value: object) -> tuple[list | dict, bool]:
    """A segmentation as COCO writes it: polygons, lists of x, y, x, y, …, or a dict of RLE.

    Polygons may also come as one flat list, as pairs or ``x`` and ``y`` of points, as VIA's lists
    of all x and all y, with numbers or the whole as text; RLE in a list of its own. Parts that are
    no polygons are left out, and the second value says whether there were any. Empty if there is
    nothing in it.

    >>> read_segmentation([[1, 2], [3, 4], [5, 6]]), read_segmentation([['1', 2, 3, 4, 5, 6], [7]])
    (([[1, 2, 3, 4, 5, 6]], False), ([[1.0, 2, 3, 4, 5, 6]], True))

    Raises:
        ShapeError: if it can be read in no or in several ways.
    """
    if isinstance(value, str) and value.strip():
        value = _parsed(value)
    if isinstance(value, dict):
        x, y = value.get('all_points_x'), value.get('all_points_y')
        if isinstance(x, list) and isinstance(y, list) and len(x) == len(y):
            value = [list(point) for point in zip(x, y, strict=True)]
    if isinstance(value, list) and len(value) == 1 and _is_rle(value[0]):
        value = value[0]
    if _is_rle(value):
        return (value if value['counts'] else []), False
    if not value or value == [[]]:
        return [], False
    if not isinstance(value, list):
        raise ShapeError(shape_of(value))
    whole = flat(value)
    parts = [whole] if whole else [flat(part) for part in value if part]
    parts = [
        in_pairs(part) if part and len(part) % 2 and has_third_numbers(part) else part
        for part in parts
    ]
    polygons = [part for part in parts if extent_of([part]) is not None]
    if not polygons:
        odd = [n for part in value for n in _numbers(part) if not _is_coordinate(n)]
        raise ShapeError(shape_of(value) + (f', with {json.dumps(odd[0])[:20]}' if odd else ''))
    return polygons, len(polygons) < len(parts)


def in_pairs(part: list) -> list:
    """A polygon of three numbers a point without the third of each."""
    return [number for index, number in enumerate(part) if index % 3 != 2]


def readings(polygons: Sequence[list], height: int, width: int) -> Iterator[list]:
    """What polygons would be if their numbers meant something else.

    Points of three numbers; fractions or percents of an image of ``height`` x ``width``; all x and
    then all y; y before x.
    """
    if all(len(part) % 3 == 0 for part in polygons):
        yield [in_pairs(part) for part in polygons]
    for whole in (1, 100):
        if max(map(max, polygons)) <= whole:
            scales = width / whole, height / whole
            yield [[n * scales[i % 2] for i, n in enumerate(part)] for part in polygons]
    if len(polygons) == 2 and len(polygons[0]) == len(polygons[1]):
        yield [[n for point in zip(*polygons, strict=True) for n in point]]
    yield [[part[i ^ 1] for i in range(len(part))] for part in polygons]


def _parsed(text: str) -> object:
    """What a text holds as JSON, or as numbers between spaces, commas or semicolons; or itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        numbers = re.split(r'[\s,;]+', text.strip())
        return numbers if all(re.fullmatch(r'[-+.\de]+', number) for number in numbers) else text


def _numbers(part: object) -> list:
    """What stands where the numbers of a polygon should."""
    if not isinstance(part, list):
        return [part]
    return [n for point in part for n in (point if isinstance(point, list) else [point])]


def _is_coordinate(value: object) -> bool:
    """Whether a value can be a coordinate of a polygon."""
    try:
        return -FARTHEST < _number(value) < FARTHEST
    except (TypeError, ValueError):
        return isinstance(value, list | dict)  # the shape tells


def _is_rle(value: object) -> TypeGuard[dict]:
    return isinstance(value, dict) and 'counts' in value


def flat(part: object) -> list[float] | None:
    """The numbers of a polygon in one list; None if it is none.

    They are numbers or texts of numbers, one after the other or by points: pairs, or dicts of x
    and y; or all are one text.
    """
    if isinstance(part, str):
        part = _parsed(part)
    if not isinstance(part, list) or not part:
        return None
    points = [
        [point.get('x'), point.get('y')] if isinstance(point, dict) else point for point in part
    ]
    if all(isinstance(point, list) and len(point) == 2 for point in points):
        points = [number for point in points for number in point]
    try:
        return [_number(number) for number in points]
    except (TypeError, ValueError):
        return None


def _number(value: object) -> float:
    if isinstance(value, str):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise TypeError(value)


def shape_of(value: object) -> str:
    """What a value of JSON is: ``2 x 4 x number`` for a list of two lists of four numbers."""
    lengths = []
    while isinstance(value, list) and value:
        lengths.append(str(len(value)))
        value = value[0]
    return ' x '.join([*lengths, kind_of(value)])


def kind_of(value: object) -> str:
    """What JSON calls the type of a value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict):
        return f'object of {sorted(value)[:5]}'
    kinds = {str: 'text', list: 'list', int: 'number', float: 'number'}
    return kinds.get(type(value), type(value).__name__)


# RLE


def plain_counts(counts: object) -> object:
    """Counts of RLE without what JSON writers make of them: whole floats, and ``str`` of bytes."""
    if isinstance(counts, str) and re.fullmatch(r"""b(['"]).*\1""", counts):
        try:
            return ast.literal_eval(counts).decode('ascii', 'replace')
        except (ValueError, SyntaxError):
            return counts
    if isinstance(counts, list) and float in map(type, counts):
        whole = all((isinstance(run, float) and run.is_integer()) or type(run) is int
                    for run in counts)  # fmt: skip
        return list(map(int, counts)) if whole else counts
    return counts


def runs_of(counts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Decode n texts of compressed RLE: all runs (r,) int64, and where those of each begin (n,).

    A run takes 5 bits a character, the lowest first, with 32 in all but its last; from the fourth
    on it is written as the difference to the last but one (maskApi.c of pycocotools). Runs that
    the text does not hold are -1.
    """
    data = np.frombuffer(b''.join(counts), np.uint8).astype(np.int64) - 48
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    last = np.cumsum(lengths) - 1  # character of each text
    ends = (data & 32) == 0
    broken = ~ends[last] | np.logical_or.reduceat((data < 0) | (data > 63), last - lengths + 1)
    ends[last] = True  # what is cut off ends there
    final = np.flatnonzero(ends)  # characters of the runs
    first = np.append(0, final[:-1] + 1)
    digit = np.arange(len(data)) - np.repeat(first, final - first + 1)
    values = np.add.reduceat((data & 31) << np.minimum(5 * digit, 35), first)
    values -= np.where(data[final] & 16, 1 << np.minimum(5 * digit[final] + 5, 40), 0)
    text = np.searchsorted(last, final)
    starts = np.append(0, np.cumsum(ends)[last][:-1])
    index = np.arange(len(values)) - starts[text]
    runs = values.copy()
    for chosen in (index % 2 == 1, (index % 2 == 0) & (index > 0)):  # each from its own start on
        total = np.cumsum(np.where(chosen, values, 0))
        before = np.append(0, total)[starts]
        runs[chosen] = (total - before[text])[chosen]
    runs[broken[text] | (digit[final] > 6)] = -1
    return runs, starts


def each_runs(counts: Iterable[bytes]) -> Iterator[np.ndarray]:
    """The runs (r,) int64 of each text of compressed RLE; see ``runs_of``."""
    chunk, size = [], 0
    for text in counts:
        chunk.append(text)
        size += len(text)
        if size > CHUNK:
            yield from _split(chunk)
            chunk, size = [], 0
    if chunk:
        yield from _split(chunk)


def _split(counts: Sequence[bytes]) -> Iterator[np.ndarray]:
    runs, starts = runs_of(counts)
    yield from np.split(runs, starts[1:])


def without_empty_runs(runs: Sequence[int]) -> list[int]:
    """The same mask's runs with none of zero pixels but the first: COCO's code trips over them."""
    merged = [runs[0]]
    for index, run in enumerate(runs[1:], 1):
        if run and index % 2 == len(merged) % 2:
            merged.append(run)
        else:
            merged[-1] += run
    return merged
