"""Instances to positive grid cells, for all instances of an image at once.

Nothing here waits for the device: shapes depend on the number of instances alone. Every instance
has a slot for each of the 3x3 cells around its centre on every level, and ``valid`` says which
slots are positives.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsolov2.registry import TASK_UTILS


class GridTargets(NamedTuple):
    """Targets of one image. Cells of all levels are one axis: level by level, row by row."""

    labels: Tensor  # (cells,) int64, the background index where no instance is
    cell: Tensor  # (slots,) int64, flat cell of each slot; meaningless where not valid
    instance: Tensor  # (slots,) int64, the instance of each slot
    valid: Tensor  # (slots,) bool, whether the slot is a positive
    num_positive: Tensor  # () int64, cells that are positive for at least one instance


def mass_centers(masks: Tensor) -> Tensor:
    """Mean row and column (n, 2) float32, y first, of masks (n, H, W) bool; 0 for empty masks.

    Rows and columns count from 0 at the centre of the first pixel, as in all published code.
    """
    height, width = masks.shape[-2:]
    area = masks.sum((1, 2)).float().clamp(min=1e-6)
    y = (masks.sum(2) * torch.arange(height, device=masks.device)).sum(1) / area
    x = (masks.sum(1) * torch.arange(width, device=masks.device)).sum(1) / area
    return torch.stack([y, x], dim=1)


def quarter_masks(masks: Tensor) -> Tensor:
    """Shrink masks (n, H, W) bool to (n, H/4, W/4) bool; H and W divide by 4.

    A pixel of the result is set where at least 2 of the central 2x2 pixels of its 4x4 block are:
    what a bilinear resize of a 0/1 image by 1/4 with rounding gives, as the published code does.
    """
    bits = masks.view(torch.uint8)
    rows = bits[:, 1::4] + bits[:, 2::4]
    return rows[..., 1::4] + rows[..., 2::4] >= 2


@TASK_UTILS.register_module()
class GridAssigner:
    """Assign instances to grid cells by size and by centre of mass (SOLO, section 3.1).

    An instance belongs to every level whose range holds the geometric mean of its box sides, and
    there to the cells that its centre region touches: the box shrunk by ``center_scale`` around
    the centre of mass, at most one cell away from the cell of the centre. Where several instances
    claim a cell, the last one gives the label and all of their masks supervise the kernel.

    Args:
        center_scale: size of the centre region relative to the box.
        scale_ranges: for each level the smallest and the largest box size, in pixels of the
            network's input, both inclusive.

    Raises:
        ValueError: if a range is not 0 <= low < high, or center_scale is not in (0, 1].
    """

    def __init__(
        self,
        *,
        center_scale: float = 0.2,
        scale_ranges: Sequence[Sequence[float]] = (
            (1, 96),
            (48, 192),
            (96, 384),
            (192, 768),
            (384, 2048),
        ),
    ) -> None:
        if not 0 < center_scale <= 1:
            raise ValueError(f'GridAssigner: center_scale must be in (0, 1], not {center_scale}')
        for low, high in scale_ranges:
            if not 0 <= low < high:
                raise ValueError(
                    f'GridAssigner: a scale range must be 0 <= low < high, not ({low}, {high})'
                )
        self.center_scale = center_scale
        self.scale_ranges = tuple(tuple(bounds) for bounds in scale_ranges)

    def __call__(
        self,
        masks: Tensor,
        labels: Tensor,
        boxes: Tensor,
        *,
        num_grids: Sequence[int],
        background: int,
    ) -> GridTargets:
        """Assign n instances, masks (n, H, W) bool, labels (n,), boxes (n, 4) xyxy: the targets.

        H and W are those of the padded network input, which the grids span. ``background`` is the
        label of cells without an instance.
        """
        box_size = (boxes[:, 2:] - boxes[:, :2]).flip(1)  # height, width
        center = mass_centers(masks)
        reach = 0.5 * box_size * self.center_scale
        scale = torch.sqrt(box_size[:, 1] * box_size[:, 0])
        present = masks.flatten(1).any(1)
        cells, valid, first = [], [], 0
        for (low, high), grid in zip(self.scale_ranges, num_grids, strict=True):
            near, inside = self._region(center, reach, masks.shape[-2:], grid)
            cells.append(first + near[:, 0, :, None] * grid + near[:, 1, None, :])
            on_level = present & (scale >= low) & (scale <= high)
            valid.append(inside[:, 0, :, None] & inside[:, 1, None, :] & on_level[:, None, None])
            first += grid * grid
        return collect(torch.stack(cells), torch.stack(valid), labels, first, background)

    @staticmethod
    def _region(center: Tensor, reach: Tensor, size: Sequence[int],
                grid: int) -> tuple[Tensor, Tensor]:
        """Cells near centers (n, 2) y, x on one axis each: indices and membership (n, 2, 3)."""

        def cell_of(points: Tensor) -> Tensor:
            cells = [
                torch.div(points[:, axis] / size[axis], 1 / grid, rounding_mode='trunc')
                for axis in (0, 1)
            ]
            return torch.stack(cells, dim=1).long()

        low = cell_of(center - reach).clamp(min=0)
        high = cell_of(center + reach).clamp(max=grid - 1)
        near = cell_of(center)[..., None] + torch.arange(-1, 2, device=center.device)
        return near, (near >= low[..., None]) & (near <= high[..., None])


def collect(
    cells: Tensor, valid: Tensor, labels: Tensor, num_cells: int, background: int
) -> GridTargets:
    """Gather cells and valid (levels, n, 3, 3) of n instances with labels (n,) into targets."""
    num_levels, num_instances = cells.shape[:2]
    instance = torch.arange(num_instances, device=labels.device)
    instance = instance[None, :, None, None].expand_as(cells).flatten()
    cell, valid = cells.flatten(), valid.flatten()
    owner = labels.new_full((num_cells + 1, ), -1)  # the extra cell takes what is not valid
    owner.scatter_reduce_(0, cell.where(valid, num_cells), instance, 'amax')
    owner = owner[:-1]
    return GridTargets(
        labels=F.pad(labels, (0, 1), value=background)[owner],  # owner -1: the padded last one
        cell=cell,
        instance=instance,
        valid=valid,
        num_positive=(owner >= 0).sum(),
    )


def positives(targets: Sequence[GridTargets]) -> list[tuple[Tensor, Tensor]]:
    """Cells and instances (p,) of the p valid slots of each image, by level and instance.

    The one place in training that waits for the device, once a batch, to learn every p.
    """
    counts = torch.stack([image.valid.sum() for image in targets]).tolist()
    slots = [
        image.valid.byte().argsort(descending=True, stable=True)[:count]
        for image, count in zip(targets, counts, strict=True)
    ]
    return [(image.cell[slot], image.instance[slot])
            for image, slot in zip(targets, slots, strict=True)]
