"""Pictures with masks as images: numbers of instances, connected parts, or a file an instance."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from mmsolov2.datasets.image_files import image_size
from mmsolov2.datasets.importers.content import Content, common_splits
from mmsolov2.datasets.importers.source import Source
from mmsolov2.datasets.importers.tree import Tree
from mmsolov2.datasets.tally import Tally
from mmsolov2.errors import InputError
from mmsolov2.structures.masks import Crop, encode_crop

PICTURES = 'images'
MASKS = ('masks', 'labels', 'annotations', 'gt', 'segmentations')
CLASS = 'object'
VOID = 255  # of palettes, where numbers of instances do not reach it: PASCAL VOC's border
NUMBERED = 'masks whose values were taken as numbers of instances'
PARTED = 'masks of one value, of which each connected part was taken as an instance'
SEVERAL = 'pictures with a mask file for each instance'
BORDERS = 'masks whose value 255 was left out as a border'
UNMASKED = 'pictures left out, which have no mask'
UNUSED = 'masks left out, which have no picture'


class Pair(NamedTuple):
    """A picture and its masks."""

    picture: Path
    masks: list[Path]
    is_each: bool  # whether each mask is one instance


Files = dict[str, dict[str, Path]]  # by the folder of both, then by the name without its ending


def detect(tree: Tree, classes: Sequence[str] | None) -> Source | None:
    """A folder of pictures beside one of masks, here or anywhere below."""
    if tree.given != tree.root:
        return None
    pictures, masks = files_of(tree)
    folders = [folder for folder in pictures if folder in masks]
    if not folders:
        return None
    names = list(classes or [CLASS])
    if len(names) != 1:
        raise InputError(f'{tree.root}: masks as images are of one class, not of {names}')
    first = next(iter(masks[folders[0]].values()))
    reader = partial(read, tree, names, {folder: pictures[folder] for folder in folders}, masks)
    return Source('pictures with masks', tree, first.parent, reader)


def files_of(tree: Tree) -> tuple[Files, Files]:
    """Pictures and masks, by what stands before and behind ``images`` or ``masks`` in their path.

    Raises:
        InputError: if two files have one name but for the ending, or there are two kinds of masks.
    """
    pictures: Files = defaultdict(dict)
    masks: Files = defaultdict(dict)
    kinds: dict[str, str] = {}
    for path in tree.pictures:
        parts = Path(tree.name_of(path)).with_suffix('').parts
        found = [i for i, part in enumerate(parts[:-1]) if part.lower() in (PICTURES, *MASKS)]
        if not found:
            continue
        folder, kind, name = split_at(parts, found[-1])
        is_picture = kind == PICTURES
        if not is_picture and kinds.setdefault(folder, kind) != kind:
            raise InputError(
                f'{tree.root}/{folder}: the masks may be in {kinds[folder]}/ or {kind}/: move one '
                'of them away'
            )
        other = (pictures if is_picture else masks)[folder].setdefault(name, path)
        if other != path:
            raise InputError(f'{path}: {other.name} has the same name; keep one of them')
    return pictures, masks


def split_at(parts: Sequence[str], index: int) -> tuple[str, str, str]:
    """What stands before a part of a path, the part, and what stands behind it."""
    return '/'.join(parts[:index]), parts[index].lower(), '/'.join(parts[index + 1 :])


def pairs_of(pictures: Files, masks: Files, tree: Tree, tally: Tally) -> Iterator[Pair]:
    """Each picture with its masks; those without the other are counted."""
    for folder, own in pictures.items():
        left = dict(masks[folder])
        inside = defaultdict(list)  # masks/NAME/….png
        for name in left:
            inside[name.rpartition('/')[0]].append(name)
        for name, picture in own.items():
            is_alone = len(own) == 1 and name == folder.rpartition('/')[2]  # NAME/masks/….png
            several = inside[name] or (inside[''] if is_alone and name not in left else [])
            names = [name] if name in left else several
            if names:
                yield Pair(picture, [left.pop(each) for each in names], name not in names)
            else:
                tally.add(UNMASKED, tree.name_of(picture))
        for path in left.values():
            tally.add(UNUSED, tree.name_of(path))


def read(
    tree: Tree, classes: Sequence[str], pictures: Files, masks: Files, tally: Tally
) -> dict[str, dict]:
    """The content of each split, whose folders are named after it."""
    pairs = list(pairs_of(pictures, masks, tree, tally))
    if not pairs:
        raise InputError(
            f'{tree.root}: no mask has the name of a picture ({"; ".join(tally.texts())}): name '
            'the files alike but for the ending'
        )
    single = [pair for pair in pairs if not pair.is_each]
    has_parts = has_one_value(pair.masks[0] for pair in single)
    splits = common_splits([tree.split_of(pair.picture) for pair in pairs], tally, pairs[0].picture)
    contents: dict[str, Content] = defaultdict(lambda: Content(classes, tally))
    for pair, split in zip(pairs, splits, strict=True):
        name = tree.name_of(pair.picture)
        tally.add(SEVERAL if pair.is_each else PARTED if has_parts else NUMBERED, name)
        arrays = [read_mask(path, tally) for path in pair.masks]
        size = common_size(pair, arrays)
        image = contents[split].add_image(name, size)
        for array in arrays:
            numbers = array != 0 if pair.is_each else parts_of(array) if has_parts else array
            for crop in crops_of(numbers):
                contents[split].add(image, 0, [encode_crop(crop, *size)], name)
    return {split: content.to_coco() for split, content in contents.items()}


def has_one_value(paths: Iterator[Path]) -> bool:
    """Whether masks have no value but 0 and 1, or 0 and 255: whether all have."""
    return all(
        set(np.unique(read_mask(path, Tally())).tolist()) - {0} in (set(), {1}, {255})
        for path in paths
    )


def read_mask(path: Path, tally: Tally) -> np.ndarray:
    """The values (H, W) of a mask: grey of 1 to 32 bits, or indices of a palette.

    Raises:
        InputError: if it cannot be read, or is coloured.
    """
    try:
        with Image.open(path) as image:
            is_palette = image.mode == 'P'
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f'{path}: this mask cannot be read: {error}') from error
    if values.ndim == 3:
        channels = values[..., : 3 if values.shape[2] > 2 else 1]  # without alpha
        if (channels != channels[..., :1]).any():
            raise InputError(
                f'{path}: this mask is coloured; write the numbers of instances as grey values, '
                'of 16 bits if there are many, or as a palette'
            )
        values = channels[..., 0]
    if not np.issubdtype(values.dtype, np.integer) and values.dtype != bool:
        raise InputError(f'{path}: this mask has values of {values.dtype}; write whole numbers')
    if is_palette and VOID in values and VOID - 1 not in values and values[values != VOID].any():
        tally.add(BORDERS, path)
        values = np.where(values == VOID, 0, values)
    return values


def common_size(pair: Pair, arrays: Sequence[np.ndarray]) -> tuple[int, int]:
    """The size of masks, if it is that of their picture, which its EXIF tag may turn."""
    size = image_size(pair.picture)
    allowed = {array.shape for array in arrays[:1]}
    if size is not None:
        allowed = {(size.height, size.width)}
        if size.is_turned:
            allowed |= {(size.width, size.height)}
    for path, array in zip(pair.masks, arrays, strict=True):
        if array.shape not in allowed or array.shape != arrays[0].shape:
            expected = ' or '.join(f'{width}x{height}' for height, width in sorted(allowed))
            raise InputError(
                f'{path}: this mask is {array.shape[1]}x{array.shape[0]} pixels, but '
                f'{pair.picture.name} is {expected}: bring it to that size'
            )
    height, width = arrays[0].shape
    return height, width


def parts_of(mask: np.ndarray) -> np.ndarray:
    """Numbers (H, W) of the connected parts of a mask; what touches at a corner is connected."""
    return cv2.connectedComponents((mask != 0).astype(np.uint8))[1]


def crops_of(numbers: np.ndarray) -> Iterator[Crop]:
    """The pixels of each value of an array (H, W) but 0.

    >>> [crop.box() for crop in crops_of(np.array([[0, 7, 7], [2, 0, 7]]))]
    [[0, 1, 1, 2], [1, 0, 3, 2]]
    """
    flat = numbers.ravel()
    pixels = np.flatnonzero(flat)
    pixels = pixels[np.argsort(flat[pixels], kind='stable')]
    ends = np.flatnonzero(np.diff(flat[pixels].astype(np.int64))) + 1
    for own in np.split(pixels, ends) if len(pixels) else ():
        y, x = np.divmod(own, numbers.shape[1])
        top, left = int(y.min()), int(x.min())
        mask = np.zeros((y.max() - top + 1, x.max() - left + 1), bool)
        mask[y - top, x - left] = True
        yield Crop(mask, top, left)
