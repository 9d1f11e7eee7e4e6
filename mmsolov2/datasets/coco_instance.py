"""COCO-format instance data for training and testing."""

import os
import traceback
from pathlib import Path

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.structures.mask import BaseInstanceMasks
from mmengine.fileio import get_local_path
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmsolov2.datasets.coco_file import NEEDED_IN_IMAGES, CheckedCOCO
from mmsolov2.datasets.epoch_seed import EpochSeed
from mmsolov2.datasets.image_files import decode_image
from mmsolov2.datasets.json_file import clipped, paused_collector
from mmsolov2.datasets.left_out import LeftOut
from mmsolov2.datasets.pipeline import mask_loaders, require_masks_kept
from mmsolov2.errors import InputError
from mmsolov2.registry import DATASETS

LONGEST_PATH = 1024  # characters shown


@DATASETS.register_module()
class CocoInstanceDataset(CocoDataset):
    """mmdet's CocoDataset, of which nothing is lost in silence.

    The file is read by ``CheckedCOCO``, as in evaluation. Labels are numbered by ``classes`` of
    ``metainfo``, whatever the order of the file's categories. What is left out is logged in one
    line with its reasons: annotations without a usable mask, crowd regions, those marked with
    ``ignore``, of categories that are none of the classes, and of images that ``filter_cfg``
    leaves out.

    Args:
        max_left_out: the share of annotations of the classes that may be left out of training
            data. More, or not a single instance left, is an error; 1 lets all through.

    Raises:
        InputError: if the annotation file cannot be used (see ``CheckedCOCO``), lacks a class, or
            leaves no image or too few instances; if the pipeline would lose masks; when an image is
            loaded, if it is missing or unreadable.
    """

    COCOAPI = CheckedCOCO

    def __init__(self, *args: object, max_left_out: float = 0.5, **kwargs: object) -> None:
        if not isinstance(max_left_out, int | float) or not 0 <= max_left_out <= 1:
            raise ValueError(
                'CocoInstanceDataset: max_left_out must be a share from 0 to 1, not '
                f'{max_left_out!r}'
            )
        self.epoch_seed = EpochSeed()
        self.max_left_out = max_left_out
        self.left_out: LeftOut | None = None  # until a file is read
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the annotation file: one dict an image."""
        if 'img' not in self.data_prefix:
            raise InputError(
                f"{self.ann_file}: data_prefix must be dict(img='FOLDER OF THE IMAGES'), not "
                f'{self.data_prefix}'
            )
        with get_local_path(self.ann_file, backend_args=self.backend_args) as path:
            self.coco = self.COCOAPI(path, name=self.ann_file)
        if 'annotations' not in self.coco.dataset and not self.test_mode:
            raise InputError(
                f"{self.ann_file}: this is no COCO file to train on, it lacks ['annotations']"
            )
        self.cat_ids = self.coco.get_cat_ids(cat_names=self.metainfo['classes'])
        self.cat2label = {category: label for label, category in enumerate(self.cat_ids)}
        self.cat_img_map = self.coco.cat_img_map
        self.left_out, self.totals = self.coco.left_out, self.coco.totals
        self._check_pipeline()
        with paused_collector():
            data_list = [
                self.parse_data_info(
                    dict(
                        raw_img_info={**image, 'img_id': image['id']},
                        raw_ann_info=self.coco.imgToAnns.get(image['id'], []),
                    )
                )
                for image in self.coco.dataset['images']
            ]
        del self.coco
        return data_list

    def _check_pipeline(self) -> None:
        """Raise InputError if the pipeline would lose masks or their place."""
        loaders = mask_loaders(self.pipeline)
        if loaders:
            require_masks_kept(self.pipeline, self.ann_file)
        loads_polygons = any(not step.poly2mask for step in loaders)
        count = (
            sum(
                isinstance(annotation['segmentation'], dict) and not annotation['iscrowd']
                for annotation in self.coco.dataset.get('annotations', [])
            )
            if loads_polygons
            else 0
        )
        if count:
            raise InputError(
                f'{self.ann_file}: {count} annotations are RLE, which LoadAnnotations leaves out '
                'with poly2mask=False: take that out of the pipeline'
            )

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """One image's dict of its COCO entries; mmdet drops boxes that are thinner than a pixel."""
        annotations = [
            one if min(one['bbox'][2:]) >= 1 else {**one, 'bbox': with_a_pixel(one['bbox'])}
            for one in raw_data_info['raw_ann_info']
        ]
        try:
            return super().parse_data_info({**raw_data_info, 'raw_ann_info': annotations})
        except KeyError as error:
            raise InputError(
                f'{self.ann_file}: image {raw_data_info["raw_img_info"]["img_id"]} lacks {error}: '
                f'{NEEDED_IN_IMAGES}'
            ) from error

    def filter_data(self) -> list[dict]:
        """The images to use; at least one, and in training with enough of the instances."""
        data_list = super().filter_data()
        if not data_list:
            raise InputError(
                f'{self.ann_file}: none of its {len(self.data_list)} images is left with '
                f'filter_cfg={self.filter_cfg} and classes {self.metainfo["classes"]}'
            )
        if self.left_out is not None:
            filtered = count_instances(self.data_list) - count_instances(data_list)
            self._report(self.left_out, filtered)
        return data_list

    def _report(self, left_out: LeftOut, filtered: int) -> None:
        """Log what is left out; raise InputError if too little is left to train on.

        ``filtered`` instances are in images that the config leaves out: it has asked for that, as
        for classes that it does not name.
        """
        total = sum(self.totals[category] for category in self.cat_ids)
        reasons = left_out.reasons(self.cat_ids)
        lost = reasons.total()
        kept = total - lost - filtered
        if filtered:
            reasons[f'of images left out by filter_cfg={self.filter_cfg}'] = filtered
        too_few = (kept < 1 or lost > self.max_left_out * total) and self.max_left_out < 1
        if too_few and not self.test_mode:
            what = f'; left out: {left_out.describe(reasons)}' if reasons else ''
            raise InputError(
                f'{self.ann_file}: only {max(kept, 0)} of {total} annotations of the classes '
                f'{self.metainfo["classes"]} would train{what}. Correct the file, or let it '
                'through, as pictures of background, with max_left_out=1 of the dataset'
            )
        if self.totals.total() > total:
            reasons['of categories that are no classes'] = self.totals.total() - total
        left_out.log(self.ann_file, self.totals.total(), reasons)

    def prepare_data(self, idx: int) -> object:
        """Load an image and its instances through the pipeline."""
        self.epoch_seed.take()
        try:
            sample = super().prepare_data(idx)
            if not self.test_mode and isinstance(sample, dict):
                self._check_masks(sample)
        except InputError as error:  # of the image or of a step, which know no annotation file
            raise InputError(f'{error} (listed in {self.ann_file})') from error
        except Exception as error:
            is_local = (self.backend_args or {}).get('backend', 'local') == 'local'
            codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
            if is_local and LoadImageFromFile.transform.__code__ in codes:  # not a step after it
                self._check_image(self.get_data_info(idx)['img_path'], error)
            raise
        return sample

    def _check_masks(self, sample: dict) -> None:
        """Raise InputError unless the masks of a sample have the size of its image."""
        image, truth = sample.get('inputs'), sample.get('data_samples')
        if not isinstance(image, Tensor) or not isinstance(truth, BaseDataElement):
            return  # other ways of packing
        masks = truth.get('gt_instances', {}).get('masks')
        if not isinstance(masks, BaseInstanceMasks):
            return
        size = tuple(image.shape[-2:])
        if (masks.height, masks.width) != size:
            raise InputError(
                f'{truth.get("img_path", "an image")}: the pipeline made an '
                f'image of {size[0]}x{size[1]}, but masks of {masks.height}x{masks.width}: one of '
                'its steps does not move masks with the image'
            )

    def _check_image(self, path: str, error: Exception) -> None:
        """Raise InputError from an error if the image is what went wrong."""
        if not os.path.isfile(path):
            raise InputError(
                f'{clipped(path, LONGEST_PATH)}: there is no such image, but {self.ann_file} lists '
                'it; check data_root and data_prefix'
            ) from error
        if decode_image(Path(path).read_bytes()) is None:
            raise InputError(
                f'{path}: this image cannot be decoded; replace it or take it out of '
                f'{self.ann_file}'
            ) from error


def with_a_pixel(bbox: list[float]) -> list[float]:
    """A box (x, y, width, height) whose sides are at least a pixel."""
    x, y, width, height = bbox
    return [x, y, max(width, 1), max(height, 1)]


def count_instances(data_list: list[dict]) -> int:
    """How many instances images have, crowd regions not counted."""
    return sum(not one['ignore_flag'] for image in data_list for one in image['instances'])
