"""Position terms: multiplied out they are the quadratic form around each cell."""

import pytest
import torch

from mmsolov2.models.position_terms import (
    add_terms,
    around_origin,
    cell_places,
    monomials,
    num_terms,
)

GRIDS = (5, 2)
CELLS = 5 * 5 + 2 * 2
HEIGHT, WIDTH = 6, 9


def by_definition(a, cell):
    """q (h, w) of six numbers, pixel by pixel, of a cell counted level by level, row by row."""
    grid, cell = (GRIDS[0], cell) if cell < 25 else (GRIDS[1], cell - 25)
    center_y, center_x = ((2 * part + 1) / grid - 1 for part in divmod(cell, grid))
    q = torch.empty(HEIGHT, WIDTH)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            x = ((2 * column + 1) / WIDTH - 1 - center_x) * grid / 4
            y = ((2 * row + 1) / HEIGHT - 1 - center_y) * grid / 4
            form = (1, x, y, x * x, y * y, x * y)
            q[row, column] = sum(weight * term for weight, term in zip(a, form, strict=True))
    return q


def forms(terms):
    """q (cells, h, w) of terms (cells, P), as head, loss and prediction make it."""
    folded = around_origin(terms, *cell_places(GRIDS))
    logits = torch.zeros(CELLS, HEIGHT, WIDTH, dtype=folded.dtype)
    return add_terms(logits, folded, monomials(folded, (HEIGHT, WIDTH)))


@pytest.mark.parametrize(('kind', 'count'), [('bias', 1), ('linear', 3), ('quadratic', 6)])
def test_equals_the_form_around_the_cell(kind, count):
    terms = torch.randn(CELLS, num_terms(kind))
    found = forms(terms)
    assert terms.shape[1] == count
    for cell in range(CELLS):
        a = terms[cell].tolist() + [0] * (6 - count)
        torch.testing.assert_close(found[cell], by_definition(a, cell), rtol=1e-5, atol=2e-5)


def test_two_cells_away_is_one_unit():
    """Of the last cell of a row of 5 the middle is 2 cells away; 5 pixels have its centres."""
    a = torch.zeros(1, 6)
    a[0, 1] = 1
    centers, units = (each[4:5] for each in cell_places((5,)))
    folded = around_origin(a, centers, units)
    row = add_terms(torch.zeros(1, 1, 5), folded, monomials(folded, (1, 5)))
    torch.testing.assert_close(row, torch.tensor([[[-2.0, -1.5, -1.0, -0.5, 0.0]]]))


def test_half_precision_is_multiplied_out_in_float32():
    """In its own type what is added and taken away again would leave whole units."""
    terms = torch.randn(CELLS, 6).bfloat16()
    found = forms(terms)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, forms(terms.double()).float(), rtol=1e-5, atol=2e-5)


def test_autocast_leaves_the_product_in_float32():
    terms = torch.randn(CELLS, 6)
    expected = forms(terms)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(forms(terms), expected)


def test_gradients_equal_differences():
    terms = torch.randn(1, CELLS, 6, dtype=torch.double, requires_grad=True)
    places = [each.double() for each in cell_places(GRIDS)]
    assert torch.autograd.gradcheck(lambda a: around_origin(a, *places), terms)


def test_none_adds_nothing():
    logits = torch.randn(2, 3, 4)
    terms = torch.empty(2, num_terms(None))
    assert add_terms(logits, terms, monomials(terms, (3, 4))) is logits


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="one of .*'quadratic'.*, not 'cubic'"):
        num_terms('cubic')
