"""Instances to positive grid cells, for all instances of an image at once.

Nothing here waits for the device: shapes depend on the number of instances alone. Every instance
has a slot for each of the 3x3 cells around its centre on every level, and ``valid`` says which
slots are positives.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsolov2.errors import InputError
from mmsolov2.registry import TASK_UTILS
from mmsolov2.structures.masks import center_of_mass, pixel_counts, quarter_masks, tight_boxes


class GridTargets(NamedTuple):
    """Targets of one image. Cells of all levels are one axis: level by level, row by row."""

    labels: Tensor  # (cells,) int64, the background index where no instance is
    cell: Tensor  # (slots,) int64, flat cell of each slot; meaningless where not valid
    instance: Tensor  # (slots,) int64, the instance of each slot
    valid: Tensor  # (slots,) bool, whether the slot is a positive
    num_positive: Tensor  # () int64, cells that are positive for at least one instance
    num_unknown: Tensor  # () int64, instances whose label is none from 0 up to the background's


OWNERS = ('last', 'smallest', 'nearest')
VANISHING = ('keep', 'drop', 'cover')


def covering_masks(masks: Tensor) -> Tensor:
    """Shrink masks (n, H, W) bool to (n, H/4, W/4) bool, set wherever a 4x4 block has a pixel."""
    return masks.unflatten(2, (-1, 4)).any(3).unflatten(1, (-1, 4)).any(2)


@TASK_UTILS.register_module()
class GridAssigner:
    """Assign instances to grid cells by size and by centre of mass (SOLO, section 3.1).

    An instance belongs to every level whose range holds the geometric mean of its box sides, and
    there to the cells that its centre region touches: the box shrunk by ``center_scale`` around
    the centre of mass, at most one cell away from the cell of the centre.

    The defaults are those of the published models; what the others change is measured in
    docs/ablations.md.

    Args:
        center_scale: size of the centre region relative to the box.
        scale_ranges: for each level the smallest and the largest box size, in pixels of the
            network's input, both inclusive.
        owner: who gets a cell that several instances claim. None: the last one gives the label,
            and the masks of all supervise the kernel. 'last', 'smallest' or 'nearest': the last
            one, the one of the least mask area, or the one whose centre is nearest to the cell's
            middle gives both; of equal ones the last.
        vanishing: what to do with instances of which nothing is left at 1/4 scale. 'keep': train
            their kernels on empty masks; 'drop': leave them out; 'cover': train on all 1/4-scale
            pixels that they touch.
        open_ended: instances larger than the last range belong to the last level, instead of to
            none.
        half_pixel: put pixel centres at half pixels, as the grid does, instead of at whole ones.

    Raises:
        ValueError: if a range is not 0 <= low < high, center_scale is not in (0, 1], or a rule
            does not exist.
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
        owner: str | None = None,
        vanishing: str = 'keep',
        open_ended: bool = False,
        half_pixel: bool = False,
    ) -> None:
        if not 0 < center_scale <= 1:
            raise ValueError(f'GridAssigner: center_scale must be in (0, 1], not {center_scale}')
        for low, high in scale_ranges:
            if not 0 <= low < high:
                raise ValueError(
                    f'GridAssigner: a scale range must be 0 <= low < high, not ({low}, {high})'
                )
        self.center_scale = center_scale
        if owner not in (None, *OWNERS):
            raise ValueError(f'GridAssigner: owner must be None or one of {OWNERS}, not {owner!r}')
        if vanishing not in VANISHING:
            raise ValueError(
                f'GridAssigner: vanishing must be one of {VANISHING}, not {vanishing!r}'
            )
        self.scale_ranges = tuple(tuple(bounds) for bounds in scale_ranges)
        if open_ended:
            self.scale_ranges = (*self.scale_ranges[:-1], (self.scale_ranges[-1][0], math.inf))
        self.owner = owner
        self.vanishing = vanishing
        self.half_pixel = half_pixel

    def __call__(
        self,
        masks: Tensor,
        labels: Tensor,
        boxes: Tensor | None = None,
        *,
        num_grids: Sequence[int],
        background: int,
    ) -> GridTargets:
        """Assign n instances, masks (n, H, W) bool, labels (n,), boxes (n, 4) xyxy: the targets.

        H and W are those of the padded network input, which the grids span. Without boxes those
        around the masks are taken. ``background`` is the label of cells without an instance.
        """
        size = masks.shape[-2:]
        boxes = tight_boxes(masks) if boxes is None else boxes
        box_size = (boxes[:, 2:] - boxes[:, :2]).flip(1)  # height, width
        rows, columns = pixel_counts(masks)
        area = rows.sum(1)
        center = center_of_mass(rows, columns) + 0.5 * self.half_pixel
        reach = 0.5 * box_size * self.center_scale
        scale = torch.sqrt(box_size[:, 1] * box_size[:, 0])
        drop = self.vanishing == 'drop'
        present = quarter_masks(masks).flatten(1).any(1) if drop else area > 0
        cells, valid, nearby, first = [], [], [], 0
        for (low, high), grid in zip(self.scale_ranges, num_grids, strict=True):
            near, inside = self._region(center, reach, size, grid)
            cells.append(first + near[:, 0, :, None] * grid + near[:, 1, None, :])
            on_level = present & (scale >= low) & (scale <= high)
            valid.append(inside[:, 0, :, None] & inside[:, 1, None, :] & on_level[:, None, None])
            nearby.append(near)
            first += grid * grid
        cells, valid = torch.stack(cells), torch.stack(valid)
        if self.owner is not None:
            levels = zip(nearby, num_grids, strict=True)
            costs = torch.stack([self._costs(area, size, center, *level) for level in levels])
            valid = owners(cells, valid, costs, first)
        return collect(cells, valid, labels, first, background)

    def mask_targets(self, masks: Tensor) -> Tensor:
        """Masks (n, H/4, W/4) bool to train on, of masks (n, H, W) bool; H and W divide by 4."""
        targets = quarter_masks(masks)
        if self.vanishing != 'cover':
            return targets
        vanished = ~targets.flatten(1).any(1)
        return torch.where(vanished[:, None, None], covering_masks(masks), targets)

    def _costs(
        self, area: Tensor, size: Sequence[int], center: Tensor, near: Tensor, grid: int
    ) -> Tensor:
        """What it costs a cell (n, 3, 3) to take each instance, by the rule of ``owner``."""
        if self.owner == 'nearest':
            height, width = size
            y = near[:, 0] + 0.5 - center[:, 0, None] * grid / height  # (n, 3), in cells
            x = near[:, 1] + 0.5 - center[:, 1, None] * grid / width
            return y[:, :, None] ** 2 + x[:, None, :] ** 2
        costs = area.float() if self.owner == 'smallest' else area.new_zeros(len(area)).float()
        return costs[:, None, None].expand(-1, 3, 3)

    @staticmethod
    def _region(
        center: Tensor, reach: Tensor, size: Sequence[int], grid: int
    ) -> tuple[Tensor, Tensor]:
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


