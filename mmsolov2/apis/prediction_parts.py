"""Parts of a job as files that grow with each image: to go on with, and to join."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import torch
from mmdet.models.detectors import BaseDetector

from mmsolov2.apis.prediction_formats import About
from mmsolov2.cli.config import dataset_of
from mmsolov2.cli.shards import Shard
from mmsolov2.errors import InputError

FOLDER = 'parts'
UNSAID = dict(  # of values of a job that nobody can read
    names='the images have other names', model='the model has other weights or settings'
)


class Job(NamedTuple):
    """What all parts of a job share, or they are of different jobs."""

    images_dir: str  # from which the names of images start
    images: int  # how many there are; 0 of a video
    names: str  # a digest of their names
    classes: list[str]
    model: str  # a digest of weights and settings
    score_thr: float
    batch_size: int
    slice_side: int | None
    formats: list[str]
    overlays: bool


class Part:
    """The records of a part of a job, a line of JSON each in ``parts/NUMBER-of-TOTAL.jsonl``.

    The first line is the job. A line that a killed run left unfinished is as if it were not there,
    and of several records of an image the last counts.
    """

    def __init__(self, out_dir: Path, job: Job, shard: Shard) -> None:
        self.job = job
        self.is_whole = shard.total == 1
        self.about = About(out_dir, job.images_dir, job.classes)
        self.path = part_path(out_dir / FOLDER, shard)
        self.file: IO[bytes] | None = None

    def resume(self) -> list[dict]:
        """Go on with what an earlier run wrote, if it did: its records.

        Raises:
            InputError: if that was another job, or the file is damaged.
        """
        if not self.path.is_file():
            return []
        job, records, size = read_part(self.path)
        different = difference(job, self.job)
        if different:
            raise InputError(
                f'{self.path}: --resume goes on with the same job alone, but {different}: give '
                'another --out-dir, or leave --resume out'
            )
        with _writing(self.path):
            os.truncate(self.path, size)
            self.file = open(self.path, 'ab')  # noqa: SIM115 closed by close()
        return records

    def add(self, record: dict) -> None:
        """Write a record. What an earlier run wrote, unless gone on with, becomes ``….jsonl.old``.

        Raises:
            InputError: if it cannot be written.
        """
        with _writing(self.path):
            if self.file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    os.replace(self.path, f'{self.path}.old')
                self.file = open(self.path, 'wb')  # noqa: SIM115 closed by close()
                self.file.write(_line(self.job._asdict()))
            self.file.write(_line(record))
            self.file.flush()

    def close(self) -> list[dict]:
        """Write no more: the records, those of an earlier run among them, by their ids."""
        if self.file is None:
            return []
        self.file.close()
        return read_part(self.path)[1]


def part_path(folder: Path, shard: Shard) -> Path:
    """Where in a folder the records of a part are."""
    return folder / f'{shard.number}-of-{shard.total}.jsonl'


def read_part(path: Path) -> tuple[Job, list[dict], int]:
    """The job and the records of a part, by their ids, and how many bytes of the file are whole.

    Raises:
        InputError: if it cannot be read, or is damaged before its last line.
    """
    try:
        whole, end, _ = path.read_bytes().rpartition(b'\n')  # what follows was never finished
    except OSError as error:
        raise InputError(f'{path}: it cannot be read: {error.strerror}') from error
    records: dict[int, dict] = {}
    job = None
    for number, line in enumerate(whole.split(b'\n'), 1):
        try:
            value = json.loads(line)
            if job is None:
                job = Job(**value)
            else:
                records[value['id']] = value
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f'{path}: line {number} is damaged: remove the file, and do this part anew'
            ) from error
    assert job is not None
    return job, [records[key] for key in sorted(records)], len(whole + end)


def difference(theirs: Job, ours: Job) -> str:
    """How a job that was begun differs from another; an empty text if it does not."""
    for name, their, our in zip(Job._fields, theirs, ours, strict=True):
        if their != our:
            return UNSAID.get(name, f'{name} is {their} there, and {our} here')
    return ''


def places(job: Job, shard: Shard) -> list[int]:
    """The places in a job's list of images that are a part's, from 0: those of whole batches.

    A batch has the same images in whatever part it is done, and so gives the same.
    """
    batches = shard.of(-(-job.images // job.batch_size))
    return list(range(job.images))[batches.start * job.batch_size : batches.stop * job.batch_size]


def left_to_do(todo: Sequence[int], records: Sequence[dict], batch_size: int) -> list[int]:
    """The places of a part without the batches of which every image was done, without an error."""
    done = {record['id'] - 1 for record in records if 'error' not in record}
    batches = [todo[at : at + batch_size] for at in range(0, len(todo), batch_size)]
    return [place for batch in batches if not done.issuperset(batch) for place in batch]


def join_parts(out_dir: Path) -> tuple[Job, list[dict]]:
    """The job of all parts in a folder, and their records by their ids.

    Raises:
        InputError: if parts are missing, not done, or of different jobs.
    """
    files = _all_parts(out_dir / FOLDER)
    first = next(path for path in files.values() if path.is_file())
    job = read_part(first)[0]
    every: dict[int, dict] = {}
    for shard, path in files.items():
        own, records, _ = read_part(path) if path.is_file() else (job, [], 0)
        different = difference(job, own)
        if different:
            raise InputError(f'{path}: it is of another job than {first}: {different}')
        wanted = places(job, shard)
        missing = len({*wanted} - {record['id'] - 1 for record in records})
        if missing:
            raise InputError(
                f'{path}: {missing} of its {len(wanted)} images are not done: predict with '
                f'--shard {shard.number}/{shard.total} --resume'
            )
        every.update((record['id'], record) for record in records)
    return job, [every[key] for key in sorted(every)]


def _all_parts(folder: Path) -> dict[Shard, Path]:
    """The files of all parts of one job, of which some may not be there.

    Raises:
        InputError: if there are none, or parts of several jobs.
    """
    totals = sorted({_shard_of(path).total for path in folder.glob('*-of-*.jsonl')})
    if len(totals) != 1:
        raise InputError(
            f'{folder}: there are {f"parts of jobs in {totals} parts" if totals else "no parts"}: '
            'give the --out-dir of one job, and remove the parts of others'
        )
    every = [Shard(number, totals[0]) for number in range(1, totals[0] + 1)]
    return {shard: part_path(folder, shard) for shard in every}


def _shard_of(path: Path) -> Shard:
    """The part that a file's name tells.

    Raises:
        InputError: if it tells none.
    """
    match = re.fullmatch(r'(\d+)-of-(\d+)\.jsonl', path.name, re.ASCII)
    if not match:
        raise InputError(f'{path}: this is no part of a job; remove it')
    return Shard(int(match[1]), int(match[2]))


def _line(value: dict) -> bytes:
    return json.dumps(value).encode() + b'\n'


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Make what the system says of a file that is written an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f'{path}: it cannot be written ({error.strerror or error}): make room, or choose '
            'another place'
        ) from error


def digest(values: object) -> str:
    """A short text that differs for different values of JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def model_digest(model: BaseDetector) -> str:
    """A short text that differs for models of different weights or settings."""
    weights = hashlib.sha256()
    for name, value in model.state_dict().items():
        weights.update(name.encode())
        weights.update(value.cpu().reshape(-1).view(torch.uint8).numpy().data)
    pipeline = dataset_of(model.cfg, 'test').pipeline
    return digest([weights.hexdigest(), model.cfg.model.to_dict(), pipeline])
