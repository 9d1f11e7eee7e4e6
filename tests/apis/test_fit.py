"""From a folder to a model: what is told, kept, refused and gone on with."""

import json
import shutil
from pathlib import Path

import cv2
import pytest

from mmsolov2.apis.fit import PLAN, described, fit, is_begun, prepare
from mmsolov2.datasets.statistics import statistics
from mmsolov2.errors import InputError
from mmsolov2.fileio import latest_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shapes(tiny_shapes, tmp_path):
    """Eight pictures that are not split, in a folder of an awkward name."""
    data = tmp_path / "it's my data"
    shutil.copytree(tiny_shapes / 'train', data / 'images')
    shutil.copy(tiny_shapes / 'annotations/train.json', data / 'labels.json')
    return data


def asked(data, **others):
    return {**dict(data=str(data), classes=None, val_share=0.25, seed=0), **others}


def told(capsys):
    """What a person was told: the text of each word that a line begins with."""
    lines = [line.partition(' ') for line in capsys.readouterr().out.splitlines()]
    return {word: rest.strip() for word, _, rest in lines}


def test_one_command_and_once_more(shapes, tiny_config, tmp_path, run_python):
    command = [ROOT / 'tools/fit.py', shapes, '--out', tmp_path / 'out', '--model', tiny_config]
    first = run_python(*command, '--epochs', 2).stdout
    words = [line.split(' ')[0] for line in first.splitlines() if not line[:2].isdigit()]
    kept = [word for word in words if word]
    first_words = ['data', 'train', 'val', 'model', 'plan', 'config']
    assert kept == [*first_words, 'look', 'report', 'done', 'use']
    assert 'creating index' not in first
    assert 'System environment' not in first
    folder = tmp_path / 'out'
    assert (folder / 'out.py').is_file()
    assert Path(latest_checkpoint(folder / 'train')).name == 'epoch_2.pth'
    assert len(list((folder / 'predictions/vis').glob('*.png'))) == 2
    (log,) = (folder / 'train').glob('*/*.log')
    assert 'System environment' in log.read_text()
    assert '<title>' in (folder / 'report.html').read_text()
    (folder / 'train' / 'done').unlink()  # as if it was stopped between the last two steps
    second = run_python(*command, '--epochs', 2).stdout
    assert 'goes on' in second
    assert 'Epoch(train)' not in second
    assert second.splitlines()[-2:] == first.splitlines()[-2:]
    refused = run_python(*command, '--epochs', 3, check=False)
    assert refused.returncode == 2
    assert 'epochs=2' in refused.stderr
    assert 'Traceback' not in refused.stderr


def test_a_plan_is_kept(tmp_path, capsys):
    (tmp_path / PLAN).write_text(json.dumps(dict(data='a', epochs=3)))
    assert is_begun(tmp_path, dict(data='a', epochs=3))
    assert not is_begun(tmp_path / 'other', dict(data='a', epochs=3))
    with pytest.raises(InputError, match='of another fit, with epochs=3: repeat'):
        is_begun(tmp_path, dict(data='a', epochs=4))


def test_pictures_that_cannot_be_used_are_told_and_left_out(shapes, tmp_path, capsys):
    names = sorted(path.name for path in (shapes / 'images').iterdir())
    (shapes / 'images' / names[0]).unlink()
    (shapes / 'images' / names[1]).write_bytes(b'no picture')
    resized = cv2.resize(cv2.imread(str(shapes / 'images' / names[2])), (64, 48))
    cv2.imwrite(str(shapes / 'images' / names[2]), resized)
    files, root, training = prepare(asked(shapes), tmp_path / 'out')
    text = capsys.readouterr().out
    for fault in ('not there', 'cannot be decoded', 'another size'):
        assert fault in text
    contents = {name: json.loads(file.read_text()) for name, file in files.items()}
    kept = [image['file_name'] for one in contents.values() for image in one['images']]
    assert sorted(kept) == [f'images/{name}' for name in names[3:]]
    assert all((root / name).is_file() for name in kept)
    assert len(training.sizes) == len(contents['train']['images'])


def test_splits_of_the_data_are_kept(tiny_shapes, tmp_path):
    files, root, _ = prepare(asked(tiny_shapes), tmp_path / 'out')
    for name, count in dict(train=8, val=6).items():
        images = json.loads(files[name].read_text())['images']
        assert len(images) == count
        assert all((root / image['file_name']).parent.name == name for image in images)


@pytest.mark.parametrize(
    ('fault', 'message'),
    [
        (lambda content: content['annotations'].clear(), 'without a single instance'),
        (lambda content: content['annotations'][0].update(category_id=99), 'category_id 99'),
    ],
)
def test_data_that_cannot_be_used(shapes, tmp_path, fault, message):
    file = shapes / 'labels.json'
    content = json.loads(file.read_text())
    fault(content)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        prepare(asked(shapes), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_pictures_to_test_alone_do_not_train(tiny_shapes, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(tiny_shapes / 'val', data / 'test')
    shutil.copy(tiny_shapes / 'annotations/val.json', data / 'test.json')
    with pytest.raises(InputError, match='nothing to train on, only test'):
        prepare(asked(data), tmp_path / 'out')


@pytest.mark.parametrize('length', [dict(minutes=0), dict(minutes=-3.5), dict(epochs=0)])
def test_no_time_to_train(tmp_path, length):
    with pytest.raises(InputError, match='give more than none'):
        fit(tmp_path, tmp_path / 'out', **length)


def test_nothing_that_is_known(tmp_path):
    (tmp_path / 'notes.txt').write_text('none')
    with pytest.raises(InputError, match='Layouts understood'):
        fit(tmp_path, tmp_path / 'out')


def test_what_is_told_of_a_part():
    content = dict(
        images=[dict(id=1, height=8, width=9)],
        annotations=[dict(image_id=1, category_id=7, bbox=[0, 0, 2, 2])] * 3,
        categories=[dict(id=4, name='cat'), dict(id=7, name='dog')],
    )
    assert described(statistics(content)) == '1 pictures, 3 instances: cat 0, dog 3'
