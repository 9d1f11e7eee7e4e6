"""Which image files are whole, whatever OpenCV makes of them."""

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from mmsolov2.datasets.image_files import (
    decode_file,
    decode_image,
    image_size,
    is_cut_file,
    is_cut_jpeg,
)

NOISE = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (60, 88, 3), np.uint8), (0, 0), 2
)


def file(kind: str, size: tuple[int, int] = (88, 60), **settings) -> bytes:
    """The noise as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(NOISE).resize(size).save(buffer, kind, **settings)
    return buffer.getvalue()


def with_thumbnail(data: bytes) -> bytes:
    """A JPEG with a whole JPEG in its head, as cameras write it."""
    inner = file('JPEG', (16, 12))
    return data[:2] + b'\xff\xe2' + (len(inner) + 2).to_bytes(2, 'big') + inner + data[2:]


JPEG = file('JPEG')
SEVERAL = file('MPO', save_all=True, append_images=[Image.fromarray(NOISE[::-1])])
WHOLE = dict(
    plain=JPEG,
    progressive=file('JPEG', progressive=True),
    padded=JPEG + bytes(100),
    followed_by_text=JPEG + b'written by a camera',
    followed_by_text_and_padding=JPEG + b'written by a camera' + bytes(10),
    several=SEVERAL,
    several_and_padding=SEVERAL + bytes(512),
    thumbnail=with_thumbnail(JPEG),
)
CUT = dict(
    a_quarter=JPEG[: len(JPEG) // 4],
    three_quarters=JPEG[: len(JPEG) * 3 // 4],
    all_but_the_end=JPEG[:-2],
    half_the_end=JPEG[:-1],
    progressive=file('JPEG', progressive=True)[:-200],
    thumbnail=with_thumbnail(JPEG)[:-300],
    zeros_for_the_rest=JPEG[:-300] + bytes(300),
    head_alone=JPEG[:20],
    two_bytes=JPEG[:2],
)


@pytest.mark.parametrize('name', WHOLE)
def test_whole_files(tmp_path, name):
    (tmp_path / 'image').write_bytes(WHOLE[name])
    assert not is_cut_jpeg(WHOLE[name]) and not is_cut_file(tmp_path / 'image')
    assert decode_image(WHOLE[name]).shape == (60, 88, 3)


@pytest.mark.parametrize('name', CUT)
def test_cut_files(tmp_path, name):
    (tmp_path / 'image').write_bytes(CUT[name])
    assert is_cut_jpeg(CUT[name]) and is_cut_file(tmp_path / 'image')
    assert decode_image(CUT[name]) is None


@pytest.mark.parametrize('opencv', [lambda *args: NOISE, lambda *args: None])
def test_a_cut_file_is_none_whether_opencv_fills_it_up_or_not(monkeypatch, opencv):
    monkeypatch.setattr(cv2, 'imdecode', opencv)
    assert decode_image(CUT['three_quarters']) is None
    assert decode_image(JPEG) is opencv()


def encode(suffix: str) -> Callable[[], bytes]:
    return cv2.imencode(suffix, NOISE)[1].tobytes


OTHERS = {
    'bmp': encode('.bmp'),
    'png': encode('.png'),
    'ppm': encode('.ppm'),
    'tiff': encode('.tif'),
    'tiff_deflate': lambda: file('TIFF', compression='tiff_deflate'),
    'tiff_plain': lambda: file('TIFF'),
    'webp': encode('.webp'),
    'webp_lossless': lambda: file('WEBP', lossless=True),
}


@pytest.mark.parametrize('name', OTHERS)
def test_opencv_refuses_other_cut_formats(name):
    data = OTHERS[name]()
    assert decode_image(data).shape == (60, 88, 3)
    for part in (0.5, 0.75, 0.99):
        assert decode_image(data[: int(part * len(data))]) is None


@pytest.mark.parametrize('data', [b'', b'\xff', b'hello', bytes(1000)])
def test_what_is_no_image_is_none(tmp_path, data):
    (tmp_path / 'image').write_bytes(data)
    assert decode_image(data) is None and not is_cut_file(tmp_path / 'image')


@pytest.mark.parametrize('name', OTHERS)
def test_sizes_by_the_head(tmp_path, name):
    path = tmp_path / 'image'
    path.write_bytes(OTHERS[name]())
    assert image_size(path)[:2] == (60, 88)


@pytest.mark.parametrize('orientation', range(1, 10))
def test_sizes_are_those_that_one_sees(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / 'image.jpg'
    path.write_bytes(file('JPEG', exif=exif))
    size = image_size(path)
    assert (size.height, size.width) == decode_file(path).shape[:2]
    assert size.is_turned == (5 <= orientation <= 8)


def test_files_without_a_size(tmp_path):
    (tmp_path / 'image').write_bytes(b'hello')
    for name in ('image', 'nowhere', 'a\0b', 'x' * 300):
        assert image_size(tmp_path / name) is None and decode_file(tmp_path / name) is None


def test_sizes_of_kinds_that_opencv_alone_reads(tmp_path):
    path = tmp_path / 'image.hdr'
    path.write_bytes(cv2.imencode('.hdr', NOISE.astype(np.float32))[1].tobytes())
    with pytest.raises(OSError, match='cannot identify'):
        Image.open(path)
    assert image_size(path) == (60, 88, False)
