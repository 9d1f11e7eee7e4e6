"""Crafted checkpoints are refused, whatever they ask the safe loader for; honest ones load."""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmsolov2.compat.checkpoint_loaders import load_from_local
from mmsolov2.compat.checkpoint_types import NUMBERS, STAND_INS, checked_types
from mmsolov2.errors import InputError

# Pickles by hand: each function gives the bytes that put a value on the loader's stack


def text(value: str) -> bytes:
    return b'X' + struct.pack('<I', len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b'\x8a\x09' + value.to_bytes(9, 'little', signed=True)


def many(*items: bytes) -> bytes:
    """A tuple."""
    return b'(' + b''.join(items) + b't'


def table(**items: bytes) -> bytes:
    """A dict."""
    return b'}(' + b''.join(text(name) + item for name, item in items.items()) + b'u'


def name_of(path: str) -> bytes:
    return f'c{path.rpartition(".")[0]}\n{path.rpartition(".")[2]}\n'.encode()


def call(path: str, *items: bytes) -> bytes:
    return name_of(path) + many(*items) + b'R'


def new(path: str, *items: bytes) -> bytes:
    """What ``__new__`` makes."""
    return name_of(path) + many(*items) + b'\x81'


def build(value: bytes, state: bytes) -> bytes:
    """A value after its ``__setstate__``."""
    return value + state + b'b'


def keep(value: bytes, place: int) -> bytes:
    """A value that ``again`` gives once more."""
    return value + b'q' + bytes([place])


def again(place: int) -> bytes:
    return b'h' + bytes([place])


NONE, YES, NO, NOTHING = b'N', b'\x88', b'\x89', b')'


def raw(count: int) -> bytes:
    """Bytes."""
    return call('_codecs.encode', text('a' * count), text('latin1'))


ARRAY, DTYPE = 'numpy.ndarray', 'numpy.dtype'
MULTIARRAY = 'numpy.core.multiarray.'
HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
OF_A_TYPE = (NONE, NONE, NONE, number(-1), number(-1), number(0))


def dtype(code: str = 'f8', *state: bytes) -> bytes:
    """A type of 8 bytes, unless something else is given."""
    made = call(DTYPE, text(code), NO, YES)
    return build(made, many(*(state or (number(3), text('<'), *OF_A_TYPE))))


def unfilled() -> bytes:
    return call(f'{MULTIARRAY}_reconstruct', name_of(ARRAY), many(number(0)), raw(1))


EMPTY = unfilled().replace(text('a'), text('b'))


def array(
    shape: bytes | None = None,
    kind: bytes | None = None,
    data: bytes | None = None,
    version: int = 1,
    order: bytes = NO,
) -> bytes:
    """An array of two numbers, unless something else is given."""
    state = (number(version), shape or many(number(2)), kind or dtype(), order, data or raw(16))
    return build(EMPTY, many(*state))


def history(**changes: bytes) -> bytes:
    state = dict(max_length=number(10), _log_history=array(), _count_history=array())
    return build(new(HISTORY), table(**(state | changes)))


def attribute(owner: str, name: bytes) -> bytes:
    return call('__builtin__.getattr', name_of(owner), name)


def storage(count: int) -> bytes:
    pid = many(
        text('storage'), name_of('torch.FloatStorage'), text('0'), text('cpu'), number(count)
    )
    return pid + b'Q'


def tensor(count=4, offset=0, size=(4,), stride=(1,)) -> bytes:
    sizes = [many(*map(number, each)) for each in (size, stride)]
    hooks = call('collections.OrderedDict')
    rebuild = 'torch._utils._rebuild_tensor_v2'
    return call(rebuild, storage(count), number(offset), *sizes, NO, hooks)


def from_type(function: str, kind: str, arguments: bytes, state: bytes) -> bytes:
    rebuild = 'torch._tensor._rebuild_from_type_v2'
    return call(rebuild, name_of(function), name_of(kind), arguments, state)


INTERFACE = table(
    shape=many(number(4)), typestr=text('<f8'), data=many(number(4096), NO), version=number(3)
)
POSING = build(call('collections.OrderedDict'), table(__array_interface__=INTERFACE))
BUFFER = call('__builtin__.bytearray', raw(16))
FULL = dict(max_length=number(10), _log_history=array(), _count_history=array())

CRAFTED = {
    # arrays over a buffer or of objects, from NumPy's own class
    'objects in a buffer': call(ARRAY, many(number(1), number(2)), text('O'), raw(16)),
    'objects in a buffer, new': new(ARRAY, many(number(1), number(2)), text('O'), raw(16)),
    'numbers in a buffer': call(ARRAY, many(number(2)), text('f8'), BUFFER),
    'numbers in a buffer, new': new(ARRAY, many(number(2)), text('f8'), BUFFER),
    'array without arguments': new(ARRAY),
    'array of a shape': call(ARRAY, many(number(2))),
    'array of a stand-in': call(ARRAY, many(number(2)), dtype(), BUFFER),
    'array of a huge shape': new(ARRAY, many(number(2**40))),
    'array subclass': call(f'{MULTIARRAY}_reconstruct', name_of('numpy.matrix'), NOTHING, raw(1)),
    'record array': call('numpy.rec.recarray', many(number(1)), text('O')),
    'array from a buffer': call('numpy.frombuffer', raw(16), text('O')),
    'array of the newer names': call('numpy._core.multiarray.array', raw(16), text('O')),
    'array from a newer buffer': call('numpy._core.numeric._frombuffer', raw(16), text('O')),
    # _reconstruct with anything but (ndarray, (0,), b'b')
    'reconstruct of objects': call(
        f'{MULTIARRAY}_reconstruct', name_of(ARRAY), many(number(0)),
        call('_codecs.encode', text('O'), text('latin1'))
    ),
    'reconstruct of another letter': unfilled(),
    'reconstruct of a text': call(
        f'{MULTIARRAY}_reconstruct', name_of(ARRAY), many(number(0)), text('b')
    ),
    'reconstruct with values': EMPTY.replace(number(0), number(9)),
    'reconstruct of a number': EMPTY.replace(many(number(0)), number(0)),
    'reconstruct of a tensor': call(
        f'{MULTIARRAY}_reconstruct', name_of(ARRAY), tensor(), raw(1)
    ),
    'reconstruct of a history': EMPTY.replace(name_of(ARRAY), name_of(HISTORY)),
    'reconstruct of a dict': EMPTY.replace(name_of(ARRAY), name_of('collections.OrderedDict')),
    'reconstruct without arguments': call(f'{MULTIARRAY}_reconstruct'),
    'reconstruct, new': new(f'{MULTIARRAY}_reconstruct', name_of(ARRAY), many(number(0)), raw(1)),
    # types
    **{
        f'dtype {code}': array(kind=call(DTYPE, text(code), NO, YES))
        for code in (
            'O', 'O8', '|O', 'V8', 'V1', '|V16', 'S5', '|S5', 'U4', 'a5', 'M8[ns]', 'm8', 'g',
            'f16', 'c32', '(2,)f4', '2f4', 'f4,f4', 'f4,O', 'object', 'float64', 'd', '', 'f8\0',
            '>f8'
        )
    },
    'dtype of a dict': call(
        DTYPE, table(names=b']' + text('a') + b'a', formats=b']' + text('O') + b'a')
    ),
    'dtype of a list': call(DTYPE, b']' + many(text('a'), text('O')) + b'a'),
    'dtype of a pair': call(DTYPE, many(text('f8'), many(number(2)))),
    'dtype of a class': call(DTYPE, name_of('collections.OrderedDict')),
    'dtype of an object that has one': call(
        DTYPE, build(call('collections.OrderedDict'), table(dtype=text('O')))
    ),
    'dtype of a dtype': call(DTYPE, dtype()),
    'dtype of bytes': call(DTYPE, raw(2)),
    'dtype of a tensor': call(DTYPE, tensor()),
    'dtype without arguments': new(DTYPE),
    'dtype class': call('numpy.dtypes.ObjectDType'),
    'dtype class of numbers': call('numpy.dtypes.Float64DType'),
    'dtype with a field': dtype(
        'f8', number(3), text('<'), NONE, many(text('a')), table(a=many(dtype(), number(0))),
        number(8), number(1), number(16)
    ),
    'dtype with a shape': dtype(
        'f8', number(3), text('<'), many(dtype(), many(number(2))), *OF_A_TYPE[1:]
    ),
    'dtype with flags': dtype('f8', number(3), text('<'), *OF_A_TYPE[:5], number(63)),
    'dtype with another size': dtype(
        'f8', number(3), text('<'), *OF_A_TYPE[:3], number(400), *OF_A_TYPE[4:]
    ),
    'dtype with an alignment': dtype(
        'f8', number(3), text('<'), *OF_A_TYPE[:4], number(3), number(0)
    ),
    'dtype with metadata': dtype('f8', number(4), text('<'), *OF_A_TYPE, table(a=number(1))),
    'dtype with a ninth': dtype('f8', number(3), text('<'), *OF_A_TYPE, table(a=number(1))),
    'dtype with another order': dtype('f8', number(3), text('Z'), *OF_A_TYPE),
    'dtype with an order that is no text': dtype('f8', number(3), array(), *OF_A_TYPE),
    'dtype of another version': dtype('f8', number(1), text('<'), *OF_A_TYPE),
    'dtype with a short state': dtype('f8', number(3), text('<')),
    'dtype with a state of arrays': dtype('f8', number(3), text('<'), *[array()] * 6),
    'dtype with a dict': build(call(DTYPE, text('f8'), NO, YES), table(plain=text('O'))),
    'dtype with a pair': build(
        call(DTYPE, text('f8'), NO, YES), many(NONE, table(plain=text('O')))
    ),
    'dtype with attributes': from_type(
        DTYPE, DTYPE, many(text('f8'), NO, YES), table(plain=text('O'))
    ),
    # states of arrays
    'too few bytes': array(data=raw(15)),
    'too many bytes': array(data=raw(17)),
    'a huge shape': array(many(number(2**60))),
    'a shape that overflows': array(many(number(2**33), number(2**33))),
    'a shape that overflows to two': array(many(number(2**64 + 2))),
    'a negative shape': array(many(number(-2))),
    'two negative shapes': array(many(number(-1), number(-2))),
    'a shape of a float': array(many(b'G' + struct.pack('>d', 2.0))),
    'a shape of a truth': array(many(YES), data=raw(8)),
    'a shape of a tensor': array(tensor()),
    'a shape of an array': array(array()),
    'a shape that is a list': array(b']' + number(2) + b'a'),
    'a shape that is a number': array(number(2)),
    'too many sizes': array(many(number(2), *[number(1)] * 99)),
    'no number': array(NOTHING),
    'objects in a list': array(kind=dtype(), data=b'](' + NONE + NONE + b'e'),
    'text in the place of bytes': array(data=text('a' * 16)),
    'a bytearray': array(data=BUFFER),
    'NumPy type in the place of a stand-in': array(kind=text('f8')),
    'no type': array(kind=NONE),
    'array of version 0': build(EMPTY, many(many(number(2)), dtype(), NO, raw(16))),
    'array of version 2': array(version=2),
    'an order that is a number': array(order=number(2)),
    'array with a dict': build(EMPTY, table(shape=many(number(9)))),
    'array with attributes': build(EMPTY, many(NONE, table(shape=many(number(9))))),
    'array with a type for a subclass': from_type(
        f'{MULTIARRAY}_reconstruct', ARRAY, many(name_of(ARRAY), many(number(0)), raw(1)),
        table(dtype=text('O'))
    ),
    'array filled twice': build(
        array(), many(number(1), many(number(1)), dtype(), NO, raw(8))
    ),
    'array filled twice by memory': many(
        keep(array(), 1), build(again(1), many(number(1), many(number(1)), dtype(), NO, raw(8)))
    ),
    'array filled twice under a tensor': many(
        keep(array(), 1),
        call(
            'torch._utils._rebuild_device_tensor_from_numpy', again(1), name_of('torch.float64'),
            text('cpu'), NO
        ),
        build(again(1), many(number(1), many(number(1)), dtype(), NO, raw(8))),
    ),
    'tensor of an unfilled array': call(
        'torch._utils._rebuild_device_tensor_from_numpy', EMPTY, name_of('torch.float64'),
        text('cpu'), NO
    ),
    # scalars
    'scalar of too few bytes': call(f'{MULTIARRAY}scalar', dtype(), raw(7)),
    'scalar of too many bytes': call(f'{MULTIARRAY}scalar', dtype(), raw(9)),
    'scalar without bytes': call(f'{MULTIARRAY}scalar', dtype()),
    'scalar of objects': call(f'{MULTIARRAY}scalar', call(DTYPE, text('O'), NO, YES), raw(8)),
    'scalar of a name': call(f'{MULTIARRAY}scalar', text('O'), raw(8)),
    'scalar of text': call(f'{MULTIARRAY}scalar', dtype(), text('a' * 8)),
    'scalar of an object': call(f'{MULTIARRAY}scalar', dtype(), POSING),
    'scalar of an array': call(f'{MULTIARRAY}scalar', dtype(), array()),
    'scalar with a state': build(call(f'{MULTIARRAY}scalar', dtype(), raw(8)), NOTHING),
    # histories
    'history called': call(HISTORY),
    'history of objects': call(HISTORY, b']' + POSING + b'a', b']' + number(1) + b'a'),
    'history of arrays': call(HISTORY, array(), array()),
    'history, new with arguments': new(HISTORY, b']' + POSING + b'a', b']' + number(1) + b'a'),
    'history of its own setstate': history(__setstate__=name_of('torch.Tensor')),
    'history of its own interface': history(__array_interface__=INTERFACE),
    'history of its own class': history(__class__=name_of('torch.Tensor')),
    'history of its own mean': history(mean=name_of('torch.Tensor')),
    'history of another attribute': history(_statistics_methods=table()),
    'history without counts': build(
        new(HISTORY), table(max_length=number(10), _log_history=array())
    ),
    'history that only calls': build(new(HISTORY), table(__setstate__=name_of('torch.Tensor'))),
    'history without a state': build(new(HISTORY), table()),
    'history with a pair': build(new(HISTORY), many(table(**FULL), table(a=number(1)))),
    'history with a list': build(new(HISTORY), b']'),
    'history with an ordered dict': build(new(HISTORY), call('collections.OrderedDict')),
    'history of lists': history(_log_history=b']' + number(1) + b'a'),
    'history of an object': history(_log_history=POSING),
    'history of a tensor': history(_log_history=tensor()),
    'history of an unfilled array': history(_log_history=EMPTY, _count_history=EMPTY),
    'history of a number': history(_log_history=array(NOTHING, data=raw(8))),
    'history of a matrix': history(_log_history=array(many(number(1), number(2)))),
    'history of two lengths': history(_log_history=array(many(number(1)), data=raw(8))),
    'history longer than its longest': history(max_length=number(1)),
    'history of no length': history(max_length=NONE),
    'history of a length that is text': history(max_length=text('9')),
    'history of itself': history(_log_history=new(HISTORY)),
    'history of called statistics': history(statistics_methods=table(min=name_of('torch.Tensor'))),
    'history of unknown statistics': history(statistics_methods=table(min=text('__init__'))),
    'history of statistics in a list': history(statistics_methods=b']'),
    'history filled twice': build(history(), table(**FULL)),
    'history with attributes': from_type(
        HISTORY, HISTORY, NOTHING, table(__setstate__=name_of('torch.Tensor'))
    ),
    'history that is never filled': new(HISTORY),
    'history called with its mean': call(HISTORY + '.mean', history()),
    # getattr
    'attribute of another class': attribute('torch.Tensor', text('min')),
    'attribute with underscores': attribute(HISTORY, text('__init__')),
    'class of a class': attribute(HISTORY, text('__class__')),
    'method that registers': attribute(HISTORY, text('register_statistics')),
    'attribute by bytes': attribute(HISTORY, raw(3)),
    'attribute by a list': attribute(HISTORY, b']'),
    'attribute by an array': attribute(HISTORY, array()),
    'attribute with a default': call('__builtin__.getattr', name_of(HISTORY), text('a'), NONE),
    'attribute of an instance': call('__builtin__.getattr', history(), text('mean')),
    'attribute of an array': attribute(ARRAY, text('tofile')),
    'attribute of a dtype': attribute(DTYPE, text('type')),
    'attribute that is called': attribute(HISTORY, text('mean')) + many(history()) + b'R',
    'attribute that is set': build(attribute(HISTORY, text('mean')), table(__code__=NONE)),
    # what torch lists itself
    'tensor beyond its storage': tensor(4, size=(10**8, )),
    'tensor before its storage': tensor(4, offset=-100),
    'tensor of a storage beyond its record': tensor(10**8, size=(10**8, )),
    'tensor of negative strides': tensor(4, stride=(-1, )),
    'tensor of a negative size': tensor(4, size=(-4, )),
    'sparse tensor beyond its size': call(
        'torch._utils._rebuild_sparse_tensor',
        call('torch.serialization._get_layout', text('torch.sparse_coo')),
        many(
            tensor(size=(1, 4), stride=(4, 1)),
            tensor(), many(number(0)), NO
        )
    ),
    'tensor of another class': call(
        'torch._utils._rebuild_wrapper_subclass', name_of('torch.Tensor'), name_of('torch.float32'),
        many(number(4)), many(number(1)), number(0),
        call('torch.serialization._get_layout', text('torch.strided')), text('cpu'), NO
    ),
    'tensor filled twice': build(
        tensor(), many(storage(4), number(0), many(number(99)), many(number(1)))
    ),
    'a function with a state': build(
        name_of('torch.serialization._get_layout'), table(a=number(1))
    ),
    'a stand-in with a state': build(name_of(HISTORY), table(a=number(1))),
    'a pickle within': call('torch.storage._load_from_bytes', raw(9)),
    'eval': call('__builtin__.eval', text('1')),
    'partial': call('functools.partial', name_of(HISTORY)),
    'newer pickle': b'\x8c\x0anumpy\x8c\x07ndarray\x93',
}  # fmt: skip

HONEST = {
    'array': array(),
    'array under the newer names': array().replace(b'numpy.core', b'numpy._core'),
    'number': array(NOTHING, data=raw(8)),
    'column order': array(many(number(2), number(1)), order=YES),
    'bool': array(kind=dtype('b1', number(3), text('|'), *OF_A_TYPE), data=raw(2)),
    'other byte order': array(kind=dtype('f8', number(3), text('>'), *OF_A_TYPE)),
    'scalar': call(f'{MULTIARRAY}scalar', dtype(), raw(8)),
    'history': history(),
    'history with its statistics': history(
        statistics_methods=table(min=attribute(HISTORY, text('min')))
    ),
    'tensor': tensor(),
}


def zipped(value: bytes) -> bytes:
    """A file of torch whose pickle is a dict with a value."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('a/data.pkl', b'\x80\x02' + table(value=value) + b'.')
        archive.writestr('a/data/0', bytes(16))
        archive.writestr('a/version', '3\n')
    return file.getvalue()


def old(value: bytes) -> bytes:
    """The same in torch's older format."""
    start = io.BytesIO()
    torch.save({}, start, _use_new_zipfile_serialization=False)
    whole = pickle.dumps({}, protocol=2)
    before, _, after = start.getvalue().rpartition(whole)
    return before + b'\x80\x02' + table(value=value) + b'.' + after


FORMATS = dict(zip=zipped, old=old)
LOAD = """
import json, sys, warnings
warnings.simplefilter('ignore')
from mmsolov2.compat.checkpoint_loaders import load_from_local
for path in sys.argv[1:]:
    try:
        said = repr(load_from_local(path)['value'])
    except Exception as error:
        said = f'{type(error).__name__}: {error}'
    print(json.dumps([path, said]), flush=True)
"""


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory) -> dict[tuple[str, str], str]:
    """What is said about every file, by a process that each of them might end."""
    folder, cases = tmp_path_factory.mktemp('crafted'), {}
    for kind, write in FORMATS.items():
        for number_, (case, value) in enumerate({**CRAFTED, **HONEST}.items()):
            path = folder / f'{kind}_{number_}.pth'
            path.write_bytes(write(value))
            cases[str(path)] = (kind, case)
    said, left = {}, list(cases)
    while left:
        done = subprocess.run([sys.executable, '-c', LOAD, *left], capture_output=True, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["/')]
        said |= {cases[path]: outcome for path, outcome in lines}
        if done.returncode:
            said[cases[left[len(lines)]]] = f'the process ended with {done.returncode}'
        left = left[len(lines) + bool(done.returncode) :]
    return said


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.parametrize('case', CRAFTED)
def test_crafted_files_are_refused(outcomes, case, kind):
    assert outcomes[kind, case].startswith('InputError: /'), outcomes[kind, case]
    assert 'damaged' not in outcomes[kind, case]


VALUE = np.frombuffer(b'a' * 8)[0]
LOADED = {
    'array': np.full(2, VALUE),
    'array under the newer names': np.full(2, VALUE),
    'number': np.array(VALUE),
    'column order': np.full((2, 1), VALUE),
    'bool': np.array([True, True]),
    'other byte order': np.full(2, VALUE),
    'scalar': VALUE,
}


@pytest.mark.parametrize('write', FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize('case', LOADED)
def test_plain_arrays_load(tmp_path, case, write):
    path = tmp_path / 'a.pth'
    path.write_bytes(write(HONEST[case]))
    value = load_from_local(str(path))['value']
    assert isinstance(value, type(LOADED[case])) and np.array_equal(value, LOADED[case])
    assert value.dtype == LOADED[case].dtype and value.shape == LOADED[case].shape


@pytest.mark.parametrize('case', ['history', 'history with its statistics'])
def test_histories_load(tmp_path, case):
    path = tmp_path / 'a.pth'
    path.write_bytes(zipped(HONEST[case]))
    history_ = load_from_local(str(path))['value']
    assert type(history_) is HistoryBuffer and history_.max_length == 10
    assert [type(part) for part in history_.data] == [np.ndarray, np.ndarray]
    history_.update(3.0)
    assert history_.data[0].tolist() == [VALUE, VALUE, 3] and history_.statistics('current') == 3


@pytest.mark.parametrize('code', NUMBERS)
@pytest.mark.parametrize('order', '<>')
def test_numbers_of_every_type_come_back(tmp_path, code, order):
    values = np.arange(6).reshape(2, 3).T.astype(f'{order}{code}')
    content = dict(c=np.ascontiguousarray(values), f=values, one=values[1, 1])
    torch.save(content, tmp_path / 'a.pth')
    loaded = load_from_local(str(tmp_path / 'a.pth'))
    for name, value in content.items():
        assert loaded[name].dtype == values.dtype.newbyteorder('=')
        assert np.array_equal(loaded[name], value), name


def test_loaded_arrays_are_saved_as_numpys(tmp_path):
    """What is resumed is written into the next checkpoint, for whoever reads it."""
    torch.save(dict(value=np.arange(3.0)), tmp_path / 'a.pth')
    loaded = load_from_local(str(tmp_path / 'a.pth'))
    for protocol in (2, 5):
        again_ = pickle.loads(pickle.dumps(loaded, protocol))['value']
        assert type(again_) is np.ndarray and again_.tolist() == [0, 1, 2]


OF_NUMPY = [np.ones(1).__reduce__()[0], np.ndarray, np.dtype, type(np.dtype('f8')), HistoryBuffer]


@pytest.mark.parametrize('case', HONEST)
def test_types_that_others_have_listed_change_nothing(tmp_path, case):
    """A user may have listed NumPy's own, as torch's messages advise."""
    path = tmp_path / 'a.pth'
    path.write_bytes(zipped(HONEST[case]))
    with torch.serialization.safe_globals(OF_NUMPY):
        listed = set(torch.serialization.get_safe_globals())
        load_from_local(str(path))
        path.write_bytes(zipped(CRAFTED['numbers in a buffer']))
        with pytest.raises(InputError, match='numpy.ndarray called with arguments'):
            load_from_local(str(path))
        assert set(torch.serialization.get_safe_globals()) == listed


def test_a_pair_of_type_and_name_gives_way_too():
    pairs = [(np.ndarray, 'numpy.ndarray'), (dict, 'a.b')]
    with torch.serialization.safe_globals(pairs), checked_types():
        listed = torch.serialization.get_safe_globals()
    assert (dict, 'a.b') in listed and (np.ndarray, 'numpy.ndarray') not in listed


def test_only_stand_ins_are_listed():
    """No class or function of NumPy or mmengine itself is on torch's list."""
    listed = torch.serialization.get_safe_globals()
    assert set(STAND_INS) <= set(listed)
    assert not {*OF_NUMPY, getattr} & set(listed)


def by_name() -> dict:
    """What torch 2.4 makes of its list: types and functions under their ``__name__``."""
    listed = torch.serialization.get_safe_globals()
    return {f'{each.__module__}.{each.__name__}': each for each in listed}


@pytest.mark.parametrize('case', HONEST)
@pytest.mark.parametrize('encodes', [True, False], ids=['2.5', '2.4'])
def test_names_of_older_torch(tmp_path, monkeypatch, case, encodes):
    """Before 2.6 torch knows no ``__qualname__``, before 2.5 it does not list ``encode``."""
    unpickler = torch._weights_only_unpickler
    own = {**unpickler._get_allowed_globals()}
    if not encodes:
        del own['_codecs.encode']
    monkeypatch.setattr(unpickler, '_get_allowed_globals', lambda: own)
    monkeypatch.setattr(unpickler, '_get_user_allowed_globals', by_name)
    path = tmp_path / 'a.pth'
    path.write_bytes(zipped(HONEST[case]))
    assert 'value' in load_from_local(str(path))


@pytest.mark.parametrize(
    'arguments', [(text('a'), text('utf-8')), (raw(1), text('latin1')), (array(), array())],
    ids=['codec', 'bytes', 'arrays']
)  # fmt: skip
def test_older_torch_encodes_text_in_latin1_alone(tmp_path, monkeypatch, arguments):
    unpickler = torch._weights_only_unpickler
    own = {**unpickler._get_allowed_globals()}
    del own['_codecs.encode']
    monkeypatch.setattr(unpickler, '_get_allowed_globals', lambda: own)
    path = tmp_path / 'a.pth'
    path.write_bytes(zipped(call('_codecs.encode', *arguments)))
    with pytest.raises(InputError, match='_codecs.encode of something other than text in latin1'):
        load_from_local(str(path))


def test_stand_ins_have_one_name():
    assert [each.__name__ for each in STAND_INS] == [each.__qualname__ for each in STAND_INS]


def test_threads_load_at_once(tmp_path):
    """Each load is whole: torch's list, and the count of histories, belong to one at a time."""
    path = tmp_path / 'a.pth'
    path.write_bytes(zipped(many(*[history()] * 300)))
    listed = torch.serialization.get_safe_globals()
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load_from_local(str(path))['value'], range(12)))
    assert {type(each) for value in loaded for each in value} == {HistoryBuffer}
    assert set(torch.serialization.get_safe_globals()) == set(listed)
