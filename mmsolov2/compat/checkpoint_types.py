"""What mmengine's checkpoints hold beside tensors, taken from a file only as it was written.

torch's safe loader calls what is listed under a name with any arguments that a file gives, and
hands any state to its ``__setstate__``. NumPy's own types are not made for that: a file of a few
bytes could have them build an array of objects over memory of its choice. So the names in a file
lead to the stand-ins here. Each takes what NumPy and mmengine write, and refuses all else; no value
of a file is called, converted or asked for an attribute before its type is known.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import SupportsIndex, TypeVar

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer

NUMBERS = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8', 'c8', 'c16')
PLAIN = (None, None, None, -1, -1, 0)  # a dtype's subarray, names, fields, size, alignment, flags
EMPTY = np.dtype('V1')  # of an array that has no values yet; a file cannot name it
STATISTICS = ('min', 'max', 'mean', 'current')
LOCK = threading.RLock()  # torch's list, and the count of histories, are those of the whole process


Named = TypeVar('Named', bound=Callable)
Listed = Callable | tuple[Callable, str]  # what torch lists as safe: a pair has its name in files


def named(path: str) -> Callable[[Named], Named]:
    """Give a class or function the name by which a pickle asks for it.

    torch lists what is safe by its ``__qualname__``, before 2.6 by its ``__name__``.
    """

    def rename(target: Named) -> Named:
        target.__module__, target.__qualname__ = path.rsplit('.', maxsplit=1)
        target.__name__ = target.__qualname__
        return target

    return rename


@named('numpy.dtype')
class Dtype:
    """A type of plain numbers, in place of ``numpy.dtype``."""

    __slots__ = ('plain',)
    plain: np.dtype

    def __new__(cls, code: str, align: bool = False, copy: bool = False) -> 'Dtype':
        if type(code) is not str or code not in NUMBERS:
            raise UnpicklingError(f'numpy.dtype({code if type(code) is str else type(code)!r})')
        self = super().__new__(cls)
        self.plain = np.dtype(code)
        return self

    def __setstate__(self, state: tuple) -> None:
        """Take the byte order; all that follows it must be as in a plain type."""
        if type(state) is not tuple or len(state) != 8 or state[0] != 3 or state[2:] != PLAIN:
            raise UnpicklingError('numpy.dtype with fields, a shape, metadata or flags')
        if state[1] not in ('<', '>', '|', '='):
            raise UnpicklingError('numpy.dtype with an unknown byte order')
        self.plain = self.plain.newbyteorder(state[1])


@named('numpy.ndarray')
class Array(np.ndarray):
    """An array of plain numbers, filled once, which is saved and copied as ``numpy.ndarray``."""

    def __new__(cls, *args: object, **kwargs: object) -> 'Array':
        raise UnpicklingError('numpy.ndarray called with arguments')

    def __setstate__(self, state: tuple) -> None:
        """Take shape, type, order and as many bytes as they need: (1, shape, Dtype, bool, bytes).

        Once only: other objects may use the memory by then.
        """
        if self.dtype != EMPTY or type(state) is not tuple or len(state) != 5:
            raise UnpicklingError('numpy.ndarray with two states or of another version')
        version, shape, dtype, is_fortran, raw = state
        if [type(value) for value in state] != [int, tuple, Dtype, bool, bytes] or version != 1:
            raise UnpicklingError('numpy.ndarray of objects, or of another version')
        if len(shape) > 32 or any(type(size) is not int or size < 0 for size in shape):
            raise UnpicklingError('numpy.ndarray whose shape is no tuple of at most 32 sizes')
        if math.prod(shape) * dtype.plain.itemsize != len(raw):
            raise UnpicklingError('numpy.ndarray whose bytes do not fill its shape')
        native = dtype.plain.newbyteorder('=')
        raw = np.frombuffer(raw, dtype.plain).astype(native).tobytes()
        super().__setstate__((1, shape, native, is_fortran, raw))

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple:
        return np.asarray(self).__reduce_ex__(protocol)


def encode(text: str, encoding: str) -> bytes:
    """The bytes that Python's pickles of the second protocol hold as text."""
    if (type(text), type(encoding)) != (str, str) or encoding != 'latin1':
        raise UnpicklingError('_codecs.encode of something other than text in latin1')
    return text.encode(encoding)


