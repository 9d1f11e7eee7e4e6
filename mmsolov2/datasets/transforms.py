"""Steps of the data pipelines that mmdet lacks."""

import os

import mmcv
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import Resize as MMDetResize

from mmsolov2.datasets.image_files import is_cut_file
from mmsolov2.errors import InputError
from mmsolov2.registry import TRANSFORMS


@TRANSFORMS.register_module()
class MatchAnnotatedSize(BaseTransform):
    """Bring a loaded image into the frame of its annotations.

    An image that its EXIF tag turns by 90 degrees is loaded upright. If the annotations were drawn
    on the unturned image, as the annotated width and height tell, it is loaded again without
    turning. Images without annotated sizes stay upright.

    Raises:
        InputError: if the image is truncated, or has neither the annotated size nor that size
            turned.
    """

    def transform(self, results: dict) -> dict:
        """Change ``img``, ``img_shape`` and ``ori_shape`` where the frames differ."""
        path = results.get('img_path')
        if path and os.path.isfile(path) and is_cut_file(path):  # no array, and nothing remote
            raise InputError(
                f'{path}: this image is truncated ({os.path.getsize(path)} bytes): replace it, or '
                'take it out of the data'
            )
        annotated = (results.get('height'), results.get('width'))
        shape = results['img'].shape[:2]
        if shape == annotated or None in annotated:
            return results
        if shape[::-1] == annotated:
            unturned = mmcv.imread(path, flag='color_ignore_orientation')
            shape = unturned.shape[:2]
        if shape != annotated:
            raise InputError(
                f'{path}: the image is {shape[1]}x{shape[0]} pixels, but its '
                f'annotations say {annotated[1]}x{annotated[0]}: correct the annotation file'
            )
        return {**results, 'img': unturned, 'img_shape': shape, 'ori_shape': shape}


@TRANSFORMS.register_module()
class Resize(MMDetResize):
    """mmdet's Resize under a name that configs had while it failed on very long images."""
