"""Images of all kinds, checkpoints of all kinds, and what comes out of them."""

import copy
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_model
import torch
from mmdet.apis import DetInferencer, inference_detector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

from mmsolov2.apis import (
    coco_categories,
    draw_overlay,
    find_config,
    find_images,
    load_config,
    load_detector,
    predict,
    predict_batch,
    read_image,
    to_coco,
)
from mmsolov2.errors import InputError
from mmsolov2.registry import MODELS
from mmsolov2.structures.masks import tight_boxes
from mmsolov2.visualization.overlay import draw_labels, instance_color

CONFIG = Path(__file__).parents[2] / 'configs/solov2/solov2-light_r18_fpn_ms-3x_coco.py'
TINY = {**tiny_model.TINY, 'model.test_cfg.max_per_img': 20}


@pytest.fixture(scope='module')
def state_dict() -> dict:
    """Random weights under which many cells pass the thresholds."""
    torch.manual_seed(0)
    model = MODELS.build(load_config(CONFIG, TINY).model)
    nn.init.normal_(model.mask_head.conv_cls.weight, std=0.1)
    nn.init.constant_(model.mask_head.conv_cls.bias, -1)
    nn.init.normal_(model.mask_head.conv_kernel.weight, std=0.1)
    return model.state_dict()


@pytest.fixture
def checkpoint(state_dict, tmp_path) -> Path:
    path = tmp_path / 'tiny.pth'
    torch.save(dict(state_dict=state_dict), path)
    return path


@pytest.fixture(scope='module')
def model(state_dict, tmp_path_factory) -> nn.Module:
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save(dict(state_dict=state_dict), path)
    return load_detector(CONFIG, path, device='cpu', cfg_options=TINY)


@pytest.fixture
def photo() -> np.ndarray:
    """Soft blotches, (60, 88, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 88, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)


def write(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def write_turned(path: Path, image: np.ndarray, orientation: int) -> Path:
    """A JPEG whose EXIF tag says that viewers must turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image[..., ::-1]).save(path, exif=exif, quality=95)
    return path


def assert_same(ours: DetDataSample, theirs: DetDataSample) -> None:
    """Equal predictions, and some of them."""
    assert len(ours.pred_instances) > 0
    assert ours.ori_shape == theirs.ori_shape
    for name in ('scores', 'labels', 'bboxes', 'masks'):
        torch.testing.assert_close(
            getattr(ours.pred_instances, name), getattr(theirs.pred_instances, name)
        )


# Finding images


@pytest.fixture
def folder(tmp_path) -> Path:
    names = ['b.jpg', 'a.PNG', 'notes.txt', 'sub/a.png', 'sub/deep/c.tiff', '._b.jpg', '.git/d.png']
    for name in names:
        path = tmp_path / 'photos' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / 'photos'


def found(folder: Path, *inputs: str) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in find_images([folder / i for i in inputs])]


@pytest.mark.parametrize(
    ('inputs', 'expected'),
    [
        (['.'], ['a.PNG', 'b.jpg', 'sub/a.png', 'sub/deep/c.tiff']),
        (['sub', 'b.jpg', 'sub/../b.jpg', '.'], ['a.PNG', 'b.jpg', 'sub/a.png', 'sub/deep/c.tiff']),
        (['*'], ['a.PNG', 'b.jpg']),
        (['**/a.*', '*.jpg'], ['a.PNG', 'b.jpg', 'sub/a.png']),
        (['notes.txt'], ['notes.txt']),  # named by the user: reading it will say what is wrong
    ],
)
def test_find_images(folder, inputs, expected):
    assert [os.path.normpath(name) for name in found(folder, *inputs)] == expected


def test_find_images_takes_a_name_with_brackets_literally(tmp_path):
    (tmp_path / 'set[1]').mkdir()
    image = tmp_path / 'set[1]' / 'image[2].png'
    image.touch()
    assert find_images([image]) == find_images([tmp_path / 'set[1]']) == [image]


@pytest.mark.parametrize('name', ['nothing.png', 'photos/*.bmp', 'photos/*.txt', 'empty'])
def test_find_images_names_an_input_without_images(folder, name):
    (folder.parent / 'empty').mkdir()
    path = folder.parent / name
    with pytest.raises(InputError, match='give an image, a folder of images') as error:
        find_images([folder, path])
    assert str(path) in str(error.value)


