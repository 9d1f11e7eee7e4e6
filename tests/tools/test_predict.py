"""The files that tools/predict.py writes, and what it does when something goes wrong."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_model import TINY
from torch import nn

from mmsolov2.apis import inferencer, load_config, prediction_files
from mmsolov2.errors import InputError
from mmsolov2.evaluation import CocoInstanceMetric
from mmsolov2.registry import MODELS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools' / 'predict.py'
CONFIG = 'solov2-light_r18_fpn_ms-3x_coco'
OPTIONS = [f'{key}={value}'.replace(' ', '') for key, value in TINY.items()]


def load_script() -> ModuleType:
    """tools/predict.py as a module."""
    spec = importlib.util.spec_from_file_location('predict_tool', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_script()


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    """Random weights under which many cells pass the thresholds."""
    torch.manual_seed(0)
    model = MODELS.build(load_config(CONFIG, TINY).model)
    nn.init.constant_(model.mask_head.conv_cls.bias, 1)
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of three images; two share their stem and lie in different folders."""
    folder = tmp_path / 'photos'
    rng = np.random.default_rng(0)
    for name in ('a.png', 'sub/a.png', 'sub/b.jpg'):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (40, 60, 3), np.uint8))
    return folder


@pytest.fixture
def command(photos, checkpoint, tmp_path) -> list[str]:
    fixed = ['--config', CONFIG, '--checkpoint', str(checkpoint), '--device', 'cpu']
    return [str(photos), *fixed, '--out-dir', str(tmp_path / 'out'), '--cfg-options', *OPTIONS]


def read(path: Path):
    return json.loads(path.read_text())


def overlays(out: Path) -> list[str]:
    return sorted(p.relative_to(out).as_posix() for p in (out / 'overlays').rglob('*.png'))


def test_files_of_a_folder_with_a_broken_image(command, photos, tmp_path):
    (photos / 'broken.jpg').write_text('not an image')
    (photos / 'notes.txt').touch()
    out = tmp_path / 'out'
    run = subprocess.run(
        [sys.executable, SCRIPT, *command], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 1, run.stderr
    assert f'error: {photos}/broken.jpg: this is no image' in run.stderr
    assert "left out 1 files whose extension is no image's: {'.txt': 1}" in run.stdout
    assert '1 images could not be read' in run.stderr and 'Traceback' not in run.stderr

    assert overlays(out) == ['overlays/a.png', 'overlays/sub/a.png', 'overlays/sub/b.png']
    assert cv2.imread(str(out / 'overlays/sub/b.png')).shape == (40, 60, 3)
    images, results = read(out / 'images.json'), read(out / 'predictions.json')
    assert images['info']['folder'] == str(photos)
    names = {image['id']: image['file_name'] for image in images['images']}
    assert names == {1: 'a.png', 3: 'sub/a.png', 4: 'sub/b.jpg'}  # 2 is the broken one
    assert all(names[result['image_id']] == result['file_name'] for result in results)
    assert {result['image_id'] for result in results} == set(names)
    assert run.stdout.splitlines()[-1] == f'3 of 4 images, {len(results)} instances: {out}'

    coco = COCO(str(out / 'images.json')).loadRes(str(out / 'predictions.json'))
    annotation = coco.loadAnns(coco.getAnnIds(imgIds=4))[0]
    assert coco.annToMask(annotation).shape == (40, 60)
    assert coco.loadCats(annotation['category_id'])[0]['name'] == annotation['category_name']
    assert not list(out.rglob('*.unfinished'))


def found_in(image: np.ndarray) -> DetDataSample:
    """A wrong frame of one pixel around a (40, 60) image, and, less sure, a right square."""
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, [0, -1]] = masks[0, :, [0, -1]] = masks[1, :36, :36] = True
    instances = InstanceData(
        scores=torch.tensor([0.9, 0.8]),
        labels=torch.tensor([0, 0]),
        bboxes=torch.tensor([[0.0, 0, 60, 40], [0, 0, 36, 36]]),
        masks=masks,
    )
    return DetDataSample(pred_instances=instances, ori_shape=(40, 60))


