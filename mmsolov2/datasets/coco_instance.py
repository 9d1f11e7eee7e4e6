"""COCO-format instance data, checked when it is read."""

import logging
import math
import os
from collections.abc import Sequence

import cv2
from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log
from pycocotools.mask import area, toBbox

from mmsolov2.datasets.epoch_seed import EpochSeed
from mmsolov2.errors import InputError
from mmsolov2.registry import DATASETS

FARTHEST = 1e6  # pixels; no image is larger, and pycocotools takes memory by the pixel


def is_polygon(part: object) -> bool:
    """Whether a part of a segmentation is a list of x, y, x, y, … of at least three points."""
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        return False
    try:
        return math.isfinite(sum(part)) and -FARTHEST < min(part) <= max(part) < FARTHEST
    except TypeError:
        return False


def has_mask(annotation: dict) -> bool:
    """Whether an annotation of ``CheckedCOCO`` has RLE or a polygon."""
    segmentation = annotation.get('segmentation')
    if isinstance(segmentation, dict):
        return bool(segmentation.get('counts'))
    return bool(segmentation)


def with_box(annotation: dict, coco: COCO) -> dict:
    """An annotation of a COCO file with the ``bbox`` and ``area`` of its mask, if it lacks them.

    Without a mask the area is that of the box.
    """
    if annotation.keys() >= {'bbox', 'area'}:
        return annotation
    if not has_mask(annotation):
        return {'area': annotation['bbox'][2] * annotation['bbox'][3], **annotation}
    rle = coco.annToRLE(annotation)
    return {'bbox': toBbox(rle).tolist(), 'area': float(area(rle)), **annotation}


def is_readable(path: str) -> bool:
    """Whether OpenCV can decode an image file."""
    try:
        return cv2.imread(path) is not None
    except cv2.error:
        return False


def check_categories(file: str, categories: Sequence[str], classes: Sequence[str]) -> None:
    """Raise InputError unless ``classes`` are categories of an annotation file, in its order.

    mmdet numbers labels in the order of the file: classes in another order would swap names.
    """
    both = f'the file has {tuple(categories)}, the config has {classes!r}'
    remedy = "set metainfo=dict(classes=(...)) of the datasets to the file's names, in its order"
    if isinstance(classes, str):
        raise InputError(f'{file}: classes must be a tuple of names, ({classes!r},): {both}')
    missing = [name for name in classes if name not in categories]
    if missing:
        raise InputError(f'{file}: it has no category {missing}: {both}; {remedy}')
    if [name for name in categories if name in classes] != list(classes):
        raise InputError(f'{file}: the classes are in another order: {both}; {remedy}')


class CheckedCOCO(COCO):
    """mmdet's reader of COCO files; it says what is wrong with a file.

    Annotations are numbered from 1, whatever their ids: COCO's code needs them different, and not
    0. Those of unlisted images are left out, and so are parts that are no polygons. ``iscrowd`` is
    0 where it is not given. A file of test images has no annotations. Messages call the file by
    ``name``, for one that was fetched from elsewhere.

    Raises:
        InputError: if the file is missing, is no COCO file, has RLE of another size than the
            image's, or lacks a category that is asked for.
    """

    def __init__(self, annotation_file: str, name: str | None = None) -> None:
        self.file = name or annotation_file
        try:
            super().__init__(annotation_file)
        except FileNotFoundError as error:
            raise InputError(
                f'{self.file}: there is no such annotation file; check data_root and ann_file'
            ) from error
        except InputError:
            raise
        except (ValueError, AssertionError, KeyError, TypeError) as error:
            raise InputError(f'{self.file}: this is no COCO file of JSON ({error!r})') from error
        lacking = {'images', 'categories'} - self.dataset.keys()
        if lacking:
            raise InputError(f'{self.file}: this is no COCO file, it lacks {sorted(lacking)}')

    def createIndex(self) -> None:
        """Mend the annotations, then index them as COCO's code does."""
        images = {image['id']: image for image in self.dataset.get('images', [])}
        if 'annotations' in self.dataset:
            listed = [one for one in self.dataset['annotations'] if one['image_id'] in images]
            for number, annotation in enumerate(listed, 1):
                annotation['id'] = number
                annotation.setdefault('iscrowd', 0)
                self._mend_segmentation(annotation, images[annotation['image_id']])
            self.dataset['annotations'] = listed
        super().createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs  # mmdet's names

    def _mend_segmentation(self, annotation: dict, image: dict) -> None:
        """Leave out of a segmentation what is no polygon."""
        segmentation = annotation.get('segmentation', [])
        if not isinstance(segmentation, dict):
            parts = segmentation if isinstance(segmentation, list) else []
            annotation['segmentation'] = [part for part in parts if is_polygon(part)]
        elif segmentation.get('counts') and image.keys() >= {'height', 'width'}:
            size = [image['height'], image['width']]
            if segmentation.get('size') != size:
                raise InputError(
                    f'{self.file}: image {image["id"]} has height and width {size}, but an '
                    f'annotation with RLE of size {segmentation.get("size")}: make them again'
                )

    def get_cat_ids(self, cat_names=(), sup_names=(), cat_ids=()) -> list[int]:
        """Ids of the named categories, in the file's order."""
        names = [category['name'] for category in self.dataset['categories']]
        check_categories(self.file, names, cat_names)
        return super().get_cat_ids(cat_names, sup_names, cat_ids)


