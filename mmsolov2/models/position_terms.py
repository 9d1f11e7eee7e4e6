"""Position terms: what a kernel says of where its mask is, beside what it asks of the features.

SOLOv2's mask logit of cell (i, j) at pixel p is G_ij · F(p) (section 3.1): the same question at
every place, so that features alone must spell which of several alike instances is meant. Position
terms add a quadratic form of the way u from the centre c_ij of the cell, in units of two cells:

    logit_ij(p) = G_ij · F(p) + a0 + a1·u_x + a2·u_y + a3·u_x² + a4·u_y² + a5·u_x·u_y
    u = (p - c_ij) / 2, with p and c_ij counted in cells of the level

The kernel branch predicts a0 to a5 with G.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_TERMS = {None: 0, 'bias': 1, 'linear': 3, 'quadratic': 6}


def num_terms(kind: str | None) -> int:
    """How many numbers P a kernel has more.

    Raises:
        ValueError: if there are no terms of this kind.
    """
    if kind not in list(NUM_TERMS):
        raise ValueError(
            f'SOLOv2Head: position_terms must be one of {list(NUM_TERMS)}, not {kind!r}'
        )
    return NUM_TERMS[kind]


def cell_positions(num_grids: Sequence[int]) -> Tensor:
    """Column, row and grid S of the cells of all levels, row by row: (cells, 3) int64.

    >>> cell_positions((1, 2)).tolist()
    [[0, 0, 1], [0, 0, 2], [1, 0, 2], [0, 1, 2], [1, 1, 2]]
    """
    levels = []
    for grid in num_grids:
        row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing='ij')
        levels.append(torch.stack([column, row, torch.full_like(row, grid)], -1).flatten(0, 1))
    return torch.cat(levels)


class QuadraticForms(NamedTuple):
    """The forms q of n kernels, in parts that broadcast: across + down + twist · offset."""

    across: Tensor  # (n, 1, w) a0 + a1·u_x + a3·u_x²
    down: Tensor  # (n, h, 1) a2·u_y + a4·u_y²
    twist: Tensor  # (n, h, 1) a5·u_y
    offset: Tensor  # (n, 1, w) u_x

    def rows(self, rows: slice) -> 'QuadraticForms':
        """Some rows of the forms."""
        return self._replace(down=self.down[:, rows], twist=self.twist[:, rows])

    def add_to(self, logits: Tensor) -> Tensor:
        """Logits (n, h, w) with the forms added, in place, in their own type."""
        across, down, twist, offset = (part.to(logits.dtype) for part in self)
        return logits.add_(across).add_(down).addcmul_(twist, offset)


def quadratic_forms(terms: Tensor, positions: Tensor, size: Sequence[int]) -> QuadraticForms:
    """The forms of terms (n, P) of cells at ``cell_positions`` (n, 3), on masks of a size (h, w).

    In float32 at least.
    """
    terms = terms.to(torch.promote_types(terms.dtype, torch.float32))
    a0, a1, a2, a3, a4, a5 = F.pad(terms, (0, 6 - terms.shape[1]))[..., None].unbind(1)
    column, row, grid = positions[..., None].unbind(1)
    x, y = ((torch.arange(side, device=terms.device) + 0.5) / side for side in reversed(size))
    u_x, u_y = ((grid * each - place - 0.5) / 2 for each, place in ((x, column), (y, row)))
    u_x, u_y = u_x.to(terms.dtype), u_y.to(terms.dtype)
    across, down = a0 + u_x * (a1 + a3 * u_x), u_y * (a2 + a4 * u_y)
    return QuadraticForms(across[:, None], down[..., None], (a5 * u_y)[..., None], u_x[:, None])
