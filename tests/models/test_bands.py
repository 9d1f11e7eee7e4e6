"""Pictures of 1, 4 and 24 bands, from their files to losses and predictions."""

import copy
import json
import re
import runpy
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.runner.checkpoint import save_checkpoint
from torch import nn

from mmsolov2.apis import load_detector, model_costs, predict
from mmsolov2.cli.config import require_images
from mmsolov2.cli.launch import paint_results
from mmsolov2.errors import InputError
from mmsolov2.models import BandsDataPreprocessor, EfficientNetLite
from mmsolov2.models.bands import is_of_other_bands, spread_bands

ROOT = Path(__file__).parents[2]
SMALL = dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 32, 64])
BACKBONES = dict(
    resnet=lambda bands: (
        dict(type='ResNet', depth=18, base_channels=8, in_channels=bands),
        [8, 16, 32, 64],
    ),
    lite=lambda bands: (
        dict(type='mmsolov2.EfficientNetLite', in_channels=bands),
        [24, 40, 112, 320],
    ),
    convnext=lambda bands: (
        dict(
            type='mmsolov2.HFBackbone', model='convnextv2', overrides=SMALL, in_channels=bands
        ),
        [8, 16, 32, 64],
    ),
)  # fmt: skip


# Weights


def test_bands_of_equal_values_give_what_the_channels_gave():
    colours, bands = nn.Conv2d(3, 5, 3), nn.Conv2d(12, 5, 3)
    bands.weight.data = spread_bands(colours.weight.data, 12)
    bands.bias.data = colours.bias.data
    image = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(bands(image.repeat(1, 4, 1, 1)), colours(image))


@pytest.mark.parametrize('bands', [1, 2, 4])
def test_bands_take_the_channels_in_turn(bands):
    weight = torch.randn(5, 3, 2, 2)
    spread = spread_bands(weight, bands)
    for band in range(bands):
        torch.testing.assert_close(spread[:, band], weight[:, band % 3] * 3 / bands)


def test_which_weights_are_spread():
    rgb = torch.zeros(8, 3, 7, 7)
    assert is_of_other_bands(rgb, torch.zeros(8, 4, 7, 7))
    for shape in [(8, 3, 7, 7), (9, 4, 7, 7), (8, 4, 3, 3), (8, 4)]:
        assert not is_of_other_bands(rgb, torch.zeros(shape))
    assert not is_of_other_bands(torch.zeros(8, 4, 7, 7), rgb)


@pytest.mark.parametrize('bands', [1, 4])
def test_efficientnet_lite_spreads_published_weights(bands):
    rgb, ours = EfficientNetLite(), EfficientNetLite(in_channels=bands)
    ours.load_state_dict(rgb.state_dict())
    assert torch.equal(ours._conv_stem.weight, spread_bands(rgb._conv_stem.weight, bands))
    assert torch.equal(ours._blocks[3]._bn1.weight, rgb._blocks[3]._bn1.weight)
    assert rgb._conv_stem.weight.shape[1] == 3


# Normalisation


def preprocess(images, **settings):
    preprocessor = BandsDataPreprocessor(pad_size_divisor=4, **settings)
    return preprocessor(dict(inputs=images))['inputs']


@pytest.mark.parametrize('bands', [1, 3, 4, 24])
def test_each_band_is_normalised(bands):
    images = [torch.randint(0, 999, (bands, 5, 8)).float() for _ in range(2)]
    mean, std = [float(band) for band in range(bands)], [2.0 + band for band in range(bands)]
    found = preprocess(images, mean=mean, std=std)
    assert found.shape == (2, bands, 8, 8) and not found[:, :, 5:].any()
    for image, normal in zip(images, found, strict=True):
        for band in range(bands):
            expected = (image[band] - mean[band]) / std[band]
            torch.testing.assert_close(normal[band, :5], expected)
    one = preprocess(images, mean=[5], std=[2])
    torch.testing.assert_close(one[0, :, :5], (images[0] - 5) / 2)
    assert torch.equal(preprocess(images)[1, :, :5], images[1])


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(mean=[1, 2], std=[1]), 'mean=[1, 2] and std=[1] must have a value a band each'),
        (dict(mean=[1, 2], std=[1, 0]), 'std above 0'),
        (dict(mean=[1]), 'mean=[1] and std=[]'),
        (dict(bgr_to_rgb=True), 'bands have no order of colours: set bgr_to_rgb=False'),
        (dict(rgb_to_bgr=True), 'bands have no order of colours'),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BandsDataPreprocessor(**settings)


def test_another_number_of_bands_is_refused():
    with pytest.raises(InputError, match='an image has 3 bands, but mean and std are of 4: give'):
        preprocess([torch.zeros(3, 8, 8)], mean=[0] * 4, std=[1] * 4)


# From files to predictions


def write_picture(path, pixels):
    if path.suffix == '.npy':
        np.save(path, pixels)
    else:
        pages = [np.ascontiguousarray(pixels[..., band]) for band in range(pixels.shape[2])]
        path.write_bytes(cv2.imencodemulti('.tif', pages)[1].tobytes())


