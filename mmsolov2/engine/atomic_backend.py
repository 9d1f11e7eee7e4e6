"""Writing files whole or not at all."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend


@register_backend('mmsolov2.atomic')
class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, which appear under their name only when they are complete.

    Checkpoints written through it (``backend_args=dict(backend='mmsolov2.atomic')``) are whole,
    whenever the run is killed.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write bytes to a neighbouring file, flush it to disk, and rename it."""
        unfinished = f'{filepath}.unfinished'
        super().put(obj, unfinished)
        with open(unfinished, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(unfinished, filepath)
