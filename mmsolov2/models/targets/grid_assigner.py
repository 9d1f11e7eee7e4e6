"""Instances to positive grid cells, for all instances of an image at once.

Nothing here but ``positives`` waits for the device: shapes depend on the number of instances
alone. Every instance has a slot for each of the 3x3 cells around its centre on every level, and
``valid`` says which slots are positives.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsolov2.errors import InputError
from mmsolov2.registry import TASK_UTILS
from mmsolov2.structures.masks import center_of_mass, pixel_counts, tight_boxes


class Assignment(NamedTuple):
    """The cells of one image. Those of all levels are one axis: level by level, row by row."""

    labels: Tensor  # (cells,) int64, the background index where no instance is
    cell: Tensor  # (slots,) int64, flat cell of each slot; meaningless where not valid
    instance: Tensor  # (slots,) int64, the instance of each slot
    valid: Tensor  # (slots,) bool, whether the slot is a positive
    num_positive: Tensor  # () int64, cells that are positive for at least one instance
    num_unknown: Tensor  # () int64, instances whose label is none from 0 up to the background's


class ImageTargets(NamedTuple):
    """What an image trains: the labels of its cells, and masks of n instances at p positives."""

    labels: Tensor  # (cells,) int64, the background index where no instance is
    num_positive: Tensor  # () int64, cells that are positive for at least one instance
    cell: Tensor  # (p,) int64, the flat cell of each positive
    instance: Tensor  # (p,) int64, the instance of each positive
    masks: Tensor  # (n, h, w) bool, the instances at the size of the mask features


@TASK_UTILS.register_module()
class GridAssigner:
    """Assign instances to grid cells by size and by centre of mass (SOLO, section 3.1).

    An instance belongs to every level whose range holds the geometric mean of its box sides, and
    there to the cells that its centre region touches: the box shrunk by ``center_scale`` around
    the centre of mass, at most one cell away from the cell of the centre.

    Args:
        center_scale: size of the centre region relative to the box.
        scale_ranges: for each level the smallest and the largest box size, in pixels of the
            network's input, both inclusive.
        owner: who gets a cell that several instances claim. None, as published: the last one gives
            the label, and the masks of all supervise the kernel. 'last': the last one gives both
            (docs/ablations.md).

    Raises:
        ValueError: if a range is not 0 <= low < high, center_scale is not in (0, 1], or the owner
            is another.

    >>> masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    >>> masks[0, 16:32, 32:48] = True  # around row 23.5, column 39.5: cell (1, 2) of 4x4
    >>> assigner = GridAssigner(scale_ranges=((1, 24), (24, 96)))
    >>> targets = assigner(masks, torch.tensor([7]), num_grids=(4, 2), background=80)
    >>> targets.labels[:16].view(4, 4).tolist()
    [[80, 80, 80, 80], [80, 80, 7, 80], [80, 80, 80, 80], [80, 80, 80, 80]]
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
    ) -> None:
        if not 0 < center_scale <= 1:
            raise ValueError(f'GridAssigner: center_scale must be in (0, 1], not {center_scale}')
        for low, high in scale_ranges:
            if not 0 <= low < high:
                raise ValueError(
                    f'GridAssigner: a scale range must be 0 <= low < high, not ({low}, {high})'
                )
        if owner not in (None, 'last'):
            raise ValueError(f"GridAssigner: owner must be None or 'last', not {owner!r}")
        self.center_scale = center_scale
        self.scale_ranges = tuple(tuple(bounds) for bounds in scale_ranges)
        self.owner = owner

    def __call__(
        self,
        masks: Tensor,
        labels: Tensor,
        boxes: Tensor | None = None,
        *,
        num_grids: Sequence[int],
        background: int,
    ) -> Assignment:
        """Assign n instances, masks (n, H, W) bool, labels (n,) and boxes (n, 4) xyxy, to cells.

        H and W are those of the padded network input, which the grids span. Without boxes those
        around the masks are taken. ``background`` is the label of cells without an instance.
        """
        boxes = tight_boxes(masks) if boxes is None else boxes
        sides = (boxes[:, 2:] - boxes[:, :2]).flip(1)  # height, width
        scale = torch.sqrt(sides[:, 0] * sides[:, 1])
        rows, columns = pixel_counts(masks)
        center, reach = center_of_mass(rows, columns), 0.5 * sides * self.center_scale
        regions = relative(torch.stack([center - reach, center, center + reach]), masks.shape[-2:])
        present, cells, valid, first = rows.sum(1) > 0, [], [], 0
        for (low, high), grid in zip(self.scale_ranges, num_grids, strict=True):
            near, touched = cells_near(regions, grid)
            here = present & (scale >= low) & (scale <= high)
            cells.append(first + near)
            valid.append(touched & here[:, None, None])
            first += grid * grid
        slots = torch.stack(cells), torch.stack(valid)
        return collect(*slots, labels, first, background, self.owner)


