"""Training, evaluation, resuming and several processes, through the tools."""

import json
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmsolov2.fileio import latest_checkpoint

ROOT = Path(__file__).parents[2]
WORKERS = ['train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True']


def losses(log: str) -> dict[tuple[int, int], float]:
    """The loss of every logged (epoch, iteration)."""
    found = re.findall(r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/\d+\].* loss: ([\d.]+)', log)
    return {(int(epoch), int(step)): float(loss) for epoch, step, loss in found}


def figures(log: str) -> dict[str, float]:
    """The COCO figures that a log ends with."""
    return {name: float(value) for name, value in re.findall(r'(coco/\w+): (-?[\d.]+)', log)}


@pytest.fixture(scope='module')
def trained(tiny_config, run_python, tmp_path_factory):
    """A whole run of three epochs: its log and its work folder."""
    work_dir = tmp_path_factory.mktemp('trained')
    result = run_python(
        'tools/train.py', tiny_config, '--work-dir', work_dir, '--cfg-options', *WORKERS
    )
    return result.stdout + result.stderr, work_dir


def test_training_shows_progress_and_time_left_and_evaluates_masks_and_boxes(trained):
    log, work_dir = trained
    assert len(losses(log)) == 12
    assert ' eta: ' in log
    assert {'coco/segm_mAP', 'coco/bbox_mAP'} <= figures(log).keys()
    assert (work_dir / 'last_checkpoint').read_text().endswith('epoch_3.pth')


def test_a_killed_run_leaves_a_whole_checkpoint_and_goes_on_with_the_same_losses(
    trained, tiny_config, run_python, tmp_path
):
    command = ['tools/train.py', str(tiny_config), '--work-dir', str(tmp_path)]
    options = ['--cfg-options', *WORKERS]
    process = subprocess.Popen(
        [sys.executable, *command, *options],
        cwd=ROOT,
        env={'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PATH': '/usr/bin:/bin'},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (tmp_path / 'last_checkpoint').exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (tmp_path / 'last_checkpoint').write_text('')  # the worst moment: mmengine is about to write it
    epoch = torch.load(latest_checkpoint(tmp_path), weights_only=True)['meta']['epoch']
    assert epoch < 3
    resumed = run_python(*command, '--resume', *options)
    expected = {step: loss for step, loss in losses(trained[0]).items() if step[0] > epoch}
    assert losses(resumed.stdout + resumed.stderr) == expected


def test_resuming_without_a_checkpoint_starts_from_load_from(
    trained, tiny_config, run_python, tmp_path
):
    result = run_python(
        'tools/train.py',
        tiny_config,
        '--work-dir',
        tmp_path,
        '--resume',
        '--cfg-options',
        f'load_from={trained[1] / "epoch_3.pth"}',
        'train_cfg.max_epochs=1',
    )
    log = result.stdout + result.stderr
    assert f'{tmp_path} has no checkpoint yet: training starts anew' in log
    assert len(losses(log)) == 4 and losses(log)[1, 1] < losses(trained[0])[1, 1]


def with_a_sixth_class(shapes: Path, folder: Path) -> list[str]:
    """Options of a run on the same images, in whose files there is one more category."""
    for part in ('train', 'val'):
        content = json.loads((shapes / f'annotations/{part}.json').read_text())
        content['categories'].append(dict(id=6, name='moon'))
        (folder / f'{part}.json').write_text(json.dumps(content))
    classes = [category['name'] for category in content['categories']]
    return [
        'model.mask_head.num_classes=6',
        f'train_dataloader.dataset.metainfo.classes={classes}',
        f'val_dataloader.dataset.metainfo.classes={classes}',
        f'train_dataloader.dataset.ann_file={folder}/train.json',
        f'val_dataloader.dataset.ann_file={folder}/val.json',
        f'val_evaluator.ann_file={folder}/val.json',
    ]


def test_resuming_with_another_class_is_one_line(
    trained, tiny_config, tiny_shapes, run_python, tmp_path
):
    options = with_a_sixth_class(tiny_shapes, tmp_path)
    command = ['tools/train.py', tiny_config, '--work-dir', tmp_path / 'work']
    checkpoint = trained[1] / 'epoch_3.pth'
    result = run_python(*command, '--resume', checkpoint, '--cfg-options', *options, check=False)
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    assert result.stderr.splitlines()[-1] == (
        f'error: {checkpoint}: its training had 5 classes (circle, square, triangle, star, ring), '
        'this config has 6 (circle, square, triangle, star, ring, moon): leave --resume '
        f'out, and start from the weights with --cfg-options load_from={checkpoint}'
    )
    options += [f'load_from={checkpoint}', 'train_cfg.max_epochs=1']
    assert len(losses(run_python(*command, '--cfg-options', *options).stdout)) == 4


def test_resuming_weights_alone_is_one_line(trained, tiny_config, run_python, tmp_path):
    content = torch.load(trained[1] / 'epoch_3.pth', weights_only=True)
    file = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=content['state_dict']), file)
    command = ['tools/train.py', tiny_config, '--work-dir', tmp_path / 'work', '--resume', file]
    result = run_python(*command, check=False)
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    assert result.stderr.splitlines()[-1] == (
        f'error: {file}: it holds weights alone, no training to go on with: leave --resume out, '
        f'and start from the weights with --cfg-options load_from={file}'
    )
    assert not losses(result.stdout + result.stderr)


