"""Backbones of transformers, small and with random weights, alone and within SOLOv2."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import init_detector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.runner.checkpoint import load_checkpoint, save_checkpoint
from mmengine.structures import InstanceData

from mmsolov2.errors import InputError
from mmsolov2.models import HFBackbone
from mmsolov2.models.bands import spread_bands

transformers = pytest.importorskip('transformers')
save_file = pytest.importorskip('safetensors.torch').save_file
ROOT = Path(__file__).parents[3]
CHANNELS = [8, 16, 32, 64]
WIDTHS = dict(depths=[1, 1, 1, 1], hidden_sizes=CHANNELS)
SMALL = dict(
    convnext=WIDTHS,
    convnextv2=WIDTHS,
    dinov3_convnext=WIDTHS,
    pvt_v2={**WIDTHS, 'num_attention_heads': [1, 1, 2, 2]},
    resnet={**WIDTHS, 'embedding_size': 8},
    swin=dict(embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=4),
)
every_kind = pytest.mark.parametrize('kind', SMALL)


def make(kind='convnextv2', **settings):
    """A small backbone of a model type, as a config makes it."""
    settings = dict(type='mmsolov2.HFBackbone', model=kind, overrides=SMALL[kind], **settings)
    return MODELS.build(settings)


def config_of(backbone, **preprocessor):
    """The small config with a backbone in it."""
    config = Config.fromfile(ROOT / 'configs/shapes/solov2-plus_r18_fpn_shapes.py')
    config.model.backbone = dict(type='mmsolov2.HFBackbone', **backbone)
    config.model.neck.in_channels = CHANNELS
    config.model.data_preprocessor.update(preprocessor)
    return config


def sums_backward(net, images):
    """The gradients of a random mixture of all that a network gives."""
    sum((torch.randn_like(one) * one).sum() for one in net(images)).backward()


# Maps


@torch.no_grad()
@every_kind
@pytest.mark.parametrize('in_channels', [3, 24])
def test_maps_have_strides_4_to_32(kind, in_channels, device):
    net = make(kind, in_channels=in_channels).to(device).eval()
    maps = net(torch.randn(2, in_channels, 64, 96, device=device))
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [tuple(one.shape) for one in maps] == [
        (2, width, *size) for width, size in zip(CHANNELS, sizes, strict=True)
    ]
    assert (net.out_channels, net.strides) == (CHANNELS, [4, 8, 16, 32])


@torch.no_grad()
@every_kind
def test_maps_are_transformers_own(kind):
    net = make(kind).eval()
    stages = net.net.config.stage_names[-4:]
    config = transformers.AutoConfig.for_model(kind, **SMALL[kind], out_features=stages)
    for name, value in vars(config).items():
        if isinstance(value, tuple):
            setattr(config, name, list(value))
    theirs = transformers.AutoBackbone.from_config(config).eval()
    theirs.load_state_dict(
        {name.removeprefix('net.'): value for name, value in net.state_dict().items()}
    )
    images = torch.randn(1, 3, 64, 64)
    for ours, other in zip(net(images), theirs(images).feature_maps, strict=True):
        assert torch.equal(ours, other)


@torch.no_grad()
def test_stages_are_chosen_in_the_order_of_strides():
    net = make(out_indices=(-1, 2)).eval()
    assert (net.out_channels, net.strides) == ([16, 64], [8, 32])
    assert [one.shape[1] for one in net(torch.randn(1, 3, 64, 64))] == [16, 64]


def test_images_of_other_channels_are_refused():
    with pytest.raises(InputError, match='images have 3 channels, but in_channels is 4'):
        make(in_channels=4)(torch.randn(1, 3, 64, 64))


# What is trained


@every_kind
@pytest.mark.parametrize('frozen_stages', [0, 1, 3])
def test_what_requires_gradients_gets_them(kind, frozen_stages):
    """So that processes that share gradients wait for none; frozen is what early maps need."""
    net = make(kind, frozen_stages=frozen_stages).train()
    sums_backward(net, torch.randn(2, 3, 64, 64))
    for name, parameter in net.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    twin = make(kind)  # which gets gradients of the early maps alone
    early = twin(torch.randn(2, 3, 64, 64))[:frozen_stages]
    if early:
        sum(one.sum() for one in early).backward()
    for (name, ours), theirs in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert ours.requires_grad == (theirs.requires_grad and theirs.grad is None), name


def test_frozen_stages_and_normalisation_stay():
    """Statistics and dropped paths too: the finest map is the same each time."""
    kind = dict(overrides={**SMALL['resnet']}, frozen_stages=1)
    for settings, last_stays in ((kind, False), ({**kind, 'norm_eval': True}, True)):
        net = HFBackbone(model='resnet', **settings).train()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        net(torch.randn(2, 3, 64, 64))
        changed = {name for name in before if not torch.equal(net.state_dict()[name], before[name])}
        assert not any('embedder' in name or 'stages.0' in name for name in changed)
        assert bool(changed) != last_stays
    overrides = {**SMALL['convnextv2'], 'drop_path_rate': 0.9}
    net = HFBackbone(model='convnextv2', overrides=overrides, frozen_stages=1).train()
    images = torch.randn(8, 3, 64, 64)
    (first, *_, last), (first_again, *_, last_again) = net(images), net(images)
    assert torch.equal(first, first_again) and not torch.equal(last, last_again)


def test_unused_parameters_are_swins():
    frozen = [name for name, one in make('swin').named_parameters() if not one.requires_grad]
    assert [name.rpartition('.')[0].rpartition('.')[2] for name in frozen] in (
        ['layernorm', 'layernorm'],
        [],  # releases that do not have it
    )


# Weights


@pytest.fixture
def folder(tmp_path):
    """A folder with spaces and signs in its name, as save_pretrained writes it, of a backbone."""
    place = tmp_path / 'my weights #1 é'
    make('swin').net.save_pretrained(place)
    return str(place)


def equal_weights(ours, theirs):
    states = ours.state_dict(), theirs.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


def test_a_folder_is_model_and_weights(folder):
    saved = transformers.AutoConfig.from_pretrained(folder)
    net = HFBackbone(model=folder, pretrained=True)
    assert net.out_channels == CHANNELS and saved.embed_dim == 8
    other = HFBackbone(model=folder)
    assert not equal_weights(net, other)  # random, until it is initialised
    net.init_weights()
    other.net.load_state_dict(type(net.net).from_pretrained(folder).state_dict())
    assert equal_weights(net, other)


@pytest.mark.parametrize('in_channels', [1, 4, 24])
def test_weights_for_rgb_are_spread_over_bands(folder, in_channels):
    ours = make('swin', in_channels=in_channels, pretrained=folder)
    ours.init_weights()
    theirs = HFBackbone(model=folder, pretrained=True)
    theirs.init_weights()
    (stem,) = [
        name
        for name, value in ours.state_dict().items()
        if value.shape != theirs.state_dict()[name].shape
    ]
    for name, value in theirs.state_dict().items():
        expected = spread_bands(value, in_channels) if name == stem else value
        assert torch.equal(ours.state_dict()[name], expected), name


def test_weights_of_a_classifier_are_taken(tmp_path):
    """Its file has another prefix, a classifier, and none of the maps' normalisation."""
    config = transformers.AutoConfig.for_model('swin', **SMALL['swin'])
    classifier = transformers.SwinForImageClassification(config)
    classifier.save_pretrained(tmp_path)
    net = make('swin', pretrained=str(tmp_path))
    net.init_weights()
    ours = {name.rpartition('encoder.')[2]: one for name, one in net.state_dict().items()}
    theirs = {
        name.rpartition('encoder.')[2]: one
        for name, one in classifier.state_dict().items()
        if 'encoder.' in name
    }
    assert len(theirs) > 40
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert all((ours[f'net.hidden_states_norms.stage{i}.weight'] == 1).all() for i in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ('kind', 'overrides', 'message'),
    [
        ('swin', {'embed_dim': 16}, 'are of another network, .* match; the first that do not: '),
        ('convnextv2', {}, 'is of the type swin, not convnextv2'),
    ],
)
def test_weights_of_another_model_are_refused(folder, kind, overrides, message):
    net = HFBackbone(model=kind, overrides={**SMALL[kind], **overrides}, pretrained=folder)
    with pytest.raises(InputError, match=message) as caught:
        net.init_weights()
    assert folder in str(caught.value)


