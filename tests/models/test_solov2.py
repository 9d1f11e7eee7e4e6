"""The detector: its three ways forward, what it passes on, and which checkpoints it takes."""

import copy
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner.checkpoint import load_checkpoint, save_checkpoint
from mmengine.structures import InstanceData

from mmsolov2.errors import InputError
from mmsolov2.models.state_dicts import require_match

CONFIG = Path(__file__).parents[2] / 'configs' / '_base_' / 'models' / 'solov2_r50_fpn.py'
GRIDS = (10, 8, 6, 4, 3)
SMALL = {
    'backbone.depth': 18,
    'backbone.init_cfg': None,
    'neck.in_channels': [64, 128, 256, 512],
    'neck.out_channels': 64,
    'mask_neck.in_channels': 64,
    'mask_neck.feat_channels': 32,
    'mask_neck.out_channels': 64,
    'mask_head.in_channels': 64,
    'mask_head.feat_channels': 64,
    'mask_head.stacked_convs': 1,
    'mask_head.num_classes': 4,
    'mask_head.num_grids': GRIDS,
}


def build(**settings):
    """The published model, much smaller; names of settings have '__' for dots."""
    config = Config.fromfile(CONFIG)
    settings = {name.replace('__', '.'): value for name, value in settings.items()}
    changes = {**SMALL, **settings}
    if 'mask_neck' in settings:
        changes = {name: value for name, value in changes.items() if 'mask_neck.' not in name}
    config.merge_from_dict({f'model.{name}': value for name, value in changes.items()})
    return MODELS.build(config.model)


@pytest.fixture(scope='module')
def model():
    """A detector that finds something in noise; tests leave its weights as they are."""
    torch.manual_seed(0)
    detector = build()
    head = detector.mask_head
    torch.nn.init.constant_(head.conv_cls.bias, -1.0)
    torch.nn.init.normal_(head.conv_kernel.weight, std=0.1)
    return detector.eval()


@pytest.fixture
def detector(model, device):
    """The detector on a device."""
    return copy.deepcopy(model).to(device)


def sample(size, original, instances=2):
    masks = np.zeros((instances, *size), np.uint8)
    masks[:, 8:40, 12:50] = 1
    boxes = torch.tensor([[12.0, 8, 50, 40]]).repeat(instances, 1)
    gt = InstanceData(masks=BitmapMasks(masks, *size), bboxes=boxes, labels=torch.arange(instances))
    return DetDataSample(gt_instances=gt, metainfo=dict(img_shape=size, ori_shape=original))


