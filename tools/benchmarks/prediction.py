"""Prediction beside mmdet's: the network, mask NMS, post-processing, and all of it."""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmdet.models.layers import mask_matrix_nms
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from benchmarks.inputs import Outputs, candidates_of, made_batch, random_images
from benchmarks.models import Runs, autocast, build_heads, build_models, pictures_of
from mmsolov2.registry import TASK_UTILS

STRATEGIES = {
    'matrix': dict(type='mmsolov2.MatrixNMS'),
    'matrix-linear': dict(type='mmsolov2.MatrixNMS', kernel='linear'),
    'hard': dict(type='mmsolov2.HardMaskNMS'),
    'soft': dict(type='mmsolov2.SoftMaskNMS'),
    'fast': dict(type='mmsolov2.FastMaskNMS'),
}


def make_outputs(args: argparse.Namespace, head: nn.Module, case: dict, size) -> Outputs:
    """The batch of made outputs of a case, for a head and a size of mask features."""
    return made_batch(
        case['candidates'],
        args.batch_size,
        num_classes=head.num_classes,
        num_grids=head.num_grids,
        channels=head.mask_channels,
        size=size,
        masks=case.get('masks', 'compact'),
    ).to(args.device)


def postprocess_runs(args: argparse.Namespace, case: dict) -> Runs:
    """From the network's outputs to results."""
    theirs, ours = build_heads(args, case)
    pictures = pictures_of(args, case)
    made = make_outputs(args, ours, case, pictures.mask_size())
    metas = [pictures.meta()] * args.batch_size
    chosen = [candidates_of(made, image)[2] for image in range(args.batch_size)]

    def convolve() -> list[Tensor]:
        return [
            F.conv2d(features[None], kernels[..., None, None])
            for features, kernels in zip(made.features, chosen, strict=True)
            if len(kernels)
        ]

    return dict(
        mmdet=lambda: theirs.predict_by_feat(
            list(made.kernels), list(made.logits), made.features, metas
        ),
        ours=lambda: ours.predict_by_feat(
            list(made.logits), list(made.kernels), made.features, metas, rescale=True
        ),
        floor=convolve,
    )


def replace(module: nn.Module, pick: Callable[[Outputs], object], made: Outputs) -> None:
    """Make a module give made outputs, of its own type, after it has computed its own."""

    def hook(module: nn.Module, inputs, output) -> object:
        nonlocal made
        while not isinstance(output, Tensor):
            output = output[0]
        made = made.to(output.dtype)  # nothing to do but at the first call
        return pick(made)

    module.register_forward_hook(hook)


def predict_runs(args: argparse.Namespace, case: dict) -> Runs:
    """From images to results; the floor is our network alone, with the case's option."""
    theirs, ours = build_models(args, case)
    pictures = pictures_of(args, case)
    made = make_outputs(args, ours.mask_head, case, pictures.mask_size())
    images = random_images(args.batch_size, pictures.padded).to(args.device)
    replace(theirs.mask_head, lambda out: (list(out.kernels), list(out.logits), out.features), made)
    replace(ours.mask_head, lambda out: (list(out.logits), list(out.kernels)), made)
    layout = torch.channels_last if ours.channels_last else torch.contiguous_format
    replace(ours.mask_neck, lambda out: out.features.contiguous(memory_format=layout), made)

    def predict(model: nn.Module) -> list[InstanceData]:
        samples = [DetDataSample(metainfo=pictures.meta()) for _ in images]
        with autocast(args):
            return [one.pred_instances for one in model.predict(images, samples, rescale=True)]

    def network() -> object:
        with autocast(args), ours.precision(args.device.type):
            return ours.network(images)

    return dict(mmdet=lambda: predict(theirs), ours=lambda: predict(ours), floor=network)


def memory_runs(args: argparse.Namespace, case: dict) -> Runs:
    """Post-processing alone, or all of prediction."""
    build = postprocess_runs if case['stage'] == 'post-processing' else predict_runs
    return build(args, case)


def network_runs(args: argparse.Namespace, case: dict) -> Runs:
    """The networks alone; ours with an option of the case, the floor without."""
    theirs, ours = build_models(args, case)
    plain = build_models(args, {**case, 'option': 'none'}).ours
    images = random_images(args.batch_size, pictures_of(args, case).padded).to(args.device)

    def optional() -> object:
        with ours.precision(args.device.type):
            return ours.network(images)

    return dict(
        mmdet=lambda: theirs(images, mode='tensor'),
        ours=optional,
        floor=lambda: plain.network(images),
    )


def nms_runs(args: argparse.Namespace, case: dict) -> Runs:
    """Masks in, scores out; the floor is one product of the masks with themselves."""
    head, size = build_heads(args, case).ours, pictures_of(args, case).mask_size()
    scores, labels, _, masks = candidates_of(make_outputs(args, head, case, size))
    area = masks.sum((1, 2)).float()
    settings = STRATEGIES[case['strategy']]
    ours = TASK_UTILS.build(settings)
    flat = masks.flatten(1).float()

    def theirs() -> Tensor:
        kernel = settings.get('kernel', 'gaussian')
        found = mask_matrix_nms(masks, labels, scores, mask_area=area, kernel=kernel)
        return torch.zeros_like(scores).scatter(0, found[3], found[0])

    runs = dict(ours=lambda: ours(scores, labels, masks), floor=lambda: flat @ flat.T)
    return dict(mmdet=theirs, **runs) if case['strategy'].startswith('matrix') else runs
