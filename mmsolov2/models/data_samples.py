"""Data samples that do not fit their images: found before anything is trained on them."""

from collections.abc import Sequence

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BaseInstanceMasks
from mmengine.structures import InstanceData
from torch import Tensor

from mmsolov2.errors import InputError

REMEDY = (
    'a step of the pipeline or of data_preprocessor.batch_augments changed the images and not '
    "their masks, as mmcv.Resize and BatchSyncRandomResize do: take mmdet's Resize, RandomResize "
    'and RandomCrop, which move the masks too'
)


def check_ground_truth(samples: Sequence[DetDataSample], images: Tensor, divisor: int = 1) -> None:
    """Check the samples of images (B, 3, H, W), whose sides were padded to a divisor.

    No values are looked at, so that nobody waits for the device.

    Raises:
        InputError: if labels or masks are missing, of another number or of another kind, or masks
            or images have another size than ``img_shape`` and ``batch_input_shape`` say.
    """
    check_count(samples, images)
    if not len(images):
        raise InputError('SOLOv2: a batch without images has no loss')
    size = tuple(images.shape[-2:])
    shapes = [sample.img_shape[:2] for sample in samples if 'img_shape' in sample]
    padded = tuple(-(-max(sides) // divisor) * divisor for sides in zip(*shapes, strict=True))
    for number, sample in enumerate(samples):
        name = sample.get('img_path', f'image {number} of the batch')
        check_instances(sample.get('gt_instances', InstanceData()), name)
        check_sizes(sample, name, padded or size, size)


def check_count(samples: Sequence[DetDataSample], images: Tensor) -> None:
    """Raise InputError unless every image has a sample."""
    if len(samples) != len(images):
        raise InputError(
            f'SOLOv2: {len(samples)} data samples of {len(images)} images: each needs one'
        )


def check_instances(instances: InstanceData, name: str) -> None:
    """Raise InputError unless there are masks and labels, and of boxes as many or none."""
    for field, setting in ('masks', 'with_mask'), ('labels', 'with_label'):
        if field not in instances:
            raise InputError(
                f'{name}: training needs {field}: set {setting}=True of LoadAnnotations in the '
                "training data's pipeline"
            )
    kinds = (
        ('masks', 'BitmapMasks, PolygonMasks or a tensor (n, h, w)', is_mask),
        ('labels', 'a tensor (n,) int64', is_label),
        (
            'bboxes',
            'a tensor (n, 4), as boxtype2tensor=True of the data_preprocessor makes',
            is_box,
        ),
    )
    for field, kind, fits in kinds:
        if field in instances and not fits(instances[field]):
            found = instances[field]
            shape = (*getattr(found, 'shape', ()), getattr(found, 'dtype', ''))
            raise InputError(f'{name}: {field} must be {kind}, not {type(found).__name__} {shape}')
    fields = [field for field in ('masks', 'labels', 'bboxes') if field in instances]
    counts = {field: len(instances[field]) for field in fields}
    if len(set(counts.values())) > 1:
        raise InputError(f'{name}: {counts}: every instance needs one of each')


def is_mask(masks: object) -> bool:
    """Whether these can be masks of instances."""
    return isinstance(masks, BaseInstanceMasks) or (isinstance(masks, Tensor) and masks.dim() == 3)


def is_label(labels: object) -> bool:
    """Whether these can be labels of instances."""
    return isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.dim() == 1


def is_box(boxes: object) -> bool:
    """Whether these can be boxes of instances."""
    return isinstance(boxes, Tensor) and boxes.shape[1:] == (4,)


def check_sizes(
    sample: DetDataSample, name: str, padded: tuple[int, ...], size: tuple[int, ...]
) -> None:
    """Raise InputError where the masks of a sample were not moved with a batch of ``size``.

    Masks end where their image ends, or are padded: with the batch, by its data preprocessor to
    ``padded``, or by a step after it, which may pad the images further, to ``size``. Sizes alone do
    not tell masks that were padded to ``padded`` before the batch grew by less than its padding.
    """
    masks = mask_size(sample.gt_instances.masks)
    image = tuple(sample.get('img_shape', masks)[:2])
    if masks not in (image, padded, size) or masks[0] > size[0] or masks[1] > size[1]:
        raise InputError(
            f'{name}: the masks are {masks}, but the image is {image}, and {size} with its '
            f'padding: {REMEDY}'
        )
    said = sample.get('batch_input_shape', size)
    if any(side not in sides for side, *sides in zip(size, said, padded, strict=True)):
        raise InputError(
            f'{name}: the images are {size} with their padding, but batch_input_shape says {said}: '
            f'{REMEDY}'
        )


def mask_size(masks: Tensor | BaseInstanceMasks) -> tuple[int, ...]:
    """Height and width of masks (n, h, w); of mmdet's bitmaps that of the array, if it changed."""
    if isinstance(masks, Tensor):
        return tuple(masks.shape[-2:])
    array = getattr(masks.masks, 'shape', (masks.height, masks.width))
    return tuple(array[-2:])