@DATASETS.register_module()
class CocoInstanceDataset(CocoDataset):
    """mmdet's CocoDataset, with clear errors instead of silent or late ones.

    Annotations without a usable mask (no segmentation, or polygons of less than three points or
    with impossible coordinates) are left out, and their number is logged. Those without ``bbox`` or
    ``area`` get their mask's.

    Raises:
        InputError: if the annotation file is missing or no COCO file, if its categories do not
            match the config's classes, or if no image is left; when an image is loaded, if it is
            missing or unreadable.
    """

    COCOAPI = CheckedCOCO

    def __init__(self, *args, **kwargs) -> None:
        self.epoch_seed = EpochSeed()
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the annotation file: one dict an image."""
        self._without_mask = 0
        data_list = super().load_data_list()
        if self._without_mask:
            print_log(
                f'{self.ann_file}: left out {self._without_mask} annotations without a usable '
                'mask (no segmentation, or polygons of less than 3 points or with impossible '
                'coordinates)',
                logger='current',
                level=logging.WARNING,
            )
        return data_list

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """One image's dict of its COCO entries, those without a mask left out."""
        if 'annotations' not in self.coco.dataset and not self.test_mode:
            raise InputError(
                f"{self.ann_file}: this is no COCO file to train on, it lacks ['annotations']"
            )
        annotations = raw_data_info['raw_ann_info']
        usable = [annotation for annotation in annotations if has_mask(annotation)]
        self._without_mask += len(annotations) - len(usable)
        try:
            usable = [with_box(annotation, self.coco) for annotation in usable]
            return super().parse_data_info({**raw_data_info, 'raw_ann_info': usable})
        except KeyError as error:
            raise InputError(
                f'{self.ann_file}: image {raw_data_info["raw_img_info"]["img_id"]} or one of its '
                f'annotations lacks {error}; images need id, file_name, height and width, '
                'annotations image_id, category_id and segmentation'
            ) from error

    def filter_data(self) -> list[dict]:
        """The images to use; at least one."""
        data_list = super().filter_data()
        if not data_list:
            raise InputError(
                f'{self.ann_file}: none of its {len(self.data_list)} images is left with '
                f'filter_cfg={self.filter_cfg} and classes {self.metainfo["classes"]}'
            )
        return data_list

    def prepare_data(self, idx: int):
        """Load an image and its instances through the pipeline."""
        self.epoch_seed.take()
        try:
            return super().prepare_data(idx)
        except Exception as error:
            if self.backend_args is None:
                self._check_image(self.get_data_info(idx)['img_path'], error)
            raise

    def _check_image(self, path: str, error: Exception) -> None:
        """Raise InputError from an error if the image is what went wrong."""
        if not os.path.isfile(path):
            raise InputError(
                f'{path}: there is no such image, but {self.ann_file} lists it; check data_root '
                'and data_prefix'
            ) from error
        if not is_readable(path):
            raise InputError(
                f'{path}: this image cannot be decoded; replace it or take it out of '
                f'{self.ann_file}'
            ) from error
