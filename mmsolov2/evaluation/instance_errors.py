"""What is wrong with the instances of a picture: each without a match is in one error."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

SAME = 0.5  # IoU from which on a prediction is of an instance
NEAR = 0.1  # IoU from which on it is near it
INSIDE = 0.5  # share of a part that is within the whole,
COVERED = 0.1  # and of the whole that the part covers
KINDS = {  # how errors are called, and what they are
    'missed': 'instances for which nothing was found',
    'false': 'found without an instance of its own',
    'duplicate': 'an instance that was found again, with whatever class',
    'merged': 'one prediction over several instances',
    'split': 'one instance in several predictions',
    'class': 'the right place, the wrong class',
    'loose': f'masks that overlap an instance, but by an IoU of less than {SAME:g}',
}


class Instances(NamedTuple):
    """Instances of a picture: its truth, or what was found in it, the best first."""

    masks: list[dict]  # n RLE
    labels: np.ndarray  # (n,)


class Error(NamedTuple):
    """An error of a kind of ``KINDS``, and the instances that are in it."""

    kind: str
    truths: tuple[int, ...]
    found: tuple[int, ...]


def overlaps(first: list[dict], second: list[dict]) -> np.ndarray:
    """IoU (n, m) of n masks and m others, RLE."""
    return np.reshape(coco_mask.iou(first, second, [0] * len(second)), (len(first), len(second)))


def shares(first: list[dict], second: list[dict]) -> np.ndarray:
    """Share (n, m) of each of n masks that lies in each of m others, RLE."""
    return np.reshape(coco_mask.iou(first, second, [1] * len(second)), (len(first), len(second)))


def parts(wholes: list[dict], masks: list[dict]) -> Iterator[tuple[int, list[int]]]:
    """The wholes, of n masks, that have parts among m others, and these: at least two.

    Parts lie in the whole by ``INSIDE``, cover ``COVERED`` of it, and are not within each other.
    """
    inside, covered = shares(masks, wholes), shares(wholes, masks)
    among = shares(masks, masks)
    for whole in range(len(wholes)):
        chosen: list[int] = []
        near = (inside[:, whole] >= INSIDE) & (covered[whole] >= COVERED)
        for part in np.flatnonzero(near).tolist():
            if all(max(among[part, other], among[other, part]) <= INSIDE for other in chosen):
                chosen.append(part)
        if len(chosen) > 1:
            yield whole, chosen


def _of_parts(truth: Instances, found: Instances) -> Iterator[Error]:
    """Merged and split instances, each in one error at most."""
    used: set[int] = set()
    for index, members in parts(found.masks, truth.masks):
        left = [member for member in members if member not in used]
        if len(left) > 1:
            used.update(left)
            yield Error('merged', tuple(left), (index,))
    for index, pieces in parts(truth.masks, found.masks):
        if index not in used:
            yield Error('split', (index,), tuple(pieces))


def unexplained(
    errors: Sequence[Error], match: np.ndarray, truths: int
) -> tuple[list[int], list[int]]:
    """The instances of t truths, and of what was found, without a match and in no error yet."""
    seen = {one for error in errors for one in error.truths} | set(match.tolist())
    told = {one for error in errors for one in error.found} | set(np.flatnonzero(match >= 0))
    return (
        [index for index in range(truths) if index not in seen],
        [index for index in range(len(match)) if index not in told],
    )


def pairs(
    kind: str, iou: np.ndarray, found: Sequence[int], truths: Sequence[int], least: float
) -> Iterator[Error]:
    """Errors of what was found and the truth it has the highest IoU (f, t) with, each once."""
    left = list(truths)
    for index in found:
        best = max(left, key=lambda truth: iou[index, truth], default=None)
        if best is not None and iou[index, best] >= least:
            left.remove(best)
            yield Error(kind, (best,), (index,))


def instance_errors(truth: Instances, found: Instances, match: np.ndarray) -> list[Error]:
    """The errors of a picture: t instances, f predictions, and the truth (f,) of each or -1.

    ``match`` is COCO's at an IoU of 0.5, within a class. Merged and split are told by where masks
    are, whatever they match; all others are of instances without a match, each of which is in one.
    """
    count, iou = len(truth.masks), overlaps(found.masks, truth.masks)
    errors = list(_of_parts(truth, found))
    truths, left = unexplained(errors, match, count)
    others = iou * (found.labels[:, None] != truth.labels)
    errors += pairs('class', others, left, truths, SAME)
    truths, left = unexplained(errors, match, count)
    for index in left:
        again = max(set(match.tolist()) - {-1}, key=iou[index].__getitem__, default=None)
        if again is not None and iou[index, again] >= SAME:
            errors.append(Error('duplicate', (again,), (index,)))
    truths, left = unexplained(errors, match, count)
    errors += pairs('loose', iou, left, truths, NEAR)
    truths, left = unexplained(errors, match, count)
    errors += [Error('missed', (index,), ()) for index in truths]
    errors += [Error('false', (), (index,)) for index in left]
    return errors
