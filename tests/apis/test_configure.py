"""The config that is chosen for a person's data, and that it is one."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from mmsolov2.apis import configure
from mmsolov2.apis.configure import (
    choose_model,
    input_scale,
    leaf,
    num_grids,
    propose,
    published_weights,
    scale_ranges,
)
from mmsolov2.cli.config import open_config
from mmsolov2.datasets.statistics import Statistics
from mmsolov2.errors import InputError
from mmsolov2.registry import MODELS

R18 = 'mmsolov2::_base_/models/solov2-plus_r18_fpn_small.py'


def made(count, size, side, *, each=5, seed=0):
    """Statistics of pictures of one size with instances of one side, anywhere."""
    rng = np.random.default_rng(seed)
    instances = count * each
    return Statistics(
        classes=('cat',),
        sizes=np.tile(size, (count, 1)),
        picture=np.repeat(np.arange(count), each),
        labels=np.zeros(instances, int),
        sides=np.full(instances, float(side)),
        centers=rng.random((instances, 2)),
    )


@pytest.mark.parametrize(
    ('size', 'side', 'expected'),
    [
        ((600, 800), 80, (400, 300)),  # halved: 40 pixels are enough
        ((256, 256), 10, (384, 384)),  # half as large again at most
        ((256, 256), 30, (341, 341)),
        ((1200, 1600), 20, (512, 384)),  # no larger than this on a CPU
        ((600, 800), 400, (256, 192)),  # no smaller
    ],
)
def test_scale(size, side, expected):
    assert input_scale(made(3, size, side), 512) == expected


def test_less_area_where_time_is_short():
    pictures = made(3, (600, 800), 40)
    assert input_scale(pictures, 1333) == (800, 600)
    assert input_scale(pictures, 1333, 0.25) == (400, 300)
    assert input_scale(pictures, 1333, 0.01) == (256, 192)
    assert propose(pictures, R18, 'cuda', share=0.25).scale == (400, 300)


def test_published_ranges():
    for name, size in (('solov2_r50_fpn_1x_coco', (800, 1333)),
                       ('solov2-light_r50_fpn_ms-3x_coco', (448, 768))):  # fmt: skip
        published = open_config(name).model.mask_head.assigner.scale_ranges
        ours = scale_ranges(*size)
        assert [tuple(pair) for pair in published][:-1] == list(ours)[:-1]
        assert ours[-1][1] >= size[1]


def test_every_size_has_a_level():
    for short in range(192, 1400, 37):
        ranges = scale_ranges(short, 2 * short)
        assert ranges[0][0] == 1
        assert ranges[-1][1] > 2 * short
        assert all(low < before[1] for before, (low, _) in pairwise(ranges))


def test_grids_get_finer_where_instances_are_crowded():
    ranges, scale = scale_ranges(256, 256), (256, 256)
    few, many = (made(20, (256, 256), 12, each=each) for each in (1, 60))
    assert num_grids(few, (16, 14, 12, 8, 6), scale, ranges) == (16, 14, 12, 8, 6)
    finer = num_grids(many, (16, 14, 12, 8, 6), scale, ranges)
    assert finer == (40, 36, 30, 20, 16)


def test_few_pictures_are_repeated():
    found = propose(made(14, (600, 800), 80), R18, 'cpu')
    assert (found.repeats, found.iterations, found.epochs) == (7, 25, 80)
    found = propose(made(4000, (600, 800), 80), R18, 'cpu')
    assert (found.repeats, found.iterations, found.epochs) == (1, 1000, 12)


def test_trained_weights_need_fewer_iterations():
    pictures = made(14, (600, 800), 80)
    effl0 = choose_model('effl0', None, 'cpu', Path())[0]
    assert propose(pictures, effl0, 'cpu').epochs == 40
    assert propose(pictures, effl0, 'cpu', scratch=True).epochs == 80
    assert propose(pictures, R18, 'cpu', load_from='weights.pth').epochs == 40


def test_models(monkeypatch, tmp_path):
    effl0 = 'mmsolov2::_base_/models/solov2-plus_effl0_fpn_small.py'
    assert choose_model(None, None, 'cpu', tmp_path) == (effl0, None)
    monkeypatch.setattr(configure, 'WEIGHTS_PACKAGE', 'not_there')
    assert choose_model(None, 'none', 'cpu', tmp_path) == (R18, None)
    large = R18.replace('_small', '')
    assert choose_model('r18', 'mine.pth', 'cuda', tmp_path) == (large, 'mine.pth')
    address = published_weights('solov2-light_r18_fpn_ms-3x_coco')
    assert choose_model('r18', 'published', 'cpu', tmp_path) == (large, address)
    assert address.startswith('https://download.openmmlab.com/mmdetection/v2.0/solov2/')


@pytest.mark.parametrize('name', ['effl0', 'no_such_model'])
def test_no_such_model(name, tmp_path):
    with pytest.raises(InputError, match=name):
        choose_model(name, 'published', 'cpu', tmp_path)


def test_unknown_model(tmp_path):
    with pytest.raises(InputError, match='no_such_model'):
        choose_model('no_such_model', None, 'cpu', tmp_path)


@pytest.mark.parametrize('model', ['r18', 'effl0', 'solov2/solov2_r50_fpn_1x_coco'])
@pytest.mark.parametrize('weights', [None, 'none', 'mine.pth'])
def test_leaf_is_a_config(model, weights, tmp_path):
    base, load_from = choose_model(model, weights, 'cpu', tmp_path)
    found = made(14, (600, 800), 80)
    settings = propose(found, base, 'cpu', load_from=load_from, scratch=weights == 'none')
    files = {name: tmp_path / f"it's {name}.json" for name in ('train', 'val')}
    text = leaf(settings, ("a cat's", 'dog'), files, tmp_path)
    assert len(text.splitlines()) <= 25
    file = tmp_path / 'leaf.py'
    file.write_text(text)
    config = Config.fromfile(file)
    assert config.model.mask_head.num_classes == 2
    assert config.load_from == load_from
    assert weights != 'none' or config.model.backbone.init_cfg is None
    assert config.train_dataloader.dataset.dataset.ann_file == str(files['train'])
    assert config.val_evaluator.ann_file == str(files['val'])
    assert config.train_pipeline[3].scale == config.test_pipeline[2].scale == (400, 300)
    assert config.test_dataloader.dataset.pipeline[2].scale == (400, 300)
    assert config.test_dataloader.dataset.metainfo.classes == ("a cat's", 'dog')
    MODELS.build(config.model)
