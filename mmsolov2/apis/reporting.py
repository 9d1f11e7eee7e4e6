"""From a config and a checkpoint to a page about the model on its validation data."""

import io
import time
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.datasets import BaseDetDataset
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from tqdm import tqdm

from mmsolov2.apis.inference import load_config, load_detector
from mmsolov2.cli.config import base_dataset_configs, dataset_of
from mmsolov2.cli.errors import error_context
from mmsolov2.datasets.statistics import Ranges, crowded_out, on_levels, statistics
from mmsolov2.errors import InputError
from mmsolov2.fileio import require_folder, write_whole
from mmsolov2.registry import DATASETS
from mmsolov2.report.figures import Figures, ReportMetric, figures
from mmsolov2.report.page import About, Cells, Level, page
from mmsolov2.report.pictures import make_pictures

TIMES = ('loading', 'network', 'post-processing')


def report(
    config: str | Path,
    checkpoint: str | Path,
    out: str | Path = 'report.html',
    *,
    device: str = 'auto',
    cfg_options: Mapping | None = None,
) -> Figures:
    """Write a page about a model on the validation data of its config, and give its figures.

    Raises:
        InputError: if hotcoco is not installed, config, checkpoint, data or device cannot be used,
            or the page cannot be written.
    """
    require_hotcoco()
    require_folder(Path(out).parent)
    options = {**(cfg_options or {}), 'model.test_cfg.mask_format': 'rle'}
    settings = load_config(config, options)
    model = load_detector(settings, checkpoint, device=device)
    with quiet():
        data = validation_data(settings)
        metric = ReportMetric(data.ann_file)
    metric.dataset_meta = data.metainfo
    seen = Seen(model, data, metric)
    for index in tqdm(range(len(data)), unit='picture', disable=None):
        seen.add(index)
    with quiet():
        metric.evaluate(len(data))
        found = figures(metric.counted, data.metainfo['classes'])
    about = seen.about(config=str(config), checkpoint=str(checkpoint))
    write_whole(out, page(found, make_pictures(found.pictures, found.classes, seen.image), about))
    return found


def quiet() -> AbstractContextManager:
    """Keep what COCO's code prints from the console; logs are shown."""
    MMLogger.get_current_instance()  # it takes the console that there is when it is made
    return redirect_stdout(io.StringIO())


def require_hotcoco() -> None:
    """Raise InputError without the package that counts."""
    try:
        import hotcoco  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"a report needs the package hotcoco: pip install 'mmsolov2[report]' ({error})"
        ) from error


def validation_data(config: Config) -> BaseDetDataset:
    """The validation data of a config, whose pipeline leaves out the truth.

    Raises:
        InputError: if the config has none or several, or they cannot be used.
    """
    found = list(base_dataset_configs(dataset_of(config, 'val')))
    if len(found) > 1:
        raise InputError(
            f'{config.filename}: a report is of one annotation file, and val_dataloader joins '
            f'{len(found)} data sets: give a config with one of them'
        )
    steps = [step for step in found[0].pipeline if 'LoadAnnotations' not in str(step['type'])]
    with error_context(config.filename):
        data = DATASETS.build({**found[0], 'pipeline': steps, 'test_mode': True})
    classes, number = data.metainfo['classes'], config.model.mask_head.num_classes
    if len(classes) != number:
        raise InputError(
            f'{config.filename}: model.mask_head.num_classes is {number}, but the validation data '
            f'have {len(classes)} classes: give both the same number'
        )
    return data


class Seen:
    """The pictures of a data set, predicted one by one for a metric, and what that takes."""

    def __init__(self, model: Any, data: BaseDetDataset, metric: ReportMetric) -> None:
        self.model, self.data, self.metric = model, data, metric
        self.load = Compose([data.pipeline.transforms[0], dict(type='mmsolov2.MatchAnnotatedSize')])
        self.index: dict[int, int] = {}  # in the data, by the picture's number
        self.factors: dict[int, float] = {}  # by which it is magnified
        self.seconds: list[tuple[float, ...]] = []  # of TIMES
        self.after_network = 0.0
        self.predict_by_feat = model.mask_head.predict_by_feat
        vars(model.mask_head)['predict_by_feat'] = self._timed

    def _timed(self, *args: Any, **kwargs: Any) -> Any:
        """The results of the network's outputs; the time that they take is kept."""
        begun = self._now()
        results = self.predict_by_feat(*args, **kwargs)
        self.after_network = self._now() - begun
        return results

    def _now(self) -> float:
        """The time in seconds when all work is done."""
        if next(self.model.parameters()).is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def add(self, index: int) -> None:
        """Predict a picture of the data."""
        begun = self._now()
        inputs = pseudo_collate([self.data[index]])
        loaded = self._now()
        with torch.no_grad():
            (sample,) = self.model.test_step(inputs)
        done = self._now()
        network = done - loaded - self.after_network
        self.seconds.append((loaded - begun, network, self.after_network))
        self.metric.process({}, [sample.cpu().to_dict()])
        number = self.metric.results[-1][1]['img_id']
        self.index[number] = index
        self.factors[number] = max(sample.img_shape) / max(sample.ori_shape)

    def image(self, number: int) -> np.ndarray:
        """The image (H, W, 3) uint8 BGR of a picture, as it was annotated."""
        loaded = self.load(self.data.get_data_info(self.index[number]))
        return loaded['img'].astype(np.uint8)

    def about(self, *, config: str, checkpoint: str) -> About:
        """What the page says that it is of."""
        return About(
            config=config,
            checkpoint=checkpoint,
            data=self.data.ann_file,
            device=str(next(self.model.parameters()).device),
            milliseconds=self.milliseconds(),
            listed=len(self.metric.counted['segm'].cocoGt.imgs),
            cells=self.cells(),
        )

    def milliseconds(self) -> dict[str, np.ndarray]:
        """What each picture took (m,); without the first, which warms up, if there are others."""
        spent = 1000 * np.array(self.seconds[1:] or self.seconds).T
        return dict(zip(TIMES, spent, strict=True))

    def cells(self) -> Cells | None:
        """How the instances share cells; None of heads without grids of sizes."""
        head = self.model.mask_head
        ranges = getattr(getattr(head, 'assigner', head), 'scale_ranges', None)
        if ranges is None or not hasattr(head, 'num_grids'):
            return None
        counted = self.metric.counted['segm']
        return shared_cells(
            seen_content(counted.cocoGt.dataset, self.factors, counted.params.catIds),
            self.factors,
            head.num_grids,
            ranges,
        )


def seen_content(content: Mapping, images: Container, categories: Container) -> dict[str, list]:
    """COCO content of some images and categories."""
    return dict(
        images=[one for one in content['images'] if one['id'] in images],
        categories=[one for one in content['categories'] if one['id'] in categories],
        annotations=[
            one
            for one in content['annotations']
            if one['image_id'] in images and one['category_id'] in categories
        ],
    )


def shared_cells(
    content: Mapping, factors: Mapping[int, float], grids: Sequence[int], ranges: Ranges
) -> Cells:
    """How the instances of COCO content, magnified by each picture's factor, share cells."""
    found = statistics(content)
    numbers = np.array([image['id'] for image in content['images']])
    factor = np.array([factors[number] for number in numbers.tolist()])
    taken = on_levels(found.sides * factor[found.picture], ranges)
    crowded = crowded_out(found, taken, grids)
    rows = zip(grids, ranges, taken.sum(1).tolist(), strict=True)
    levels = [Level(grid, low, high, count) for grid, (low, high), count in rows]
    return Cells(levels, dict(Counter(numbers[found.picture[crowded]].tolist())))
