"""tools/dataset.py: what it prints, writes and refuses, and its exit status."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.config import Config

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools' / 'dataset.py'


def load_script() -> ModuleType:
    """tools/dataset.py as a module."""
    spec = importlib.util.spec_from_file_location('dataset_tool', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_script()


@pytest.fixture
def data(tmp_path) -> Path:
    """Ten pictures with masks in which two squares are numbered."""
    folder = tmp_path / 'my data'
    for index in range(10):
        rng = np.random.default_rng(index)
        image = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
        mask = np.zeros((48, 64), np.uint8)
        mask[5:25, 5 + index : 25 + index], mask[30:45, 40:60] = 1, 2
        for name, array in dict(images=image, masks=mask).items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name / f'p|{index}.png'), array)
    return folder


def test_check(data, tmp_path, capsys):
    file = tmp_path / 'findings.json'
    assert tool.main(['check', str(data), '--json', str(file)]) == 0
    out = capsys.readouterr().out
    assert f'{data}: pictures with masks; pictures are named from {data}\n' in out
    assert 'all: 10 pictures, 20 instances\n' in out
    text = (
        '| note | 10 | masks whose values were taken as numbers of instances | images/p\\|0.png |'
    )
    assert text in out
    assert out.endswith('0 kinds of errors, 0 kinds of warnings, 1 kinds of notes\n')
    content = json.loads(file.read_text())
    assert content['root'] == str(data) and content['findings'][0]['count'] == 10


def test_check_ends_with_1_where_there_are_errors(data, capsys):
    file = data / 'images' / 'p|3.png'
    file.write_bytes(file.read_bytes()[:100])
    assert tool.main(['check', str(data)]) == 1
    assert (
        '| error | 1 | pictures that cannot be decoded, or are truncated |'
        in capsys.readouterr().out
    )


@pytest.mark.parametrize('command', ['check', 'convert', 'split', 'stats'])
def test_bad_input_is_one_line_and_2(tmp_path, command, capsys):
    with pytest.raises(SystemExit) as stopped:
        tool.main([command, str(tmp_path / 'nowhere')])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f'error: {tmp_path}/nowhere: there is no such')


def loaded(folder: Path, file: Path, **options):
    """A COCO file as training loads it."""
    return DATASETS.build(
        dict(type='mmsolov2.CocoInstanceDataset', ann_file=str(file),
             data_prefix=dict(img=str(folder)),
             pipeline=[dict(type='LoadImageFromFile'),
                       dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
                       dict(type='PackDetInputs')], **options)
    )  # fmt: skip


def test_what_convert_writes_trains(data, capsys):
    assert tool.main(['convert', str(data), '--classes', 'square']) == 0
    file = data / 'annotations_coco' / 'all.json'
    assert f'written: {file}\n' in capsys.readouterr().out
    dataset = loaded(data, file, metainfo=dict(classes=('square',)))
    assert len(dataset) == 10
    masks = dataset[3]['data_samples'].gt_instances.masks.masks
    assert [int(mask.sum()) for mask in masks] == [400, 300]
    assert tool.main(['check', str(file)]) == 0


def test_split_writes_both_parts_and_says_which_pictures(data, tmp_path, capsys):
    out = tmp_path / 'out'
    arguments = ['split', str(data), '--out', str(out), '--val-share', '0.3', '--seed', '4']
    assert tool.main(arguments) == 0
    said = capsys.readouterr().out
    parts = {name: json.loads((out / f'{name}.json').read_text()) for name in ('train', 'val')}
    assert [len(part['images']) for part in parts.values()] == [7, 3]
    names = [one['file_name'].replace('|', '\\|') for one in parts['val']['images']]
    assert f'val: {", ".join(names)}; all others train\n' in said
    assert '| object | 14 | 6 |' in said
    before = [(out / f'{name}.json').read_bytes() for name in parts]
    assert tool.main(arguments) == 0  # its own files it replaces
    assert [(out / f'{name}.json').read_bytes() for name in parts] == before
    assert tool.main(['check', str(out)]) == 0  # with the pictures where they were


def test_files_of_others_stay_unless_forced(data, tmp_path, capsys):
    out = tmp_path / 'out'
    out.mkdir()
    for name in ('val.json', 'all.json'):
        (out / name).write_text('{"info": {"description": "mine"}}')
    for command in ('split', 'convert'):
        with pytest.raises(SystemExit) as stopped:
            tool.main([command, str(data), '--out', str(out)])
        assert stopped.value.code == 2 and 'of somebody else' in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ['all.json', 'val.json']
    assert 'mine' in (out / 'val.json').read_text()
    assert tool.main(['split', str(data), '--out', str(out), '--force']) == 0
    assert 'mine' not in (out / 'val.json').read_text()


def test_data_in_parts_are_not_split_again(tiny_shapes, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool.main(['split', str(tiny_shapes), '--out', str(tmp_path)])
    assert 'in parts already (train, val)' in capsys.readouterr().err
    one = tiny_shapes / 'annotations' / 'train.json'
    assert tool.main(['split', str(one), '--out', str(tmp_path)]) == 0
    assert [path.name for path in sorted(tmp_path.glob('*.json'))] == ['train.json', 'val.json']


def test_coco_stays_as_it_is_but_for_its_names(tiny_shapes, tmp_path):
    assert tool.main(['convert', str(tiny_shapes), '--out', str(tmp_path)]) == 0
    for split in ('train', 'val'):
        ours = json.loads((tmp_path / f'{split}.json').read_text())
        theirs = json.loads((tiny_shapes / 'annotations' / f'{split}.json').read_text())
        for image in theirs['images']:
            image['file_name'] = f'{split}/{image["file_name"]}'
        assert all(ours[key] == theirs[key] for key in ('images', 'annotations', 'categories'))


def test_a_place_that_cannot_be_written(data, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit) as stopped:
        tool.main(['convert', str(data), '--out', str(tmp_path / 'file' / 'x')])
    assert stopped.value.code == 2 and 'cannot be written' in capsys.readouterr().err


def test_the_script_runs(data, run_python):
    result = run_python(SCRIPT, 'check', data)
    assert '10 pictures' in result.stdout and result.stderr == ''


def test_stats(data, tmp_path, capsys):
    file = tmp_path / 'stats.png'
    assert tool.main(['stats', str(data), '--model', 'r18', '--out', str(file)]) == 0
    out = capsys.readouterr().out
    for row in (
        '| pictures | 10 |\n',
        '| their height | 48 (48 to 48) |\n',
        '| instances a picture | 2 (2 to 2) |\n',
        '| side of an instance | 19 (17 to 20) |\n',  # 20 and √(15 x 20)
        '| object | 20 |\n',
        '| without a cell of their own |  | 0 |\n',
    ):
        assert row in out
    assert 'all, resized to 256x192, as tools/fit.py would:' in out
    assert cv2.imread(str(file)).shape[1] == 1300


def test_configure(data, tmp_path, capsys):
    out = tmp_path / 'fitted'
    command = ['configure', str(data), '--out', str(out), '--model', 'r18', '--epochs', '3']
    assert tool.main([*command, '--classes', 'cell']) == 0
    config = Config.fromfile(out / 'fitted.py')
    assert config.train_cfg.max_epochs == 3
    assert config.train_dataloader.dataset.dataset.metainfo.classes == ('cell',)
    assert len(DATASETS.build(config.val_dataloader.dataset)) == 2
    assert not (out / 'fit.json').exists()
