"""Mask NMS: scores in, lower scores out.

A mask NMS is called as ``nms(scores, labels, masks)`` with scores (n,), labels (n,) and masks
(n, h, w) bool, and returns float32 scores (n,) in the input order, in which suppressed instances
have lower scores. Thresholds and the choice of the best k are the caller's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsolov2.registry import TASK_UTILS


def mask_iou(masks: Tensor) -> Tensor:
    """Intersection over union (n, n) float32 of masks (n, h, w) bool; 0 for empty masks.

    Computed in float32 even under autocast: areas of large masks overflow in float16.
    """
    flat = masks.flatten(1).float()
    with torch.autocast(flat.device.type, enabled=False):
        intersection = flat @ flat.T
    area = intersection.diagonal()
    union = area[:, None] + area - intersection
    return intersection / union.clamp(min=1)


def gaussian_decay(iou: Tensor, worst: Tensor, sigma: float) -> Tensor:
    """f(iou) / f(worst) for f(iou) = exp(-sigma·iou²), elementwise."""
    return torch.exp(-sigma * (iou**2 - worst**2))


def linear_decay(iou: Tensor, worst: Tensor) -> Tensor:
    """f(iou) / f(worst) for f(iou) = 1 - iou, elementwise; 1 where f(worst) is 0.

    A suppressor with f(worst) = 0 is surely gone itself and takes nobody with it.
    """
    alive = 1 - worst
    return torch.where(alive > 0, (1 - iou) / alive.clamp(min=1e-12), 1)


def matrix_nms(
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    *,
    kernel: str = 'gaussian',
    sigma: float = 2.0
) -> Tensor:
    """Decay scores (n,) by the overlap of masks (n, h, w) bool of the same label: scores (n,).

    SOLOv2, section 3.3, equations 3 to 5, and its pseudo-code. ``sigma`` multiplies the squared
    IoU, as in all published code; the paper's sigma = 0.5 divides, which is the same function as
    2.0 here.
    """
    order = scores.argsort(descending=True, stable=True)
    ranked_scores, ranked_labels = scores[order].float(), labels[order]
    iou = mask_iou(masks)[order][:, order]
    iou = (iou * (ranked_labels[:, None] == ranked_labels)).triu(1)  # [i, j]: i outranks j
    worst = F.pad(iou, (0, 0, 1, 0)).amax(0)[:, None]  # how far each suppressor is suppressed
    if kernel == 'gaussian':
        decay = gaussian_decay(iou, worst, sigma)
    else:
        decay = linear_decay(iou, worst)
    decay = F.pad(decay, (0, 0, 1, 0), value=1.0).amin(0)  # the row of 1s: nobody suppresses
    return torch.empty_like(ranked_scores).scatter(0, order, ranked_scores * decay)


@TASK_UTILS.register_module()
class MatrixNMS:
    """Matrix NMS: parallel soft suppression of masks of the same class (SOLOv2, section 3.3).

    Args:
        kernel: 'gaussian', f(iou) = exp(-sigma·iou²), or 'linear', f(iou) = 1 - iou.
        sigma: strength of the gaussian kernel; it multiplies (2.0 here is the paper's 0.5).

    Raises:
        ValueError: if the kernel is neither, or sigma is not positive.
    """

    def __init__(self, kernel: str = 'gaussian', sigma: float = 2.0) -> None:
        if kernel not in ('gaussian', 'linear'):
            raise ValueError(f"MatrixNMS: kernel must be 'gaussian' or 'linear', not {kernel!r}")
        if not sigma > 0:
            raise ValueError(f'MatrixNMS: sigma must be positive, not {sigma!r}')
        self.kernel = kernel
        self.sigma = sigma

    def __call__(self, scores: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        """Rescore instances: scores (n,), labels (n,), masks (n, h, w) bool to scores (n,)."""
        return matrix_nms(scores, labels, masks, kernel=self.kernel, sigma=self.sigma)

    def __repr__(self) -> str:
        return f'MatrixNMS(kernel={self.kernel!r}, sigma={self.sigma})'
