"""Cells above the score threshold to candidates: masks, and scores times maskness.

On a CPU logits are looked at a strip of rows at a time: what is computed of a strip is still in the
cache when it is needed next, and a mask costs little in strips where it is not.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmsolov2 import device
from mmsolov2.errors import InputError
from mmsolov2.models.dynamic_conv import dynamic_conv_levels, dynamic_conv_rows

STRIP, CPU_STRIP = 2**26, 2**20  # logits in a strip, elsewhere and on a CPU
LOOK = 8  # rows in a strip of logits that are there, on a CPU
FEW = 2**23  # logits that are computed once and kept: 32 MiB
OVERLAP_BYTES = 24  # of each two candidates in mask NMS: six float32
MARGIN = 1e-3  # below the threshold's logit; no logit under it can be inside


@dataclass
class MaskLogits:
    """The mask logits of n kernels of one image, computed when they are asked for."""

    features: Tensor | Sequence[Tensor]  # (E, h, w), or such for each level
    kernels: Tensor  # (n, E·size²)
    levels: Tensor  # (n,) int64
    size: int = 1
    whole: Tensor | None = None  # (n, h, w), if they are kept

    def __len__(self) -> int:
        return len(self.kernels)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a mask."""
        unified = isinstance(self.features, Tensor)
        return tuple((self.features if unified else self.features[0]).shape[-2:])

    @property
    def _whole_at_once(self) -> bool:
        """Whether rows cannot be computed apart: those of later levels are resized."""
        return not isinstance(self.features, Tensor)

    def of(self, cells: Tensor) -> 'MaskLogits':
        """The logits of the kernels at cells (n,), computed now if they are few."""
        chosen = replace(self, kernels=self.kernels[cells], levels=self.levels[cells])
        if self.whole is not None:
            chosen.whole = self.whole[cells]
        elif len(cells) * self.shape[0] * self.shape[1] <= FEW:
            chosen.whole = chosen.rows(slice(0, self.shape[0]))
        return chosen

    def to_read(self, cells: Tensor) -> tuple['MaskLogits', Tensor]:
        """Logits to read some rows of after others, and where those of cells (n,) are in them."""
        if self.whole is not None or not self._whole_at_once:
            return self, cells
        chosen = MaskLogits(
            self.features, self.kernels[cells], self.levels[cells], self.size, whole=self(cells)
        )
        return chosen, torch.arange(len(cells), device=cells.device)

    def __call__(self, cells: Tensor) -> Tensor:
        """Logits (n, h, w) float32 of the kernels at cells (n,)."""
        return self.rows(slice(0, self.shape[0]), cells)

    def rows(self, rows: slice, some: Tensor | None = None) -> Tensor:
        """Logits (n, rows, w) float32, or of some kernels (m,) alone (m, rows, w)."""
        if self.whole is not None:
            part = self.whole[:, rows]
            return part if some is None else part.index_select(0, some)
        kernels, levels = self.kernels, self.levels
        if some is not None:
            kernels, levels = kernels.index_select(0, some), levels[some]
        if isinstance(self.features, Tensor):
            return dynamic_conv_rows(self.features, kernels, rows, self.size).float()
        order = levels.argsort(stable=True)
        counts = levels.bincount(minlength=len(self.features)).tolist()
        logits = dynamic_conv_levels(self.features, kernels[order], counts, self.size)
        return torch.empty_like(logits).index_copy_(0, order, logits)[:, rows].float()

    def strips(self, count: int) -> Iterator[slice]:
        """Rows to take at a time for ``count`` kernels; all if they cannot be computed apart."""
        height, width = self.shape
        pixels = CPU_STRIP if device.on_cpu(self.kernels) else STRIP
        step = max(pixels // (max(count, 1) * width), 1)
        if self.whole is not None and device.on_cpu(self.kernels):
            step = min(step, LOOK)
        elif self._whole_at_once:
            step = height
        return (slice(first, min(first + step, height)) for first in range(0, height, step))


@dataclass
class Candidates:
    """Instances that mask NMS chooses from."""

    scores: Tensor  # (n,) float32, 0 where the mask is too small
    labels: Tensor  # (n,) int64
    cells: Tensor  # (n,) int64, of the mask logits
    masks: Tensor  # (n, h, w) bool

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor) -> 'Candidates':
        """The candidates at ``index``: int64 indices (m,) or a mask (n,) bool."""
        return Candidates(*(values[index] for values in vars(self).values()))

    def is_above(self, scores: Tensor) -> bool:
        """Whether all of these are better than others with scores (m,) can be."""
        return bool(self.scores.amin() > scores.amax())

    def best_with(self, others: 'Candidates', limit: int) -> 'Candidates':
        """The best ``limit`` of these and others, the highest score first.

        Of equal scores the lower cell comes first, and of a cell's the lower label.
        """
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        both = Candidates(*(torch.cat(pair) for pair in pairs))
        order = both.labels.argsort(stable=True)
        order = order[both.cells[order].argsort(stable=True)]
        return both[order[both.scores[order].argsort(descending=True, stable=True)][:limit]]


