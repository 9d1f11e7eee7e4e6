"""Evaluation beside mmdet's: prediction results to COCO figures, the network excluded.

A set of blobs is made in memory. Both evaluators process the predictions of an image one after the
other; then each computes its figures.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

import mmsolov2  # noqa: F401  isort:skip  (first: it lets mmdet be imported on mmcv-lite)
from mmdet.evaluation import CocoMetric

from mmsolov2.evaluation import CocoInstanceMetric
from mmsolov2.structures.masks import encode_rle, tight_boxes

SIZE = (480, 640)


class Evaluation(NamedTuple):
    """What evaluators found, and what they took."""

    seconds: dict[str, float]
    figures: dict[str, dict]


def blob(random: np.random.Generator) -> np.ndarray:
    """The outline (24, 2) of a wobbly ellipse of 0.5 to 5 % of the image."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = np.sqrt(random.uniform(0.005, 0.05) * SIZE[0] * SIZE[1] / np.pi)
    radius = radius * (1 + 0.2 * random.uniform(-1, 1, 24))
    center = random.uniform(0.1, 0.9, 2) * SIZE[::-1]
    outline = center + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return outline.clip(0, np.subtract(SIZE[::-1], 1))


def annotation(outline: np.ndarray, number: int, image: int, category: int) -> dict:
    """COCO's annotation of an outline (24, 2)."""
    low, high = outline.min(0), outline.max(0)
    return dict(
        id=number,
        image_id=image,
        category_id=category,
        segmentation=[outline.round(2).ravel().tolist()],
        bbox=[*low, *(high - low)],
        area=float(cv2.contourArea(outline.astype(np.float32))),
        iscrowd=0,
    )


def ground_truth(images: int, instances: int, classes: int) -> dict:
    """A COCO file's content, that many instances an image."""
    random = np.random.default_rng(0)
    count = images * instances
    return dict(
        images=[
            dict(id=index + 1, file_name=f'{index}.jpg', height=SIZE[0], width=SIZE[1])
            for index in range(images)
        ],
        categories=[dict(id=index + 1, name=f'class {index}') for index in range(classes)],
        annotations=[
            annotation(
                blob(random), index + 1, index // instances + 1, int(random.integers(classes)) + 1
            )
            for index in range(count)
        ],
    )


def found_in(annotations: list[dict], count: int, random: np.random.Generator) -> dict:
    """Results of ``count`` instances: the annotations in turn, shifted, some with other labels."""
    masks = np.zeros((count, *SIZE), np.uint8)
    for index, mask in enumerate(masks):
        outline = np.reshape(annotations[index % len(annotations)]['segmentation'], (-1, 2))
        outline = outline + random.normal(0, 3 + index // 10, 2)
        cv2.fillPoly(mask, [outline.round().astype(np.int32)], 1)
    masks = torch.from_numpy(masks).bool()
    labels = np.resize([entry['category_id'] - 1 for entry in annotations], count)
    labels = np.where(random.random(count) < 0.2, random.permutation(labels), labels)
    scores = torch.from_numpy(random.random(count)).float().sort(descending=True).values
    return dict(
        bboxes=tight_boxes(masks), scores=scores, labels=torch.from_numpy(labels), masks=masks
    )


def predictions(content: dict, count: int) -> Iterator[dict]:
    """One image's data sample at a time, with ``count`` masks as bitmaps (n, 480, 640)."""
    random = np.random.default_rng(1)
    each = len(content['annotations']) // len(content['images'])
    for number, image in enumerate(content['images']):
        annotations = content['annotations'][number * each : (number + 1) * each]
        found = found_in(annotations, count, random)
        yield dict(pred_instances=found, img_id=image['id'], ori_shape=SIZE)


def with_rle(sample: dict) -> dict:
    """A data sample with its masks as COCO RLE, as our model gives them on request."""
    found = sample['pred_instances']
    return {**sample, 'pred_instances': {**found, 'masks': encode_rle(found['masks'])}}


def seconds(function: Callable, *arguments) -> tuple:
    """What a call returns and how long it took; what it prints is dropped."""
    with redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        result = function(*arguments)
        return result, time.perf_counter() - start


def make_evaluators(content: dict, backend: str) -> dict:
    """Mmdet's evaluator and ours of one ground truth."""
    classes = [entry['name'] for entry in content['categories']]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        file = Path(folder) / 'instances.json'
        file.write_text(json.dumps(content))
        settings = dict(ann_file=str(file), metric=['bbox', 'segm'])
        ours = CocoInstanceMetric(**settings, backend=backend)
        evaluators = dict(mmdet=CocoMetric(**settings), ours=ours)
    for evaluator in evaluators.values():
        evaluator.dataset_meta = dict(classes=classes)
    return evaluators


def evaluate(*, images: int, instances: int, classes: int, format: str, backend: str) -> Evaluation:
    """Seconds and figures of mmdet's evaluator on bitmaps, and of ours on ``format``.

    There are ``instances`` predictions an image and a third as many annotations. ``RLE of
    bitmaps`` is beside them: prediction makes RLE from crops, and takes less.
    """
    content = ground_truth(images, max(instances // 3, 1), classes)
    evaluators = make_evaluators(content, backend)
    taken, encoding = dict.fromkeys(evaluators, 0.0), 0.0
    for sample in predictions(content, instances):
        given = dict(mmdet=sample, ours=sample)
        if format == 'rle':
            given['ours'], spent = seconds(with_rle, sample)
            encoding += spent
        for name, evaluator in evaluators.items():
            taken[name] += seconds(evaluator.process, {}, [given[name]])[1]
    figures = {}
    for name, evaluator in evaluators.items():
        figures[name], spent = seconds(evaluator.evaluate, images)
        taken[name] += spent
    return Evaluation({**taken, 'RLE of bitmaps': encoding}, figures)


def measured_evaluation(bench, args: argparse.Namespace, case: dict) -> dict:
    """Seconds from prediction results to COCO figures, by turns; 3 rounds at most."""
    rounds = [evaluate(**case) for _ in range(min(args.repeats, 3))]
    differing = sum(one.figures['mmdet'] != one.figures['ours'] for one in rounds)
    found = {name: [one.seconds[name] for one in rounds] for name in rounds[0].seconds}
    return dict(case=case, seconds=found, memory={}, notes=[], differing=differing)
