"""Pictures of all kinds of inputs, each read when it is its turn."""

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from mmsolov2.apis.inference import decode_or_refuse, find_images, read_image, require_image
from mmsolov2.errors import InputError

ADDRESSES = ('http://', 'https://')
CAMERA = 'camera:'
VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv')
TIMEOUT = 30  # seconds that a server may be silent
MAX_DOWNLOAD = 2**28  # bytes of a picture
MAX_LOST = 30  # frames in turn that cannot be read, before a video is given up

PictureInput = str | Path | np.ndarray | Image.Image | cv2.VideoCapture


class Picture(NamedTuple):
    """A picture that is read when it is asked for."""

    name: str  # its path, address or frame
    read: Callable[[], np.ndarray]  # (H, W, 3) uint8 BGR; raises InputError


def pictures_of(inputs: PictureInput | list | tuple) -> Iterator[Picture]:
    """The pictures of an input, or of several in turn.

    An input is the path of an image or of a video, a folder, a pattern, an address (http or https)
    of an image, ``'camera:0'``, an opened ``cv2.VideoCapture``, an array (H, W, 3) uint8 BGR, or
    an image of Pillow.

    Raises:
        InputError: if one is of another type, or has no pictures.
    """
    if isinstance(inputs, list | tuple):
        for each in inputs:
            yield from pictures_of(each)
    elif isinstance(inputs, np.ndarray):
        yield Picture('array', partial(require_image, inputs))
    elif isinstance(inputs, Image.Image):
        yield Picture(getattr(inputs, 'filename', '') or 'image', partial(from_pillow, inputs))
    elif isinstance(inputs, cv2.VideoCapture):
        yield from frames_of(inputs, 'video')
    elif isinstance(inputs, str | Path):
        yield from _of_name(str(inputs))
    else:
        raise InputError(
            f'an input of type {type(inputs).__name__}: give a path, an address, '
            f"'{CAMERA}0' for the first camera, an array (H, W, 3) uint8 BGR, an image of Pillow, "
            'a cv2.VideoCapture, or a list of these'
        )


def is_one_picture(inputs: object) -> bool:
    """Whether an input is a picture, and not what may hold several."""
    if isinstance(inputs, str | Path):
        name = os.path.expanduser(str(inputs))
        return name.startswith(ADDRESSES) or (os.path.isfile(name) and not is_video(name))
    return isinstance(inputs, np.ndarray | Image.Image)


def is_video(name: str | Path) -> bool:
    """Whether a name is that of a camera, or has the extension of a video."""
    return str(name).startswith(CAMERA) or Path(name).suffix.lower() in VIDEO_SUFFIXES


def _of_name(name: str) -> Iterator[Picture]:
    """The pictures of a path, a pattern, an address or a camera."""
    if name.startswith(ADDRESSES):
        yield Picture(name, partial(download_image, name))
    elif is_video(name) and not os.path.isdir(os.path.expanduser(name)):
        yield from frames_of(open_video(name), name)
    else:
        for path in find_images([name]):
            yield Picture(str(path), partial(read_image, path))


def from_pillow(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 BGR of an image of Pillow, upright as its EXIF tag says.

    Grey becomes three equal channels, alpha is dropped, 16 bits are cut to the upper 8.

    Raises:
        InputError: if it is truncated, or of a mode without 8 or 16 bits a channel.
    """
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == 'I' or upright.mode.startswith('I;16'):
            grey = np.clip(np.asarray(upright.convert('I')), 0, 2**16 - 1) >> 8
            upright = Image.fromarray(grey.astype(np.uint8))
        if upright.mode == 'F':
            raise ValueError('numbers of an unknown range')
        rgb = np.asarray(upright.convert('RGB'))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f'an image of Pillow, mode {image.mode}, cannot be taken ({error}): convert it to RGB'
        ) from error
    return require_image(np.ascontiguousarray(rgb[..., ::-1]))


def download_image(address: str) -> np.ndarray:
    """The image (H, W, 3) uint8 BGR at an address.

    Raises:
        InputError: if it cannot be loaded, or is no image.
    """
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:  # noqa: S310
            data = answer.read(MAX_DOWNLOAD + 1)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, 'reason', None) or error
        raise InputError(f'{address}: the image cannot be loaded: {reason}') from error
    if len(data) > MAX_DOWNLOAD:
        raise InputError(f'{address}: it is larger than {MAX_DOWNLOAD} bytes, and is not loaded')
    return decode_or_refuse(data, address)


# Videos


def open_video(name: str) -> cv2.VideoCapture:
    """The video of a file, or the camera ``camera:N``, ready to be read.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    camera = name.removeprefix(CAMERA)
    if camera != name:
        if not camera.isdecimal():
            raise InputError(f"{name}: a camera has a number, as in '{CAMERA}0'")
        capture = cv2.VideoCapture(int(camera))
        remedy = 'there is no such camera, or another program uses it'
    else:
        path = os.path.expanduser(name)
        if not os.path.isfile(path):
            raise InputError(f'{name}: there is no such file; check the path')
        capture = cv2.VideoCapture(path)
        remedy = 'this is no video that can be decoded, or it is truncated: replace it'
    if not capture.isOpened():
        raise InputError(f'{name}: {remedy}')
    return capture


def frames_of(capture: cv2.VideoCapture, name: str) -> Iterator[Picture]:
    """The frames of a video, each read when it is its turn, under a name with their number.

    A frame that cannot be read, between others that can, gives a picture that cannot. A video that
    ends too early gives one more, which says so, as a camera does that gives no more frames.

    Raises:
        InputError: if it is not open, or has no frame.
    """
    total = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)  # 0 of a camera
    number = last = missing = 0
    while number - last <= MAX_LOST:
        done, frame = capture.read()
        number += 1
        if done:
            for lost in range(last + 1, number):
                missing += 1
                yield _unreadable(f'{name}, frame {lost}', 'it cannot be read')
            last = number
            yield Picture(f'{name}, frame {number}', partial(require_image, frame))
        elif number >= total:
            break
    if not last:
        raise InputError(f'{name}: no frame of the video can be read: replace it, or open it anew')
    if name.startswith(CAMERA):
        yield _unreadable(name, f'the camera gives no more frames, after {last}')
    elif last + 1 < 0.99 * total:  # what a container tells may be wrong by a few
        yield _unreadable(name, f'{last - missing} of its {total} frames can be read: it is cut')


def _unreadable(name: str, reason: str) -> Picture:
    """A picture that, when it is read, says why it cannot be."""

    def refuse() -> np.ndarray:
        raise InputError(f'{name}: {reason}')

    return Picture(name, refuse)
