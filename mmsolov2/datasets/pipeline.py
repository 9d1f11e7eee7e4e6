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
    """The steps of a pipeline, those inside of choices, branches and wrappers too."""
    for step in getattr(pipeline, 'transforms', pipeline):
        inside = [*getattr(step, 'branch_pipelines', {}).values()]  # of mmdet's MultiBranch
        if isinstance(step, list | tuple) or hasattr(step, 'transforms'):
            inside.append(step)
        for part in inside:
            yield from steps_of(part)
        yield step


def mask_loaders(pipeline: Iterable) -> list[transforms.LoadAnnotations]:
    """The steps of a pipeline that load masks."""
    loaders = (one for one in steps_of(pipeline) if isinstance(one, transforms.LoadAnnotations))
    return [one for one in loaders if one.with_mask]


def require_masks_kept(pipeline: Iterable, name: str) -> None:
    """Raise InputError if a step moves the image of data set ``name`` as mmdet does, but no masks.

    A subclass of such a step may do otherwise, with a ``transform`` of its own.
    """
    for step in steps_of(pipeline):
        for kind, instead in MASKLESS.items():
            if isinstance(step, kind) and type(step).transform is kind.transform:
                raise InputError(
                    f'{name}: the step {type(step).__name__} of its pipeline does not move masks '
                    f"with the image: take mmdet's {instead} instead"
                )
