"""Masks as images: numbers, parts, a file an instance, palettes, and what cannot be read."""

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mmsolov2.datasets.importers import find_source
from mmsolov2.errors import InputError

HEIGHT, WIDTH = 60, 80


def scene(seed: int = 0, count: int = 6) -> np.ndarray:
    """(H, W): numbers of instances, some in parts and with holes, of which some touch."""
    rng = np.random.default_rng(seed)
    numbers = np.zeros((HEIGHT, WIDTH), np.uint16)
    for number in range(1, count + 1):
        x, y, radius = rng.integers(8, WIDTH - 8), rng.integers(8, HEIGHT - 8), rng.integers(4, 12)
        cv2.circle(numbers, (int(x), int(y)), int(radius), number, 3 if number % 2 else -1)
    return numbers


def save(path, array, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image = Image.fromarray(array.astype(np.uint8), 'P')
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)


def picture(path, seed: int = 0) -> None:
    save(path, np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def masks_of(content: dict, number: int = 1) -> list[np.ndarray]:
    own = [one for one in content['annotations'] if one['image_id'] == number]
    return [coco_mask.decode(one['segmentation']).astype(bool) for one in own]


def assert_numbers(content: dict, numbers: np.ndarray, image: int = 1) -> None:
    """The masks of an image are those of the numbers, to the pixel."""
    found = {mask.tobytes() for mask in masks_of(content, image)}
    assert found == {(numbers == n).tobytes() for n in np.unique(numbers) if n}


KINDS = dict(
    eight_bits=lambda path, numbers: save(path, numbers.astype(np.uint8)),
    sixteen_bits=lambda path, numbers: save(path, numbers * 1000),
    thirty_two_bits=lambda path, numbers: save(path.with_suffix('.tif'), numbers.astype(np.int32)),
    palette=lambda path, numbers: save(path, numbers, palette=True),
    three_equal_channels=lambda path, numbers: save(
        path, np.repeat(numbers[..., None].astype(np.uint8), 3, 2)
    ),
)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('folder', ['masks', 'labels', 'annotations', 'gt', 'Segmentations'])
def test_numbers_of_instances(tmp_path, kind, folder):
    for seed, name in enumerate(['a 1', 'ü#']):
        picture(tmp_path / 'images' / f'{name}.jpg', seed)
        KINDS[kind](tmp_path / folder / f'{name}.png', scene(seed))
    source = find_source(tmp_path, classes=['nucleus'])
    content = source.read()['all']
    assert source.kind == 'pictures with masks'
    assert [one['name'] for one in content['categories']] == ['nucleus']
    assert [one['file_name'] for one in content['images']] == ['images/a 1.jpg', 'images/ü#.jpg']
    assert not any(one['iscrowd'] for one in content['annotations'])
    assert_numbers(content, scene(0), 1)
    assert_numbers(content, scene(1), 2)
    assert source.notes == [
        '2 masks whose values were taken as numbers of instances, first images/a 1.jpg'
    ]


@pytest.mark.parametrize('layout', ['{split}/{kind}', '{kind}/{split}'])
def test_splits(tmp_path, layout):
    for seed, split in enumerate(['train', 'val', 'test']):
        picture(tmp_path / layout.format(split=split, kind='images') / 'a.png', seed)
        if split != 'test':
            save(tmp_path / layout.format(split=split, kind='masks') / 'a.png', scene(seed))
    source = find_source(tmp_path)
    contents = source.read()
    assert [*contents] == ['train', 'val']
    assert_numbers(contents['train'], scene(0))
    assert_numbers(contents['val'], scene(1))


@pytest.mark.parametrize('value', [1, 255, True])
def test_each_connected_part_of_masks_of_one_value(tmp_path, value):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:20, 5:20] = mask[20:30, 20:30] = mask[40:50, 40:70] = 1  # two touch at a corner
    mask[42:45, 45:50] = 0  # a hole
    picture(tmp_path / 'images' / 'a.png')
    picture(tmp_path / 'images' / 'empty.png', 1)
    save(tmp_path / 'masks' / 'a.png', mask.astype(bool) if value is True else mask * value)
    save(tmp_path / 'masks' / 'empty.png', mask * 0)
    source = find_source(tmp_path)
    content = source.read()['all']
    assert sorted(mask.sum() for mask in masks_of(content)) == [285, 325]
    assert len(content['images']) == 2 and not masks_of(content, 2)
    assert source.notes[0].startswith('2 masks of one value, of which each connected part was')


def test_a_mask_of_one_instance_among_numbered_ones_stays_one(tmp_path):
    one = np.zeros((HEIGHT, WIDTH), np.uint8)
    one[5:20, 5:20] = one[40:50, 40:70] = 1
    for seed, (name, mask) in enumerate(dict(a=one, b=scene().astype(np.uint8)).items()):
        picture(tmp_path / 'images' / f'{name}.png', seed)
        save(tmp_path / 'masks' / f'{name}.png', mask)
    assert_numbers(find_source(tmp_path).read()['all'], one)


def test_a_folder_of_masks_for_each_picture(tmp_path):
    numbers = scene()
    picture(tmp_path / 'images' / 'a.png')
    for number in np.unique(numbers)[1:]:
        mask = (numbers == number).astype(np.uint8) * 255
        save(tmp_path / 'masks' / 'a' / f'{number}.png', mask)
    source = find_source(tmp_path)
    assert_numbers(source.read()['all'], numbers)
    assert source.notes == ['1 pictures with a mask file for each instance, first images/a.png']