def average_precision(truth: COCO, predictions: COCO) -> dict[str, float]:
    """pycocotools' AP of masks of all sizes, and of 32 to 96 pixels squared."""
    evaluation = COCOeval(truth, predictions, 'segm')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {'coco/segm_mAP': evaluation.stats[0], 'coco/segm_mAP_m': evaluation.stats[4]}


def test_figures_by_size_are_those_of_the_evaluation(command, photos, tmp_path, monkeypatch):
    """The frame is small, 196 pixels, but its box is not."""
    monkeypatch.setattr(inferencer, 'predict_batch', lambda model, images: [found_in(images[0])])
    assert tool.main(command) == 0
    out = tmp_path / 'out'
    about, results = read(out / 'images.json'), read(out / 'predictions.json')
    squares = [
        {**result, 'id': id_, 'iscrowd': 0, 'area': 36 * 36}
        for id_, result in enumerate(results[1::2], 1)
    ]
    (out / 'truth.json').write_text(json.dumps({**about, 'annotations': squares}))

    metric = CocoInstanceMetric(ann_file=str(out / 'truth.json'), metric='segm')
    metric.dataset_meta = dict(classes=[category['name'] for category in about['categories']])
    for image in about['images']:
        sample = found_in(photos).to_dict()
        metric.process({}, [dict(sample, img_id=image['id'], ori_shape=(40, 60))])
    evaluated = metric.evaluate(3)

    truth = COCO(str(out / 'truth.json'))
    of_masks = truth.loadRes([{key: r[key] for key in r if key != 'bbox'} for r in results])
    expected = {'coco/segm_mAP': 0.5, 'coco/segm_mAP_m': 1.0}
    assert {name: evaluated[name] for name in expected} == expected
    assert average_precision(truth, of_masks) == pytest.approx(expected)
    of_boxes = truth.loadRes(str(out / 'predictions.json'))
    assert average_precision(truth, of_boxes)['coco/segm_mAP_m'] == pytest.approx(0.5)


def test_an_interrupted_run_keeps_what_was_done(command, tmp_path, monkeypatch, capsys):
    calls = []

    def predict_two(model, images, predict=inferencer.predict_batch):
        calls.append(images)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return predict(model, images)

    monkeypatch.setattr(inferencer, 'predict_batch', predict_two)
    assert tool.main(command) == 130
    out = tmp_path / 'out'
    assert overlays(out) == ['overlays/a.png', 'overlays/sub/a.png']
    assert [image['id'] for image in read(out / 'images.json')['images']] == [1, 2]
    assert {result['image_id'] for result in read(out / 'predictions.json')} == {1, 2}
    assert '2 of 3 images' in capsys.readouterr().out


def test_overlays_of_an_earlier_run_are_no_input(command, photos):
    command[command.index('--out-dir') + 1] = str(photos / 'out')
    for _ in range(2):
        assert tool.main(command) == 0
        assert len(read(photos / 'out' / 'images.json')['images']) == 3


