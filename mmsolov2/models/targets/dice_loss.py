"""The mask loss of all positives, without positives × mask pixels in memory.

Of a positive's probabilities m and its instance's mask t, the Dice loss (SOLO, section 3.3)

    1 - 2 Σ m·t / (Σ m² + Σ t²)

needs only sums over the pixels. They are added up strip by strip of the mask features, and the
backward pass computes each strip again. Other losses go by chunks of positives.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from mmdet.models.losses import DiceLoss
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from mmsolov2.models.position_terms import QuadraticForms
from mmsolov2.structures.masks import pixel_counts

CACHED_LOGITS = 2**19  # a strip on the CPU: 2 MiB, which its cache holds
LAUNCHED_LOGITS = 2**23  # a strip on other devices, or a chunk: 32 MiB


class MaskTargets(NamedTuple):
    """What the p positives of an image are trained on."""

    masks: Tensor  # (n, h, w) bool, the instances at the size of the mask features
    instance: Tensor  # (p,) int64, the instance of each positive


def is_dice(loss: nn.Module) -> bool:
    """Whether the loss is the paper's: mmdet's DiceLoss, of logits, with squares below."""
    return (
        type(loss) is DiceLoss and bool(loss.activate and loss.use_sigmoid) and not loss.naive_dice
    )


def dice_losses(
    features: Tensor,
    kernels: Tensor,
    form: QuadraticForms | None,
    targets: Sequence[MaskTargets],
    loss: DiceLoss,
) -> Tensor:
    """Dice losses (p,) of 1x1 kernels (p, E) on features (B, E, h, w), image by image.

    Equal to ``loss`` of all logits, with p position forms if there are any, reduction 'none'. Under
    autocast products of features and kernels are of its type, and the rest is float32, as there.
    """
    device = features.device.type
    if torch.is_autocast_enabled(device):
        kernels = kernels.to(torch.get_autocast_dtype(device))
    overlap, energy = DiceSums.apply(features, kernels, targets, *(form or ()))
    area = torch.cat([pixel_counts(masks)[0].sum(1)[instance] for masks, instance in targets])
    return loss.loss_weight * (1 - 2 * overlap / (energy + area + 2 * loss.eps))


class DiceSums(torch.autograd.Function):
    """Σ m·t and Σ m² (2, p) of features (B, E, h, w), kernels (p, E) and B images' targets.

    Products of features and kernels are of the kernels' type, all else is float32 or more. The
    parts of p ``QuadraticForms`` may follow; their offset is no function of what is learnt.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, kernels: Tensor, targets: Sequence[MaskTargets], *form: Tensor
    ) -> Tensor:
        ctx.save_for_backward(features, kernels, *form)
        ctx.targets = targets
        images = by_image(features, kernels, targets, form)
        return torch.cat([dice_sums(*image) for image in images], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        features, kernels, *form = ctx.saved_tensors
        grad_features = torch.empty_like(features)
        grads = zip(grad_sums.split(counts(ctx.targets), dim=1), grad_features, strict=True)
        images = zip(by_image(features, kernels, ctx.targets, form), grads, strict=True)
        gradients = [dice_gradients(*image, *grad) for image, grad in images]
        grad_kernels, *grad_form = map(torch.cat, zip(*gradients, strict=True))
        return grad_features, grad_kernels, None, *grad_form, *([None] if form else [])


def counts(targets: Sequence[MaskTargets]) -> list[int]:
    """The positives of each image."""
    return [len(image.instance) for image in targets]


def by_image(
    features: Tensor, kernels: Tensor, targets: Sequence[MaskTargets], form: Sequence[Tensor]
) -> Iterable[tuple[Tensor, Tensor, MaskTargets, QuadraticForms | None]]:
    """The features, kernels, targets and forms of each image."""
    parts = zip(*(part.split(counts(targets)) for part in form), strict=True)
    none: list[QuadraticForms | None] = [None] * len(targets)
    forms = [QuadraticForms(*image) for image in parts] or none
    return zip(features, kernels.split(counts(targets)), targets, forms, strict=True)


def dice_sums(
    features: Tensor, kernels: Tensor, targets: MaskTargets, form: QuadraticForms | None
) -> Tensor:
    """Σ m·t and Σ m² (2, p) of features (E, h, w) and kernels (p, E) of an image."""
    sums = torch.zeros(2, len(kernels), device=kernels.device)
    for rows in strips(len(kernels), features):
        m = probabilities(features[:, rows], kernels, form and form.rows(rows))
        t = targets.masks[:, rows].flatten(1)[targets.instance]
        sums = sums + torch.stack([(m * t).sum(1), (m * m).sum(1)])
    return sums


def dice_gradients(
    features: Tensor,
    kernels: Tensor,
    targets: MaskTargets,
    form: QuadraticForms | None,
    grad_sums: Tensor,
    grad_features: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of kernels (p, E) and of across, down and twist; grad_features are written."""
    by_overlap, by_energy = grad_sums[..., None]
    grad_kernels = torch.zeros_like(kernels, dtype=grad_sums.dtype)
    grad_form = [torch.zeros_like(each) for each in form[:3]] if form else []
    for rows in strips(len(kernels), features):
        part = features[:, rows]
        m = probabilities(part, kernels, form and form.rows(rows))
        t = targets.masks[:, rows].flatten(1)[targets.instance]
        grad_m = by_overlap * t + 2 * by_energy * m
        grad_logits = grad_m * m * (1 - m)
        if form:
            grad = grad_logits.view(len(kernels), *part.shape[1:])
            across, down, twist = grad_form
            across += grad.sum(1, keepdim=True)
            down[:, rows] = grad.sum(2, keepdim=True)
            twist[:, rows] = (grad * form.offset).sum(2, keepdim=True)
        grad_logits = grad_logits.to(kernels.dtype)
        grad_features[:, rows] = (kernels.T @ grad_logits).view_as(part)
        grad_kernels += grad_logits @ part.flatten(1).to(kernels.dtype).T
    return grad_kernels, *grad_form


def strips(count: int, features: Tensor) -> Iterator[slice]:
    """Cut features (E, h, w) into rows in which ``count`` logits a pixel are few enough."""
    logits = CACHED_LOGITS if features.device.type == 'cpu' else LAUNCHED_LOGITS
    _, height, width = features.shape
    rows = max(logits // max(count * width, 1), 1)
    return (slice(first, first + rows) for first in range(0, height, rows))


def probabilities(features: Tensor, kernels: Tensor, form: QuadraticForms | None) -> Tensor:
    """Mask probabilities m (p, pixels), float32 or more, of features (E, h, w), kernels (p, E)."""
    logits = kernels @ features.flatten(1).to(kernels.dtype)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if form:
        form.add_to(logits.view(len(kernels), *features.shape[1:]))
    return logits.sigmoid_()


def checkpoint_chunks(losses: Callable[..., Tensor], pixels: int, *positives: Tensor) -> Tensor:
    """``losses(*positives)`` (p,) of tensors (p, …), by chunks that backward computes again.

    ``pixels`` is how many logits a positive has.
    """
    size = max(LAUNCHED_LOGITS // pixels, 1)
    chunks = zip(*(each.split(size) for each in positives), strict=True)
    return torch.cat([checkpoint(losses, *chunk, use_reentrant=False) for chunk in chunks])