def reconstruct(kind: type, shape: tuple, code: bytes) -> Array:
    """An array without values, of which NumPy's pickles make all others."""
    if kind is not Array or (type(shape), type(code)) != (tuple, bytes):
        raise UnpicklingError('numpy.core.multiarray._reconstruct of another type')
    if shape != (0,) or code != b'b':
        raise UnpicklingError('numpy.core.multiarray._reconstruct with values')
    return np.ndarray.__new__(Array, (0,), EMPTY)


def scalar(dtype: Dtype, raw: bytes) -> np.generic:
    """A number of NumPy of its bytes."""
    if type(dtype) is not Dtype or type(raw) is not bytes or len(raw) != dtype.plain.itemsize:
        raise UnpicklingError('numpy.core.multiarray.scalar whose bytes are not those of its type')
    return np.frombuffer(raw, dtype.plain)[0]


@named('mmengine.logging.history_buffer.HistoryBuffer')
class History(HistoryBuffer):
    """Becomes a HistoryBuffer of mmengine when its state is known to be one's."""

    unfilled = 0  # how many have no state yet

    def __new__(cls) -> 'History':
        History.unfilled += 1
        return super().__new__(cls)

    def __init__(self) -> None:
        raise UnpicklingError('HistoryBuffer called')

    def __setstate__(self, state: dict) -> None:
        """Take the longest length, the two histories and the names of the four statistics."""
        values = dict(state) if type(state) is dict else {}
        methods = values.pop('statistics_methods', {})
        if type(methods) is not dict or any(
            type(name) is not str or name not in STATISTICS for name in methods.values()
        ):
            raise UnpicklingError('HistoryBuffer with other statistics')
        if values.keys() != {'max_length', '_log_history', '_count_history'}:
            raise UnpicklingError('HistoryBuffer with other attributes')
        limit, log, count = values['max_length'], values['_log_history'], values['_count_history']
        if (type(limit), type(log), type(count)) != (int, Array, Array):
            raise UnpicklingError('HistoryBuffer with attributes of other types')
        if (
            EMPTY in (log.dtype, count.dtype)
            or not log.ndim == count.ndim == 1
            or (not len(log) == len(count) <= limit)
        ):
            raise UnpicklingError('HistoryBuffer whose histories are not of one length')
        self.__dict__.update(
            max_length=limit, _log_history=np.array(log), _count_history=np.array(count)
        )
        self._set_default_statistics()
        self.__class__ = HistoryBuffer
        History.unfilled -= 1


def statistic(owner: type, name: str) -> str:
    """What HistoryBuffer's pickle calls getattr for: one of its own four statistics, by its name.

    The name is enough: a HistoryBuffer has them all.
    """
    if owner is not History or type(name) is not str or name not in STATISTICS:
        raise UnpicklingError('getattr of something other than the statistics of HistoryBuffer')
    return name


def _alias(path: str, function: Callable) -> Callable:
    """A function under another name; torch wants an object of its own for each."""

    def stand_in(*args: object) -> object:
        return function(*args)

    return named(path)(stand_in)


STAND_INS: list[Listed] = [
    Dtype,
    Array,
    History,
    _alias('_codecs.encode', encode),  # torch lists its own since 2.5, and prefers it
    _alias('builtins.getattr', statistic),
    _alias('numpy.core.multiarray._reconstruct', reconstruct),  # of NumPy 1
    _alias('numpy.core.multiarray.scalar', scalar),
    _alias('numpy._core.multiarray._reconstruct', reconstruct),  # of NumPy 2
    _alias('numpy._core.multiarray.scalar', scalar),
]


@contextmanager
def checked_types() -> Iterator[None]:
    """Within it the names of the stand-ins are theirs alone, whatever else was listed for them.

    One thread at a time is within it; the others wait.

    Raises:
        UnpicklingError: if there is a HistoryBuffer without a state in the end.
    """
    with LOCK:
        listed = list(torch.serialization.get_safe_globals())
        names = {_name(each) for each in STAND_INS}
        others = [each for each in listed if _name(each) not in names]
        _list_safe(others + STAND_INS)
        History.unfilled = 0
        try:
            yield
        finally:
            _list_safe(listed)
        if History.unfilled:
            raise UnpicklingError('HistoryBuffer without a state')


def _name(listed: Listed) -> str:
    """The name in files of what is listed as safe."""
    if isinstance(listed, tuple):
        return listed[1]
    return f'{listed.__module__}.{listed.__qualname__}'


def _list_safe(types: list[Listed]) -> None:
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(types)
