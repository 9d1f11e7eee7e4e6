"""Pictures of any number of bands: NumPy and TIFF files, read as they were written or refused.

OpenCV reads a TIFF, but gives one band of several that are not marked as colours, pages up to where
a file is cut, and colours times an alpha. The file's own tags tell.
"""

import io
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mmsolov2.errors import InputError
from mmsolov2.registry import TRANSFORMS

NPY, TIFF, BIG_TIFF = b'\x93NUMPY', (b'II*\0', b'MM\0*'), (b'II+\0', b'MM\0+')
SAMPLES, PLANES, EXTRA_SAMPLES = 277, 284, 338  # tags of TIFF 6.0
ALPHA = 2  # unassociated, of extra samples
STRIPS = ((273, 279), (324, 325))  # offsets and byte counts, of strips and of tiles
INSTEAD = 'write it as .npy of (H, W, bands), or as TIFF with a grey page a band'


def read_bands(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read a picture of numbers, .npy or TIFF: (H, W, bands) float32.

    The pages of a TIFF are joined; colours are in the file's order, which is RGB.

    Raises:
        InputError: if the file is missing, neither kind, truncated, or of another shape or type;
            if a value is not finite.
    """
    try:
        data = fileio.get(path, backend_args=backend_args)
    except OSError as error:
        raise InputError(
            f'{path}: the picture cannot be read: {error.strerror or error}'
        ) from error
    try:
        bands = decode_npy(data) if data.startswith(NPY) else decode_tiff(data)
    except ValueError as error:
        raise InputError(f'{path}: {error}') from error
    bands = bands.astype(np.float32, copy=False)
    bad = bands.size - np.isfinite(bands).sum()
    if bad:
        raise InputError(
            f'{path}: {bad} of its {bands.size} values are NaN or infinite, as float32: fill them'
        )
    return bands


def decode_npy(data: bytes) -> np.ndarray:
    """(H, W, bands) of an .npy file of (H, W) or (H, W, bands) numbers.

    Raises:
        ValueError: if it is cut, runs code, or has another shape or type.
    """
    try:
        bands = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f'this .npy file cannot be read ({error}): replace it') from error
    if bands.ndim not in (2, 3) or not bands.size or bands.dtype.kind not in 'uif':
        raise ValueError(
            f'it holds {bands.shape} {bands.dtype}, not (H, W, bands) of integers or floats: '
            'write it so'
        )
    return np.atleast_3d(bands)


def decode_tiff(data: bytes) -> np.ndarray:
    """(H, W, bands) of all pages of a TIFF file.

    Raises:
        ValueError: if it is none, is cut, or OpenCV would not give its bands as they are.
    """
    if not data.startswith(TIFF + BIG_TIFF):
        raise ValueError(
            f'this is neither .npy nor TIFF ({len(data)} bytes, beginning with {data[:8]!r}): '
            f'{INSTEAD}'
        )
    if not hasattr(cv2, 'imdecodemulti'):
        raise ValueError(f'TIFF needs OpenCV 4.7 or newer, not {cv2.__version__}: {INSTEAD}')
    tags = list(pages_of(data))
    try:
        done, pages = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f'OpenCV cannot read this TIFF ({error.err}): {INSTEAD}') from error
    pages = [np.atleast_3d(page) for page in pages]
    bands, read = [page.samples for page in tags], [page.shape[2] for page in pages]
    if not done or read != bands:
        raise ValueError(f'OpenCV reads bands {read} of its pages, which have {bands}: {INSTEAD}')
    if any(page.changes_bands for page in tags):
        raise ValueError(f'it has an alpha, or planes, which OpenCV mixes with bands: {INSTEAD}')
    if len({page.shape[:2] for page in pages}) != 1:
        raise ValueError(f'its pages are of sizes {[page.shape[:2] for page in pages]}: {INSTEAD}')
    return np.concatenate([in_file_order(page) for page in pages], axis=2)


def in_file_order(page: np.ndarray) -> np.ndarray:
    """A page (H, W, C) of OpenCV, which puts blue before red, in the order of the file."""
    return page[..., [2, 1, 0, *range(3, page.shape[2])]] if page.shape[2] > 2 else page


class Page(NamedTuple):
    """What the tags of a TIFF's page say."""

    samples: int  # bands
    changes_bands: bool  # when OpenCV reads it
    end: int  # of its data in the file


def page_of(directory: ImageFileDirectory_v2) -> Page:
    """The page of a directory of tags."""

    def values(tag: int, *default: int) -> list[int]:
        return np.atleast_1d(directory.get(tag, default)).tolist()

    (samples, *_), planes = values(SAMPLES, 1), values(PLANES, 1)
    is_split = samples > 1 and planes != [1]
    ends = [
        offset + length
        for offsets, lengths in STRIPS
        for offset, length in zip(values(offsets), values(lengths), strict=False)
    ]
    return Page(samples, is_split or ALPHA in values(EXTRA_SAMPLES), max(ends, default=sys.maxsize))


def pages_of(data: bytes) -> Iterator[Page]:
    """The pages of a TIFF file, which has all data that they tell of.

    Raises:
        ValueError: if it is cut or damaged.
    """
    seen = {0}
    try:
        directory = ImageFileDirectory_v2(data[: 16 if data.startswith(BIG_TIFF) else 8])
        while directory.next not in seen:
            seen.add(directory.next)
            file = io.BytesIO(data)
            file.seek(directory.next)
            directory.load(file)
            page = page_of(directory)
            if page.end > len(data):
                raise EOFError('the data of a page are cut')
            yield page
        if directory.next or len(seen) == 1:
            raise EOFError('the list of its pages is cut')
    except (EOFError, LookupError, TypeError, ValueError, struct.error) as error:
        raise ValueError(
            f'this TIFF is truncated or damaged ({error}; {len(data)} bytes): replace it'
        ) from error


@TRANSFORMS.register_module()
class LoadBandsFromFile(BaseTransform):
    """Load a picture of any number of bands, .npy or TIFF: ``img`` (H, W, bands) float32.

    In the place of LoadImageFromFile, with ``mmsolov2.BandsDataPreprocessor``.

    Args:
        backend_args: of mmengine's file backend.

    Raises:
        InputError: if it cannot be read (see ``read_bands``), or is not of the annotated size.
    """

    def __init__(self, *, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Add ``img``, ``img_shape`` and ``ori_shape`` of ``img_path``."""
        path = results['img_path']
        bands = read_bands(path, self.backend_args)
        shape = bands.shape[:2]
        annotated = results.get('height'), results.get('width')
        if None not in annotated and annotated != shape:
            raise InputError(
                f'{path}: the picture has {shape[0]} rows, {shape[1]} columns and '
                f'{bands.shape[2]} bands, but its annotations say height {annotated[0]} and width '
                f'{annotated[1]}: correct the annotation file, or write the file as (H, W, bands)'
            )
        return {**results, 'img': bands, 'img_shape': shape, 'ori_shape': shape}
