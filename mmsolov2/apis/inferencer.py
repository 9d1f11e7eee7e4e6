"""From a model to answers in one line, with the habits of mmdet's DetInferencer."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmsolov2.apis.inference import load_detector, predict_batch
from mmsolov2.apis.pictures import Picture, PictureInput, is_one_picture, pictures_of
from mmsolov2.apis.prediction_files import fitting
from mmsolov2.apis.prediction_formats import encode_png
from mmsolov2.apis.slices import predict_sliced
from mmsolov2.errors import InputError
from mmsolov2.fileio import require_folder, write_whole
from mmsolov2.structures.masks import encode_rle, mask_polygons, with_bitmaps
from mmsolov2.visualization.overlay import draw_overlay

MASK_FORMATS = ('bitmap', 'rle', 'polygon')
KEYS = ('predictions', 'visualization')  # of a result


class Answer(NamedTuple):
    """What a model says of a picture: a sample, or why there is none."""

    picture: Picture
    image: np.ndarray | None  # (H, W, 3) uint8 BGR
    sample: DetDataSample | None  # on the CPU, its masks as RLE if the model gives them
    error: InputError | None


class Form(NamedTuple):
    """What is made of an answer."""

    mask_format: str
    as_samples: bool
    draws: bool
    vis_dir: Path | None
    pred_dir: Path | None


class SOLOv2Inferencer:
    """Predicts pictures of all kinds: ``inferencer('photos/')['predictions']``.

    ``model`` is a config, by its path or shipped name, and ``weights`` its checkpoint; or one of
    both is a checkpoint of mmengine alone, whose config is read from it without running it.
    ``device`` is ``auto``, ``cpu``, ``cuda:0`` ... With ``slice_side`` pictures that are larger are
    predicted by slices of so many pixels, as ``predict_sliced`` does.

    Raises:
        InputError: if config, checkpoint or device cannot be used, or do not fit together.
    """

    def __init__(
        self,
        model: str | Path | Config | None = None,
        weights: str | Path | None = None,
        device: str = 'auto',
        cfg_options: Mapping | None = None,
        slice_side: int | None = None,
    ) -> None:
        if weights is None:
            model, weights = None, model
        if weights is None or isinstance(weights, Config) or str(weights).endswith('.py'):
            raise InputError(
                f'weights={weights}: give a checkpoint, with weights=; a config alone has none'
            )
        if slice_side is not None and not (isinstance(slice_side, int) and slice_side >= 1):
            raise InputError(f'slice_side={slice_side}: give a number of pixels, or None')
        options = {'model.test_cfg.mask_format': 'rle', **(cfg_options or {})}  # less memory
        self.model = load_detector(model, weights, device=device, cfg_options=options)
        self.classes = tuple(self.model.dataset_meta['classes'])
        self.slice_side = slice_side

    def __call__(
        self,
        inputs: PictureInput | list | tuple,
        *,
        batch_size: int = 1,
        pred_score_thr: float = 0.3,
        out_dir: str | Path | None = None,
        stream: bool = False,
        mask_format: str = 'bitmap',
        return_datasamples: bool = False,
        return_vis: bool = False,
        no_save_vis: bool = False,
        no_save_pred: bool = True,
    ) -> dict | Iterator[dict]:
        """Predict pictures: ``predictions`` and ``visualization``, an entry a picture in each.

        ``inputs`` are what ``pictures_of`` takes, one or a list. A prediction is a dict of
        ``name``, ``labels`` (n), ``scores`` (n), ``bboxes`` (n) of xyxy in pixels, the best first,
        and ``masks``: with ``mask_format='bitmap'`` (n, H, W) bool, with ``'rle'`` n dicts and
        with ``'polygon'`` n lists as of ``mask_polygons``, both ready for JSON. Instances with a
        score below ``pred_score_thr`` are left out. With ``return_datasamples`` it is a sample.

        Of a picture that cannot be read or predicted it is a dict of ``name`` and ``error``; a
        picture that is the only input raises that. With ``stream`` the result is a generator of
        dicts as said, of one picture each, which holds no more than a batch of them.

        ``batch_size`` pictures are predicted together, as ``predict_batch`` does. With ``out_dir``
        overlays are written as ``vis/NUMBER-NAME.png``, unless ``no_save_vis``, and predictions as
        ``preds/NUMBER-NAME.json``, with RLE or polygons, if not ``no_save_pred``.
        ``visualization`` has the overlays (H, W, 3) uint8 BGR with ``return_vis``, else nothing.

        Raises:
            InputError: if an argument is wrong, an input has no pictures, or a single one fails.
        """
        if mask_format not in MASK_FORMATS:
            raise InputError(f'mask_format={mask_format!r}: give one of {", ".join(MASK_FORMATS)}')
        if out_dir is not None:
            require_folder(out_dir)
        form = Form(
            mask_format,
            as_samples=return_datasamples,
            draws=return_vis,
            vis_dir=None if out_dir is None or no_save_vis else Path(out_dir, 'vis'),
            pred_dir=None if out_dir is None or no_save_pred else Path(out_dir, 'preds'),
        )
        answers = self.answers(pictures_of(inputs), batch_size=batch_size, score_thr=pred_score_thr)
        alone = is_one_picture(inputs)
        results = (
            self._result(answer, number, form, alone) for number, answer in enumerate(answers)
        )
        if stream:
            return results
        every = list(results)
        return {key: [one for result in every for one in result[key]] for key in KEYS}

    def _result(self, answer: Answer, number: int, form: Form, alone: bool) -> dict:
        """The result of a picture, with its files written; an error is raised if it is alone."""
        name, image, sample, error = answer.picture.name, *answer[1:]
        if image is None or sample is None:
            if alone and error:
                raise error
            return dict(predictions=[dict(name=name, error=str(error))], visualization=[])
        file_name = f'{number:06}-{Path(name).stem}'
        overlays = []
        if form.draws or form.vis_dir:
            overlays.append(draw_overlay(image, sample, self.classes))
        if form.vis_dir:
            path = form.vis_dir / fitting(f'{file_name}.png')
            write_whole(path, encode_png(overlays[0], f'{name}: its overlay'))
        if form.pred_dir:
            kind = 'polygon' if form.mask_format == 'polygon' else 'rle'
            content = json.dumps(prediction_of(sample, name, kind))
            write_whole(form.pred_dir / fitting(f'{file_name}.json'), content)
        said = sample if form.as_samples else prediction_of(sample, name, form.mask_format)
        return dict(predictions=[said], visualization=overlays if form.draws else [])

    def answers(
        self,
        pictures: Iterable[Picture],
        *,
        batch_size: int = 1,
        score_thr: float = 0.3,
        workers: int = 0,
    ) -> Iterator[Answer]:
        """The answers of pictures in turn, of which a batch is held at a time.

        Batches are of ``batch_size`` pictures as they come, and lack those that cannot be read.
        ``workers`` is how many threads read pictures ahead; with 0 each is read when it is due.

        Raises:
            InputError: if ``batch_size`` is no number of at least 1.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f'batch_size={batch_size}: give a whole number of at least 1')
        reading = read_ahead(pictures, workers, batch_size + workers)
        while batch := list(islice(reading, batch_size)):
            yield from self._answer(batch, score_thr)

    def _answer(self, batch: list[Answer], score_thr: float) -> Iterator[Answer]:
        """The answers of a batch of pictures that were read."""
        images = [each.image for each in batch if each.image is not None]
        found = iter(self._predict(images) if images else [])
        for each in batch:
            if each.image is None:
                yield each
                continue
            sample = next(found)
            if isinstance(sample, InputError):
                yield each._replace(error=sample)
                continue
            instances = sample.pred_instances
            sample.pred_instances = instances[instances.scores >= score_thr]
            yield each._replace(sample=sample)

    def _predict(self, images: list[np.ndarray]) -> list[DetDataSample | InputError]:
        """A sample of each image, or why there is none: of a batch that fails, each alone."""
        try:
            if self.slice_side:
                return [predict_sliced(self.model, image, self.slice_side) for image in images]
            return [sample.cpu() for sample in predict_batch(self.model, images)]
        except InputError as error:
            if len(images) == 1:
                return [error]
            return [self._predict([image])[0] for image in images]


