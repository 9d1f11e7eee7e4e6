"""Candidates against their definition on whole masks, whatever is computed when."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmsolov2 import device
from mmsolov2.errors import InputError
from mmsolov2.models.decode import candidates as module
from mmsolov2.models.decode.candidates import Candidates, MaskLogits, find_candidates
from mmsolov2.models.dynamic_conv import dynamic_conv, dynamic_conv_levels

CELLS, CLASSES, HEIGHT, WIDTH = 30, 4, 24, 20


@pytest.fixture(params=['kept', 'strips', 'GPU'])
def way(request, monkeypatch):
    """Few logits, which are kept; many, in strips of some rows; and as on a GPU."""
    if request.param != 'kept':
        monkeypatch.setattr(module, 'FEW', 0)
    for name in ('STRIP', 'CPU_STRIP'):
        monkeypatch.setattr(module, name, 700)
    if request.param == 'GPU':
        monkeypatch.setattr(device, 'on_cpu', lambda tensor: False)
    return request.param


def some_logits(size=1):
    """Logits of compact masks: each kernel has a channel, which is a disc on low ground."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing='ij')
    centers = torch.rand(CELLS, 2) * torch.tensor([HEIGHT, WIDTH])
    squares = (y - centers[:, 0, None, None]) ** 2 + (x - centers[:, 1, None, None]) ** 2
    features = 3 * torch.randn(CELLS, 1, 1).exp() - squares / 10
    kernels = torch.eye(CELLS) + 0.02 * torch.randn(CELLS, CELLS)
    kernels[:3] = 0  # probabilities at the threshold: no mask
    if size > 1:
        kernels = (kernels[..., None] * torch.rand(size**2)).flatten(1)
    return MaskLogits(features, kernels, torch.arange(CELLS) % 5, size)


def some_scores():
    scores = torch.rand(CELLS, CLASSES)
    return scores * (scores > 0.5)


def by_definition(scores, logits, score_thr, mask_thr, smallest, limit):
    """Scores, labels, masks: of all pairs at once, of whole masks, best first."""
    cells, labels = (scores > score_thr).nonzero(as_tuple=True)
    masks = dynamic_conv(logits.features, logits.kernels[cells], logits.size).sigmoid()
    inside = masks > mask_thr
    area = inside.sum((1, 2))
    score = scores[cells, labels] * (masks * inside).sum((1, 2)) / area.clamp(min=1)
    score[area < smallest[cells]] = 0
    best = score.argsort(descending=True, stable=True)[:limit]
    return score[best], labels[best], inside[best]


def ranked(found):
    order = found.scores.argsort(descending=True, stable=True)
    return found.scores[order], found.labels[order], found.masks[order]