def batch(model, training):
    """Two images of different sizes, as a data loader collates them, preprocessed."""
    sizes = [(64, 96), (50, 61)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    samples = [sample(sizes[0], (128, 192)), sample(sizes[1], (25, 30), instances=0)]
    return model.data_preprocessor(dict(inputs=images, data_samples=samples), training)


# Forward


@torch.no_grad()
def test_forward_gives_tensors(detector, device):
    images = torch.randn(2, 3, 64, 96, device=device)
    logits, kernels, features = detector(images, mode='tensor')
    assert [tuple(level.shape) for level in logits] == [(2, 4, s, s) for s in GRIDS]
    assert [tuple(level.shape) for level in kernels] == [(2, 64, s, s) for s in GRIDS]
    assert features.shape == (2, 64, 16, 24)


def test_forward_gives_losses(detector):
    losses = detector(**batch(detector, training=True), mode='loss')
    assert losses.keys() == {'loss_cls', 'loss_mask'}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    gradients = torch.autograd.grad(
        sum(losses.values()),
        [parameter for parameter in detector.parameters() if parameter.requires_grad],
    )
    assert all(gradient.isfinite().all() for gradient in gradients)


@torch.no_grad()
@pytest.mark.parametrize('rescale', [True, False])
def test_forward_gives_predictions(detector, rescale):
    data = batch(detector, training=False)
    if rescale:
        samples = detector(**data, mode='predict')
        sizes = [(128, 192), (25, 30)]
    else:
        samples = detector.predict(data['inputs'], data['data_samples'], rescale=False)
        sizes = [(64, 96), (50, 61)]
    assert samples == data['data_samples']
    for result, size in zip(samples, sizes, strict=True):
        instances = result.pred_instances
        assert len(instances) > 3
        assert instances.masks.shape[1:] == size
        assert (instances.scores[:-1] >= instances.scores[1:]).all()
        wide = instances.bboxes[:, 2] > instances.bboxes[:, 0]
        assert torch.equal(wide, instances.masks.flatten(1).any(1))
        assert instances.labels.max() < 4


@torch.no_grad()
def test_predictions_are_those_of_the_parts(detector):
    data = batch(detector, training=False)
    features = detector.neck(detector.backbone(data['inputs']))
    metas = [sample.metainfo for sample in data['data_samples']]
    outputs = (*detector.mask_head(features), detector.mask_neck(features))
    expected = detector.mask_head.predict_by_feat(*outputs, metas)
    samples = detector(**data, mode='predict')
    for result, instances in zip(samples, expected, strict=True):
        assert torch.equal(result.pred_instances.scores, instances.scores)
        assert torch.equal(result.pred_instances.masks, instances.masks)


# Inputs that do not fit


def test_masks_that_stayed_behind_do_not_train(model):
    data = batch(model, training=True)
    data['inputs'] = torch.nn.functional.interpolate(data['inputs'], scale_factor=2)
    with pytest.raises(InputError, match=r'images are \(128, 192\).* which move the masks too'):
        model(**data, mode='loss')


@pytest.mark.parametrize('wrong', [4, 5, 200, -1])
def test_labels_of_no_class_do_not_train(detector, wrong):
    data = batch(detector, training=True)
    data['data_samples'][0].gt_instances.labels[1] = wrong
    message = r'from 0 to num_classes - 1, but .* have others: \[1, 0\]; give the head'
    with pytest.raises(InputError, match=message):
        detector(**data, mode='loss')


def test_the_last_class_trains(model):
    data = batch(model, training=True)
    data['data_samples'][0].gt_instances.labels[:] = 3
    assert all(loss > 0 for loss in model(**data, mode='loss').values())


FROM_STRIDE_8 = dict(  # strides 8, 16, 32, and two more levels
    backbone__out_indices=(1, 2, 3), neck__in_channels=[128, 256, 512]
)


@pytest.mark.parametrize('separated', [False, True])
@pytest.mark.parametrize('compile', [None, dict(backend='eager')])
@pytest.mark.parametrize('training', [True, False])
def test_a_finest_level_that_is_not_at_stride_4(training, compile, separated, monkeypatch):
    """Of parts that cannot run without values, which are not checked when the model is built."""
    monkeypatch.setattr('mmsolov2.models.solov2.check_backbone', lambda *parts: None)
    make = build_separate if separated else build
    detector = make(compile=compile, **FROM_STRIDE_8).eval()
    message = 'makes mask features of 8x12 of images of 64x96, .* stride 4, 16x24: let backbone.out'
    with pytest.raises(InputError, match=message), torch.no_grad():
        detector(**batch(detector, training), mode='loss' if training else 'predict')


@torch.no_grad()
@pytest.mark.parametrize('size', [(64, 96), (63, 95), (61, 93), (33, 62), (40, 19)], ids=str)
def test_images_of_any_size_have_features_of_a_quarter_rounded_up(detector, device, size):
    """Without padding, as ``pad_size_divisor=1`` gives them."""
    masks = BitmapMasks(np.ones((1, *size), np.uint8), *size)
    instances = InstanceData(masks=masks, labels=torch.tensor([1], device=device))
    meta = dict(img_shape=size, ori_shape=(40, 30))
    samples = [DetDataSample(gt_instances=instances, metainfo=meta)]
    images = torch.randn(1, 3, *size, device=device)
    assert all(loss.isfinite() for loss in detector.loss(images, samples).values())
    assert detector.predict(images, samples)[0].pred_instances.masks.shape[1:] == (40, 30)


@torch.no_grad()
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(img_shape=(70, 96)), r'img_shape \(70, 96\) must be from 1 to \(64, 96\)'),
        (dict(img_shape=(0, 96)), r'img_shape \(0, 96\) must be from 1 to \(64, 96\)'),
        (dict(ori_shape=(20, -3)), r'of the results at least 1, not \(20, -3\)'),
        (dict(ori_shape=None), r"no ori_shape, only \['batch_input_shape', .*meta_keys of PackDet"),
        (dict(img_shape=None, ori_shape=None), 'no img_shape and no ori_shape, only'),
    ],
    ids=str,
)
def test_sizes_that_results_cannot_have(model, change, message):
    data = batch(model, training=False)
    sample = data['data_samples'][0]
    sample.set_metainfo(dict(img_path='a.png'))
    for name, value in change.items():
        sample.set_metainfo({name: value}) if value else sample.pop(name)
    with pytest.raises(InputError, match=f'^a.png: .*{message}'):
        model(**data, mode='predict')


