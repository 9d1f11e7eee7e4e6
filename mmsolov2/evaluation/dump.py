"""Predictions on disk, for evaluation elsewhere."""

from collections.abc import Sequence

from mmengine.evaluator import DumpResults

from mmsolov2.evaluation.coco_instance_metric import with_rle


class DumpInstances(DumpResults):
    """Write every image's predictions to a pickle file, masks as COCO RLE.

    mmdet's DumpDetResults takes bitmaps alone; this also takes ``mask_format='rle'``.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch."""
        truth = ('gt_instances', 'ignored_instances')
        kept = [{key: sample[key] for key in sample if key not in truth} for sample in data_samples]
        super().process(data_batch, [with_rle(sample) for sample in kept])
