"""COCO annotation files, checked when they are read: what is odd is mended, left out or named."""

import json
import math
import operator
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import SupportsIndex

from mmdet.datasets.api_wrappers import COCO
from pycocotools import mask as coco_mask

from mmsolov2.datasets.json_file import clipped, paused_collector, read_json
from mmsolov2.datasets.left_out import Entry, LeftOut
from mmsolov2.datasets.segmentation import (
    FARTHEST,
    Extent,
    ShapeError,
    each_runs,
    extent_of,
    has_third_numbers,
    kind_of,
    plain_counts,
    read_segmentation,
    readings,
    shape_of,
    without_empty_runs,
)
from mmsolov2.errors import InputError

MOST_PIXELS = 2**32  # of an image: COCO's code counts them in 32 bits
NUMBERS = frozenset((int, float))
AGREEING_IOU = 0.5  # from which on a box is the mask's, drawn by somebody else
TELLING_IOU = 0.8  # from which on a box says how numbers are to be read,
BETTER = 0.25  # and by how much
AREA_RATIO = 32  # how many times an area a mask may have
NEEDED_IN_IMAGES = 'images need id, file_name, height and width'
NAMES = 1500  # characters of the names of classes in a message
UNLISTED = 'of images that the file does not list'
NO_MASK = 'without a segmentation'
OTHER_SHAPE = 'whose segmentation is neither polygons nor RLE'
DOUBTS = 'fractions of the image or three numbers a point'
NO_PIXELS = 'without a pixel in their image'
BROKEN_PARTS = 'that lost parts which are no polygons'
OTHER_READING = 'whose boxes say that their numbers are to be read otherwise'
OTHER_BOXES = 'whose boxes contradict their masks'


def _title(entry: dict) -> object:
    """What names an image or a category for a person."""
    return entry.get('file_name') or entry.get('name')


def _some(ids: Iterable) -> str:
    """A few ids."""
    shown = list(map(repr, ids))
    more = f' and {len(shown) - 10} more' if len(shown) > 10 else ''
    return clipped(', '.join(shown[:10])) + more


def identity(value: object) -> int | str | None:
    """An id as it is compared: whole numbers and their texts are one. None if it is no id.

    >>> [identity(value) for value in (7, '7', 7.0, '007', 'cat', 7.5, True)]
    [7, 7, 7, '007', 'cat', None, None]
    """
    if type(value) is int:
        return value
    if isinstance(value, str) and value:
        return int(value) if re.fullmatch(r'-?(0|[1-9]\d{0,39})', value, re.ASCII) else value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    return operator.index(value)  # NumPy's, torch's


def find(entries: Mapping[int | str, dict], value: object) -> dict | None:
    """The entry of an id; a text with zeros in front is that number if it is nothing else."""
    number = identity(value)
    found = None if number is None else entries.get(number)
    if found is None and isinstance(number, str) and re.fullmatch(r'0\d{1,39}', number, re.ASCII):
        return entries.get(int(number))
    return found


def by_number(entries: dict[int | str, dict]) -> dict[int | str, dict]:
    """Entries by their ids, and those whose ids are texts with zeros in front by number too."""
    for number, entry in list(entries.items()):
        if isinstance(number, str) and re.fullmatch(r'0\d{1,39}', number, re.ASCII):
            entries.setdefault(int(number), entry)
    return entries


def objects_of(content: dict, key: str, file: str) -> list[dict]:
    """The objects of a list in a COCO file's content.

    Raises:
        InputError: if it is no list, or one of something else.
    """
    entries = content[key]
    if not isinstance(entries, list):
        raise InputError(f'{file}: this is no COCO file: {key} is {kind_of(entries)}, not a list')
    for index, entry in enumerate(entries):
        if type(entry) is not dict:
            raise InputError(
                f'{file}: {key}[{index}] is {kind_of(entry)}, not an object with an id'
            )
    return entries


def iou_with(bbox: Sequence[float] | None, extent: Sequence[float], image: dict) -> float:
    """The IoU of a box (x, y, width, height) with x1, y1, x2, y2, …, both cut to the image.

    0 without a box, and where it is none: with sides of nothing, NaN or beyond all images.
    """
    if bbox is None or not (min(bbox) > -FARTHEST and max(bbox) < FARTHEST):
        return 0
    x, y, width, height = bbox
    left, top, right, bottom = extent[:4]
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, image['width']), min(bottom, image['height'])
    x2, y2 = min(x + width, image['width']), min(y + height, image['height'])
    x, y = max(x, 0), max(y, 0)
    across, down = min(x2, right) - max(x, left), min(y2, bottom) - max(y, top)
    if not (across > 0 and down > 0):  # nor NaN
        return 0
    shared = across * down
    return shared / ((right - left) * (bottom - top) + (x2 - x) * (y2 - y) - shared)


