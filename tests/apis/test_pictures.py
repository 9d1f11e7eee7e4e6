"""Inputs of all kinds, and the pictures in them."""

import http.server
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmsolov2.apis import pictures, read_image
from mmsolov2.apis.pictures import (
    download_image,
    frames_of,
    from_pillow,
    is_one_picture,
    is_video,
    pictures_of,
)
from mmsolov2.errors import InputError


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def read_all(inputs) -> list[np.ndarray | str]:
    """The images of inputs, or what is said where there is none."""
    found = []
    for picture in pictures_of(inputs):
        try:
            found.append(picture.read())
        except InputError as error:
            found.append(str(error))
    return found


def test_folders_patterns_arrays_and_lists(photo, tmp_path):
    for name in ('b #1.png', 'a.png', 'sub/c.png'):
        write(tmp_path / 'photos' / name, photo)
    folder, pillow = tmp_path / 'photos', Image.fromarray(photo[..., ::-1])
    every = [f'{folder}/{name}' for name in ('a.png', 'b #1.png', 'sub/c.png')]
    assert [picture.name for picture in pictures_of(folder)] == every
    assert [picture.name for picture in pictures_of(f'{folder}/*.png')] == every[:2]
    mixed = [every[2], photo, pillow, folder, (every[0],), Path(every[1])]
    listed = [every[2], 'array', 'image', *every, every[0], every[1]]
    assert [picture.name for picture in pictures_of(mixed)] == listed
    assert all(np.array_equal(image, photo) for image in read_all(mixed))
    assert read_all([]) == []


def test_an_empty_folder_and_other_types(tmp_path):
    with pytest.raises(InputError, match='no file with the extension of an image'):
        list(pictures_of(tmp_path))
    for wrong in (0, None, b'a.png', {'a': 1}):
        with pytest.raises(InputError, match="type (int|NoneType|bytes|dict): .*'camera:0'"):
            list(pictures_of([wrong]))


def test_what_is_one_picture(photo, tmp_path):
    path = write(tmp_path / 'a.png', photo)
    one = [path, str(path), photo, Image.fromarray(photo), 'http://a/b', 'https://a/clip.mp4']
    (tmp_path / 'clip.mp4').touch()
    several = [tmp_path, [path], (photo,), f'{tmp_path}/*.png', 'camera:0', tmp_path / 'clip.mp4']
    assert list(map(is_one_picture, one + several)) == [True] * 6 + [False] * 6
    assert is_video('a/CLIP.MP4') and is_video('camera:0') and not is_video('camera.png')


# Pillow


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'LA', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV'])
def test_modes_of_pillow_are_those_of_its_own_rgb(photo, mode):
    if mode == 'PA':
        image = Image.fromarray(photo).convert('P').convert('PA')
    else:
        image = Image.fromarray(photo[..., ::-1]).convert(mode)
    expected = np.asarray(image.convert('RGB'))[..., ::-1]
    found = from_pillow(image)
    assert np.array_equal(found, expected) and found.flags.c_contiguous
    if mode in ('RGB', 'RGBA'):
        assert np.array_equal(found, photo)


@pytest.mark.parametrize('mode', ['I;16', 'I', 'I;16B'])
def test_16_bits_are_cut_to_the_upper_8(photo, mode):
    deep = photo[..., 0].astype(np.uint16) * 257
    bits = deep.astype('>u2' if mode == 'I;16B' else np.int32 if mode == 'I' else '<u2')
    image = Image.frombytes(mode, (20, 12), bits.tobytes())
    assert np.array_equal(from_pillow(image), np.repeat(photo[..., :1], 3, axis=2))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_pillows_images_are_upright_as_files_are(photo, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo[..., ::-1]).save(tmp_path / 'turned.png', exif=exif)
    with Image.open(tmp_path / 'turned.png') as image:
        assert np.array_equal(from_pillow(image), read_image(tmp_path / 'turned.png'))


def test_what_pillow_cannot_give(photo, tmp_path):
    path = write(tmp_path / 'cut.jpg', np.repeat(photo, 99, axis=0))
    path.write_bytes(path.read_bytes()[:3000])
    for image in (Image.open(path), Image.new('F', (4, 4))):
        with pytest.raises(InputError, match=f'of Pillow, mode {image.mode}, cannot be taken'):
            from_pillow(image)


# Addresses