def test_a_file_without_the_weights_is_refused(folder):
    save_file({'other': torch.zeros(1)}, Path(folder) / 'model.safetensors', dict(format='pt'))
    net = HFBackbone(model=folder, pretrained=True)
    with pytest.raises(InputError, match=r' lacks \d+ of the \d+ entries of SwinBackbone: '):
        net.init_weights()


def test_a_damaged_file_of_weights_is_refused(folder):
    file = Path(folder) / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:1000])
    net = HFBackbone(model=folder, pretrained=True)
    with pytest.raises(InputError, match=r'cannot be read from a folder or the hub \(Safetensor'):
        net.init_weights()


def test_checkpoints_round_trip(tmp_path):
    first, second = make('pvt_v2'), make('pvt_v2')
    assert all(name.startswith('net.') for name in first.state_dict())
    save_checkpoint(dict(state_dict=first.state_dict()), str(tmp_path / 'one.pth'))
    load_checkpoint(second, str(tmp_path / 'one.pth'), strict=True)
    assert equal_weights(first, second)


@pytest.mark.parametrize('in_channels', [3, 4])
def test_init_cfg_takes_a_backbone_out_of_a_checkpoint(tmp_path, in_channels):
    first = make()
    state = {f'backbone.{name}': value for name, value in first.state_dict().items()}
    save_checkpoint(dict(state_dict=state), str(tmp_path / 'whole.pth'))
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'whole.pth'), prefix='backbone.')
    second = make(init_cfg=init_cfg, in_channels=in_channels)
    second.init_weights()
    name = 'net.embeddings.patch_embeddings.weight'
    expected = spread_bands(first.state_dict()[name], in_channels)
    assert torch.equal(second.state_dict()[name], expected)


