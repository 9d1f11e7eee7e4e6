"""Mask NMS: scores in, lower scores out.

A mask NMS is called as ``nms(scores, labels, masks)`` with scores (n,), labels (n,) and masks
(n, h, w) bool, and returns float32 scores (n,) in the input order, in which suppressed instances
have lower scores. Thresholds and the choice of the best k are the caller's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsolov2.models.decode import cpu_blocks
from mmsolov2.registry import TASK_UTILS

NMS = Callable[[Tensor, Tensor, Tensor], Tensor]  # scores, labels, masks: scores (n,)


def mask_iou(masks: Tensor, labels: Tensor | None = None) -> Tensor:
    """Intersection over union (n, n) float32 of masks (n, h, w) bool; 0 for empty masks.

    With labels (n,) it is 0 between masks of different labels.
    """
    labels = torch.zeros(len(masks), device=masks.device) if labels is None else labels
    shared = shared_pixels(masks.flatten(1), labels)
    area = shared.diagonal()
    return shared / (area[:, None] + area - shared).clamp(min=1)


@cpu_blocks.in_blocks(cpu_blocks.shared_pixels)
def shared_pixels(masks: Tensor, labels: Tensor) -> Tensor:
    """How many pixels each two of masks (n, pixels) bool of the same label share: (n, n) float32.

    Computed in float32 even under autocast: areas of large masks overflow in float16.
    """
    with torch.autocast(masks.device.type, enabled=False):
        pixels = masks.float()
        return (pixels @ pixels.T) * (labels[:, None] == labels)


def ranked_overlaps(
    scores: Tensor, labels: Tensor, masks: Tensor, class_agnostic: bool
) -> tuple[Tensor, Tensor]:
    """Ranks of scores (n,) and, in that order, iou (n, n): [i, j] is 0 unless i outranks j.

    Between masks (n, h, w) of different labels it is 0 too, unless ``class_agnostic``.
    """
    order = scores.argsort(descending=True, stable=True)
    iou = mask_iou(masks, None if class_agnostic else labels)
    return order, iou[order][:, order].triu(1)


def matrix_nms(
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    *,
    kernel: str = 'gaussian',
    sigma: float = 2.0,
    class_agnostic: bool = False,
) -> Tensor:
    """Decay scores (n,) by the overlap of masks (n, h, w) bool of the same label: scores (n,).

    SOLOv2, section 3.3, equations 3 to 5, and its pseudo-code. ``sigma`` multiplies the squared
    IoU, as in all published code; the paper's sigma = 0.5 divides, which is the same function as
    2.0 here.

    >>> masks = torch.tensor([[[1, 1]], [[1, 1]], [[0, 1]]]).bool()  # one, its duplicate, its half
    >>> scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3)
    >>> matrix_nms(scores, labels, masks, kernel='linear')
    tensor([0.9000, 0.0000, 0.3500])
    """
    order, iou = ranked_overlaps(scores, labels, masks, class_agnostic)
    # how far each suppressor is suppressed itself; the row of 0s, because amax refuses to have none
    compensate_iou = F.pad(iou, (0, 0, 1, 0)).amax(0)[:, None]
    if kernel == 'gaussian':
        decay = torch.exp(-sigma * (iou**2 - compensate_iou**2))
    else:  # a suppressor with 1 - compensate_iou = 0 is gone itself and takes nobody with it
        alive = 1 - compensate_iou
        decay = torch.where(alive > 0, (1 - iou) / alive.clamp(min=1e-12), 1)
    decay = F.pad(decay, (0, 0, 1, 0), value=1.0).amin(0)  # the row of 1s: nobody suppresses
    return in_input_order(scores[order].float() * decay, order)


def hard_nms(
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    *,
    iou_thr: float = 0.5,
    class_agnostic: bool = False,
    greedy: bool = True,
) -> Tensor:
    """Zero each of scores (n,) whose mask overlaps a better one by more than ``iou_thr``: (n,).

    Greedy, only by a better one that is kept. A set of kept masks that follows from itself by this
    rule is the greedy one, so that repeating the rule until nothing changes needs as many rounds as
    the longest chain of overlaps, not n. Its first round, in which nobody is gone yet, is Fast NMS
    (YOLACT, Bolya et al., ICCV 2019, section 3.4), which removes a few more.
    """
    order, iou = ranked_overlaps(scores, labels, masks, class_agnostic)
    overlapping = iou > iou_thr
    kept, before = ~overlapping.any(0), None
    while greedy and (before is None or not torch.equal(kept, before)):
        kept, before = ~(overlapping & kept[:, None]).any(0), kept
    return in_input_order(scores[order].float() * kept, order)


def soft_nms(
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    *,
    kernel: str = 'linear',
    sigma: float = 2.0,
    iou_thr: float = 0.3,
    class_agnostic: bool = False,
) -> Tensor:
    """Decay scores (n,) by each better mask in turn, the best after decay first: scores (n,).

    Soft-NMS (Bodla et al., ICCV 2017, section 3): one step for each instance, because each step's
    choice depends on the decay of the steps before. ``sigma`` multiplies, as in ``matrix_nms``;
    Soft-NMS's own 0.5 divides, the same function as 2.0 here.
    """
    iou = mask_iou(masks, None if class_agnostic else labels)
    if kernel == 'gaussian':
        decay = torch.exp(-sigma * iou**2)
    else:
        decay = 1 - iou * (iou > iou_thr)
    scores = scores.float().clone()
    waiting = torch.ones_like(labels, dtype=torch.bool)
    for _ in range(len(scores)):
        best = scores.where(waiting, -1).argmax()
        waiting = waiting.scatter(0, best, False)
        scores = torch.where(waiting, scores * decay.index_select(0, best[None])[0], scores)
    return scores


def in_input_order(ranked: Tensor, order: Tensor) -> Tensor:
    """Put values (n,) that were taken at ``order`` (n,) back where they came from."""
    return torch.empty_like(ranked).scatter(0, order, ranked)


class MaskNMS:
    """A mask NMS with its settings: ``function(scores, labels, masks, **settings)``.

    Raises:
        ValueError: if the kernel is neither 'gaussian' nor 'linear', sigma is not positive or the
            threshold is not an IoU.
    """

    def __init__(self, function: Callable[..., Tensor], **settings: Any) -> None:
        name, kernel = type(self).__name__, settings.get('kernel', 'linear')
        if kernel not in ('gaussian', 'linear'):
            raise ValueError(f"{name}: kernel must be 'gaussian' or 'linear', not {kernel!r}")
        if not settings.get('sigma', 1) > 0:
            raise ValueError(f'{name}: sigma must be positive, not {settings["sigma"]!r}')
        if not 0 <= settings.get('iou_thr', 0) <= 1:
            raise ValueError(f'{name}: iou_thr must be from 0 to 1, not {settings["iou_thr"]!r}')
        self.function = function
        self.settings = settings

    def __call__(self, scores: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        """Rescore instances: scores (n,), labels (n,), masks (n, h, w) bool to scores (n,)."""
        return self.function(scores, labels, masks, **self.settings)

    def __repr__(self) -> str:
        settings = ', '.join(f'{name}={value!r}' for name, value in self.settings.items())
        return f'{type(self).__name__}({settings})'


@TASK_UTILS.register_module()
class MatrixNMS(MaskNMS):
    """Matrix NMS: parallel soft suppression (SOLOv2, section 3.3).

    Args:
        kernel: 'gaussian', f(iou) = exp(-sigma·iou²), or 'linear', f(iou) = 1 - iou.
        sigma: strength of the gaussian kernel; it multiplies (2.0 here is the paper's 0.5).
        class_agnostic: suppress between classes too, against duplicates of different labels.
    """

    def __init__(
        self, kernel: str = 'gaussian', sigma: float = 2.0, class_agnostic: bool = False
    ) -> None:
        super().__init__(matrix_nms, kernel=kernel, sigma=sigma, class_agnostic=class_agnostic)


@TASK_UTILS.register_module()
class HardMaskNMS(MaskNMS):
    """Greedy NMS: remove what overlaps a better mask that is kept.

    Args:
        iou_thr: overlaps above it remove, from 0 to 1.
        class_agnostic: remove between classes too.
    """

    def __init__(self, iou_thr: float = 0.5, class_agnostic: bool = False) -> None:
        super().__init__(hard_nms, iou_thr=iou_thr, class_agnostic=class_agnostic)


@TASK_UTILS.register_module()
class FastMaskNMS(MaskNMS):
    """YOLACT's Fast NMS: remove what overlaps a better mask, kept or not.

    Args:
        iou_thr: overlaps above it remove, from 0 to 1.
        class_agnostic: remove between classes too.
    """

    def __init__(self, iou_thr: float = 0.5, class_agnostic: bool = False) -> None:
        once = partial(hard_nms, greedy=False)
        super().__init__(once, iou_thr=iou_thr, class_agnostic=class_agnostic)


@TASK_UTILS.register_module()
class SoftMaskNMS(MaskNMS):
    """Soft-NMS: decay by each better mask in turn.

    Args:
        kernel: 'linear', f(iou) = 1 - iou for overlaps above ``iou_thr``, or 'gaussian',
            f(iou) = exp(-sigma·iou²).
        sigma: strength of the gaussian kernel; it multiplies, as in ``MatrixNMS``.
        iou_thr: overlaps up to it do not decay with the linear kernel, from 0 to 1.
        class_agnostic: decay between classes too.
    """

    def __init__(
        self,
        kernel: str = 'linear',
        sigma: float = 2.0,
        iou_thr: float = 0.3,
        class_agnostic: bool = False,
    ) -> None:
        super().__init__(
            soft_nms, kernel=kernel, sigma=sigma, iou_thr=iou_thr, class_agnostic=class_agnostic
        )