def test_weights_that_are_not_finite_are_one_line(trained, tiny_config, run_python, tmp_path):
    content = torch.load(trained[1] / 'epoch_3.pth', weights_only=True)
    content['state_dict']['neck.fpn_convs.0.conv.bias'][0] = float('nan')
    file = tmp_path / 'nan.pth'
    torch.save(content, file)
    runs = [
        run_python('tools/test.py', tiny_config, file, '--work-dir', tmp_path, check=False),
        run_python(
            'tools/train.py', tiny_config, '--work-dir', tmp_path, '--resume', file, check=False
        ),
    ]
    for result in runs:
        assert result.returncode == 2 and 'Traceback' not in result.stderr
        assert result.stderr.splitlines()[-1].startswith(
            f'error: {file}: 1 of its entries hold NaN or infinite values, neck.fpn_convs.0.conv'
        )


def test_training_needs_no_boxes(tiny_config, run_python, tmp_path):
    result = run_python(
        'tools/train.py',
        tiny_config,
        '--work-dir',
        tmp_path,
        '--cfg-options',
        'train_dataloader.dataset.pipeline.2.with_bbox=False',
        'train_cfg.max_epochs=1',
    )
    log = result.stdout + result.stderr
    assert len(losses(log)) == 4 and (tmp_path / 'epoch_1.pth').is_file()


def test_one_and_two_processes_give_the_same_figures(
    trained, tiny_config, run_python, tmp_path, dist_environment
):
    checkpoint = trained[1] / 'epoch_3.pth'
    out = tmp_path / 'predictions.pkl'
    one = run_python('tools/test.py', tiny_config, checkpoint, '--work-dir', tmp_path, '--out', out)
    two = subprocess.run(
        ['tools/dist_test.sh', tiny_config, checkpoint, '2', '--work-dir', tmp_path / 'two'],
        cwd=ROOT,
        env=dist_environment,
        capture_output=True,
        text=True,
    )
    assert two.returncode == 0, two.stderr[-3000:]
    ours = figures(one.stdout + one.stderr)
    assert ours['coco/segm_mAP_50'] > 0
    assert figures(two.stdout + two.stderr) == ours
    predictions = pickle.loads(out.read_bytes())
    assert len(predictions) == 6
    assert all('gt_instances' not in sample for sample in predictions)
    assert all(isinstance(m, dict) for m in predictions[0]['pred_instances']['masks'])


def test_rle_and_the_faster_evaluator_give_the_same_figures(
    trained, tiny_config, run_python, tmp_path
):
    command = ['tools/test.py', tiny_config, trained[1] / 'epoch_3.pth', '--work-dir', tmp_path]
    options = ['model.test_cfg.mask_format=rle', 'test_evaluator.backend=faster']
    logs = [run_python(*command), run_python(*command, '--cfg-options', *options)]
    bitmaps, rle = [figures(log.stdout + log.stderr) for log in logs]
    assert rle == bitmaps and rle['coco/segm_mAP_50'] > 0


@pytest.fixture
def dist_environment(free_port) -> dict[str, str]:
    folder = str(Path(sys.executable).parent)
    return dict(PATH=f'{folder}:/usr/bin:/bin', PORT=free_port, OMP_NUM_THREADS='1')


