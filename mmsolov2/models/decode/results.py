"""Candidates to results: scores, labels, boxes and masks at image size."""

from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from mmsolov2.device import check_memory
from mmsolov2.models.data_samples import sizes_of
from mmsolov2.models.decode.candidates import Candidates
from mmsolov2.models.decode.paste_masks import paste


def to_results(best: Candidates, meta: dict, cfg: ConfigDict, *, rescale: bool) -> InstanceData:
    """Bring n candidates to image size: scores (n,), labels (n,), bboxes (n, 4) xyxy and masks.

    Masks are bool (n, H, W) or n COCO RLE dicts; H and W are the original image's with
    ``rescale``, else the network input's.

    Raises:
        InputError: if bitmaps would not fit into memory, or ``meta`` lacks the image's sizes or has
            impossible ones.
    """
    image_size, (height, width) = sizes_of(meta, best.masks.shape[1:], rescale)
    if cfg.mask_format == 'bitmap':
        check_memory(
            best.device,
            len(best) * height * width,
            f'{len(best)} masks of {height}x{width} pixels as bitmaps',
            "set model.test_cfg.mask_format='rle', or lower model.test_cfg.max_per_img",
        )
    boxes, masks = paste(best, image_size, (height, width), cfg)
    boxes = boxes.to(best.device)
    return InstanceData(scores=best.scores, labels=best.labels, bboxes=boxes, masks=masks)
