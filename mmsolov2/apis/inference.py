"""From image files and a checkpoint to predictions."""

import copy
import glob
import logging
import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from torch import nn

from mmsolov2.cli.checkpoint_config import checkpoint_config
from mmsolov2.cli.config import base_dataset_configs, dataset_of, open_config, reads_bands
from mmsolov2.cli.errors import error_context
from mmsolov2.datasets.bands import read_bands
from mmsolov2.datasets.image_files import IMAGE_SUFFIXES, decode_image
from mmsolov2.errors import InputError
from mmsolov2.models.state_dicts import class_names, read_matching
from mmsolov2.registry import DATASETS, MODELS
from mmsolov2.structures.masks import encode_rle, tight_boxes

COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # COCO numbers its 80 classes 1 to 90
COCO_IDS = [number for number in range(1, 91) if number not in COCO_GAPS]

# Images


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """Image paths of files, folders and glob patterns, sorted, each once.

    A file is taken whatever its name; of folders (with all below them) and patterns (``**`` too)
    the files with the extension of an image, but for hidden ones. Links are followed, and a folder
    that is reached in several ways is searched once. What is left out for its extension is logged
    in one line, as a folder that cannot be read is.

    Raises:
        InputError: if an input gives no image.
    """
    found: dict[str, Path] = {}  # by their places
    others: set[str] = set()
    for name in inputs:
        images, left = _expand(os.path.expanduser(name))
        for path in images:
            found.setdefault(_place(path), path)
        others.update(map(_place, left))
    kinds = Counter(Path(place).suffix.lower() or 'none' for place in others - found.keys())
    if kinds:
        _warn(f"left out {kinds.total()} files whose extension is no image's: {dict(kinds)}")
    return sorted(found.values())


def _place(path: Path) -> str:
    """Where a file is, by whatever links its folder was reached; its own name may be a link."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)


def _expand(name: str) -> tuple[list[Path], list[Path]]:
    """The images of one input, at least one, and the files with other extensions."""
    if os.path.isfile(name):
        return [Path(name)], []
    is_folder = os.path.isdir(name)
    pattern = Path(glob.escape(name), '**') if is_folder else Path(name)
    files = [path for path in _matches(pattern) if not os.path.isdir(path)]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if images:
        return images, [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    if is_folder or files:
        reason = f'no file with the extension of an image ({" ".join(IMAGE_SUFFIXES)}) is in it'
    else:
        reason = 'there is no such file or folder, and no file matches it as a pattern'
    raise InputError(f'{name}: {reason}; give an image, a folder of images or a quoted pattern')


def _matches(pattern: Path) -> Iterator[Path]:
    """The paths of a pattern, in which ``**`` is a folder and those below it; none is hidden."""
    if '**' not in pattern.parts:
        yield from map(Path, glob.glob(str(pattern)))
        return
    first = pattern.parts.index('**')
    rest = pattern.parts[first + 1 :] or ('*',)
    for top in filter(os.path.isdir, glob.glob(str(Path(*pattern.parts[:first])))):
        for folder in _folders(top):
            yield from _matches(Path(glob.escape(folder), *rest))


def _folders(top: str) -> Iterator[str]:
    """A folder and those below it, each once: links, which may lead back, come last."""
    waiting, seen = deque([top]), set()
    while waiting:
        folder = waiting.popleft()
        if os.path.realpath(folder) in seen:
            continue
        seen.add(os.path.realpath(folder))
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith('.'))
        except OSError as error:
            _warn(f'left out {folder}: the folder cannot be read ({error.strerror})')
            continue
        yield folder
        for path in (os.path.join(folder, name) for name in names):
            if os.path.isdir(path):
                (waiting.append if os.path.islink(path) else waiting.appendleft)(path)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file upright, as its EXIF tag says: (H, W, 3) uint8 BGR.

    Grey becomes three equal channels, alpha is dropped, 16 bits are cut to the upper 8. Of several
    frames or pages it is the first.

    Raises:
        InputError: if the file is missing, no image, truncated or of an unsupported kind.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe may never end
            raise InputError(f'{path}: this is no file, but a folder, a pipe or a device')
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f'{path}: the image cannot be read: {error.strerror}') from error
    return decode_or_refuse(data, path)


def decode_or_refuse(data: bytes, name: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR of the bytes of an image file, of which ``name`` speaks.

    Raises:
        InputError: if they are no image, truncated or of an unsupported kind.
    """
    image = decode_image(data)
    if image is None:
        raise InputError(
            f'{name}: this is no image that can be decoded, or it is truncated '
            f'({len(data)} bytes, beginning with {data[:8]!r}): replace it'
        )
    return image


