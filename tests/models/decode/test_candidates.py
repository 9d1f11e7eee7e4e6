"""Candidates against their definition on whole masks, whatever is computed when."""

import pytest
import torch
from mmengine.config import ConfigDict
from torch.utils._python_dispatch import TorchDispatchMode

from mmsolov2 import device
from mmsolov2.errors import InputError
from mmsolov2.models import dynamic_conv as convolution
from mmsolov2.models.decode import candidates as module
from mmsolov2.models.decode import cpu_blocks
from mmsolov2.models.decode.candidates import Candidates, find_candidates
from mmsolov2.models.dynamic_conv import CellKernels, KeptLogits, dynamic_conv
from mmsolov2.models.position_terms import cell_positions, quadratic_forms

CELLS, CLASSES, HEIGHT, WIDTH = 30, 4, 24, 20


@pytest.fixture(params=['kept', 'computed', 'whole'])
def way(request, monkeypatch):
    """Few logits, which are kept; many, a strip at a time; and the definition, not in blocks."""
    if request.param != 'kept':
        monkeypatch.setattr(convolution, 'KEPT_LOGITS', 0)
    if request.param == 'whole':
        monkeypatch.setattr(module, 'mask_stats', module.mask_stats.__wrapped__)
    monkeypatch.setattr(cpu_blocks, 'LOGIT_STRIP', 700)
    return request.param


def settings(**changed):
    return ConfigDict(score_thr=0.1, mask_thr=0.5, nms_pre=500, **changed)


ANY_AREA = torch.ones(CELLS, dtype=torch.long)