@pytest.mark.parametrize('pattern', ['', '**/*', '**/*.png', '**/**/a.png', 'sub/up/**'])
def test_links_that_lead_back_multiply_nothing(tmp_path, pattern):
    """Each doubles with every level below, up to the 40 that the system follows."""
    (tmp_path / 'sub').mkdir()
    for name in ('a.png', 'sub/a.png'):
        (tmp_path / name).touch()
    for name in ('sub/up', 'again', 'sub/here'):
        (tmp_path / name).symlink_to(tmp_path / 'sub' if name == 'sub/here' else tmp_path)
    paths = find_images([tmp_path / pattern])
    assert sorted(os.path.realpath(path) for path in paths) == [
        str(tmp_path / 'a.png'),
        str(tmp_path / 'sub' / 'a.png'),
    ]
    if not pattern.startswith('sub'):
        assert all('up' not in path.parts and 'again' not in path.parts for path in paths)


def test_links_to_files_and_other_folders_are_followed(folder, tmp_path):
    (tmp_path / 'album').mkdir()
    (tmp_path / 'album' / 'link.png').symlink_to(folder / 'a.PNG')
    (tmp_path / 'album' / 'gone.png').symlink_to(folder / 'gone.png')
    (tmp_path / 'album' / 'deep').symlink_to(folder / 'sub' / 'deep')
    assert found(tmp_path / 'album', '.') == ['deep/c.tiff', 'gone.png', 'link.png']
    with pytest.raises(InputError, match=r'gone\.png: the image cannot be read: No such file'):
        read_image(tmp_path / 'album' / 'gone.png')


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """What is logged while images are looked for."""
    lines = []
    monkeypatch.setattr(
        'mmsolov2.apis.inference.print_log', lambda text, **kwargs: lines.append(text)
    )
    return lines


def test_one_line_counts_the_files_that_are_left_out(folder, logged):
    (folder / 'sub' / 'more.TXT').touch()
    (folder / 'README').touch()
    assert len(find_images([folder, folder / 'sub', folder / '*'])) == 4
    (line,) = logged
    assert line.startswith("left out 3 files whose extension is no image's: {")
    assert "'.txt': 2" in line and "'none': 1" in line
    assert len(find_images([folder / 'sub', folder / 'sub' / 'more.TXT'])) == 3  # it is named
    assert len(logged) == 1


def test_a_folder_that_cannot_be_read_is_told(folder, logged, monkeypatch):

    def refuse_deep(path, listdir=os.listdir):
        if Path(path).name == 'deep':
            raise PermissionError(13, 'Permission denied')
        return listdir(path)

    monkeypatch.setattr(os, 'listdir', refuse_deep)
    assert len(find_images([folder])) == 3
    assert logged[0] == (
        f'left out {folder}/sub/deep: the folder cannot be read (Permission denied)'
    )


@pytest.mark.parametrize(
    'name',
    [
        'a.avif',
        'a.apng',
        'a.bmp',
        'a.dib',
        'a.gif',
        'a.hdr',
        'a.jfif',
        'a.jp2',
        'a.jpe',
        'a.JPG',
        'a.jpeg',
        'a.pam',
        'a.pbm',
        'a.pfm',
        'a.pgm',
        'a.pic',
        'a.png',
        'a.pnm',
        'a.ppm',
        'a.ras',
        'a.sr',
        'a.tif',
        'a.tiff',
        'a.webp',
    ],
)
def test_what_opencv_reads_is_found(tmp_path, photo, name):
    suffix = '.jpg' if name == 'a.jfif' else Path(name).suffix
    if not cv2.haveImageWriter(f'a{suffix}'):
        pytest.skip('not in this build of OpenCV')
    image = photo[..., 0] if suffix in ('.pgm', '.pbm') else photo
    image = np.float32(image) / 255 if suffix in ('.hdr', '.pfm', '.pic') else image
    (tmp_path / name).write_bytes(cv2.imencode(suffix, image)[1].tobytes())
    assert find_images([tmp_path]) == [tmp_path / name]
    assert read_image(tmp_path / name).shape == photo.shape


# Reading and predicting images of all kinds


