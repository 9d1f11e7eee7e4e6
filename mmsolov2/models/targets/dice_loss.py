"""The mask loss of all positives, without positives × mask pixels in memory.

Dice needs only sums over a positive's pixels. They are added up strip by strip of the mask
features, and the backward pass computes each strip again. Other losses go by chunks of positives.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from mmdet.models.losses import DiceLoss
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from mmsolov2.structures.masks import pixel_counts

CACHED_LOGITS = 2**19  # a strip on the CPU: 2 MiB, which its cache holds
LAUNCHED_LOGITS = 2**23  # a strip on other devices, or a chunk: 32 MiB


class MaskTargets(NamedTuple):
    """What the p positives of an image are trained on."""

    masks: Tensor  # (n, h, w) bool, the instances at the size of the mask features
    instance: Tensor  # (p,) int64, the instance of each positive


def has_dice_sums(loss: nn.Module) -> bool:
    """Whether the loss is mmdet's DiceLoss of logits with squares in the denominator."""
    return type(loss) is DiceLoss and loss.activate and loss.use_sigmoid and not loss.naive_dice


def dice_losses(
    features: Tensor, kernels: Tensor, targets: Sequence[MaskTargets], loss: DiceLoss
) -> Tensor:
    """Dice losses (p,) of 1x1 kernels (p, E) on features (B, E, h, w), image by image.

    Equal to ``loss`` of all logits, reduction 'none'. Under autocast logits are of its type, and
    the rest is float32, as there.
    """
    device = features.device.type
    if torch.is_autocast_enabled(device):
        kernels = kernels.to(torch.get_autocast_dtype(device))
    overlap, energy = DiceSums.apply(features, kernels, targets)
    area = torch.cat([pixel_counts(masks)[0].sum(1)[instance] for masks, instance in targets])
    return loss.loss_weight * (1 - 2 * overlap / (energy + area + 2 * loss.eps))


class DiceSums(torch.autograd.Function):
    """Σ m·t and Σ m² (2, p) over the pixels of predictions m in [0, 1] and their targets t.

    Of features (B, E, h, w), kernels (p, E) and the targets of B images. The products are of the
    kernels' type.
    """

    @staticmethod
    def forward(ctx, features: Tensor, kernels: Tensor, targets: Sequence[MaskTargets]) -> Tensor:
        ctx.save_for_backward(features, kernels)
        ctx.targets = targets
        counts = [len(image.instance) for image in targets]
        images = zip(features, kernels.split(counts), targets, strict=True)
        return torch.cat([image_sums(*image) for image in images], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_sums: Tensor) -> tuple[Tensor, Tensor, None]:
        features, kernels = ctx.saved_tensors
        grad_features = torch.empty_like(features)
        counts = [len(image.instance) for image in ctx.targets]
        images = zip(
            features,
            kernels.split(counts),
            ctx.targets,
            grad_sums.split(counts, dim=1),
            grad_features,
            strict=True,
        )
        grad_kernels = torch.cat([fill_gradient(*image) for image in images])
        return grad_features, grad_kernels, None


def strips(count: int, *maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut maps (c, h, w) into strips of rows in which ``count`` logits a pixel are few enough."""
    logits = CACHED_LOGITS if maps[0].device.type == 'cpu' else LAUNCHED_LOGITS
    rows = max(logits // max(count * maps[0].shape[2], 1), 1)
    return zip(*(each.split(rows, dim=1) for each in maps), strict=True)


def predict(features: Tensor, kernels: Tensor) -> Tensor:
    """Mask probabilities (p, pixels) of features (E, pixels) and kernels (p, E), not in half."""
    logits = kernels @ features
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid_()


def image_sums(features: Tensor, kernels: Tensor, targets: MaskTargets) -> Tensor:
    """``DiceSums`` (2, p) of the features (E, h, w) of an image and its kernels (p, E)."""
    sums = 0
    for part, mask in strips(len(kernels), features, targets.masks):
        m = predict(part.flatten(1).to(kernels.dtype), kernels)
        t = mask.flatten(1)[targets.instance]
        sums = sums + torch.stack([(m * t).sum(1), (m * m).sum(1)])
    return sums


def fill_gradient(
    features: Tensor,
    kernels: Tensor,
    targets: MaskTargets,
    grad_sums: Tensor,
    grad_features: Tensor,
) -> Tensor:
    """Gradient (p, E) of kernels; that of features is written into grad_features (E, h, w)."""
    by_overlap, by_energy = grad_sums[..., None]
    grad_kernels = torch.zeros_like(kernels, dtype=grad_sums.dtype)
    for part, mask, grad_part in strips(len(kernels), features, targets.masks, grad_features):
        pixels = part.flatten(1).to(kernels.dtype)
        m = predict(pixels, kernels)
        t = mask.flatten(1)[targets.instance]
        grad = (by_overlap * t + 2 * by_energy * m) * m * (1 - m)
        grad = grad.to(kernels.dtype)  # of the logits
        grad_part.copy_((kernels.T @ grad).view_as(part))
        grad_kernels += grad @ pixels.T
    return grad_kernels


def in_chunks(losses: Callable[..., Tensor], pixels: int, *positives: Tensor) -> Tensor:
    """``losses(*positives)`` (p,) of tensors (p, …), by chunks that backward computes again.

    ``pixels`` is how many logits a positive has.
    """
    size = max(LAUNCHED_LOGITS // pixels, 1)
    chunks = zip(*(each.split(size) for each in positives), strict=True)
    return torch.cat([checkpoint(losses, *chunk, use_reentrant=False) for chunk in chunks])
