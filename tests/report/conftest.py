"""Figures of pictures that are a few rectangles."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from mmsolov2.report.figures import ReportMetric, figures
from mmsolov2.structures.masks import tight_boxes

HEIGHT, WIDTH = 40, 60
CLASSES = ('cat', 'dog')


def bitmap(box):
    x, y, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + height, x : x + width] = True
    return mask


def annotation(number, image, label, box, crowd=0):
    mask = coco_mask.encode(np.asfortranarray(bitmap(box), np.uint8))
    rle = dict(size=mask['size'], counts=mask['counts'].decode())
    return dict(
        id=number,
        image_id=f'image-{image}',  # hotcoco would not take it
        category_id=f'category-{label}',
        bbox=list(box),
        area=box[2] * box[3],
        iscrowd=crowd,
        segmentation=rle,
    )


def figures_of(folder, truths, found, *, classes=CLASSES, names=None):
    """Figures, and the metric, of truths and found: of each image (label, box, crowd or score)."""
    names = names or [f'{index}.png' for index in range(len(truths))]
    content = dict(
        images=[
            dict(id=f'image-{index}', file_name=name, height=HEIGHT, width=WIDTH)
            for index, name in enumerate(names)
        ],
        categories=[
            dict(id=f'category-{label}', name=name)
            for label, name in reversed([*enumerate(classes)])
        ],
        annotations=[
            annotation(index * 100 + place, index, *one)
            for index, entries in enumerate(truths)
            for place, one in enumerate(entries)
        ],
    )
    file = folder / 'truth.json'
    file.write_text(json.dumps(content))
    metric = ReportMetric(str(file))
    metric.dataset_meta = dict(classes=classes)
    for index, entries in enumerate(found):
        masks = torch.tensor(
            np.array([bitmap(box) for _, box, _ in entries]).reshape(-1, HEIGHT, WIDTH)
        )
        predicted = dict(
            bboxes=tight_boxes(masks),
            scores=torch.tensor([score for *_, score in entries], dtype=torch.float64),
            labels=torch.tensor([label for label, *_ in entries], dtype=torch.int64),
            masks=masks,
        )
        sample = dict(pred_instances=predicted, img_id=f'image-{index}', ori_shape=(HEIGHT, WIDTH))
        metric.process({}, [sample])
    numbers = metric.evaluate(len(found))
    return figures(metric.counted, classes), numbers


@pytest.fixture
def rectangles(tmp_path):
    """Figures and numbers of truths and found: see ``figures_of``."""
    return partial(figures_of, tmp_path)


@pytest.fixture(name='bitmap')
def bitmap_of_rectangle():
    """The mask (H, W) bool of a box xywh."""
    return bitmap