@torch.no_grad()
def test_results_at_the_networks_size_need_no_original_size(model):
    data = batch(model, training=False)
    data['data_samples'][0].pop('ori_shape')
    results = model.predict(data['inputs'], data['data_samples'], rescale=False)
    assert results[0].pred_instances.masks.shape[1:] == (64, 96)


@torch.no_grad()
def test_predictions_need_a_sample_for_every_image(model):
    data = batch(model, training=False)
    with pytest.raises(InputError, match='1 data samples of 2 images'):
        model.predict(data['inputs'], data['data_samples'][:1])
    assert model.predict(data['inputs'][:0], []) == []


# Memory layout, precision, compilation


def twin(model, **settings):
    """The same weights under other settings."""
    other = build(**settings).to(next(model.parameters()).device)
    other.load_state_dict(model.state_dict())
    return other.eval()


def losses_of(model):
    torch.manual_seed(1)
    return model(**batch(model, training=True), mode='loss')


def results_of(model):
    torch.manual_seed(1)
    samples = model(**batch(model, training=False), mode='predict')
    return [sample.pred_instances for sample in samples]


@torch.no_grad()
@pytest.mark.parametrize(
    'settings', [dict(channels_last=True), dict(compile=dict(backend='eager'))], ids=str
)
def test_options_that_change_nothing(detector, settings):
    other = twin(detector, **settings)
    for name, loss in losses_of(detector).items():
        torch.testing.assert_close(losses_of(other)[name], loss, rtol=1e-5, atol=1e-5)
    for one, two in zip(results_of(other), results_of(detector), strict=True):
        torch.testing.assert_close(one.scores, two.scores, rtol=1e-5, atol=1e-5)
        assert (one.masks != two.masks).float().mean() < 1e-4


def test_channels_last_reaches_activations(detector, device):
    seen = []
    other = twin(detector, channels_last=True)
    other.backbone.register_forward_hook(lambda module, inputs, output: seen.extend(output))
    other(torch.randn(2, 3, 64, 96, device=device), mode='tensor')
    layout = torch.channels_last
    assert seen and all(level.is_contiguous(memory_format=layout) for level in seen)
    assert not any(level.is_contiguous() for level in seen)
    assert other.backbone.conv1.weight.is_contiguous(memory_format=layout)


@torch.no_grad()
@pytest.mark.filterwarnings('ignore:.*float16')
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_is_for_prediction_alone(detector, dtype):
    other, types = twin(detector, predict_dtype=dtype), []
    other.neck.register_forward_hook(lambda module, inputs, out: types.append(out[0].dtype))
    for one, two in zip(results_of(other), results_of(detector), strict=True):
        assert one.scores.dtype == torch.float32
        assert abs(one.scores[0] - two.scores[0]) < 0.05
    for name, loss in losses_of(detector).items():
        torch.testing.assert_close(losses_of(other)[name], loss)
    assert types == [getattr(torch, dtype), torch.float32, torch.float32]


