"""Predictions on disk, for evaluation elsewhere."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import DumpResults

from mmsolov2.structures.masks import encode_rle


class DumpInstances(DumpResults):
    """Write every image's predictions to a pickle file, masks as COCO RLE.

    mmdet's DumpDetResults takes bitmaps alone; this also takes ``mask_format='rle'``.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch."""
        super().process(data_batch, data_samples)
        for sample in self.results[-len(data_samples) :]:
            for ground_truth in ('gt_instances', 'ignored_instances'):
                sample.pop(ground_truth, None)
            masks = sample['pred_instances']['masks']
            if isinstance(masks, torch.Tensor):
                sample['pred_instances']['masks'] = encode_rle(masks)
