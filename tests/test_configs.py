"""Every config in configs/: a new one is covered without being named here."""

import functools
from collections import Counter
from pathlib import Path

import mmdet
import pytest
import yaml
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
LEAVES = [path for path in sorted(CONFIGS.rglob('*.py')) if '_base_' not in path.parts]
THEIRS = Path(mmdet.__file__).parent / '.mim' / 'configs' / 'solov2' / 'solov2_r50_fpn_1x_coco.py'

every_leaf = pytest.mark.parametrize('leaf', LEAVES, ids=lambda leaf: leaf.stem)

read = functools.cache(Config.fromfile)  # no test changes what it reads


def without_weights(config):
    """A model's config in which no part loads weights."""
    if isinstance(config, dict):
        return {key: without_weights(value) for key, value in config.items() if key != 'init_cfg'}
    return config


def innermost(dataset: dict) -> list[dict]:
    """The datasets in a dataset's config, without their wrappers."""
    inner = dataset.get('datasets', [dataset['dataset']] if 'dataset' in dataset else [])
    return [each for one in inner for each in innermost(one)] or [dataset]


def classes_of(dataset: dict) -> tuple:
    """The class names of a dataset's config: its own, or those that its type knows."""
    known = DATASETS.get(dataset['type']).METAINFO
    return tuple(dataset.get('metainfo', known).get('classes', known.get('classes', ())))


