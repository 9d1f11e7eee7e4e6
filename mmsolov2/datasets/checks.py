"""What is wrong or odd in data, with what to do about it."""

import copy
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from mmsolov2.datasets import coco_file
from mmsolov2.datasets.coco_file import CheckedCOCO
from mmsolov2.datasets.fingerprints import Picture, equal_groups, read_pictures
from mmsolov2.datasets.image_files import image_size
from mmsolov2.datasets.segmentation import extent_of
from mmsolov2.datasets.tally import Tally
from mmsolov2.errors import InputError

Level = Literal['error', 'warning', 'note']
LEVELS: tuple[Level, ...] = ('error', 'warning', 'note')
TINY = 16  # pixels of a mask: one of the model's, which are 4x4
SAME_IOU = 0.9  # from which on two masks of a class are one instance
REACH = 2  # pixels that a polygon may go beyond its picture
ROWS = 256  # sides of a polygon compared with all others at a time

WRONG_FILE = 'annotations that cannot be used'
NO_INSTANCES = 'data without a single instance'
NAMELESS = 'images without a file_name'
MISSING = 'pictures that are not there'
UNREADABLE = 'pictures that cannot be decoded, or are truncated'
OTHER_SIZE = 'pictures of another size than annotated'
LEAK = 'pictures that are in several splits'
COPIES = 'pictures that are in a split more than once'
TURNED = 'pictures annotated on their side, before their EXIF tag turns them'
EMPTY = 'pictures without an instance'
CROSSING = 'masks whose outline crosses itself'
OUTSIDE = 'masks that reach out of their picture'
LITTLE = f'masks of less than {TINY} pixels'
TWICE = 'instances that are there twice'
UNUSED = 'classes without an instance'
ONE_SPLIT = 'classes in one split only'
KINDS: dict[str, tuple[Level, str]] = {
    WRONG_FILE: ('error', 'correct the file as the message says'),
    NO_INSTANCES: ('error', 'look at the other findings, or export the annotations again'),
    NAMELESS: ('error', 'name their files'),
    MISSING: ('error', 'add the files, or take them out of the annotations'),
    UNREADABLE: ('error', 'replace the files by JPEG or PNG, or take them out'),
    OTHER_SIZE: ('error', 'annotate the pictures as they are now, or bring the old ones back'),
    LEAK: ('error', 'keep each in one split, or the figures are too good'),
    f'annotations {coco_file.OTHER_SHAPE}': ('error', 'export them as polygons or RLE'),
    f'annotations {coco_file.UNLISTED}': ('error', 'list the images, or take these out'),
    COPIES: ('warning', 'keep one of each'),
    f'annotations {coco_file.NO_MASK}': ('warning', 'draw their masks: a box alone trains nothing'),
    f'annotations {coco_file.NO_PIXELS}': ('warning', 'draw them again, or take them out'),
    f'annotations {coco_file.BROKEN_PARTS}': ('warning', 'look at them: the rest is used'),
    f'annotations {coco_file.OTHER_READING}': ('warning', 'look at them: they are read so'),
    f'annotations {coco_file.OTHER_BOXES}': ('warning', 'look at them: the mask is used'),
    'annotations marked with ignore': ('warning', 'they train nothing: remove the mark'),
    CROSSING: ('warning', 'draw them again: what is inside twice counts as outside'),
    OUTSIDE: ('warning', 'look whether they belong to the picture: what is outside is cut'),
    TWICE: ('warning', 'keep one of each'),
    UNUSED: ('warning', 'take them out of the categories, or annotate some'),
    ONE_SPLIT: ('warning', 'split the pictures again, so that each class trains and is measured'),
    TURNED: ('note', 'nothing: they are trained as they were annotated'),
    EMPTY: ('note', 'nothing, if they show background alone: they train as that'),
    LITTLE: ('note', 'nothing, if that is their size; train at a larger scale'),
    'crowd regions (iscrowd=1)': ('note', 'nothing, if they are crowds: they train nothing'),
}
REFUSED = (WRONG_FILE, NO_INSTANCES)  # with which nothing can be trained


@dataclass
class Finding:
    """One kind of what was found, however often."""

    level: Level
    what: str
    count: int
    examples: list[str]
    remedy: str


class Listed(NamedTuple):
    """A picture that a split lists."""

    split: str
    name: str
    path: Path
    size: tuple[object, object]  # annotated height and width


