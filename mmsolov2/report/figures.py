"""The figures of a report: COCO's of masks and boxes, and those of single pictures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from mmdet.datasets.api_wrappers import COCO

from mmsolov2.datasets.coco_file import CheckedCOCO
from mmsolov2.evaluation.coco_instance_metric import CocoInstanceMetric
from mmsolov2.evaluation.instance_errors import (
    SAME,
    Error,
    Instances,
    instance_errors,
    overlaps,
)

if TYPE_CHECKING:  # of an optional package
    from mmsolov2.evaluation.hot_evaluator import HotEvaluator

AP_COLUMNS = ('AP', 'AP50', 'AP75', 'small', 'medium', 'large')
THRESHOLDS = np.arange(100) / 100  # of scores
UNDECIDED = 0.5  # threshold of scores where no F1 is above 0
BINS = 10  # of scores, in calibration


@dataclass(frozen=True)
class Picture:
    """A picture: its t instances, and the f that are found by the report's threshold."""

    number: int  # id in the evaluation
    name: str
    truth: Instances
    found: Instances
    scores: np.ndarray  # (f,)
    match: np.ndarray  # (f,) the truth of each, or -1
    errors: list[Error]
    quality: float  # from 0 to 1, see ``panoptic_quality``

    @property
    def right(self) -> int:
        """How many instances are found."""
        return int((self.match >= 0).sum())


@dataclass(frozen=True)
class Figures:
    """What a report says in numbers; of c classes, of which rows begin with that of all."""

    classes: tuple[str, ...]
    instances: np.ndarray  # (1 + c,) crowds are none
    ap: dict[str, np.ndarray]  # of segm and bbox: (1 + c, AP_COLUMNS), NaN where there is none
    precision: np.ndarray  # (1 + c, 101) by recall, of masks at an IoU of 0.5; NaN without truth
    f1: np.ndarray  # (1 + c, THRESHOLDS) of masks at an IoU of 0.5; NaN without any instance
    best: np.ndarray  # (1 + c,) the threshold with the highest F1; NaN if that is 0
    tide: dict[str, tuple[float, int]]  # by type of error: AP that it costs, and how many
    calibration: dict[str, Any]  # hotcoco's
    pictures: list[Picture]

    @property
    def threshold(self) -> float:
        """The scores from which on pictures have instances."""
        return threshold_of(self.best[0])

    @property
    def top(self) -> np.ndarray:
        """The best F1 (1 + c,)."""
        return np.fmax.reduce(self.f1, axis=1)

    @property
    def kinds(self) -> Counter[str]:
        """How many errors of each kind there are."""
        return Counter(error.kind for picture in self.pictures for error in picture.errors)


class ReportMetric(CocoInstanceMetric):
    """CocoInstanceMetric of masks and boxes in Rust, which keeps the evaluations.

    ``counted`` are those of ``segm`` and ``bbox``. Images and categories are numbered anew, so that
    their ids may be anything.
    """

    def __init__(self, ann_file: str) -> None:
        self.counted: dict[str, HotEvaluator] = {}
        super().__init__(ann_file, ['segm', 'bbox'], backend='hotcoco', proposal_nums=(1, 10, 100))

    def _read(self, ann_file: str) -> None:
        super()._read(ann_file)
        number_anew(self._coco_api)

    def _counted(self, kind: str, entries: list[dict], *, classes: bool) -> 'HotEvaluator':
        self.counted[kind] = super()._counted(kind, entries, classes=classes)
        return self.counted[kind]


def number_anew(truth: CheckedCOCO) -> None:
    """Number images and categories from 1; samples are still found by the ids of the file."""
    for entries, key in (('images', 'image_id'), ('categories', 'category_id')):
        numbers = {one['id']: index for index, one in enumerate(truth.dataset[entries], 1)}
        for one in truth.dataset[entries]:
            one['id'] = numbers[one['id']]
        for one in truth.dataset['annotations']:
            one[key] = numbers[one[key]]
    truth.createIndex()


# Of the whole


