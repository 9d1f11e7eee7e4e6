"""Pictures for training and validation: every class in both, copies never apart."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmsolov2.datasets.coco_file import by_number, find, identity, objects_of
from mmsolov2.datasets.fingerprints import equal_groups, read_pictures
from mmsolov2.errors import InputError

PARTS = ('train', 'val')
PICTURES = 'pictures'  # counted as a class that every picture has
Counts = Counter[int | str | None]  # by the ids of classes
Wanted = dict[int | str | None, float]


class Group(NamedTuple):
    """Pictures that stay together."""

    pictures: list[int]  # places in the list of images
    classes: Counts  # how many of them have each class


def split(content: dict, *, val_share: float = 0.2, seed: int = 0, root: Path) -> dict[str, dict]:
    """COCO content in two parts, ``train`` and ``val``, by picture and stratified by class.

    A class that several pictures have is in both parts, unless the pictures of others hinder it;
    each part has a picture. Pictures that show the same, as their files below ``root`` tell, are
    in one part. The same pictures and seed give the same parts, in whatever order they are listed.

    Raises:
        InputError: if there are no two different pictures, or ``val_share`` is no share.
    """
    if not 0 < val_share < 1:
        raise InputError(f'val_share is {val_share}: give a share between 0 and 1')
    images = objects_of(content, 'images', str(root))
    places = places_of(content, images)
    groups = grouped(content, images, places, Path(root))
    if len(groups) < 2:
        raise InputError(
            f'{root}: {len(images)} pictures, of which {len(groups)} show different things, cannot '
            'be split: add pictures, or give the parts as they are'
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    shuffled = [groups[index] for index in order]
    parts = stratified(shuffled, val_share)
    part_of = {p: part for group, part in zip(shuffled, parts, strict=True) for p in group.pictures}
    return {
        name: part_of_content(content, places, part_of, part) for part, name in enumerate(PARTS)
    }


def places_of(content: dict, images: Sequence[dict]) -> list[int | None]:
    """The place of each annotation's image in the list of images; None if it is not there."""
    ids = ((identity(image.get('id')), place) for place, image in enumerate(images))
    known = by_number({number: dict(place=place) for number, place in ids if number is not None})
    found = [find(known, each.get('image_id')) for each in content.get('annotations') or ()]
    return [None if image is None else image['place'] for image in found]


def part_of_content(
    content: dict, places: Sequence[int | None], part_of: dict[int, int], part: int
) -> dict:
    """The images of a part with their annotations; those of no image stay in the first."""
    annotations = zip(content.get('annotations') or (), places, strict=True)
    return {
        **content,
        'images': [one for place, one in enumerate(content['images']) if part_of[place] == part],
        'annotations': [
            one for one, place in annotations if (0 if place is None else part_of[place]) == part
        ],
    }


def grouped(
    content: dict, images: Sequence[dict], places: Sequence[int | None], root: Path
) -> list[Group]:
    """The pictures in groups of copies, sorted by name."""
    classes: list[set] = [set() for _ in images]
    for annotation, place in zip(content.get('annotations') or (), places, strict=True):
        if place is not None and not annotation.get('iscrowd'):
            classes[place].add(identity(annotation.get('category_id')))
    paths = [root / str(image.get('file_name')) for image in images]
    read = read_pictures(paths)
    prints = {path: picture.fingerprint for path, picture in read.items() if picture is not None}
    leaders = {path: group[0] for group in equal_groups(prints) for path in group}
    together = defaultdict(list)
    for place, path in enumerate(paths):
        together[leaders.get(path, path)].append(place)
    groups = [sorted(group, key=lambda place: str(paths[place])) for group in together.values()]
    return [
        Group(group, Counter(chain([PICTURES] * len(group), *(classes[p] for p in group))))
        for group in sorted(groups, key=lambda group: str(paths[group[0]]))
    ]


def stratified(groups: Sequence[Group], share: float) -> list[int]:
    """The part of each group, 0 or 1, of which 1 gets a share of every class.

    Greedy: of the class that the fewest groups are left of, each goes where most of it are wanted
    (Sechidis et al., ECML 2011).
    """
    wanted = wanted_counts(groups, share)
    parts: dict[int, int] = {}
    while len(parts) < len(groups):
        left = [index for index in range(len(groups)) if index not in parts]
        counts = Counter(name for index in left for name in groups[index].classes)
        rarest = min(counts, key=lambda name: (counts[name], name == PICTURES, str(name)))
        for index in left:
            if rarest in groups[index].classes:
                part = max((0, 1), key=lambda part: (wanted[part][rarest], wanted[part][PICTURES]))
                for name, count in groups[index].classes.items():
                    wanted[part][name] -= count
                parts[index] = part
    return repaired(groups, [parts[index] for index in range(len(groups))])


def wanted_counts(groups: Sequence[Group], share: float) -> tuple[Wanted, Wanted]:
    """How many pictures of each class each part is to get, at least one of several groups."""
    totals = sum((group.classes for group in groups), Counter())
    several = Counter(chain.from_iterable(group.classes for group in groups))
    first: Wanted = {}
    second: Wanted = {}
    for name, total in totals.items():
        least = 1 if several[name] > 1 else 0
        second[name] = min(max(total * share, least), total - least)
        first[name] = total - second[name]
    return first, second


def repaired(groups: Sequence[Group], parts: list[int]) -> list[int]:
    """Parts in which no class of several groups is missing, as far as moving a group helps."""
    several = Counter(chain.from_iterable(group.classes for group in groups))
    held: tuple[Counts, Counts] = Counter(), Counter()  # groups of each class
    for group, part in zip(groups, parts, strict=True):
        held[part].update(group.classes.keys())
    moved = True
    while moved:
        moved = False
        for index, group in enumerate(groups):
            own, other = parts[index], 1 - parts[index]
            names = [name for name in group.classes if several[name] > 1]
            gained = sum(held[other][name] == 0 for name in names)
            if gained > sum(held[own][name] == 1 for name in names):
                held[own].subtract(group.classes.keys())
                held[other].update(group.classes.keys())
                parts[index], moved = other, True
    return parts