@pytest.mark.parametrize('size', [1, 3])
@pytest.mark.parametrize('mask_thr', [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize('limit', [None, 1, 7, 20, 1000])
def test_equal_their_definition(limit, mask_thr, size, way):
    logits, scores, smallest = some_logits(size), some_scores(), torch.randint(1, 20, (CELLS,))
    args = dict(score_thr=0.1, mask_thr=mask_thr, smallest=smallest, limit=limit)
    found, _ = find_candidates(scores, logits, **args)
    expected = by_definition(scores, logits, **args)
    assert len(found) == len(expected[0]) > 0
    if mask_thr < 1:
        assert found.scores.any()
    for mine, theirs in zip(ranked(found), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize('limit', [None, 5])
def test_none(limit, way):
    found, _ = find_candidates(
        torch.zeros(CELLS, CLASSES),
        some_logits(),
        score_thr=0.1,
        mask_thr=0.5,
        smallest=torch.ones(CELLS, dtype=torch.long),
        limit=limit,
    )
    assert len(found) == 0
    assert found.masks.shape == (0, HEIGHT, WIDTH)


def test_a_kernel_is_convolved_once_for_all_classes(way, monkeypatch):
    kernels = []

    def counted(features, some, rows, size):
        kernels.append(len(some))
        return dynamic_conv(features, some, size)[:, rows]

    monkeypatch.setattr(module, 'dynamic_conv_rows', counted)
    scores = torch.zeros(CELLS, CLASSES)
    scores[5] = scores[9] = 0.9
    args = dict(score_thr=0.1, mask_thr=0.5, smallest=torch.ones(CELLS).long(), limit=500)
    found, _ = find_candidates(scores, some_logits(), **args)
    assert len(found) == 2 * CLASSES
    assert set(kernels) == {2 * CLASSES if way == 'GPU' else 2}


class Waits(TorchDispatchMode):
    """Counts what makes a CPU wait for a GPU: operations whose result's size depends on values."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        names = ('nonzero', '_local_scalar_dense', 'unique', 'masked_select', 'equal')
        self.count += any(name in function.__name__ for name in names)
        by_mask = 'index' in function.__name__ and len(args) > 1 and isinstance(args[1], list)
        self.count += by_mask and any(i is not None and i.dtype == torch.bool for i in args[1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('limit', [5, 500])
def test_a_gpu_is_waited_for_once_to_size_the_candidates(limit, monkeypatch):
    """``nonzero`` alone; how many masks a cell's classes share is never asked."""
    monkeypatch.setattr(device, 'on_cpu', lambda tensor: False)
    args = dict(score_thr=0.1, mask_thr=0.5, smallest=torch.ones(CELLS).long(), limit=limit)
    with Waits() as waits:
        find_candidates(some_scores(), some_logits(), **args)
    assert waits.count == 1


def test_no_more_is_convolved_once_the_best_are_sure(way, monkeypatch):
    """Masks of maskness near 1, and scores so low that they cannot reach the first ones.

    A GPU does not wait to learn that.
    """
    calls = []
    measure = module.measure
    monkeypatch.setattr(module, 'measure', lambda *args: calls.append(args) or measure(*args))
    scores = torch.full((CELLS, 1), 0.2)
    scores[10:14] = 0.9
    args = dict(score_thr=0.1, mask_thr=0.5, smallest=torch.ones(CELLS).long(), limit=4)
    found, _ = find_candidates(scores, some_logits(), **args)
    assert len(calls) == (8 if way == 'GPU' else 1)  # 30 cells, 4 at a time
    assert found.cells.sort()[0].tolist() == [10, 11, 12, 13]


def test_candidates_that_do_not_fit_are_refused(monkeypatch):
    """9 masks of 24x20 take 4320 bytes, their overlaps 9 · 9 · 24 = 1944."""
    monkeypatch.setattr(device, 'SURE_BYTES', 0)
    monkeypatch.setattr(device, 'available_memory', lambda where: 6263)
    scores = torch.zeros(CELLS, CLASSES)
    scores[:9, 0] = 0.9
    args = dict(score_thr=0.1, mask_thr=0.5, smallest=torch.ones(CELLS).long())
    with pytest.raises(InputError, match=r'9 candidates .* cpu has .*nms_pre .*score_thr'):
        find_candidates(scores, some_logits(), **args, limit=None)
    assert len(find_candidates(scores, some_logits(), **args, limit=8)[0]) == 8
    monkeypatch.setattr(device, 'available_memory', lambda where: 6264)
    assert len(find_candidates(scores, some_logits(), **args, limit=None)[0]) == 9


def test_logits_that_are_kept_are_looked_at_in_cache_sized_strips_on_a_cpu_alone(monkeypatch):
    logits = some_logits().of(torch.arange(CELLS))
    assert len(list(logits.strips(CELLS))) == HEIGHT // module.LOOK == 3
    monkeypatch.setattr(device, 'on_cpu', lambda tensor: False)
    assert list(logits.strips(CELLS)) == [slice(0, HEIGHT)]


def test_of_equal_scores_the_lower_cell_and_label_come_first():
    cells, labels = torch.tensor([4, 4, 1, 0]), torch.tensor([1, 0, 3, 2])
    masks = torch.zeros(4, 1, 1, dtype=torch.bool)
    some = Candidates(torch.tensor([0.5, 0.5, 0.5, 0.2]), labels, cells, masks)
    best = some[:2].best_with(some[2:], 3)
    assert best.cells.tolist() == [1, 4, 4]
    assert best.labels.tolist() == [3, 0, 1]


def test_levels_have_features_of_their_own(way):
    """Whatever the order of the kernels, and if a level has none."""
    levels = [torch.randn(3, HEIGHT, WIDTH), torch.randn(3, 12, 10), torch.randn(3, 6, 5)]
    kernels = torch.randn(4, 3)
    logits = MaskLogits(levels, kernels, torch.tensor([2, 0, 2, 0]))
    some = torch.tensor([2, 1, 3])
    expected = dynamic_conv_levels(levels, kernels[[1, 3, 2]], (2, 0, 1))
    torch.testing.assert_close(logits(some), expected[[2, 0, 1]])
    found = logits.of(some).rows(slice(3, 9), torch.tensor([0, 2]))
    torch.testing.assert_close(found, expected[[2, 1], 3:9])


def test_rows_that_cannot_be_computed_apart_are_computed_once(monkeypatch):
    """Those of levels with features of their own, of the masks that are read alone."""
    calls = []
    monkeypatch.setattr(module, 'FEW', 0)
    monkeypatch.setattr(
        module,
        'dynamic_conv_levels',
        lambda *args: calls.append(len(args[1])) or dynamic_conv_levels(*args),
    )
    levels = [torch.randn(3, HEIGHT, WIDTH), torch.randn(3, 12, 10)]
    logits = MaskLogits(levels, torch.randn(9, 3), torch.arange(9) % 2).of(torch.arange(9))
    cells = torch.tensor([7, 2])
    expected = logits(cells)
    calls.clear()
    chosen, where = logits.to_read(cells)
    found = [chosen.rows(slice(row, row + 8), where) for row in range(0, HEIGHT, 8)]
    assert torch.equal(torch.cat(found, 1), expected)
    assert calls == [2]
    unified = some_logits()
    assert unified.to_read(cells) == (unified, cells)
