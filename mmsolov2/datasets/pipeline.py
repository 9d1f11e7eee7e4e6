"""What a data pipeline does with masks, told before it runs."""

from collections.abc import Iterable, Iterator

from mmdet.datasets import transforms

from mmsolov2.errors import InputError

# mmdet's steps that move the image and its boxes, but no masks; and what moves them too
MASKLESS = {
    transforms.Mosaic: 'CachedMosaic',
    transforms.MixUp: 'CachedMixUp',
    transforms.RandomShift: 'RandomCrop',
    transforms.RandomAffine: 'GeomTransform, as Rotate and TranslateX',
    transforms.RandomCenterCropPad: 'RandomCrop',
}


def steps_of(pipeline: Iterable) -> Iterator:
    """The steps of a pipeline, those inside of choices and wrappers too."""
    for step in getattr(pipeline, 'transforms', pipeline):
        if isinstance(step, list | tuple) or hasattr(step, 'transforms'):
            yield from steps_of(step)
        yield step


def require_masks_kept(pipeline: Iterable, name: str) -> None:
    """Raise InputError if a step of mmdet's moves the image of data set ``name``, but no masks."""
    for step in steps_of(pipeline):
        if type(step) in MASKLESS:
            raise InputError(
                f'{name}: the step {type(step).__name__} of its pipeline does not move masks with '
                f'the image: take mmdet\'s {MASKLESS[type(step)]} instead'
            )