def check(contents: dict[str, dict], root: Path) -> list[Finding]:
    """What is wrong or odd in COCO content by split, with pictures below ``root``; errors first.

    It begins with what ``CheckedCOCO`` refuses, leaves out and mends when it reads the content for
    training. Every picture is decoded.
    """
    tally = Tally()
    checked = {}
    for split, content in contents.items():
        coco = checked_content(split, content, tally)
        if coco is not None:
            checked[split] = coco
    check_pictures(list(listed(contents, Path(root), tally)), tally)
    for split, coco in checked.items():
        check_masks(split, coco, tally)
    if len(checked) == len(contents):
        check_classes(checked, tally)
    found = [
        Finding(KINDS[what][0], what, count, tally.examples[what], KINDS[what][1])
        for what, count in tally.counts.items()
    ]
    return sorted(found, key=lambda one: (LEVELS.index(one.level), -one.count))


def checked_content(split: str, content: dict, tally: Tally) -> CheckedCOCO | None:
    """A copy of a split's content as training reads it; None if it is refused."""
    try:
        with redirect_stdout(io.StringIO()):  # COCO's code tells its steps
            coco = CheckedCOCO(split, content=copy.deepcopy(content))
    except InputError as error:
        tally.add(WRONG_FILE, error)
        return None
    for counts in (coco.left_out.reasons(), coco.left_out.notes):
        for what, count in counts.items():
            kind = what if what in KINDS else f'annotations {what}'
            tally.add(kind, f'{split}: {coco.left_out.first[what]}', count)
    return coco


# Pictures


def listed(contents: Mapping[str, dict], root: Path, tally: Tally) -> Iterator[Listed]:
    """The pictures that content lists; those without a name are counted."""
    for split, content in contents.items():
        images = content.get('images')
        for image in images if isinstance(images, list) else ():
            if not isinstance(image, dict):
                continue  # the content is refused for it
            name = image.get('file_name')
            if isinstance(name, str) and name:
                size = image.get('height'), image.get('width')
                yield Listed(split, name, root / name, size)
            else:
                tally.add(NAMELESS, f'{split}: image {image.get("id")}')


def check_pictures(pictures: Sequence[Listed], tally: Tally) -> None:
    """Count pictures that are missing, unreadable, of another size, or copies of others."""
    read = read_pictures(one.path for one in pictures)
    prints = {}
    for index, one in enumerate(pictures):
        picture = read[one.path]
        if picture is not None:
            prints[index] = picture.fingerprint
        what = fault_of(one, picture)
        if what:
            tally.add(what, f'{one.split}: {one.name}' + seen_size(one, picture, what))
    for group in equal_groups(prints):
        splits = Counter(pictures[index].split for index in group)
        names = ' = '.join(f'{pictures[i].split}: {pictures[i].name}' for i in group[:3])
        if len(splits) > 1:
            tally.add(LEAK, names, len(group))
        if max(splits.values()) > 1:
            tally.add(COPIES, names, sum(count for count in splits.values() if count > 1))


def usable(contents: dict[str, dict], root: Path) -> dict[str, dict]:
    """What of content that ``check`` does not refuse can be trained, mended as training reads it.

    Images whose file is missing, unreadable or of another size are left out, as annotations are
    that have no mask.
    """
    pictures = list(listed(contents, root, Tally()))
    read = read_pictures(one.path for one in pictures)
    faulty = {
        (one.split, one.name)
        for one in pictures
        if fault_of(one, read[one.path]) not in (None, TURNED)
    }
    found = {}
    for split, content in contents.items():
        images = [one for one in content['images'] if (split, one['file_name']) not in faulty]
        coco = checked_content(split, {**content, 'images': images}, Tally())
        assert coco is not None, 'check refuses such content'
        found[split] = coco.dataset
    return found


def fault_of(one: Listed, picture: Picture | None) -> str | None:
    """What is wrong with a picture, if anything is."""
    if picture is None:
        return UNREADABLE if os.path.exists(one.path) else MISSING
    size = picture.height, picture.width
    if None in one.size or one.size == size:
        return None
    head = image_size(one.path)
    is_turned = head is not None and head.is_turned and one.size == size[::-1]
    return TURNED if is_turned else OTHER_SIZE