def test_names_of_another_release_are_refused():
    """mmengine would log them in a list that few read, and go on with random weights."""
    state = {f'net.old.{name[4:]}': value for name, value in make().state_dict().items()}
    message = 'HFBackbone: these weights are of another network, 0 of .* release of its library'
    with pytest.raises(InputError, match=message):
        make().load_state_dict(state)


# Within SOLOv2


def batch(model, in_channels=3):
    masks = np.zeros((1, 65, 99), np.uint8)
    masks[:, 8:40, 12:50] = 1
    truth = InstanceData(masks=BitmapMasks(masks, 65, 99), labels=torch.tensor([2]))
    sizes = dict(img_shape=(65, 99), ori_shape=(65, 99))
    images = [torch.randint(0, 256, (in_channels, 65, 99), dtype=torch.uint8)]
    samples = [DetDataSample(gt_instances=truth, metainfo=sizes)]
    return model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)


@every_kind
def test_solov2_trains_and_predicts(kind, device):
    config = config_of(dict(model=kind, overrides=SMALL[kind]))
    model = MODELS.build(config.model).to(device)
    data = batch(model)
    losses = model.train()(**data, mode='loss')
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    with torch.no_grad():
        (result,) = model.eval()(**data, mode='predict')
    assert result.pred_instances.masks.shape[1:] == (65, 99)


def test_init_detector_needs_no_pretrained_weights(tmp_path):
    """They are what training starts from: a checkpoint has all, and the hub is not asked."""
    backbone = dict(model='convnextv2', overrides=WIDTHS, pretrained='no/network')
    config = config_of(backbone)
    model = MODELS.build(config.model)
    save_checkpoint(dict(state_dict=model.state_dict()), str(tmp_path / 'one.pth'))
    loaded = init_detector(config, str(tmp_path / 'one.pth'), device='cpu')
    assert equal_weights(model, loaded)


@pytest.mark.parametrize('channels', [[32] * 4, CHANNELS])
def test_a_plain_vision_transformer_is_refused_when_the_model_is_built(channels):
    overrides = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    config = config_of(dict(model='dinov2', overrides=overrides))
    config.model.neck.in_channels = channels
    message = (
        r'HFBackbone gives maps of \[32, 32, 32, 32\] channels at strides \[14, 14, 14, 14\].*; '
        'the finest level must be at stride 4: .* backbone with maps at strides 4, 8, 16 and 32'
    )
    with pytest.raises(ValueError, match=message):
        MODELS.build(config.model)


# Settings


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(model='bert', overrides={}), 'of the stages of bert, which has none, not'),
        (dict(overrides=dict(depth=[1])), "convnextv2 has no settings ['depth'], but ["),
        (dict(out_indices=(1, 5)), "'stage4'], not [1, 5]"),
        (dict(frozen_stages=5), 'frozen_stages must be from 0 to 4, not 5'),
        (dict(frozen_stages=-1), 'frozen_stages must be from 0 to 4, not -1'),
        (dict(pretrained=True), "model='convnextv2' is a model type, which has no weights"),
        (dict(pretrained='x', init_cfg=dict(type='Kaiming')), 'are two sources of weights'),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        HFBackbone(**{**dict(model='convnextv2', overrides=WIDTHS), **settings})


@pytest.mark.parametrize('content', [None, '', '{}', '{"model_type": "no such"}', '\0'])
def test_models_that_cannot_be_read(tmp_path, content, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    name = str(tmp_path)
    if content is not None:
        (tmp_path / 'config.json').write_text(content)
    with pytest.raises(
        InputError, match='Without network, give a folder with config.json'
    ) as caught:
        HFBackbone(model=name)
    assert name in str(caught.value)


def test_the_hub_without_network(monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(
        InputError, match=r'no/such: this is no model type .* a model type, as conv'
    ):
        HFBackbone(model='no/such')
    with pytest.raises(InputError, match='no/such: .* Without network, give a folder'):
        make(pretrained='no/such').init_weights()


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'transformers', None)
    with pytest.raises(
        InputError, match=r"cannot be imported .* pip install 'mmsolov2\[backbones\]'"
    ):
        make()


def test_a_folder_in_half_precision_is_computed_in_float32(folder):
    path = Path(folder) / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'dtype': 'float16'}))
    net = HFBackbone(model=folder, pretrained=True)
    net.init_weights()
    assert {one.dtype for one in net.parameters()} == {torch.float32}
