"""The files that tools/convert_checkpoint.py reads, writes and refuses."""

import importlib.util
import os
import pickle
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mmsolov2.apis import load_detector

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools' / 'convert_checkpoint.py'
CONFIG = 'solov2/solov2-light_r18_fpn_ms-3x_coco.py'


def load(path: Path) -> ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load(SCRIPT)
layouts = load(ROOT / 'tests' / 'converters' / 'layouts.py')


@pytest.fixture(scope='module')
def original(tmp_path_factory) -> Path:
    """A light R18 in the layout of WXinlong/SOLO."""
    path = tmp_path_factory.mktemp('original') / 'SOLOv2_LIGHT_448_R18_3x.pth'
    classes = [f'thing {number}' for number in range(80)]
    meta = dict(mmdet_version='1.0.0', CLASSES=classes)
    torch.save(dict(meta=meta, state_dict=layouts.with_values('original', 'light r18')), path)
    return path


def fails(capsys, *arguments) -> str:
    """The one line on stderr when the command fails."""
    with pytest.raises(SystemExit) as caught:
        tool.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert caught.value.code == 2 and printed.out == ''
    assert printed.err.startswith('error: ') and printed.err.count('\n') == 1
    return printed.err


def test_converts_a_file(original, tmp_path, run_python):
    before, out = original.read_bytes(), tmp_path / 'new' / 'folder' / 'out.pth'
    lines = run_python(SCRIPT, original, out).stdout.splitlines()
    assert lines[0] == 'format: WXinlong/SOLO'
    assert lines[-2:] == [f'config: {CONFIG}', f'written: {out}']
    assert original.read_bytes() == before
    assert os.listdir(out.parent) == ['out.pth']

    meta = torch.load(out, weights_only=True)['meta']
    assert meta['source_format'] == 'WXinlong/SOLO' and meta['color_order'] == 'RGB'
    assert meta['config'] == CONFIG and meta['backbone_style'] == 'pytorch'
    model = load_detector(CONFIG, out, device='cpu')
    assert model.dataset_meta['classes'][:2] == ('thing 0', 'thing 1')
    weight = torch.load(original, weights_only=True)['state_dict']['bbox_head.solo_cate.weight']
    assert torch.equal(model.mask_head.conv_cls.weight, weight)


def test_prints_a_config_where_none_is_shipped(tmp_path, capsys):
    model = layouts.Model(18, 256, 2, 128, num_classes=3)
    source, out, config = tmp_path / 'in.pth', tmp_path / 'out.pth', tmp_path / 'own.py'
    torch.save(dict(model=layouts.with_values('adelaidet', model)), source)
    assert tool.main([str(source), str(out)]) == 0
    printed = capsys.readouterr().out
    assert 'input: BGR, mean [103.53, 116.28, 123.675], std [1.0, 1.0, 1.0]; ' in printed
    assert "backbone style 'caffe'" in printed
    config.write_text(printed[printed.index('_base_') : printed.index('written:')])
    detector = load_detector(config, out, device='cpu')
    assert detector.data_preprocessor.mean.flatten().tolist() == pytest.approx(
        [103.53, 116.28, 123.675]
    )
    assert not detector.data_preprocessor._channel_conversion
    assert detector.backbone.style == 'caffe' and detector.mask_head.num_classes == 3


def test_result_is_not_converted_again(original, tmp_path, capsys):
    out = tmp_path / 'out.pth'
    tool.main([str(original), str(out)])
    capsys.readouterr()
    text = fails(capsys, out, tmp_path / 'again.pth')
    assert f'{out}: this is a checkpoint of mmsolov2 already' in text


# What is there already


@pytest.mark.parametrize('link', [False, True])
@pytest.mark.parametrize('options', [[], ['--force']])
def test_the_input_is_never_replaced(original, tmp_path, capsys, link, options):
    out = tmp_path / 'link.pth' if link else original.parent / '.' / original.name
    if link:
        out.symlink_to(original)
    before = original.read_bytes()
    assert 'OUT is IN itself' in fails(capsys, original, out, *options)
    assert original.read_bytes() == before


