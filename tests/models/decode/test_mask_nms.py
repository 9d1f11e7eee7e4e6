"""The mask NMS family against their definitions in loops, numbers by hand, and mmdet's."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from mmdet.models.layers import mask_matrix_nms
from torch._subclasses.fake_tensor import FakeTensorMode

from mmsolov2.models.decode import cpu_blocks, mask_nms
from mmsolov2.models.decode.mask_nms import (
    FastMaskNMS,
    HardMaskNMS,
    MatrixNMS,
    SoftMaskNMS,
    mask_iou,
)
from mmsolov2.registry import TASK_UTILS

KERNELS = ('gaussian', 'linear')
FAMILY = (
    MatrixNMS('gaussian'),
    MatrixNMS('linear'),
    SoftMaskNMS('gaussian'),
    SoftMaskNMS('linear'),
    HardMaskNMS(),
    FastMaskNMS(),
)
every_nms = pytest.mark.parametrize('nms', FAMILY, ids=str)

# The paper's pseudo-code, element by element


def overlap(a, b):
    intersection = sum(p and q for p, q in zip(a.flat, b.flat, strict=True))
    return intersection / max(a.sum() + b.sum() - intersection, 1)


def paper_nms(scores, masks, kernel, sigma=0.5):
    """New scores of masks of one class in descending order; the paper's sigma divides."""
    n = len(scores)
    iou = [[overlap(masks[i], masks[j]) if i < j else 0 for j in range(n)] for i in range(n)]
    worst = [max(iou[i][j] for i in range(n)) for j in range(n)]
    rescored = []
    for j in range(n):
        if kernel == 'gaussian':
            decay = min(math.exp(-(iou[i][j] ** 2 - worst[i] ** 2) / sigma) for i in range(n))
        else:
            decay = min((1 - iou[i][j]) / (1 - worst[i]) for i in range(n))
        rescored.append(scores[j] * decay)
    return rescored


def paper_nms_by_class(scores, labels, masks, kernel, sigma=0.5):
    """New scores in the input's order; every class is a problem of its own."""
    rescored = np.zeros(len(scores))
    for label in set(labels.tolist()):
        members = [i for i in np.argsort(-scores) if labels[i] == label]
        rescored[members] = paper_nms(scores[members], masks[members], kernel, sigma)
    return rescored


# The others, as their papers define them, one instance after the other


def hard(scores, masks, threshold):
    """Greedy: the best goes to the results and takes with it all it overlaps too much."""
    rescored, waiting = np.zeros(len(scores)), list(np.argsort(-scores))
    while waiting:
        best = waiting.pop(0)
        rescored[best] = scores[best]
        waiting = [i for i in waiting if overlap(masks[best], masks[i]) <= threshold]
    return rescored


def fast(scores, masks, threshold):
    """YOLACT: out goes whoever overlaps any better one too much."""
    better = [[j for j in range(len(scores)) if scores[j] > score] for score in scores]
    stays = [
        all(overlap(masks[j], masks[i]) <= threshold for j in better[i]) for i in range(len(scores))
    ]
    return np.where(stays, scores, 0)


def soft(scores, masks, decay):
    """Soft-NMS: the best goes to the results, and the others' scores fall by their overlap."""
    rescored, waiting = scores.astype(float), list(range(len(scores)))
    while waiting:
        best = max(waiting, key=lambda i: rescored[i])
        waiting.remove(best)
        for i in waiting:
            rescored[i] *= decay(overlap(masks[best], masks[i]))
    return rescored


def by_class(function, scores, labels, masks, *args):
    rescored = np.zeros(len(scores))
    for label in set(labels.tolist()):
        members = np.flatnonzero(labels == label)
        rescored[members] = function(scores[members], masks[members], *args)
    return rescored


SLOW = [
    (HardMaskNMS(0.25), hard, 0.25),
    (HardMaskNMS(0.0), hard, 0.0),
    (FastMaskNMS(0.25), fast, 0.25),
    (FastMaskNMS(0.0), fast, 0.0),
    (SoftMaskNMS('gaussian'), soft, lambda iou: math.exp(-(iou**2) / 0.5)),
    (SoftMaskNMS('gaussian', sigma=0.5), soft, lambda iou: math.exp(-(iou**2) / 2)),
    (SoftMaskNMS('linear', iou_thr=0.2), soft, lambda iou: 1 - iou if iou > 0.2 else 1),
    (SoftMaskNMS('linear', iou_thr=0.0), soft, lambda iou: 1 - iou),
]


