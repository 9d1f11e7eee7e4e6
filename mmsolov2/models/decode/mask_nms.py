"""Mask NMS: scores in, lower scores out.

A mask NMS is called as ``nms(scores, labels, masks)`` with scores (n,), labels (n,) and masks
(n, h, w) bool, and returns float32 scores (n,) in the input order, in which suppressed instances
have lower scores. Thresholds and the choice of the best k are the caller's.
"""

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmsolov2 import device
from mmsolov2.registry import TASK_UTILS

STRIP, CPU_STRIP = 2**26, 2**19  # mask pixels compared at a time, elsewhere and on a CPU
FEW = 4  # masks of a label that are compared two at a time sooner than in one product


def mask_iou(masks: Tensor, labels: Tensor | None = None) -> Tensor:
    """Intersection over union (n, n) float32 of masks (n, h, w) bool; 0 for empty masks.

    With labels (n,) it is 0 between masks of different labels, and costs nothing there on a CPU.
    """
    shared = shared_pixels(masks.flatten(1), labels)
    area = shared.diagonal()
    return shared / (area[:, None] + area - shared).clamp(min=1)


def shared_pixels(masks: Tensor, labels: Tensor | None) -> Tensor:
    """How many pixels each two of masks (n, pixels) bool of the same label share: (n, n) float32.

    Computed in float32 even under autocast: areas of large masks overflow in float16.
    """
    shared = torch.zeros(len(masks), len(masks), device=masks.device)
    with torch.autocast(masks.device.type, enabled=False):
        if device.on_cpu(masks):
            for group in groups(labels, len(masks)):
                count = pair_counts if len(group) <= FEW else sparse_products
                shared[group[:, None], group] = count(masks.index_select(0, group))
            return shared
        for part in masks.split(max(STRIP // max(len(masks), 1), 1), dim=1):
            part = part.float()
            shared.addmm_(part, part.T)
    return shared if labels is None else shared * (labels[:, None] == labels)


def groups(labels: Tensor | None, count: int) -> Sequence[Tensor]:
    """The indices of each label of labels (n,), or all ``count``."""
    if labels is None:
        return [torch.arange(count)]
    order = labels.argsort(stable=True)
    sizes = labels[order].unique_consecutive(return_counts=True)[1]
    return order.split(sizes.tolist())


def pair_counts(masks: Tensor) -> Tensor:
    """Pixels that masks (n, pixels) bool share, of each pair by itself: (n, n) float32."""
    shared, arrays = torch.zeros(len(masks), len(masks)), masks.numpy()
    for i, j in combinations_with_replacement(range(len(masks)), 2):
        shared[i, j] = shared[j, i] = int(np.count_nonzero(arrays[i] & arrays[j]))
    return shared


def sparse_products(masks: Tensor) -> Tensor:
    """Pixels that masks (n, pixels) bool share: (n, n) float32.

    From the first pixel of any to the last, a strip at a time, and in it only masks that have some.
    """
    shared = torch.zeros(len(masks), len(masks))
    masks = masks.view(torch.uint8)
    used = masks.amax(0).nonzero()[:, 0] if len(masks) else masks.new_zeros(0)
    if not len(used):
        return shared
    masks = masks[:, used[0] : used[-1] + 1]
    for strip in masks.split(max(CPU_STRIP // len(masks), 1), dim=1):
        some = strip.amax(1).nonzero()[:, 0]
        part = strip.index_select(0, some).float()
        shared[some[:, None], some] += part @ part.T
    return shared


def gaussian_decay(iou: Tensor, worst: Tensor, sigma: float) -> Tensor:
    """f(iou) / f(worst) for f(iou) = exp(-sigma·iou²), elementwise."""
    return torch.exp(-sigma * (iou**2 - worst**2))


def linear_decay(iou: Tensor, worst: Tensor) -> Tensor:
    """f(iou) / f(worst) for f(iou) = 1 - iou, elementwise; 1 where f(worst) is 0.

    A suppressor with f(worst) = 0 is surely gone itself and takes nobody with it.
    """
    alive = 1 - worst
    return torch.where(alive > 0, (1 - iou) / alive.clamp(min=1e-12), 1)


def ranked_overlaps(
    scores: Tensor, labels: Tensor, masks: Tensor, class_agnostic: bool
) -> tuple[Tensor, Tensor]:
    """Ranks of scores (n,) and, in that order, iou (n, n): [i, j] is 0 unless i outranks j.

    Between masks (n, h, w) of different labels it is 0 too, unless ``class_agnostic``.
    """
    order = scores.argsort(descending=True, stable=True)
    iou = mask_iou(masks, None if class_agnostic else labels)
    return order, iou[order][:, order].triu(1)


def best_above(values: Tensor) -> Tensor:
    """The largest of each column of values (n, n), all at least 0: (n,)."""
    return F.pad(values, (0, 0, 1, 0)).amax(0)  # the row of 0s: amax refuses empty columns


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
    """
    order, iou = ranked_overlaps(scores, labels, masks, class_agnostic)
    worst = best_above(iou)[:, None]  # how far each suppressor is suppressed itself
    if kernel == 'gaussian':
        decay = gaussian_decay(iou, worst, sigma)
    else:
        decay = linear_decay(iou, worst)
    decay = F.pad(decay, (0, 0, 1, 0), value=1.0).amin(0)  # the row of 1s: nobody suppresses
    return in_input_order(scores[order].float() * decay, order)


def hard_nms(
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    *,
    iou_thr: float = 0.5,
    class_agnostic: bool = False,
) -> Tensor:
    """Zero each of scores (n,) whose mask overlaps a better one that is kept: scores (n,).

    The greedy rule: whoever overlaps a kept mask of its label by more than ``iou_thr`` goes. A set
    of kept masks that follows from itself by this rule is the greedy one, so that repeating the
    rule until nothing changes needs as many rounds as the longest chain of overlaps, not n.
    """
    order, iou = ranked_overlaps(scores, labels, masks, class_agnostic)
    overlapping = iou > iou_thr
    kept, before = torch.ones_like(labels, dtype=torch.bool), None
    while before is None or not torch.equal(kept, before):
        kept, before = ~(overlapping & kept[:, None]).any(0), kept
    return in_input_order(scores[order].float() * kept, order)


def fast_nms(
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    *,
    iou_thr: float = 0.5,
    class_agnostic: bool = False,
) -> Tensor:
    """Zero each of scores (n,) whose mask overlaps a better one, kept or not: scores (n,).

    Fast NMS of YOLACT (Bolya et al., ICCV 2019, section 3.4): in one step, and removing a few more
    than the greedy rule.
    """
    order, iou = ranked_overlaps(scores, labels, masks, class_agnostic)
    return in_input_order(scores[order].float() * (best_above(iou) <= iou_thr), order)


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


def check_kernel(name: str, kernel: str, sigma: float) -> None:
    """Raise ValueError unless kernel and sigma are those of a soft suppression."""
    if kernel not in ('gaussian', 'linear'):
        raise ValueError(f"{name}: kernel must be 'gaussian' or 'linear', not {kernel!r}")
    if not sigma > 0:
        raise ValueError(f'{name}: sigma must be positive, not {sigma!r}')


def check_threshold(name: str, iou_thr: float) -> None:
    """Raise ValueError unless a threshold is an IoU."""
    if not 0 <= iou_thr <= 1:
        raise ValueError(f'{name}: iou_thr must be from 0 to 1, not {iou_thr!r}')


class MaskNMS:
    """A mask NMS with its settings: ``function(scores, labels, masks, **settings)``."""

    def __init__(self, function: Callable[..., Tensor], **settings) -> None:
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

    Raises:
        ValueError: if the kernel is neither, or sigma is not positive.
    """

    def __init__(
        self, kernel: str = 'gaussian', sigma: float = 2.0, class_agnostic: bool = False
    ) -> None:
        check_kernel('MatrixNMS', kernel, sigma)
        super().__init__(matrix_nms, kernel=kernel, sigma=sigma, class_agnostic=class_agnostic)


@TASK_UTILS.register_module()
class HardMaskNMS(MaskNMS):
    """Greedy NMS: remove what overlaps a better mask that is kept.

    Args:
        iou_thr: overlaps above it remove, from 0 to 1.
        class_agnostic: remove between classes too.

    Raises:
        ValueError: if the threshold is not an IoU.
    """

    def __init__(self, iou_thr: float = 0.5, class_agnostic: bool = False) -> None:
        check_threshold('HardMaskNMS', iou_thr)
        super().__init__(hard_nms, iou_thr=iou_thr, class_agnostic=class_agnostic)


@TASK_UTILS.register_module()
class FastMaskNMS(MaskNMS):
    """YOLACT's Fast NMS: remove what overlaps a better mask, kept or not.

    Args:
        iou_thr: overlaps above it remove, from 0 to 1.
        class_agnostic: remove between classes too.

    Raises:
        ValueError: if the threshold is not an IoU.
    """

    def __init__(self, iou_thr: float = 0.5, class_agnostic: bool = False) -> None:
        check_threshold('FastMaskNMS', iou_thr)
        super().__init__(fast_nms, iou_thr=iou_thr, class_agnostic=class_agnostic)


@TASK_UTILS.register_module()
class SoftMaskNMS(MaskNMS):
    """Soft-NMS: decay by each better mask in turn.

    Args:
        kernel: 'linear', f(iou) = 1 - iou for overlaps above ``iou_thr``, or 'gaussian',
            f(iou) = exp(-sigma·iou²).
        sigma: strength of the gaussian kernel; it multiplies, as in ``MatrixNMS``.
        iou_thr: overlaps up to it do not decay with the linear kernel, from 0 to 1.
        class_agnostic: decay between classes too.

    Raises:
        ValueError: if the kernel is neither, sigma is not positive or the threshold is not an IoU.
    """

    def __init__(
        self,
        kernel: str = 'linear',
        sigma: float = 2.0,
        iou_thr: float = 0.3,
        class_agnostic: bool = False,
    ) -> None:
        check_kernel('SoftMaskNMS', kernel, sigma)
        check_threshold('SoftMaskNMS', iou_thr)
        super().__init__(
            soft_nms, kernel=kernel, sigma=sigma, iou_thr=iou_thr, class_agnostic=class_agnostic
        )
