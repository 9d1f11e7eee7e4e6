"""Images in the frame of their annotations, and images as thin as a line."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import Resize as MMDetResize
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from PIL import Image

from mmsolov2.datasets import MatchAnnotatedSize, Resize
from mmsolov2.errors import InputError

ORIENTATION = 0x0112  # EXIF
TURNED = 6  # by 90 degrees


def photo(folder: Path, orientation: int) -> str:
    """A JPEG, stored as 24x16 pixels (width, height), red on its left, with an EXIF tag."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, :8, 0] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = folder / 'photo.jpg'
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    return str(path)


def load(path: str, **annotated) -> dict:
    """The image as the pipeline has it before MatchAnnotatedSize."""
    return LoadImageFromFile().transform(dict(img_path=path, **annotated))


# MatchAnnotatedSize


def test_image_annotated_unturned_is_loaded_unturned(tmp_path):
    results = load(photo(tmp_path, TURNED), height=16, width=24)
    assert results['img'].shape == (24, 16, 3)  # OpenCV turned it
    matched = MatchAnnotatedSize().transform(results)
    assert matched['img'].shape == (16, 24, 3)
    assert matched['img_shape'] == matched['ori_shape'] == (16, 24)
    red = matched['img'][..., 2] > 128
    assert red[:, :6].all() and not red[:, 10:].any()


def test_image_annotated_upright_stays(tmp_path):
    results = load(photo(tmp_path, TURNED), height=24, width=16)
    image = results['img'].copy()
    matched = MatchAnnotatedSize().transform(results)
    assert np.array_equal(matched['img'], image)
    assert matched['img_shape'] == matched['ori_shape'] == (24, 16)


def test_image_without_annotated_size_stays(tmp_path):
    for known in ({}, dict(height=16), dict(width=24), dict(height=None, width=None)):
        matched = MatchAnnotatedSize().transform(load(photo(tmp_path, TURNED), **known))
        assert matched['img'].shape == (24, 16, 3)


@pytest.mark.parametrize(
    'orientation, height, width',
    [
        (TURNED, 17, 24),
        (TURNED, 8, 12),
        (1, 24, 16),
        (1, 16, 25),
    ],
)
def test_another_size(tmp_path, orientation, height, width):
    path = photo(tmp_path, orientation)
    with pytest.raises(InputError) as caught:
        MatchAnnotatedSize().transform(load(path, height=height, width=width))
    assert str(caught.value).startswith(f'{path}: the image is ')
    assert f'annotations say {width}x{height}' in str(caught.value)


def test_message_has_the_size_of_the_image(tmp_path):
    with pytest.raises(InputError, match='the image is 24x16 pixels'):
        MatchAnnotatedSize().transform(load(photo(tmp_path, 1), height=10, width=20))


def test_input_is_not_modified(tmp_path):
    results = load(photo(tmp_path, TURNED), height=16, width=24)
    before = copy.deepcopy(results)
    MatchAnnotatedSize().transform(results)
    assert results.keys() == before.keys()
    assert np.array_equal(results.pop('img'), before.pop('img'))
    assert results == before


