"""Inputs of benchmarks that no network has to give: outputs with a known number of candidates."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mmsolov2.errors import InputError

MASK_STRIDE = 4
OBJECT_SHARE = (0.012, 0.045)  # of the picture, before candidates vary it to 1 to 5 %
CANDIDATES_PER_OBJECT = 8
SHARPNESS = 8.0  # logit in the middle of a compact mask
BACKGROUND = -10.0  # category logit where nothing is
MASK_KINDS = ('compact', 'speckled')


class Outputs(NamedTuple):
    """What a network gives for B images."""

    logits: list[Tensor]  # per level (B, C, S, S)
    kernels: list[Tensor]  # per level (B, E, S, S)
    features: Tensor  # (B, E, H/4, W/4)

    def to(self, *target) -> 'Outputs':
        """The same on a device or of a type."""
        logits = [level.to(*target) for level in self.logits]
        return Outputs(
            logits, [level.to(*target) for level in self.kernels], self.features.to(*target)
        )


class Pictures(NamedTuple):
    """Sizes (height, width) that a test pipeline gives a picture."""

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    def meta(self) -> dict:
        """What mmdet's data samples say of such a picture."""
        factors = tuple(new / old for new, old in zip(self.resized, self.original, strict=True))
        return dict(
            ori_shape=self.original,
            img_shape=self.resized,
            pad_shape=self.padded,
            batch_input_shape=self.padded,
            scale_factor=factors[::-1],
            img_id=0,
        )

    def mask_size(self) -> tuple[int, int]:
        """Height and width of the mask features."""
        return tuple(side // MASK_STRIDE for side in self.padded)


def random_images(count: int, size: Sequence[int]) -> Tensor:
    """Noise (count, 3, H, W), the same every time."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def pad_to(size: Sequence[int], divisor: int = 32) -> tuple[int, int]:
    """The next size (height, width) that the divisor divides."""
    return tuple(-(-side // divisor) * divisor for side in size)


class Objects(NamedTuple):
    """Round masks of n cells, in units of the square root of the mask features' area."""

    center: Tensor  # (n, 2) y, x
    radius: Tensor  # (n,)
    label: Tensor  # (n,) int64


def draw_objects(
    count: int, num_classes: int, size: Sequence[int], generator: torch.Generator
) -> Objects:
    """Several candidates around each object, as a trained model has: ``count`` round masks."""
    num_objects = -(-count // CANDIDATES_PER_OBJECT)
    extent = torch.tensor(size) / math.sqrt(size[0] * size[1])
    random = torch.rand(num_objects, 3, generator=generator)
    share = OBJECT_SHARE[0] + random[:, :1] * (OBJECT_SHARE[1] - OBJECT_SHARE[0])
    radius = (share / math.pi).sqrt()
    center = 1.1 * radius + random[:, 1:] * (extent - 2.2 * radius).clamp(min=0)
    label = torch.randint(num_classes, (num_objects,), generator=generator)
    owner = torch.arange(count) % num_objects
    jitter = 2 * torch.rand(count, 3, generator=generator) - 1
    return Objects(
        center=center[owner] + 0.05 * radius[owner] * jitter[:, :2],
        radius=(radius[owner, 0] * (1 + 0.05 * jitter[:, 2])),
        label=label[owner],
    )


def anchor_grid(channels: int, size: Sequence[int]) -> Tensor:
    """Points (a, 2) y, x over the picture, as many as the channels allow, 25 at most."""
    side = min(math.isqrt((channels - 1) // 3), 5)
    ticks = (torch.arange(side) + 0.5) / side
    return torch.cartesian_prod(ticks, ticks) * torch.tensor(size) / math.sqrt(math.prod(size))


def coordinate_features(channels: int, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """Features (channels, h, w) whose sums can be circles: 1, and y, x, y² + x² of each anchor.

    Coordinates are those around an anchor, so that nothing large cancels; the channels left have
    noise.
    """
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in size), indexing='ij')
    points = torch.stack([y, x]) / math.sqrt(math.prod(size))
    around = points - anchor_grid(channels, size)[..., None, None]  # (a, 2, h, w)
    basis = torch.cat([around, around.square().sum(1, keepdim=True)], dim=1).flatten(0, 1)
    noise = 0.1 * torch.randn(channels - 1 - len(basis), *size, generator=generator)
    return torch.cat([torch.ones(1, *size), basis, noise])


def circle_kernels(
    objects: Objects, channels: int, size: Sequence[int], generator: torch.Generator
) -> Tensor:
    """Kernels (n, channels) for ``coordinate_features``: sharpness · (1 - |p - c|² / r²)."""
    anchors = anchor_grid(channels, size)
    nearest = torch.cdist(objects.center, anchors).argmin(1)
    offset = objects.center - anchors[nearest]
    scale = SHARPNESS / objects.radius[:, None] ** 2
    kernels = 0.01 * torch.randn(len(nearest), channels, generator=generator)
    kernels[:, : 1 + 3 * len(anchors)] = 0
    kernels[:, :1] = SHARPNESS - scale * offset.square().sum(1, keepdim=True)
    values = torch.cat([2 * scale * offset, -scale], dim=1)
    return kernels.scatter(1, 1 + 3 * nearest[:, None] + torch.arange(3), values)


def ordered_scores(scores: Tensor, cell: Tensor, label: Tensor, num_grids: Sequence[int]) -> Tensor:
    """Deal the scores (n,) of each level and class out so that all survive the point NMS: (n,).

    It compares a cell with those above and left: scores that rise to the right and downwards all
    survive, wherever they are.
    """
    level = torch.cat([torch.full((grid**2,), i) for i, grid in enumerate(num_grids)])
    rise = torch.cat([torch.arange(s)[:, None].add(torch.arange(s)).flatten() for s in num_grids])
    group = (level[cell] * (label.max() + 1) + label) * 1000
    dealt = torch.empty_like(scores)
    ranked = scores.sort().values
    by_group = group[scores.argsort()].argsort(stable=True)
    return dealt.scatter(0, (group + rise[cell]).argsort(stable=True), ranked[by_group])


def made_image(
    count: int,
    *,
    num_classes: int,
    num_grids: Sequence[int],
    channels: int,
    size: Sequence[int],
    masks: str = 'compact',
    seed: int = 0,
) -> Outputs:
    """Outputs of one image of which ``count`` pairs of cell and class pass the point NMS.

    Each pair has a cell of its own as far as cells last, drawn over all levels, and a score from
    0.1 to 0.95. ``size`` is the mask features'. Compact masks cover 1 to 5 % of the picture, some
    eight around each object; speckled ones half of all pixels, at random.

    Raises:
        InputError: if there are fewer pairs, or too few channels to make masks of.
    """
    cells = sum(grid**2 for grid in num_grids)
    if not 0 <= count <= cells * num_classes:
        raise InputError(
            f'{count} candidates cannot be made: {cells} cells and {num_classes} classes have '
            f'{cells * num_classes}'
        )
    if channels < 4:
        raise InputError(f'{channels} mask features are too few to make masks of: it needs 4')
    generator = torch.Generator().manual_seed(seed)
    objects = draw_objects(min(count, cells), num_classes, size, generator)
    order = torch.randperm(cells, generator=generator)[:count]
    pair = torch.arange(count)
    cell, again = order[pair % cells], pair.div(cells, rounding_mode='floor')
    label = (objects.label[pair % cells] + again) % num_classes
    kernels = torch.randn(cells, channels, generator=generator) / math.sqrt(channels)
    features = torch.randn(channels, *size, generator=generator)
    if masks == 'compact':
        kernels[order] = circle_kernels(objects, channels, size, generator)
        features = coordinate_features(channels, size, generator)
    scores = 0.101 + 0.849 * torch.rand(count, generator=generator)
    logits = torch.full((cells, num_classes), BACKGROUND)
    if count:
        logits[cell, label] = ordered_scores(scores, cell, label, num_grids).logit()
    return Outputs(to_levels(logits, num_grids), to_levels(kernels, num_grids), features[None])


def to_levels(cells: Tensor, num_grids: Sequence[int]) -> list[Tensor]:
    """Values of all cells (cells, C), level by level (1, C, S, S)."""
    levels = cells.split([grid**2 for grid in num_grids])
    return [
        level.T.reshape(1, -1, grid, grid) for level, grid in zip(levels, num_grids, strict=True)
    ]


@lru_cache(maxsize=1)  # the next part of a set may differ in precision alone
def made_batch(count: int, batch_size: int = 1, **settings) -> Outputs:
    """``made_image`` for each of a batch, all of them different."""
    images = [made_image(count, seed=seed, **settings) for seed in range(batch_size)]
    logits = zip(*(image.logits for image in images), strict=True)
    kernels = zip(*(image.kernels for image in images), strict=True)
    features = torch.cat([image.features for image in images])
    return Outputs(
        [torch.cat(level) for level in logits], [torch.cat(level) for level in kernels], features
    )


def candidates_of(outputs: Outputs, image: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores (n,), labels (n,), kernels (n, E) and masks (n, h, w) bool of an image.

    It takes every pair above 0.1, the published threshold: all of them survive the point NMS.
    """
    scores = torch.cat([level[image].flatten(1) for level in outputs.logits], dim=1).T.sigmoid()
    kernels = torch.cat([level[image].flatten(1) for level in outputs.kernels], dim=1).T
    cell, label = (scores > 0.1).nonzero(as_tuple=True)
    masks = torch.einsum('ne,ehw->nhw', kernels[cell], outputs.features[image]) > 0
    return scores[cell, label], label, kernels[cell], masks