def test_pipes_and_folders_are_refused(tmp_path):
    """Reading a pipe waits for somebody who writes to it."""
    os.mkfifo(tmp_path / 'pipe.png')
    assert find_images([tmp_path]) == [tmp_path / 'pipe.png']
    for path in (tmp_path / 'pipe.png', tmp_path):
        with pytest.raises(InputError, match='this is no file, but a folder, a pipe or a device'):
            read_image(path)


def test_the_first_frame_is_read(photo, tmp_path):
    frames = [Image.fromarray(image[..., ::-1]) for image in (photo, 255 - photo)]
    for name in ('pages.tif', 'frames.png', 'frames.webp'):
        lossless = dict(lossless=True) if name.endswith('webp') else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **lossless)
        assert np.array_equal(read_image(tmp_path / name), photo)


def test_predicts_as_mmdet_does(model, photo, tmp_path):
    path = write(tmp_path / 'photo.png', photo)
    expected = inference_detector(model, str(path))
    assert_same(predict(model, path), expected)
    assert_same(predict(model, str(path)), expected)
    assert_same(predict(model, photo), expected)


def test_grey_is_three_equal_channels(model, photo, tmp_path):
    grey = photo[..., 0]
    path = write(tmp_path / 'grey.png', grey)
    assert_same(predict(model, path), predict(model, np.repeat(grey[..., None], 3, axis=2)))


def test_alpha_is_dropped(model, photo, tmp_path):
    alpha = np.arange(photo[..., 0].size).reshape(60, 88, 1) % 256
    path = write(tmp_path / 'rgba.png', np.dstack([photo, alpha.astype(np.uint8)]))
    assert_same(predict(model, path), predict(model, photo))


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_16_bits_are_cut_to_8(model, photo, tmp_path, suffix):
    path = write(tmp_path / f'deep.{suffix}', photo.astype(np.uint16) * 257)
    assert_same(predict(model, path), predict(model, photo))


@pytest.mark.parametrize(
    ('orientation', 'turn'), [(3, cv2.ROTATE_180), (6, cv2.ROTATE_90_CLOCKWISE)]
)
def test_results_are_upright(model, photo, tmp_path, orientation, turn):
    path = write_turned(tmp_path / 'turned.jpg', photo, orientation)
    unturned = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert unturned.shape == photo.shape
    upright = write(tmp_path / 'upright.png', cv2.rotate(unturned, turn))
    assert_same(predict(model, path), predict(model, upright))


@pytest.mark.parametrize('mode', ['1', 'P', 'LA', 'CMYK'])
def test_every_mode_becomes_8_bit_bgr(photo, tmp_path, mode):
    path = tmp_path / 'image.tif'
    Image.fromarray(photo).convert('L').convert('RGB' if mode == 'CMYK' else 'L').convert(
        mode
    ).save(path)
    image = read_image(path)
    assert image.shape == photo.shape and image.dtype == np.uint8