def test_a_file_is_replaced_by_force_alone(original, tmp_path, capsys):
    out = tmp_path / 'out.pth'
    out.write_text('mine')
    assert f'{out}: this is there already; give another OUT, or --force' in fails(
        capsys, original, out
    )
    assert out.read_text() == 'mine'
    assert tool.main([str(original), str(out), '--force']) == 0
    assert 'mask_neck.conv_pred.conv.weight' in torch.load(out, weights_only=True)['state_dict']


@pytest.mark.parametrize('options', [[], ['--force']])
def test_a_folder_is_never_replaced(original, tmp_path, capsys, options):
    assert 'there already; give a file' in fails(capsys, original, tmp_path, *options)


def test_a_file_that_may_not_be_read(original, tmp_path, capsys, monkeypatch):

    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr('pathlib.Path.open', refuse)
    monkeypatch.setattr(torch, 'load', refuse)
    text = fails(capsys, original, tmp_path / 'out.pth')
    assert f'{original}: it cannot be read: Permission denied' in text


def test_a_failed_write_leaves_the_old_file(original, tmp_path, capsys, monkeypatch):
    out = tmp_path / 'out.pth'
    out.write_text('mine')

    def replace(*paths):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', replace)
    text = fails(capsys, original, out, '--force')
    assert f'{out}: it cannot be written (No space left on device)' in text
    assert os.listdir(tmp_path) == ['out.pth'] and out.read_text() == 'mine'


def test_a_folder_that_cannot_be_made(original, tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert 'it cannot be written' in fails(capsys, original, tmp_path / 'file' / 'out.pth')


# What cannot be read


def refused(capsys, source: Path) -> str:
    """Why a file is refused; nothing is written."""
    out = source.parent / 'out.pth'
    text = fails(capsys, source, out)
    assert text.startswith(f'error: {source}: ') and not out.exists()
    return text


def test_another_model(tmp_path, capsys):
    source = tmp_path / 'in.pth'
    names = ['backbone.conv1.weight', 'rpn_head.rpn_cls.weight', 'roi_head.mask_head.x.weight']
    torch.save(dict(state_dict=dict.fromkeys(names, torch.zeros(1))), source)
    assert 'this is a two-stage model of MMDetection, as Mask R-CNN' in refused(capsys, source)


def test_half_converted(original, tmp_path, capsys):
    state_dict = torch.load(original, weights_only=True)['state_dict']
    moved = {key.replace('mask_feat_head', 'mask_neck'): value for key, value in state_dict.items()}
    torch.save(dict(state_dict=moved), tmp_path / 'in.pth')
    assert 'half converted' in refused(capsys, tmp_path / 'in.pth')


def test_missing_and_truncated(original, tmp_path, capsys):
    assert 'there is no such checkpoint' in refused(capsys, tmp_path / 'none.pth')
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(original.read_bytes()[:100000])
    assert 'truncated or damaged' in refused(capsys, cut)


class Intruder:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize('name', ['R-50.pkl', 'R-50.pth'])
@pytest.mark.parametrize('protocol', [2, 4])
def test_pickles_are_not_run(tmp_path, capsys, name, protocol):
    source, proof = tmp_path / name, tmp_path / 'proof'
    source.write_bytes(pickle.dumps(dict(model=Intruder(proof)), protocol))
    text = refused(capsys, source)
    assert 'reading one can run any code' in text and 'published as .pth' in text
    assert not proof.exists()


@pytest.mark.parametrize('zipped', [True, False])
def test_torch_files_of_any_name(tmp_path, capsys, zipped):
    source = tmp_path / 'model_final.pkl'
    state_dict = layouts.with_values('mmdet', 'light r18')
    torch.save(dict(model=state_dict), source, _use_new_zipfile_serialization=zipped)
    assert tool.main([str(source), str(tmp_path / 'out.pth')]) == 0
    assert 'format: MMDetection' in capsys.readouterr().out


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    source, proof = tmp_path / 'in.pth', tmp_path / 'proof'
    torch.save(dict(model=Intruder(proof)), source)
    assert 'could run code' in refused(capsys, source)
    assert not proof.exists()