@pytest.mark.parametrize(('dtype', 'count'), [(None, 0), ('bfloat16', 0), ('float16', 1)])
def test_float16_warns_on_a_cpu(model, dtype, count):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        twin(model, predict_dtype=dtype).precision('cpu')
    assert [str(one.message).partition(' takes')[0] for one in seen] == [
        "SOLOv2: predict_dtype='float16'"
    ] * count


def steps(detector, wrapper, count=6):
    """Losses of some training steps on the same images."""
    for _ in range(count):
        torch.manual_seed(1)
        images = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
        data = dict(inputs=[images], data_samples=[sample((64, 96), (64, 96))])
        yield {name: loss.item() for name, loss in detector.train_step(data, wrapper).items()}


def test_training_under_bfloat16_learns(detector):
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.02, momentum=0.9)
    wrapper = OptimWrapper(optimizer)
    with torch.autocast(next(detector.parameters()).device.type, dtype=torch.bfloat16):
        history = list(steps(detector, wrapper))
    assert all(np.isfinite(loss) for losses in history for loss in losses.values())
    assert history[-1]['loss'] < 0.9 * history[0]['loss']


@pytest.mark.cuda
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('separated', [False, True])
def test_mixed_precision_with_a_gradient_scaler_learns(dtype, separated):
    """As ``--amp`` trains: it also unscales gradients, clips them, and skips what overflowed."""
    detector = (build_separate if separated else build)().to('cuda')
    detector.init_weights()
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.02, momentum=0.9)
    clip = dict(max_norm=35, norm_type=2)
    wrapper = AmpOptimWrapper(optimizer=optimizer, dtype=dtype, clip_grad=clip)
    before = detector.mask_head.conv_kernel.weight.clone()
    history = list(steps(detector, wrapper, count=12))
    assert all(np.isfinite(loss) for losses in history for loss in losses.values())
    assert history[-1]['loss'] < 0.9 * history[0]['loss']
    assert wrapper.loss_scaler.get_scale() >= 2**8
    weight = detector.mask_head.conv_kernel.weight
    assert weight.dtype == torch.float32 and not torch.equal(weight, before)


def test_a_compiled_network_trains_and_is_compiled_once(model):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    other = copy.deepcopy(twin(model, compile=dict(backend=backend, fullgraph=True)))
    assert not graphs
    for _ in range(2):
        sum(losses_of(other).values()).backward()
    assert len(graphs) == 1
    assert all(parameter.grad is not None for parameter in other.mask_neck.parameters())


def test_a_copy_of_a_compiled_model_computes_with_its_own_weights(model):
    images = torch.randn(1, 3, 64, 64)
    other = twin(model, compile=dict(backend='eager'))
    first = other.network(images)[-1]
    copies = copy.deepcopy(other), pickle.loads(pickle.dumps(other))
    for one in copies:
        torch.testing.assert_close(one.network(images)[-1], first)
        one.mask_neck.conv_pred.gn.bias.data.fill_(9.0)
        assert (one.network(images)[-1] - first).abs().max() > 5
    torch.testing.assert_close(other.network(images)[-1], first)


@pytest.mark.parametrize(
    ('compile', 'options'),
    [(False, None), (None, None), (True, {}), ({}, {}), (dict(dynamic=True), dict(dynamic=True))],
    ids=str,
)
def test_what_compile_may_be(compile, options):
    detector = build(compile=compile)
    assert detector.compile_options == options
    if options is None:
        assert detector.network(torch.randn(1, 3, 64, 64))[-1].shape == (1, 64, 16, 16)
        assert detector._compiled is None


@pytest.mark.parametrize('compile', ['inductor', 1, ('a', 1)], ids=str)
def test_what_compile_may_not_be(compile):
    with pytest.raises(ValueError, match='compile must be True, False, None or a dict of torch'):
        build(compile=compile)