@pytest.mark.parametrize('size', [(1, 1), (10, 8000), (8000, 10)])
def test_extreme_sizes(model, tmp_path, size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    sample = predict(model, write(tmp_path / 'extreme.png', image))
    found = sample.pred_instances
    assert len(found) > 0 and found.masks.shape == (len(found), *size)
    assert (found.bboxes[:, 2:] <= torch.tensor(size[::-1])).all()
    assert draw_overlay(image, sample, model.dataset_meta['classes']).shape == image.shape


def cut(suffix: str):

    def data(photo: np.ndarray) -> bytes:
        whole = cv2.imencode(suffix, photo)[1].tobytes()
        return whole[: len(whole) * 3 // 4]

    return data


@pytest.mark.parametrize(
    ('name', 'data'),
    [
        ('cut.jpg', cut('.jpg')),
        ('cut.png', cut('.png')),
        ('text.png', lambda photo: b'hello'),
        ('empty.jpg', lambda photo: b''),
    ],
)
def test_a_broken_image_is_named(photo, tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data(photo))
    with pytest.raises(InputError, match=f'{name}: this is no image that can be decoded'):
        read_image(path)


def test_a_jpeg_that_opencv_4_would_fill_up_is_refused(monkeypatch, photo, tmp_path):
    monkeypatch.setattr(cv2, 'imdecode', lambda *args: photo)
    path = tmp_path / 'cut.jpg'
    path.write_bytes(cut('.jpg')(photo))
    with pytest.raises(InputError, match='truncated'):
        read_image(path)
    path.write_bytes(cv2.imencode('.jpg', photo)[1].tobytes())
    assert read_image(path) is photo


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(InputError, match=r'gone\.png: the image cannot be read: No such file'):
        read_image(tmp_path / 'gone.png')


@pytest.mark.parametrize(
    'image', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_an_array_of_another_kind_is_refused(model, image):
    with pytest.raises(InputError, match=r'must be \(H, W, 3\) uint8 BGR'):
        predict(model, image)


# Loading a detector


@pytest.mark.parametrize(
    'name',
    [
        CONFIG,
        'solov2-light_r18_fpn_ms-3x_coco',
        'solov2-light_r18_fpn_ms-3x_coco.py',
        'mmsolov2::solov2/solov2-light_r18_fpn_ms-3x_coco.py',
    ],
)
def test_find_config(name):
    assert find_config(name).samefile(CONFIG)


def test_find_config_lists_what_there_is():
    with pytest.raises(InputError, match=r'^nonsense: .*solov2/solov2_r50_fpn_1x_coco'):
        find_config('nonsense')


def test_options_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r'pipeline\.99'):
        load_config(CONFIG, {'test_dataloader.dataset.pipeline.99.scale': 1})


def test_load_detector_leaves_the_config_alone(checkpoint):
    config = load_config(CONFIG, TINY)
    before = copy.deepcopy(config.to_dict())
    model = load_detector(
        config, checkpoint, device='cpu', cfg_options={'model.test_cfg.score_thr': 0.2}
    )
    assert config.to_dict() == before
    assert model.cfg.model.test_cfg.score_thr == 0.2 and not model.training


def test_every_entry_must_match(state_dict, tmp_path):
    path = tmp_path / 'part.pth'
    part = {name: value for name, value in state_dict.items() if 'conv_cls' not in name}
    torch.save(part, path)
    with pytest.raises(InputError, match=r'part\.pth: .*mask_head\.conv_cls\.weight \(missing\)'):
        load_detector(CONFIG, path, device='cpu', cfg_options=TINY)


def test_names_of_mmdet_and_of_wrappers_load(state_dict, tmp_path):
    path = tmp_path / 'theirs.pth'
    theirs = {
        'module.' + name.replace('mask_neck.', 'mask_head.mask_feature_head.'): value
        for name, value in state_dict.items()
        if not name.endswith('num_batches_tracked')  # as in checkpoints before torch 0.4.1
    }
    torch.save(dict(state_dict=theirs), path)
    model = load_detector(CONFIG, path, device='cpu', cfg_options=TINY)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state_dict[name])


@pytest.mark.parametrize(
    ('meta', 'first'),
    [
        (None, 'person'),
        (dict(CLASSES=['thing'] * 80), 'thing'),
        (dict(dataset_meta=dict(CLASSES=tuple('ab' * 40))), 'a'),
        (dict(dataset_meta=dict(classes=('too', 'few'))), 'person'),
    ],
)
def test_class_names_are_the_checkpoints_or_the_configs(state_dict, tmp_path, meta, first):
    path = tmp_path / 'named.pth'
    torch.save(dict(state_dict=state_dict, meta=meta), path)
    model = load_detector(CONFIG, path, device='cpu', cfg_options=TINY)
    assert len(model.dataset_meta['classes']) == 80
    assert model.dataset_meta['classes'][0] == first


def test_class_names_of_joined_test_sets(checkpoint):
    """Their files need not be there: only names are asked of them."""
    config = load_config(CONFIG, TINY)
    part = config.test_dataloader.dataset
    config.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[part, part])
    model = load_detector(config, checkpoint, device='cpu')
    assert model.dataset_meta['classes'][0] == 'person'


def test_a_config_without_test_data_is_refused(checkpoint):
    config = load_config(CONFIG, TINY)
    config.test_dataloader = None
    with pytest.raises(InputError, match=r'\.py: this config has no test_dataloader'):
        load_detector(config, checkpoint, device='cpu')


@pytest.mark.parametrize(
    'options', [{'model.test_cfg.score_threshold': 1}, {'model.type': 'SOLO9'}]
)
def test_a_model_that_cannot_be_built_names_its_config(checkpoint, options):
    with pytest.raises(InputError, match=f'^{CONFIG}: '):
        load_detector(CONFIG, checkpoint, device='cpu', cfg_options={**TINY, **options})


