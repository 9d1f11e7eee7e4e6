"""Matrix NMS against the paper's pseudo-code in loops, against numbers by hand, and mmdet's."""

import math

import numpy as np
import pytest
import torch
from mmdet.models.layers import mask_matrix_nms

from mmsolov2.models.mask_nms import MatrixNMS, mask_iou
from mmsolov2.registry import TASK_UTILS

KERNELS = ('gaussian', 'linear')

# The paper's pseudo-code, element by element


def overlap(a, b):
    intersection = sum(p and q for p, q in zip(a.flat, b.flat, strict=True))
    return intersection / (a.sum() + b.sum() - intersection)


def paper_nms(scores, masks, kernel, sigma=0.5):
    """New scores of masks of one class in descending order; the paper's sigma divides."""
    n = len(scores)
    iou = [[overlap(masks[i], masks[j]) if i < j else 0 for j in range(n)] for i in range(n)]
    worst = [max(iou[i][j] for i in range(n)) for j in range(n)]
    rescored = []
    for j in range(n):
        if kernel == 'gaussian':
            decay = min(math.exp(-(iou[i][j]**2 - worst[i]**2) / sigma) for i in range(n))
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


def random_instances(seed, n=14, size=(6, 7)):
    """Scores, labels of three classes, and rectangles that overlap and are never equal."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, *size), bool)
    for mask in masks:
        y, x = rng.integers(0, 4, 2)
        mask[y:y + rng.integers(1, 5), x:x + rng.integers(1, 5)] = True
    masks ^= rng.random(masks.shape) < 0.1
    masks[np.arange(n), -1, -1] = True
    return rng.random(n).astype(np.float32), rng.integers(0, 3, n), masks


def tensors(*arrays):
    return [torch.as_tensor(array) for array in arrays]


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('seed', range(10))
def test_equals_the_pseudo_code(kernel, seed):
    scores, labels, masks = random_instances(seed)
    expected = paper_nms_by_class(scores, labels, masks, kernel)
    rescored = MatrixNMS(kernel)(*tensors(scores, labels, masks))
    assert (expected < scores).sum() > 4
    np.testing.assert_allclose(rescored.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(('ours', 'papers'), [(2.0, 0.5), (0.5, 2.0), (4.0, 0.25)])
def test_sigma_multiplies_where_the_papers_divides(ours, papers):
    scores, labels, masks = random_instances(0)
    expected = paper_nms_by_class(scores, labels, masks, 'gaussian', papers)
    rescored = MatrixNMS('gaussian', sigma=ours)(*tensors(scores, labels, masks))
    np.testing.assert_allclose(rescored.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('seed', range(10))
def test_equals_mmdet(kernel, seed):
    scores, labels, masks = tensors(*random_instances(seed))
    theirs, _, _, index = mask_matrix_nms(masks, labels, scores, kernel=kernel)
    torch.testing.assert_close(MatrixNMS(kernel)(scores, labels, masks)[index], theirs)


# By hand


def strip(*intervals):
    """Masks of one row of ten pixels, each set from a first pixel up to a last one."""
    pixel = torch.arange(10)
    return torch.stack([(pixel >= first) & (pixel <= last) for first, last in intervals])[:, None]


def close(scores, expected):
    torch.testing.assert_close(scores, torch.tensor(expected))


@pytest.mark.parametrize(('kernel', 'second'), [('gaussian', 0.8 * math.exp(-2 * 0.5**2)),
                                                ('linear', 0.8 * 0.5)])
def test_two_masks_of_iou_one_half(kernel, second):
    scores, labels, masks = torch.tensor([0.9, 0.8]), torch.tensor([3, 3]), strip((0, 3), (0, 1))
    close(MatrixNMS(kernel)(scores, labels, masks), [0.9, second])


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
    close(MatrixNMS(kernel)(scores, labels, CHAIN), expected)


def test_other_classes_never_suppress():
    """The second overlaps both others and is of another class."""
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 1])
    close(MatrixNMS('linear')(scores, labels, CHAIN), [0.9, 0.8, 0.7 * 4 / 5])


@pytest.mark.parametrize('kernel', KERNELS)
def test_the_input_order_is_kept(kernel):
    scores, labels, masks = tensors(*random_instances(1))
    expected = MatrixNMS(kernel)(scores, labels, masks)
    for _ in range(5):
        order = torch.randperm(len(scores))
        rescored = MatrixNMS(kernel)(scores[order], labels[order], masks[order])
        torch.testing.assert_close(rescored, expected[order])


def test_of_equal_scores_the_first_stays():
    masks = strip((0, 3), (0, 1), (0, 3), (6, 9))
    scores, labels = torch.full((4, ), 0.5), torch.zeros(4, dtype=torch.long)
    close(MatrixNMS('linear')(scores, labels, masks), [0.5, 0.25, 0.0, 0.5])


@pytest.mark.parametrize('kernel', KERNELS)
def test_inputs_are_not_modified(kernel):
    inputs = tensors(*random_instances(2))
    before = [tensor.clone() for tensor in inputs]
    rescored = MatrixNMS(kernel)(*inputs)
    rescored.zero_()
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, before, strict=True))


# The edges


@pytest.mark.parametrize('kernel', KERNELS)
def test_no_instance(kernel):
    labels, masks = torch.zeros(0, dtype=torch.long), torch.zeros(0, 4, 5, dtype=torch.bool)
    rescored = MatrixNMS(kernel)(torch.zeros(0), labels, masks)
    assert rescored.shape == (0, )
    assert rescored.dtype == torch.float32
    assert mask_iou(masks).shape == (0, 0)


@pytest.mark.parametrize('kernel', KERNELS)
def test_one_instance_keeps_its_score(kernel):
    close(MatrixNMS(kernel)(torch.tensor([0.3]), torch.tensor([7]), strip((1, 2))), [0.3])


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('n', [2, 3, 4, 17, 50])
def test_identical_masks(n, ties):
    """Only the best stays, or with the gaussian kernel also exp(-2) of each other score."""
    scores = torch.full((n, ), 0.5) if ties else torch.linspace(0.9, 0.1, n)
    labels, masks = torch.zeros(n, dtype=torch.long), strip((2, 5)).expand(n, 1, 10)
    close(MatrixNMS('linear')(scores, labels, masks), [scores[0].item()] + [0.0] * (n - 1))
    expected = [scores[0].item(), *(scores[1:] * math.exp(-2)).tolist()]
    close(MatrixNMS('gaussian')(scores, labels, masks), expected)


@pytest.mark.parametrize('kernel', KERNELS)
def test_empty_masks_overlap_nothing(kernel):
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long)
    masks = strip((1, 0), (1, 0), (0, 9))
    close(MatrixNMS(kernel)(scores, labels, masks), [0.9, 0.8, 0.7])


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('seed', range(10))
def test_scores_only_fall_and_never_below_zero(kernel, seed):
    """Among 50 masks on 2 x 3 pixels many are equal, many are empty, and so are many scores."""
    rng = np.random.default_rng(seed)
    masks = torch.from_numpy(rng.random((50, 2, 3)) < rng.random())
    scores = torch.from_numpy(rng.integers(0, 9, 50) / 8).float()
    rescored = MatrixNMS(kernel)(scores, torch.from_numpy(rng.integers(0, 2, 50)), masks)
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
def test_large_masks_under_autocast(kernel, dtype):
    scores, labels = torch.ones(3), torch.zeros(3, dtype=torch.long)
    with torch.autocast('cpu', dtype=dtype):
        rescored = MatrixNMS(kernel)(scores, labels, large_masks())
    assert rescored.dtype == torch.float32
    close(rescored, decays_of_large_masks(kernel))


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('dtype', HALVES)
def test_half_precision_scores_are_rescored_in_float32(kernel, dtype):
    labels = torch.zeros(3, dtype=torch.long)
    rescored = MatrixNMS(kernel)(torch.ones(3, dtype=dtype), labels, large_masks())
    assert rescored.dtype == torch.float32
    close(rescored, decays_of_large_masks(kernel))


# Overlaps and settings


def test_overlaps_of_drawn_masks():
    expected = torch.tensor([[1, 0.5, 0.2], [0.5, 1, 0.5], [0.2, 0.5, 1]])
    torch.testing.assert_close(mask_iou(CHAIN), expected)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(kernel='gauss'), "kernel must be 'gaussian' or 'linear', not 'gauss'"),
        (dict(sigma=0), 'sigma must be positive, not 0'),
        (dict(sigma=-2.0), 'sigma must be positive, not -2.0'),
        (dict(sigma=float('nan')), 'sigma must be positive, not nan'),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MatrixNMS(**settings)


def test_it_is_built_from_a_config():
    nms = TASK_UTILS.build(dict(type='mmsolov2.MatrixNMS', kernel='linear', sigma=1.5))
    assert repr(nms) == "MatrixNMS(kernel='linear', sigma=1.5)"
    assert repr(MatrixNMS()) == "MatrixNMS(kernel='gaussian', sigma=2.0)"