def test_unknown_precision():
    with pytest.raises(ValueError, match="predict_dtype .*'bfloat16'.*'float16'.* not 'half'"):
        build(predict_dtype='half')


# Settings


@pytest.mark.parametrize(('kernel_size', 'channels'), [(1, 32), (3, 288)])
def test_mask_channels_follow_the_mask_neck(kernel_size, channels, device):
    detector = build(mask_neck__out_channels=32, mask_head__kernel_size=kernel_size).eval()
    detector.to(device)
    assert detector.mask_head.conv_kernel.out_channels == channels
    losses = detector(**batch(detector, training=True), mode='loss')
    assert all(loss.isfinite() for loss in losses.values())


def test_the_head_has_the_settings_of_testing(model):
    assert model.mask_head.test_cfg['nms_pre'] == 500
    detector = build(test_cfg__nms_pre=7, test_cfg__mask_format='rle')
    assert detector.mask_head.test_cfg['nms_pre'] == 7
    assert detector.mask_head.test_cfg['mask_format'] == 'rle'
    with pytest.raises(ValueError, match='unknown settings'):
        build(test_cfg__kernel='gaussian')


@pytest.mark.parametrize('train_cfg', [None, {}], ids=str)
def test_settings_of_training_may_be_there_as_in_mmdets_configs(train_cfg):
    assert build(train_cfg=train_cfg).mask_head.num_classes == 4


@pytest.mark.parametrize(
    ('theirs', 'ours'),
    [
        ('bbox_head.kernel_convs', 'mask_head.kernel_convs'),
        ('bbox_head.solo_kernel', 'mask_head.conv_kernel'),
        ('mask_feat_head', 'mask_neck'),
        ('ins_head.kernel_tower', 'mask_head.kernel_convs'),
        ('mask_head.convs_all_levels', 'mask_neck.convs_all_levels'),
        ('mask_head.mask_feature_head.conv_pred', 'mask_neck.conv_pred'),  # the rest is ours
    ],
)
def test_a_checkpoint_converted_by_half_is_refused(model, theirs, ours, tmp_path):
    """Most entries match: only the names tell that the rest is of other code."""
    weights = {name.replace(ours, theirs): value for name, value in model.state_dict().items()}
    file = tmp_path / 'half.pth'
    torch.save(dict(state_dict=weights), file)
    with pytest.raises(InputError, match=f'of other SOLOv2 code, {theirs}.*convert_checkpoint.py'):
        load_checkpoint(build(), str(file))


def test_weights_in_another_wrapper_load(model, tmp_path):
    torch.save(dict(model=model.state_dict(), iteration=3), tmp_path / 'a.pth')
    other = build()
    load_checkpoint(other, str(tmp_path / 'a.pth'))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_a_checkpoint_of_other_code_in_its_wrapper_is_refused(tmp_path):
    theirs = {'ins_head.cate_pred.weight': torch.zeros(1)}
    torch.save(dict(model=theirs, iteration=3), tmp_path / 'a.pth')
    with pytest.raises(InputError, match=r'of other SOLOv2 code, ins_head.*convert_checkpoint\.py'):
        load_checkpoint(build(), str(tmp_path / 'a.pth'))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(neck__out_channels=32), 'neck.out_channels is 32, but mask_neck.in_channels is 64'),
        (dict(mask_neck__in_channels=32), 'is 64, but mask_neck.in_channels is 32'),
        (dict(mask_head__in_channels=32), 'is 64, but mask_head.in_channels is 32'),
        (dict(neck__num_outs=4), 'neck.num_outs is 4, but mask_head.num_grids has 5 levels'),
        (dict(mask_neck__end_level=5), 'mask_neck.end_level is 5, but the neck gives 5 levels'),
        (
            dict(mask_head__mask_channels=256),
            'mask_neck.out_channels is 64, but mask_head.mask_channels is 256',
        ),
    ],
    ids=str,
)
def test_parts_of_different_widths_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def build_separate(num_levels=5, **settings):
    """``build`` with mask features for each level."""
    neck = dict(in_channels=64, feat_channels=32, out_channels=64, num_levels=num_levels)
    neck = dict(_delete_=True, type='mmsolov2.SeparateMaskFeatureNeck', **neck)
    return build(mask_neck=neck, **settings)


