"""Image files, read whole or not at all."""

import io
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

FORMATS = (  # of OpenCV, by the extensions of their files; a build may lack some of them
    ('.avif', ), ('.bmp', '.dib'), ('.exr', ), ('.gif', ), ('.hdr', '.pic'),
    ('.jp2', '.j2k', '.jpf', '.jpx'), ('.jpg', '.jfif', '.jpe', '.jpeg', '.mpo'), ('.pam', ),
    ('.pfm', ), ('.png', '.apng'), ('.ppm', '.pbm', '.pgm', '.pnm'), ('.sr', '.ras'),
    ('.tif', '.tiff'), ('.webp', )
)  # fmt: skip
IMAGE_SUFFIXES = tuple(
    sorted(suffix for kind in FORMATS if cv2.haveImageWriter(f'x{kind[0]}') for suffix in kind)
)
ORIENTATION, SIDEWAYS = 0x0112, range(5, 9)  # EXIF's tag, and its values that turn by 90°
JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'


def decode_image(data: bytes) -> np.ndarray | None:
    """(H, W, 3) uint8 BGR of an image file, upright as its EXIF tag says, or None.

    None if the data are empty, no image, truncated, or of a kind that OpenCV cannot read.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # empty, or too large
        return None
    return None if is_cut_jpeg(data) else image


def decode_file(path: str | Path) -> np.ndarray | None:
    """``decode_image`` of a file; None also if it cannot be read."""
    try:
        return decode_image(Path(path).read_bytes())
    except (OSError, ValueError):  # ValueError: a name with a zero in it
        return None


def is_cut_jpeg(data: bytes) -> bool:
    """Whether an image file is a JPEG that ends too early: OpenCV fills it up with grey.

    Up to 4.10 always, since then where it reads the file by itself (``cv2.imread``). Other formats
    it refuses.
    """
    if not data.startswith(JPEG_START):
        return False
    data = data.rstrip(b'\0')  # of a download, or of a disk, that kept the size
    if data.endswith(JPEG_END):
        return False
    try:  # cameras write more behind the image
        with Image.open(io.BytesIO(data)) as image:
            image.draft('RGB', (1, 1))  # decode an eighth of the size, which is fast
            image.load()
    except Image.DecompressionBombError:  # OpenCV has a higher limit, and has read it
        return False
    except (OSError, SyntaxError):
        return True
    return False


def is_cut_file(path: str) -> bool:
    """``is_cut_jpeg`` of a local file: of a JPEG that ends as it should, four bytes are read."""
    with open(path, 'rb') as file:
        if file.read(2) != JPEG_START:
            return False
        file.seek(-2, os.SEEK_END)
        if file.read() == JPEG_END:
            return False
        file.seek(0)
        return is_cut_jpeg(file.read())


class ImageSize(NamedTuple):
    """Height and width of an image as one sees it; its EXIF tag may turn the file's by 90°."""

    height: int
    width: int
    is_turned: bool


def image_size(path: str | Path) -> ImageSize | None:
    """The size of an image file, from its head where that tells; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            is_turned = image.getexif().get(ORIENTATION) in SIDEWAYS
            width, height = image.size[:: -1 if is_turned else 1]
            return ImageSize(height, width, is_turned)
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError):
        pass  # of a kind that OpenCV alone knows
    decoded = decode_file(path)
    return None if decoded is None else ImageSize(decoded.shape[0], decoded.shape[1], False)
