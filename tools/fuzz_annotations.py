"""Mutate COCO files, and see that each works or is refused by name: nothing lost, nothing hanging.

    python tools/fuzz_annotations.py --cases 5000 --seed 0

Each case mutates a small file, then loads it as training data, goes through an epoch of its
pipeline, and evaluates perfect predictions on it. It holds if

- every instance that no mutation touched is there, with its own mask, class and image, and an
  untouched file's figures are perfect; or
- it stops with an InputError that names the file and the entry.

Files of cases that fail, or that hang, stay in --out-dir, with their number. The same seed gives
the same cases.
"""

import contextlib
import copy
import faulthandler
import io
import json
import math
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, product
from pathlib import Path

import cv2
import numpy as np
import torch

import mmsolov2  # noqa: F401  isort:skip  (first: it lets mmdet be imported on mmcv-lite)
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from mmsolov2.cli.arguments import tool_parser
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.errors import InputError
from mmsolov2.evaluation import CocoInstanceMetric
from mmsolov2.fileio import require_folder
from mmsolov2.registry import DATASETS
from mmsolov2.structures.masks import encode_rle, tight_boxes

HEIGHT, WIDTH = 40, 56
CLASSES = ('ant', 'bee', 'cat')
IMAGES = 3
INSTANCES = 4  # an image
HANGING = 60  # seconds after which a case counts as hanging
LONGEST_MESSAGE = 2000
NAMED = re.compile(  # the entry, or what is wrong with the whole
    r'(images|annotations|categories)(\[| is|\')|image |category |two categories|no category |'
    r'no COCO file|annotations of the classes|no annotations|none of its|there is no such image'
)
JUNK = (
    None, True, False, 0, 1, -1, 3, 10**30, 1.5, -0.5, 1e308, math.nan, math.inf, -math.inf, '',
    '1', '7', 'x', ' ', '\ud800', 'a' * 5000, [], [[]], [None], [1, 2, 3], [1, 2, 3, 4],
    [1, 2, 3, 4, 5, 6], ['1'], [[1, 2, 3, 4]], {}, {'x': 1}, {'counts': []}, {'counts': 'x'},
    {'size': [HEIGHT, WIDTH], 'counts': [5]}, {'size': [10**9, 10**9], 'counts': [10**18]},
)  # fmt: skip


Instance = tuple[str, str, bytes]  # file name, class, mask (HEIGHT, WIDTH) uint8: what to train on


# The file