def logit(probability: float) -> float:
    """What the sigmoid turns into a probability; infinite from 0 down and from 1 up."""
    if not 0 < probability < 1:
        return math.inf if probability > 0 else -math.inf
    return math.log(probability / (1 - probability))


def measure(logits: MaskLogits, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (n, h, w) bool of logits, their area (n,) and maskness (n,), both float32.

    Maskness is the mean probability of a mask's pixels (SOLOv2, section 3.2), 0 without any.
    """
    masks = device.zeros((len(logits), *logits.shape), torch.bool, logits.kernels)
    area, total = torch.zeros(2, len(logits), device=masks.device)
    lowest = logit(threshold) - MARGIN
    for rows in logits.strips(len(logits)):
        strip = logits.rows(rows)
        some = torch.arange(len(logits), device=masks.device)
        if device.on_cpu(strip) and strip.numel():
            some = (strip.amax((1, 2)) > lowest).nonzero()[:, 0]
            strip = strip.index_select(0, some)
        probability = strip.sigmoid()
        inside = probability > threshold
        masks[some, rows] = inside
        inside = inside.float()
        area.index_add_(0, some, inside.sum((1, 2)))
        total.index_add_(0, some, inside.mul_(probability).sum((1, 2)))
    return masks, area, total / area.clamp(min=1)


def find_candidates(
    scores: Tensor,
    logits: MaskLogits,
    *,
    score_thr: float,
    mask_thr: float,
    smallest: Tensor,
    limit: int | None,
) -> tuple[Candidates, MaskLogits]:
    """The best ``limit`` candidates of scores (cells, C), by score times maskness; their logits.

    A mask needs ``smallest`` (cells,) pixels. A cell's kernel is convolved once, not once a class.
    Pairs of cell and class are taken ``limit`` at a time, the highest scores first, on a CPU until
    no other can come in: maskness is at most 1. A GPU would be waited for to learn that.

    Raises:
        InputError: if so many candidates would not fit into memory.
    """
    cells, labels = (scores > score_thr).nonzero(as_tuple=True)
    scores = scores[cells, labels]
    require_memory(min(len(scores), limit or len(scores)), logits)
    smallest = smallest[cells]
    unique, cells = distinct(cells)
    logits = logits.of(unique)
    if limit is None or len(scores) <= limit:
        return with_masks(scores, labels, cells, smallest, logits, mask_thr), logits
    found = None
    for block in blocks(scores, limit):
        if found is not None and device.on_cpu(scores) and found.is_above(scores[block]):
            break
        used, slot = distinct(cells[block])
        more = with_masks(
            scores[block], labels[block], slot, smallest[block], logits.of(used), mask_thr
        )
        more = replace(more, cells=used[slot])
        found = more if found is None else found.best_with(more, limit)
    return found, logits


def require_memory(count: int, logits: MaskLogits) -> None:
    """Raise InputError unless ``count`` candidates' masks and overlaps fit into memory."""
    needed = count * (math.prod(logits.shape) + OVERLAP_BYTES * count)
    lack = device.lacks(logits.kernels.device, needed)
    if lack is not None:
        raise InputError(
            f'{count} candidates of one image {lack}: set model.test_cfg.nms_pre to a number of '
            'candidates, as 500, or raise model.test_cfg.score_thr'
        )


def distinct(cells: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ones of ascending cells (n,), and where each of n is among them.

    On a GPU they are filled up to n with the first, so that nobody waits for their number.
    """
    if device.on_cpu(cells):
        return cells.unique_consecutive(return_inverse=True)
    slot = (cells.diff(prepend=cells[:1]) != 0).cumsum(0)
    return cells[:1].repeat(len(cells)).scatter(0, slot, cells), slot


def blocks(scores: Tensor, size: int) -> Sequence[Tensor]:
    """Indices of scores (n,), ``size`` at a time, the highest first; each block in order."""
    order = scores.argsort(descending=True, stable=True)
    return [block.sort()[0] for block in order.split(size)]


def with_masks(
    scores: Tensor,
    labels: Tensor,
    cells: Tensor,
    smallest: Tensor,
    logits: MaskLogits,
    mask_thr: float,
) -> Candidates:
    """Candidates of n pairs of cell and class, in the order of cells."""
    masks, area, maskness = measure(logits, mask_thr)
    if len(logits) < len(cells) or not device.on_cpu(cells):
        masks = masks[cells]
    scores = torch.where(area[cells] >= smallest, scores * maskness[cells], 0)
    return Candidates(scores, labels, cells, masks)
