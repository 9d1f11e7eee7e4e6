"""The same model on a CPU and on a GPU: losses, results, and how often the GPU is waited for."""

import copy
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmsolov2.structures.masks import tight_boxes, with_bitmaps

pytestmark = pytest.mark.cuda
ROOT = Path(__file__).parents[2]
GPU = torch.device('cuda')
SIZE = (64, 96)
SMALL = {
    'backbone.depth': 18,
    'backbone.init_cfg': None,
    'neck.in_channels': [64, 128, 256, 512],
    'neck.out_channels': 64,
    'mask_neck.in_channels': 64,
    'mask_neck.feat_channels': 32,
    'mask_neck.out_channels': 64,
    'mask_head.in_channels': 64,
    'mask_head.feat_channels': 64,
    'mask_head.stacked_convs': 1,
    'mask_head.num_classes': 4,
    'mask_head.num_grids': (10, 8, 6, 4, 3),
}
SEPARATE = dict(type='mmsolov2.SeparateMaskFeatureNeck', in_channels=64, feat_channels=32)
VARIANTS = {
    'published': {},
    '3x3 kernels': {'mask_head.kernel_size': 3},
    'separate features': {'mask_neck': dict(_delete_=True, **SEPARATE, out_channels=64)},
    'deformable': {'mask_head.conv_cfg': dict(type='DCNv2')},
    'an owner for each cell': {'mask_head.assigner.owner': 'last'},
}


def build(variant='published', dtype=torch.float32):
    """A small detector that finds something in noise, on the CPU."""
    config = Config.fromfile(ROOT / 'configs/_base_/models/solov2_r50_fpn.py')
    changes = {**SMALL, **VARIANTS[variant]}
    if 'mask_neck' in changes:
        changes = {name: value for name, value in changes.items() if 'mask_neck.' not in name}
    config.merge_from_dict({f'model.{name}': value for name, value in changes.items()})
    model = MODELS.build(config.model)
    torch.nn.init.constant_(model.mask_head.conv_cls.bias, -1.0)
    torch.nn.init.normal_(model.mask_head.conv_kernel.weight, std=0.1)
    return model.eval().to(dtype)


def on_both(model):
    """A model on the CPU, and its copy on the GPU."""
    return model, copy.deepcopy(model).to(GPU)


RECTANGLES = {  # x1, y1, x2, y2 of the instances of two images
    'some': ([(12, 8, 50, 40), (14, 10, 40, 38), (70, 30, 90, 60)], [(3, 3, 9, 9)]),
    'nobody beside somebody': ([], [(5, 4, 60, 45)]),
    'nobody': ([], []),
}


