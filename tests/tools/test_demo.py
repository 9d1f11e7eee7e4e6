"""What tools/demo.py keeps and removes, without its training."""

import importlib.util
import sys
from pathlib import Path

import pytest

from mmsolov2.errors import InputError

SCRIPT = Path(__file__).parents[2] / 'tools' / 'demo.py'


@pytest.fixture
def tool(monkeypatch):
    """The script as a module, whose trainings only leave a checkpoint; ``runs`` are their words."""
    spec = importlib.util.spec_from_file_location('demo_tool', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.runs = []

    def run(script: str, *arguments: str | Path) -> None:
        words = [str(argument) for argument in arguments]
        module.runs.append((script, *words))
        folder = Path(words[words.index('--work-dir') + 1])
        (folder / f'epoch_{len(module.runs)}.pth').touch()
        (folder / 'last_checkpoint').write_text(f'{folder}/epoch_{len(module.runs)}.pth')

    monkeypatch.setattr(module, 'run', run)
    return module


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*'))


def test_a_finished_training_is_kept(tool, tmp_path):
    folder = tmp_path / 'train'
    for _ in range(2):
        assert tool.train(folder, 3) == str(folder / 'epoch_1.pth')
    assert len(tool.runs) == 1 and tool.runs[0][-2:] == ('--epochs', '3')
    assert files(folder) == ['done', 'epoch_1.pth', 'last_checkpoint', 'plan']


def test_another_plan_starts_anew_and_removes_only_the_old_progress(tool, tmp_path):
    folder = tmp_path / 'train'
    tool.train(folder, 3)
    (folder / 'notes.txt').touch()
    (folder / 'mine').mkdir()
    (folder / 'mine' / 'epoch_1.pth').touch()
    assert tool.train(folder, None) == str(folder / 'epoch_2.pth')
    assert files(folder) == [
        'done',
        'epoch_2.pth',
        'last_checkpoint',
        'mine',
        'mine/epoch_1.pth',
        'notes.txt',
        'plan',
    ]


def test_a_checkpoint_that_was_removed_is_missed(tool, tmp_path):
    folder = tmp_path / 'train'
    Path(tool.train(folder, 3)).unlink()
    with pytest.raises(InputError, match='train: this training is done, but its checkpoint is not'):
        tool.train(folder, 3)


@pytest.mark.parametrize('name', ['000001.png', 'epoch_1.pth', 'done'])
def test_a_folder_of_other_files_is_refused(tool, tmp_path, name):
    """As that of the data: --out-dir data/shapes has a folder train with images."""
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train' / name).touch()
    with pytest.raises(InputError, match='train: it holds other files .* give another --out-dir'):
        tool.train(tmp_path / 'train', None)
    assert files(tmp_path) == ['train', f'train/{name}'] and not tool.runs


def test_the_data_folder_as_out_dir_is_one_line(tool, tmp_path, monkeypatch, capsys):
    (tmp_path / 'data' / 'shapes' / 'train').mkdir(parents=True)
    (tmp_path / 'data' / 'shapes' / 'train' / '000001.png').touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, 'run', lambda *words: None)
    monkeypatch.setattr(tool, 'CONFIG', str(SCRIPT.parents[1] / tool.CONFIG))
    monkeypatch.setattr(sys, 'argv', ['demo.py', '--out-dir', 'data/shapes'])
    with pytest.raises(SystemExit) as exit_:
        tool.main()
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: data/shapes/train: ')
    assert (tmp_path / 'data' / 'shapes' / 'train' / '000001.png').is_file()
