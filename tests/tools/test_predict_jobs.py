"""tools/predict.py with formats, in parts, gone on with, and on videos."""

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import tiny_model
import torch
from torch import nn

from mmsolov2.apis import inferencer, load_config
from mmsolov2.apis.prediction_formats import FORMATS
from mmsolov2.registry import MODELS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools' / 'predict.py'
TINY = {**tiny_model.TINY, 'model.backbone.init_cfg': None}
EVERY = [argument for name in FORMATS for argument in ('--format', name)]
FIXED_NAMES = ['counts.csv', 'images.json', 'instances.csv', 'polygons.json', 'predictions.json']


def load_script() -> ModuleType:
    """tools/predict.py as a module."""
    spec = importlib.util.spec_from_file_location('predict_jobs_tool', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_script()


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> str:
    """Random weights, with their config, under which many cells pass the thresholds."""
    torch.manual_seed(0)
    config = load_config('solov2-light_r18_fpn_ms-3x_coco', TINY)
    model = MODELS.build(config.model)
    nn.init.constant_(model.mask_head.conv_cls.bias, 1)
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=config.dump())), path)
    return str(path)


@pytest.fixture(scope='module')
def photos(tmp_path_factory) -> Path:
    """Seven images of two sizes in two folders, and one that is broken."""
    folder = tmp_path_factory.mktemp('data') / 'my photos'
    rng = np.random.default_rng(0)
    for number in range(7):
        path = folder / ('sub' if number % 2 else '.') / f'ä {number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (40, 60) if number < 4 else (60, 40)
        cv2.imwrite(str(path), rng.integers(0, 256, (*size, 3), np.uint8))
    (folder / 'broken.png').write_text('no image')
    return folder


@pytest.fixture
def command(photos, checkpoint, tmp_path) -> list[str]:
    """The start of a command line, which ends with the folder of results."""
    return [str(photos), '--checkpoint', checkpoint, '--device', 'cpu', '--out-dir']


def files(folder: Path, without: tuple[str, ...] = ('parts',)) -> dict[str, bytes]:
    """The contents of all files below a folder, but for those in some."""
    paths = (path for path in folder.rglob('*') if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: path.read_bytes()
        for name, path in sorted(names.items())
        if not name.startswith(without)
    }


@pytest.fixture(scope='module')
def whole(photos, checkpoint, tmp_path_factory) -> Path:
    """What one process writes in all formats, three images at a time."""
    out = tmp_path_factory.mktemp('whole')
    arguments = [str(photos), '--checkpoint', checkpoint, '--device', 'cpu', *EVERY]
    assert tool.main([*arguments, '--batch-size', '3', '--out-dir', str(out)]) == 1
    return out


def test_files_of_every_format(whole):
    stems = [f'ä {number}' if number % 2 == 0 else f'sub/ä {number}' for number in range(7)]
    own = [
        f'{folder}/{stem}{extension}'
        for folder, extension in (
            ('labelme', '.json'), ('masks', '.png'), ('overlays', '.png'), ('yolo/labels', '.txt')
        )
        for stem in stems
    ]  # fmt: skip
    assert sorted(files(whole)) == sorted([*own, *FIXED_NAMES, 'yolo/data.yaml'])
    images = json.loads((whole / 'images.json').read_text())['images']
    assert [image['id'] for image in images] == [2, 3, 4, 5, 6, 7, 8]  # 1 is the broken one
    results = json.loads((whole / 'predictions.json').read_text())
    annotations = json.loads((whole / 'polygons.json').read_text())['annotations']
    assert len(results) == len(annotations) > 7


def test_what_is_said(command, tmp_path, capsys):
    assert tool.main([*command, str(tmp_path)]) == 1
    out, error = capsys.readouterr()
    *_, rate, counts, last = out.splitlines()
    results = json.loads((tmp_path / 'predictions.json').read_text())
    assert rate.startswith('8 images in ') and rate.endswith(' images/s')
    assert counts.startswith('by class: ')
    told = [one.rsplit(' ', 1) for one in counts.removeprefix('by class: ').split(', ')]
    found = [result['category_name'] for result in results]
    assert {name: int(number) for name, number in told} == {n: found.count(n) for n in found}
    assert last == f'7 of 8 images, {len(results)} instances: {tmp_path}'
    assert '1 images could not be read, predicted or drawn' in error


@pytest.mark.parametrize('options', [['--workers', '2'], ['--batch-size', '2'], []])
def test_batches_and_threads_find_the_same(command, whole, tmp_path, options):
    assert tool.main([*command, str(tmp_path), *options]) == 1
    ours, theirs = (
        json.loads((folder / 'predictions.json').read_text()) for folder in (tmp_path, whole)
    )
    assert [one['category_id'] for one in ours] == [one['category_id'] for one in theirs]
    scores = [[one['score'] for one in results] for results in (ours, theirs)]
    np.testing.assert_allclose(*scores, rtol=1e-4)


def test_without_overlays_and_with_one_format(command, tmp_path):
    assert tool.main([*command, str(tmp_path), '--no-overlays', '--format', 'csv']) == 1
    assert list(files(tmp_path)) == ['counts.csv', 'instances.csv']


