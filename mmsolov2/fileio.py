"""Writing files whole or not at all, and finding those of a run."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from mmengine.fileio import LocalBackend, register_backend

from mmsolov2.errors import InputError


@register_backend('mmsolov2.atomic')
class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, which appear under their name only when they are complete.

    Checkpoints written through it (``backend_args=dict(backend='mmsolov2.atomic')``) are whole,
    whenever the run is killed.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write bytes to a neighbouring file, flush it to disk, and rename it.

        Raises:
            InputError: if the file cannot be written; what there is of it is deleted.
        """
        unfinished = f'{filepath}.unfinished'
        try:
            super().put(obj, unfinished)
            with open(unfinished, 'r+b') as file:  # Windows flushes what is open for writing alone
                os.fsync(file.fileno())
            os.replace(unfinished, filepath)
        except OSError as error:
            raise InputError(
                f'{filepath}: it cannot be written ({error.strerror or error}): make room, or '
                'choose another place'
            ) from error
        finally:
            with suppress(OSError):  # it has its name by now
                os.unlink(unfinished)


def write_whole(path: str | Path, content: str | bytes | memoryview) -> None:
    """Write a file, text as UTF-8, whole or not at all; its folder is made.

    Raises:
        InputError: if it cannot be written.
    """
    AtomicLocalBackend().put(content.encode() if isinstance(content, str) else content, path)


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint that training in a work folder goes on from, or None without one.

    It is the one that mmengine notes in ``last_checkpoint``, or else the newest in the folder: a
    run that is killed while it writes the note leaves it empty, and a folder may have been moved.
    Newest is the highest number, as copies may have any time.
    """
    folder = Path(work_dir)
    note = folder / 'last_checkpoint'
    noted = note.read_text().strip() if note.is_file() else ''
    if os.path.exists(noted) or '://' in noted:
        return noted
    found = []
    for kind in ('epoch', 'iter'):
        names = [re.fullmatch(rf'{kind}_(\d+)\.pth', path.name) for path in folder.glob('*.pth')]
        numbers = [int(name[1]) for name in names if name]
        found += [folder / f'{kind}_{max(numbers)}.pth'] if numbers else []
    return str(max(found, key=os.path.getmtime)) if found else None


def trained_checkpoint(work_dir: str | Path) -> str:
    """The last checkpoint of a training that is done.

    Raises:
        InputError: if it was removed.
    """
    checkpoint = latest_checkpoint(work_dir)
    if checkpoint is None:
        raise InputError(
            f'{work_dir}: this training is done, but its checkpoint is not there; remove the '
            'folder to train again'
        )
    return checkpoint


def latest_figures(work_dir: str | Path) -> dict[str, float]:
    """The figures of the last test in a work folder."""
    newest = max(Path(work_dir).glob('*/*.json'), key=os.path.getmtime)
    return json.loads(newest.read_text())


def require_folder(path: str | Path) -> None:
    """Make a folder for results, unless it is there, and see that it takes files.

    Raises:
        InputError: if it does not; the results of hours would have no place.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path).close()
    except OSError as error:
        raise InputError(
            f'{path}: no such folder can be made ({error.strerror}), or it cannot be written to: '
            'choose another place'
        ) from error
