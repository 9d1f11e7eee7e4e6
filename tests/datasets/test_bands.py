"""Pictures of bands: what is read is what was written, or it is refused."""

import io
import re
from contextlib import suppress

import cv2
import numpy as np
import pytest
from mmcv.transforms import Compose
from PIL import Image

from mmsolov2.datasets import LoadBandsFromFile, MatchAnnotatedSize
from mmsolov2.datasets.bands import read_bands
from mmsolov2.errors import InputError

TYPES = ['uint8', 'uint16', 'int16', 'float32', 'float64']


def picture(bands, dtype='uint16', size=(6, 8)):
    """Random numbers (H, W, bands) from 0 to 200."""
    return (np.random.default_rng(0).random((*size, bands)) * 200).astype(dtype)


def encoded(array, kind):
    """The bytes of a file of (H, W, bands) numbers."""
    file = io.BytesIO()
    if kind == 'npy':
        np.save(file, array)
    else:
        pages = [np.ascontiguousarray(array[..., band]) for band in range(array.shape[2])]
        done, data = cv2.imencodemulti('.tif', pages)
        assert done
        file.write(data.tobytes())
    return file.getvalue()


@pytest.fixture
def path(tmp_path):
    """A path with spaces and signs, whose extension says nothing."""
    return tmp_path / 'one #1 é 50%.dat'


@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('bands', [1, 2, 3, 4, 24])
@pytest.mark.parametrize('kind', ['npy', 'tif'])
def test_read_is_written(path, kind, bands, dtype):
    expected = picture(bands, dtype)
    path.write_bytes(encoded(expected, kind))
    found = read_bands(str(path))
    assert found.dtype == np.float32 and np.array_equal(found, expected.astype(np.float32))


def test_a_plane_is_one_band(path):
    path.write_bytes(encoded(picture(5)[..., 0], 'npy'))
    assert read_bands(str(path)).shape == (6, 8, 1)


@pytest.mark.parametrize('compression', [None, 'tiff_lzw', 'tiff_adobe_deflate'])
def test_colours_are_in_the_order_of_the_file(path, compression):
    """As Pillow writes them: red first. OpenCV gives blue first."""
    expected = picture(3, 'uint8')
    Image.fromarray(expected).save(path, 'TIFF', compression=compression)
    assert np.array_equal(read_bands(str(path)), expected)


def tiff(pixels, *, photometric=1, planes=1, extra=()):
    """A TIFF of one page (H, W, bands), little-endian, with the tags given: bands in a strip each
    with ``planes=2``, else all in one.
    """
    height, width, samples = pixels.shape
    strips = samples if planes == 2 else 1
    data = (pixels.transpose(2, 0, 1) if planes == 2 else pixels).tobytes()
    length, is_float = len(data) // strips, pixels.dtype.kind == 'f'
    tags = {256: [width], 257: [height], 258: [8 * pixels.itemsize] * samples, 259: [1]}
    tags |= {262: [photometric], 273: [0] * strips, 277: [samples], 278: [height]}
    tags |= {279: [length] * strips, 284: [planes], 338: extra, 339: [3 if is_float else 1]}
    tags = {tag: values for tag, values in tags.items() if values}
    behind = 8 + 2 + 12 * len(tags) + 4  # the header, and the directory right behind it
    size = behind + sum(4 * len(values) for values in tags.values() if len(values) > 1)
    tags[273] = [size + strip * length for strip in range(strips)]
    entries = more = b''
    for tag, values in tags.items():
        packed = np.array(values, '<u4').tobytes()
        if len(values) > 1:
            packed, more = np.array(behind + len(more), '<u4').tobytes(), more + packed
        entries += np.array([tag, 4], '<u2').tobytes() + np.array(len(values), '<u4').tobytes()
        entries += packed
    head = b'II*\0' + np.array(8, '<u4').tobytes() + np.array(len(tags), '<u2').tobytes()
    return head + entries + bytes(4) + more + data


@pytest.mark.parametrize(
    ('bands', 'settings', 'message'),
    [
        (4, {}, 'OpenCV reads bands [1] of its pages, which have [4]'),
        (24, {}, 'which have [24]'),
        (4, dict(photometric=2, extra=(2,)), 'it has an alpha, or planes'),
        (3, dict(dtype='float32', planes=2), 'it has an alpha, or planes'),
    ],
)
def test_what_opencv_would_change_is_refused(path, bands, settings, message):
    """Bands that are not marked as colours, of which it gives one, colours times an alpha, and
    planes that it takes for pixels.
    """
    settings = dict(settings)
    pixels = picture(bands, settings.pop('dtype', 'uint8'))
    path.write_bytes(tiff(pixels, **settings))
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_bands(str(path))
    assert str(path) in str(caught.value) and 'write it as .npy' in str(caught.value)