def figures(counted: Mapping[str, 'HotEvaluator'], classes: Sequence[str]) -> Figures:
    """The figures of evaluations of masks, ``segm``, and boxes, ``bbox``."""
    masks = counted['segm']
    ids = masks.cocoGt.get_cat_ids(cat_names=classes)
    found = matched(masks, {number: label for label, number in enumerate(ids)})
    f1 = f1_by_threshold(found)
    best = np.array([best_threshold(row) for row in f1])
    tide = masks.counting.tide_errors(pos_thr=SAME)
    precision = precisions(masks, ids)
    return Figures(
        classes=tuple(classes),
        instances=np.r_[found.instances.sum(), found.instances],
        ap={kind: average_precisions(precisions(one, ids)) for kind, one in counted.items()},
        precision=by_recall(precision[0, :, :, 0]),
        f1=f1,
        best=best,
        tide={kind: (tide['delta_ap'][kind], count) for kind, count in tide['counts'].items()},
        calibration=masks.counting.calibration(n_bins=BINS, iou_threshold=SAME),
        pictures=[
            picture_of(number, masks, found, threshold_of(best[0]))
            for number in masks.params.imgIds
        ],
    )


def precisions(counted: 'HotEvaluator', ids: Sequence[int]) -> np.ndarray:
    """Precision by IoU, recall, class and area (10, 101, c, 4), of the classes in order of ids.

    NaN stands for none.
    """
    precision = counted.eval['precision'][..., -1]
    places = [sorted(ids).index(number) for number in ids]  # COCO's code sorts the ids
    return np.where(precision > -1, precision, np.nan)[:, :, places]