def area_agrees(area: float, pixels: float, image: dict) -> bool:
    """Whether an area can be that of a mask of at most so many pixels."""
    return pixels / AREA_RATIO <= area <= image['width'] * image['height'] and area > 0


class CheckedCOCO(COCO):
    """mmdet's reader of COCO files, which mends what is odd and says what is wrong.

    ``dataset['annotations']`` are those that have a mask, or with ``boxes_alone`` a box: each has
    polygons or RLE that adds up, and ``bbox``, ``area`` and ``iscrowd``. A box or an area that is
    missing or contradicts the mask is the mask's. Ids that differ only in type are one id;
    annotations are numbered from 1, whatever their ids: COCO's code needs them different, and not
    0. What is left out, and what counts as no instance, is in ``left_out``. A file of test images
    has no annotations. Messages call the file by ``name``, for one that was fetched from elsewhere.
    ``content``, which is mended in place, is taken instead of what the file holds.

    Raises:
        InputError: if the file is missing or no COCO file; a value is of a wrong type; images or
            categories share an id or a name; an annotation's category is not listed; RLE does not
            add up to the image, or is of another size; or a category that is asked for is missing.
    """

    def __init__(
        self,
        annotation_file: str,
        name: str | None = None,
        *,
        boxes_alone: bool = False,
        content: dict | None = None,
    ) -> None:
        super().__init__()
        self.file = name or annotation_file
        self.boxes_alone = boxes_alone
        self.left_out = LeftOut()
        with paused_collector():
            self.dataset = read_json(annotation_file, self.file) if content is None else content
        lacking = {'images', 'categories'} - self.dataset.keys()
        if lacking:
            raise InputError(f'{self.file}: this is no COCO file, it lacks {sorted(lacking)}')
        with paused_collector():
            self.image_of_id = by_number(self._checked_images())
            categories = by_number(self._checked_categories())
            self.totals: Counter[int | str] = Counter()  # annotations in the file, by category
            self._mend_annotations(self.image_of_id, categories)
            self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs  # mmdet's names

    def _mend_annotations(self, images: dict, categories: dict) -> None:
        """Keep the usable annotations, mended."""
        if self.dataset.get('annotations') is None:
            self.dataset.pop('annotations', None)
            return
        annotations = self._entries('annotations')
        entries = list(self._listed(annotations, images, categories))
        self._check_runs(entries)
        usable = [entry for entry in entries if self._is_usable(entry)]
        for number, entry in enumerate(usable, 1):
            entry.annotation['id'] = number
        self.dataset['annotations'] = [entry.annotation for entry in usable]

    @property
    def total(self) -> int:
        """Annotations in the file, whether they are usable or not."""
        return self.totals.total()

    def get_cat_ids(self, cat_names: Sequence[str]) -> list[int | str]:
        """Ids of the named categories, in the order of the names."""
        ids = {category['name']: category['id'] for category in self.dataset['categories']}
        check_categories(self.file, tuple(ids), cat_names)
        return [ids[name] for name in cat_names]

    # Entries and their values

    def _entries(self, key: str) -> list[dict]:
        """The objects of a list of the file."""
        return objects_of(self.dataset, key, self.file)

    def _fault(self, entry: dict, name: str, key: str, needed: str) -> InputError:
        """The error of a value that is missing or of a wrong kind."""
        if entry.get(key) is None:
            return InputError(f'{self.file}: {name} lacks {key!r}, {needed}')
        shown = clipped(json.dumps(entry[key]))
        return InputError(f'{self.file}: {name} has {key} {shown}, not {needed}: correct the file')

    def _identity(self, entry: dict, name: str, key: str) -> int | str:
        """The id that an entry has under a key, as it is compared."""
        found = identity(entry.get(key))
        if found is None:
            raise self._fault(entry, name, key, 'an id, a whole number or a text')
        return found

    def _by_id(self, key: str) -> dict[int | str, dict]:
        """The images or categories by their ids."""
        found: dict[int | str, dict] = {}
        for index, entry in enumerate(self._entries(key)):
            number = self._identity(entry, f'{key}[{index}]', 'id')
            if number in found:
                own, both = clipped(repr(entry['id'])), (found[number], entry)
                raise InputError(
                    f'{self.file}: {key}[{index}] has the id {own} of another one '
                    f'({" and ".join(clipped(_title(each)) for each in both)})'
                    f'{self._first_of(key, number)}: give each its own, and correct the annotations'
                )
            found[number] = entry
        if len({type(entry['id']) for entry in found.values()}) > 1:  # COCO's code sorts them
            kind = str if any(isinstance(number, str) for number in found) else int
            for number, entry in found.items():
                entry['id'] = kind(number)
        return found

    def _first_of(self, key: str, number: int | str) -> str:
        """Which annotation is the first with the id of an image or a category."""
        name = dict(images='image_id', categories='category_id')[key]
        annotations = self.dataset.get('annotations')
        for index, annotation in enumerate(annotations if isinstance(annotations, list) else ()):
            if isinstance(annotation, dict) and identity(annotation.get(name)) == number:
                return f', {Entry(annotation, index, {}).name} first'
        return ''

    def _checked_images(self) -> dict[int | str, dict]:
        """The images by their ids; what is null is missing."""
        images = self._by_id('images')
        for image in images.values():
            name = f'image {clipped(image["id"])}'
            if image.get('file_name') is None:
                image.pop('file_name', None)
            elif not isinstance(image['file_name'], str) or not image['file_name'].strip('\0 '):
                raise self._fault(image, name, 'file_name', 'the path of a file')
            for key in ('height', 'width'):
                side = image.get(key)
                if side is None:
                    image.pop(key, None)
                    if not self.boxes_alone:
                        raise self._fault(image, name, key, NEEDED_IN_IMAGES)
                elif type(side) in NUMBERS and 1 <= side < FARTHEST and side == int(side):
                    image[key] = int(side)
                else:
                    raise self._fault(image, name, key, 'a number of pixels')
            if image.get('height', 0) * image.get('width', 0) >= MOST_PIXELS:
                raise self._fault(
                    image, name, 'height', 'that of an image of less than 2**32 pixels'
                )
        return images

    def _checked_categories(self) -> dict[int | str, dict]:
        """The categories by their ids."""
        categories = self._by_id('categories')
        names: dict[str, int | str] = {}
        for category in categories.values():
            name = category.get('name')
            if not isinstance(name, str):
                raise self._fault(category, f'category {clipped(category["id"])}', 'name', 'a text')
            if name in names:
                raise InputError(
                    f'{self.file}: two categories have the name {clipped(name)!r}, with the ids '
                    f'{clipped(names[name])} and {clipped(category["id"])}: give each its own, or '
                    'make them one'
                )
            names[name] = category['id']
        return categories

    # Annotations

    def _listed(self, annotations: list, images: dict, categories: dict) -> Iterator[Entry]:
        """The annotations of listed images that have a segmentation, or a box if that is enough."""
        for index, annotation in enumerate(annotations):
            category = find(categories, annotation.get('category_id'))
            image = find(images, annotation.get('image_id'))
            entry = Entry(annotation, index, image or {})
            self._check_types(entry)
            if category is None:
                raise InputError(
                    f'{self.file}: {entry.name} has the category_id '
                    f'{clipped(repr(annotation["category_id"]))}, which no category has: '
                    f'the ids are {_some(categories)}'
                )
            annotation['category_id'] = category['id']
            self.totals[category['id']] += 1
            if image is None:
                self.left_out.add(UNLISTED, entry)
                continue
            annotation['image_id'] = image['id']
            entry = self._read_mask(entry)
            if annotation['segmentation'] or (self.boxes_alone and 'bbox' in annotation):
                yield entry

    def _check_types(self, entry: Entry) -> None:
        """Check ids, bbox, area and iscrowd; what is null is missing."""
        annotation = entry.annotation
        for key in ('image_id', 'category_id'):
            if type(annotation.get(key)) is not int:
                self._identity(annotation, entry.name, key)
        bbox, area = annotation.get('bbox'), annotation.get('area')
        if bbox is None:
            annotation.pop('bbox', None)
        elif type(bbox) is not list or len(bbox) != 4 or not NUMBERS.issuperset(map(type, bbox)):
            raise self._fault(annotation, entry.name, 'bbox', 'four numbers: x, y, width, height')
        if area is None:
            annotation.pop('area', None)
        elif type(area) not in NUMBERS:
            raise self._fault(annotation, entry.name, 'area', 'a number of pixels')
        for key in ('iscrowd', 'ignore'):
            if annotation.get(key) not in (None, 0, 1):
                raise self._fault(annotation, entry.name, key, '0 or 1')
        annotation['iscrowd'] = int(annotation.get('iscrowd') or 0)

    def _read_mask(self, entry: Entry) -> Entry:
        """Bring a segmentation into COCO's shape, empty if it is none; with what it spans."""
        annotation, iou = entry.annotation, 0.0
        value, reason, detail = annotation.get('segmentation'), NO_MASK, ''
        extent = extent_of(value) if type(value) is list and value else None
        if extent is None:
            try:
                value, broken = read_segmentation(value)
            except ShapeError as error:
                value, broken, reason, detail = [], False, OTHER_SHAPE, f'{error}'
            if broken:
                self.left_out.note(BROKEN_PARTS, entry)
            extent = extent_of(value) if isinstance(value, list) and value else None
        has_size = 'height' in entry.image and 'width' in entry.image
        if isinstance(value, list) and extent is not None and has_size:
            iou = iou_with(annotation.get('bbox'), extent, entry.image)
            if iou < TELLING_IOU:
                reason, detail = OTHER_SHAPE, f'{shape_of(value)}, {DOUBTS}'
                value, extent, iou = self._reread(entry, value, extent, iou)
        annotation['segmentation'] = value
        if not value and not (self.boxes_alone and 'bbox' in annotation):
            self.left_out.add(reason, entry, detail)
        return entry if extent is None else entry._replace(extent=extent, iou=iou)

    def _reread(
        self, entry: Entry, polygons: list, extent: Extent, iou: float
    ) -> tuple[list, Extent | None, float]:
        """Polygons as the box of an annotation tells to read them; none if that is in doubt."""
        bbox, image = entry.annotation.get('bbox'), entry.image
        for other in readings(polygons, image['height'], image['width']) if has_place(bbox) else ():
            found = extent_of(other)
            told = 0 if found is None else iou_with(bbox, found, image)
            if told >= max(TELLING_IOU, iou + BETTER):
                self.left_out.note(OTHER_READING, entry)
                return other, found, told
        if iou < AGREEING_IOU and is_doubtful(polygons, extent):
            return [], None, 0
        return polygons, extent, iou

    def _check_runs(self, entries: Sequence[Entry]) -> None:
        """Raise InputError for RLE that does not add up: COCO's code trusts it with its memory."""
        packed = []
        for entry in entries:
            rle = entry.annotation['segmentation']
            if isinstance(rle, dict):
                self._check_size(entry, rle)
                rle['counts'] = plain_counts(rle['counts'])
                if isinstance(rle['counts'], str):
                    packed.append(entry)
                else:
                    self._check_sum(entry, rle['counts'])
        texts = [entry.annotation['segmentation']['counts'] for entry in packed]
        runs = each_runs(text.encode('utf-8', 'surrogatepass') for text in texts)
        for entry, found in zip(packed, runs, strict=True):
            self._check_sum(entry, found.tolist())

    def _check_size(self, entry: Entry, rle: dict) -> None:
        """Raise InputError unless RLE is of the size of its image; it may leave it out."""
        image, size = entry.image, rle.get('size')
        own = [image.get('height'), image.get('width')]
        if (
            None in own  # boxes alone need none
            and isinstance(size, list)
            and [*map(type, size)] == [int, int]
            and min(size) > 0
            and math.prod(size) < MOST_PIXELS
        ):
            own = size
        if (size is not None and size != own) or None in own:
            raise InputError(
                f'{self.file}: image {clipped(image["id"])} has height and width {own}, but an '
                f'annotation with RLE of size {clipped(size)} ({entry.name}): make them again'
            )
        rle['size'] = own

    def _check_sum(self, entry: Entry, runs: object) -> None:
        """Raise InputError unless the runs of RLE are those of its size."""
        rle = entry.annotation['segmentation']
        if not isinstance(runs, list) or {*map(type, runs)} != {int} or min(runs) < 0:
            counts = rle['counts']
            what = f'counts {clipped(json.dumps(counts))}, which are no numbers of pixels'
        elif sum(runs) != math.prod(rle['size']):
            what = f'runs of {sum(runs)} pixels for {rle["size"][0]} x {rle["size"][1]}'
        else:
            if 0 in runs[1:]:
                rle['counts'] = without_empty_runs(runs)
            return
        raise InputError(
            f'{self.file}: {entry.name}, image {clipped(entry.image["id"])}, has RLE with {what}: '
            'make it again from the mask'
        )

    def _is_usable(self, entry: Entry) -> bool:
        """Whether an annotation stays; its box and area are then those of its mask."""
        annotation, image = entry.annotation, entry.image
        if not annotation['segmentation'] or 'height' not in image or 'width' not in image:
            if not self._has_box(entry):
                return False
        elif not looks_right(entry) and not self._mend_box(entry):
            self.left_out.add(NO_PIXELS, entry)
            annotation.setdefault('area', 0)
            return entry.iou >= AGREEING_IOU  # COCO's figures count it
        if annotation['iscrowd']:
            self.left_out.add('crowd regions (iscrowd=1)', entry)
        elif annotation.get('ignore'):
            self.left_out.add('marked with ignore', entry)
        return True

    def _mend_box(self, entry: Entry) -> bool:
        """Whether a mask has pixels; a box or an area that contradicts them is then the mask's."""
        annotation, image = entry.annotation, entry.image
        bbox, area = annotation.get('bbox'), annotation.get('area')
        rle = self._rle(annotation['segmentation'], image)
        pixels = float(coco_mask.area(rle))
        x, y, width, height = coco_mask.toBbox(rle).tolist()
        iou = max(entry.iou, iou_with(bbox, (x, y, x + width, y + height), image))
        if pixels and iou < AGREEING_IOU and not (self.boxes_alone and has_place(bbox)):
            if has_place(bbox):
                self.left_out.note(OTHER_BOXES, entry)
            annotation['bbox'] = [x, y, width, height]
        if pixels and (area is None or not area_agrees(area, pixels, image)):
            annotation['area'] = pixels
        return pixels > 0

    @staticmethod
    def _rle(segmentation: list | dict, image: dict) -> dict:
        """COCO's compressed RLE of a segmentation."""
        if isinstance(segmentation, dict) and isinstance(segmentation['counts'], str):
            return segmentation
        rle = coco_mask.frPyObjects(segmentation, image['height'], image['width'])
        return rle if isinstance(rle, dict) else coco_mask.merge(rle)

    def _has_box(self, entry: Entry) -> bool:
        """Whether the box of an annotation of which the mask is not looked at is one."""
        annotation = entry.annotation
        bbox = annotation.get('bbox')
        if bbox is None:
            name = f'image {clipped(entry.image["id"])}'
            raise self._fault(entry.image, name, 'height', NEEDED_IN_IMAGES)
        if not has_place(bbox):
            self.left_out.add('without a mask and a box', entry)
            return False
        annotation.setdefault('area', bbox[2] * bbox[3])
        return True


