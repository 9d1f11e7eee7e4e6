"""Copies of pictures are known, also compressed or resized, and others are no copies."""

import itertools

import cv2
import numpy as np
import pytest

from mmsolov2.datasets import fingerprints
from mmsolov2.datasets.fingerprints import (
    Fingerprint,
    copies,
    equal_groups,
    fingerprint,
    read_pictures,
)


def scene(seed: int) -> np.ndarray:
    """A picture of soft blotches and a few hard shapes."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (240, 180))
    for _ in range(4):
        x, y, radius = (int(n) for n in rng.integers(20, 150, 3))
        cv2.circle(image, (x, y), radius // 4, rng.integers(0, 256, 3).tolist(), -1)
    return image


COPIES = dict(
    same=lambda image: image.copy(),
    jpeg=lambda image: cv2.imdecode(cv2.imencode('.jpg', image, [1, 80])[1], 1),
    half=lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    larger=lambda image: cv2.resize(image, None, fx=1.4, fy=1.4),
)


@pytest.mark.parametrize('kind', COPIES)
def test_copies_and_others(kind):
    prints = {seed: fingerprint(scene(seed)) for seed in range(12)}
    copies = {seed + 100: fingerprint(COPIES[kind](scene(seed))) for seed in range(0, 12, 3)}
    groups = equal_groups({**prints, **copies})
    assert groups == [[seed, seed + 100] for seed in range(0, 12, 3)]


def test_a_copy_between_joins_two():
    prints = {name: fingerprint(scene(0)) for name in 'abc'}
    assert equal_groups(prints) == [['a', 'b', 'c']]
    assert equal_groups({}) == []


def test_pictures_of_one_colour_are_told_by_it():
    flat = [fingerprint(np.full((40, 50, 3), level, np.uint8)) for level in (0, 9, 0, 255)]
    assert equal_groups(dict(enumerate(flat))) == [[0, 2]]


def packed(bits: int) -> np.ndarray:
    return np.frombuffer(bits.to_bytes(8, 'big'), np.uint8)


def test_copies_are_all_pairs_within_two_bits():
    rng = np.random.default_rng(0)
    base = int(rng.integers(2**62))
    hashes = [base, base ^ 0b111]
    for _ in range(60):
        first, second = (int(n) for n in rng.integers(64, size=2))
        hashes += [base ^ 1 << first, base ^ 1 << first ^ 1 << second]
    grey = fingerprint(scene(0)).grey
    near = {
        pair
        for pair in itertools.combinations(range(len(hashes)), 2)
        if (hashes[pair[0]] ^ hashes[pair[1]]).bit_count() <= 2
    }
    assert set(copies([Fingerprint(packed(bits), grey) for bits in hashes])) == near
    assert 0 < len(near) < len(hashes) * (len(hashes) - 1) // 2


def test_files_are_read_once_and_broken_ones_are_none(tmp_path):
    paths = [tmp_path / name for name in ('a.png', 'b.png', 'c.png')]
    cv2.imwrite(str(paths[0]), scene(0))
    paths[1].write_bytes(b'nothing')
    read = read_pictures([*paths, paths[0]])
    assert [*read] == paths and read[paths[1]] is None and read[paths[2]] is None
    assert (read[paths[0]].height, read[paths[0]].width) == (180, 240)


def test_a_picture_is_decoded_once_until_it_changes(tmp_path, monkeypatch):
    path, decoded = tmp_path / 'a.png', []
    monkeypatch.setattr(
        fingerprints, 'decode_file', lambda path: decoded.append(path) or cv2.imread(str(path))
    )
    cv2.imwrite(str(path), scene(1))
    assert read_pictures([path]) == read_pictures([path])
    assert decoded == [path]
    cv2.imwrite(str(path), scene(2)[:90])
    assert read_pictures([path])[path].height == 90
    path.unlink()
    assert read_pictures([path]) == {path: None}
    assert decoded == [path] * 2
