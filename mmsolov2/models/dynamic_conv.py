"""The dynamic convolution that training and prediction share: M = G * F."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsolov2.models.position_terms import QuadraticForms, quadratic_forms
from mmsolov2.models.pyramid import resize

KEPT_LOGITS = 2**23  # that are computed once and kept: 32 MiB


def dynamic_conv(features: Tensor, kernels: Tensor, size: int = 1) -> Tensor:
    """Convolve features (E, h, w) with n kernels (n, E·size²): mask logits (n, h, w).

    The borders are padded with zeros, so that every odd ``size`` keeps the mask size (SOLOv2,
    section 3.1, M_ij = G_ij * F).

    >>> features = torch.tensor([[[1.0, 2.0, 3.0]], [[0.0, 1.0, 0.0]]])
    >>> dynamic_conv(features, torch.tensor([[1.0, 0.0], [1.0, 10.0]])).tolist()
    [[[1.0, 2.0, 3.0]], [[1.0, 12.0, 3.0]]]
    """
    if size == 1:
        return (kernels @ features.flatten(1)).unflatten(1, features.shape[1:])
    if not len(kernels):  # conv2d refuses; this product leaves both inputs a (zero) gradient
        return kernels[:, :1, None] * features[:1]
    weight = kernels.view(-1, len(features), size, size)
    return F.conv2d(features[None], weight, padding=size // 2)[0]


def with_balanced_taps(kernels: Tensor, size: int, others: int = 0) -> Tensor:
    """Kernels (B, E·size², S, S) as a branch predicts them, all taps but the centre over size².

    A mask logit is then near that of a 1x1 kernel plus a mean over the neighbours'. With taps of
    equal weight the products of all taps add up, and 3x3 kernels learn more slowly
    (docs/ablations.md). Kernels of size 1 stay as they are, and so do the last ``others`` channels.
    """
    if size == 1:
        return kernels
    taps = kernels.new_full((size**2,), 1 / size**2)
    taps[size**2 // 2] = 1
    count = (kernels.shape[1] - others) // size**2
    return kernels * torch.cat([taps.repeat(count), taps.new_ones(others)])[:, None, None]


@dataclass
class CellKernels:
    """The kernels of n cells of an image, and the mask features that they are convolved with."""

    features: Tensor | Sequence[Tensor]  # (E, h, w), or such for each level
    kernels: Tensor  # (n, E·size²)
    terms: Tensor  # (n, P), position terms
    positions: Tensor  # (n, 3) int64, column, row and grid
    levels: Tensor  # (n,) int64
    size: int = 1

    def __len__(self) -> int:
        return len(self.kernels)

    @property
    def device(self) -> torch.device:
        """Where all of this is."""
        return self.kernels.device

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of a mask, those of the first level."""
        features = self.features if isinstance(self.features, Tensor) else self.features[0]
        return features.shape[-2], features.shape[-1]

    def __getitem__(self, cells: Tensor) -> 'CellKernels':
        """The kernels of cells (m,)."""
        return replace(
            self,
            kernels=self.kernels[cells],
            terms=self.terms[cells],
            positions=self.positions[cells],
            levels=self.levels[cells],
        )

    def logits(self) -> Tensor:
        """Mask logits (n, h, w) float32. Those of coarser levels are resized, bilinearly."""
        form = self.form()
        return self.convolved() if form is None else form.add_to(self.convolved())

    def form(self) -> QuadraticForms | None:
        """What position terms add to logits, if there are any."""
        if not self.terms.shape[1]:
            return None
        return quadratic_forms(self.terms, self.positions, self.mask_size)

    def convolved(self) -> Tensor:
        """``logits`` without position terms."""
        if isinstance(self.features, Tensor):
            return dynamic_conv(self.features, self.kernels, self.size).float()
        order = self.levels.argsort(stable=True)
        counts = self.levels.bincount(minlength=len(self.features)).tolist()
        parts = zip(self.features, self.kernels[order].split(counts), strict=True)
        logits = [dynamic_conv(level, part, self.size)[:, None] for level, part in parts]
        ordered = torch.cat([resize(level, self.mask_size)[:, 0] for level in logits])
        return torch.empty_like(ordered).index_copy_(0, order, ordered).float()

    def rows(self, rows: slice, some: Tensor | None = None) -> Tensor:
        """Some rows of ``logits`` (n, rows, w), or of some kernels (m,) alone (m, rows, w).

        Of unified features only: those of coarser levels are resized as a whole, by ``logits``.
        """
        assert isinstance(self.features, Tensor)
        halo = self.size // 2  # what a kernel sees around a row
        first = max(rows.start - halo, 0)
        chosen = self if some is None else self[some]
        around = replace(chosen, features=self.features[:, first : rows.stop + halo])
        convolved = around.convolved()[:, rows.start - first : rows.stop - first]
        form = chosen.form()
        return convolved if form is None else form.rows(rows).add_to(convolved)

    def keep_few(self) -> 'MaskLogits':
        """Logits to keep if they are few, or if their rows cannot be computed apart."""
        few = len(self) * math.prod(self.mask_size) <= KEPT_LOGITS
        return KeptLogits(self.logits()) if few or not isinstance(self.features, Tensor) else self