def test_a_folder_for_each_picture(tmp_path):
    for seed, name in enumerate(['0a1b', '0c2d']):
        picture(tmp_path / 'stage1_train' / name / 'images' / f'{name}.png', seed)
        for number in np.unique(scene(seed))[1:]:
            mask = (scene(seed) == number).astype(np.uint8) * 255
            save(tmp_path / 'stage1_train' / name / 'masks' / f'{seed}{number}.png', mask)
    picture(tmp_path / 'stage1_test' / 'x' / 'images' / 'x.png', 5)
    contents = find_source(tmp_path).read()
    assert [*contents] == ['train']
    for seed in (0, 1):
        assert_numbers(contents['train'], scene(seed), seed + 1)


def test_the_border_of_palettes_is_no_instance(tmp_path):
    numbers = scene()
    picture(tmp_path / 'images' / 'a.png')
    bordered = numbers.copy()
    bordered[0] = 255
    save(tmp_path / 'gt' / 'a.png', bordered, palette=True)
    source = find_source(tmp_path)
    numbers[0] = 0
    assert_numbers(source.read()['all'], numbers)
    assert '1 masks whose value 255 was left out as a border' in ' '.join(source.notes)


@pytest.mark.parametrize('palette, values', [(False, [1, 255]), (True, [254, 255]), (True, [255])])
def test_values_of_255_that_are_instances(tmp_path, palette, values):
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, value in enumerate(values):
        numbers[20 * place : 20 * place + 10, 5:30] = value
    picture(tmp_path / 'images' / 'a.png')
    save(tmp_path / 'masks' / 'a.png', numbers, palette)
    assert_numbers(find_source(tmp_path).read()['all'], numbers)


def test_two_pictures_in_a_folder_named_as_one_do_not_share_its_masks(tmp_path):
    for seed, name in enumerate(('cells', 'other')):
        picture(tmp_path / 'cells' / 'images' / f'{name}.png', seed)
        save(tmp_path / 'cells' / 'masks' / f'{seed}.png', scene(seed))
    with pytest.raises(InputError, match='no mask has the name of a picture'):
        find_source(tmp_path).read()


def test_a_picture_that_its_tag_turns(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / 'images').mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (WIDTH, HEIGHT, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / 'images' / 'a.jpg', exif=exif)  # upright it is H x W
    for mask in (scene(), scene().T):
        save(tmp_path / 'masks' / 'a.png', np.ascontiguousarray(mask))
        content = find_source(tmp_path).read()['all']
        assert_numbers(content, mask)
        image = content['images'][0]
        assert (image['height'], image['width']) == mask.shape


def test_what_has_no_other_is_counted(tmp_path):
    for name in ('a', 'b'):
        picture(tmp_path / 'images' / f'{name}.png')
    for name in ('a', 'c'):
        save(tmp_path / 'masks' / f'{name}.png', scene())
    source = find_source(tmp_path)
    assert len(source.read()['all']['images']) == 1
    assert sorted(source.notes)[:2] == [
        '1 masks left out, which have no picture, first masks/c.png',
        '1 masks whose values were taken as numbers of instances, first images/a.png',
    ]
    assert '1 pictures left out, which have no mask, first images/b.png' in source.notes


def write_wrong(root, array) -> None:
    picture(root / 'images' / 'a.png')
    save(root / 'masks' / 'a.png', array)


COLOURED = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
COLOURED[5:9, 5:9, 1] = 200


@pytest.mark.parametrize(
    'array, message',
    [
        (COLOURED, r'a\.png: this mask is coloured'),
        (scene()[:-1], r'a\.png: this mask is 80x59 pixels, but a\.png is 80x60'),
    ],
)
def test_masks_that_are_refused(tmp_path, array, message):
    write_wrong(tmp_path, array)
    with pytest.raises(InputError, match=message):
        find_source(tmp_path).read()


def test_files_that_are_refused(tmp_path):
    write_wrong(tmp_path, scene())
    (tmp_path / 'masks' / 'a.png').write_bytes((tmp_path / 'masks' / 'a.png').read_bytes()[:200])
    with pytest.raises(InputError, match=r'masks/a\.png: this mask cannot be read'):
        find_source(tmp_path).read()
    save(tmp_path / 'masks' / 'a.tif', scene())
    with pytest.raises(InputError, match='has the same name; keep one'):
        find_source(tmp_path)
    (tmp_path / 'masks' / 'a.tif').unlink()
    save(tmp_path / 'gt' / 'a.png', scene())
    with pytest.raises(InputError, match=r'the masks may be in gt/ or masks/'):
        find_source(tmp_path)
    (tmp_path / 'gt' / 'a.png').unlink()
    with pytest.raises(InputError, match='are of one class, not of'):
        find_source(tmp_path, classes=['a', 'b'])
    (tmp_path / 'masks' / 'a.png').rename(tmp_path / 'masks' / 'a_mask.png')
    with pytest.raises(InputError, match=r'no mask has the name of a picture .*a_mask\.png'):
        find_source(tmp_path).read()