def test_a_truncated_image_is_named(tmp_path):
    """OpenCV fills it up with grey, or refuses it: that depends on its version."""
    path = Path(photo(tmp_path, 1))
    results = load(str(path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r'photo\.jpg: this image is truncated \(\d+ bytes\)'):
        MatchAnnotatedSize().transform(results)


@pytest.mark.parametrize('known', [{}, dict(img_path=None), dict(img_path='s3://far/away.jpg')])
def test_images_that_are_no_local_files_pass(known):
    results = dict(img=np.zeros((4, 6, 3), np.uint8), **known)
    assert MatchAnnotatedSize().transform(results) is results


# Resize


def sample(height: int, width: int, kind: str = 'bitmap') -> dict:
    """A random image with two boxes, the second across its border, and their masks."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes = torch.tensor([[0, 0, width / 2, height], [width / 4, 0, width + 5, height]])
    if kind == 'bitmap':
        bitmaps = np.zeros((2, height, width), np.uint8)
        bitmaps[0, :, : width // 2] = bitmaps[1, :, width // 4 :] = 1
        masks = BitmapMasks(bitmaps, height, width)
    else:
        corners = [(0, 0, width / 2, height), (width / 4, 0, width, height)]
        polygons = [[np.array([x1, y1, x2, y1, x2, y2, x1, y2])] for x1, y1, x2, y2 in corners]
        masks = PolygonMasks(polygons, height, width)
    return dict(
        img=image,
        img_shape=(height, width),
        ori_shape=(height, width),
        gt_bboxes=HorizontalBoxes(boxes),
        gt_masks=masks,
    )


@pytest.mark.parametrize('kind', ['bitmap', 'polygon'])
@pytest.mark.parametrize(
    'height, width, shape',
    [
        (10, 8000, (1, 320)),
        (8000, 10, (320, 1)),
        (1, 8000, (1, 320)),
        (1, 1, (256, 256)),
    ],
)
@pytest.mark.parametrize('step', [Resize, MMDetResize])
def test_thin_image_keeps_a_pixel(height, width, shape, kind, step):
    resized = step(scale=(320, 256), keep_ratio=True).transform(sample(height, width, kind))
    assert resized['img'].shape == (*shape, 3)
    assert resized['img_shape'] == shape
    assert np.allclose(resized['scale_factor'], (shape[1] / width, shape[0] / height))
    masks = resized['gt_masks'].to_ndarray()
    assert masks.shape == (2, *shape)
    boxes = resized['gt_bboxes'].tensor.numpy()
    expected = [[0, 0, shape[1] / 2, shape[0]], [shape[1] / 4, 0, shape[1], shape[0]]]
    assert np.allclose(boxes, expected)


def test_masks_of_a_very_long_image():
    resized = Resize(scale=(320, 256), keep_ratio=True).transform(sample(10, 8000))
    first, second = resized['gt_masks'].to_ndarray()[:, 0].astype(bool)
    assert first[:160].all() and not first[160:].any()
    assert second[80:].all() and not second[:80].any()


def test_thin_image_keeps_its_pixels():
    """One row of 8000 grey values: the resized row is grey, too."""
    image = np.full((10, 8000, 3), 77, np.uint8)
    resized = Resize(scale=(320, 256), keep_ratio=True).transform(dict(img=image))
    assert (resized['img'] == 77).all()


@pytest.mark.parametrize('choice', [{}, dict(resize_type='mmsolov2.Resize')])
def test_thin_image_in_random_choice_resize(choice):
    step = TRANSFORMS.build(
        dict(type='RandomChoiceResize', scales=[(320, 256)], keep_ratio=True, **choice)
    )
    assert step.transform(sample(10, 8000))['img_shape'] == (1, 320)


def test_thin_image_by_a_factor():
    step = MMDetResize(scale_factor=0.04, keep_ratio=True)
    assert step.transform(sample(10, 8000))['img_shape'] == (1, 320)


def test_thin_image_with_boxes_that_may_cross_the_border():
    step = Resize(scale=(320, 256), keep_ratio=True, clip_object_border=False)
    boxes = step.transform(sample(10, 8000))['gt_bboxes'].tensor
    assert torch.allclose(boxes[1], torch.tensor([80, 0, 8005 * 0.04, 1]))


def test_thin_image_with_another_interpolation():
    image = np.zeros((10, 8010, 3), np.uint8)
    image[:, ::2] = 255
    step = Resize(scale=(320, 256), keep_ratio=True, interpolation='nearest')
    assert set(np.unique(step.transform(dict(img=image))['img'])) <= {0, 255}


@pytest.mark.parametrize('kind', ['bitmap', 'polygon'])
@pytest.mark.parametrize(
    'settings',
    [
        dict(scale=(32, 24), keep_ratio=True),
        dict(scale=(32, 24), keep_ratio=False),
        dict(scale=(320, 256), keep_ratio=True, interpolation='nearest'),
        dict(scale_factor=0.5, keep_ratio=True),
        dict(scale=(32, 24), keep_ratio=True, clip_object_border=False),
    ],
)
@pytest.mark.parametrize('size', [(40, 60), (61, 37), (24, 32), (8, 300)])
def test_equals_mmdet_elsewhere(settings, size, kind):
    ours = Resize(**settings).transform(sample(*size, kind))
    theirs = MMDetResize(**settings).transform(sample(*size, kind))
    assert ours.keys() == theirs.keys()
    for key in ('img', 'scale_factor', 'img_shape', 'scale', 'homography_matrix'):
        assert np.array_equal(ours[key], theirs[key]), key
    assert torch.equal(ours['gt_bboxes'].tensor, theirs['gt_bboxes'].tensor)
    assert np.array_equal(ours['gt_masks'].to_ndarray(), theirs['gt_masks'].to_ndarray())