@pytest.fixture
def server(photo, tmp_path):
    """The address of a server with an image, and a text in place of one."""
    write(tmp_path / 'a b.png', photo)
    (tmp_path / 'text.png').write_text('no image')
    handler = type('Quiet', (http.server.SimpleHTTPRequestHandler,), dict(log_message=print))
    with http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), lambda *args: handler(*args, directory=str(tmp_path))
    ) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{running.server_port}'
        running.shutdown()


def test_addresses(server, photo, monkeypatch):
    assert np.array_equal(read_all(f'{server}/a%20b.png')[0], photo)
    said = read_all([f'{server}/none.png', f'{server}/text.png', 'http://127.0.0.1:1/a', 'http://'])
    assert said[0].startswith(f'{server}/none.png: the image cannot be loaded: File not found')
    assert said[1].startswith(f'{server}/text.png: this is no image')
    assert all('the image cannot be loaded' in one for one in said[2:])
    monkeypatch.setattr(pictures, 'MAX_DOWNLOAD', 20)
    with pytest.raises(InputError, match='larger than 20 bytes'):
        download_image(f'{server}/a%20b.png')


# Videos


class Frames:  # no child of cv2's class: its memory is not that of Python objects
    """A video of frames that say their number; some cannot be read."""

    def __init__(self, total, told=None, lost=()):
        self.total, self.told, self.lost, self.place = total, told, set(lost), 0

    def get(self, prop):
        return self.total if self.told is None else self.told

    def read(self):
        self.place += 1
        if self.place > self.total or self.place in self.lost:
            return False, None
        return True, np.full((4, 4, 3), self.place, np.uint8)


def frames(capture, name='clip') -> list[int | str]:
    found = []
    for picture in frames_of(capture, name):
        try:
            found.append(int(picture.read()[0, 0, 0]))
        except InputError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize(
    ('capture', 'expected'),
    [
        (Frames(3), [1, 2, 3]),
        (Frames(3, told=-1), [1, 2, 3]),  # a camera's
        (Frames(3, told=4), [1, 2, 3]),  # containers are wrong by one
        (Frames(4, lost=[2]), [1, 'clip, frame 2: it cannot be read', 3, 4]),
        (Frames(3, told=9), [1, 2, 3, 'clip: 3 of its 9 frames can be read: it is cut']),
        (Frames(2, told=900), [1, 2, 'clip: 2 of its 900 frames can be read: it is cut']),
        (
            Frames(9, lost=[1, *range(4, 10)]),
            [
                'clip, frame 1: it cannot be read', 2, 3,
                'clip: 2 of its 9 frames can be read: it is cut',
            ],
        ),
    ],
)  # fmt: skip
def test_frames(capture, expected):
    assert frames(capture) == expected


def test_a_video_without_frames():
    with pytest.raises(InputError, match='clip: no frame of the video can be read'):
        frames(Frames(0, told=5))
    with pytest.raises(InputError, match='video: no frame'):
        list(pictures_of([cv2.VideoCapture()]))


def test_a_camera_that_is_pulled_out():
    assert frames(Frames(2, told=-1), 'camera:0')[2] == (
        'camera:0: the camera gives no more frames, after 2'
    )


def write_video(path: Path, count: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 7.5, (160, 120))
    if not writer.isOpened():
        pytest.skip('this build of OpenCV writes no such video')
    noise = np.random.default_rng(0).integers(0, 10, (120, 160, 3), np.uint8)
    for number in range(count):
        writer.write(noise + np.uint8(10 * number))
    writer.release()
    return path


def test_videos(tmp_path):
    path = write_video(tmp_path / 'my clip.avi', 20)
    found = read_all(path)
    assert [image.mean() // 10 for image in found] == list(range(20))
    assert [picture.name for picture in pictures_of(path)][1] == f'{path}, frame 2'
    assert len(read_all(cv2.VideoCapture(str(path)))) == 20
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    *whole, last = read_all(path)
    assert 2 < len(whole) < 20
    assert last == f'{path}: {len(whole)} of its 20 frames can be read: it is cut'


def test_what_is_no_video(tmp_path):
    (tmp_path / 'text.mp4').write_text('no video')
    with pytest.raises(InputError, match=r'text\.mp4: this is no video that can be decoded'):
        list(pictures_of(tmp_path / 'text.mp4'))
    with pytest.raises(InputError, match='there is no such file'):
        list(pictures_of(tmp_path / 'none.mp4'))
    with pytest.raises(InputError, match='camera:99: there is no such camera'):
        list(pictures_of('camera:99'))
    with pytest.raises(InputError, match="a camera has a number, as in 'camera:0'"):
        list(pictures_of('camera:front'))
