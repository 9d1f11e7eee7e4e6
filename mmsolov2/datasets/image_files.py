"""Image files, read whole or not at all."""

import io
import os

import cv2
import numpy as np
from PIL import Image

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
