"""Files are written whole or not at all, checkpoints among them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

import mmsolov2  # noqa: F401
from mmsolov2.compat.checkpoint_loaders import load_from_local
from mmsolov2.errors import InputError
from mmsolov2.fileio import AtomicLocalBackend, latest_checkpoint, require_folder, write_whole


class Interrupted(Exception):
    pass


def write_half(self, obj: bytes, filepath: str | Path) -> None:
    """A write of which only the first half gets to the disk."""
    Path(filepath).write_bytes(bytes(obj)[: len(obj) // 2])
    raise Interrupted


def write_half_and_die(self, obj: bytes, filepath: str | Path) -> None:
    try:
        write_half(self, obj, filepath)
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Toy(BaseModel):
    """One weight, which the loss pulls to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs, mode: str) -> dict:
        return dict(loss=(self.weight**2).sum())


def train(folder: Path, epochs: int) -> None:
    """Two iterations an epoch, with a checkpoint after each epoch."""
    checkpoint = dict(
        type='CheckpointHook', interval=1, backend_args=dict(backend='mmsolov2.atomic')
    )
    model = Toy()
    Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.zeros(1))] * 2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=1,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)),
        default_hooks=dict(checkpoint=checkpoint),
        default_scope='mmdet',
        experiment_name=folder.name,
        log_level='ERROR',
    ).train()


def test_put_writes(tmp_path):
    path = tmp_path / 'new' / 'folder' / 'a.bin'
    AtomicLocalBackend().put(b'content', path)
    assert path.read_bytes() == b'content'
    assert names(path.parent) == ['a.bin']


@pytest.mark.parametrize('kind', [str, Path])
def test_put_replaces(tmp_path, kind):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'a longer old content')
    AtomicLocalBackend().put(memoryview(b'new'), kind(path))
    assert path.read_bytes() == b'new'
    assert names(tmp_path) == ['a.bin']


def test_put_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'old')
    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, 'put', write_half)
        with pytest.raises(Interrupted):
            AtomicLocalBackend().put(b'new content', path)
    assert path.read_bytes() == b'old'
    AtomicLocalBackend().put(b'new content', path)
    assert path.read_bytes() == b'new content'
    assert names(tmp_path) == ['a.bin']


def test_put_that_fails_leaves_no_new_file(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalBackend, 'put', write_half)
    with pytest.raises(Interrupted):
        AtomicLocalBackend().put(b'new content', tmp_path / 'a.bin')
    assert 'a.bin' not in names(tmp_path)


def test_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(os, 'fsync', lambda file: (seen.append(names(tmp_path)), fsync(file)))
    AtomicLocalBackend().put(b'content', tmp_path / 'a.bin')
    assert seen == [['a.bin.unfinished']]


@pytest.mark.skipif(os.name == 'nt', reason='looks at a descriptor as Unix has it')
def test_what_is_flushed_is_open_for_writing(tmp_path, monkeypatch):
    """Windows flushes no file that is open for reading alone."""
    from fcntl import F_GETFL, fcntl

    modes = []
    monkeypatch.setattr(os, 'fsync', lambda file: modes.append(fcntl(file, F_GETFL) & os.O_ACCMODE))
    AtomicLocalBackend().put(b'content', tmp_path / 'a.bin')
    assert modes == [os.O_RDWR] and (tmp_path / 'a.bin').read_bytes() == b'content'


@pytest.mark.parametrize('step', ['write', 'fsync', 'replace'])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch, step):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'old')

    def fail(*args):
        if step == 'write':
            Path(args[2]).write_bytes(b'ne')
        raise OSError(28, 'No space left on device')

    target, name = (LocalBackend, 'put') if step == 'write' else (os, step)
    monkeypatch.setattr(target, name, fail)
    with pytest.raises(InputError, match='a.bin: it cannot be written .No space left on device.: '):
        AtomicLocalBackend().put(b'new', path)
    assert path.read_bytes() == b'old' and names(tmp_path) == ['a.bin']