def test_classes_without_names_are_numbered(state_dict, tmp_path):
    path = tmp_path / 'two.pth'
    two = {name: v[:2] if 'conv_cls' in name else v for name, v in state_dict.items()}
    torch.save(two, path)
    options = {**TINY, 'model.mask_head.num_classes': 2}
    model = load_detector(CONFIG, path, device='cpu', cfg_options=options)
    assert model.dataset_meta['classes'] == ('class 1', 'class 2')


@pytest.mark.parametrize('device', ['cuda:99', 'toaster'])
def test_a_device_that_is_not_there_is_named(checkpoint, device):
    with pytest.raises(InputError, match=f"device '{device}' cannot be used"):
        load_detector(CONFIG, checkpoint, device=device)


# Results


@pytest.fixture
def sample() -> DetDataSample:
    """A 2x3 rectangle of class 1 and one pixel of class 0 in a 6x8 image."""
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    masks[1, 5, 7] = True
    return DetDataSample(
        pred_instances=InstanceData(
            scores=torch.tensor([0.75, 0.5]),
            labels=torch.tensor([1, 0]),
            bboxes=torch.tensor([[2.0, 1, 5, 3], [7, 5, 8, 6]]),
            masks=masks,
        )
    )


def test_coco_results(sample):
    results = to_coco(sample, image_id=7, file_name='a/b.png', classes=('cell', 'nut'))
    masks = [coco_mask.decode(result.pop('segmentation')) for result in results]
    assert np.array_equal(masks, sample.pred_instances.masks)
    common = dict(image_id=7, file_name='a/b.png')
    nut = dict(category_id=2, category_name='nut', bbox=[2.0, 1.0, 3.0, 2.0], score=0.75)
    cell = dict(category_id=1, category_name='cell', bbox=[7.0, 5.0, 1.0, 1.0], score=0.5)
    assert results == [common | nut, common | cell]


def test_rle_and_bitmaps_give_the_same(model, photo):
    classes = model.dataset_meta['classes']
    rle = copy.deepcopy(model)
    rle.mask_head.test_cfg['mask_format'] = 'rle'
    bitmaps, encoded = predict(model, photo), predict(rle, photo)
    about = dict(image_id=1, file_name='x', classes=classes)
    assert to_coco(bitmaps, **about) == to_coco(encoded, **about)
    pictures = [draw_overlay(photo, sample, classes) for sample in (bitmaps, encoded)]
    assert np.array_equal(*pictures)


def test_boxes_that_a_head_leaves_at_zero_are_put_around_the_masks(
    model, photo, sample, monkeypatch
):
    """As those of mmdet's SOLO; without boxes every instance would be dropped as empty."""
    boxes = sample.pred_instances.bboxes.clone()
    sample.pred_instances.bboxes = torch.zeros_like(boxes)
    monkeypatch.setattr(model, 'test_step', lambda data: [sample])
    found = predict(model, photo).pred_instances
    assert torch.equal(found.bboxes, tight_boxes(found.masks)) and found.bboxes.any()


@pytest.mark.parametrize('count', [0, 1, 5])
def test_a_batch_gives_what_each_image_gives_alone(model, photo, count):
    """The second is padded as the first, the third is not."""
    tall = cv2.resize(photo, (40, 90))
    images = [photo, photo[2:], tall, photo[::-1].copy(), tall[:, ::-1].copy()][:count]
    assert len(predict_batch(model, images)) == count
    for image, sample in zip(images, predict_batch(model, images)):
        found, alone = sample.pred_instances, predict(model, image).pred_instances
        assert len(found) == len(alone) > 0 and torch.equal(found.labels, alone.labels)
        torch.testing.assert_close(found.scores, alone.scores)
        assert (found.masks != alone.masks).float().mean() < 1e-4  # sums are rounded otherwise


def test_an_image_of_a_batch_that_is_none(model, photo):
    with pytest.raises(InputError, match=r'not \(60, 88\) uint8'):
        predict_batch(model, [photo, photo[..., 0]])


def test_the_config_in_a_checkpoint_is_the_one_given(model, state_dict, photo, tmp_path):
    text = load_config(CONFIG, TINY).dump()
    torch.save(dict(state_dict=state_dict, meta=dict(cfg=text)), tmp_path / 'whole.pth')
    alone = load_detector(None, tmp_path / 'whole.pth', device='cpu')
    assert alone.dataset_meta == model.dataset_meta
    assert_same(predict(alone, photo), predict(model, photo))
    with pytest.raises(InputError, match='holds no config: give the config with model='):
        load_detector(None, write_weights(tmp_path, state_dict))


