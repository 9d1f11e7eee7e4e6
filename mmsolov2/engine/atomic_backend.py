"""Writing files whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

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
