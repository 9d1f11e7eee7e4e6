"""Parts of a job: which there are, and which is whose."""

import pytest

from mmsolov2.cli.shards import Shard, parse_shard
from mmsolov2.errors import InputError


@pytest.mark.parametrize('length', [0, 1, 5, 12, 100])
@pytest.mark.parametrize('total', [1, 2, 3, 7])
def test_parts_are_the_whole_and_nearly_equal(length, total):
    parts = [Shard(number, total).of(length) for number in range(1, total + 1)]
    assert [place for part in parts for place in part] == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ('text', 'variables', 'expected'),
    [
        (None, dict(RANK='1', WORLD_SIZE='2'), Shard(1, 1)),  # auto is not asked for
        ('2/8', dict(RANK='1', WORLD_SIZE='2'), Shard(2, 8)),
        ('8/8', {}, Shard(8, 8)),
        ('auto', dict(RANK='1', WORLD_SIZE='2'), Shard(2, 2)),
        ('auto', dict(SLURM_PROCID='3', SLURM_NTASKS='4'), Shard(4, 4)),
        ('auto/2', dict(RANK='1', WORLD_SIZE='2'), Shard(2, 2)),
        ('auto/6', dict(JOB_COMPLETION_INDEX='5'), Shard(6, 6)),
        (
            'auto',
            dict(RANK='1', WORLD_SIZE='2', SLURM_PROCID='0', SLURM_NTASKS='1'),
            Shard(2, 2),
        ),
    ],
)
def test_parts_that_are_named(text, variables, expected):
    assert parse_shard(text, variables) == expected


@pytest.mark.parametrize(
    ('text', 'variables', 'said'),
    [
        ('two/8', {}, 'give a part as 2/8, the second of eight, or auto'),
        ('2', {}, 'give a part as 2/8'),
        ('', {}, 'give a part as 2/8'),
        ('2/', {}, 'give a part as 2/8'),
        ('-1/8', {}, 'give a part as 2/8'),
        ('²/8', {}, 'give a part as 2/8'),
        ('0/8', {}, 'there is no part 0 of 8: the first of eight is 1/8'),
        ('9/8', {}, 'there is no part 9 of 8'),
        ('1/0', {}, 'there is no part 1 of 0'),
        ('auto', {}, 'no launcher has set RANK, JOB_COMPLETION_INDEX, SLURM_PROCID'),
        ('auto', dict(JOB_COMPLETION_INDEX='0'), 'does not tell of how many parts'),
        ('auto', dict(RANK='0'), 'does not tell of how many parts'),
        ('auto', dict(RANK='first', WORLD_SIZE='2'), 'RANK=first does not tell'),
        ('auto/3', dict(RANK='0', WORLD_SIZE='2'), 'WORLD_SIZE=2 says another number'),
        ('auto/3', dict(JOB_COMPLETION_INDEX='3'), 'there is no part 4 of 3'),
    ],
)
def test_parts_that_are_wrong(text, variables, said):
    with pytest.raises(InputError) as caught:
        parse_shard(text, variables)
    assert f'--shard {text}: ' in str(caught.value) and said in str(caught.value)