def write_weights(folder: Path, state_dict: dict) -> Path:
    torch.save(dict(state_dict=state_dict), folder / 'weights.pth')
    return folder / 'weights.pth'


def test_category_ids(model):
    categories = coco_categories(model.dataset_meta['classes'])
    assert [categories[0], categories[11], categories[79]] == [
        dict(id=1, name='person'),
        dict(id=13, name='stop sign'),
        dict(id=90, name='toothbrush'),
    ]
    assert coco_categories(['a', 'b']) == [dict(id=1, name='a'), dict(id=2, name='b')]


# mmdet's inferencer


@pytest.fixture
def inferencer(checkpoint):
    """Makes mmdet's DetInferencer of the model, with settings of prediction."""

    def make(**test_cfg) -> DetInferencer:
        options = {f'model.test_cfg.{name}': value for name, value in test_cfg.items()}
        config = load_config(CONFIG, {**TINY, **options})
        return DetInferencer(config, str(checkpoint), device='cpu', show_progress=False)

    return make


@pytest.mark.parametrize('settings', [{}, dict(score_thr=1.0)], ids=['found', 'nothing found'])
def test_rle_and_bitmaps_are_the_same_to_mmdets_inferencer(inferencer, photo, tmp_path, settings):
    """Its results for JSON, in memory and in the file, and its pictures."""
    path = write(tmp_path / 'photo.png', photo)
    results, files, pictures = [], [], []
    for mask_format in ('bitmap', 'rle'):
        np.random.seed(0)  # of the colours
        out = tmp_path / mask_format
        found = inferencer(mask_format=mask_format, **settings)(
            str(path), out_dir=str(out), no_save_pred=False, pred_score_thr=0.1
        )
        results.append(found['predictions'])
        files.append((out / 'preds' / 'photo.json').read_text())
        pictures.append(cv2.imread(str(out / 'vis' / 'photo.png')))
    assert results[0] == results[1] and files[0] == files[1]
    assert np.array_equal(*pictures) and pictures[0].shape == photo.shape
    assert bool(results[0][0]['masks']) == bool((pictures[0] != photo).any()) == (not settings)


def test_samples_of_mmdets_inferencer_keep_their_rle(inferencer, photo):
    inference = inferencer(mask_format='rle')
    (sample,) = inference(photo, return_datasamples=True, return_vis=True)['predictions']
    inference.pred2dict(sample)
    (mask, *_) = sample.pred_instances.masks
    assert isinstance(mask['counts'], bytes) and coco_mask.decode(mask).shape == photo.shape[:2]


def test_mmdets_inferencer_takes_images_as_thin_as_a_line(inferencer):
    line = np.random.default_rng(0).integers(0, 256, (3, 4000, 3), np.uint8)
    (result,) = inferencer()(line)['predictions']
    assert result['masks'][0]['size'] == [3, 4000]


# Overlays


def test_overlay_changes_instances_alone(sample):
    image = np.full((6, 8, 3), 100, np.uint8)  # too small for labels
    before = image.copy()
    overlay = draw_overlay(image, sample, ('cell', 'nut'))
    assert np.array_equal(image, before)
    changed = (overlay != image).any(2)
    assert changed[1:3, 2:5].all() and changed[5, 7]
    changed[1:3, 2:5] = changed[5, 7] = False
    assert not changed.any()
    assert tuple(overlay[5, 7]) == instance_color(1)


def test_overlay_without_instances_is_the_image(sample, photo):
    sample.pred_instances = sample.pred_instances[:0]
    assert np.array_equal(draw_overlay(photo, sample, ('cell', 'nut')), photo)


def test_labels_do_not_cover_each_other():
    image = np.zeros((60, 80, 3), np.uint8)
    color = (10, 200, 30)
    once = draw_labels(image, [('nut', (20, 20, 40, 40), color)], size=10)
    twice = draw_labels(image, [('nut', (20, 20, 40, 40), color)] * 2, size=10)
    assert 1.9 < (twice != 0).sum() / (once != 0).sum() < 2.1