@pytest.fixture
def bands_config(tmp_path, tiny_config):
    """Makes a config of a few pictures of bands, each with a square that is brighter."""

    def make(bands, kind, backbone='convnext'):
        square, boxes = [[20.0, 10, 60, 10, 60, 50, 20, 50]], [20, 10, 40, 40]
        generator, images, annotations = np.random.default_rng(0), [], []
        for number in (1, 2):
            pixels = generator.integers(0, 3000, (96, 128, bands)).astype(np.uint16)
            pixels[10:50, 20:60] += 9000
            write_picture(tmp_path / f'{number} é{kind}', pixels)
            images.append(dict(id=number, file_name=f'{number} é{kind}', height=96, width=128))
            of_image = dict(id=number, image_id=number, category_id=1, bbox=boxes, area=1600)
            annotations.append(dict(of_image, segmentation=square, iscrowd=0))
        classes = dict(categories=[dict(id=1, name='square')], annotations=annotations)
        (tmp_path / 'truth.json').write_text(json.dumps(dict(images=images, **classes)))
        config = Config.fromfile(tiny_config)
        config.model.backbone, config.model.neck.in_channels = BACKBONES[backbone](bands)
        values = dict(mean=[3000.0] * bands, std=[2000.0] * bands)
        config.model.data_preprocessor = dict(
            type='mmsolov2.BandsDataPreprocessor', pad_mask=True, pad_size_divisor=32, **values
        )
        config.model.mask_head.num_classes = 1
        for name in ('train', 'val', 'test'):
            dataset = config[f'{name}_dataloader'].dataset
            dataset.pipeline[0] = dict(type='mmsolov2.LoadBandsFromFile')
            dataset.update(
                data_root=str(tmp_path),
                ann_file='truth.json',
                data_prefix=dict(img=''),
                metainfo=dict(classes=('square',)),
            )
            if name != 'train':
                config[f'{name}_evaluator'].ann_file = str(tmp_path / 'truth.json')
        config.train_cfg.update(max_epochs=1, val_interval=1)
        config.work_dir = str(tmp_path / 'work')
        config.experiment_name = re.sub(r'\W', '_', str(tmp_path))
        return config

    return make


@pytest.mark.parametrize(
    ('bands', 'kind', 'backbone'),
    [
        (1, '.npy', 'lite'),
        (4, '.tif', 'convnext'),
        (24, '.npy', 'resnet'),
    ],
)
def test_train_evaluate_and_predict(bands, kind, backbone, bands_config, tmp_path):
    """A whole run: an epoch, its figures, and predictions of a file and of an array."""
    config = bands_config(bands, kind, backbone)
    runner = Runner.from_cfg(config)
    before = [one.clone() for one in runner.model.backbone.parameters()]
    runner.train()
    after = list(runner.model.backbone.parameters())
    assert not torch.equal(before[0], after[0]) and before[0].shape[1] == bands
    assert all(one.isfinite().all() for one in after)
    model = load_detector(config, tmp_path / 'work/epoch_1.pth', device='cpu')
    file = tmp_path / f'1 é{kind}'
    of_file = predict(model, file).pred_instances
    assert of_file.masks.shape[1:] == (96, 128)
    pixels = np.load(file) if kind == '.npy' else np.dstack(cv2.imreadmulti(str(file), flags=-1)[1])
    of_array = predict(model, pixels).pred_instances
    assert torch.equal(of_file.scores, of_array.scores)


@pytest.fixture
def model(bands_config, tmp_path):
    """A detector of 4 bands, ready to predict."""
    config = bands_config(4, '.npy')
    state = dict(state_dict=MODELS.build(config.model).state_dict())
    save_checkpoint(state, str(tmp_path / 'one.pth'))
    return load_detector(config, tmp_path / 'one.pth', device='cpu')


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.zeros((96, 128, 3), np.float32), 'an image has 3 bands, but mean and std are of 4'),
        (np.zeros((96, 128), np.float32), r'must be \(H, W, bands\) .*, not \(96, 128\) float32'),
        (np.zeros((96, 128, 4), bool), r'not \(96, 128, 4\) bool'),
        ('no such.npy', 'no such.npy: the picture cannot be read'),
    ],
)
def test_other_pictures_are_refused(model, image, message):
    with pytest.raises(InputError, match=message):
        predict(model, image)


def test_costs_are_counted_on_bands(model):
    more = Config(copy.deepcopy(model.cfg.to_dict()))
    more.model.backbone.in_channels = 24
    (before, work), (after, more_work) = (
        model_costs(config, (64, 64)) for config in (model.cfg, more)
    )
    assert after - before == pytest.approx(20 * 8 * 4 * 4 / 1e6)  # a stem of 8 times 4x4
    assert more_work > work


def test_what_draws_on_images_says_so(model, tiny_config):
    with pytest.raises(InputError, match='predict.py draws on images, but LoadBandsFromFile reads'):
        require_images(model.cfg, 'predict.py')
    with pytest.raises(InputError, match='--show or --show-dir draws on images, but LoadBands'):
        paint_results(model.cfg, Namespace(config='config.py', show=False, show_dir='painted'))
    require_images(Config.fromfile(tiny_config), 'predict.py')


@pytest.mark.parametrize(
    'command',
    [
        'tools/predict.py {image} --config {config} --checkpoint {weights} --out-dir {out}',
        'tools/browse_targets.py {config} --out-dir {out}',
    ],
)
def test_tools_that_draw_refuse_bands(command, model, tmp_path, capsys):
    model.cfg.dump(tmp_path / 'config.py')
    names = dict(image='1 é.npy', config='config.py', weights='one.pth', out='out')
    paths = {name: tmp_path / value for name, value in names.items()}
    tool, *arguments = (word.format(**paths) for word in command.split())
    with pytest.raises(SystemExit, match='2'):
        runpy.run_path(str(ROOT / tool))['main'](arguments)
    assert 'draws on images, but LoadBandsFromFile' in capsys.readouterr().err