def metafile_models() -> list[dict]:
    """The models of all metafiles that model-index.yml lists."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    files = [yaml.safe_load((ROOT / name).read_text()) for name in index['Import']]
    return [model for file in files for model in file.get('Models', ())]


def test_there_are_leaves():
    assert len(LEAVES) >= 8


def test_names_are_unique():
    assert [name for name, count in Counter(leaf.name for leaf in LEAVES).items()
            if count > 1] == []


@every_leaf
def test_leaf_is_short(leaf):
    assert len(leaf.read_text().splitlines()) <= 15


@every_leaf
def test_leaf_opens_in_every_tool(leaf):
    config = read(leaf)
    assert 'mmsolov2' in config.custom_imports.imports
    assert config.default_scope == 'mmdet'


@every_leaf
def test_model_builds(leaf):
    config = read(leaf)
    model = MODELS.build(without_weights(config.model.to_dict()))
    head = model.mask_head
    assert head.num_classes == config.model.mask_head.num_classes
    assert len(head.num_grids) == len(head.strides) == len(head.assigner.scale_ranges)


@every_leaf
def test_round_trip(leaf, tmp_path):
    config = read(leaf)
    config.dump(tmp_path / leaf.name)
    assert Config.fromfile(tmp_path / leaf.name).to_dict() == config.to_dict()


@every_leaf
@pytest.mark.parametrize('part', ['train', 'val', 'test'])
def test_classes_are_as_many_as_the_head_has(leaf, part):
    config = read(leaf)
    datasets = innermost(config[f'{part}_dataloader'].dataset)
    assert {len(classes_of(dataset))
            for dataset in datasets} == {config.model.mask_head.num_classes}


@every_leaf
def test_all_parts_have_the_same_classes(leaf):
    config = read(leaf)
    parts = [config.train_dataloader, config.val_dataloader, config.test_dataloader]
    datasets = [each for part in parts for each in innermost(part.dataset)]
    assert len({dataset['type'] for dataset in datasets}) == 1
    assert len({classes_of(dataset) for dataset in datasets}) == 1


@every_leaf
def test_evaluator_reads_the_file_of_the_data(leaf):
    config = read(leaf)
    for part in ('val', 'test'):
        dataset = config[f'{part}_dataloader'].dataset
        expected = dataset.data_root + dataset.ann_file
        assert config[f'{part}_evaluator'].ann_file == expected


@every_leaf
def test_schedule_ends_with_the_training(leaf):
    config = read(leaf)
    assert config.param_scheduler[-1].end == config.train_cfg.max_epochs
    assert config.param_scheduler[-1].by_epoch


def test_metafiles_list_the_leaves():
    listed = [model['Config'] for model in metafile_models()]
    assert sorted(listed) == sorted(str(leaf.relative_to(ROOT)) for leaf in LEAVES)


def test_metafiles_name_the_leaves():
    for model in metafile_models():
        assert model['Name'] == Path(model['Config']).stem
        epochs = model.get('Metadata', {}).get('Epochs')
        config = read(ROOT / model['Config'])
        assert epochs in (None, config.train_cfg.max_epochs), model['Name']


def test_collections_exist():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    files = [yaml.safe_load((ROOT / name).read_text()) for name in index['Import']]
    names = {each['Name'] for file in files for each in file.get('Collections', ())}
    assert {model['In Collection'] for model in metafile_models()} <= names


def test_recipe_of_the_paper():
    """SOLOv2, section 4.1: 36 epochs, batch 16, rate 0.01 divided by 10 after 27 and 33."""
    config = read(CONFIGS / 'solov2' / 'solov2_r50_fpn_ms-3x_coco.py')
    assert config.train_cfg.max_epochs == 36
    assert config.param_scheduler[-1].milestones == [27, 33]
    assert config.param_scheduler[-1].gamma == 0.1
    assert config.optim_wrapper.optimizer == dict(
        type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001
    )
    assert config.auto_scale_lr.base_batch_size == 16
    (resize, ) = (step for step in config.train_dataloader.dataset.pipeline if 'scales' in step)
    assert sorted(min(scale) for scale in resize.scales) == [640, 672, 704, 736, 768, 800]
    assert {max(scale) for scale in resize.scales} == {1333}


def test_recipe_of_the_light_models():
    """SOLOv2, section 4.3: short sides from 352 to 512, tested at 448."""
    config = read(CONFIGS / 'solov2' / 'solov2-light_r50_fpn_ms-3x_coco.py')
    (resize, ) = (step for step in config.train_dataloader.dataset.pipeline if 'scales' in step)
    assert sorted(min(scale) for scale in resize.scales) == [352, 384, 416, 448, 480, 512]
    (resize, ) = (step for step in config.test_dataloader.dataset.pipeline if 'scale' in step)
    assert resize.scale == (768, 448)
    assert config.model.mask_head.stacked_convs == 2 and config.train_cfg.max_epochs == 36


def test_recipe_of_1x():
    config = read(CONFIGS / 'solov2' / 'solov2_r50_fpn_1x_coco.py')
    assert config.train_cfg.max_epochs == 12
    assert config.param_scheduler[-1].milestones == [9, 11]


def test_defaults_equal_mmdets():
    """Thresholds, grids, ranges and weights of losses are those of the published models."""
    ours = read(CONFIGS / 'solov2' / 'solov2_r50_fpn_1x_coco.py').model
    theirs = Config.fromfile(THEIRS).model
    for name in ('score_thr', 'mask_thr', 'nms_pre', 'filter_thr', 'max_per_img'):
        assert ours.test_cfg[name] == theirs.test_cfg[name], name
    assert ours.test_cfg.nms.kernel == theirs.test_cfg.kernel
    assert ours.test_cfg.nms.sigma == theirs.test_cfg.sigma
    for name in ('num_classes', 'in_channels', 'feat_channels', 'stacked_convs'):
        assert ours.mask_head[name] == theirs.mask_head[name], name
    for name in ('strides', 'num_grids'):
        assert tuple(ours.mask_head[name]) == tuple(theirs.mask_head[name]), name
    assert ours.mask_head.assigner.scale_ranges == theirs.mask_head.scale_ranges
    assert ours.mask_head.assigner.center_scale == theirs.mask_head.pos_scale
    assert ours.mask_head.loss_cls == theirs.mask_head.loss_cls
    assert ours.mask_head.loss_mask.loss_weight == theirs.mask_head.loss_mask.loss_weight
    features = theirs.mask_head.mask_feature_head
    for name in ('feat_channels', 'out_channels', 'start_level', 'end_level', 'norm_cfg'):
        assert ours.mask_neck[name] == features[name], name
    assert ours.neck == theirs.neck
    assert ours.data_preprocessor == theirs.data_preprocessor
