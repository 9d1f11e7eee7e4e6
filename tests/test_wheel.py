"""The built wheel in an environment of its own, away from the checkout: what mim and users do."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SWIN = """dict(
        _delete_=True, type='SwinTransformer', embed_dims=96, depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24], window_size=7, out_indices=(0, 1, 2, 3)
    )"""
REGNET = """dict(
        _delete_=True, type='RegNet', arch='regnetx_400mf', out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN'), norm_eval=True, style='pytorch'
    )"""
BACKBONES = {
    'ResNet-18': ('dict(depth=18, init_cfg=None)', '[64, 128, 256, 512]'),
    'RegNet': (REGNET, '[32, 64, 160, 384]'),
    'Swin-T': (SWIN, '[96, 192, 384, 768]'),
}
INHERIT = """
_base_ = 'mmsolov2::solov2/solov2_r50_fpn_1x_coco.py'
model = dict(backbone={backbone}, neck=dict(in_channels={channels}))
"""
USE = """
import sys
import mmsolov2
assert 'site-packages' in mmsolov2.__file__, mmsolov2.__file__
from mmdet.apis import DetInferencer, inference_detector, init_detector
config, checkpoint, image, *inherited = sys.argv[1:]
found = DetInferencer(config, checkpoint, device='cpu', show_progress=False)(image)
assert len(found['predictions'][0]['masks']) == len(found['predictions'][0]['bboxes']) > 0
model = init_detector(config, checkpoint, device='cpu')
sample = inference_detector(model, image)
assert sample.pred_instances.masks.shape[1:] == sample.ori_shape
import torch
from mmengine.config import Config
for path in inherited:
    model = init_detector(Config.fromfile(path), device='cpu')
    logits, kernels, features = model(torch.zeros(1, 3, 64, 64))
    assert features.shape == (1, 256, 16, 16)
from mmengine.hub import get_model
assert get_model('mmsolov2::shapes/solov2-light_r18_fpn_shapes.py').mask_head.num_classes == 5
print('used', len(inherited))
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)  # a source archive, and from it
    (path,) = folder.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    """A Python that has this one's packages, and mmsolov2 from the wheel alone."""
    folder = tmp_path_factory.mktemp('clean')
    venv.create(folder, with_pip=False)
    interpreter = folder / 'bin' / 'python'
    site = sysconfig.get_path('purelib', 'venv', {'base': str(folder)})
    (Path(site) / 'parent.pth').write_text(sysconfig.get_path('purelib'))
    install = ['-m', 'pip', '--python', interpreter, 'install', '--no-deps', '--quiet']
    subprocess.run([sys.executable, *install, '--force-reinstall', wheel], check=True)
    return interpreter


@pytest.fixture(scope='module')
def run(python, tmp_path_factory):
    """Runs that Python in an empty folder; ``run.folder`` is it."""
    folder = tmp_path_factory.mktemp('elsewhere')

    def run_there(*arguments):
        environment = {
            **os.environ,
            'OMP_NUM_THREADS': '1',
            'PATH': f'{python.parent}:/usr/bin:/bin',
        }
        environment.pop('PYTHONPATH', None)
        result = subprocess.run(
            [python, *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
        return result.stdout + result.stderr

    run_there.folder = folder
    return run_there


@pytest.fixture(scope='module')
def config(tiny_config, run):
    """A user's config, which inherits one of the wheel."""
    text = tiny_config.read_text().replace(
        str(ROOT / 'configs/shapes/solov2-light_r18_fpn_shapes.py'),
        'mmsolov2::shapes/solov2-light_r18_fpn_shapes.py',
    )
    path = run.folder / 'mine.py'
    path.write_text(text + 'train_cfg = dict(max_epochs=1, val_interval=1)\n')
    return path


MIM = ('-c', 'from mim.__main__ import cli; cli()')


@pytest.fixture(scope='module')
def checkpoint(config, run):
    """What ``mim train`` leaves."""
    run(*MIM, 'train', 'mmsolov2', config, '--gpus', 0, '--work-dir', 'work')
    return run.folder / 'work' / 'epoch_1.pth'


def test_the_wheel_carries_configs_tools_and_the_index(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ['git', 'ls-files', 'configs', 'tools', 'model-index.yml'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert len(tracked) > 20
    assert {f'mmsolov2/.mim/{name}' for name in tracked} <= names
    assert {'mmsolov2/report/page.css', 'mmsolov2/report/page.js'} <= names
    assert not [name for name in names if name.endswith('.pyc')]


def test_mim_trains_tests_and_predicts(config, checkpoint, run, tiny_shapes):
    assert checkpoint.exists()
    log = run(*MIM, 'test', 'mmsolov2', config, '--checkpoint', checkpoint, '--gpus', 0)
    assert 'coco/segm_mAP' in log
    images = tiny_shapes / 'val'
    run(
        *MIM, 'run', 'mmsolov2', 'predict', images, '--config', config, '--checkpoint', checkpoint,
        '--out-dir', 'seen', '--score-thr', 0
    )  # fmt: skip
    assert len(list((run.folder / 'seen/overlays').glob('*.png'))) == 6


@pytest.mark.parametrize(
    'tool',
    [
        'convert_checkpoint',
        'reproduce_ablations',
        'browse_targets',
        'model_costs',
        'benchmark',
        'report',
    ],
)
def test_every_tool_starts_from_the_wheel(tool, run):
    """What ``mim run`` calls; its own -h hides the tool's."""
    start = (
        "import sys, mmsolov2, runpy; sys.path[0] = mmsolov2.__path__[0] + '/.mim/tools'; "
        "sys.argv[0] = sys.path[0] + '/{}.py'; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    assert f'usage: {tool}.py' in run('-c', start.format(tool), '--help')


def test_mim_finds_a_shipped_config_by_its_name(run, tiny_shapes):
    overrides = [f'train_dataloader.dataset.ann_file={tiny_shapes}/none.json']
    arguments = ['solov2-light_r18_fpn_shapes.py', '--gpus', 0, '--cfg-options', *overrides]
    command = [*MIM, 'train', 'mmsolov2', *arguments]
    with pytest.raises(AssertionError, match='there is no such annotation file'):
        run(*command)


def test_mim_finds_the_addresses_of_the_weights(run):
    """What ``mim download`` looks up before it goes to the network."""
    look_up = (
        "from mim.commands.search import get_model_info; print(get_model_info('mmsolov2', "
        "shown_fields=['weight', 'config'], to_dict=True)['solov2_r50_fpn_1x_coco']['weight'])"
    )
    assert 'https://download.openmmlab.com/mmdetection/v2.0/solov2/' in run('-c', look_up)


def test_the_stack_uses_our_configs_and_users_inherit_them(config, checkpoint, run, tiny_shapes):
    inherited = []
    for name, (backbone, channels) in BACKBONES.items():
        inherited.append(run.folder / f'{name}.py')
        inherited[-1].write_text(INHERIT.format(backbone=backbone, channels=channels))
    image = tiny_shapes / 'val' / '000001.png'
    assert 'used 3' in run('-c', USE, config, checkpoint, image, *inherited)