def some_kernels(size=1):
    """Logits of compact masks: each kernel has a channel, which is a disc on low ground."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing='ij')
    centers = torch.rand(CELLS, 2) * torch.tensor([HEIGHT, WIDTH])
    squares = (y - centers[:, 0, None, None]) ** 2 + (x - centers[:, 1, None, None]) ** 2
    features = 3 * torch.randn(CELLS, 1, 1).exp() - squares / 10
    terms = 0.3 * torch.randn(CELLS, 6)
    kernels = torch.eye(CELLS) + 0.02 * torch.randn(CELLS, CELLS)
    kernels[:3] = terms[:3] = 0  # probabilities at the threshold: no mask
    if size > 1:
        kernels = (kernels[..., None] * torch.rand(size**2)).flatten(1)
    positions = cell_positions((5, 2, 1))
    return CellKernels(features, kernels, terms, positions, torch.arange(CELLS) % 5, size)


def some_scores():
    scores = torch.rand(CELLS, CLASSES)
    return scores * (scores > 0.5)


def by_definition(scores, kernels, min_area, cfg):
    """Scores, labels, masks: of all pairs at once, of whole masks, best first."""
    cells, labels = (scores > cfg.score_thr).nonzero(as_tuple=True)
    logits = dynamic_conv(kernels.features, kernels.kernels[cells], kernels.size)
    terms, positions = kernels.terms[cells], kernels.positions[cells]
    masks = quadratic_forms(terms, positions, (HEIGHT, WIDTH)).add_to(logits).sigmoid()
    inside = masks > cfg.mask_thr
    area = inside.sum((1, 2))
    score = scores[cells, labels] * (masks * inside).sum((1, 2)) / area.clamp(min=1)
    score[area < min_area[cells]] = 0
    best = score.argsort(descending=True, stable=True)[: cfg.nms_pre]
    return score[best], labels[best], inside[best]


def ranked(found):
    order = found.scores.argsort(descending=True, stable=True)
    return found.scores[order], found.labels[order], found.masks[order]


@pytest.mark.parametrize('size', [1, 3])
@pytest.mark.parametrize('mask_thr', [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize('limit', [None, 1, 7, 20, 1000])
def test_equal_their_definition(limit, mask_thr, size, way):
    scores, kernels, min_area = some_scores(), some_kernels(size), torch.randint(1, 20, (CELLS,))
    cfg = ConfigDict(score_thr=0.1, mask_thr=mask_thr, nms_pre=limit)
    found = find_candidates(scores, kernels, min_area, cfg)
    expected = by_definition(scores, kernels, min_area, cfg)
    assert len(found) == len(expected[0]) > 0
    if mask_thr < 1:
        assert found.scores.any()
    for mine, theirs in zip(ranked(found), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize('limit', [None, 1, 7, 1000])
def test_probabilities_are_those_of_the_masks(limit, way):
    """Of some candidates, whatever was kept or is computed again."""
    cfg = settings() | dict(nms_pre=limit)
    found = find_candidates(some_scores(), some_kernels(), ANY_AREA, cfg)[1:]
    some = torch.arange(len(found)).flip(0)
    inside = found.probabilities(slice(3, 17), some) > 0.5
    assert torch.equal(inside, found.masks[some, 3:17])
    copied = found.cpu()
    assert isinstance(copied.logits, KeptLogits) and len(copied.logits) == len(found)
    assert torch.equal(copied.probabilities(slice(3, 17), some) > 0.5, inside)


@pytest.mark.parametrize('limit', [None, 5])
def test_none(limit, way):
    cfg = settings() | dict(nms_pre=limit)
    found = find_candidates(torch.zeros(CELLS, CLASSES), some_kernels(), ANY_AREA, cfg)
    assert len(found) == 0
    assert found.masks.shape == (0, HEIGHT, WIDTH)


def test_a_kernel_is_convolved_once_for_all_classes(way, monkeypatch):
    kernels = []

    def counted(features, some, size):
        kernels.append(len(some))
        return dynamic_conv(features, some, size)

    monkeypatch.setattr(convolution, 'dynamic_conv', counted)
    scores = torch.zeros(CELLS, CLASSES)
    scores[5] = scores[9] = 0.9
    assert len(find_candidates(scores, some_kernels(), ANY_AREA, settings())) == 2 * CLASSES
    assert set(kernels) == {2}


class Waits(TorchDispatchMode):
    """Counts what makes a CPU wait for a GPU: operations whose result's size depends on values."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        names = ('nonzero', '_local_scalar_dense', 'unique', 'masked_select', 'equal')
        self.count += any(name in function.__name__ for name in names)
        by_mask = 'index' in function.__name__ and len(args) > 1 and isinstance(args[1], list)
        self.count += by_mask and any(i is not None and i.dtype == torch.bool for i in args[1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(('limit', 'waits'), [(500, 2), (5, 1 + 4 + 3)])
def test_what_a_gpu_is_waited_for(limit, waits, monkeypatch):
    """How many pairs there are, and of each block of them the cells and whether it can come in.

    Of 19 pairs here, 4 blocks of 5, none of which is left out.
    """
    monkeypatch.setattr(module, 'mask_stats', module.mask_stats.__wrapped__)
    scores = torch.zeros(CELLS, CLASSES)
    scores[3:22, 0] = torch.linspace(0.9, 0.85, 19)
    with Waits() as counter:
        find_candidates(scores, some_kernels(), ANY_AREA, settings() | dict(nms_pre=limit))
    assert counter.count == waits


def test_no_more_is_convolved_once_the_best_are_sure(way, monkeypatch):
    """Masks of maskness near 1, and scores so low that they cannot reach the first ones."""
    calls = []
    measure = module.measure
    monkeypatch.setattr(module, 'measure', lambda *args: calls.append(args) or measure(*args))
    scores = torch.full((CELLS, 1), 0.2)
    scores[10:14] = 0.9
    kernels = some_kernels()
    found = find_candidates(scores, kernels, ANY_AREA, settings() | dict(nms_pre=4))
    assert len(calls) == 1
    expected = kernels[torch.arange(10, 14)].logits() > 0
    assert torch.equal(found.masks, expected)


def test_candidates_that_do_not_fit_are_refused(monkeypatch):
    """9 masks of 24x20 take 4320 bytes, their overlaps 9 · 9 · 24 = 1944."""
    monkeypatch.setattr(device, 'SURE_BYTES', 0)
    monkeypatch.setattr(device, 'available_memory', lambda where: 6263)
    scores = torch.zeros(CELLS, CLASSES)
    scores[:9, 0] = 0.9

    def found(limit):
        cfg = settings() | dict(nms_pre=limit)
        return len(find_candidates(scores, some_kernels(), ANY_AREA, cfg))

    with pytest.raises(InputError, match=r'9 candidates .* cpu has .*nms_pre .*score_thr'):
        found(None)
    assert found(8) == 8
    monkeypatch.setattr(device, 'available_memory', lambda where: 6264)
    assert found(None) == 9


def test_of_equal_scores_the_lower_cell_comes_first():
    cells, labels = torch.tensor([4, 5, 1, 0]), torch.tensor([1, 0, 3, 2])
    scores, masks = torch.tensor([0.5, 0.5, 0.5, 0.2]), torch.zeros(4, 1, 1, dtype=torch.bool)
    some = Candidates(scores, labels, masks, cells, logits=KeptLogits(torch.zeros(9, 1, 1)))
    best = some[:2].best_with(some[2:], 3)
    assert best.cells.tolist() == [1, 4, 5]
    assert best.labels.tolist() == [3, 1, 0]
