"""What is left of the tools, and of the workers that load their data, after a signal."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIGNALS = ROOT / 'mmsolov2' / 'cli' / 'signals.py'
WORKERS = (  # batches without end, and more of them than a pipe holds
    'num_workers=2',
    'persistent_workers=True',
    'sampler.type=InfiniteSampler',
)
pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')


def processes() -> dict[int, tuple[int, int]]:
    """The parent and the process group of every living process."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            state, parent, group = (folder / 'stat').read_text().rpartition(')')[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if state != 'Z':
            found[int(folder.name)] = int(parent), int(group)
    return found


def groups_below(pid: int) -> set[int]:
    """The process groups of a process and of all that it started."""
    family, every = {pid}, processes()
    while more := {one for one, (parent, _) in every.items() if parent in family} - family:
        family |= more
    return {every[one][1] for one in family}


def left(groups: set[int]) -> list[int]:
    return [one for one, (_, group) in processes().items() if group in groups]


def start(command: Iterable, log: Path, **variables) -> subprocess.Popen:
    """Start a program in a process group of its own, which writes all it says to a file."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **variables}
    with open(log, 'wb') as file:
        return subprocess.Popen(
            [*map(str, command)],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for(text: str, log: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not log.exists() or text not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.02)


def send(number: int, process: subprocess.Popen, *, to_all: bool = False) -> int:
    """Send a signal, and wait until nothing is left, for ten seconds: the exit status."""
    groups = groups_below(process.pid)
    deadline = time.monotonic() + 10
    (os.killpg if to_all else os.kill)(process.pid, number)
    try:
        status = process.wait(timeout=10)
        while left(groups) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left(groups) == []
    finally:
        for pid in left(groups):
            os.kill(pid, signal.SIGKILL)
    return status


@pytest.fixture(scope='module')
def checkpoint(tiny_config, run_python, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('trained')
    options = ['--work-dir', folder, '--cfg-options', 'train_cfg.max_epochs=1']
    run_python('tools/train.py', tiny_config, *options)
    return folder / 'epoch_1.pth'


@pytest.mark.parametrize(
    ('tool', 'number', 'to_all', 'status'),
    [
        ('train', signal.SIGTERM, False, 143),
        ('train', signal.SIGHUP, False, 129),
        ('train', signal.SIGINT, True, 130),
        ('train', signal.SIGKILL, False, -9),
        ('test', signal.SIGTERM, False, 143),
        ('test', signal.SIGHUP, False, 129),
    ],
)
def test_nothing_is_left_and_one_line_is_said(
    tiny_config, checkpoint, tmp_path, tool, number, to_all, status
):
    log = tmp_path / 'log'
    options = [f'{tool}_dataloader.{option}' for option in WORKERS]
    if tool == 'test':
        options += ['default_hooks.logger.interval=1']
    process = start([
        sys.executable, f'tools/{tool}.py', tiny_config, *([checkpoint] if tool == 'test' else []),
        '--work-dir', tmp_path, '--cfg-options', *options
    ], log)  # fmt: skip
    wait_for(f'Epoch({tool})', log, process)
    assert len(left({process.pid})) == 3
    assert send(number, process, to_all=to_all) == status
    said = log.read_text()
    if number != signal.SIGKILL:
        assert f'stopped by {number.name}' in said.splitlines()
        # a worker may be handing over a batch to the process that has just ended
        assert 'Traceback' not in said or 'resource_sharer' in said, said[-3000:]


def test_nothing_is_left_of_two_processes_of_torchrun(tiny_config, tmp_path, free_port):
    log = tmp_path / 'log'
    options = [f'train_dataloader.{option}' for option in WORKERS]
    process = start(
        ['tools/dist_train.sh', tiny_config, 2, '--work-dir', tmp_path, '--cfg-options', *options],
        log,
        PATH=f'{Path(sys.executable).parent}:/usr/bin:/bin',
        PORT=free_port,
    )
    wait_for('Epoch(train)', log, process)
    assert send(signal.SIGTERM, process) != 0
    assert log.read_text().count('stopped by SIGTERM') == 2


def test_ablations_end_with_their_trainings(tiny_config, tmp_path):
    log, training = tmp_path / 'log', tmp_path / 'out' / 'train' / 'default-seed-0' / 'train.log'
    options = [f'train_dataloader.{option}' for option in WORKERS]
    process = start([
        sys.executable, 'tools/reproduce_ablations.py', 'default', '--seeds', 0, 1, '--config',
        tiny_config, '--out-dir', tmp_path / 'out', '--cfg-options', *options
    ], log)  # fmt: skip
    wait_for('2 trainings', log, process)
    wait_for('Epoch(train)', training, process)
    assert send(signal.SIGTERM, process) == 143
    assert 'Traceback' not in log.read_text()


# The handlers alone: they need no package around them

BEGIN = f"""
import os, runpy, signal, sys
tool = runpy.run_path({str(SIGNALS)!r})
"""
STUCK = """
tool['stop_on_signals'](within=1)
import ctypes
os.fork()
library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
library.pthread_mutex_lock(mutex)
print('ready', flush=True)
library.pthread_mutex_lock(mutex)  # for ever, and no handler of Python's is called
"""
SAVES = """
tool['stop_on_signals']()
import time
print('ready', flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt as stopped:
    os.kill(os.getpid(), signal.SIGTERM)  # a second one
    print('saved', stopped.code)
    raise
"""
NOHUP = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
tool['stop_on_signals']()
os.kill(os.getpid(), signal.SIGHUP)
print('ready', flush=True)
signal.pause()
"""
FORKS_IN_A_THREAD = """
tool['stop_on_signals']()
import threading, time
begun, begins = os.pipe()
heard, told = os.pipe()
def fork():
    if os.fork() == 0:
        os.write(begins, b'.')
        os.read(heard, 1)
        os._exit(7)
    os.read(begun, 1)
thread = threading.Thread(target=fork)
thread.start()
thread.join()
while len(os.listdir('/proc/self/task')) > 1:
    time.sleep(0.01)
os.write(told, b'.')
print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
print('ready', flush=True)
signal.pause()
"""
LATE = """
import time
parent = os.getpid()
def wait_for_its_end():
    while os.getppid() == parent:
        time.sleep(0.01)
os.register_at_fork(after_in_child=wait_for_its_end)
tool['stop_on_signals']()
os.fork()
print('ready', flush=True)
signal.pause()
"""


@pytest.mark.parametrize(
    ('text', 'lines'),
    [
        (STUCK, ['ready', 'ready']),
        (SAVES, ['ready', 'stopped by SIGTERM', 'saved 143']),
        (NOHUP, ['ready', 'stopped by SIGTERM']),
        (FORKS_IN_A_THREAD, ['7', 'ready', 'stopped by SIGTERM']),
    ],
    ids=[
        'stuck in a library',
        'saves what it has',
        'ignores SIGHUP',
        'forks in a thread that ends',
    ],
)
def test_a_program(tmp_path, text, lines):
    log = tmp_path / 'log'
    process = start([sys.executable, '-c', BEGIN + text], log)
    wait_for('\n'.join(line for line in lines if line == 'ready'), log, process)
    assert send(signal.SIGTERM, process) == 143
    assert log.read_text().splitlines() == lines


def test_a_process_that_is_killed_while_it_forks(tmp_path):
    """The kernel has nobody to tell any more when the forked one asks it."""
    log = tmp_path / 'log'
    process = start([sys.executable, '-c', BEGIN + LATE], log)
    wait_for('ready', log, process)
    assert send(signal.SIGKILL, process) == -9
    assert log.read_text().splitlines() == ['ready']