def test_separate_features_train_and_predict(device):
    detector = build_separate().to(device)
    losses = detector(**batch(detector, True), mode='loss')
    sum(losses.values()).backward()
    assert all(one.grad is not None for one in detector.mask_neck.parameters())
    with torch.no_grad():
        results = detector.eval()(**batch(detector, False), mode='predict')
    assert [one.pred_instances.masks.shape[1:] for one in results] == [(128, 192), (25, 30)]


def test_separate_features_of_other_levels_are_refused():
    with pytest.raises(ValueError, match='num_levels is 4, but mask_head.num_grids has 5 levels'):
        build_separate(num_levels=4)


def test_configs_are_not_modified():
    config = Config.fromfile(CONFIG)
    config.merge_from_dict({f'model.{name}': value for name, value in SMALL.items()})
    before = config.to_dict()
    MODELS.build(config.model)
    assert config.to_dict() == before


# Checkpoints


def load(model, state_dict, tmp_path, strict=False):
    path = str(tmp_path / 'weights.pth')
    save_checkpoint(dict(state_dict=state_dict), path)
    return load_checkpoint(model, path, strict=strict)


def test_weights_come_back_from_a_file(model, tmp_path):
    other = build()
    load(other, model.state_dict(), tmp_path, strict=True)
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def theirs(name):
    return name.replace('mask_neck.', 'mask_head.mask_feature_head.')


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_mmdets_names_are_taken(model, prefix, tmp_path):
    state_dict = {prefix + theirs(name): value for name, value in model.state_dict().items()}
    names = list(state_dict)
    assert sum('mask_feature_head' in name for name in names) == 24
    other = build()
    load(other, state_dict, tmp_path, strict=True)
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert list(state_dict) == names


def test_mmdets_names_are_taken_by_torch_and_inside_a_wrapper(model):
    state_dict = {theirs(name): value for name, value in model.state_dict().items()}
    names = list(state_dict)
    assert str(build().load_state_dict(state_dict)) == '<All keys matched successfully>'
    wrapped = torch.nn.ModuleDict(dict(module=build()))
    state_dict = {f'module.{name}': value for name, value in state_dict.items()}
    assert str(wrapped.load_state_dict(state_dict)) == '<All keys matched successfully>'
    assert [f'module.{name}' for name in names] == list(state_dict)


def entries(model):
    return len(model.state_dict())


def test_a_checkpoint_of_another_architecture_is_refused(model, tmp_path):
    other = {f'bbox_head.conv{i}.weight': torch.zeros(1) for i in range(3)}
    message = (
        f'another model: 0 of the {entries(model)} entries of SOLOv2 match; the first that do '
        'not: backbone.conv1.weight (missing), backbone.bn1.weight (missing), '
    )
    with pytest.raises(InputError, match=re.escape(message)):
        load(model, other, tmp_path)


def test_a_checkpoint_of_another_backbone_is_refused(model, tmp_path):
    """A backbone of the same names but twice the channels: most of the entries do not fit."""
    state_dict = {
        name: torch.cat([value, value]) if name.startswith('backbone') and value.dim() else value
        for name, value in model.state_dict().items()
    }
    wrong = sum(
        name.startswith('backbone') and value.dim() > 0
        for name, value in model.state_dict().items()
    )
    message = (
        f'{entries(model) - wrong} of the {entries(model)} entries of SOLOv2 match; the first '
        'that do not: backbone.conv1.weight (is (128, 3, 7, 7), needs (64, 3, 7, 7)), '
    )
    with pytest.raises(InputError, match=re.escape(message)):
        load(model, state_dict, tmp_path)


