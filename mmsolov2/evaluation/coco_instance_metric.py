"""COCO figures of masks and boxes."""

import logging
import os
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOevalMP
from mmdet.evaluation import CocoMetric, bbox_overlaps
from mmengine.fileio import dump, get_local_path
from mmengine.logging import print_log
from pycocotools.cocoeval import COCOeval
from terminaltables import AsciiTable
from torch import Tensor

from mmsolov2.datasets.coco_file import CheckedCOCO, find
from mmsolov2.errors import InputError
from mmsolov2.registry import METRICS
from mmsolov2.structures.masks import encode_rle

BACKENDS = ('pycocotools', 'faster', 'hotcoco')
PACKAGES = dict(faster='faster-coco-eval>=1.8,<2', hotcoco='hotcoco>=1.3,<2')
STATS = (  # what COCOeval.stats are called here, whatever the numbers of proposals are
    'mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l',
    'AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000',
)  # fmt: skip
OWN_FILE = 'set ann_file of the evaluator to that of the data set which is evaluated'
COCO_DETECTIONS = 100  # of an image, which COCO's mAP counts


def find_evaluator(backend: str) -> type:
    """The COCOeval class of a backend.

    Raises:
        InputError: if there is no such backend, or its package is not installed.
    """
    if backend not in BACKENDS:
        raise InputError(f'CocoInstanceMetric: backend must be one of {BACKENDS}, not {backend!r}')
    if backend == 'pycocotools':
        return COCOeval
    try:
        if backend == 'hotcoco':
            from mmsolov2.evaluation.hot_evaluator import HotEvaluator

            return HotEvaluator
        from mmsolov2.evaluation.faster_evaluator import FasterEvaluator

        return FasterEvaluator
    except ImportError as error:
        raise InputError(
            f'CocoInstanceMetric: backend={backend!r} needs a package: pip install '
            f"{PACKAGES[backend]!r}; or set backend='pycocotools' ({error})"
        ) from error


def check_ids(file: str, dataset: dict, backend: str) -> None:
    """Raise InputError for ids that packages refuse or, beyond 2**53, mix up."""
    entries = [*dataset['images'], *dataset['categories'], *dataset.get('annotations', [])]
    for entry in entries:
        for key in {'id', 'image_id', 'category_id'} & entry.keys():
            if not isinstance(entry[key], int) or not 0 <= entry[key] < 2**53:
                raise InputError(
                    f'{file}: CocoInstanceMetric with backend={backend!r} takes ids that are '
                    f'integers from 0 to 2**53, not {key} {entry[key]!r}; set '
                    "backend='pycocotools'"
                )


