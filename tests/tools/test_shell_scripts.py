"""The shell scripts, with stand-ins for srun and for Python."""

import os
import shutil
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


STAND_IN = """#!/bin/sh
case "$1" in
    -c) echo "a card"; exit ${card:-0} ;;
    -m) echo "$@" >> $called; exit ${tests:-0} ;;
    *) echo "$@" >> $called; exit ${benchmark:-0} ;;
esac
"""


@pytest.mark.skipif(shutil.which('timeout') is None, reason='there is no timeout')
@pytest.mark.parametrize(
    ('statuses', 'started', 'status'),
    [
        (dict(), 2, 0),
        (dict(tests='1'), 2, 1),  # what fails leaves the rest to be measured
        (dict(benchmark='1'), 2, 1),
        (dict(card='1'), 0, 1),
    ],
    ids=str,
)
def test_what_a_gpu_is_asked(statuses, started, status, tmp_path):
    program, called, out = tmp_path / 'python', tmp_path / 'called', tmp_path / 'my results'
    program.write_text(STAND_IN)
    program.chmod(0o755)
    called.touch()
    variables = dict(PATH=os.environ['PATH'], PYTHON=str(program), called=str(called))
    words = ['make', '--no-print-directory', 'gpu', f'GPU_OUT={out}']
    result = subprocess.run(
        words, cwd=TOOLS.parent, env={**variables, **statuses}, capture_output=True, text=True
    )
    assert (result.returncode != 0) == status
    lines = called.read_text().splitlines()
    assert len(lines) == started
    assert (out / 'log.txt').read_text().startswith('a card\n')
    if lines:
        assert lines[0].startswith('-m pytest -m cuda ')
        assert lines[1].startswith(f'tools/benchmark.py gpu --device cuda --out {out} --seconds 4')
        assert f'results in {out}' in result.stdout
    else:
        assert f'error: {program} sees no GPU' in result.stdout
