"""Configs and options of the tools."""

import argparse
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmsolov2.cli.config import open_config
from mmsolov2.cli.launch import (
    add_common_options,
    apply_training_options,
    build_loops,
    build_runner,
    read_config,
)
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


@pytest.mark.parametrize(
    'text, message',
    [
        ('model = dict(type=Toy)', "NameError: name 'Toy' is not defined ("),
        ("_base_ = './base.py'\nmodel = dict(depth={{_base_.none}})", 'KeyError: none (at '),
        ("_base_ = './base.py'\nmodel = dict(depth=dict(a=1))", 'TypeError: '),
        ("_base_ = 'mmsolo::base.py'", 'specify the package name'),
        ("custom_imports = dict(imports=['nonsense'])\n" + CONFIG, 'Error: '),
    ],
)
def test_config_that_cannot_be_run(tmp_path, text, message):
    (tmp_path / 'base.py').write_text(CONFIG)
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        open_config(path)
    said = str(caught.value)
    assert said.startswith(f'{path}: this config cannot be read: ')
    assert message in said and '\n' not in said


def test_model_that_is_no_dict(tmp_path):
    with pytest.raises(InputError, match='has no model; pass a leaf'):
        open_config(write(tmp_path, 'model = 5'))


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
    option = 'custom_hooks=[dict(type="EMAHook", momentum=1e-4)]'
    (hook,) = read_config(parse(path, '--cfg-options', option)).custom_hooks
    assert hook.type == 'EMAHook' and hook.momentum == 1e-4


def test_work_folder(tmp_path):
    """The option, then the config, then the config's name."""
    assert read_config(parse(write(tmp_path))).work_dir == 'work_dirs/my_config'
    path = write(tmp_path, CONFIG + "work_dir = 'mine'\n")
    assert read_config(parse(path)).work_dir == 'mine'
    assert read_config(parse(path, '--cfg-options', 'work_dir=other')).work_dir == 'other'
    options = ('--work-dir', 'best', '--cfg-options', 'work_dir=other')
    assert read_config(parse(path, *options)).work_dir == 'best'
    assert read_config(parse(write(tmp_path, CONFIG + 'work_dir = None\n'))).work_dir.endswith(
        'my_config'
    )


@pytest.mark.parametrize(
    'gpu, launcher, joined',
    [
        (False, 'pytorch', ['gloo']),
        (False, 'none', []),
        (True, 'pytorch', []),
    ],
)
def test_gloo_where_there_is_no_gpu(monkeypatch, gpu, launcher, joined):
    calls = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(torch.distributed, 'init_process_group', calls.append)
    monkeypatch.setattr(Runner, 'from_cfg', lambda config: 'the runner')
    assert build_runner(Config(dict(launcher=launcher))) == 'the runner'
    assert calls == joined


def test_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '0')
    config = read_config(parse(write(tmp_path), '--launcher', 'pytorch'))
    assert config.launcher == 'pytorch'
    assert read_config(parse(write(tmp_path))).launcher == 'none'


@pytest.mark.parametrize(
    'launcher, variable',
    [
        ('pytorch', 'RANK'),
        ('slurm', 'SLURM_PROCID'),
        ('mpi', 'OMPI_COMM_WORLD_RANK'),
    ],
)
def test_launcher_that_has_not_started_this(tmp_path, monkeypatch, launcher, variable):
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match=f'--launcher {launcher}: {variable} is not set; .*dist_'):
        read_config(parse(write(tmp_path), '--launcher', launcher))


def test_name_of_a_shipped_config(tmp_path):
    args = parse('solov2_r50_fpn_1x_coco', '--work-dir', str(tmp_path))
    assert read_config(args).model.backbone.depth == 50


def test_work_folder_that_is_a_file(tmp_path):
    (tmp_path / 'file').touch()
    folder = tmp_path / 'file' / 'inside'
    with pytest.raises(InputError, match=r'file/inside: no such folder can be made \(Not a dir'):
        read_config(parse(write(tmp_path), '--work-dir', str(folder)))


