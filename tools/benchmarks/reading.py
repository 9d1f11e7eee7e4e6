"""Reading an annotation file beside mmdet's data set: ours checks every entry of it.

A file as large as COCO's is written once; both data sets are built of it by turns.
"""

import argparse
import gc
import json
import tempfile
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from benchmarks.evaluation import SIZE, annotation, blob, seconds
from mmsolov2.registry import DATASETS

SHAPES = 500  # different masks in a file
CROWD_EVERY = 100  # COCO's share of crowd regions, which are RLE
TYPES = dict(mmdet='mmdet.CocoDataset', ours='mmsolov2.CocoInstanceDataset')


def runs_of(outline: np.ndarray) -> dict:
    """Uncompressed RLE of an outline (n, 2), as COCO has for crowd regions."""
    rle = coco_mask.frPyObjects([outline.ravel().tolist()], *SIZE)[0]
    flat = coco_mask.decode(rle).ravel('F')
    runs = np.diff(np.flatnonzero(np.diff(flat)) + 1, prepend=0, append=flat.size)
    return dict(size=list(SIZE), counts=runs.tolist())


def write_file(path: Path, *, images: int, annotations: int, classes: int) -> None:
    """Write a COCO file of blobs, polygons but for one crowd region in a hundred."""
    random = np.random.default_rng(0)
    outlines = [blob(random) for _ in range(SHAPES)]
    shapes = [annotation(outline, 0, 0, 0) for outline in outlines]
    crowds = [dict(one, segmentation=runs_of(outline), iscrowd=1)
              for one, outline in zip(shapes, outlines, strict=True)]  # fmt: skip
    texts = [[json.dumps(one).partition('"segmentation"')[2] for one in kind]
             for kind in (shapes, crowds)]  # fmt: skip
    chosen = random.integers(SHAPES, size=annotations)
    image, category = (random.integers(1, most + 1, annotations) for most in (images, classes))
    size = f'"height": {SIZE[0]}, "width": {SIZE[1]}'
    with path.open('w') as file:
        file.write('{"images": [')
        file.write(', '.join(
            f'{{"id": {index}, "file_name": "{index:012}.jpg", {size}}}'
            for index in range(1, images + 1)
        ))  # fmt: skip
        file.write('], "categories": ')
        json.dump([dict(id=index + 1, name=f'class {index}') for index in range(classes)], file)
        file.write(', "annotations": [')
        for index in range(annotations):
            kind = texts[index % CROWD_EVERY == CROWD_EVERY - 1]
            file.write(
                f'{", " if index else ""}{{"id": {index + 1}, "image_id": {image[index]}, '
                f'"category_id": {category[index]}, "segmentation"{kind[chosen[index]]}'
            )
        file.write(']}')


def read(type: str, path: Path, classes: int) -> tuple[object, float]:
    """The data set of a file, and the seconds that it took."""
    settings = dict(
        type=type,
        ann_file=str(path),
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=[f'class {index}' for index in range(classes)]),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[],
    )
    gc.collect()
    return seconds(DATASETS.build, settings)


def differing_images(theirs, ours) -> int:
    """How many images do not have the same entry in two data sets."""
    if len(theirs) != len(ours):
        return abs(len(theirs) - len(ours))
    return sum(
        theirs.get_data_info(index) != ours.get_data_info(index) for index in range(len(ours))
    )


def measured_reading(bench, args: argparse.Namespace, case: dict) -> dict:
    """Seconds from an annotation file to a data set, by turns; 3 rounds at most."""
    found = {name: [] for name in TYPES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'instances.json'
        write_file(path, **case)
        for turn in range(min(args.repeats, 3)):
            datasets = {}
            for name in list(TYPES)[:: -1 if turn % 2 else 1]:
                datasets[name], spent = read(TYPES[name], path, case['classes'])
                found[name].append(spent)
    differing = differing_images(datasets['mmdet'], datasets['ours'])
    return dict(case=case, seconds=found, memory={}, notes=[], differing=differing)
