"""The same weights give the same numbers as mmdet 3.3.0's SOLOv2.

To the bit of every mask on a CPU; a GPU rounds a convolution and a product otherwise.
"""

import copy

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.structures import InstanceData

from mmsolov2.models.state_dicts import mismatches


def assert_close(ours, theirs, tolerance=1e-5):
    scale = max(theirs.abs().max().item(), 1)
    assert (ours - theirs).abs().max().item() <= tolerance * scale


def assert_same_losses(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, loss in theirs.items():
        rtol = 1e-4 if loss.is_cuda else 1e-5
        torch.testing.assert_close(ours[name], loss, rtol=rtol, atol=1e-7)


def test_an_mmdet_checkpoint_loads_with_nothing_missing_or_unexpected(pair):
    state_dict = CheckpointLoader.load_checkpoint(str(pair.checkpoint))['state_dict']
    renamed = {
        name.replace('mask_head.mask_feature_head.', 'mask_neck.'): value
        for name, value in state_dict.items()
    }
    assert mismatches(pair.ours, renamed) == (len(pair.theirs.state_dict()), [])
    result = pair.ours.load_state_dict(state_dict, strict=True)
    assert not result.missing_keys and not result.unexpected_keys


@pytest.mark.parametrize('size', [(192, 256), (224, 288), (64, 32)])
def test_outputs_are_equal(pair, size):
    theirs, ours = pair.outputs(size)
    assert_close(ours.features, theirs.features)
    for level in range(5):
        assert_close(ours.logits[level], theirs.logits[level])
        assert_close(ours.kernels[level], theirs.kernels[level])


# Losses

SIZE = (224, 288)


def star(rng, center, radius):
    """A polygon of random reach around a centre, as a mask."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    reach = radius * rng.uniform(0.4, 1, 9)
    points = np.stack([center[0] + reach * np.cos(angles), center[1] + reach * np.sin(angles)], 1)
    mask = np.zeros(SIZE, np.uint8)
    return cv2.fillPoly(mask, [points.astype(np.int32)], 1)


def instances_of(masks, labels):
    masks = np.stack(masks) if masks else np.zeros((0, *SIZE), np.uint8)
    bitmaps = BitmapMasks(masks, *masks.shape[1:])
    boxes = bitmaps.get_bboxes(dst_type='hbox').tensor if len(masks) else torch.zeros(0, 4)
    return InstanceData(
        masks=bitmaps, bboxes=boxes.float(), labels=torch.tensor(labels, dtype=torch.long)
    )


def scattered(seed, count, num_classes, radius=(3, 130)):
    rng = np.random.default_rng(seed)
    masks = []
    while len(masks) < count:
        center = rng.uniform(0, [SIZE[1], SIZE[0]])
        mask = star(rng, center, np.exp(rng.uniform(*np.log(radius))))
        if mask.any():
            masks.append(mask)
    return instances_of(masks, rng.integers(0, num_classes, count))


def rectangle(x, y, width, height):
    mask = np.zeros(SIZE, np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


NOBODY = instances_of([], [])
NESTED = instances_of(  # one cell, several owners: the same centre, several sizes and labels
    [rectangle(100 - r, 90 - r, 2 * r, 2 * r) for r in (60, 40, 25, 20, 10)], [3, 1, 4, 1, 5]
)
TWO_LEVELS = instances_of(
    [rectangle(10, 10, 60, 60), rectangle(100, 50, 96, 96), rectangle(150, 90, 100, 92)], [0, 7, 2]
)
TINY = instances_of(
    [
        rectangle(5, 5, 1, 1),
        rectangle(50, 51, 2, 1),
        rectangle(90, 91, 1, 3),
        rectangle(7, 80, 2, 2),
    ],
    [6, 5, 4, 3],
)
BORDERS = instances_of(
    [rectangle(0, 0, 40, 30), rectangle(258, 190, 30, 34), rectangle(0, 0, 288, 224)], [1, 2, 3]
)

BATCHES = {
    'forty': [scattered(0, 40, 80), scattered(1, 33, 80)],
    'one': [scattered(2, 1, 80)],
    'shared cells': [NESTED, NESTED],
    'two levels': [TWO_LEVELS],
    'under four pixels': [TINY, TWO_LEVELS],
    'tiny alone': [TINY],
    'at the borders': [BORDERS],
    'crowded and small': [scattered(3, 40, 2, radius=(2, 20)), NOBODY],
    'nobody beside somebody': [NOBODY, scattered(4, 7, 80)],
    'somebody beside nobody': [scattered(5, 7, 80), NOBODY],
    'nobody at all': [NOBODY, NOBODY],
    **{f'random {seed}': [scattered(10 + seed, 3 * seed, 80)] for seed in range(1, 9)},
}


@pytest.mark.parametrize('batch', BATCHES, ids=str)
@pytest.mark.parametrize('size', [SIZE, (190, 257)], ids=['exact', 'padded'])
def test_losses_are_equal(pair, batch, size):
    """From the outputs of the networks on; images of ``size`` are padded to SIZE."""
    instances = [image.to(pair.device) for image in copy.deepcopy(BATCHES[batch])]
    for image in instances:
        image.masks = image.masks.crop(np.array([0, 0, size[1], size[0]])).pad(SIZE)
    theirs, ours = (outputs.first(len(instances)) for outputs in pair.outputs(SIZE))
    their_losses = pair.theirs.mask_head.loss_by_feat(
        theirs.kernels, theirs.logits, theirs.features, copy.deepcopy(instances), []
    )
    assert_same_losses(pair.ours.mask_head.loss_by_feat(*ours, instances), their_losses)


def leaves(outputs):
    """The same outputs as leaves of a graph, and all of them in one list."""
    outputs = outputs._replace(
        logits=[level.clone().requires_grad_() for level in outputs.logits],
        kernels=[level.clone().requires_grad_() for level in outputs.kernels],
        features=outputs.features.clone().requires_grad_(),
    )
    return outputs, [*outputs.logits, *outputs.kernels, outputs.features]


@pytest.mark.parametrize('batch', ['forty', 'shared cells', 'somebody beside nobody'])
def test_gradients_are_equal(pair, batch):
    """What training adds to the weights is then equal too."""
    instances = [image.to(pair.device) for image in copy.deepcopy(BATCHES[batch])]
    theirs, ours = pair.outputs(SIZE)
    (theirs, their_leaves), (ours, our_leaves) = leaves(theirs), leaves(ours)
    their_losses = pair.theirs.mask_head.loss_by_feat(
        theirs.kernels, theirs.logits, theirs.features, copy.deepcopy(instances), []
    )
    our_losses = pair.ours.mask_head.loss_by_feat(*ours, instances)
    sum(their_losses.values()).backward()
    sum(our_losses.values()).backward()
    for theirs_, ours_ in zip(their_leaves, our_leaves, strict=True):
        expected = torch.zeros_like(ours_) if theirs_.grad is None else theirs_.grad
        atol = 1e-5 * expected.abs().max().item() if expected.is_cuda else 1e-7
        torch.testing.assert_close(ours_.grad, expected, rtol=1e-4, atol=atol)
    assert ours.features.grad.abs().max() > 0


def test_losses_of_uneven_images_are_equal(pair):
    """A batch that the data preprocessor pads to a common size."""
    sizes = [(200, 260), (131, 97), (57, 288)]
    inputs, samples = [], []
    for i, size in enumerate(sizes):
        instances = copy.deepcopy(scattered(20 + i, 12, 80))
        instances.masks = instances.masks.crop(np.array([0, 0, size[1], size[0]]))
        samples.append(DetDataSample(gt_instances=instances, metainfo=dict(img_shape=size)))
        inputs.append(torch.randint(0, 256, (3, *size), dtype=torch.uint8))
    losses = []
    for model in (pair.theirs, pair.ours):
        data = dict(inputs=inputs, data_samples=copy.deepcopy(samples))
        with torch.no_grad():
            losses.append(model(**model.data_preprocessor(data, training=True), mode='loss'))
    assert_same_losses(losses[1], losses[0])


# Predictions


@pytest.mark.parametrize(
    ('network', 'image', 'original'),
    [
        ((192, 256), (192, 256), (192, 256)),
        ((192, 256), (187, 249), (500, 620)),
        ((192, 256), (180, 256), (97, 129)),
        ((224, 288), (193, 288), (193, 333)),
    ],
    ids=['same', 'larger', 'smaller', 'uneven'],
)
def test_predictions_are_equal(pair, network, image, original):
    meta = dict(img_shape=image, ori_shape=original, batch_input_shape=network)
    theirs, ours = pair.outputs(network)
    passing = sum((level.sigmoid() > 0.1).sum().item() for level in ours.logits)
    assert passing > 300 * 2
    their_results = pair.theirs.mask_head.predict_by_feat(
        list(theirs.kernels), list(theirs.logits), theirs.features, [meta] * 2, rescale=True
    )
    our_results = pair.ours.mask_head.predict_by_feat(*ours, [meta] * 2, rescale=True)
    for theirs_, ours_ in zip(their_results, our_results, strict=True):
        assert len(theirs_) == len(ours_) > 10
        assert_same_results(ours_, theirs_)


def assert_same_results(ours, theirs):
    if ours.masks.is_cuda:
        assert_nearly_the_same_results(ours, theirs)
        return
    assert torch.equal(ours.labels, theirs.labels)
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-5)
    assert (ours.masks != theirs.masks).sum() == 0
    assert 0 < ours.masks.float().mean() < 1


def assert_nearly_the_same_results(ours, theirs):
    """All but one in fifty have a twin: of its label, score and pixels, but for a thousandth.

    A pixel whose value is at the threshold changes its mask's score, and those of what it overlaps.
    """
    assert abs(len(ours) - len(theirs)) <= 1
    twins = 0
    for label, score, mask in zip(theirs.labels, theirs.scores, theirs.masks, strict=True):
        near = (ours.labels == label) & ((ours.scores - score).abs() < 1e-3)
        twins += (near & ((ours.masks != mask).float().mean((1, 2)) < 1e-3)).any().item()
    assert twins >= 0.98 * len(theirs)


def test_predictions_of_the_whole_detector_are_equal(pair):
    """Through data preprocessor, network, head and data samples, with unequal images."""
    samples, inputs = [], []
    for size, original in (((128, 96), (300, 225)), ((101, 128), (50, 63))):
        meta = dict(img_shape=size, ori_shape=original, scale_factor=(1, 1))
        samples.append(DetDataSample(metainfo=meta))
        inputs.append(torch.randint(0, 256, (3, *size), dtype=torch.uint8))
    results = []
    for model in (pair.theirs, pair.ours):
        data = dict(inputs=inputs, data_samples=copy.deepcopy(samples))
        with torch.no_grad():
            results.append(model.test_step(data))
    for theirs, ours in zip(*results, strict=True):
        assert len(ours.pred_instances) > 10
        assert_same_results(ours.pred_instances, theirs.pred_instances)