def rectangle(index: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of an instance of an image; all are different."""
    return 3 + 13 * index, 4 + 3 * index, 9 + index, 11 + 2 * index


def points_of(index: int) -> list[list[int]]:
    """The corners [x, y] of an instance, from the left upper one."""
    left, top, width, height = rectangle(index)
    right, bottom = left + width, top + height
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def polygon_of(index: int) -> list[int]:
    return [number for point in points_of(index) for number in point]


def mask_of(index: int) -> np.ndarray:
    """The mask (HEIGHT, WIDTH) uint8 of an instance of an image."""
    left, top, width, height = rectangle(index)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def runs_of(index: int) -> dict:
    """Uncompressed RLE of an instance."""
    runs = groupby(mask_of(index).ravel('F').tolist())
    return dict(size=[HEIGHT, WIDTH], counts=[len([*run]) for _, run in runs])


def packed(index: int) -> dict:
    """Compressed RLE of an instance, as JSON has it."""
    (rle,) = encode_rle(torch.tensor(mask_of(index)[None] > 0))
    return dict(rle, counts=rle['counts'].decode())


FORMS = (  # of the segmentation of an instance: all are unambiguous
    lambda index: [polygon_of(index)],
    polygon_of,
    lambda index: [[str(number) for number in polygon_of(index)]],
    points_of,
    lambda index: [points_of(index)],
    lambda index: [dict(x=x, y=y) for x, y in points_of(index)],
    lambda index: json.dumps([polygon_of(index)]),
    lambda index: [polygon_of(index), [1, 2], 'x', [math.nan] * 6],
    runs_of,
    packed,
    lambda index: [packed(index)],
    lambda index: dict(counts=runs_of(index)['counts']),
)


def made_file() -> dict:
    """A COCO file.

    Of an annotation, ``index`` is its place in its image, and ``mark`` its place in the file;
    ``marks`` of an image or a category are those of its annotations.
    """
    annotations = [
        dict(
            id=mark + 1,
            image_id=image,
            category_id=(image + index) % len(CLASSES) + 1,
            bbox=list(rectangle(index)),
            area=math.prod(rectangle(index)[2:]),
            iscrowd=0,
            segmentation=FORMS[(0, 0, 8, 9)[index]](index),
            index=index,
            mark=mark,
        )
        for mark, (image, index) in enumerate(product(range(1, IMAGES + 1), range(INSTANCES)))
    ]
    images = [
        dict(id=number, file_name=f'{number}.png', height=HEIGHT, width=WIDTH)
        for number in range(1, IMAGES + 1)
    ]
    categories = [dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)]
    for key, entries in ('image_id', images), ('category_id', categories):
        for entry in entries:
            entry['marks'] = [one['mark'] for one in annotations if one[key] == entry['id']]
    return dict(info={}, images=images, annotations=annotations, categories=categories)


def instance_of(annotation: dict) -> Instance:
    """What must be trained on of an annotation as it is made."""
    name, mask = CLASSES[annotation['category_id'] - 1], mask_of(annotation['index'])
    return f'{annotation["image_id"]}.png', name, mask.tobytes()


# Mutations: each changes a file in place, and gives the marks of annotations that it may cost

EVERYTHING = set(range(IMAGES * INSTANCES))


def marks(annotations: Sequence[dict]) -> set[int]:
    """What annotations are known by, whatever their order."""
    return {one['mark'] for one in annotations}


def some(rng: random.Random, data: dict) -> list[dict]:
    """Some annotations, at least one."""
    return rng.sample(data['annotations'], rng.randint(1, len(data['annotations'])))


def few(rng: random.Random, data: dict) -> list[dict]:
    """One annotation, more seldom two, or all of them."""
    return rng.sample(data['annotations'], rng.choice([1, 1, 2, len(data['annotations'])]))


def shuffle(rng: random.Random, data: dict) -> None:
    """Another order of everything."""
    for key in ('images', 'annotations', 'categories'):
        rng.shuffle(data[key])


def retype_ids(rng: random.Random, data: dict) -> None:
    """Ids as texts or floats in some places."""
    for entries, key in (
        ('images', 'id'), ('annotations', 'image_id'), ('annotations', 'category_id'),
        ('categories', 'id'), ('annotations', 'id')
    ):  # fmt: skip
        convert = rng.choice([str, float, int])
        for entry in data[entries]:
            if type(entry.get(key)) is int and rng.random() < 0.7:
                entry[key] = convert(entry[key]) if abs(entry[key]) < 2**53 else entry[key]


def renumber(rng: random.Random, data: dict) -> None:
    """Other ids, where all are whole."""
    entries, key = rng.choice([('images', 'image_id'), ('categories', 'category_id')])
    values = [one.get('id') for one in data[entries]]
    values += [one.get(key) for one in data['annotations']]
    if any(type(value) is not int for value in values):
        return
    shift = rng.choice([1, -5, 1000, 2**40, 2**70])
    for one in data[entries]:
        one['id'] += shift
    for one in data['annotations']:
        one[key] += shift


def odd_optional(rng: random.Random, data: dict) -> None:
    """Optional values that are missing, or boxes and areas that contradict the mask."""
    numbers = (0, -1, 0.2, math.nan, math.inf, -math.inf, 1e308, -1e308, 10**30, 10**400)
    for one in some(rng, data):
        key = rng.choice(['bbox', 'area', 'iscrowd', 'id', 'ignore'])
        if key == 'bbox' and rng.random() < 0.6:
            one['bbox'] = [rng.choice(numbers) for _ in range(4)]
        elif key == 'area' and rng.random() < 0.6:
            one['area'] = rng.choice(numbers)
        elif rng.random() < 0.5:
            one[key] = None
        else:
            one.pop(key, None)


def other_form(rng: random.Random, data: dict) -> None:
    """Segmentations as other exports write them."""
    for one in some(rng, data):
        one['segmentation'] = rng.choice(FORMS)(one['index'])


def more_keys(rng: random.Random, data: dict) -> None:
    """Keys that nobody asked for."""
    data[rng.choice(['info', 'licenses', 'x'])] = rng.choice(JUNK)
    rng.choice(data['annotations'])['attributes'] = rng.choice(JUNK)
    rng.choice(data['categories'])['supercategory'] = rng.choice(JUNK)
    for image in data['images']:
        image.update(license=rng.choice(JUNK), height=float(HEIGHT), width=float(WIDTH))


def no_instance(rng: random.Random, data: dict) -> set[int]:
    """Crowd regions, ``ignore``, no or an impossible segmentation, an unlisted image."""
    change = rng.choice([
        dict(iscrowd=1), dict(ignore=1), dict(segmentation=rng.choice(JUNK)), dict(image_id=99),
        dict(segmentation=[[9, 9, 20, 20]]), dict(segmentation=[[1e5, 1e5, 2e5, 1e5, 2e5, 2e5]]),
    ])  # fmt: skip
    changed = few(rng, data)
    for one in changed:
        one.update(change)
    return marks(changed)


def other_numbers(rng: random.Random, data: dict) -> set[int]:
    """Polygons whose numbers mean something else, broken ones, or ones without a pixel."""
    changed, kind = few(rng, data), rng.randrange(7)
    for one in changed:
        points = points_of(one['index'])
        one['segmentation'] = [
            [[n for point in points for n in (*point, rng.choice([2, 0.5, 255]))]],
            [[n for a, b in points for n in (a / WIDTH, b / HEIGHT)]],
            [[n for a, b in points for n in (100 * a / WIDTH, 100 * b / HEIGHT)]],
            [[n for a, b in points for n in (b, a)]],
            [[n for a, b in points for n in (4 * a, 4 * b)]],
            [[*points[0], *points[2], *points[0]]],
            [[n if rng.random() < 0.8 else rng.choice(JUNK) for point in points for n in point]],
        ][kind]
    return marks(changed)


def wrong_runs(rng: random.Random, data: dict) -> set[int]:
    """RLE that does not add up, or not as it should."""
    one = rng.choice(data['annotations'])
    rle = rng.choice([runs_of, packed])(one['index'])
    counts = rle['counts']
    place = rng.randrange(len(counts))
    if isinstance(counts, str):
        junk = rng.choice(['', '~', '0', 'o', 'P', '\n', 'é', 'oooooooooooooo', counts])
        rle['counts'] = counts[:place] + junk + counts[place + rng.choice([0, 1, 5]) :]
    else:
        junk = rng.choice([[], [0], [-1], [10**30], [counts[place] + 5000], [1.5], [None], ['1']])
        rle['counts'] = counts[:place] + junk + counts[place + 1 :]
    if rng.random() < 0.2:
        rle['size'] = rng.choice([None, [], [WIDTH, HEIGHT], [0, 0], [-1, 5], ['40', '56'], 'x'])
    one['segmentation'] = rle
    return marks([one])


def equal_ids(rng: random.Random, data: dict) -> set[int]:
    """Two images or categories of one id or name, or annotations, where it is no fault."""
    key = rng.choice(['images', 'categories', 'annotations'])
    first, second = rng.sample(data[key], 2)
    name = rng.choice(['id', 'name']) if key == 'categories' else 'id'
    second[name] = rng.choice([first.get(name), str(first.get(name))])
    return EVERYTHING if key != 'annotations' else set()


def junk_value(rng: random.Random, data: dict) -> set[int]:
    """A value of any type anywhere, or none."""
    key = rng.choice(['images', 'annotations', 'annotations', 'annotations', 'categories'])
    entry = rng.choice(data[key])
    name = rng.choice([name for name in entry if name not in ('mark', 'marks', 'index')])
    if rng.random() < 0.3:
        del entry[name]
    else:
        entry[name] = rng.choice(JUNK)
    return marks([entry]) if key == 'annotations' else set(entry['marks'])


def junk_entry(rng: random.Random, data: dict) -> set[int]:
    """Something else in the place of an entry or a list, or nothing."""
    key = rng.choice(['images', 'annotations', 'categories'])
    if rng.random() < 0.5:
        data[key][rng.randrange(len(data[key]))] = copy.deepcopy(rng.choice(JUNK))
    else:
        data[key] = copy.deepcopy(rng.choice(JUNK))
    return EVERYTHING


HARMLESS = (shuffle, retype_ids, renumber, odd_optional, other_form, more_keys)
HARMFUL = (no_instance, other_numbers, wrong_runs, equal_ids, junk_value)
LAST = (junk_entry,)  # after it the file has not the parts that others look for


def mutated(rng: random.Random) -> tuple[str, set[int], list[str]]:
    """The text of a mutated file, the annotations that it may cost, and the mutations' names."""
    data, cost = made_file(), set()
    chosen = rng.sample(HARMLESS, rng.randint(0, 3))
    chosen += rng.choices(HARMFUL, k=rng.choice([0, 1, 1, 2]))
    chosen += LAST if rng.random() < 0.05 else ()
    for mutation in chosen:
        cost |= mutation(rng, data) or set()
    text, names = json.dumps(data), [mutation.__name__ for mutation in chosen]
    if rng.random() < 0.1:
        place = rng.randrange(len(text))
        other = rng.choice(['', '0', '-', '"', '[', '}', 'null', 'é'])
        return text[:place] + other + text[place + 1 :], EVERYTHING, [*names, 'other_character']
    return text, cost, names


# What is done with a file


def trained(file: Path) -> list[Instance]:
    """What an epoch over a file trains on."""
    pipeline = [
        dict(type='LoadImageFromFile'), dict(type='mmsolov2.MatchAnnotatedSize'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True), dict(type='PackDetInputs'),
    ]  # fmt: skip
    settings = dict(data_prefix=dict(img=str(file.parent)), metainfo=dict(classes=CLASSES))
    settings |= dict(type='mmsolov2.CocoInstanceDataset', pipeline=pipeline)
    dataset, found = DATASETS.build(dict(ann_file=str(file), **settings)), []
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        name, instances = Path(sample.img_path).name, sample.gt_instances
        pairs = zip(instances.labels.tolist(), instances.masks.masks, strict=True)
        found += [(name, CLASSES[label], mask.tobytes()) for label, mask in pairs]
    return found


def evaluated(file: Path) -> float:
    """Mask AP of perfect predictions, for the ids that the file gives its images."""
    metric = CocoInstanceMetric(str(file), metric=['bbox', 'segm'])
    metric.dataset_meta = dict(classes=CLASSES)
    truth = made_file()['annotations']
    for image in metric._coco_api.dataset['images']:
        own = [one for one in truth if f'{one["image_id"]}.png' == image.get('file_name')]
        masks = torch.tensor(np.array([mask_of(one['index']) for one in own], bool))
        masks = masks.view(-1, HEIGHT, WIDTH)
        found = dict(
            bboxes=tight_boxes(masks),
            scores=torch.ones(len(own)),
            labels=torch.tensor([one['category_id'] - 1 for one in own], dtype=torch.long),
            masks=encode_rle(masks),
        )
        sample = dict(pred_instances=found, img_id=image['id'], ori_shape=(HEIGHT, WIDTH))
        metric.process({}, [sample])
    return metric.evaluate(IMAGES)['coco/segm_mAP'] if metric.results else 0.0


def attempt(use: Callable, file: Path) -> tuple[object, str]:
    """What a use of a file gives, and what is wrong with its refusal, or both empty."""
    try:
        return use(file), ''
    except InputError as error:
        message = str(error)
        named = str(file) in message and NAMED.search(message.replace(str(file), ''))
        named = named and len(message) < LONGEST_MESSAGE and '\n' not in message
        return None, '' if named else f'{use.__name__}: a message that does not help: {message}'
    except Exception as error:  # noqa: BLE001
        return None, f'{use.__name__}: {type(error).__name__}: {error}'


def fault_of(file: Path, cost: set[int]) -> tuple[bool, str]:
    """Whether a file trains, and what is wrong with what comes of it; empty if nothing is."""
    found, fault = attempt(trained, file)
    figure, other = attempt(evaluated, file)
    every = [*map(instance_of, made_file()['annotations'])]
    kept = Counter(one for number, one in enumerate(every) if number not in cost)
    lost = kept - Counter(every if found is None else found)
    fault = fault or other
    if not fault and not cost and (found is None or figure != 1):
        fault = f'a file that is as good as it was is refused, or its mask AP is not 1: {figure}'
    elif not fault and lost:
        image, name, _ = next(iter(lost))
        fault = f'{lost.total()} instances are lost, first {name} in {image}'
    elif not fault and found is not None and len(found) > len(every):
        fault = f'{len(found)} instances train of {len(every)}'
    return found is not None, fault


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what the log and COCO's code say of every file."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def fuzz(folder: Path, cases: int, seed: int) -> tuple[Counter, list[str]]:
    """Try that many cases: how many worked and how many were refused, and the faults."""
    for number in range(1, IMAGES + 1):
        cv2.imwrite(str(folder / f'{number}.png'), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    counts, faults = Counter(), []
    for case in range(cases):
        text, cost, names = mutated(random.Random(f'{seed} {case}'))  # noqa: S311
        file = folder / f'{seed}-{case}.json'
        file.write_text(text)
        faulthandler.dump_traceback_later(HANGING, exit=True, file=sys.__stderr__)
        with quiet():
            works, fault = fault_of(file, cost)
        faulthandler.cancel_dump_traceback_later()
        counts['work' if works else 'are refused'] += 1
        if fault:
            faults.append(f'{file.name} ({", ".join(names)}): {fault}')
            print(faults[-1], file=sys.stderr)
        else:
            file.unlink()
    return counts, faults


def main(argv: Sequence[str] | None = None) -> int:
    parser = tool_parser(__doc__)
    text = '%s (default: %%(default)s)'
    parser.add_argument('--cases', type=int, default=5000, help=text % 'files')
    parser.add_argument('--seed', type=int, default=0, help=text % 'of all cases')
    text = 'folder for files of cases that fail (default: a new one)'
    parser.add_argument('--out-dir', type=Path, help=text)
    args = parser.parse_args(argv)
    init_default_scope('mmdet')
    folder = args.out_dir or Path(tempfile.mkdtemp(prefix='fuzz-'))
    with exit_with_message(str(folder)):
        require_folder(folder)
        counts, faults = fuzz(folder, args.cases, args.seed)
    summary = ', '.join(f'{count} {what}' for what, count in sorted(counts.items()))
    print(f'{args.cases} files: {summary}, {len(faults)} fail')
    if faults:
        print(f'files that fail: {folder}')
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