def test_score_threshold(command, tmp_path):

    def scores(threshold: str) -> list[float]:
        assert tool.main([*command, '--score-thr', threshold]) == 0
        return sorted(result['score'] for result in read(tmp_path / 'out' / 'predictions.json'))

    every = scores('0')
    middle = every[len(every) // 2]
    assert scores(repr(middle)) == [score for score in every if score >= middle]
    assert scores('1') == []


@pytest.mark.parametrize(
    ('option', 'value', 'message'),
    [
        ('--config', 'nonsense.py', 'nonsense.py: there is no such config file'),
        ('--checkpoint', 'nothing.pth', 'nothing.pth: there is no such checkpoint'),
        ('--device', 'toaster', "device 'toaster' cannot be used"),
        ('--out-dir', str(SCRIPT), 'it cannot be written'),
    ],
)
def test_a_wrong_argument_is_one_line(command, capsys, option, value, message):
    command[command.index(option) + 1] = value
    with pytest.raises(SystemExit) as exit_:
        tool.main(command)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith('error: ') and '\n' not in error and message in error


def test_an_input_without_images_is_one_line(command, tmp_path, capsys):
    command[0] = str(tmp_path / 'nowhere')
    with pytest.raises(SystemExit) as exit_:
        tool.main(command)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith(f'error: {tmp_path}/nowhere: there is no such file')


def test_names_of_every_kind(command, photos, tmp_path, capsys):
    names = [
        250 * 'n' + '.png',
        'two\nlines.png',
        os.fsdecode(b'caf\xe9.png'),
        'Case.png',
        'case.png',
        'star*[1]?.png',
        ' .png',
    ]
    data = (photos / 'a.png').read_bytes()
    for name in names:
        (photos / name).write_bytes(data)
    (photos / 'bro\nken.png').write_bytes(data[:100])
    assert tool.main(command) == 1
    out = tmp_path / 'out'
    assert len(overlays(out)) == len(names) + 3
    images = read(out / 'images.json')['images']
    assert set(names) <= {image['file_name'] for image in images}
    (line, _) = [one for one in capsys.readouterr().err.splitlines() if one.startswith(('e', '1'))]
    assert line.startswith(f'error: {photos}/bro\\nken.png: this is no image')


def test_an_overlay_that_cannot_be_written_is_reported_and_the_rest_are_done(
    command, photos, tmp_path, capsys
):
    out = tmp_path / 'out'
    (out / 'overlays' / 'a.png').mkdir(parents=True)
    assert tool.main(command) == 1
    error = capsys.readouterr().err
    assert f'error: {photos}/a.png: {out}/overlays/a.png: it cannot be written' in error
    assert '1 images could not be read, predicted or drawn' in error
    assert overlays(out)[1:] == ['overlays/sub/a.png', 'overlays/sub/b.png']
    assert len(read(out / 'images.json')['images']) == 3
    assert {result['image_id'] for result in read(out / 'predictions.json')} == {1, 2, 3}


def test_an_overlay_too_long_for_png_is_reported(command, tmp_path, monkeypatch, capsys):
    pictures = iter([np.zeros((1, 1_000_001, 3), np.uint8), *2 * [np.zeros((4, 4, 3), np.uint8)]])
    monkeypatch.setattr(prediction_files, 'draw_overlay', lambda *args: next(pictures))
    assert tool.main(command) == 1
    assert 'a.png: its overlay of 60x40 pixels is too large for PNG' in capsys.readouterr().err
    assert len(overlays(tmp_path / 'out')) == 2


def test_an_image_that_vanishes_or_is_refused_is_reported(command, photos, monkeypatch, capsys):

    def predict(model, images, predict=inferencer.predict_batch):
        (photos / 'sub' / 'a.png').unlink(missing_ok=True)
        if images[0].shape[1] == 61:
            raise InputError('5 masks do not fit')
        return predict(model, images)

    monkeypatch.setattr(inferencer, 'predict_batch', predict)
    cv2.imwrite(str(photos / 'wide.png'), np.zeros((40, 61, 3), np.uint8))
    assert tool.main(command) == 1
    lines = capsys.readouterr().err.splitlines()
    assert f'error: {photos}/sub/a.png: the image cannot be read: No such file or directory' in (
        lines
    )
    assert f'error: {photos}/wide.png: 5 masks do not fit' in lines
    assert '2 images could not be read, predicted or drawn' in lines


def test_results_of_an_earlier_run_stay_if_nothing_was_done(command, tmp_path, monkeypatch):
    assert tool.main(command) == 0
    before = [read(tmp_path / 'out' / name) for name in ('images.json', 'predictions.json')]

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, 'read_image', stop)
    assert tool.main(command) == 130
    assert [read(tmp_path / 'out' / name) for name in ('images.json', 'predictions.json')] == before
