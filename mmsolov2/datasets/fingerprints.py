"""Which pictures show the same: copies, also compressed anew or at another size."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from mmsolov2.datasets.image_files import decode_file

SIDE = 32  # of the small grey picture
LOW = 8  # frequencies kept of each direction: 64 bits
MOST_BITS = 2  # in which the hashes of equal pictures may differ
UNLIKE = 0.05  # mean difference of equal pictures, of their contrast; copies 0.04, others 0.2

Name = TypeVar('Name', bound=Hashable)


class Fingerprint(NamedTuple):
    """What is kept of a picture to compare it by."""

    hash: int  # 64 bits: which low frequencies are above their median
    grey: np.ndarray  # (32, 32) uint8


class Picture(NamedTuple):
    """What is kept of a picture file that was decoded; upright as its EXIF tag says."""

    height: int
    width: int
    fingerprint: Fingerprint


def read_pictures(paths: Iterable[Path]) -> dict[Path, Picture | None]:
    """Decode picture files, each once; None for those that cannot be."""
    wanted = list(dict.fromkeys(paths))
    pool = ThreadPoolExecutor()  # OpenCV lets others run
    try:
        return dict(zip(wanted, pool.map(read_picture, wanted), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)  # at once, when it is interrupted


def read_picture(path: Path) -> Picture | None:
    """A picture file, or None if it cannot be decoded."""
    image = decode_file(path)
    return None if image is None else Picture(image.shape[0], image.shape[1], fingerprint(image))


def fingerprint(image: np.ndarray) -> Fingerprint:
    """The fingerprint of a picture (H, W, 3) uint8 BGR."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:LOW, :LOW].ravel()
    bits = np.packbits(low > np.median(low[1:]))
    return Fingerprint(int.from_bytes(bits.tobytes(), 'big'), small)


def show_the_same(first: Fingerprint, second: Fingerprint) -> bool:
    """Whether two pictures are copies of each other."""
    if (first.hash ^ second.hash).bit_count() > MOST_BITS:
        return False
    difference = cv2.absdiff(first.grey, second.grey).mean()
    return bool(difference <= UNLIKE * (first.grey.std() + 1))


def equal_groups(prints: Mapping[Name, Fingerprint]) -> list[list[Name]]:
    """The groups of two or more names whose pictures are copies, of each other or of one between.

    Names are in the order of ``prints``.
    """
    leader = {name: name for name in prints}

    def first_of(name: Name) -> Name:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for one, other in candidates(prints):
        heads = first_of(one), first_of(other)
        if heads[0] != heads[1] and show_the_same(prints[one], prints[other]):
            leader[heads[1]] = heads[0]
    groups = defaultdict(list)
    for name in prints:
        groups[first_of(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def candidates(prints: Mapping[Name, Fingerprint]) -> Iterator[tuple[Name, Name]]:
    """Pairs of names that may be copies: if two bits differ, one third of the hash is equal."""
    for shift in range(0, 64, 22):
        thirds = defaultdict(list)
        for name, one in prints.items():
            thirds[one.hash >> shift & (1 << 22) - 1].append(name)
        for names in thirds.values():
            yield from combinations(names, 2)