def random_instances(seed, n=14, size=(6, 7)):
    """Scores, labels of three classes, and rectangles that overlap and are never equal."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, *size), bool)
    for mask in masks:
        y, x = rng.integers(0, 4, 2)
        mask[y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] = True
    masks ^= rng.random(masks.shape) < 0.1
    masks[np.arange(n), -1, -1] = True
    return rng.random(n).astype(np.float32), rng.integers(0, 3, n), masks


def tensors(*arrays, device='cpu'):
    return [torch.as_tensor(array, device=device) for array in arrays]


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('seed', range(10))
def test_equals_the_pseudo_code(kernel, seed, device):
    scores, labels, masks = random_instances(seed)
    expected = paper_nms_by_class(scores, labels, masks, kernel)
    rescored = MatrixNMS(kernel)(*tensors(scores, labels, masks, device=device))
    assert (expected < scores).sum() > 4
    np.testing.assert_allclose(rescored.cpu().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(('nms', 'slow', 'setting'), SLOW, ids=[str(one[0]) for one in SLOW])
@pytest.mark.parametrize('seed', range(10))
def test_equals_the_definition(nms, slow, setting, seed, device):
    scores, labels, masks = random_instances(seed, n=20)
    expected = by_class(slow, scores, labels, masks, setting)
    rescored = nms(*tensors(scores, labels, masks, device=device))
    assert 2 < (expected < scores).sum() < 20
    np.testing.assert_allclose(rescored.cpu().numpy(), expected, rtol=1e-5)


@every_nms
@pytest.mark.parametrize('seed', range(3))
def test_class_agnostic_is_as_if_all_were_of_one_class(nms, seed, device):
    scores, labels, masks = tensors(*random_instances(seed, n=40), device=device)
    agnostic = type(nms)(**{**nms.settings, 'class_agnostic': True})
    expected = nms(scores, torch.zeros_like(labels), masks)
    assert not torch.equal(expected, nms(scores, labels, masks))
    assert torch.equal(agnostic(scores, labels, masks), expected)


@pytest.mark.parametrize(('ours', 'papers'), [(2.0, 0.5), (0.5, 2.0), (4.0, 0.25)])
def test_sigma_multiplies_where_the_papers_divides(ours, papers):
    scores, labels, masks = random_instances(0)
    expected = paper_nms_by_class(scores, labels, masks, 'gaussian', papers)
    rescored = MatrixNMS('gaussian', sigma=ours)(*tensors(scores, labels, masks))
    np.testing.assert_allclose(rescored.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('seed', range(10))
def test_equals_mmdet(kernel, seed, device):
    scores, labels, masks = tensors(*random_instances(seed), device=device)
    theirs, _, _, index = mask_matrix_nms(masks, labels, scores, kernel=kernel)
    torch.testing.assert_close(MatrixNMS(kernel)(scores, labels, masks)[index], theirs)


# By hand


def strip(*intervals):
    """Masks of one row of ten pixels, each set from a first pixel up to a last one."""
    pixel = torch.arange(10)
    return torch.stack([(pixel >= first) & (pixel <= last) for first, last in intervals])[:, None]


def assert_close(scores, expected):
    torch.testing.assert_close(scores, torch.tensor(expected))


@pytest.mark.parametrize(
    ('kernel', 'second'), [('gaussian', 0.8 * math.exp(-2 * 0.5**2)), ('linear', 0.8 * 0.5)]
)
def test_two_masks_of_iou_one_half(kernel, second):
    scores, labels, masks = torch.tensor([0.9, 0.8]), torch.tensor([3, 3]), strip((0, 3), (0, 1))
    assert_close(MatrixNMS(kernel)(scores, labels, masks), [0.9, second])


CHAIN = strip((0, 2), (1, 3), (2, 4))  # IoUs: first and second 1/2, second and third 1/2, ends 1/5


@pytest.mark.parametrize(
    ('kernel', 'expected'),
    [
        ('gaussian', [0.9, 0.8 * math.exp(-2 / 4), 0.7 * math.exp(-2 / 25)]),
        ('linear', [0.9, 0.8 * 1 / 2, 0.7 * 4 / 5]),
    ],
)
def test_a_suppressed_mask_suppresses_less(kernel, expected):
    """The second would take a half from the third, but the first has taken a half from it."""
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long)
    assert_close(MatrixNMS(kernel)(scores, labels, CHAIN), expected)


@pytest.mark.parametrize(
    ('nms', 'expected'),
    [
        (HardMaskNMS(0.4), [0.9, 0, 0.7]),  # who is gone takes nobody with it
        (FastMaskNMS(0.4), [0.9, 0, 0]),  # or does
        (HardMaskNMS(0.5), [0.9, 0.8, 0.7]),  # only overlaps above the threshold count
        (FastMaskNMS(0.5), [0.9, 0.8, 0.7]),
        (HardMaskNMS(0.1), [0.9, 0, 0]),
        (SoftMaskNMS('linear'), [0.9, 0.8 / 2 / 2, 0.7]),  # the third comes second
        (SoftMaskNMS('linear', iou_thr=0.1), [0.9, 0.8 / 2 / 2, 0.7 * 4 / 5]),
        (SoftMaskNMS('gaussian'), [0.9, 0.8 * math.exp(-1), 0.7 * math.exp(-2 / 25)]),
    ],
    ids=str,
)
def test_the_others_on_the_chain(nms, expected):
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long)
    assert_close(nms(scores, labels, CHAIN), [float(score) for score in expected])


def test_a_long_chain_is_resolved_one_by_one():
    """Each mask overlaps the next alone: with the greedy rule every second one stays."""
    masks = strip(*((2 * i, 2 * i + 2) for i in range(4)))
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4, dtype=torch.long)
    assert_close(HardMaskNMS(0.1)(scores, labels, masks), [0.9, 0, 0.7, 0])
    assert_close(FastMaskNMS(0.1)(scores, labels, masks), [0.9, 0, 0, 0])


def test_other_classes_never_suppress():
    """The second overlaps both others and is of another class."""
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 1])
    assert_close(MatrixNMS('linear')(scores, labels, CHAIN), [0.9, 0.8, 0.7 * 4 / 5])


@every_nms
def test_the_input_order_is_kept(nms):
    scores, labels, masks = tensors(*random_instances(1))
    expected = nms(scores, labels, masks)
    for _ in range(5):
        order = torch.randperm(len(scores))
        rescored = nms(scores[order], labels[order], masks[order])
        torch.testing.assert_close(rescored, expected[order])


def test_of_equal_scores_the_first_stays():
    masks = strip((0, 3), (0, 1), (0, 3), (6, 9))
    scores, labels = torch.full((4,), 0.5), torch.zeros(4, dtype=torch.long)
    assert_close(MatrixNMS('linear')(scores, labels, masks), [0.5, 0.25, 0.0, 0.5])


@every_nms
def test_inputs_are_not_modified(nms):
    inputs = tensors(*random_instances(2))
    before = [tensor.clone() for tensor in inputs]
    rescored = nms(*inputs)
    rescored.zero_()
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, before, strict=True))


# The edges


@every_nms
def test_no_instance(nms, device):
    labels = torch.zeros(0, dtype=torch.long, device=device)
    masks = torch.zeros(0, 4, 5, dtype=torch.bool, device=device)
    rescored = nms(torch.zeros(0, device=device), labels, masks)
    assert rescored.shape == (0,)
    assert rescored.dtype == torch.float32
    assert mask_iou(masks).shape == (0, 0)


@every_nms
def test_one_instance_keeps_its_score(nms):
    assert_close(nms(torch.tensor([0.3]), torch.tensor([7]), strip((1, 2))), [0.3])


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('n', [2, 3, 4, 17, 50])
def test_identical_masks(n, ties):
    """Only the best stays, or with the gaussian kernel also exp(-2) of each other score."""
    scores = torch.full((n,), 0.5) if ties else torch.linspace(0.9, 0.1, n)
    labels, masks = torch.zeros(n, dtype=torch.long), strip((2, 5)).expand(n, 1, 10)
    assert_close(MatrixNMS('linear')(scores, labels, masks), [scores[0].item()] + [0.0] * (n - 1))
    expected = [scores[0].item(), *(scores[1:] * math.exp(-2)).tolist()]
    assert_close(MatrixNMS('gaussian')(scores, labels, masks), expected)


@every_nms
def test_empty_masks_overlap_nothing(nms):
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long)
    masks = strip((1, 0), (1, 0), (0, 9))
    assert_close(nms(scores, labels, masks), [0.9, 0.8, 0.7])


@every_nms
@pytest.mark.parametrize('seed', range(10))
def test_scores_only_fall_and_never_below_zero(nms, seed, device):
    """Among 50 masks on 2 x 3 pixels many are equal, many are empty, and so are many scores."""
    rng = np.random.default_rng(seed)
    masks = rng.random((50, 2, 3)) < rng.random()
    scores = (rng.integers(0, 9, 50) / 8).astype(np.float32)
    scores, labels, masks = tensors(scores, rng.integers(0, 2, 50), masks, device=device)
    rescored = nms(scores, labels, masks)
    assert rescored.isfinite().all()
    assert (rescored >= 0).all()
    assert (rescored <= scores).all()


HALVES = (torch.bfloat16, torch.float16)


def large_masks():
    """300 x 300 pixels, its first 200 rows, and 33,434 pixels of those."""
    masks = torch.zeros(3, 300, 300, dtype=torch.bool)
    masks[0] = masks[1, :200] = True
    masks[2].view(-1)[:33434] = True
    return masks


def decays_of_large_masks(kernel):
    """A half type cannot hold the areas: 90,000, 60,000 and 33,434."""
    second, third, by_second = 60000 / 90000, 33434 / 90000, 33434 / 60000
    if kernel == 'linear':
        return [1, 1 - second, min(1 - third, (1 - by_second) / (1 - second))]
    return [
        1,
        math.exp(-2 * second**2),
        min(math.exp(-2 * third**2), math.exp(-2 * (by_second**2 - second**2))),
    ]


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('dtype', HALVES)
def test_large_masks_under_autocast(kernel, dtype, device):
    scores, labels = torch.ones(3, device=device), torch.zeros(3, dtype=torch.long, device=device)
    with torch.autocast(device.type, dtype=dtype):
        rescored = MatrixNMS(kernel)(scores, labels, large_masks().to(device))
    assert rescored.dtype == torch.float32
    assert_close(rescored.cpu(), decays_of_large_masks(kernel))


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('dtype', HALVES)
def test_half_precision_scores_are_rescored_in_float32(kernel, dtype):
    labels = torch.zeros(3, dtype=torch.long)
    rescored = MatrixNMS(kernel)(torch.ones(3, dtype=dtype), labels, large_masks())
    assert rescored.dtype == torch.float32
    assert_close(rescored, decays_of_large_masks(kernel))


@pytest.mark.parametrize('dtype', HALVES)
@pytest.mark.parametrize(
    ('nms', 'decays'),
    [
        (HardMaskNMS(), [1, 0, 1]),  # IoUs 0.67 and 0.37 with the first, 0.56 of the others
        (FastMaskNMS(), [1, 0, 0]),
        (SoftMaskNMS('linear'), [1, 1 / 3, 1 - 33434 / 90000]),
    ],
    ids=str,
)
def test_the_others_on_large_masks_under_autocast(nms, decays, dtype, device):
    if isinstance(nms, SoftMaskNMS):
        decays = [1, decays[1] * (1 - 33434 / 60000), decays[2]]
    scores, labels = torch.tensor([1, 0.99, 0.98], dtype=dtype), torch.zeros(3, dtype=torch.long)
    with torch.autocast(device.type, dtype=dtype):
        rescored = nms(*tensors(scores, labels, large_masks(), device=device)).cpu()
    assert rescored.dtype == torch.float32
    assert_close(rescored, (scores.float() * torch.tensor(decays, dtype=torch.float32)).tolist())


@pytest.mark.parametrize(
    'nms', [nms for nms in FAMILY if not isinstance(nms, HardMaskNMS)], ids=str
)
def test_rescoring_never_waits_for_the_device(nms, monkeypatch):
    """Fake tensors have no values. The greedy rule alone asks whether it is done."""
    monkeypatch.setattr(mask_nms, 'shared_pixels', mask_nms.shared_pixels.__wrapped__)
    with FakeTensorMode():
        labels, masks = torch.zeros(5, dtype=torch.long), torch.zeros(5, 4, 4, dtype=torch.bool)
        assert nms(torch.zeros(5), labels, masks).shape == (5,)


# Overlaps and settings


def test_overlaps_of_drawn_masks():
    expected = torch.tensor([[1, 0.5, 0.2], [0.5, 1, 0.5], [0.2, 0.5, 1]])
    torch.testing.assert_close(mask_iou(CHAIN), expected)


@pytest.mark.parametrize('strip', [40, 2**20])
@pytest.mark.parametrize('way', ['blocks', 'whole'])
def test_overlaps_of_few_and_of_many_masks_of_a_label(way, strip, monkeypatch):
    """1 to 9 masks of a label, beside counts of every two."""
    monkeypatch.setattr(cpu_blocks, 'MASK_STRIP', strip)
    if way == 'whole':
        monkeypatch.setattr(mask_nms, 'shared_pixels', mask_nms.shared_pixels.__wrapped__)
    labels = torch.arange(1, 10).repeat_interleave(torch.arange(1, 10))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    masks = torch.rand(len(labels), 5, 7, generator=torch.Generator().manual_seed(1)) < 0.4
    masks[:, 2:4] = False
    masks[labels == 9] = False
    expected = torch.zeros(len(labels), len(labels))
    for i, j in product(range(len(labels)), repeat=2):
        if labels[i] == labels[j]:
            expected[i, j] = overlap(masks[i].numpy(), masks[j].numpy())
    torch.testing.assert_close(mask_iou(masks, labels), expected)


@pytest.mark.parametrize(
    ('kind', 'settings', 'message'),
    [
        (MatrixNMS, dict(kernel='gauss'), "kernel must be 'gaussian' or 'linear', not 'gauss'"),
        (MatrixNMS, dict(sigma=0), 'sigma must be positive, not 0'),
        (MatrixNMS, dict(sigma=-2.0), 'sigma must be positive, not -2.0'),
        (MatrixNMS, dict(sigma=float('nan')), 'sigma must be positive, not nan'),
        (SoftMaskNMS, dict(kernel='hard'), "kernel must be 'gaussian' or 'linear', not 'hard'"),
        (SoftMaskNMS, dict(sigma=0), 'sigma must be positive, not 0'),
        (SoftMaskNMS, dict(iou_thr=-0.1), 'iou_thr must be from 0 to 1, not -0.1'),
        (HardMaskNMS, dict(iou_thr=50), 'iou_thr must be from 0 to 1, not 50'),
        (FastMaskNMS, dict(iou_thr=float('nan')), 'iou_thr must be from 0 to 1, not nan'),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=f'{kind.__name__}: {message}'):
        kind(**settings)


def test_they_are_built_from_configs():
    nms = TASK_UTILS.build(dict(type='mmsolov2.MatrixNMS', kernel='linear', sigma=1.5))
    assert repr(nms) == "MatrixNMS(kernel='linear', sigma=1.5, class_agnostic=False)"
    settings = "kernel='gaussian', sigma=2.0"
    assert repr(MatrixNMS()) == f'MatrixNMS({settings}, class_agnostic=False)'
    for name in ('HardMaskNMS', 'FastMaskNMS'):
        nms = TASK_UTILS.build(dict(type=f'mmsolov2.{name}', iou_thr=0.6, class_agnostic=True))
        assert repr(nms) == f'{name}(iou_thr=0.6, class_agnostic=True)'
    nms = TASK_UTILS.build(dict(type='mmsolov2.SoftMaskNMS', kernel='gaussian'))
    assert repr(nms) == f'SoftMaskNMS({settings}, iou_thr=0.3, class_agnostic=False)'
