"""The arguments of the shell scripts, with stand-ins for srun and for Python."""

import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def run(tmp_path):
    """Runs a script: its outcome, and the words with which it called the stand-in, if it did."""
    for name in ('srun', 'python'):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/called\n')
        program.chmod(0o755)

    def run_script(name: str, *words: str, **variables):
        result = subprocess.run(
            [TOOLS / name, *words],
            env={'PATH': f'{tmp_path}:{os.environ["PATH"]}', **variables},
            capture_output=True,
            text=True,
        )
        called = tmp_path / 'called'
        return result, called.read_text().splitlines() if called.exists() else None

    return run_script


@pytest.mark.parametrize(
    ('name', 'words', 'usage'),
    [
        ('slurm_train.sh', '', 'PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]'),
        ('slurm_train.sh', 'gpu job a.py', 'PARTITION JOB_NAME CONFIG WORK_DIR '),
        ('slurm_train.sh', 'gpu job a.py --amp', 'PARTITION JOB_NAME CONFIG WORK_DIR '),
        ('slurm_test.sh', '', 'PARTITION JOB_NAME CONFIG CHECKPOINT [options of test.py]'),
        ('slurm_test.sh', 'gpu job a.py', 'PARTITION JOB_NAME CONFIG CHECKPOINT '),
        ('slurm_test.sh', 'gpu job a.py --out a.pkl', 'PARTITION JOB_NAME CONFIG CHECKPOINT '),
        ('dist_train.sh', '', 'CONFIG GPUS [options of train.py]'),
        ('dist_train.sh', 'a.py', 'CONFIG GPUS '),
        ('dist_train.sh', 'a.py two', 'CONFIG GPUS '),
        ('dist_train.sh', 'a.py 0', 'CONFIG GPUS '),
        ('dist_train.sh', 'a.py --amp', 'CONFIG GPUS '),
        ('dist_test.sh', '', 'CONFIG CHECKPOINT GPUS [options of test.py]'),
        ('dist_test.sh', 'a.py 2', 'CONFIG CHECKPOINT GPUS '),
        ('dist_test.sh', 'a.py 2 b.pth', 'CONFIG CHECKPOINT GPUS '),
        ('dist_test.sh', 'a.py b.pth 1.5', 'CONFIG CHECKPOINT GPUS '),
    ],
)
def test_wrong_arguments_start_nothing(run, name, words, usage):
    result, called = run(name, *words.split())
    assert result.returncode == 2 and called is None
    (line,) = result.stderr.splitlines()
    assert line.startswith(f'usage: {TOOLS / name} {usage}') and not result.stdout


@pytest.mark.parametrize(
    ('kind', 'fourth'), [('train', ['--work-dir=my work']), ('test', ['my work'])]
)
def test_slurm(run, kind, fourth):
    options = ['--cfg-options', 'a=b c']
    result, called = run(
        f'slurm_{kind}.sh', 'gpu', 'job', 'a.py', 'my work', *options, GPUS='4', SRUN_ARGS='-q x'
    )
    assert result.returncode == 0
    assert called == [
        '-p', 'gpu', '--job-name=job', '--gres=gpu:8', '--ntasks=4', '--ntasks-per-node=8',
        '--cpus-per-task=5', '--kill-on-bad-exit=1', '-q', 'x', 'python', '-u',
        f'{TOOLS}/{kind}.py', 'a.py', *fourth, '--launcher=slurm', *options
    ]  # fmt: skip


@pytest.mark.parametrize(('kind', 'second'), [('train', []), ('test', ['b.pth'])])
def test_torchrun(run, kind, second):
    result, called = run(f'dist_{kind}.sh', 'a.py', *second, '2', '--work-dir', 'my work')
    assert result.returncode == 0
    assert called == [
        '-m', 'torch.distributed.run', '--nnodes=1', '--node_rank=0', '--master_addr=127.0.0.1',
        '--master_port=29500', '--nproc_per_node=2', f'{TOOLS}/{kind}.py', 'a.py', *second,
        '--launcher', 'pytorch', '--work-dir', 'my work'
    ]  # fmt: skip
