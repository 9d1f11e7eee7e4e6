"""Configs and options of the tools."""

import argparse
import importlib.util
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmsolov2.engine.launch import add_common_options, build_runner, open_config, read_config
from mmsolov2.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIG = "model = dict(type='Toy', depth=1)\n"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    """read_config sets LOCAL_RANK; undo that after each test."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.delenv('LOCAL_RANK')


def write(folder: Path, text: str = CONFIG) -> str:
    path = folder / 'my_config.py'
    path.write_text(text)
    return str(path)


def parse(*options: str) -> argparse.Namespace:
    """The common options of a command line, whose first word is the config."""
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_common_options(parser)
    return parser.parse_args(options)


# Opening configs


def test_config_opens(tmp_path):
    assert open_config(write(tmp_path)).model.depth == 1


def test_missing_config(tmp_path):
    path = str(tmp_path / 'none.py')
    with pytest.raises(InputError, match='there is no such config file') as caught:
        open_config(path)
    assert str(caught.value).startswith(f'{path}: ')


def test_folder_is_no_config(tmp_path):
    with pytest.raises(InputError, match='there is no such config file'):
        open_config(str(tmp_path))


def test_base_file_is_no_config():
    path = str(ROOT / 'configs' / '_base_' / 'default_runtime.py')
    with pytest.raises(InputError, match='has no model; pass a leaf') as caught:
        open_config(path)
    assert str(caught.value).startswith(f'{path}: ')


def test_missing_base(tmp_path):
    with pytest.raises(InputError, match=r'my_config\.py: this config cannot be read: .*none\.py'):
        open_config(write(tmp_path, "_base_ = './none.py'\n" + CONFIG))


@pytest.mark.parametrize('text', ['model = dict(', 'model == = 3', 'def :'])
def test_syntax_error(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match='this config cannot be read') as caught:
        open_config(path)
    assert str(caught.value).startswith(f'{path}: ')


def test_other_kind_of_file(tmp_path):
    path = tmp_path / 'config.txt'
    path.write_text(CONFIG)
    with pytest.raises(InputError, match='this config cannot be read'):
        open_config(str(path))


# Reading configs with options


def test_cfg_options_override(tmp_path):
    path = write(tmp_path, CONFIG + 'sizes = [1, 2]\nsteps = [dict(a=1), dict(b=2)]\n')
    config = read_config(
        parse(path, '--cfg-options', 'model.depth=50', 'sizes=[3,4]', 'steps.1.b=7', 'new.key=a,b')
    )
    assert config.model.depth == 50 and config.model.type == 'Toy'
    assert config.sizes == [3, 4] and config.new.key == ['a', 'b']
    assert config.steps == [dict(a=1), dict(b=7)]


def test_work_folder(tmp_path):
    """The option, then the config, then the config's name."""
    assert read_config(parse(write(tmp_path))).work_dir == 'work_dirs/my_config'
    path = write(tmp_path, CONFIG + "work_dir = 'mine'\n")
    assert read_config(parse(path)).work_dir == 'mine'
    assert read_config(parse(path, '--cfg-options', 'work_dir=other')).work_dir == 'other'
    options = ('--work-dir', 'best', '--cfg-options', 'work_dir=other')
    assert read_config(parse(path, *options)).work_dir == 'best'
    assert read_config(parse(write(tmp_path,
                                   CONFIG + 'work_dir = None\n'))).work_dir.endswith('my_config')


@pytest.mark.parametrize(
    'gpu, launcher, joined', [
        (False, 'pytorch', ['gloo']),
        (False, 'none', []),
        (True, 'pytorch', []),
    ]
)
def test_gloo_where_there_is_no_gpu(monkeypatch, gpu, launcher, joined):
    calls = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(torch.distributed, 'init_process_group', calls.append)
    monkeypatch.setattr(Runner, 'from_cfg', lambda config: 'the runner')
    assert build_runner(Config(dict(launcher=launcher))) == 'the runner'
    assert calls == joined


def test_launcher(tmp_path):
    config = read_config(parse(write(tmp_path), '--launcher', 'pytorch'))
    assert config.launcher == 'pytorch'
    assert read_config(parse(write(tmp_path))).launcher == 'none'


def test_rank_of_the_launcher_counts(tmp_path):
    read_config(parse(write(tmp_path), '--local-rank', '3'))
    assert os.environ['LOCAL_RANK'] == '3'
    read_config(parse(write(tmp_path), '--local_rank', '1'))
    assert os.environ['LOCAL_RANK'] == '3'


# The options of tools/train.py


@pytest.fixture(scope='module')
def apply_options():
    spec = importlib.util.spec_from_file_location('train_tool', ROOT / 'tools' / 'train.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.apply_options


def options(**changed) -> argparse.Namespace:
    plain = dict(config='my_config.py', amp=False, auto_scale_lr=False, resume=None)
    return argparse.Namespace(**{**plain, **changed})


def config(**changed) -> Config:
    plain = dict(
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)),
        load_from=None,
        resume=False,
    )
    return Config({**plain, **changed})


def test_no_options_change_nothing(apply_options):
    changed = config(load_from='a.pth')
    apply_options(changed, options())
    assert changed.to_dict() == config(load_from='a.pth').to_dict()


def test_amp_without_gpu(apply_options, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(InputError, match='--amp needs a GPU'):
        apply_options(config(), options(amp=True))


def test_amp_with_gpu(apply_options, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    changed = config()
    apply_options(changed, options(amp=True))
    assert changed.optim_wrapper.type == 'AmpOptimWrapper'
    assert changed.optim_wrapper.loss_scale == 'dynamic'
    assert changed.optim_wrapper.optimizer.lr == 0.01


@pytest.mark.parametrize('given', [{}, dict(auto_scale_lr=dict(enable=False))])
def test_auto_scale_lr_without_a_base(apply_options, given):
    with pytest.raises(InputError, match=r'my_config\.py: --auto-scale-lr needs auto_scale_lr='):
        apply_options(config(**given), options(auto_scale_lr=True))


def test_auto_scale_lr(apply_options):
    changed = config(auto_scale_lr=dict(enable=False, base_batch_size=16))
    apply_options(changed, options(auto_scale_lr=True))
    assert changed.auto_scale_lr == dict(enable=True, base_batch_size=16)


@pytest.mark.parametrize('given, load_from', [('auto', None), ('b.pth', 'b.pth')])
def test_resume(apply_options, given, load_from):
    changed = config(load_from='a.pth')
    apply_options(changed, options(resume=given))
    assert changed.resume is True and changed.load_from == load_from
