"""``solov2-plus`` beside the same model without: the floor is a published model, ours its plus."""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from torch import nn

from benchmarks.inputs import Outputs, random_images
from benchmarks.models import Runs, autocast, pictures_of
from benchmarks.prediction import make_outputs, replace
from benchmarks.training import backward, instances_of_batch
from mmsolov2.cli.config import open_config
from mmsolov2.errors import InputError
from mmsolov2.registry import MODELS

PLUS = {
    'solov2_r50_fpn_1x_coco': 'solov2-plus_r50_fpn_ms-3x_coco',
    'solov2-light_r18_fpn_ms-3x_coco': 'solov2-plus_r18_fpn_ms-3x_coco',
}


def build(args: argparse.Namespace, name: str) -> nn.Module:
    """The model of a shipped config, with random weights."""
    torch.manual_seed(0)
    model = open_config(name, args.cfg_options).model
    model.backbone.init_cfg = None
    model = MODELS.build(model).to(args.device)
    model.init_weights()
    return model


def plus_runs(args: argparse.Namespace, case: dict) -> Runs:
    """A training step, a prediction, or post-processing of made outputs alone.

    Raises:
        InputError: if the config has no plus.
    """
    if args.config not in PLUS:
        raise InputError(f'{args.config}: there is no plus of it, only of {", ".join(PLUS)}')
    make = PARTS[case['part']]
    models = dict(ours=PLUS[args.config], floor=args.config)
    return {name: make(args, case, build(args, config)) for name, config in models.items()}


def step(args: argparse.Namespace, case: dict, model: nn.Module) -> Callable[[], dict]:
    """Forward, loss and backward of images with ``instances`` each."""
    pictures = pictures_of(args, case)
    images = random_images(args.batch_size, pictures.padded).to(args.device)
    classes = model.mask_head.num_classes
    instances = instances_of_batch(args, case['instances'], pictures.padded, classes)
    meta = {**pictures.meta(), 'img_shape': pictures.padded}
    samples = [DetDataSample(gt_instances=one, metainfo=meta) for one in instances]
    model.train()

    def run() -> dict:
        model.zero_grad()
        with autocast(args):
            losses = model.loss(images, samples)
        return backward(losses)

    return run


def made_for(args: argparse.Namespace, case: dict, model: nn.Module) -> Outputs:
    """Made outputs of a model; position terms, which its kernels have more, are 0."""
    head = model.mask_head
    made = make_outputs(args, head, case, pictures_of(args, case).mask_size())
    return made._replace(
        kernels=[F.pad(level, (0, 0, 0, 0, 0, head.num_terms)) for level in made.kernels]
    )


def prediction(args: argparse.Namespace, case: dict, model: nn.Module) -> Callable[[], list]:
    """From images to results."""
    pictures, made = pictures_of(args, case), made_for(args, case, model)
    images = random_images(args.batch_size, pictures.padded).to(args.device)
    replace(model.mask_head, lambda out: (list(out.logits), list(out.kernels)), made)
    replace(model.mask_neck, lambda out: out.features, made)
    model.eval()

    def run() -> list:
        samples = [DetDataSample(metainfo=pictures.meta()) for _ in images]
        with torch.inference_mode(), autocast(args):
            return model.predict(images, samples)

    return run


def postprocessing(args: argparse.Namespace, case: dict, model: nn.Module) -> Callable[[], list]:
    """From the network's outputs to results."""
    made = made_for(args, case, model)
    metas = [pictures_of(args, case).meta()] * args.batch_size
    outputs = list(made.logits), list(made.kernels), made.features
    return lambda: model.mask_head.predict_by_feat(*outputs, metas)


PARTS = {'step': step, 'prediction': prediction, 'post-processing': postprocessing}
