"""The mask loss in strips against mmdet's DiceLoss of all logits at once."""

import pytest
import torch
from mmdet.models.losses import DiceLoss, FocalLoss
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmsolov2.models.position_terms import quadratic_forms
from mmsolov2.models.targets import dice_loss as mask_loss
from mmsolov2.models.targets.dice_loss import (
    DiceSums,
    MaskTargets,
    checkpoint_chunks,
    dice_losses,
    is_dice,
)

SIZE = (9, 14)
LOSS = DiceLoss(loss_weight=3.0, eps=0.01)


@pytest.fixture(params=[1, 100, 10**9], ids=['rows', 'strips', 'whole'])
def strip(request, monkeypatch):
    """Strips of one row, of some that do not divide the height, and no strips."""
    for name in ('CACHED_LOGITS', 'LAUNCHED_LOGITS'):
        monkeypatch.setattr(mask_loss, name, request.param)


def case(
    counts=((3, 5), (2, 4)),
    channels=6,
    size=SIZE,
    dtype=torch.float32,
    device='cpu',
    terms=6,
):
    """Features, kernels, position terms and targets of images with (instances, positives)."""
    features = torch.randn(len(counts), channels, *size, dtype=dtype, device=device)
    positives = sum(p for _, p in counts)
    kernels = torch.randn(positives, channels, dtype=dtype, device=device)
    exact = torch.promote_types(dtype, torch.float32)
    position = torch.randn(positives, terms, dtype=exact, device=device)
    masks = (torch.rand(n, *size, device=device) < 0.3 for n, _ in counts)
    owners = (torch.arange(p, device=device) % max(n, 1) for n, p in counts)
    targets = [MaskTargets(*image) for image in zip(masks, owners, strict=True)]
    return features.requires_grad_(), kernels.requires_grad_(), position.requires_grad_(), targets


def form_of(terms, size):
    """Forms around cells all over the picture; none without terms."""
    if not terms.shape[1]:
        return None
    positions = [[(3 * i) % 8, (5 * i) % 8, 8] for i in range(len(terms))]
    positions = torch.tensor(positions, device=terms.device).view(-1, 3)
    return quadratic_forms(terms, positions, size)


def losses_in_strips(features, kernels, terms, targets, loss):
    """By ``dice_losses``."""
    return dice_losses(features, kernels, form_of(terms, features.shape[2:]), targets, loss)


def losses_at_once(features, kernels, terms, targets, loss):
    """By the loss itself, of all logits of each image."""
    losses, form = [], form_of(terms, features.shape[2:])
    counts = [len(instance) for _, instance in targets]
    images = zip(features, kernels.split(counts), targets, strict=True)
    logits = [torch.einsum('pe,ehw->phw', own, image).float() for image, own, _ in images]
    if form:
        whole = form.across + form.down + form.twist * form.offset
        pairs = zip(logits, whole.split(counts), strict=True)
        logits = [one + own for one, own in pairs]
    for one, (masks, instance) in zip(logits, targets, strict=True):
        losses.append(loss(one, masks[instance], reduction_override='none'))
    return torch.cat(losses)


def with_gradients(losses, features, kernels, terms, *arguments):
    """Losses, and the gradients of their weighted sum."""
    found = losses(features, kernels, terms, *arguments)
    weights = torch.linspace(1, 2, len(found), device=found.device)
    inputs = features, kernels, terms
    gradients = torch.autograd.grad((found * weights).sum(), inputs, materialize_grads=True)
    return found, *gradients


COUNTS = {
    'two images': ((3, 5), (2, 4)),
    'more positives than instances': ((2, 9),),
    'nobody beside somebody': ((0, 0), (2, 4)),
    'instances without positives': ((3, 0), (2, 4)),
    'one': ((1, 1),),
}


@pytest.mark.parametrize('counts', COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize('terms', [0, 1, 6])
def test_equals_the_loss_of_all_logits(strip, counts, terms, device):
    arguments = (*case(counts, device=device, terms=terms), LOSS)
    found = with_gradients(losses_in_strips, *arguments)
    expected = with_gradients(losses_at_once, *arguments)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert all(gradient.any() for gradient in found[1 : 3 + (terms > 0)])


def test_gradients_equal_differences(strip, device):
    *inputs, targets = case(
        ((2, 3), (1, 1)), channels=2, size=(3, 4), dtype=torch.double, device=device
    )

    def sums(features, kernels, terms):
        return DiceSums.apply(features, kernels, targets, *form_of(terms, (3, 4)))

    assert torch.autograd.gradcheck(sums, inputs)


def test_sums_by_hand():
    """Logits 0 have probability 1/2, at each of 4 pixels, of which 3 and 1 are the targets."""
    masks = torch.tensor([[[True, True], [True, False]], [[False, False], [False, True]]])
    targets = [MaskTargets(masks, torch.tensor([1, 0, 1]))]
    sums = DiceSums.apply(torch.ones(1, 5, 2, 2), torch.zeros(3, 5), targets)
    assert sums.tolist() == [[0.5, 1.5, 0.5], [1, 1, 1]]


def test_an_empty_batch_has_losses_and_zero_gradients(device):
    losses, *gradients = with_gradients(
        losses_in_strips, *case(((0, 0), (2, 0)), device=device), LOSS
    )
    assert losses.shape == (0,)
    assert not any(gradient.any() for gradient in gradients)
    assert [gradient.shape for gradient in gradients] == [(2, 6, *SIZE), (0, 6), (0, 6)]


LAYOUTS = {
    'channels last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'part of a larger map': lambda x: torch.nn.functional.pad(x, (0, 3, 0, 2))[..., :9, :14],
    'transposed': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
}


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_features_of_any_layout(strip, layout, device):
    features, *others = case(device=device)
    expected = with_gradients(losses_in_strips, features, *others, LOSS)
    features = layout(features.detach()).requires_grad_()
    assert not features.is_contiguous()
    found = with_gradients(losses_in_strips, features, *others, LOSS)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_autocast_equals_the_loss_of_logits_under_autocast(strip):
    """The products are bfloat16's, to the bit; sums and the gradients' sums are float32's."""
    arguments = (*case(channels=32), LOSS)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = with_gradients(losses_in_strips, *arguments)
        expected = with_gradients(losses_at_once, *arguments)
    exact = losses_in_strips(*arguments)
    assert [each.dtype for each in found] == [torch.float32] * 4
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert (found[0] - exact).abs().max() > 1e-4
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.005 * theirs.abs().max())


