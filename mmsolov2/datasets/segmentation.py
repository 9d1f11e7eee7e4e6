"""Segmentations of COCO files: the shapes in which exports write polygons, and runs of RLE."""

import json
import math
from collections.abc import Iterator, Sequence

import numpy as np

FARTHEST = 1e6  # pixels; no image is larger, and pycocotools takes memory by the pixel
CHUNK = 2**20  # characters of RLE decoded at a time


class ShapeError(ValueError):
    """A segmentation is neither polygons nor RLE: the message says what it is."""


# Polygons


def is_polygon(part: object) -> bool:
    """Whether a part of a segmentation is a list of x, y, x, y, … of at least three points."""
    if type(part) is not list or len(part) < 6 or len(part) % 2:
        return False
    try:
        return math.isfinite(sum(part)) and -FARTHEST < min(part) <= max(part) < FARTHEST
    except (TypeError, OverflowError):
        return False


def has_third_numbers(part: Sequence[float]) -> bool:
    """Whether a polygon reads as x, y and a visibility of 0, 1 or 2 for each of its points."""
    if part[2] not in (0, 1, 2) or len(part) % 3 or len(part) < 9:
        return False
    return all(number in (0, 1, 2) for number in part[2::3]) and max(part) > 2


def read_segmentation(value: object) -> list | dict:
    """A segmentation as COCO writes it: polygons, lists of x, y, x, y, …, or a dict of RLE.

    Polygons may also come as one flat list, as pairs or ``x`` and ``y`` of points, with numbers or
    the whole as text; RLE in a list of its own. Parts that are no polygons are left out. Empty if
    there is nothing in it.

    Raises:
        ShapeError: if it can be read in no or in several ways.
    """
    if isinstance(value, str) and value.strip():
        value = _parsed(value)
    if isinstance(value, list) and len(value) == 1 and _is_rle(value[0]):
        value = value[0]
    if _is_rle(value):
        return value if value['counts'] else []
    if not value or value == [[]]:
        return []
    if not isinstance(value, list):
        raise ShapeError(shape_of(value))
    whole = flat(value)
    polygons = [whole] if whole else [part for part in map(flat, value) if part]
    polygons = [part for part in polygons if is_polygon(part)]
    if not polygons:
        raise ShapeError(shape_of(value))
    return polygons


def _parsed(text: str) -> object:
    """What a text holds as JSON; the text itself if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is_rle(value: object) -> bool:
    return isinstance(value, dict) and 'counts' in value


def flat(part: object) -> list[float] | None:
    """The numbers of a polygon in one list; None if it is none.

    They are numbers or texts of numbers, one after the other or by points: pairs, or dicts of x
    and y.
    """
    if not isinstance(part, list) or not part:
        return None
    points = [[point.get('x'), point.get('y')] if isinstance(point, dict) else point
              for point in part]
    if all(isinstance(point, list) and len(point) == 2 for point in points):
        points = [number for point in points for number in point]
    try:
        return [_number(number) for number in points]
    except (TypeError, ValueError):
        return None


def _number(value: object) -> float:
    if isinstance(value, str):
        return float(value)
    if type(value) in (int, float):
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
    kinds = {str: 'text', list: 'list', dict: 'object', int: 'number', float: 'number'}
    kind = kinds.get(type(value), type(value).__name__)
    return f'{kind} of {sorted(value)[:5]}' if kind == 'object' else kind


# RLE


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


def each_runs(counts: Sequence[bytes]) -> Iterator[np.ndarray]:
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
