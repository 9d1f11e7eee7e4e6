"""Configs in checkpoints: read as they were written, and never run."""

import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmsolov2.cli.checkpoint_config import checkpoint_config, parse_literals
from mmsolov2.errors import InputError

CONFIGS = Path(__file__).parents[2] / 'configs'
LEAVES = [path for path in sorted(CONFIGS.rglob('*solo*.py')) if '_base_' not in path.parts]
MODEL = "model = dict(type='mmsolov2.SOLOv2', mask_head=dict(type='SOLOv2Head'))\n"


def write(folder: Path, meta: object) -> str:
    path = folder / 'epoch 1 #ä.pth'
    torch.save(dict(state_dict={}, meta=meta), path)
    return str(path)


@pytest.mark.parametrize('leaf', LEAVES, ids=lambda leaf: leaf.stem)
def test_every_shipped_config_comes_back(leaf, tmp_path):
    config = Config.fromfile(leaf)
    path = write(tmp_path, dict(cfg=config.dump()))
    found = checkpoint_config(path, {'model.test_cfg.mask_thr': 0.25})
    assert found.filename == path
    assert found.model.pop('test_cfg')['mask_thr'] == 0.25
    config.model.pop('test_cfg')
    for name in ('model', 'test_dataloader', 'default_scope'):
        assert found[name] == config[name]
    assert 'train_dataloader' not in found and 'custom_imports' not in found


def test_what_mmengine_writes_of_odd_values():
    settings = dict(a=-1.5, b=(1,), c=[(), [1, dict(d=None)]], e={'x y': dict(f=True), '3': {}})
    assert parse_literals(Config(settings).dump()) == settings


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('import os\nos.system("touch {mark}")', 'has Import in line 1'),
        ('model = dict(a=__import__("os").system("touch {mark}"))', 'has Call in line 1'),
        ('model = [open("{mark}", "w") for _ in (1,)]', 'has ListComp in line 1'),
        ('model = dict(a=(lambda: open("{mark}", "w"))())', 'has Call in line 1'),
        ('model = dict(*[open("{mark}", "w")])', 'has Call in line 1'),
        ('model = dict(**dict(a=1))', 'has Call in line 1'),
        ('model = f"{{open({mark!r}, 1)}}"', 'has JoinedStr in line 1'),
        ('model = {{**open("{mark}", "w")}}', 'has Dict in line 1'),
        ('a = b = 1', 'has Assign in line 1'),
        ('a.b = 1', 'has Assign in line 1'),
        ('a = inf', 'has Name in line 1'),
        ('"a text"', 'has Expr in line 1'),
        ('def f(', 'cannot be read (SyntaxError)'),
        ('a = ' + 300 * '(', 'cannot be read (SyntaxError)'),
        ('a = ' + 100_000 * '-' + '1', 'cannot be read ('),
        ('a = {{[]: 1}}', 'cannot be read (TypeError)'),
        ('\0', 'cannot be read ('),
        ("model = dict(type='os.system', command='touch {mark}')", "has the type 'os.system'"),
        (
            MODEL + "test_dataloader = dict(dataset=[dict(type='subprocess.Popen', args=[])])",
            "has the type 'subprocess.Popen'",
        ),
        ("model = dict(type='mmengine.dump', obj='x', file='{mark}')", "the type 'mmengine.dump'"),
        ("model = dict(type='antigravity.ResNet')", "has the type 'antigravity.ResNet'"),
        ("model = dict(type=('ResNet',))", "has the type ('ResNet',)"),
        ("model = dict(type='ResNet', _scope_='antigravity')", "has the scope 'antigravity'"),
        (MODEL + "default_scope = 'antigravity'", "has the scope 'antigravity'"),
    ],
)
def test_what_is_more_than_settings_is_refused_and_not_run(text, said, tmp_path):
    mark = tmp_path / 'ran'
    path = write(tmp_path, dict(cfg=text.format(mark=mark)))
    with pytest.raises(InputError) as caught:
        checkpoint_config(path)
    message = str(caught.value)
    assert message.startswith(f'{path}: the config in the checkpoint ') and said in message
    assert message.endswith(': give the config with model= or --config')
    assert not mark.exists()


def test_the_payloads_above_would_run(tmp_path):
    """What the test before shows is worth nothing if they did nothing."""
    mark = tmp_path / 'ran'
    exec(f'model = dict(a=__import__("os").system("touch {mark}"))')
    assert mark.exists()
    assert subprocess.Popen  # mmengine's registry imports it by that path


@pytest.mark.parametrize('meta', [None, {}, dict(cfg=''), dict(cfg=dict(model=1)), dict(config='')])
def test_a_checkpoint_without_a_config(meta, tmp_path):
    with pytest.raises(InputError, match='the checkpoint holds no config: give the config with'):
        checkpoint_config(write(tmp_path, meta))


def test_a_config_without_a_model(tmp_path):
    with pytest.raises(InputError, match='this config has no model'):
        checkpoint_config(write(tmp_path, dict(cfg='a = 1')))


def test_a_wrong_option(tmp_path):
    with pytest.raises(InputError, match='do not fit'):
        checkpoint_config(write(tmp_path, dict(cfg=MODEL)), {'model.mask_head.type.x': 1})
