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

from mmsolov2.models.position_terms import add_terms, monomials
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
    terms: Tensor,
    targets: Sequence[MaskTargets],
    loss: DiceLoss,
) -> Tensor:
    """Dice losses (p,) of 1x1 kernels (p, E) on features (B, E, h, w), image by image.

    Equal to ``loss`` of all logits, position terms (p, P) float32 included, reduction 'none'. Under
    autocast products of features and kernels are of its type, and the rest is float32, as there.
    """
    device = features.device.type
    if torch.is_autocast_enabled(device):
        kernels = kernels.to(torch.get_autocast_dtype(device))
    overlap, energy = DiceSums.apply(features, kernels, terms, targets)
    area = torch.cat([pixel_counts(masks)[0].sum(1)[instance] for masks, instance in targets])
    return loss.loss_weight * (1 - 2 * overlap / (energy + area + 2 * loss.eps))


class DiceSums(torch.autograd.Function):
    """Σ m·t and Σ m² (2, p) of features (B, E, h, w), kernels (p, E), terms (p, P) and B targets.

    Products of features and kernels are of the kernels' type, all else is float32 or more.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, kernels: Tensor, terms: Tensor, targets: Sequence[MaskTargets]
    ) -> Tensor:
        ctx.save_for_backward(features, kernels, terms)
        ctx.targets = targets
        images = by_image(features, kernels, terms, targets)
        return torch.cat([dice_sums(*image) for image in images], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        features, kernels, terms = ctx.saved_tensors
        grad_features = torch.empty_like(features)
        counts = [len(image.instance) for image in ctx.targets]
        grads = zip(grad_sums.split(counts, dim=1), grad_features, strict=True)
        images = zip(by_image(features, kernels, terms, ctx.targets), grads, strict=True)
        gradients = [dice_gradients(*image, *grad) for image, grad in images]
        grad_kernels, grad_terms = map(torch.cat, zip(*gradients, strict=True))
        return grad_features, grad_kernels, grad_terms, None


def by_image(
    features: Tensor, kernels: Tensor, terms: Tensor, targets: Sequence[MaskTargets]
) -> Iterable[tuple[Tensor, Tensor, Tensor, MaskTargets]]:
    """The features, kernels, terms and targets of each image."""
    counts = [len(image.instance) for image in targets]
    return zip(features, kernels.split(counts), terms.split(counts), targets, strict=True)


def dice_sums(features: Tensor, kernels: Tensor, terms: Tensor, targets: MaskTargets) -> Tensor:
    """Σ m·t and Σ m² (2, p) of features (E, h, w), kernels (p, E) and terms (p, P) of an image."""
    sums = torch.zeros(2, len(kernels), device=kernels.device)
    places = monomials(terms, features.shape[1:])
    for part, masks, place in strips(len(kernels), features, targets.masks, places):
        m = probabilities(part.flatten(1).to(kernels.dtype), kernels, terms, place)
        t = masks.flatten(1)[targets.instance]
        sums = sums + torch.stack([(m * t).sum(1), (m * m).sum(1)])
    return sums


def dice_gradients(
    features: Tensor,
    kernels: Tensor,
    terms: Tensor,
    targets: MaskTargets,
    grad_sums: Tensor,
    grad_features: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients (p, E) of kernels and (p, P) of terms; grad_features (E, h, w) are written."""
    by_overlap, by_energy = grad_sums[..., None]
    grad_kernels, grad_terms = (
        torch.zeros_like(kernels, dtype=grad_sums.dtype),
        torch.zeros_like(terms),
    )
    places = monomials(terms, features.shape[1:])
    each = strips(len(kernels), features, targets.masks, places, grad_features)
    for part, masks, place, grad_part in each:
        pixels = part.flatten(1).to(kernels.dtype)
        m = probabilities(pixels, kernels, terms, place)
        t = masks.flatten(1)[targets.instance]
        grad_m = by_overlap * t + 2 * by_energy * m
        grad_logits = grad_m * m * (1 - m)
        grad_terms += grad_logits @ place.flatten(1).T
        grad_logits = grad_logits.to(kernels.dtype)
        grad_part.copy_((kernels.T @ grad_logits).view_as(part))
        grad_kernels += grad_logits @ pixels.T
    return grad_kernels, grad_terms


def strips(count: int, *maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut maps (c, h, w) into strips of rows in which ``count`` logits a pixel are few enough."""
    logits = CACHED_LOGITS if maps[0].device.type == 'cpu' else LAUNCHED_LOGITS
    rows = max(logits // max(count * maps[0].shape[2], 1), 1)
    return zip(*(each.split(rows, dim=1) for each in maps), strict=True)


def probabilities(pixels: Tensor, kernels: Tensor, terms: Tensor, places: Tensor) -> Tensor:
    """Mask probabilities m (p, k), float32 or more, of k pixels (E, k) at places (P, k).

    Kernels are (p, E), their terms (p, P).
    """
    logits = kernels @ pixels
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return add_terms(logits, terms, places).sigmoid_()


def checkpoint_chunks(losses: Callable[..., Tensor], pixels: int, *positives: Tensor) -> Tensor:
    """``losses(*positives)`` (p,) of tensors (p, …), by chunks that backward computes again.

    ``pixels`` is how many logits a positive has.
    """
    size = max(LAUNCHED_LOGITS // pixels, 1)
    chunks = zip(*(each.split(size) for each in positives), strict=True)
    return torch.cat([checkpoint(losses, *chunk, use_reentrant=False) for chunk in chunks])
