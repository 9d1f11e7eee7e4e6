"""Predictions as files of other programs, made of the records of images.

A record is what is kept of an image: ``id``, ``file_name``, ``width``, ``height`` and ``results``,
as of ``to_coco``; or ``id``, ``file_name`` and ``error``, or all of them.
"""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask

from mmsolov2.apis.inference import coco_categories
from mmsolov2.errors import InputError
from mmsolov2.structures.masks import center_of_mass, joined, mask_polygons, pixel_counts

EDITED = 1.0  # pixels that the outlines for labelme may be off, so that they have few corners
SIZES = ('id', 'file_name', 'width', 'height')  # of an image in COCO files


class About(NamedTuple):
    """What the files of all images need beside the records."""

    out_dir: Path
    images_dir: str  # from which the names of images start
    classes: Sequence[str]


# Of one image: its file's bytes


def labelme(record: Mapping, about: About) -> bytes:
    """The JSON that labelme opens beside its image: polygons alone, parts of one in a group."""
    shapes = [
        dict(
            label=result['category_name'],
            points=np.reshape(polygon, (-1, 2)).tolist(),
            group_id=group if len(polygons) > 1 else None,
            description=f'{result["score"]:.3f}',
            shape_type='polygon',
            flags={},
            mask=None,
        )
        for group, result in enumerate(record['results'], 1)
        for polygons in [mask_polygons(bitmap_of(result), EDITED)]
        for polygon in polygons
    ]
    image = Path(about.images_dir, record['file_name'])
    path = (about.out_dir / 'labelme' / record['file_name']).parent
    content = dict(
        version='5.5.0',
        flags={},
        shapes=shapes,
        imagePath=Path(os.path.relpath(image, path)).as_posix(),
        imageData=None,
        imageHeight=record['height'],
        imageWidth=record['width'],
    )
    return json.dumps(content).encode()


def yolo(record: Mapping, about: About) -> bytes:
    """The text of YOLO's segmentation labels: a line an instance, its parts joined by lines."""
    labels = {one['id']: label for label, one in enumerate(coco_categories(about.classes))}
    size = (record['width'], record['height'])
    lines = []
    for result in record['results']:
        rings = [np.reshape(ring, (-1, 2)) for ring in mask_polygons(bitmap_of(result))]
        places = ' '.join(f'{value:.6g}' for value in (joined(rings) / size).ravel())
        lines.append(f'{labels[result["category_id"]]} {places}\n')
    return ''.join(lines).encode()


def masks(record: Mapping, about: About) -> bytes:
    """A 16-bit PNG of the numbers of instances, from 1, the best on top; 0 is none."""
    numbers = np.zeros((record['height'], record['width']), np.uint16)
    for number, result in reversed(list(enumerate(record['results'], 1))):
        numbers[bitmap_of(result)] = number
    return encode_png(numbers, f'{record["file_name"]}: its mask')


# Of all images: the contents of files


def coco(records: Sequence[Mapping], about: About) -> dict[str, bytes]:
    """COCO results, and the images and categories that they refer to."""
    results = [result for record in records for result in record['results']]
    return {
        'images.json': json.dumps(dataset(records, about, [])).encode(),
        'predictions.json': json.dumps(results).encode(),
    }


def polygons(records: Sequence[Mapping], about: About) -> dict[str, bytes]:
    """A COCO data set whose annotations are polygons, as ``mask_polygons`` makes them."""
    annotations = [
        dict(
            id=number,
            image_id=result['image_id'],
            category_id=result['category_id'],
            segmentation=mask_polygons(bitmap_of(result)),
            area=int(coco_mask.area(result['segmentation'])),
            bbox=result['bbox'],
            iscrowd=0,
            score=result['score'],
        )
        for number, result in enumerate((r for record in records for r in record['results']), 1)
    ]
    return {'polygons.json': json.dumps(dataset(records, about, annotations)).encode()}


def csv_tables(records: Sequence[Mapping], about: About) -> dict[str, bytes]:
    """A table of instances, and one of how many an image has of each class."""
    head = ['picture', 'class', 'score', 'x1', 'y1', 'x2', 'y2', 'area', 'center_x', 'center_y']
    rows = (row for record in records for row in instance_rows(record))
    counted = [
        (record, Counter(r['category_name'] for r in record['results'])) for record in records
    ]
    counts = (
        [record['file_name'], *(count[name] for name in about.classes), count.total()]
        for record, count in counted
    )
    return {
        'instances.csv': table([head, *rows]),
        'counts.csv': table([['picture', *about.classes, 'all'], *counts]),
    }


def data_yaml(records: Sequence[Mapping], about: About) -> dict[str, bytes]:
    """What YOLO's training reads first; its images are to be put into ``yolo/images``."""
    names = ''.join(f'  {label}: {json.dumps(name)}\n' for label, name in enumerate(about.classes))
    return {'yolo/data.yaml': f'path: .\ntrain: images\nval: images\nnames:\n{names}'.encode()}


def dataset(records: Sequence[Mapping], about: About, annotations: list[dict]) -> dict:
    """A COCO data set of images, of categories and of annotations."""
    return dict(
        info=dict(description='images predicted by mmsolov2', folder=about.images_dir),
        images=[{key: record[key] for key in SIZES} for record in records],
        annotations=annotations,
        categories=coco_categories(about.classes),
    )


def instance_rows(record: Mapping) -> Iterator[list]:
    """Image, class, score, box xyxy, area and centre xy of mass of each instance, in pixels.

    As in boxes 0 is the border of the first pixel, so that its centre is at 0.5.
    """
    for result in record['results']:
        x, y, width, height = result['bbox']
        rows, columns = pixel_counts(torch.from_numpy(bitmap_of(result))[None])
        (center,) = center_of_mass(rows, columns).tolist()
        yield [
            record['file_name'],
            result['category_name'],
            result['score'],
            *(x, y, x + width, y + height),
            int(rows.sum()),
            *(f'{place + 0.5:.2f}' for place in reversed(center)),
        ]


def table(rows: Sequence[Sequence]) -> bytes:
    """The bytes of a CSV file; what is no UTF-8 in a name of a file stays what it is."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue().encode('utf-8', 'surrogateescape')


def bitmap_of(result: Mapping) -> np.ndarray:
    """The mask (H, W) bool of a COCO result."""
    return np.ascontiguousarray(coco_mask.decode(result['segmentation'])).view(bool)


def encode_png(image: np.ndarray, about: str) -> bytes:
    """The bytes of a PNG of a picture (H, W, 3) uint8 BGR or (H, W) uint16.

    Raises:
        InputError: about it, if it is too large.
    """
    done, data = cv2.imencode('.png', image)
    if not done:
        raise InputError(f'{about} is too large for PNG')
    return data.tobytes()


OfImage = Callable[[Mapping, About], bytes]
OfAll = Callable[[Sequence[Mapping], About], dict[str, bytes]]
OF_IMAGE: dict[str, tuple[str, str, OfImage]] = {  # folder, extension
    'labelme': ('labelme', '.json', labelme),
    'yolo': ('yolo/labels', '.txt', yolo),
    'masks': ('masks', '.png', masks),
}
OF_ALL: dict[str, OfAll] = {
    'coco': coco,
    'polygons': polygons,
    'csv': csv_tables,
    'yolo': data_yaml,
}
FORMATS = tuple(sorted({*OF_IMAGE, *OF_ALL}))
