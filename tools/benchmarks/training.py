"""Training beside mmdet's: targets, the loss, and a whole step."""

import argparse
from collections.abc import Callable

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor, nn

from benchmarks.inputs import Outputs, random_images
from benchmarks.models import Runs, autocast, build_heads, build_models, pictures_of
from mmsolov2.errors import InputError
from mmsolov2.models.targets.grid_assigner import ImageTargets

SHARE = (0.002, 0.1)  # of the picture that an instance covers, uniform in the logarithm
LOSS_TOLERANCE = 1e-4  # relative


def made_instances(
    count: int, size: tuple[int, int], *, num_classes: int, device: torch.device, seed: int = 0
) -> InstanceData:
    """Ellipses of 0.2 to 10 % of a picture, ``count`` instances as mmdet's pipeline gives them."""
    rng = np.random.default_rng(seed)
    masks, boxes = np.zeros((count, *size), np.uint8), np.zeros((count, 4), np.float32)
    for mask, box in zip(masks, boxes, strict=True):
        radius = np.sqrt(np.exp(rng.uniform(*np.log(SHARE))) * size[0] * size[1] / np.pi)
        ratio = np.exp(rng.uniform(-0.5, 0.5))
        center = (int(rng.integers(size[1])), int(rng.integers(size[0])))
        axes = (max(int(radius * ratio), 1), max(int(radius / ratio), 1))
        cv2.ellipse(mask, center, axes, int(rng.integers(180)), 0, 360, 1, -1)
        y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[:] = x[0], y[0], x[-1] + 1, y[-1] + 1
    labels = torch.from_numpy(rng.integers(0, num_classes, count))
    return InstanceData(
        masks=BitmapMasks(masks, *size),
        bboxes=torch.from_numpy(boxes).to(device),
        labels=labels.to(device),
    )


def targets_runs(args: argparse.Namespace, case: dict) -> Runs:
    """Instances of an image to targets."""
    theirs, ours = build_heads(args, case)
    pictures = pictures_of(args, case)
    instances = made_instances(
        case['instances'], pictures.padded, num_classes=ours.num_classes, device=args.device
    )
    return dict(
        mmdet=lambda: theirs._get_targets_single(instances, pictures.mask_size()),
        ours=lambda: ours.targets([instances], pictures.padded)[0],
    )


def differing_targets(theirs: tuple, ours: ImageTargets) -> int:
    """Cells with another label and mask pixels that differ, of all positives in their order."""
    masks, labels, _, cells = theirs
    their_masks, our_masks = torch.cat(masks).bool(), ours.masks[ours.instance]
    if their_masks.shape != our_masks.shape or sum(map(len, cells)) != len(ours.cell):
        return max(len(ours.cell), 1)
    their_labels = torch.cat([level.flatten() for level in labels])
    wrong = (their_labels != ours.labels).sum() + (their_masks != our_masks).sum()
    return int(wrong)


def made_leaves(args: argparse.Namespace, head: nn.Module, size: tuple[int, int]) -> Outputs:
    """Random outputs of a network, with gradients."""
    generator = torch.Generator().manual_seed(0)
    channels = head.mask_channels

    def leaf(*shape: int, scale: float = 1.0) -> Tensor:
        values = scale * torch.randn(args.batch_size, *shape, generator=generator)
        return values.to(args.device).requires_grad_()

    return Outputs(
        [leaf(head.num_classes, side, side) for side in head.num_grids],
        [leaf(channels, side, side, scale=0.05) for side in head.num_grids],
        leaf(channels, *size),
    )


def their_loss(head: nn.Module, outputs: Outputs, instances: list[InstanceData]) -> dict:
    """Mmdet's losses of outputs, and their gradients."""
    return backward(
        head.loss_by_feat(outputs.kernels, outputs.logits, outputs.features, instances, [])
    )


def our_loss(head: nn.Module, outputs: Outputs, instances: list[InstanceData]) -> dict:
    """Our losses of outputs, and their gradients."""
    return backward(head.loss_by_feat(*outputs, instances))


def backward(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses after their sum went backward."""
    sum(losses.values()).backward()
    return {name: loss.detach() for name, loss in losses.items()}


def anew(run: Callable, model: nn.Module, outputs: Outputs, *arguments) -> Callable[[], dict]:
    """A run that begins without gradients and leaves none."""

    def clean() -> dict:
        losses = run(model, outputs, *arguments)
        for leaf in (*outputs.logits, *outputs.kernels, outputs.features):
            leaf.grad = None
        return losses

    return clean


def with_positives(head: nn.Module, wanted: int, instances: InstanceData, size) -> InstanceData:
    """The first instances that have as many positives together, or a few more.

    Raises:
        InputError: if all of them have fewer.
    """
    (targets,) = head.targets([instances], size)
    found = torch.bincount(targets.instance, minlength=len(instances)).cumsum(0)
    if found[-1] < wanted:
        raise InputError(f'{wanted} positives cannot be made; {int(found[-1])} can')
    return instances[: int((found < wanted).sum()) + 1]


def instances_of_batch(
    args: argparse.Namespace, count: int, size: tuple[int, int], num_classes: int
) -> list[InstanceData]:
    """``made_instances`` for each image of a batch, all of them different."""
    settings = dict(num_classes=num_classes, device=args.device)
    return [made_instances(count, size, **settings, seed=seed) for seed in range(args.batch_size)]


def loss_runs(args: argparse.Namespace, case: dict) -> Runs:
    """The loss and its backward, of made outputs and about as many positives an image."""
    theirs, ours = build_heads(args, case)
    pictures = pictures_of(args, case)
    many = instances_of_batch(args, case['positives'] + 10, pictures.padded, ours.num_classes)
    few = [with_positives(ours, case['positives'], one, pictures.padded) for one in many]
    outputs = made_leaves(args, ours, pictures.mask_size())
    return dict(
        mmdet=anew(their_loss, theirs, outputs, few), ours=anew(our_loss, ours, outputs, few)
    )


def step_runs(args: argparse.Namespace, case: dict) -> Runs:
    """Forward, loss and backward; beside them the floor, and the loss alone."""
    theirs, ours = (model.train() for model in build_models(args, case))
    pictures = pictures_of(args, case)
    images = random_images(args.batch_size, pictures.padded).to(args.device)
    classes = ours.mask_head.num_classes
    instances = instances_of_batch(args, case['instances'], pictures.padded, classes)
    meta = {**pictures.meta(), 'img_shape': pictures.padded}
    samples = [DetDataSample(gt_instances=one, metainfo=meta) for one in instances]

    def step(model: nn.Module) -> dict:
        model.zero_grad()
        with autocast(args):
            losses = model.loss(images, samples)
        return backward(losses)

    def floor() -> None:
        ours.zero_grad()
        with autocast(args):
            logits, kernels, features = ours(images, mode='tensor')
            loss = sum(one.float().mean() for one in (*logits, *kernels, features))
        loss.backward()

    outputs = made_leaves(args, ours.mask_head, pictures.mask_size())
    return {
        'mmdet': lambda: step(theirs),
        'ours': lambda: step(ours),
        'floor': floor,
        'mmdet loss': anew(their_loss, theirs.mask_head, outputs, instances),
        'our loss': anew(our_loss, ours.mask_head, outputs, instances),
    }


def differing_losses(theirs: dict, ours: dict) -> int:
    """How many losses differ by more than a ten-thousandth."""
    return sum(
        not torch.isclose(ours[name], loss, rtol=LOSS_TOLERANCE, atol=0)
        for name, loss in theirs.items()
    )
