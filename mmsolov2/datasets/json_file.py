"""Files of JSON, read whole, and named where they are none."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsolov2.datasets.segmentation import kind_of
from mmsolov2.errors import InputError

PACKED = {b'PK\x03\x04': 'a zip file', b'\x1f\x8b': 'a gzip file', b'\x89PNG': 'an image'}
SHOWN = 200  # characters of a foreign message or value


@contextmanager
def paused_collector() -> Iterator[None]:
    """Hold Python's garbage collector: it walks all that was read again and again, for nothing.

    A third of the time to read a large file (``tools/benchmark.py read``).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_json(path: str, name: str) -> dict:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32; messages call it ``name``.

    Raises:
        InputError: if it is missing, no JSON, or something else than one object.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f'{name}: there is no such annotation file; check data_root and ann_file'
        ) from error
    except OSError as error:
        raise InputError(f'{name}: it cannot be read: {error.strerror}') from error
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        kind = next((kind for start, kind in PACKED.items() if data.startswith(start)), None)
        reason = f'it is {kind}: unpack it' if kind else clipped(error)
        raise InputError(f'{name}: this is no COCO file of JSON: {reason}') from error
    if not isinstance(content, dict):
        raise InputError(f'{name}: this is no COCO file of JSON: it holds {kind_of(content)}')
    return content


def clipped(value: object, limit: int = SHOWN) -> str:
    """The text of a value, or its beginning."""
    text = str(value)
    return text if len(text) <= limit else f'{text[:limit]} …'