@pytest.mark.parametrize(('missing', 'refused'), [(0, False), (1, True)])
def test_half_of_the_entries_must_match(model, missing, refused, tmp_path):
    names = list(model.state_dict())
    half = -(-len(names) // 2)
    state_dict = {name: model.state_dict()[name] for name in names[: half - missing]}
    if refused:
        with pytest.raises(InputError, match=f'{half - 1} of the {len(names)} entries'):
            load(build(), state_dict, tmp_path)
    else:
        load(build(), state_dict, tmp_path)


def test_another_number_of_classes_still_loads(model, tmp_path):
    other = build(mask_head__num_classes=9)
    before = other.mask_head.conv_cls.weight.clone()
    load(other, model.state_dict(), tmp_path)
    assert torch.equal(other.mask_head.conv_cls.weight, before)
    for name, value in model.state_dict().items():
        if 'conv_cls' not in name:
            assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.parametrize(('saved', 'built'), [(None, 'quadratic'), ('linear', None)])
def test_other_position_terms_still_load_but_for_the_kernels(saved, built, tmp_path):
    """For training; to predict, every entry must be there (``read_matching``)."""
    weights = build(mask_head__position_terms=saved).state_dict()
    other = build(mask_head__position_terms=built)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    load(other, weights, tmp_path)
    for name, value in other.state_dict().items():
        expected = before if 'conv_kernel' in name else weights
        assert torch.equal(value, expected[name]), name
    message = (
        f'another model: .*conv_kernel.weight .* has mask_head.position_terms={saved!r}, the '
        f'model {built!r}: to train on, load_from takes all but conv_kernel'
    )
    with pytest.raises(InputError, match=message):
        require_match(other, weights, strict=True)


def test_a_refused_checkpoint_changes_no_weight(tmp_path):
    detector = build()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    neck_only = {name: value + 1 for name, value in before.items() if name.startswith('neck')}
    with pytest.raises(InputError, match=r'of the \d+ entries'):
        load(detector, neck_only, tmp_path)
    for name, value in detector.state_dict().items():
        assert torch.equal(value, before[name]), name


def parameters(model):
    """The names of all entries but for the counters of batches, which torch does not miss."""
    return [name for name in model.state_dict() if not name.endswith('num_batches_tracked')]


@pytest.mark.parametrize('count', [0, 1, 5])
def test_torch_loads_a_part(model, count):
    """A call of load_state_dict is torch's: what is missing is returned, what fits is taken."""
    names = parameters(model)
    part = {name: torch.full_like(model.state_dict()[name], 3) for name in names[:count]}
    other = build()
    result = other.load_state_dict(part, strict=False)
    assert result.missing_keys == names[count:] and result.unexpected_keys == []
    for name, value in part.items():
        assert torch.equal(other.state_dict()[name], value), name
    with pytest.raises(RuntimeError, match='Missing key'):
        other.load_state_dict(part)


def test_torch_loads_a_part_beside_other_names_and_in_a_wrapper(model):
    name = 'mask_head.conv_cls.bias'
    part = {f'module.{name}': model.state_dict()[name], 'module.head.weight': torch.zeros(1)}
    wrapped = torch.nn.ModuleDict(dict(module=build()))
    result = wrapped.load_state_dict(part, strict=False)
    assert result.unexpected_keys == ['module.head.weight']
    assert len(result.missing_keys) == len(parameters(model)) - 1


def test_torch_is_told_of_weights_of_which_none_fits():
    with pytest.raises(InputError, match='another model: 0 of the'):
        build().load_state_dict({'fc.weight': torch.zeros(1)}, strict=False)


def test_weights_that_are_not_finite_are_refused(model, tmp_path):
    state_dict = {name: value.clone() for name, value in model.state_dict().items()}
    state_dict['backbone.bn1.running_mean'][0] = float('nan')
    with pytest.raises(
        InputError, match=r'weights\.pth: 1 of its .*, backbone\.bn1\.running_mean f'
    ):
        load(build(), state_dict, tmp_path)
