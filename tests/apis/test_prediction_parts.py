"""Parts of a job: written, cut, gone on with, and joined."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmsolov2.apis.prediction_parts import (
    Job,
    Part,
    join_parts,
    left_to_do,
    model_digest,
    places,
    read_part,
)
from mmsolov2.cli.shards import Shard
from mmsolov2.errors import InputError

JOB = Job('/photos', 10, 'n1', ['a'], 'm1', 0.3, 4, None, ['coco'], True)


def done(place: int) -> dict:
    return dict(id=place + 1, file_name=str(place), width=1, height=1, results=[])


def failed(place: int) -> dict:
    return dict(id=place + 1, file_name=str(place), error='no image')


def write(folder: Path, shard: Shard, records: list[dict], job: Job = JOB) -> Part:
    part = Part(folder, job, shard)
    for record in records:
        part.add(record)
    part.close()
    return part


def test_parts_are_of_whole_batches():
    parts = [places(JOB, Shard(number, 2)) for number in (1, 2)]
    assert parts == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
    many = [places(JOB, Shard(number, 5)) for number in range(1, 6)]
    assert sorted(many) == [[], [], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_batches_without_an_error_are_not_done_again():
    todo = list(range(2, 12))
    records = [done(place) for place in (2, 3, 4, 5, 6, 7, 8)] + [failed(9), done(10), done(11)]
    assert left_to_do(todo, records, 4) == [6, 7, 8, 9]
    assert left_to_do(todo, [], 4) == todo
    assert left_to_do(todo, records[:3], 4) == todo
    assert left_to_do([], [], 4) == []


def test_records_come_back_and_the_last_counts(tmp_path):
    part = Part(tmp_path, JOB, Shard())
    for record in (done(1), failed(0), done(0)):
        part.add(record)
    assert part.close() == [done(0), done(1)]
    job, records, size = read_part(tmp_path / 'parts' / '1-of-1.jsonl')
    assert (job, records) == (JOB, [done(0), done(1)]) and size == part.path.stat().st_size


def test_nothing_added_nothing_written(tmp_path):
    part = Part(tmp_path, JOB, Shard())
    assert part.resume() == [] and part.close() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('cut', range(1, 40, 7))
def test_a_killed_run_loses_its_last_line(tmp_path, cut):
    path = write(tmp_path, Shard(), [done(0), done(1)]).path
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    part = Part(tmp_path, JOB, Shard())
    assert part.resume() == [done(0)]
    part.add(done(1))
    assert part.close() == [done(0), done(1)]
    assert path.read_bytes() == whole


def test_a_run_that_was_killed_at_once(tmp_path):
    path = write(tmp_path, Shard(), [done(0)]).path
    path.write_bytes(path.read_bytes()[:20])
    part = Part(tmp_path, JOB, Shard())
    with pytest.raises(InputError, match='1-of-1.jsonl: line 1 is damaged: remove the file'):
        part.resume()


@pytest.mark.parametrize('damage', [b'{"id": \n', b'[]\n', b'{}\n', b'\0\0\n', b'\n'])
def test_a_damaged_line_is_named(tmp_path, damage):
    path = write(tmp_path, Shard(), [done(0), done(1)]).path
    first, _, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damage + third)
    with pytest.raises(InputError, match='line 2 is damaged'):
        read_part(path)


def test_an_earlier_run_is_kept_once(tmp_path):
    path = write(tmp_path, Shard(), [done(0), done(1)]).path
    before = path.read_bytes()
    write(tmp_path, Shard(), [done(0)])
    assert Path(f'{path}.old').read_bytes() == before
    assert read_part(path)[1] == [done(0)]


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (dict(score_thr=0.5), 'score_thr is 0.3 there, and 0.5 here'),
        (dict(images=11), 'images is 10 there, and 11 here'),
        (dict(names='n2'), 'the images have other names'),
        (dict(model='m2'), 'the model has other weights or settings'),
        (dict(formats=['csv']), r"formats is \['coco'\] there, and \['csv'\] here"),
        (dict(batch_size=1), 'batch_size is 4 there, and 1 here'),
        (dict(slice_side=512), 'slice_side is None there, and 512 here'),
    ],
)
def test_another_job_is_not_gone_on_with_nor_joined(tmp_path, changes, said):
    write(tmp_path, Shard(1, 2), [done(place) for place in range(4)])
    other = JOB._replace(**changes)
    with pytest.raises(InputError, match=f'1-of-2.jsonl: --resume goes on .* but {said}'):
        Part(tmp_path, other, Shard(1, 2)).resume()
    write(tmp_path, Shard(2, 2), [done(place) for place in range(4, 10)], other)
    with pytest.raises(InputError, match=f'2-of-2.jsonl: it is of another job than .*: {said}'):
        join_parts(tmp_path)


def test_parts_are_joined_by_their_ids(tmp_path):
    write(tmp_path, Shard(2, 2), [failed(4), *(done(place) for place in range(9, 4, -1))])
    write(tmp_path, Shard(1, 2), [done(place) for place in range(4)])
    job, records = join_parts(tmp_path)
    assert job == JOB and [record['id'] for record in records] == list(range(1, 11))
    assert records[4] == failed(4)


def test_a_part_without_images_needs_no_file(tmp_path):
    for number in range(1, 6):
        shard = Shard(number, 5)
        write(tmp_path, shard, [done(place) for place in places(JOB, shard)])
    assert len(list((tmp_path / 'parts').iterdir())) == 3
    assert len(join_parts(tmp_path)[1]) == 10


def test_parts_that_cannot_be_joined(tmp_path):
    with pytest.raises(InputError, match='there are no parts: give the --out-dir of one job'):
        join_parts(tmp_path)
    write(tmp_path, Shard(2, 2), [done(place) for place in range(4, 9)])
    with pytest.raises(InputError, match='1-of-2.jsonl: 4 of its 4 images .* --shard 1/2 --resume'):
        join_parts(tmp_path)
    write(tmp_path, Shard(1, 2), [done(place) for place in range(4)])
    with pytest.raises(InputError, match='2-of-2.jsonl: 1 of its 6 images .* --shard 2/2 --resume'):
        join_parts(tmp_path)
    write(tmp_path, Shard(1, 1), [done(0)])
    with pytest.raises(InputError, match=r'parts of jobs in \[1, 2\] parts'):
        join_parts(tmp_path)
    (tmp_path / 'parts' / 'x-of-2.jsonl').touch()
    with pytest.raises(InputError, match='x-of-2.jsonl: this is no part of a job'):
        join_parts(tmp_path)


def test_a_part_that_cannot_be_written(tmp_path):
    (tmp_path / 'parts').touch()
    with pytest.raises(InputError, match=r'1-of-1\.jsonl: it cannot be written'):
        Part(tmp_path, JOB, Shard()).add(done(0))


def test_a_part_holds_a_job_as_it_is_written(tmp_path):
    """Every value comes back from JSON as it was, or no part could be gone on with."""
    path = write(tmp_path, Shard(), [done(0)]).path
    assert Job(**json.loads(path.read_text().splitlines()[0])) == JOB


def test_models_are_told_apart():

    def model(weight: float, **settings) -> nn.Module:
        built = nn.BatchNorm1d(2)
        nn.init.constant_(built.weight, weight)
        loader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=settings.pop('scale', 1))]))
        built.cfg = Config(dict(model=settings, test_dataloader=loader))
        return built

    digests = [
        model_digest(each) for each in (model(1), model(2), model(1, a=1), model(1, scale=2))
    ]
    assert len(set(digests)) == 4 and model_digest(model(1)) == digests[0]
    half = model(1)
    half.weight.data = half.weight.data.to(torch.bfloat16)
    assert model_digest(half) not in digests
