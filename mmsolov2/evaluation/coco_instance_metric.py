"""COCO figures of masks and boxes."""

from collections.abc import Callable, Sequence
from types import FunctionType

from mmdet.evaluation import CocoMetric
from mmengine.fileio import get_local_path
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from mmsolov2.datasets.coco_instance import CheckedCOCO, has_mask, with_box
from mmsolov2.errors import InputError
from mmsolov2.models.mask_results import encode_rle
from mmsolov2.registry import METRICS

BACKENDS = ('pycocotools', 'faster')


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
        from mmsolov2.evaluation.faster_evaluator import FasterEvaluator
    except ImportError as error:
        raise InputError(
            "CocoInstanceMetric: backend='faster' needs the package faster-coco-eval: "
            f"pip install 'faster-coco-eval>=1.8,<2'; or set backend='pycocotools' ({error})"
        ) from error
    return FasterEvaluator


def check_ids(file: str, dataset: dict) -> None:
    """Raise InputError for ids that faster-coco-eval refuses or, beyond 2**53, mixes up."""
    entries = [*dataset['images'], *dataset['categories'], *dataset.get('annotations', [])]
    for entry in entries:
        for key in {'id', 'image_id', 'category_id'} & entry.keys():
            if not isinstance(entry[key], int) or not 0 <= entry[key] < 2**53:
                raise InputError(
                    f"{file}: CocoInstanceMetric with backend='faster' takes ids that are integers "
                    f"from 0 to 2**53, not {key} {entry[key]!r}; set backend='pycocotools'"
                )


def with_names(function: Callable, **names) -> Callable:
    """A copy of a function which finds ``names`` where its own module has others.

    Raises:
        RuntimeError: if it looks up none of that name, as another release of its package may not.
    """
    unused = names.keys() - set(function.__code__.co_names)
    if unused:
        raise RuntimeError(
            f'{function.__qualname__} of this mmdet uses no {sorted(unused)}: install mmdet 3.3'
        )
    return FunctionType(function.__code__, function.__globals__ | names)


def with_rle(sample: dict) -> dict:
    """A data sample whose predicted masks (n, H, W) bool are n COCO RLE dicts."""
    found = sample['pred_instances']
    if not isinstance(found.get('masks'), Tensor):
        return sample
    return {**sample, 'pred_instances': {**found, 'masks': encode_rle(found['masks'])}}


@METRICS.register_module()
class CocoInstanceMetric(CocoMetric):
    """mmdet's CocoMetric, faster, and on ground truth that COCO's own code trips over.

    With ``backend='faster'`` the package faster-coco-eval matches and counts, in C++; the figures
    are those of pycocotools. Predictions go through JSON files only if ``outfile_prefix`` asks for
    them.

    The file is read as in training (``CheckedCOCO``): annotations without a usable mask are left
    out where masks are evaluated, those without ``bbox`` or ``area`` get the mask's, and all are
    numbered from 1, as COCOeval reads the id 0 as "no match".

    Raises:
        InputError: if the annotation file cannot be used, or the backend is unknown, not installed
            or combined with ``use_mp_eval``.
    """

    def __init__(
        self, ann_file: str | None = None, *args, backend: str = 'pycocotools', **kwargs
    ) -> None:
        self.evaluator = find_evaluator(backend)
        super().__init__(None, *args, **kwargs)
        if self.use_mp_eval and backend != 'pycocotools':
            raise InputError(
                f'CocoInstanceMetric: use_mp_eval=True does not go with backend={backend!r}; '
                'leave one of them out'
            )
        if ann_file is not None:
            with get_local_path(ann_file, backend_args=self.backend_args) as path:
                self._coco_api = CheckedCOCO(path, name=ann_file)
            if 'annotations' not in self._coco_api.dataset and not self.format_only:
                raise InputError(
                    f'{ann_file}: it has no annotations to compare with; a test set needs '
                    "format_only=True and outfile_prefix='...' of the evaluator"
                )
            if kwargs.get('sort_categories'):
                self._coco_api.dataset['categories'].sort(key=lambda category: category['id'])
                self._coco_api.createIndex()
            self._mend_ground_truth()
            if backend == 'faster':
                check_ids(ann_file, self._coco_api.dataset)

    def _mend_ground_truth(self) -> None:
        """Leave out annotations without a mask, and add missing boxes and areas."""
        annotations = self._coco_api.dataset.get('annotations', [])
        mended = [
            with_box(annotation, self._coco_api) for annotation in annotations
            if has_mask(annotation) or ('segm' not in self.metrics and 'bbox' in annotation)
        ]
        if mended != annotations:
            self._coco_api.dataset['annotations'] = mended
            self._coco_api.createIndex()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch, masks as RLE."""
        super().process(data_batch, [with_rle(sample) for sample in data_samples])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Figures of all images; mmdet's method, which names COCOeval and the files' reader."""
        names = dict(COCOeval=self.evaluator)
        if self.outfile_prefix is None:
            names['load'] = lambda predictions: predictions
        return with_names(CocoMetric.compute_metrics, **names)(self, results)

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict:
        """Predictions as lists of COCO dicts by metric, or as files where they are asked for."""
        if self.outfile_prefix is not None:
            return super().results2json(results, outfile_prefix)
        kept = {}
        keep = with_names(
            CocoMetric.results2json, dump=lambda entries, file: kept.update({file: entries})
        )
        files = keep(self, results, outfile_prefix)
        return {metric: kept[file] for metric, file in files.items()}