def test_two_processes_train_also_without_instances(
    tiny_config, tiny_shapes, tmp_path, dist_environment
):
    """Images without instances in one process or in both must not stop the gradients' sum."""
    annotations = json.loads((tiny_shapes / 'annotations/train.json').read_text())
    nobody = {image['id'] for image in annotations['images'][:5]}
    kept = [one for one in annotations['annotations'] if one['image_id'] not in nobody]
    file = tmp_path / 'few.json'
    file.write_text(json.dumps({**annotations, 'annotations': kept}))
    result = subprocess.run(
        [
            'tools/dist_train.sh', tiny_config, '2', '--work-dir', tmp_path, '--auto-scale-lr',
            '--cfg-options', f'train_dataloader.dataset.ann_file={file}',
            'train_cfg.max_epochs=1', 'train_dataloader.batch_size=1'
        ],
        cwd=ROOT,
        env=dist_environment,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    log = result.stdout + result.stderr
    assert len(losses(log)) == 4
    assert 'Distributed training: True' in log
    assert (tmp_path / 'epoch_1.pth').exists()


@pytest.mark.parametrize(
    ('tool', 'option', 'message'),
    [
        ('train', 'model.mask_head.num_classes=7', 'num_classes is 7, but the dataset'),
        ('test', 'model.backbone.depth=34', 'the checkpoint is of another model'),
        (
            'test',
            'model.mask_head.position_terms=bias',
            "position_terms=None, the model 'bias': to train on",
        ),
        ('test', 'test_evaluator.backend=fast', "('pycocotools', 'faster', 'hotcoco'), not 'fast'"),
        ('train', 'val_evaluator.backend=fast', "('pycocotools', 'faster', 'hotcoco'), not 'fast'"),
    ],
)
def test_a_wrong_config_is_one_line(
    trained, tiny_config, run_python, tmp_path, tool, option, message
):
    checkpoint = [trained[1] / 'epoch_3.pth'] if tool == 'test' else []
    options = ['--work-dir', tmp_path, '--cfg-options', option]
    result = run_python(f'tools/{tool}.py', tiny_config, *checkpoint, *options, check=False)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert 'Traceback' not in result.stderr


def test_an_unreadable_image_is_one_line(tiny_config, tiny_shapes, run_python, tmp_path):
    images = json.loads((tiny_shapes / 'annotations/train.json').read_text())
    images['images'][3]['file_name'] = 'gone.png'
    file = tmp_path / 'gone.json'
    file.write_text(json.dumps(images))
    options = [f'train_dataloader.dataset.ann_file={file}', 'train_dataloader.num_workers=1']
    command = ['tools/train.py', tiny_config, '--work-dir', tmp_path, '--cfg-options', *options]
    result = run_python(*command, check=False)
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith('error: ') and 'gone.png: there is no such image' in last


SPOIL = """
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Spoil(Hook):

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 9 // get_world_size() and get_rank() == get_world_size() - 1:
            next(runner.model.parameters()).data.fill_(torch.nan)
"""


@pytest.mark.parametrize('processes', [1, 2])
def test_a_diverged_training_is_one_line_and_keeps_its_checkpoints(
    tiny_config, dist_environment, tmp_path, processes
):
    """Also if it begins in one process: all stop, and none waits for the others."""
    (tmp_path / 'spoil.py').write_text(SPOIL)
    config = tmp_path / 'spoiled.py'
    config.write_text(
        f"_base_ = '{tiny_config}'\ncustom_imports = dict(imports=['mmsolov2', 'spoil'])\n"
        "custom_hooks = [dict(type='Spoil')]\n"
        'default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))\n'
    )
    launch = [sys.executable, 'tools/train.py'] if processes == 1 else ['tools/dist_train.sh']
    result = subprocess.run(
        [
            *launch, config, *(['2'] if processes == 2 else []), '--work-dir', tmp_path
        ],
        cwd=ROOT,
        env={**dist_environment, 'PYTHONPATH': f'{ROOT}:{tmp_path}'},
        capture_output=True,
        text=True,
    )  # fmt: skip
    lines = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert result.returncode == (2 if processes == 1 else 1)
    assert 1 <= len(lines) <= processes  # torchrun may end the others before they speak
    assert all('training has diverged: ' in line for line in lines)
    assert f'last checkpoint before: {tmp_path}/epoch_2.pth' in lines[0]
    (path,) = tmp_path.glob('*.pth')
    weights = torch.load(path, weights_only=False)['state_dict']
    assert path.name == 'epoch_2.pth' and all(value.isfinite().all() for value in weights.values())