def read_ahead(pictures: Iterable[Picture], workers: int, most: int) -> Iterator[Answer]:
    """Pictures in turn, read by threads of which ``most`` pictures are ahead at a time."""
    if not workers:
        yield from map(_read, pictures)
        return
    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for picture in pictures:
                waiting.append(pool.submit(_read, picture))
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read(picture: Picture) -> Answer:
    """A picture with its image, or with why there is none."""
    try:
        return Answer(picture, picture.read(), None, None)
    except InputError as error:
        return Answer(picture, None, None, error)


def prediction_of(sample: DetDataSample, name: str, mask_format: str) -> dict:
    """Name, labels, scores, boxes and masks of a sample as plain values, but for bitmaps."""
    found = sample.pred_instances
    return dict(
        name=name,
        labels=found.labels.tolist(),
        scores=found.scores.tolist(),
        bboxes=found.bboxes.tolist(),
        masks=masks_as(mask_format, found, sample.ori_shape),
    )


def masks_as(mask_format: str, found: InstanceData, size: Sequence[int]) -> np.ndarray | list:
    """The masks of n instances of an image (H, W), in a format of ``MASK_FORMATS``."""
    if mask_format == 'rle':
        given = found.masks
        rles = encode_rle(given) if isinstance(given, torch.Tensor) else given
        return [dict(size=list(rle['size']), counts=rle['counts'].decode('ascii')) for rle in rles]
    bitmaps = with_bitmaps(found, size).masks.numpy()
    return bitmaps if mask_format == 'bitmap' else [mask_polygons(bitmap) for bitmap in bitmaps]