def relative(points: Tensor, size: Sequence[int]) -> Tensor:
    """Points (..., 2) y, x of an image of a size (H, W), from 0 to 1."""
    return torch.stack([points[..., 0] / size[0], points[..., 1] / size[1]], dim=-1)


def cells_near(regions: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """3x3 cells around n centres: row · grid + column, and which the region touches, (n, 3, 3).

    Of regions (3, n, 2): their begin, centre and end y, x relative to the image, outside of which
    no cell is touched.
    """
    begin, center, end = torch.div(regions, 1 / grid, rounding_mode='trunc').long()
    near = center[..., None] + torch.arange(-1, 2, device=center.device)  # (n, 2, 3)
    touched = near >= begin.clamp(min=0)[..., None]
    touched &= near <= end.clamp(max=grid - 1)[..., None]
    (y, x), (touched_y, touched_x) = near.unbind(1), touched.unbind(1)
    return y[..., None] * grid + x[:, None], touched_y[..., None] & touched_x[:, None]


def collect(
    cells: Tensor,
    valid: Tensor,
    labels: Tensor,
    num_cells: int,
    background: int,
    owner: str | None,
) -> Assignment:
    """Gather cells and valid (levels, n, 3, 3) of n instances with labels (n,)."""
    instance = torch.arange(len(labels), device=labels.device)
    instance = instance[:, None, None].expand_as(cells).flatten()
    cell, valid = cells.flatten(), valid.flatten()
    claimed = cell.where(valid, num_cells)  # an extra cell takes what is not valid
    last = labels.new_full((num_cells + 1,), -1)
    last.scatter_reduce_(0, claimed, instance, 'amax')
    if owner == 'last':
        valid = valid & (instance == last[claimed])
    return Assignment(
        labels=F.pad(labels, (0, 1), value=background)[last[:-1]],  # -1: the padded last one
        cell=cell,
        instance=instance,
        valid=valid,
        num_positive=(last[:-1] >= 0).sum(),
        num_unknown=((labels < 0) | (labels >= background)).sum(),
    )


def positives(images: Sequence[Assignment]) -> list[tuple[Tensor, Tensor]]:
    """Cells and instances (p,) of the p valid slots of each image, by level and instance.

    The one place in training that waits for the device, once a batch, to learn every p (with
    separate mask features the head waits again for each chunk, for the kernels of each level).

    Raises:
        InputError: if an instance has a label of no class.
    """
    counts = torch.stack([torch.stack([image.valid.sum(), image.num_unknown]) for image in images])
    counts, unknown = counts.T.tolist()
    if any(unknown):
        raise InputError(
            'GridAssigner: labels must be from 0 to num_classes - 1, but so many instances of a '
            f"batch's images have others: {unknown}; give the head the num_classes of the dataset"
        )
    slots = [
        image.valid.byte().argsort(descending=True, stable=True)[:count]
        for image, count in zip(images, counts, strict=True)
    ]
    return [
        (image.cell[slot], image.instance[slot]) for image, slot in zip(images, slots, strict=True)
    ]