@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_the_writer_of_this_test_writes_what_opencv_keeps(path, dtype):
    expected = picture(4, dtype)
    data = tiff(expected, photometric=2, extra=(0,))
    path.write_bytes(data)
    assert np.array_equal(read_bands(str(path)), expected)
    path.write_bytes(data[:-1])
    with pytest.raises(InputError, match='this TIFF is truncated or damaged .the data of a page'):
        read_bands(str(path))


@pytest.mark.parametrize('kind', ['npy', 'tif'])
@pytest.mark.parametrize('share', [0, 0.01, 0.2, 0.5, 0.9, 0.99])
def test_cut_files_are_refused(path, kind, share):
    """OpenCV would give the pages before the cut."""
    data = encoded(picture(24), kind)
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_bands(str(path))


def test_damaged_files_end_in_an_input_error_or_numbers(path):
    data, generator = encoded(picture(3), 'tif'), np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(data)
        for place in generator.integers(8, len(data), 4):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        with suppress(InputError):
            assert read_bands(str(path)).dtype == np.float32


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', r"neither .npy nor TIFF \(0 bytes, beginning with b''\): write it as .npy"),
        (b'II*\0', r'truncated or damaged \(.*; 4 bytes\)'),
        (b'\x89PNG\r\n', 'neither .npy nor TIFF'),
        (encoded(np.zeros((2, 3, 4, 5)), 'npy'), r'it holds \(2, 3, 4, 5\) float64, not \(H, W, b'),
        (encoded(np.zeros((0, 3, 4)), 'npy'), r'it holds \(0, 3, 4\)'),
        (encoded(np.zeros((2, 3, 4), bool), 'npy'), 'bool, not .* of integers or floats'),
        (encoded(np.zeros((2, 3), complex), 'npy'), 'complex128, not'),
        (encoded(np.array([[None]]), 'npy'), r'this .npy file cannot be read \(Object arrays'),
        (encoded(np.full((1, 2, 3), np.nan), 'npy'), '6 of its 6 values are NaN or infinite'),
        (encoded(np.array([[1.0, 1e300, -np.inf]]), 'npy'), '2 of its 3 values are NaN or inf'),
    ],
)
def test_other_files_are_refused(path, data, message):
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_bands(str(path))


def test_pages_of_two_sizes_are_refused(path):
    _, data = cv2.imencodemulti('.tif', [np.zeros((4, 6), np.uint8), np.zeros((2, 3), np.uint8)])
    path.write_bytes(data.tobytes())
    with pytest.raises(InputError, match=r'its pages are of sizes \[\(4, 6\), \(2, 3\)\]'):
        read_bands(str(path))


@pytest.mark.parametrize('name', ['missing.npy', '.'])
def test_what_is_no_file_is_named(tmp_path, name):
    with pytest.raises(InputError, match='the picture cannot be read: (No such file|Is a direc)'):
        read_bands(str(tmp_path / name))


# The step


def test_the_step_and_those_behind_it(path):
    """The annotated size is compared once; MatchAnnotatedSize has nothing to turn."""
    expected = picture(24)
    path.write_bytes(encoded(expected, 'npy'))
    known = dict(img_path=str(path), height=6, width=8)
    results = MatchAnnotatedSize().transform(LoadBandsFromFile().transform(known))
    assert np.array_equal(results['img'], expected)
    assert results['img_shape'] == results['ori_shape'] == (6, 8)
    assert known.keys() == {'img_path', 'height', 'width'}


@pytest.mark.parametrize('size', [(8, 6), (24, 6), (6, 9)])
def test_another_size_is_refused(path, size):
    path.write_bytes(encoded(picture(24), 'npy'))
    known = dict(img_path=str(path), height=size[0], width=size[1])
    with pytest.raises(InputError, match=f'6 rows, 8 columns and 24 .* height {size[0]} and width'):
        LoadBandsFromFile().transform(known)


@pytest.mark.parametrize('bands', [1, 3, 4, 24])
def test_mmdets_steps_keep_all_bands(path, bands):
    """Each is resized and flipped as it is alone."""
    pixels = picture(bands, 'float32', size=(40, 60))
    path.write_bytes(encoded(pixels, 'npy'))
    steps = Compose(
        [
            dict(type='mmsolov2.LoadBandsFromFile'),
            dict(type='mmdet.Resize', scale=(30, 20), keep_ratio=True),
            dict(type='mmdet.RandomFlip', prob=1.0),
            dict(type='mmdet.PackDetInputs'),
        ]
    )
    packed = steps(dict(img_path=str(path), img_id=1))['inputs']
    assert packed.shape == (bands, 20, 30)
    for band in range(bands):
        alone = cv2.resize(pixels[..., band], (30, 20))[:, ::-1]
        np.testing.assert_allclose(packed[band].numpy(), alone, rtol=1e-5)