def test_text_and_bytes_are_written_whole_and_their_folder_is_made(tmp_path, monkeypatch):
    path = tmp_path / 'new' / 'a.txt'
    for content in ('1 ± 2', b'3', memoryview(b'4')):
        write_whole(path, content)
        expected = content.encode() if isinstance(content, str) else bytes(content)
        assert path.read_bytes() == expected and names(path.parent) == ['a.txt']
    monkeypatch.setattr(LocalBackend, 'put', write_half)
    with pytest.raises(Interrupted):
        write_whole(path, 'longer')
    assert path.read_bytes() == b'4'


def test_a_folder_that_takes_no_files_is_refused(tmp_path, monkeypatch):

    def refuse(dir):
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr('mmsolov2.fileio.TemporaryFile', refuse)
    with pytest.raises(
        InputError, match=r'new: .* \(Read-only file system\), or it cannot be writ'
    ):
        require_folder(tmp_path / 'new')


def test_backend_has_a_name():
    backend = get_file_backend(backend_args=dict(backend='mmsolov2.atomic'))
    assert isinstance(backend, AtomicLocalBackend)


def test_default_backend_is_still_mmengines(tmp_path):
    assert type(get_file_backend(str(tmp_path))) is LocalBackend


def test_checkpoint_hook_uses_it(tmp_path, monkeypatch):
    written = []
    put = AtomicLocalBackend.put

    def note(self, obj, filepath):
        written.append(Path(filepath).name)
        put(self, obj, filepath)

    monkeypatch.setattr(AtomicLocalBackend, 'put', note)
    train(tmp_path, epochs=1)
    assert written == ['epoch_1.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
    assert load_from_local(str(tmp_path / 'epoch_1.pth'))['meta']['epoch'] == 1
    assert not [name for name in names(tmp_path) if 'unfinished' in name]


def train_until_killed(folder: Path) -> None:
    """Train one epoch, go on to the second, and die while its checkpoint is written."""
    put = LocalBackend.put

    def fail_at_the_second(self, obj, filepath):
        write = write_half_and_die if 'epoch_2' in str(filepath) else put
        write(self, obj, filepath)

    LocalBackend.put = fail_at_the_second
    train(folder, epochs=3)


def test_killed_run_leaves_a_checkpoint_that_loads(tmp_path):
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    last = (tmp_path / 'last_checkpoint').read_text()
    assert last.endswith('epoch_1.pth')
    assert load_from_local(last)['meta']['epoch'] == 1
    assert not (tmp_path / 'epoch_2.pth').exists()
    assert (tmp_path / 'epoch_2.pth.unfinished').exists()  # it did die in the middle


if __name__ == '__main__':
    train_until_killed(Path(sys.argv[1]))


def at(path: Path, seconds: int) -> Path:
    """An empty file with a time of change."""
    path.touch()
    os.utime(path, (seconds, seconds))
    return path


@pytest.mark.parametrize(
    'note, expected',
    [
        (None, '{folder}/epoch_10.pth'),
        ('', '{folder}/epoch_10.pth'),
        ('/where/it/was/epoch_9.pth', '{folder}/epoch_10.pth'),
        ('{folder}/epoch_9.pth\n', '{folder}/epoch_9.pth'),
        ('s3://bucket/epoch_9.pth', 's3://bucket/epoch_9.pth'),
    ],
)
def test_latest_checkpoint(tmp_path, note, expected):
    at(tmp_path / 'epoch_9.pth', 200)  # copied after the other
    at(tmp_path / 'epoch_10.pth', 100)
    at(tmp_path / 'best_coco_segm_mAP_epoch_9.pth', 300)
    at(tmp_path / 'epoch_11.pth.unfinished', 300)
    if note is not None:
        (tmp_path / 'last_checkpoint').write_text(note.format(folder=tmp_path))
    assert latest_checkpoint(str(tmp_path)) == expected.format(folder=tmp_path)


def test_latest_checkpoint_of_iterations(tmp_path):
    at(tmp_path / 'epoch_3.pth', 100)
    at(tmp_path / 'iter_2000.pth', 300)
    at(tmp_path / 'iter_4000.pth', 200)
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_4000.pth')


def test_latest_checkpoint_of_a_new_folder(tmp_path):
    assert latest_checkpoint(str(tmp_path / 'new')) is None