@pytest.mark.parametrize('total', [2, 5])
def test_parts_joined_are_what_one_process_writes(command, whole, tmp_path, capsys, total):
    arguments = [*command, str(tmp_path), *EVERY, '--batch-size', '3']
    for number in range(total, 0, -1):
        assert tool.main([*arguments, '--shard', f'{number}/{total}']) in (0, 1)
        assert f'part {number} of {total}: when all are done' in capsys.readouterr().out
    assert not any(name in FIXED_NAMES for name in files(tmp_path))
    assert tool.main(['--merge', '--out-dir', str(tmp_path)]) == 1
    assert files(tmp_path) == files(whole)
    assert '7 of 8 images' in capsys.readouterr().out


def test_a_launcher_tells_the_part(command, tmp_path, monkeypatch):
    for name in ('RANK', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('SLURM_PROCID', '1')
    monkeypatch.setenv('SLURM_NTASKS', '2')
    assert tool.main([*command, str(tmp_path), '--shard', 'auto']) == 0
    assert list(files(tmp_path, without=('overlays',))) == ['parts/2-of-2.jsonl']


def test_an_interrupted_run_is_gone_on_with(command, whole, tmp_path, monkeypatch, capsys):
    arguments = [*command, str(tmp_path), *EVERY, '--batch-size', '3']
    calls = []

    def predict_one(model, images, predict=inferencer.predict_batch):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(model, images)

    monkeypatch.setattr(inferencer, 'predict_batch', predict_one)
    assert tool.main(arguments) == 130
    assert '2 of 8 images' in capsys.readouterr().out
    assert tool.main([*arguments, '--resume']) == 1
    assert '2 of 8 images were done before' not in capsys.readouterr().out  # the first has an error
    assert files(tmp_path) == files(whole)
    assert calls == [2, 3, 2, 3, 2]  # the batch with the broken image is done again
    assert tool.main([*arguments, '--resume']) == 1
    assert calls[5:] == [2]


def test_nothing_is_done_twice(command, photos, whole, tmp_path, monkeypatch, capsys):
    good = [str(path) for path in sorted(photos.rglob('ä*.png'))]
    arguments = [*good, *command[1:], str(tmp_path)]
    assert tool.main(arguments) == 0
    before = files(tmp_path, without=())

    def refuse(*args):
        raise AssertionError

    monkeypatch.setattr(inferencer, 'predict_batch', refuse)
    assert tool.main([*arguments, '--resume']) == 0
    assert '7 of 7 images were done before' in capsys.readouterr().out
    assert files(tmp_path, without=()) == before


def test_a_broken_image_that_was_mended_is_done(command, photos, tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    data = (photos / 'ä 0.png').read_bytes()
    for name, content in (('a.png', data), ('b.png', data[:99])):
        (folder / name).write_bytes(content)
    arguments = [str(folder), *command[1:], str(tmp_path / 'out')]
    assert tool.main(arguments) == 1
    (folder / 'b.png').write_bytes(data)
    assert tool.main([*arguments, '--resume']) == 0
    images = json.loads((tmp_path / 'out' / 'images.json').read_text())['images']
    assert [image['file_name'] for image in images] == ['a.png', 'b.png']


def test_a_killed_run_loses_its_last_batch(command, tmp_path, monkeypatch):
    """Nothing is written at the end of a process that the system ends."""
    out = tmp_path / 'out'
    calls = []

    def die_at_the_fourth(model, images, predict=inferencer.predict_batch):
        calls.append(images)
        if len(calls) == 4:
            os._exit(9)
        return predict(model, images)

    if not (child := os.fork()):
        monkeypatch.setattr(inferencer, 'predict_batch', die_at_the_fourth)
        tool.main([*command, str(out)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    part = out / 'parts' / '1-of-1.jsonl'
    assert part.read_bytes().count(b'\n') == 1 + 1 + 3 and not (out / 'predictions.json').exists()
    assert tool.main([*command, str(out), '--resume']) == 1
    assert part.read_bytes().count(b'\n') == 1 + 8 + 1  # that of the broken image twice
    assert len(json.loads((out / 'images.json').read_text())['images']) == 7


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['--score-thr', '0.5'], 'score_thr is 0.3 there, and 0.5 here'),
        (['--batch-size', '2'], 'batch_size is 1 there, and 2 here'),
        (['--cfg-options', 'model.test_cfg.max_per_img=4'], 'the model has other weights'),
    ],
)
def test_another_job_is_not_gone_on_with(command, tmp_path, capsys, options, said):
    assert tool.main([*command, str(tmp_path)]) == 1
    with pytest.raises(SystemExit) as exit_:
        tool.main([*command, str(tmp_path), *options, '--resume'])
    assert exit_.value.code == 2 and said in capsys.readouterr().err


def test_other_images_are_not_gone_on_with(command, photos, tmp_path, capsys):
    assert tool.main([*command, str(tmp_path)]) == 1
    for inputs, said in (
        ([str(photos / 'ä 0.png')], 'images is 8 there, and 1 here'),
        ([f'{photos}/**/ä*.png', f'{photos}/../weights*'], 'there is no such file or folder'),
    ):
        with pytest.raises(SystemExit):
            tool.main([*inputs, *command[1:], str(tmp_path), '--resume'])
        assert said in capsys.readouterr().err


def test_a_run_whose_part_cannot_be_written_ends(command, tmp_path, capsys):
    (tmp_path / 'parts').touch()
    with pytest.raises(SystemExit) as exit_:
        tool.main([*command, str(tmp_path)])
    assert exit_.value.code == 2
    assert f'{tmp_path}/parts/1-of-1.jsonl: it cannot be written' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ([], 'give at least one INPUT and --checkpoint, or --merge'),
        (['photos'], 'give at least one INPUT and --checkpoint, or --merge'),
        (['photos', '--merge'], '--merge: give --out-dir alone'),
        (['--merge', '--shard', '1/2'], '--merge: give --out-dir alone'),
        (['--merge'], 'there are no parts'),
        (['photos', '--checkpoint', 'a.pth', '--shard', 'x'], '--shard x: give a part as 2/8'),
        (['camera:77', '--checkpoint', 'a.pth'], 'camera:77: there is no such camera'),
        (['camera:0', 'b.png', '--checkpoint', 'a.pth'], 'camera:0: a video is predicted alone'),
        (['a.mp4', '--checkpoint', 'a.pth', '--resume'], '--resume is for images'),
        (['a.mp4', '--checkpoint', 'a.pth', '--shard', '1/2'], '--shard is for images'),
        (['a.mp4', '--checkpoint', 'a.pth', '--format', 'labelme'], '--format labelme is for'),
        (['a.mp4', '--checkpoint', 'a.pth'], 'a.mp4: there is no such file'),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit) as exit_:
        tool.main([*arguments, '--out-dir', str(tmp_path)])
    assert exit_.value.code == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(error) == 1 and said in error[0]