def test_after_autocast_backward_computes_the_same_logits(device):
    features, kernels, *others = case(channels=32, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        losses = losses_in_strips(features, kernels, *others, LOSS)
    gradients = torch.autograd.grad(losses.sum(), (features, kernels))
    halves = [tensor.detach().bfloat16().requires_grad_() for tensor in (features, kernels)]
    expected = torch.autograd.grad(losses_in_strips(*halves, *others, LOSS).sum(), halves)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert torch.equal(ours, theirs.float())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_has_gradients_of_its_own_type(dtype, device):
    """That of position terms is float32, as they are."""
    arguments = case(dtype=dtype, device=device)
    losses, *gradients = with_gradients(losses_in_strips, *arguments, LOSS)
    assert losses.dtype == torch.float32
    assert [gradient.dtype for gradient in gradients] == [dtype, dtype, torch.float32]


def test_nothing_waits_for_the_device():
    """Neither forward nor backward reads a value: they run on tensors that have none."""
    with FakeTensorMode():
        losses, *gradients = with_gradients(losses_in_strips, *case(), LOSS)
    assert losses.shape == (9,)
    assert [gradient.shape for gradient in gradients] == [(2, 6, *SIZE), (9, 6), (9, 6)]


class Largest(TorchDispatchMode):
    """The largest result of any operation, in elements."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_nothing_is_as_large_as_all_logits(monkeypatch):
    """Only features and their gradient are as large as that."""
    monkeypatch.setattr(mask_loss, 'CACHED_LOGITS', 2000)
    features, *others = case(((3, 80),), channels=6, size=(20, 25))
    with Largest() as largest:
        with_gradients(losses_in_strips, features, *others, LOSS)
    assert largest.elements == features.numel() == 3000 < 80 * 20 * 25 / 10


@pytest.mark.cuda
def test_a_gpu_takes_no_more_memory_for_more_positives():
    """500 to 2000 positives on 240x320 pixels: all logits would take 154 to 614 MB."""
    peaks = []
    for positives in (500, 2000):
        arguments = case(((9, positives),), channels=16, size=(240, 320), device='cuda')
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with_gradients(losses_in_strips, *arguments, LOSS)
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[0] < 12 * 4 * mask_loss.LAUNCHED_LOGITS  # a dozen strips of float32
    assert peaks[1] < 1.1 * peaks[0]


class OwnDice(DiceLoss):
    """A loss that may do anything."""


def test_which_losses_are_sums():
    assert is_dice(DiceLoss(loss_weight=2.0, eps=1.0))
    assert not is_dice(DiceLoss(naive_dice=True))
    assert not is_dice(DiceLoss(activate=False))
    assert not is_dice(DiceLoss(use_sigmoid=False))
    assert not is_dice(OwnDice())
    assert not is_dice(FocalLoss())


@pytest.mark.parametrize('logits', [1, 300, 10**9], ids=['one by one', 'chunks', 'at once'])
def test_chunks_change_nothing(monkeypatch, logits, device):
    monkeypatch.setattr(mask_loss, 'LAUNCHED_LOGITS', logits)
    features, kernels, terms, ((masks, instance),) = case(((3, 7),), device=device)
    calls = []

    def losses(kernels, terms, instance):
        calls.append(len(instance))
        maps = torch.einsum('pe,ehw->phw', kernels, features[0]) + terms.sum(1)[:, None, None]
        return LOSS(maps, masks[instance], reduction_override='none')

    def by_chunks(_, *positives):
        return checkpoint_chunks(losses, 9 * 14, *positives, instance)

    found = with_gradients(by_chunks, features, kernels, terms)
    chunks = {1: [1] * 7, 300: [2, 2, 2, 1], 10**9: [7]}[logits]
    assert calls[: len(chunks)] == chunks and sorted(calls) == sorted(2 * chunks)
    at_once = lambda _, *positives: losses(*positives, instance)  # noqa: E731
    expected = with_gradients(at_once, features, kernels, terms)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_chunks_of_nothing():
    _, kernels, *_ = case(((3, 0),))
    losses = checkpoint_chunks(lambda kernels: kernels.sum(1), 0 + 1, kernels)
    assert losses.shape == (0,) and losses.requires_grad