@dataclass
class AveragedKernels:
    """The kernels of n cells of an image in several views of it, whose masks are averaged."""

    views: Sequence[CellKernels]  # each of the n cells, where they are in its view
    is_mirrored: Sequence[bool]  # whether left and right are exchanged in each view
    mask_size: tuple[int, int]  # height and width of a mask

    def __len__(self) -> int:
        return len(self.views[0])

    @property
    def device(self) -> torch.device:
        """Where all of this is."""
        return self.views[0].device

    def __getitem__(self, cells: Tensor) -> 'AveragedKernels':
        """The kernels of cells (m,)."""
        return replace(self, views=[view[cells] for view in self.views])

    def keep_few(self) -> 'KeptLogits':
        """Logits of the mean of all views' probabilities."""
        total = torch.zeros(len(self), *self.mask_size, device=self.device)
        for view, is_mirrored in zip(self.views, self.is_mirrored, strict=True):
            probabilities = view.logits().sigmoid_()
            turned = probabilities.flip(-1) if is_mirrored else probabilities
            total += resize(turned[:, None], self.mask_size)[:, 0]
        return KeptLogits(total.div_(len(self.views)).logit_())


@dataclass
class KeptLogits:
    """Mask logits that were computed once, where ``CellKernels`` computes them again."""

    values: Tensor  # (n, h, w) float32

    def __len__(self) -> int:
        return len(self.values)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.values.device

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of a mask."""
        return self.values.shape[1], self.values.shape[2]

    def rows(self, rows: slice, some: Tensor | None = None) -> Tensor:
        """Some rows (n, rows, w), or of some masks (m,) alone (m, rows, w)."""
        part = self.values[:, rows]
        return part if some is None else part.index_select(0, some)


@dataclass
class MaskedLogits:
    """Mask logits of n cells among others', without the pixels that were removed."""

    of: 'MaskLogits'
    cells: Tensor  # (n,) int64
    removed: Tensor  # (n, h, w) bool

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.cells.device

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of a mask."""
        return self.of.mask_size

    def rows(self, rows: slice, some: Tensor | None = None) -> Tensor:
        """Some rows (n, rows, w), or of some masks (m,) alone (m, rows, w)."""
        cells, removed = self.cells, self.removed[:, rows]
        if some is not None:
            cells, removed = cells[some], removed.index_select(0, some)
        return self.of.rows(rows, cells).masked_fill(removed, -math.inf)


MaskLogits = CellKernels | KeptLogits | MaskedLogits
Kernels = CellKernels | AveragedKernels