@pytest.mark.parametrize('text', ['foo', 'a="[1,2"', 'a=[1,(2]'])
def test_options_that_are_none(tmp_path, text, capsys):
    with pytest.raises(SystemExit):
        parse(write(tmp_path), '--cfg-options', text)
    last = capsys.readouterr().err.splitlines()[-1]
    assert f'error: --cfg-options {text}: give key=value' in last


# What a config's parts say


@pytest.mark.parametrize(
    'option, message', [
        ('model.test_cfg.score_threshold=0.5', "unknown settings ['score_threshold']"),
        ('model.test_cfg.score_thr=30', 'test_cfg.score_thr must be a number from 0 to 1, not 30'),
        ('model.test_cfg.filter_thr=None', 'filter_thr must be a number from 0 to 1, not None'),
        ('model.test_cfg.nms_pre=5.0', 'nms_pre must be a whole number of at least 1, or None'),
        ('model.test_cfg.nms.type=NMS', "test_cfg.nms has no type 'NMS'"),
        ('model.mask_head.kernel_size=2', 'kernel_size must be odd'),
        ('model.mask_neck.norm_cfg.num_groups=7', '(32) must be divisible by num_groups (7) (at '),
        ('model.mask_neck.foo=1', "argument 'foo' (at self.mask_neck = MODELS.build(mask_neck), "),
        ('model.backbone.depth=51', 'invalid depth 51 for resnet (at self.backbone = '),
        ('model.type=SOLOv3', 'SOLOv3 is not in the mmdet::model registry'),
        ('train_dataloader.dataset.foo=1', "unexpected keyword argument 'foo'"),
        ('train_dataloader.dataset.ann_file=none.json', 'none.json: there is no such annotation'),
        ('val_dataloader.dataset.pipeline.0.type=Load', 'Load is not in the mmdet::transform'),
        ('optim_wrapper.optimizer.type=Adamw', 'TypeError: None is not a callable object'),
        ('train_dataloader=None train_cfg=None optim_wrapper=None param_scheduler=None',
         'this config has no train_dataloader'),
    ]
)  # fmt: skip
def test_a_wrong_setting_names_the_config(tiny_config, tmp_path, option, message):
    args = parse(str(tiny_config), '--work-dir', str(tmp_path), '--cfg-options', *option.split())
    config = read_config(args)
    with pytest.raises(InputError) as caught:
        build_loops(build_runner(config), 'train', 'val')
    text = str(caught.value)
    assert message in text and '\n' not in text
    assert text.startswith(f'{tiny_config}: ') or 'annotation' in text


@pytest.mark.parametrize(
    'option, message', [
        ('param_scheduler=[dict(type="LinearRL")]', 'LinearRL is not in the mmdet::parameter sch'),
        ('param_scheduler=[dict(type="LinearLR",start_factor=2)]', 'ValueError: Starting multipl'),
        ('param_scheduler=[dict(type="LinearLR",begin=9,end=5)]', 'end should be larger than beg'),
        ('param_scheduler=[dict(type="StepLR")]', "missing 1 required positional argument: 'step"),
        ('activation_checkpointing=[nothing]', "'SOLOv2' object has no attribute 'nothing'"),
        ('model.init_cfg=dict(type="Nope")', 'Nope is not in the mmdet::weight initializer reg'),
        ('custom_hooks=[dict(type="EMAHook",momentum=5)]', 'momentum must be in range (0.0, 1.0)'),
        ('custom_hooks=[dict(type="EMAHook",begin_epoch=9)]', 'smaller than or equal to runner'),
        ('train_cfg.val_interval=0', 'train_cfg.val_interval must be a whole number of at least 1'),
    ]
)  # fmt: skip
def test_a_wrong_setting_found_late_names_the_config(tiny_config, tmp_path, option, message):
    """mmengine builds and applies these when training starts."""
    args = parse(str(tiny_config), '--work-dir', str(tmp_path), '--cfg-options', option)
    with pytest.raises(InputError) as caught:
        build_runner(read_config(args)).train()
    text = str(caught.value)
    assert text.startswith(f'{tiny_config}: ') and message in text and '\n' not in text


