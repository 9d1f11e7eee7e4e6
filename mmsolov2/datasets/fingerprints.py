"""Which pictures show the same: copies, also compressed anew or at another size."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from mmsolov2.datasets.image_files import decode_file

SIDE = 32  # of the small grey picture
LOW = 8  # frequencies kept of each direction: 64 bits
PARTS = (slice(0, 3), slice(3, 6), slice(6, 8))  # of the 8 bytes of a hash
KEPT = 2**14  # pictures, each of some kilobytes: a check, what is usable and a split read them
MOST_BITS = 2  # in which the hashes of equal pictures may differ
UNLIKE = 0.05  # mean difference of equal pictures, of their contrast; copies 0.04, others 0.2

Name = TypeVar('Name', bound=Hashable)


class Fingerprint(NamedTuple):
    """What is kept of a picture to compare it by."""

    hash: np.ndarray  # (8,) uint8, 64 bits: which low frequencies are above their median
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
    """A picture file, or None if it cannot be decoded; once, until the file changes."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a zero in it
        return None
    return _read_picture(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=KEPT)
def _read_picture(path: Path, time: int, size: int) -> Picture | None:
    """``read_picture`` of a file as it is at a time, with so many bytes."""
    image = decode_file(path)
    return None if image is None else Picture(image.shape[0], image.shape[1], fingerprint(image))


def fingerprint(image: np.ndarray) -> Fingerprint:
    """The fingerprint of a picture (H, W, 3) uint8 BGR."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:LOW, :LOW].ravel()
    return Fingerprint(np.packbits(low > np.median(low[1:])), small)


def equal_groups(prints: Mapping[Name, Fingerprint]) -> list[list[Name]]:
    """The groups of two or more names whose pictures are copies, of each other or of one between.

    Names are in the order of ``prints``.
    """
    names = list(prints)
    leader = list(range(len(names)))

    def first_of(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for one, other in copies(list(prints.values())):
        leader[first_of(other)] = first_of(one)
    groups = defaultdict(list)
    for index, name in enumerate(names):
        groups[first_of(index)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def copies(prints: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """The places of each picture and of the later ones that show the same.

    If two bits of a hash differ, one of its three parts is equal: only such are compared.
    """
    if not prints:
        return
    hashes = np.stack([one.hash for one in prints])
    greys = np.stack([one.grey for one in prints])
    for part in PARTS:
        buckets = defaultdict(list)
        for index, key in enumerate(hashes[:, part]):
            buckets[key.tobytes()].append(index)
        for bucket in buckets.values():
            for place, index in enumerate(bucket[:-1], 1):
                rest = np.array(bucket[place:])
                bits = np.unpackbits(hashes[rest] ^ hashes[index], axis=1).sum(1)
                rest = rest[bits <= MOST_BITS]
                same = rest[differences(greys[rest], greys[index]) <= UNLIKE]
                yield from ((index, other) for other in same.tolist())


def differences(greys: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """How far small pictures (n, 32, 32) are from one: (n,) mean difference by its contrast."""
    apart = np.maximum(greys, grey) - np.minimum(greys, grey)
    return apart.mean((1, 2)) / (grey.std() + 1)