def mean_of(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Means of what is no NaN; NaN without any."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    total = np.where(known, values, 0).sum(axis)
    return np.where(count, total / np.maximum(count, 1), np.nan)


def average_precisions(precision: np.ndarray) -> np.ndarray:
    """AP (1 + c, 6) of all classes and of each, of precision (10, 101, c, 4)."""
    every = [precision[..., 0], precision[[0], ..., 0], precision[[5], ..., 0]]  # IoU 0.5, 0.75
    every += [precision[..., area] for area in (1, 2, 3)]
    rows = [np.r_[mean_of(each, (0, 1, 2)), mean_of(each, (0, 1))] for each in every]
    return np.stack(rows, axis=1)


def by_recall(precision: np.ndarray) -> np.ndarray:
    """Precision (1 + c, 101) of all classes, their mean, and of each (101, c)."""
    return np.vstack([mean_of(precision, 1), precision.T])


# Of scores


class Matched(NamedTuple):
    """Predictions (n) of a set without those in crowds, as COCO matches them at an IoU of 0.5."""

    scores: np.ndarray  # (n,)
    labels: np.ndarray  # (n,)
    right: np.ndarray  # (n,) bool
    instances: np.ndarray  # (c,) that are to be found
    match: dict[int, int | None]  # by their ids, the ids of their truths
    label_of: Mapping[int, int]  # by the ids of the categories


def matched(counted: 'HotEvaluator', label_of: Mapping[int, int]) -> Matched:
    """The predictions of an evaluation, with the labels of its categories."""
    told = counted.counting.image_diagnostics(iou_thr=SAME, score_thr=0.0)
    found = [counted.cocoDt.anns[number] for number in told['dt_status']]
    truth = [counted.cocoGt.anns[number] for number in told['gt_status']]
    labels, expected = (
        np.array([label_of[one['category_id']] for one in entries], dtype=int)
        for entries in (found, truth)
    )
    return Matched(
        scores=np.array([one['score'] for one in found]),
        labels=labels,
        right=np.array([status == 'tp' for status in told['dt_status'].values()], dtype=bool),
        instances=np.bincount(expected, minlength=len(label_of)),
        match={one['id']: told['dt_match'].get(one['id']) for one in found},
        label_of=label_of,
    )


def f1_by_threshold(found: Matched) -> np.ndarray:
    """F1 (1 + c, THRESHOLDS) of all classes, counted together, and of each; NaN for 0 / 0."""
    classes, right = len(found.instances), found.right
    return f1_of(
        count_above(found.scores, found.labels, classes),
        count_above(found.scores[right], found.labels[right], classes),
        found.instances,
    )


def count_above(scores: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """How many of scores (n,) of each class are not below each threshold: (c, THRESHOLDS)."""
    own = [np.sort(scores[labels == label]) for label in range(classes)]
    return np.stack([len(each) - np.searchsorted(each, THRESHOLDS) for each in own])


def f1_of(found: np.ndarray, right: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """F1 (1 + c, t) of how many are found and right (c, t) of instances (c,)."""
    found, right = (np.vstack([count.sum(0), count]) for count in (found, right))
    total = found + np.r_[instances.sum(), instances][:, None]
    return np.where(total, 2 * right / np.maximum(total, 1), np.nan)


def best_threshold(f1: np.ndarray) -> float:
    """The threshold of the highest F1 (THRESHOLDS), of equals the middle one; NaN if it is 0."""
    if not (f1 > 0).any():
        return float('nan')
    best = np.flatnonzero(f1 == np.nanmax(f1))
    return float(THRESHOLDS[best[len(best) // 2]])


def threshold_of(best: float) -> float:
    """The threshold to draw and count instances by."""
    return UNDECIDED if np.isnan(best) else float(best)


# Of pictures


def picture_of(number: int, counted: 'HotEvaluator', found: Matched, threshold: float) -> Picture:
    """The picture of an id, with what is found in it by a threshold of scores."""
    truth, results, labels = counted.cocoGt, counted.cocoDt, found.label_of
    there = [one for one in truth.imgToAnns.get(number, ()) if one['category_id'] in labels]
    there = [one for one in there if not one['iscrowd']]
    chosen = [one for one in results.imgToAnns.get(number, ()) if one['id'] in found.match]
    chosen = [one for one in chosen if one['score'] >= threshold]
    chosen.sort(key=lambda one: -one['score'])
    places = {one['id']: place for place, one in enumerate(there)}
    match = np.array([places.get(found.match[one['id']], -1) for one in chosen], dtype=int)
    expected = instances_of(there, truth, labels)
    predicted = instances_of(chosen, results, labels)
    return Picture(
        number=number,
        name=truth.imgs[number].get('file_name', str(number)),
        truth=expected,
        found=predicted,
        scores=np.array([one['score'] for one in chosen]),
        match=match,
        errors=instance_errors(expected, predicted, match),
        quality=panoptic_quality(overlaps(predicted.masks, expected.masks), match),
    )


def instances_of(annotations: Sequence[dict], source: COCO, labels: Mapping[int, int]) -> Instances:
    """Annotations as instances, masks as RLE."""
    return Instances(
        [source.annToRLE(one) for one in annotations],
        np.array([labels[one['category_id']] for one in annotations], dtype=int),
    )


def panoptic_quality(iou: np.ndarray, match: np.ndarray) -> float:
    """The quality of a picture, by IoU (f, t) and the truth (f,) of each found one, or -1.

    The sum of the matches' IoU, over the mean of t and f: 1 is all right. 1 for nothing in nothing.

    >>> panoptic_quality(np.array([[0.8, 0.0], [0.1, 0.0]]), np.array([0, -1]))
    0.4
    """
    right = np.flatnonzero(match >= 0)
    size = sum(iou.shape) / 2
    return float(iou[right, match[right]].sum() / size) if size else 1.0


def confusion(found: Sequence[Picture], classes: int) -> np.ndarray:
    """Counts (c + 1, c + 1): the class of a truth, and what it is found as; last is none."""
    counts = np.zeros((classes + 1, classes + 1), dtype=int)
    for picture in found:
        pair = dict(zip(picture.match.tolist(), range(len(picture.match)), strict=True))
        pair.update({e.truths[0]: e.found[0] for e in picture.errors if e.kind == 'class'})
        pair.pop(-1, None)
        for index, label in enumerate(picture.truth.labels):
            other = picture.found.labels[pair[index]] if index in pair else classes
            counts[label, other] += 1
        for index in set(range(len(picture.match))) - set(pair.values()):
            counts[classes, picture.found.labels[index]] += 1
    return counts
