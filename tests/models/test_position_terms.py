"""Position terms: a quadratic form around each cell, in parts that do not cancel."""

import pytest
import torch

from mmsolov2.models.position_terms import cell_positions, num_terms, quadratic_forms

GRIDS = (5, 2)
CELLS = 5 * 5 + 2 * 2
SIZE = HEIGHT, WIDTH = 6, 9


def by_definition(a, cell):
    """q (h, w) of six numbers, pixel by pixel, of a cell counted level by level, row by row."""
    grid, cell = (GRIDS[0], cell) if cell < 25 else (GRIDS[1], cell - 25)
    row, column = divmod(cell, grid)
    q = torch.empty(SIZE)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            u_x = ((x + 0.5) / WIDTH * grid - (column + 0.5)) / 2
            u_y = ((y + 0.5) / HEIGHT * grid - (row + 0.5)) / 2
            form = (1, u_x, u_y, u_x * u_x, u_y * u_y, u_x * u_y)
            q[y, x] = sum(weight * term for weight, term in zip(a, form, strict=True))
    return q


def forms(terms):
    """q (cells, h, w) of terms (cells, P)."""
    parts = quadratic_forms(terms, cell_positions(GRIDS), SIZE)
    return parts.add_to(torch.zeros(CELLS, *SIZE, dtype=parts.across.dtype))


@pytest.mark.parametrize(('kind', 'count'), [('bias', 1), ('linear', 3), ('quadratic', 6)])
def test_equals_the_form_around_the_cell(kind, count):
    terms = torch.randn(CELLS, num_terms(kind))
    found = forms(terms)
    assert terms.shape[1] == count
    for cell in range(CELLS):
        a = terms[cell].tolist() + [0] * (6 - count)
        torch.testing.assert_close(found[cell], by_definition(a, cell))


def test_two_cells_away_is_one_unit():
    """The last cell of a row of 5, and 5 pixels that have the centres of the cells."""
    a = torch.tensor([[0, 1.0, 0, 0, 0, 0]])
    row = quadratic_forms(a, torch.tensor([[4, 0, 5]]), (1, 5)).across
    torch.testing.assert_close(row, torch.tensor([[[-2.0, -1.5, -1.0, -0.5, 0.0]]]))


def test_far_from_a_cell_nothing_cancels():
    """At a corner of the picture's 40x40 cells, of masks of 200x272: float32's own rounding."""
    terms = 5 * torch.randn(1, 6)
    positions = torch.tensor([[39, 39, 40]])
    exact, found = (
        quadratic_forms(each, positions, (200, 272)).add_to(torch.zeros(1, 200, 272).to(each))
        for each in (terms.double(), terms)
    )
    error = (found - exact).abs()[0, -8:, -8:].max()
    assert error < 1e-5


@pytest.mark.parametrize('count', [1, 6])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype, count):
    terms = torch.randn(CELLS, count).to(dtype)
    found = forms(terms)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, forms(terms.double()).float())


def test_logits_keep_their_type():
    terms = torch.randn(CELLS, 6, dtype=torch.double)
    logits = torch.zeros(CELLS, *SIZE)
    assert quadratic_forms(terms, cell_positions(GRIDS), SIZE).add_to(logits) is logits
    torch.testing.assert_close(logits, forms(terms).float())


def test_rows_are_those_of_the_whole():
    parts = quadratic_forms(torch.randn(CELLS, 6), cell_positions(GRIDS), SIZE)
    whole = parts.add_to(torch.zeros(CELLS, *SIZE))
    rows = parts.rows(slice(2, 5)).add_to(torch.zeros(CELLS, 3, WIDTH))
    assert torch.equal(rows, whole[:, 2:5])


def test_gradients_equal_differences():
    terms = torch.randn(CELLS, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(forms, terms)


@pytest.mark.parametrize('kind', ['cubic', ['quadratic'], 6])
def test_an_unknown_kind_is_named(kind):
    with pytest.raises(ValueError, match="one of .*'quadratic'.*, not .*6|cubic|quadratic"):
        num_terms(kind)