def batch(model, images='some'):
    """Inputs and data samples of two images of different sizes, where the model is."""
    like = next(model.parameters())
    inputs = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    samples = []
    for size, rectangles in zip((SIZE, (50, 61)), RECTANGLES[images], strict=True):
        masks = np.zeros((len(rectangles), *size), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, rectangles, strict=True):
            mask[y1:y2, x1:x2] = 1
        boxes = torch.tensor(rectangles, dtype=torch.float32).view(-1, 4)
        instances = InstanceData(
            masks=BitmapMasks(masks, *size), bboxes=boxes, labels=torch.arange(len(rectangles))
        )
        meta = dict(img_shape=size, ori_shape=(3 * size[0] // 2, 2 * size[1]))
        instances = instances.to(like.device)
        samples.append(DetDataSample(gt_instances=instances, metainfo=meta))
    return inputs.to(like), samples


# Losses


def losses_and_gradients(model, images='some'):
    """Losses, and the gradients of all parameters that have one, on the CPU."""
    losses = model.loss(*batch(model, images))
    parameters = [one for one in model.parameters() if one.requires_grad]
    gradients = torch.autograd.grad(sum(losses.values()), parameters)
    names = [name for name, one in model.named_parameters() if one.requires_grad]
    found = {**losses, **dict(zip(names, gradients, strict=True))}
    return {name: value.detach().cpu() for name, value in found.items()}


def assert_close(found, expected, tolerance):
    """Every tensor differs by a share of its own largest value at most."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(value.abs().max().item(), 1e-6)
        assert (found[name] - value).abs().max().item() <= tolerance * scale, name


@pytest.mark.parametrize('variant', VARIANTS)
def test_losses_and_gradients_are_those_of_a_cpu(variant):
    """In float64, so that differences are mistakes; what is float32 always is compared as such."""
    cpu, gpu = on_both(build(variant, torch.float64))
    assert_close(losses_and_gradients(gpu), losses_and_gradients(cpu), 1e-5)


@pytest.mark.parametrize('images', RECTANGLES)
def test_losses_and_gradients_in_float32(images):
    cpu, gpu = on_both(build())
    assert_close(losses_and_gradients(gpu, images), losses_and_gradients(cpu, images), 1e-3)


@pytest.mark.parametrize('variant', ['published', '3x3 kernels', 'deformable'])
def test_deterministic_training_repeats_to_the_bit(variant):
    model = build(variant).to(GPU)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = losses_and_gradients(model), losses_and_gradients(model)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


# Results

LIMITS = {
    'none': dict(score_thr=1.0),
    'few': dict(score_thr=0.35),
    'more than nms_pre': dict(nms_pre=20),
    'no limits': dict(nms_pre=None, max_per_img=None),
}


@torch.no_grad()
def results(model, *, rescale=True, **test_cfg):
    """Results of two images, as bitmaps on the CPU, and their sizes."""
    model.mask_head.test_cfg.update(test_cfg)
    samples = model.predict(*batch(model), rescale=rescale)
    sizes = [sample.ori_shape if rescale else sample.img_shape for sample in samples]
    found = [sample.pred_instances.cpu() for sample in samples]
    return [with_bitmaps(one, size) for one, size in zip(found, sizes, strict=True)], sizes


def assert_same_results(found, expected, sizes):
    """Equal but for pixels at the threshold, one in a hundred thousand."""
    for one, other, size in zip(found, expected, sizes, strict=True):
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
        assert one.masks.shape == other.masks.shape == (len(one), *size)
        assert (one.masks != other.masks).sum() <= 1e-5 * one.masks.numel() + 1
        assert torch.equal(one.bboxes, tight_boxes(one.masks))


@pytest.mark.parametrize('mask_format', ['bitmap', 'rle'])
@pytest.mark.parametrize('limits', LIMITS.values(), ids=LIMITS)
def test_results_are_those_of_a_cpu(limits, mask_format):
    cpu, gpu = on_both(build(dtype=torch.float64))
    expected, sizes = results(cpu, **limits, mask_format=mask_format)
    found, _ = results(gpu, **limits, mask_format=mask_format)
    assert_same_results(found, expected, sizes)
    assert all((len(one) > 0) == (limits is not LIMITS['none']) for one in expected)


@pytest.mark.parametrize('rescale', [True, False])
@pytest.mark.parametrize('variant', list(VARIANTS)[1:-1])
def test_results_of_variants_are_those_of_a_cpu(variant, rescale):
    cpu, gpu = on_both(build(variant, torch.float64))
    expected, sizes = results(cpu, rescale=rescale)
    assert_same_results(results(gpu, rescale=rescale)[0], expected, sizes)
    assert all(len(one) > 3 for one in expected)


def test_the_best_results_in_float32_are_those_of_a_cpu():
    cpu, gpu = on_both(build())
    for one, other in zip(results(gpu)[0], results(cpu)[0], strict=True):
        assert torch.equal(one.labels[:3], other.labels[:3])
        torch.testing.assert_close(one.scores[:3], other.scores[:3], rtol=1e-3, atol=1e-4)
        assert (one.masks[:3] != other.masks[:3]).float().mean() < 1e-3


# Waits


def waits(run):
    """How often a run waits for the GPU, by torch's own count."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode('default')
    return sum('called a synchronizing CUDA operation' in str(one.message) for one in seen)


def test_waits_are_counted():
    values = torch.ones(3, device=GPU)
    assert waits(values.nonzero) == 1
    assert waits(lambda: (values.sum().item(), values.cpu())) == 2
    assert waits(lambda: values + 1) == 0


@pytest.mark.parametrize('variant', ['published', '3x3 kernels', 'an owner for each cell'])
@pytest.mark.parametrize('images', RECTANGLES)
def test_training_waits_once_a_batch(images, variant):
    """To learn how many positives there are; neither what comes before waits nor the gradient."""
    model = build(variant).to(GPU).train()
    inputs, samples = batch(model, images)

    def step():
        sum(model.loss(inputs, samples).values()).backward()

    step()
    assert waits(step) == 1


# An image's number of candidates, of the cells that they share and of the results that are kept.
# RLE is made on the CPU: what there is of candidates and their logits goes there, boxes come back.
WAITS = dict(bitmap=3, rle=3 + 6)
WAITS_A_BLOCK = 2  # its cells, and whether it can hold any that is good enough


@torch.no_grad()
@pytest.mark.parametrize('mask_format', WAITS)
@pytest.mark.parametrize('limits', LIMITS.values(), ids=LIMITS)
def test_prediction_waits_a_few_times_an_image(limits, mask_format):
    """And more for each block of candidates beyond ``nms_pre``."""
    model = build().to(GPU)
    everything = dict(nms_pre=None, max_per_img=None, filter_thr=0.0, min_mask_pixels=1)
    candidates = [len(one) for one in results(model, **everything)[0]]
    limits = dict(nms_pre=500, max_per_img=100, filter_thr=0.05, min_mask_pixels=None) | limits
    model.mask_head.test_cfg.update(limits, mask_format=mask_format)
    blocks = sum(count // limits['nms_pre'] if limits['nms_pre'] else 0 for count in candidates)
    inputs, samples = batch(model)
    model.predict(inputs, samples)
    most = 2 * WAITS[mask_format] + WAITS_A_BLOCK * blocks
    assert waits(lambda: model.predict(inputs, samples)) <= most


# The tools


def test_the_tools_train_test_and_predict(tiny_config, tiny_shapes, run_python, tmp_path):
    """They take the GPU by themselves; training is in mixed precision."""
    trained = run_python('tools/train.py', tiny_config, '--work-dir', tmp_path, '--amp')
    log = trained.stdout + trained.stderr
    losses = [float(loss) for loss in re.findall(r' loss: ([\d.]+)', log)]
    assert len(losses) == 12 and all(np.isfinite(losses))
    assert ' memory: ' in log  # which mmengine says of GPUs alone
    checkpoint = tmp_path / 'epoch_3.pth'
    tested = run_python('tools/test.py', tiny_config, checkpoint)
    assert 'coco/segm_mAP' in tested.stdout + tested.stderr
    options = ('--config', tiny_config, '--checkpoint', checkpoint, '--out-dir', tmp_path / 'out')
    run_python('tools/predict.py', tiny_shapes / 'val', *options, '--device', 'cuda:0')
    assert len(list((tmp_path / 'out/overlays').iterdir())) == 6
