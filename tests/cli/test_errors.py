"""Errors as the tools show them, above all where code of a user's own has failed."""

import argparse
import traceback
from pathlib import Path

import pytest

from mmsolov2.cli.config import open_config
from mmsolov2.cli.errors import error_context, exit_with_message
from mmsolov2.cli.launch import add_common_options, build_loops, build_runner, read_config
from mmsolov2.errors import ForeignError, InputError

HINT = '; MMSOLOV2_TRACEBACK=1 shows the traceback'
PARTS = """
{module}
from mmcv.transforms import BaseTransform
from mmdet.models import ResNet
from mmsolov2.models import MaskFeatureNeck
from mmsolov2.registry import MODELS, TRANSFORMS

@MODELS.register_module(force=True)
class MyNeck(MaskFeatureNeck):
    def __init__(self, **settings):
        {neck}
        super().__init__(**settings)

@MODELS.register_module(force=True)
class MyBackbone(ResNet):
    def __init__(self, **settings):
        super().__init__(**settings)
        {init}

    def forward(self, images):
        {forward}
        return super().forward(images)

@TRANSFORMS.register_module(force=True)
class MyTransform(BaseTransform):
    def transform(self, results):
        {transform}
        return results
"""


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')  # read_config sets it
    monkeypatch.delenv('MMSOLOV2_TRACEBACK', raising=False)


@pytest.fixture
def with_parts(tiny_config, tmp_path, monkeypatch):
    """Write a config with a user's parts, of which one has a line: its path and the module's."""

    def write(where: str, line: str) -> tuple[Path, Path]:
        module = tmp_path / f'parts_{tmp_path.name}.py'  # a name that nothing imported before
        lines = dict.fromkeys(('module', 'neck', 'init', 'forward', 'transform'), 'pass')
        module.write_text(PARTS.format(**{**lines, where: line}))
        config = tmp_path / 'mine.py'
        config.write_text(f"""
_base_ = '{tiny_config}'
custom_imports = dict(imports=['mmsolov2', '{module.stem}'])
model = dict(backbone=dict(type='mmsolov2.MyBackbone'), mask_neck=dict(type='mmsolov2.MyNeck'))
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmsolov2.MyTransform'),
    dict(type='PackDetInputs'),
]))
""")
        return config, module

    monkeypatch.syspath_prepend(tmp_path)
    return write


def printed(capsys, config: Path, *options: str) -> str:
    """What training prints on stderr in the end: a line, or the traceback that Python prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_common_options(parser)
    args = parser.parse_args([str(config), '--work-dir', str(config.parent / 'work'), *options])
    try:
        with exit_with_message(str(config)):
            runner = build_runner(read_config(args))
            build_loops(runner, 'train')
            runner.train()
    except SystemExit:
        return capsys.readouterr().err
    except (RuntimeError, ValueError):
        return traceback.format_exc()
    raise AssertionError('nothing has failed')


@pytest.mark.parametrize(
    ('where', 'line', 'said'), [
        ('module', 'import no_such_module', "; ModuleNotFoundError: No module named 'no_such_modu"),
        ('module', 'import json; json.loads("no")', 'be read: JSONDecodeError: Expecting value: '),
        ('module', 'def broken(:', 'this config cannot be read: SyntaxError: invalid syntax '),
        ('init', 'raise RuntimeError("one,\\n two")', 'RuntimeError: one, two (at raise Runtime'),
        ('init', 'raise ValueError("mine")', ': ValueError: mine (at raise ValueError("mine"), '),
        ('init', 'import json; json.loads("no")', ': JSONDecodeError: Expecting value: '),
        ('neck', 'super().__init__(end_level=-1)', 'ValueError: MaskFeatureNeck: needs 0 <= start'),
    ]
)  # fmt: skip
def test_a_users_part_that_cannot_be_built(with_parts, capsys, where, line, said):
    """Not the library's line that raises, but the last one of the user's own code."""
    config, module = with_parts(where, line)
    number = module.read_text().split('\n').index(line if where == 'module' else f'        {line}')
    *_, text = printed(capsys, config).splitlines()
    assert text.startswith(f'error: {config}: ') and said in text
    assert text.endswith(f' (at {line}, {module}:{number + 1}){HINT}')


@pytest.mark.parametrize(
    ('where', 'options'),
    [
        ('forward', ()),
        ('transform', ()),
        ('transform', ('--cfg-options', 'train_dataloader.num_workers=1')),
    ],
)
@pytest.mark.parametrize('kind', ['RuntimeError', 'ValueError'])
def test_a_users_part_that_fails_in_training(with_parts, capsys, where, options, kind):
    line = f'raise {kind}("mine")'
    config, module = with_parts(where, line)
    text = printed(capsys, config, *options)
    assert f'File "{module}", line ' in text and line in text
    assert f'{kind}: mine\n' in text


def test_the_way_to_a_users_part(with_parts, capsys, monkeypatch):
    monkeypatch.setenv('MMSOLOV2_TRACEBACK', '1')
    config, module = with_parts('init', 'raise RuntimeError("mine")')
    text = printed(capsys, config)
    assert f'  File "{module}", line ' in text and '\nRuntimeError: mine\n' in text
    last = text.splitlines()[-1]
    assert last.startswith(f'error: {config}: RuntimeError: mine (at ') and HINT not in text


@pytest.mark.parametrize(('value', 'shown'), [('1', True), ('0', False), (None, False)])
def test_the_traceback_behind_a_line(tmp_path, monkeypatch, capsys, value, shown):
    if value is not None:
        monkeypatch.setenv('MMSOLOV2_TRACEBACK', value)
    path = tmp_path / 'my_config.py'
    path.write_text('model = dict(depth=len(5))')
    with pytest.raises(SystemExit) as caught, exit_with_message(str(path)):
        open_config(path)
    assert caught.value.code == 2
    *before, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f'error: {path}: this config cannot be read: TypeError: ')
    assert ("TypeError: object of type 'int' has no len()" in before) == shown
    assert bool(before) == shown


def test_what_this_package_refuses_has_no_place_and_no_hint(tiny_config, capsys):
    text = printed(capsys, tiny_config, '--cfg-options', 'model.mask_head.kernel_size=2')
    *_, line = text.splitlines()
    assert 'kernel_size must be odd' in line and '(at ' not in line and HINT not in line


def test_the_cause_is_kept():
    with pytest.raises(ForeignError) as caught, error_context('my_config.py'):
        raise KeyError('nothing')
    assert isinstance(caught.value.__cause__, KeyError)
    assert str(caught.value).startswith('my_config.py: KeyError: nothing (at raise KeyError')


def test_message_of_a_wrong_input(capsys):
    with pytest.raises(SystemExit) as stop, exit_with_message('my_config.py'):
        raise InputError('a.jpg: this image cannot be decoded')
    assert stop.value.code == 2
    assert capsys.readouterr().err == 'error: a.jpg: this image cannot be decoded\n'


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), exit_with_message('my_config.py'):
        raise ZeroDivisionError
    with exit_with_message('my_config.py'):
        pass