@pytest.mark.parametrize(
    'scheduler, said', [
        ('type="LinearLR",by_epoch=False,end=13',
         'the lr up to iter 13, but this training ends with iter 12: lower its end'),
        ('type="ConstantLR",by_epoch=False,end=20', 'lr up to iter 20, but this training'),
        ('type="LinearLR",end=4', 'the lr up to epoch 4, but this training ends with epoch 3: '),
        ('type="LinearLR",end=4,convert_to_iter_based=True', 'up to iter 16, but this'),
        ('type="LinearMomentum",by_epoch=False,end=13', 'the momentum up to iter 13, but'),
        ('type="LinearLR",by_epoch=False,end=12', None),
        ('type="LinearLR"', None),
        ('type="LinearLR",end=1000000000', None),
        ('type="CosineAnnealingLR",T_max=5,end=5', None),
    ]
)  # fmt: skip
def test_a_warm_up_longer_than_the_training_is_told(tiny_config, tmp_path, scheduler, said):
    option = f'param_scheduler=[dict({scheduler})]'
    name = f'experiment_name={tmp_path.name}'  # two in a second would share a log
    args = parse(str(tiny_config), '--work-dir', str(tmp_path), '--cfg-options', option, name)
    runner = build_runner(read_config(args))
    build_loops(runner, 'train')
    runner.build_param_scheduler(runner.param_schedulers)
    (log,) = tmp_path.glob('*/*.log')
    told = [line for line in log.read_text().splitlines() if 'but this training ends' in line]
    assert len(told) == (said is not None)
    assert said is None or (f'WARNING - {tiny_config}: ' in told[0] and said in told[0])


def test_other_runners_build_their_own_optimizer(tiny_config, tmp_path):
    args = parse(
        str(tiny_config), '--work-dir', str(tmp_path), '--cfg-options', 'runner_type=FlexibleRunner'
    )
    runner = build_runner(read_config(args))
    build_loops(runner, 'train', 'val')
    assert type(runner).__name__ == 'FlexibleRunner'
    assert len(runner.train_loop.dataloader.dataset) == 8


def test_a_failure_while_training_keeps_its_traceback(tiny_config, tmp_path):
    option = 'optim_wrapper.clip_grad.nonsense=1'
    args = parse(str(tiny_config), '--work-dir', str(tmp_path), '--cfg-options', option)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        build_runner(read_config(args)).train()


@pytest.mark.parametrize(
    'error', [
        torch.cuda.OutOfMemoryError('CUDA out of memory'),
        MemoryError(),
        OSError(28, 'No space left on device'),
        torch.distributed.DistNetworkError('The client socket has timed out'),
        RuntimeError('[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: none'),
    ]
)  # fmt: skip
def test_what_the_machine_lacks_keeps_its_traceback(tiny_config, tmp_path, monkeypatch, error):

    def fail(*arguments, **settings):
        raise error

    runner = build_runner(read_config(parse(str(tiny_config), '--work-dir', str(tmp_path))))
    monkeypatch.setattr(runner, 'load_or_resume', fail)
    with pytest.raises(type(error)) as caught:
        runner.train()
    assert caught.value is error


def test_a_training_without_a_config_file(tiny_config, tmp_path):
    config = read_config(parse(str(tiny_config), '--work-dir', str(tmp_path)))
    settings = config.to_dict()
    settings['train_cfg']['val_interval'] = 0
    runner = build_runner(Config(settings))
    with pytest.raises(InputError, match=r'^training: train_cfg\.val_interval must be'):
        runner.train()
    settings['custom_hooks'] = [dict(type='Nope')]
    with pytest.raises(InputError, match='^training: '):
        build_runner(Config(settings))


