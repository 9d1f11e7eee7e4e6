"""COCO figures of masks and boxes."""

from mmdet.evaluation import CocoMetric

from mmsolov2.datasets.coco_instance import has_mask, with_box
from mmsolov2.registry import METRICS


@METRICS.register_module()
class CocoInstanceMetric(CocoMetric):
    """mmdet's CocoMetric on ground truth that COCO's own code trips over.

    Annotations without a usable mask are left out, as in training, where it would end in an error
    of pycocotools; those with a mask but without ``bbox`` or ``area`` get the mask's. If an
    annotation has the id 0, which COCOeval reads as "no match", all ids are counted up by one.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self._coco_api is None:
            return
        annotations = [
            with_box(annotation, self._coco_api) if has_mask(annotation) else annotation
            for annotation in self._coco_api.dataset.get('annotations', [])
        ]
        shift = int(any(annotation['id'] == 0 for annotation in annotations))
        self._coco_api.dataset['annotations'] = [{
            **annotation, 'id': annotation['id'] + shift
        } for annotation in annotations if has_mask(annotation) or 'segm' not in self.metrics]
        self._coco_api.createIndex()
        self._coco_api.img_ann_map = self._coco_api.imgToAnns
        self._coco_api.cat_img_map = self._coco_api.catToImgs