def checked_thresholds(iou_thrs: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """IoU thresholds (t,), rounded so that 0.5 + 5 * 0.05 is 0.75.

    Raises:
        InputError: if they are no numbers from 0 to 1.
    """
    try:
        thresholds = np.atleast_1d(np.asarray(iou_thrs, dtype=float)).round(10)
    except (TypeError, ValueError):
        thresholds = np.empty(0)
    if (
        thresholds.ndim != 1
        or not thresholds.size
        or not ((thresholds >= 0) & (thresholds <= 1)).all()
    ):
        raise InputError(
            'CocoInstanceMetric: iou_thrs must be a number from 0 to 1 or a list of such, not '
            f'{iou_thrs!r}'
        )
    return thresholds


def check_items(items: Iterable[str] | None) -> None:
    """Raise InputError for figures that COCO's evaluation does not have."""
    unknown = [item for item in items or () if item not in STATS]
    if unknown:
        raise InputError(
            f'CocoInstanceMetric: metric_items has unknown figures {unknown}; there are '
            f'{list(STATS)}'
        )


def check_proposal_nums(numbers: Sequence[int]) -> None:
    """Raise InputError unless they are three ascending numbers, as COCO's summary needs."""
    if (
        len(numbers) != 3
        or not all(type(number) is int and number > 0 for number in numbers)
        or sorted(numbers) != list(numbers)
    ):
        raise InputError(
            'CocoInstanceMetric: proposal_nums must be three ascending numbers of instances, as '
            f'(100, 300, 1000), not {numbers!r}'
        )


def with_rle(sample: dict) -> dict:
    """A data sample whose predicted masks (n, H, W) bool are n COCO RLE dicts."""
    found = sample['pred_instances']
    if not isinstance(found.get('masks'), Tensor):
        return sample
    return {**sample, 'pred_instances': {**found, 'masks': encode_rle(found['masks'])}}


def mean_above(values: np.ndarray) -> float:
    """The mean of COCO's figures, of which -1 stands for none; NaN if there are none."""
    values = values[values > -1]
    return float(values.mean()) if values.size else float('nan')


def greedy_ious(ious: np.ndarray) -> np.ndarray:
    """The IoU (n,) that each of n boxes has with its own one of k, the best pairs first: (n, k).

    >>> greedy_ious(np.array([[0.9, 0.8], [0.7, 0.1]])).tolist()
    [0.9, 0.1]
    """
    ious, found = ious.copy(), np.zeros(len(ious))
    for _ in range(min(ious.shape)):
        truth, box = np.unravel_index(ious.argmax(), ious.shape)
        found[truth] = ious[truth, box]
        ious[truth], ious[:, box] = -1, -1
    return found


def average_recalls(
    found: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    numbers: Sequence[int],
    thresholds: np.ndarray,
) -> np.ndarray:
    """Recalls of the first boxes (k, 4) of images, by how many: means over IoU thresholds."""
    recalls = []
    for number in numbers:
        pairs = zip(truths, found, strict=True)
        each = (greedy_ious(bbox_overlaps(truth, boxes[:number])) for truth, boxes in pairs)
        ious = np.concatenate([np.zeros(0), *each])
        recalls.append(np.mean(ious[:, None] >= thresholds) if len(ious) else 0)
    return np.array(recalls)


@METRICS.register_module()
class CocoInstanceMetric(CocoMetric):
    """mmdet's CocoMetric, faster, and on ground truth that COCO's own code trips over.

    With ``backend='faster'`` the package faster-coco-eval matches and counts, in C++, and with
    ``backend='hotcoco'`` the package hotcoco, in Rust; the figures are those of pycocotools.
    Predictions go through JSON files only if ``outfile_prefix`` asks for them. ``iou_thrs`` may be
    a number, a list or an array. mAP counts 100 instances an image, or, if ``proposal_nums`` lacks
    100, its last number. Without a single prediction figures are 0.

    The file is read as in training (``CheckedCOCO``), and what is left out is logged alike; the
    figures count annotations marked with ``ignore``, as those of pycocotools do. Labels go by the
    names of the classes, whatever the order of the file's categories.

    Raises:
        InputError: if the annotation file cannot be used, or lacks an image that was predicted; if
            the backend is unknown, not installed or combined with ``use_mp_eval``; if iou_thrs,
            metric_items or proposal_nums are none.
    """

    _coco_api: COCO
    iou_thrs: np.ndarray
    metric_items: Sequence[str] | None

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = 'bbox',
        *args: object,
        backend: str = 'pycocotools',
        **kwargs: object,
    ) -> None:
        self.evaluator = find_evaluator(backend)
        metric = metric if isinstance(metric, str) else list(metric)
        super().__init__(None, metric, *args, **kwargs)
        self.iou_thrs = checked_thresholds(self.iou_thrs)
        if isinstance(self.metric_items, str):
            self.metric_items = [self.metric_items]
        check_items(self.metric_items)
        check_proposal_nums(self.proposal_nums)
        if self.use_mp_eval:
            if backend != 'pycocotools':
                raise InputError(
                    f'CocoInstanceMetric: use_mp_eval=True does not go with backend={backend!r}; '
                    'leave one of them out'
                )
            self.evaluator = COCOevalMP
        self.ann_file = ann_file
        if ann_file is not None:
            self._read(ann_file)
            if backend != 'pycocotools':
                check_ids(ann_file, self._coco_api.dataset, backend)

    def _read(self, ann_file: str) -> None:
        """Read the ground truth."""
        with get_local_path(ann_file, backend_args=self.backend_args) as path:
            truth = CheckedCOCO(path, name=ann_file, boxes_alone='segm' not in self.metrics)
        if 'annotations' not in truth.dataset and not self.format_only:
            raise InputError(
                f'{ann_file}: it has no annotations to compare with; a test set needs '
                "format_only=True and outfile_prefix='...' of the evaluator"
            )
        truth.left_out.log(ann_file, truth.total)
        self._coco_api = truth

    # Predictions

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch, masks as RLE.

        Raises:
            InputError: if the annotation file lacks an image, or there is neither a file nor
                instances.
        """
        samples = [with_rle(sample) for sample in data_samples]
        if self.ann_file is not None:
            samples = [{**sample, 'img_id': self.image_of(sample)['id']} for sample in samples]
        elif not all('instances' in sample for sample in samples):
            raise InputError(
                'CocoInstanceMetric: there is nothing to compare with: set ann_file of the '
                "evaluator, or meta_keys=(..., 'instances') of PackDetInputs"
            )
        super().process(data_batch, samples)

    def image_of(self, sample: dict) -> dict:
        """The annotation file's entry of a sample: ``img_id``, and if known ``img_path`` and size.

        The size is ``ori_shape``, or ``height`` and ``width``.

        Raises:
            InputError: if there is none, or it has another file name or size.
        """
        image, path = find(self._coco_api.image_of_id, sample['img_id']), sample.get('img_path')
        given = tuple(sample.get('ori_shape', (sample.get('height'), sample.get('width'))))[:2]
        if image is None:
            what = f'has no image {sample["img_id"]!r}' + (f', {path}' if path else '')
        elif path and image.get('file_name') and stem(path) != stem(image['file_name']):
            what = f'has the image {image["id"]!r} as {image["file_name"]}, which is not {path}'
        elif None not in given and given != (image.get('height', given[0]),
                                             image.get('width', given[1])):  # fmt: skip
            what = (
                f'says that the image {image["id"]!r}, {path or image.get("file_name")}, is '
                f'{image["width"]}x{image["height"]}, not {given[1]}x{given[0]}'
            )
        else:
            return image
        raise InputError(f"{self.ann_file}: the evaluator's file {what}: {OWN_FILE}")

    def check_data(self, classes: Sequence[str], images: Iterable[dict]) -> None:
        """Check the images of data sets, of which another file tells, and their classes.

        Raises:
            InputError: if the annotation file lacks one of them or has it in another size, if two
                have one id, or if it has no instance of the classes.
        """
        seen: dict[int | str, str | None] = {}  # the path of each id
        for image in images:
            own = self.image_of(image)
            if own['id'] in seen:
                raise InputError(
                    f'{self.ann_file}: {seen[own["id"]]} and {image.get("img_path")} have one id, '
                    f'{own["id"]!r}: evaluate joined data sets on their own'
                )
            seen[own['id']] = image.get('img_path')
        if classes and not self.format_only:
            chosen = set(self._coco_api.get_cat_ids(cat_names=classes))
            annotations = self._coco_api.dataset['annotations']
            if not any(one['category_id'] in chosen and not one['iscrowd'] for one in annotations):
                raise InputError(
                    f'{self.ann_file}: it has no instance of the classes {tuple(classes)} to '
                    f'compare with; left out: {self._coco_api.left_out.describe() or "none"}'
                )

    # Figures

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Figures of all images: of pairs of ground truth and predictions, as ``process`` made."""
        truths, predictions = zip(*results, strict=True) if results else ((), ())
        if self._coco_api is None:
            self._coco_api = self._truth_of_samples(truths)
        self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
        self.img_ids = self._evaluated_images(predictions)
        entries = self._entries(predictions)
        figures: dict[str, float] = {}
        for metric in () if self.format_only else self.metrics:
            print_log(f'Evaluating {metric}...', logger='current')
            if metric == 'proposal_fast':
                recalls = self.fast_eval_recall(predictions)
                names = [f'AR@{number}' for number in self.proposal_nums]
                figures.update(zip(names, recalls, strict=True))
                continue
            kind = 'bbox' if metric == 'proposal' else metric
            if kind not in entries:
                raise InputError(
                    f'CocoInstanceMetric: metric={self.metrics} needs masks, and the model '
                    'predicts none'
                )
            counted = self._counted(kind, entries[kind], classes=metric != 'proposal')
            figures.update(self._figures(metric, counted))
        return figures

    def _evaluated_images(self, predictions: Sequence[dict]) -> list:
        """Ids of the images to compare: all, or those of a data set that has some of them."""
        every, found = self._coco_api.get_img_ids(), {one['img_id'] for one in predictions}
        chosen = [number for number in every if number in found]
        if len(chosen) < len(every):
            print_log(
                f'{self.ann_file}: figures are of {len(chosen)} of its {len(every)} images, those '
                'that were predicted',
                logger='current',
                level=logging.WARNING,
            )
        return chosen

    def fast_eval_recall(self, results: Sequence[dict]) -> np.ndarray:
        """Average recalls of boxes by numbers of them; mmdet's fails with NumPy 2."""
        truths = []
        for result in results:
            entries = self._coco_api.imgToAnns.get(result['img_id'], ())
            counted = [one['bbox'] for one in entries if not (one.get('ignore') or one['iscrowd'])]
            boxes = np.array(counted, dtype=np.float32).reshape(-1, 4)
            truths.append(np.c_[boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        found = [result['bboxes'] for result in results]
        return average_recalls(found, truths, self.proposal_nums, self.iou_thrs)

    def _truth_of_samples(self, truths: Sequence[dict]) -> COCO:
        """The instances that samples brought, as mmdet writes them."""
        with tempfile.TemporaryDirectory() as folder:
            return COCO(self.gt_to_coco_json(truths, os.path.join(folder, 'truth')))

    def _entries(self, predictions: Sequence[dict]) -> dict[str, list[dict]]:
        """COCO results of boxes, ``bbox``, and of masks if there are any, ``segm``.

        They are written to files where ``outfile_prefix`` asks for it.
        """
        has_masks = not predictions or 'masks' in predictions[0]
        kinds = ('bbox', 'segm') if has_masks else ('bbox',)
        entries: dict[str, list[dict]] = {kind: [] for kind in kinds}
        for found in predictions:
            for index, label in enumerate(found['labels'].tolist()):
                entry = dict(
                    image_id=found['img_id'],
                    bbox=self.xyxy2xywh(found['bboxes'][index]),
                    score=float(found['scores'][index]),
                    category_id=self.cat_ids[label],
                )
                entries['bbox'].append(entry)
                if 'segm' in entries:
                    score = float(found.get('mask_scores', found['scores'])[index])
                    mask = found['masks'][index]
                    if isinstance(mask['counts'], bytes):
                        mask = {**mask, 'counts': mask['counts'].decode()}
                    entries['segm'].append({**entry, 'score': score, 'segmentation': mask})
        if self.outfile_prefix is not None:
            for kind, results in entries.items():
                dump(results, f'{self.outfile_prefix}.{kind}.json')
            print_log(f'Results are in {self.outfile_prefix}.*.json', logger='current')
        return entries

    def _counted(self, kind: str, entries: list[dict], *, classes: bool) -> COCOeval:
        """COCO's evaluation of results, or without ``classes`` of where they are alone."""
        if kind == 'segm':  # with a box COCO takes its area for the mask's
            entries = [{key: one[key] for key in one if key != 'bbox'} for one in entries]
        counting = self.evaluator(self._coco_api, self._as_results(entries), kind)
        counting.params.catIds = self.cat_ids
        counting.params.imgIds = self.img_ids
        counting.params.maxDets = list(self.proposal_nums)
        counting.params.iouThrs = self.iou_thrs
        counting.params.useCats = int(classes)
        counting.evaluate()
        counting.accumulate()
        counting.summarize()
        return counting

    def _as_results(self, entries: list[dict]) -> COCO:
        """COCO results ready to be compared; loadRes of COCO's code needs at least one."""
        if entries:
            return self._coco_api.loadRes(entries)
        nothing = COCO()
        nothing.dataset = {**self._coco_api.dataset, 'annotations': []}
        nothing.createIndex()
        return nothing

    def _figures(self, metric: str, counted: COCOeval) -> dict[str, float]:
        """The figures of a metric, under mmdet's names."""
        stats = dict(zip(STATS, map(float, counted.stats), strict=True))
        precision = counted.eval['precision']  # (IoU, recall, class, area, detections)
        if COCO_DETECTIONS not in self.proposal_nums:
            mean = mean_above(precision[:, :, :, 0, -1])
            stats['mAP'] = -1.0 if np.isnan(mean) else mean
        if metric == 'proposal':
            return {name: round(stats[name], 3) for name in self.metric_items or STATS[6:]}
        figures = self._class_figures(precision) if self.classwise else {}
        names = self.metric_items or STATS[:6]
        figures.update({f'{metric}_{name}': round(stats[name], 3) for name in names})
        copied = ' '.join(f'{stats[name]:.3f}' for name in STATS[:6])
        print_log(f'{metric}_mAP_copypaste: {copied}', logger='current')
        return figures

    def _class_figures(self, precision: np.ndarray) -> dict[str, float]:
        """MAP of each class, as ``NAME_precision``; the others are logged in a table."""
        table = [['category', *STATS[:6]]]
        figures = {}
        places = np.argsort(np.argsort(self.cat_ids))  # COCO's code sorts the ids
        for place, name in zip(places, self.dataset_meta['classes'], strict=True):
            every = precision[:, :, place, :, -1]  # (IoU, recall, area)
            values = [
                every[..., 0],
                *(every[np.isclose(self.iou_thrs, threshold), :, 0] for threshold in (0.5, 0.75)),
                *(every[..., area] for area in (1, 2, 3)),
            ]
            means = [round(mean_above(value), 3) for value in values]
            figures[f'{name}_precision'] = means[0]
            table.append([name, *map(str, means)])
        print_log('\n' + AsciiTable(table).table, logger='current')
        return figures


def stem(path: str | os.PathLike) -> str:
    """What names a file on any system: no folders and no extension, no case, one Unicode form."""
    name = os.path.splitext(os.fspath(path).replace('\\', '/').rsplit('/', maxsplit=1)[-1])[0]
    return unicodedata.normalize('NFC', name).casefold()
