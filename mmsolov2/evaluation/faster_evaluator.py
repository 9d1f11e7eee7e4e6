"""COCOeval in C++, by the package faster-coco-eval (github.com/MiXaiLL76/faster_coco_eval)."""

from faster_coco_eval import COCOeval_faster
from pycocotools.cocoeval import COCOeval


class FasterEvaluator(COCOeval_faster):
    """COCOeval that matches and accumulates in C++.

    The summary is pycocotools': its mAP is that of 100 predictions, this package's of the last of
    ``maxDets``, which is 1000 in mmdet.
    """

    summarize = COCOeval.summarize
