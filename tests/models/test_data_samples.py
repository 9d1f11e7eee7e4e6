"""Which data samples train: through mmdet's own data preprocessor and its steps for batches."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from torch import nn

from mmsolov2.errors import InputError
from mmsolov2.models.data_samples import check_ground_truth

SIZES = (
    [(48, 64), (48, 64)],
    [(50, 61), (90, 40)],
    [(33, 70)],
    [(64, 64), (96, 128)],
)


class Doubled(nn.Module):
    """Images of twice the size, and nobody is told."""

    def forward(self, inputs, data_samples):
        return F.interpolate(inputs, scale_factor=2), data_samples


class Halved(nn.Module):
    """Images of half the size, and nobody is told."""

    def forward(self, inputs, data_samples):
        return F.interpolate(inputs, scale_factor=0.5), data_samples


def made(size, polygons=False):
    """A sample of an image of a size, with two instances."""
    height, width = size
    if polygons:
        corners = np.array([2.0, 3, 20, 3, 20, 25, 2, 25])
        masks = PolygonMasks([[corners], [corners + 1]], height, width)
    else:
        masks = BitmapMasks(np.ones((2, height, width), np.uint8), height, width)
    gt = InstanceData(masks=masks, labels=torch.arange(2), bboxes=torch.ones(2, 4))
    meta = dict(img_shape=size, ori_shape=size, img_path='data/a.png')
    return DetDataSample(
        gt_instances=gt, ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)), metainfo=meta
    )


def batches(sizes, steps, pad_mask, polygons=False, count=1):
    """Batches of images of some sizes, as the data preprocessor hands them on."""
    preprocessor = MODELS.build(
        dict(
            type='DetDataPreprocessor',
            pad_size_divisor=32,
            pad_mask=pad_mask,
            batch_augments=[step for step in steps if isinstance(step, dict)],
        )
    )
    preprocessor.batch_augments.extend(step for step in steps if isinstance(step, nn.Module))
    for iteration in range(count):
        MessageHub.get_current_instance().update_info('iter', iteration)
        data = dict(
            inputs=[torch.zeros(3, *size, dtype=torch.uint8) for size in sizes],
            data_samples=[made(size, polygons) for size in sizes],
        )
        yield preprocessor(data, training=True)


def check(batch):
    check_ground_truth(batch['data_samples'], batch['inputs'], 32)


@pytest.mark.parametrize('pad_mask', [True, False])
@pytest.mark.parametrize('sizes', SIZES, ids=str)
@pytest.mark.parametrize('polygons', [False, True], ids=['bitmaps', 'polygons'])
def test_masks_of_images_or_of_the_padded_batch_train(sizes, pad_mask, polygons):
    for batch in batches(sizes, [], pad_mask and not polygons, polygons):
        check(batch)


@pytest.mark.parametrize('pad_mask', [True, False])
@pytest.mark.parametrize('step_pads_mask', [True, False])
@pytest.mark.parametrize('sizes', SIZES, ids=str)
@pytest.mark.parametrize('fixed', [(128, 160), (96, 224), (32, 32), (96, 128)], ids=str)
def test_fixed_size_padding_goes_on(sizes, fixed, step_pads_mask, pad_mask):
    step = dict(type='BatchFixedSizePad', size=fixed, pad_mask=step_pads_mask)
    for batch in batches(sizes, [step], pad_mask):
        check(batch)


def test_padding_of_one_side_alone_goes_on():
    """mmdet pads the narrow side only, yet says batch_input_shape=(64, 128) of 96 rows."""
    step = dict(type='BatchFixedSizePad', size=(64, 128))
    for pad_mask in (True, False):
        (batch,) = batches([(90, 40)], [step], pad_mask)
        assert batch['inputs'].shape[-2:] == (96, 128)
        check(batch)


@pytest.mark.parametrize('pad_mask', [True, False])
@pytest.mark.parametrize('sizes', [*SIZES[:2], [(63, 94)], SIZES[3]], ids=str)
@pytest.mark.parametrize('divisor', [32, 16])
def test_no_batch_that_was_resized_alone_trains(sizes, pad_mask, divisor):
    random.seed(0)
    step = dict(
        type='BatchSyncRandomResize', random_size_range=(64, 256), size_divisor=divisor, interval=1
    )
    whole, refused = next(batches(sizes, [], pad_mask))['inputs'].shape, 0
    for batch in batches(sizes, [step], pad_mask, count=30):
        if batch['inputs'].shape == whole:
            check(batch)
        else:
            with pytest.raises(InputError, match=r'^data/a.png: .* take mmdet\'s Resize'):
                check(batch)
            refused += 1
    assert refused > 20


@pytest.mark.parametrize('pad_mask', [True, False])
@pytest.mark.parametrize('sizes', SIZES, ids=str)
@pytest.mark.parametrize(
    'step',
    [dict(type='BatchResize', scale=(100, 200), pad_size_divisor=32), Doubled(), Halved()],
    ids=['BatchResize', 'doubled', 'halved'],
)
def test_other_steps_that_leave_masks_behind_are_refused(step, sizes, pad_mask):
    (batch,) = batches(sizes, [step], pad_mask)
    with pytest.raises(InputError, match='which move the masks too'):
        check(batch)


@pytest.mark.parametrize('size', [(24, 32), (60, 80), (48, 32), (64, 96)], ids=str)
@pytest.mark.parametrize('polygons', [False, True], ids=['bitmaps', 'polygons'])
def test_masks_that_the_pipeline_left_behind_are_refused(size, polygons):
    """The image was resized or cropped to 48x64, or padded, the masks are of another size."""
    (batch,) = batches([(48, 64)], [], False)
    batch['data_samples'][0].gt_instances = made(size, polygons).gt_instances
    sizes = rf'data/a.png: the masks are \({size[0]}, {size[1]}\), but the image is \(48, 64\), '
    with pytest.raises(InputError, match=sizes + r'and \(64, 64\) with its padding'):
        check(batch)


def test_an_array_that_a_step_changed_is_what_counts():
    (batch,) = batches([(48, 64)], [], False)
    masks = batch['data_samples'][0].gt_instances.masks
    masks.masks = masks.masks[:, :24, :32]
    with pytest.raises(InputError, match=r'the masks are \(24, 32\)'):
        check(batch)


def test_masks_may_be_a_tensor():
    (batch,) = batches([(48, 64)], [], False)
    gt = batch['data_samples'][0].gt_instances
    gt.masks = torch.ones(2, 48, 64)
    check(batch)
    gt.masks = torch.ones(2, 40, 64)
    with pytest.raises(InputError, match=r'the masks are \(40, 64\)'):
        check(batch)


def test_without_metainfo_masks_need_only_fit_into_the_images():

    def without(size):
        return [DetDataSample(gt_instances=made(size).gt_instances)]

    check_ground_truth(without((48, 60)), torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match=r'^image 0 of the batch: the masks are \(48, 70\)'):
        check_ground_truth(without((48, 70)), torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda gt: gt.pop('masks'), 'training needs masks: set with_mask=True of LoadAnno'),
        (lambda gt: gt.pop('labels'), 'training needs labels: set with_label=True of LoadAnno'),
        (lambda gt: setattr(gt, 'masks', [1, 2]), 'masks must be BitmapMasks, .*, not list'),
        (
            lambda gt: setattr(gt, 'masks', torch.ones(2, 1, 48, 64)),
            r'masks .*Tensor \(2, 1, 48, 64',
        ),
        (lambda gt: setattr(gt, 'labels', gt.labels.int()), r'labels must be .*\(2, torch.int32\)'),
        (lambda gt: setattr(gt, 'labels', gt.labels[:, None]), r'labels must be .*Tensor \(2, 1, '),
        (lambda gt: setattr(gt, 'labels', np.arange(2)), 'labels must be .*, not ndarray'),
        (lambda gt: setattr(gt, 'bboxes', torch.ones(2, 5)), r'bboxes must be .* \(2, 5, torch'),
        (
            lambda gt: setattr(gt, 'bboxes', HorizontalBoxes(gt.bboxes)),
            'bboxes must be a tensor .*boxtype2tensor=True.*, not HorizontalBoxes',
        ),
        (
            lambda gt: setattr(gt.masks, 'masks', gt.masks.masks[:1]),
            r"\{'masks': 1, 'labels': 2, 'bboxes': 2\}: every instance needs one of each",
        ),
    ],
)
def test_samples_without_what_training_needs(change, message):
    (batch,) = batches([(48, 64)], [], False)
    change(batch['data_samples'][0].gt_instances)
    with pytest.raises(InputError, match=f'^data/a.png: {message}'):
        check(batch)


def test_samples_without_annotations():
    (batch,) = batches([(48, 64)], [], False)
    del batch['data_samples'][0].gt_instances
    with pytest.raises(InputError, match='^data/a.png: training needs masks'):
        check(batch)


def test_no_images_have_no_loss():
    with pytest.raises(InputError, match='a batch without images has no loss'):
        check_ground_truth([], torch.zeros(0, 3, 64, 64))


@pytest.mark.parametrize(('images', 'samples'), [(2, 1), (1, 2), (0, 1)])
def test_as_many_samples_as_images(images, samples):
    (batch,) = batches([(48, 64)] * 2, [], False)
    message = f'{samples} data samples of {images} images'
    with pytest.raises(InputError, match=message):
        check_ground_truth(batch['data_samples'][:samples], batch['inputs'][:images])