def test_files_that_are_no_images_are_counted(command, photos, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmsolov2.apis.inference._warn', said.append)
    folder = tmp_path / 'photos'
    folder.mkdir()
    for name in ('a.png', 'b.heic', 'c.pdf', 'd.pdf'):
        (folder / name).write_bytes((photos / 'ä 0.png').read_bytes())
    assert tool.main([str(folder), *command[1:], str(tmp_path / 'out')]) == 0
    (line,) = said
    assert line.startswith('left out 3 files') and "'.heic': 1" in line and "'.pdf': 2" in line


# Videos


def write_video(path: Path, count: int, rate: float = 7.5) -> Path:
    """A video of noise, some 40 kB a frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), rate, (160, 120))
    if not writer.isOpened():
        pytest.skip('this build of OpenCV writes no such video')
    rng = np.random.default_rng(0)
    for _ in range(count):
        writer.write(rng.integers(0, 256, (120, 160, 3), np.uint8))
    writer.release()
    return path


def test_a_video(command, tmp_path, capsys):
    clip, out = write_video(tmp_path / 'my clip.avi', 6), tmp_path / 'out'
    options = ['--format', 'coco', '--format', 'csv', '--format', 'masks', '--batch-size', '4']
    assert tool.main([str(clip), *command[1:], str(out), *options]) == 0
    video = cv2.VideoCapture(str(out / 'overlay.mp4'))
    assert video.get(cv2.CAP_PROP_FPS) == 7.5 and video.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert video.read()[1].shape == (120, 160, 3)
    images = json.loads((out / 'images.json').read_text())['images']
    assert [image['file_name'] for image in images] == [
        f'my clip.avi/00000{n}' for n in range(1, 7)
    ]
    assert sorted(path.name for path in out.iterdir()) == [
        'counts.csv', 'images.json', 'instances.csv', 'masks', 'overlay.mp4', 'parts',
        'predictions.json',
    ]  # fmt: skip
    assert len(list((out / 'masks').iterdir())) == 6
    assert '6 of 6 images' in capsys.readouterr().out


def test_a_video_that_breaks_off(command, tmp_path, capsys):
    clip, out = write_video(tmp_path / 'clip.avi', 20), tmp_path / 'out'
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    assert tool.main([str(clip), *command[1:], str(out)]) == 1
    count = len(json.loads((out / 'images.json').read_text())['images'])
    assert 2 < count < 20
    assert cv2.VideoCapture(str(out / 'overlay.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == count
    assert f'clip.avi: {count} of its 20 frames can be read: it is cut' in capsys.readouterr().err


def test_an_interrupted_video(command, tmp_path, monkeypatch):
    clip, out = write_video(tmp_path / 'clip.avi', 6), tmp_path / 'out'
    calls = []

    def predict_two(model, images, predict=inferencer.predict_batch):
        calls.append(images)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return predict(model, images)

    monkeypatch.setattr(inferencer, 'predict_batch', predict_two)
    assert tool.main([str(clip), *command[1:], str(out)]) == 130
    assert cv2.VideoCapture(str(out / 'overlay.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == 2
    assert len(json.loads((out / 'images.json').read_text())['images']) == 2
    assert not list(out.glob('*unfinished*'))