def owners(cells: Tensor, valid: Tensor, costs: Tensor, num_cells: int) -> Tensor:
    """Which valid slots cost their cell least; of equal ones the last instance's: bool.

    All arguments but ``num_cells``, and the result, are (levels, n, 3, 3).
    """
    instance = torch.arange(cells.shape[1], device=cells.device)[:, None, None].expand_as(cells)

    def best(values: Tensor, among: Tensor, reduction: str) -> Tensor:
        """The least or the largest value among the slots of each slot's cell."""
        cell = cells.where(among, num_cells).flatten()
        worst = math.inf if reduction == 'amin' else -1
        kept = values.new_full((num_cells + 1,), worst)
        kept.scatter_reduce_(0, cell, values.flatten(), reduction)
        return kept[cell].view_as(cells)

    cheapest = valid & (costs == best(costs, valid, 'amin'))
    return cheapest & (instance == best(instance, cheapest, 'amax'))


def collect(
    cells: Tensor, valid: Tensor, labels: Tensor, num_cells: int, background: int
) -> GridTargets:
    """Gather cells and valid (levels, n, 3, 3) of n instances with labels (n,) into targets."""
    _num_levels, num_instances = cells.shape[:2]
    instance = torch.arange(num_instances, device=labels.device)
    instance = instance[None, :, None, None].expand_as(cells).flatten()
    cell, valid = cells.flatten(), valid.flatten()
    owner = labels.new_full((num_cells + 1,), -1)  # the extra cell takes what is not valid
    owner.scatter_reduce_(0, cell.where(valid, num_cells), instance, 'amax')
    owner = owner[:-1]
    return GridTargets(
        labels=F.pad(labels, (0, 1), value=background)[owner],  # owner -1: the padded last one
        cell=cell,
        instance=instance,
        valid=valid,
        num_positive=(owner >= 0).sum(),
        num_unknown=((labels < 0) | (labels >= background)).sum(),
    )


def positives(targets: Sequence[GridTargets]) -> list[tuple[Tensor, Tensor]]:
    """Cells and instances (p,) of the p valid slots of each image, by level and instance.

    The one place in training that waits for the device, once a batch, to learn every p (with
    separate mask features the head waits again for each chunk, for the kernels of each level).

    Raises:
        InputError: if an instance has a label of no class.
    """
    counts = torch.stack([torch.stack([image.valid.sum(), image.num_unknown]) for image in targets])
    counts, unknown = counts.T.tolist()
    if any(unknown):
        raise InputError(
            'GridAssigner: labels must be from 0 to num_classes - 1, but so many instances of a '
            f"batch's images have others: {unknown}; give the head the num_classes of the dataset"
        )
    slots = [
        image.valid.byte().argsort(descending=True, stable=True)[:count]
        for image, count in zip(targets, counts, strict=True)
    ]
    return [
        (image.cell[slot], image.instance[slot]) for image, slot in zip(targets, slots, strict=True)
    ]