# Model


def load_config(
    name: str | Path | None,
    cfg_options: Mapping | None = None,
    *,
    checkpoint: str | Path | None = None,
) -> Config:
    """The config of a SOLOv2, of a path or shipped name, with options set.

    Without a name it is the config that ``checkpoint`` holds, read without running it.

    Raises:
        InputError: if it cannot be read, is of another model, or has no place for an option.
    """
    if name is None:
        config = checkpoint_config(str(checkpoint), cfg_options)
    else:
        config = open_config(name, cfg_options)
    if 'mask_head' not in config.model:
        raise InputError(
            f'{config.filename}: the config has no model.mask_head; give one of a SOLOv2'
        )
    return config


def choose_device(name: str = 'auto') -> torch.device:
    """The device of that name; ``auto`` is the first GPU, and the CPU where there is none.

    Raises:
        InputError: if there is no such device.
    """
    if name == 'auto':
        name = 'cuda:0' if torch.cuda.is_available() else 'cpu'
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).partition('\n')[0]
        raise InputError(f'device {name!r} cannot be used ({reason}); try auto or cpu') from error


def load_detector(
    config: str | Path | Config | None,
    checkpoint: str | Path,
    *,
    device: str = 'auto',
    cfg_options: Mapping | None = None,
) -> BaseDetector:
    """A SOLOv2 ready to predict, of a config (path, shipped name or ``Config``) and weights.

    Without a config it is the one that the checkpoint holds.

    Unlike with ``mmdet.apis.init_detector``, every entry of the model must be in the checkpoint,
    and the names of classes that the checkpoint lacks are the config's. ``dataset_meta`` has the
    names, and ``cfg`` the config, as mmdet's own tools expect.

    Raises:
        InputError: if config, checkpoint or device cannot be used, or do not fit together.
    """
    target = choose_device(device)
    if isinstance(config, Config):
        settings = copy.deepcopy(config)
        settings.merge_from_dict(dict(cfg_options or {}))
    else:
        settings = load_config(config, cfg_options, checkpoint=checkpoint)
    init_default_scope(settings.get('default_scope', 'mmdet'))
    with error_context(settings.filename):
        model = revert_sync_batchnorm(MODELS.build(settings.model))
    meta = load_weights(model, checkpoint)
    model.dataset_meta = dataset_meta(settings, meta)
    model.cfg = settings
    return model.to(target).eval()


def load_weights(model: nn.Module, checkpoint: str | Path) -> dict:
    """Load a checkpoint into a model, every entry of it; the checkpoint's ``meta``.

    Raises:
        InputError: if the checkpoint cannot be read or is of another model.
    """
    weights, meta = read_matching(model, str(checkpoint))
    model.load_state_dict(weights, strict=False)  # old checkpoints lack BatchNorm's counters
    return meta


def dataset_meta(config: Config, checkpoint_meta: Mapping) -> dict:
    """``classes``, one name a class, and ``palette``: the checkpoint's, else the config's.

    Names that are not as many as the head has classes are passed over, in the end for
    ``class 1``, ``class 2`` ...

    Raises:
        InputError: if the config has no test data, which also tell how images are read.
    """
    dataset = next(base_dataset_configs(dataset_of(config, 'test')))
    with error_context(config.filename):
        known = DATASETS.build({**dataset, 'lazy_init': True}).metainfo
    count = config.model.mask_head.num_classes
    numbered = tuple(f'class {number}' for number in range(1, count + 1))
    candidates = (class_names(checkpoint_meta), class_names(known), numbered)
    classes = next(names for names in candidates if len(names) == count)
    return dict(classes=classes, palette=known.get('palette', 'random'))


# Predictions


def predict(model: nn.Module, image: str | Path | np.ndarray) -> DetDataSample:
    """The sample of an image, a file or (H, W, 3) uint8 BGR: its ``pred_instances``.

    Of a model whose test pipeline has LoadBandsFromFile, a file of that or (H, W, bands) numbers.

    ``scores`` float32 (n,), ``labels`` int64 (n,), ``bboxes`` float32 (n, 4) xyxy, ``masks`` bool
    (n, H, W), or n RLE dicts with ``model.test_cfg.mask_format='rle'``; the best first. Boxes that
    mmdet's SOLO leaves at zero are put around the masks.

    Raises:
        InputError: if the file cannot be read, or the array is of another shape or type.
    """
    if not isinstance(image, np.ndarray):
        image = read_bands(str(image)) if reads_bands(model.cfg) else read_image(image)
    return predict_batch(model, [image])[0]