def test_training_without_masks_is_refused(tiny_config, tmp_path):
    option = 'train_dataloader.dataset.pipeline.2.with_mask=False'
    args = parse(str(tiny_config), '--work-dir', str(tmp_path), '--cfg-options', option)
    with pytest.raises(InputError, match='training needs masks: set with_mask=True of LoadAnno'):
        build_runner(read_config(args)).train()


def test_rank_of_the_launcher_counts(tmp_path):
    read_config(parse(write(tmp_path), '--local-rank', '3'))
    assert os.environ['LOCAL_RANK'] == '3'
    read_config(parse(write(tmp_path), '--local_rank', '1'))
    assert os.environ['LOCAL_RANK'] == '3'


# The options of tools/train.py


def options(**changed) -> argparse.Namespace:
    plain = dict(config='my_config.py', amp=False, auto_scale_lr=False, resume=None, epochs=None)
    return argparse.Namespace(**{**plain, **changed})


def config(**changed) -> Config:
    plain = dict(
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)),
        load_from=None,
        resume=False,
    )
    return Config({**plain, **changed})


def test_no_options_change_nothing():
    changed = config(load_from='a.pth')
    apply_training_options(changed, options())
    assert changed.to_dict() == config(load_from='a.pth').to_dict()


def test_epochs_squeeze_the_schedule():
    given = dict(
        train_cfg=dict(max_epochs=36), param_scheduler=[dict(type='StepLR', milestones=[27])]
    )
    changed = config(**given)
    apply_training_options(changed, options(epochs=12))
    assert changed.train_cfg.max_epochs == 12
    assert changed.param_scheduler[0].milestones == [9]
    with pytest.raises(InputError, match='a config that trains in epochs'):
        apply_training_options(config(train_cfg=dict(max_iters=36)), options(epochs=12))


def test_amp_without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(InputError, match='--amp needs a GPU'):
        apply_training_options(config(), options(amp=True))


def test_amp_with_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    changed = config()
    apply_training_options(changed, options(amp=True))
    assert changed.optim_wrapper.type == 'AmpOptimWrapper'
    assert changed.optim_wrapper.loss_scale == 'dynamic'
    assert changed.optim_wrapper.optimizer.lr == 0.01


@pytest.mark.parametrize('given', [{}, dict(auto_scale_lr=dict(enable=False))])
def test_auto_scale_lr_without_a_base(given):
    with pytest.raises(InputError, match=r'my_config\.py: --auto-scale-lr needs auto_scale_lr='):
        apply_training_options(config(**given), options(auto_scale_lr=True))


def test_auto_scale_lr():
    changed = config(auto_scale_lr=dict(enable=False, base_batch_size=16))
    apply_training_options(changed, options(auto_scale_lr=True))
    assert changed.auto_scale_lr == dict(enable=True, base_batch_size=16)


def test_resume_a_given_checkpoint():
    """It is read when there is a runner to compare it with."""
    changed = config(load_from='a.pth')
    apply_training_options(changed, options(resume='b.pth'))
    assert changed.resume is True and changed.load_from == 'b.pth'


def test_resume_the_last_checkpoint(tmp_path):
    (tmp_path / 'epoch_2.pth').touch()
    changed = config(load_from='a.pth', work_dir=str(tmp_path))
    apply_training_options(changed, options(resume='auto'))
    assert changed.resume is True and changed.load_from == str(tmp_path / 'epoch_2.pth')


def test_nothing_to_resume(tmp_path, capsys):
    changed = config(load_from='a.pth', work_dir=str(tmp_path))
    apply_training_options(changed, options(resume='auto'))
    assert changed.resume is False and changed.load_from == 'a.pth'
    assert 'training starts anew' in capsys.readouterr().out