def seen_size(one: Listed, picture: Picture | None, what: str) -> str:
    """The two sizes, where they are the fault."""
    if picture is None or what != OTHER_SIZE:
        return ''
    height, width = one.size
    return f' ({picture.width}x{picture.height}, annotated as {width}x{height})'


# Masks


def check_masks(split: str, coco: CheckedCOCO, tally: Tally) -> None:
    """Count masks that are tiny, cross themselves, reach out of the picture or are there twice."""
    images = coco.dataset['images']
    for image in images:
        name = f'{split}: {image.get("file_name")}'
        own = [one for one in coco.imgToAnns.get(image['id'], ()) if not one['iscrowd']]
        if not own and 'annotations' in coco.dataset:
            tally.add(EMPTY, name)
        masks = [coco.annToRLE(one) for one in own]
        for one, mask in zip(own, masks, strict=True):
            for what in faults_of_mask(one['segmentation'], mask, image):
                tally.add(what, f'{name}, bbox {[round(n) for n in one["bbox"]]}')
        for one in repeated(own, masks):
            tally.add(TWICE, f'{name}, bbox {[round(n) for n in one["bbox"]]}')


def faults_of_mask(segmentation: list | dict, mask: dict, image: dict) -> Iterator[str]:
    """What is wrong with a mask."""
    if 0 < coco_mask.area(mask) < TINY:
        yield LITTLE
    if isinstance(segmentation, dict):
        return
    if any(crosses_itself(part) for part in segmentation):
        yield CROSSING
    extent = extent_of(segmentation)
    if extent is None:
        return
    beyond = max(extent.right - image['width'], extent.bottom - image['height'])
    if max(beyond, -extent.left, -extent.top) > REACH:
        yield OUTSIDE


def crosses_itself(polygon: Sequence[float]) -> bool:
    """Whether two sides of a polygon x, y, x, y, … cross; sides that touch or go back do not.

    >>> crosses_itself([0, 0, 4, 4, 4, 0, 0, 4]), crosses_itself([0, 0, 4, 0, 4, 4, 0, 4])
    (True, False)
    """
    start = np.reshape(np.asarray(polygon, float), (-1, 2))
    end = np.roll(start, -1, 0)

    def side(first: np.ndarray, last: np.ndarray, points: np.ndarray) -> np.ndarray:
        (x, y), (across, down) = points.T, (last - first).T[..., None]
        return np.sign(across * (y - first[:, 1:]) - down * (x - first[:, :1]))

    for row in range(0, len(start), ROWS):
        a, b = start[row : row + ROWS], end[row : row + ROWS]
        parted = side(a, b, start) * side(a, b, end) < 0  # [i, j]: j's ends on either side of i
        parts = side(start, end, a) * side(start, end, b) < 0
        if (parted & parts.T).any():
            return True
    return False


def repeated(annotations: Sequence[dict], masks: Sequence[dict]) -> Iterator[dict]:
    """The annotations of a picture whose mask an earlier one of the class has too."""
    classes = defaultdict(list)
    for index, one in enumerate(annotations):
        classes[one['category_id']].append(index)
    for own in classes.values():
        chosen = [masks[index] for index in own]
        iou = coco_mask.iou(chosen, chosen, [0] * len(own))
        again = (np.tril(iou, -1) > SAME_IOU).any(1)
        yield from (
            annotations[index] for index, is_again in zip(own, again, strict=True) if is_again
        )


# Classes


def check_classes(checked: Mapping[str, CheckedCOCO], tally: Tally) -> None:
    """Count classes that have no instance, or those of one split alone."""
    splits = defaultdict(set)  # of each class
    names = {}
    for split, coco in checked.items():
        by_id = {one['id']: one['name'] for one in coco.dataset['categories']}
        names.update(dict.fromkeys(by_id.values()))
        for one in coco.dataset.get('annotations', ()):
            if not one['iscrowd']:
                splits[by_id[one['category_id']]].add(split)
    annotated = set().union(*splits.values())
    if not annotated:
        tally.add(NO_INSTANCES, ', '.join(checked))
        return
    for name in names:
        if not splits[name]:
            tally.add(UNUSED, name)
        elif len(annotated) > 1 and len(splits[name]) == 1:
            tally.add(ONE_SPLIT, f'{name} ({min(splits[name])})')
