"""Position terms: what a kernel says of where its mask is, beside what it asks of the features.

SOLOv2's mask logit of cell (i, j) at pixel p is G_ij · F(p) (section 3.1): the same question at
every place, so that features alone must spell which of several alike instances is meant. Position
terms add a quadratic form of the way u from the centre c of the cell, in two cells of its level:

    logit_ij(p) = G_ij · F(p) + a0 + a1·u_x + a2·u_y + a3·u_x² + a4·u_y² + a5·u_x·u_y
    u = (p - c_ij) · S / 4, with p and c from -1 to 1 over the image

The kernel branch predicts a0 to a5 with G. Multiplied out, they are weights of 1, x, y, x², y² and
xy at the pixel: more kernel numbers over fixed feature channels. Those weights are up to (S/4)²
times larger than the sum of them is, so that they and their product stay in float32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NUM_TERMS = {None: 0, 'bias': 1, 'linear': 3, 'quadratic': 6}


def num_terms(kind: str | None) -> int:
    """How many numbers P a kernel has more.

    Raises:
        ValueError: if there are no terms of this kind.
    """
    if kind not in NUM_TERMS:
        raise ValueError(
            f'SOLOv2Head: position_terms must be one of {list(NUM_TERMS)}, not {kind!r}'
        )
    return NUM_TERMS[kind]


def monomials(terms: Tensor, size: Sequence[int]) -> Tensor:
    """What terms (n, P) are weights of at the pixels of a size (h, w): (P, h, w).

    1, x, y, x², y² and xy of pixel centres, with x and y from -1 at the left or upper border of the
    image to 1 at the other.

    >>> monomials(torch.zeros(1, 3), (1, 2)).tolist()
    [[[1.0, 1.0]], [[-0.5, 0.5]], [[0.0, 0.0]]]
    """
    sides = (centers(side, terms.device).to(terms.dtype) for side in size)
    y, x = torch.meshgrid(*sides, indexing='ij')
    return torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y])[: terms.shape[1]]


def centers(count: int, device: torch.device | None = None) -> Tensor:
    """Centres (count,) of as many equal parts of -1 to 1."""
    return (2 * torch.arange(count, device=device) + 1) / count - 1


def cell_places(num_grids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Centres x, y (cells, 2) and units 4/S (cells,) of the cells of all levels."""
    grids = [torch.cartesian_prod(centers(grid), centers(grid)).flip(1) for grid in num_grids]
    units = [torch.full((grid**2,), 4 / grid) for grid in num_grids]
    return torch.cat(grids), torch.cat(units)


def around_origin(terms: Tensor, center: Tensor, unit: Tensor) -> Tensor:
    """Terms (..., cells, P) of u as terms of p: weights (..., cells, P) float32 of ``monomials``.

    ``center`` (cells, 2) x, y and ``unit`` (cells,) are those of ``cell_places``.
    """
    terms = terms.to(torch.promote_types(terms.dtype, torch.float32))
    if terms.shape[-1] < 3:
        return terms
    (x, y), size = center.unbind(-1), unit
    a0, a1, a2 = terms[..., 0], terms[..., 1] / size, terms[..., 2] / size
    constant = a0 - a1 * x - a2 * y
    if terms.shape[-1] == 3:
        return torch.stack([constant, a1, a2], -1)
    a3, a4, a5 = (terms[..., 3:] / size[:, None] ** 2).unbind(-1)
    constant = constant + a3 * x * x + a4 * y * y + a5 * x * y
    along_x, along_y = a1 - 2 * a3 * x - a5 * y, a2 - 2 * a4 * y - a5 * x
    return torch.stack([constant, along_x, along_y, a3, a4, a5], -1)


def add_terms(logits: Tensor, terms: Tensor, places: Tensor) -> Tensor:
    """Logits (n, ...) float32 with terms (n, P) of ``monomials`` (P, ...) added, in place."""
    if not terms.shape[1]:
        return logits
    with torch.autocast(logits.device.type, enabled=False):
        return logits.flatten(1).addmm_(terms, places.flatten(1)).view_as(logits)