def predict_batch(model: BaseDetector, images: Sequence[np.ndarray]) -> list[DetDataSample]:
    """The samples, as of ``predict``, of images (H, W, 3) uint8 BGR, or bands, at once.

    Those that are of one size when they are resized and padded go through the network together,
    so that each gives what it gives alone, but for the rounding of sums: a pixel in some ten
    thousand may differ.

    Raises:
        InputError: if an array is of another shape or type.
    """
    checked = require_bands if reads_bands(model.cfg) else require_image
    images = [checked(image) for image in images]
    pipeline = array_pipeline(model.cfg)
    inputs = [pipeline(dict(img=image, img_id=0)) for image in images]
    samples: dict[int, DetDataSample] = {}
    for group in _of_one_size(inputs, model.data_preprocessor.pad_size_divisor):
        with torch.no_grad():
            found = model.test_step(pseudo_collate([inputs[index] for index in group]))
        samples.update(zip(group, found, strict=True))
    for sample in samples.values():
        found = sample.pred_instances
        if not found.bboxes.any() and isinstance(found.masks, torch.Tensor):
            found.bboxes = tight_boxes(found.masks)
    return [samples[index] for index in range(len(images))]


def _of_one_size(inputs: Sequence[Mapping], divisor: int) -> list[list[int]]:
    """The places of network inputs, those together that are padded to one size."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, each in enumerate(inputs):
        size = tuple(-(-side // divisor) for side in each['inputs'].shape[1:])
        groups.setdefault(size, []).append(index)
    return list(groups.values())


def require_image(image: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) uint8 BGR, as it is.

    Raises:
        InputError: if the array is no such image.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(
            f'an image must be (H, W, 3) uint8 BGR, not {image.shape} {image.dtype}: '
            'mmsolov2.apis.read_image gives that'
        )
    return image


def require_bands(image: np.ndarray) -> np.ndarray:
    """A picture of numbers as (H, W, bands) float32.

    Raises:
        InputError: if the array is of another shape or type.
    """
    if image.ndim != 3 or image.dtype.kind not in 'uif' or not image.size:
        raise InputError(
            f'a picture must be (H, W, bands) of integers or floats, not {image.shape} '
            f'{image.dtype}: mmsolov2.datasets.bands.read_bands gives that'
        )
    return image.astype(np.float32)


def array_pipeline(config: Config) -> Compose:
    """The test pipeline of a config, which takes its image as an array instead of from a file."""
    load, *steps = copy.deepcopy(get_test_pipeline_cfg(config))
    load['type'] = 'mmdet.LoadImageFromNDArray'
    return Compose([load, *steps])


def coco_categories(classes: Sequence[str]) -> list[dict]:
    """COCO categories of classes, in the order of the labels: one dict with id and name each.

    COCO's own 80 classes have COCO's ids; all others are numbered from 1.
    """
    is_coco = tuple(classes) == DATASETS.get('mmdet.CocoDataset').METAINFO['classes']
    ids = COCO_IDS if is_coco else range(1, len(classes) + 1)
    return [dict(id=number, name=name) for number, name in zip(ids, classes, strict=True)]


def to_coco(
    sample: DetDataSample, *, image_id: int, file_name: str, classes: Sequence[str]
) -> list[dict]:
    """COCO results of a sample, one dict an instance, ready for JSON.

    ``image_id``, ``file_name``, ``category_id`` (see ``coco_categories``), ``category_name``,
    ``bbox`` [x, y, width, height] in pixels, ``score``, and ``segmentation`` as compressed RLE.
    Instances without a pixel in the image are left out.
    """
    found = sample.pred_instances
    categories = coco_categories(classes)
    masks = encode_rle(found.masks) if isinstance(found.masks, torch.Tensor) else found.masks
    rows = zip(
        found.labels.tolist(), found.bboxes.tolist(), found.scores.tolist(), masks, strict=True
    )
    return [
        dict(
            image_id=image_id,
            file_name=file_name,
            category_id=categories[label]['id'],
            category_name=categories[label]['name'],
            bbox=[x1, y1, x2 - x1, y2 - y1],
            score=score,
            segmentation=dict(size=list(mask['size']), counts=mask['counts'].decode('ascii')),
        )
        for label, (x1, y1, x2, y2), score, mask in rows
        if x2 > x1
    ]
