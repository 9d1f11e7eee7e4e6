"""COCOeval in Rust, by the package hotcoco (github.com/derekallman/hotcoco)."""

from hotcoco import COCO
from hotcoco import COCOeval as HotCOCOeval
from pycocotools.cocoeval import COCOeval

SETTINGS = ('imgIds', 'catIds', 'iouThrs', 'recThrs', 'maxDets', 'areaRng', 'areaRngLbl')


class HotEvaluator(COCOeval):
    """COCOeval that matches and accumulates in Rust; the figures are those of pycocotools.

    ``counting`` is hotcoco's evaluation, which also has what COCO's lacks: kinds of errors,
    confusion, calibration.
    """

    counting: HotCOCOeval  # from evaluate() on

    def evaluate(self) -> None:
        """Match; ids are sorted, as COCO's code does."""
        truth, found = (COCO(content.dataset) for content in (self.cocoGt, self.cocoDt))
        self.counting = HotCOCOeval(truth, found, self.params.iouType)
        for name in ('imgIds', 'catIds'):
            setattr(self.params, name, sorted(set(getattr(self.params, name))))
        for name in SETTINGS:
            setattr(self.counting.params, name, list(getattr(self.params, name)))
        self.counting.params.useCats = bool(self.params.useCats)
        self.counting.evaluate()

    def accumulate(self, p: object = None) -> None:
        """Count: ``eval`` as COCO's code has it."""
        self.counting.accumulate()
        self.eval = dict(self.counting.eval or {}, params=self.params)