def has_place(bbox: Sequence[float] | None) -> bool:
    """Whether a box (x, y, width, height) has a place and an area."""
    return bbox is not None and all(-FARTHEST < n < FARTHEST for n in bbox) and min(bbox[2:]) > 0


def looks_right(entry: Entry) -> bool:
    """Whether box, area and polygons of an annotation agree without a look at their pixels.

    The polygons are then inside the image, and wide enough to have some.
    """
    extent, image, area = entry.extent, entry.image, entry.annotation.get('area')
    if extent is None or area is None or entry.iou < AGREEING_IOU:
        return False
    across, down = extent.right - extent.left, extent.bottom - extent.top
    return (
        extent.area > across
        and extent.area > down
        and min(extent.left, extent.top) >= -1
        and extent.right <= image['width'] + 1
        and extent.bottom <= image['height'] + 1
        and area_agrees(area, across * down, image)
    )


def is_doubtful(polygons: Sequence[Sequence[float]], extent: Extent) -> bool:
    """Whether polygons may be fractions of the image, or x, y and a visibility for each point."""
    if max(extent.right, extent.bottom) <= 1:
        return any(number % 1 for part in polygons for number in part)
    return any(map(has_third_numbers, polygons))


def check_categories(file: str, categories: Sequence[str], classes: Sequence[str]) -> None:
    """Raise InputError unless ``classes`` are different categories of an annotation file."""
    both = f'the file has {clipped(tuple(categories), NAMES)}, the config has '
    both += clipped(repr(classes), NAMES)
    remedy = "set metainfo=dict(classes=(...)) of the datasets to the file's names"
    if isinstance(classes, str):
        raise InputError(f'{file}: classes must be a tuple of names, ({classes!r},): {both}')
    known = set(categories)
    missing = [name for name in classes if name not in known]
    if missing:
        raise InputError(f'{file}: it has no category {clipped(missing)}: {both}; {remedy}')
    if len(set(classes)) < len(classes):
        raise InputError(f'{file}: the classes name a category twice: {both}; {remedy}')
