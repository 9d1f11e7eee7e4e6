"""Cells above the score threshold to candidates: masks, and scores times maskness."""

import math
from dataclasses import dataclass, field, replace

import torch
from mmengine.config import ConfigDict
from torch import Tensor

from mmsolov2.device import check_memory
from mmsolov2.models.decode import cpu_blocks
from mmsolov2.models.dynamic_conv import (
    CellKernels,
    KeptLogits,
    Kernels,
    MaskedLogits,
    MaskLogits,
)
from mmsolov2.structures.masks import without_small_parts

OVERLAP_BYTES = 24  # of each two candidates in mask NMS: six float32
ALL_BYTES = 13  # of a pixel, where logits, probabilities and a copy are there at once with the mask


@dataclass
class Candidates:
    """Instances that mask NMS chooses from."""

    scores: Tensor  # (n,) float32, 0 where the mask is too small
    labels: Tensor  # (n,) int64
    masks: Tensor  # (n, h, w) bool
    cells: Tensor  # (n,) int64, where each is among the logits
    logits: MaskLogits = field(kw_only=True)  # of all

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.scores.device

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What there is of each candidate."""
        return self.scores, self.labels, self.masks, self.cells

    def __getitem__(self, index: Tensor | slice) -> 'Candidates':
        """The candidates at ``index``: a slice, int64 indices (m,) or a mask (n,) bool."""
        return Candidates(*(tensor[index] for tensor in self.tensors), logits=self.logits)

    def cpu(self) -> 'Candidates':
        """The same on a CPU."""
        logits = KeptLogits(self.logits.rows(slice(0, self.masks.shape[1]), self.cells).cpu())
        found = Candidates(*(tensor.cpu() for tensor in self.tensors), logits=logits)
        return replace(found, cells=torch.arange(len(self)))

    def probabilities(self, rows: slice, some: Tensor) -> Tensor:
        """Rows of the mask probabilities of some candidates (m,): (m, rows, w)."""
        return self.logits.rows(rows, self.cells[some]).sigmoid()

    def without_small_parts(self, least: float) -> 'Candidates':
        """The same without the parts of masks that are below a share of the mask's largest part."""
        masks = without_small_parts(self.masks, least)
        logits = MaskedLogits(self.logits, self.cells, self.masks & ~masks)
        cells = torch.arange(len(self), device=self.device)
        return Candidates(self.scores, self.labels, masks, cells, logits=logits)

    def best_with(self, others: 'Candidates', limit: int) -> 'Candidates':
        """The best ``limit`` of these and others, the highest score first, then the lower cell."""
        pairs = zip(self.tensors, others.tensors, strict=True)
        both = Candidates(*map(torch.cat, pairs), logits=self.logits)
        order = both.cells.argsort()
        return both[order[both.scores[order].argsort(descending=True, stable=True)][:limit]]


@cpu_blocks.in_blocks(cpu_blocks.mask_stats)
def mask_stats(logits: MaskLogits, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (n, h, w) bool of logits, their area (n,) and the sum of their probabilities (n,)."""
    probability = logits.rows(slice(0, logits.mask_size[0])).sigmoid()
    masks = probability > threshold
    return masks, masks.sum((1, 2)).float(), (probability * masks).sum((1, 2))


def find_candidates(
    scores: Tensor, kernels: Kernels, min_area: Tensor, cfg: ConfigDict
) -> Candidates:
    """The best ``nms_pre`` pairs of cell and class of scores (cells, C), by score times maskness.

    Maskness is the mean probability of a mask's pixels (SOLOv2, section 3.2). A mask needs
    ``min_area`` (cells,) pixels. Pairs are taken ``nms_pre`` at a time, the highest scores first,
    until no other can come in: maskness is at most 1.

    Raises:
        InputError: if so many candidates would not fit into memory.
    """
    cells, labels = (scores > cfg.score_thr).nonzero(as_tuple=True)
    scores = scores[cells, labels]
    limit = cfg.nms_pre or max(len(scores), 1)
    count = min(len(scores), limit)
    is_lean = scores.device.type == 'cpu' and isinstance(kernels, CellKernels)
    pixels = (1 if is_lean else ALL_BYTES) * math.prod(kernels.mask_size)
    check_memory(
        scores.device,
        count * (pixels + OVERLAP_BYTES * count),
        f'{count} candidates of one image',
        'set model.test_cfg.nms_pre to a number of candidates, as 500, or raise '
        'model.test_cfg.score_thr',
    )
    order = scores.argsort(descending=True, stable=True)
    first, *others = (pairs.sort()[0] for pairs in order.split(limit))  # by cell, then by label
    found = measure(scores[first], labels[first], cells[first], kernels, min_area, cfg.mask_thr)
    if not others:
        return found
    found = replace(found, cells=first)
    for pairs in others:
        if found.scores.amin() > scores[pairs].amax():
            break
        more = scores[pairs], labels[pairs], cells[pairs], kernels, min_area, cfg.mask_thr
        found = found.best_with(replace(measure(*more), cells=pairs), limit)
    logits = kernels[cells[found.cells]].keep_few()
    return replace(found, cells=torch.arange(len(found), device=found.device), logits=logits)


def measure(
    scores: Tensor,
    labels: Tensor,
    cells: Tensor,
    kernels: Kernels,
    min_area: Tensor,
    mask_thr: float,
) -> Candidates:
    """Candidates of n pairs of cell and class. A cell is convolved once, not once a class."""
    unique, slot = cells.unique_consecutive(return_inverse=True)
    logits = kernels[unique].keep_few()
    masks, area, total = mask_stats(logits, mask_thr)
    maskness = torch.where(area >= min_area[unique], total / area.clamp(min=1), 0)
    masks = masks[slot] if len(unique) < len(cells) else masks
    return Candidates(scores * maskness[slot], labels, masks, slot, logits=logits)
