"""How benchmarks measure: by turns in one process, synchronised, and memory at its peak."""

import ctypes
import gc
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import mmdet
import mmengine
import torch

STATUS, CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one run."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def by_turns(
    runs: Mapping[str, Callable[[], object]],
    *,
    device: torch.device,
    repeats: int,
    warmup: int = 2,
) -> dict[str, list[float]]:
    """Seconds of each run, ``repeats`` values: one round after the other, each with all runs.

    Rounds begin with another run each, so that none is always the one behind the slowest.
    """
    names, found = list(runs), {name: [] for name in runs}
    for turn in range(warmup + repeats):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            spent = seconds(runs[name], device)
            if turn >= warmup:
                found[name].append(spent)
    return found


def waits(run: Callable[[], object], device: torch.device) -> int:
    """How often one run waits for a GPU, by torch's own count."""
    synchronize(device)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode('default')
    return sum('called a synchronizing CUDA operation' in str(one.message) for one in seen)


# Memory


def resident(field: str) -> int:
    """Bytes of this process by a field of its status: VmRSS now, VmHWM at most."""
    (line,) = (one for one in STATUS.read_text().splitlines() if one.startswith(field))
    return 1024 * int(line.split()[1])


def peak_memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that one run takes at most beyond what is taken before; None where not measurable.

    On the CPU it is the resident set's high-water mark, which belongs to the whole process: take
    a fresh one for each measurement (``in_fresh_process``).
    """
    gc.collect()
    if device.type == 'cuda':
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if not CLEAR.exists():
        return None
    give_back_memory()
    CLEAR.write_text('5')  # Linux: sets the high-water mark back to what is resident now
    before = resident('VmRSS')
    run()
    return max(resident('VmHWM') - before, 0)


def give_back_memory() -> None:
    """Let the C library return what is free to the system: it would be taken again uncounted."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)  # glibc has it
    if trim is not None:
        trim(0)


def in_fresh_process(function: Callable, *arguments):
    """What a function returns in a new process.

    Raises:
        BrokenProcessPool: if that was killed.
    """
    forks = 'forkserver' in get_all_start_methods()
    context = get_context('forkserver' if forks else 'spawn')
    if forks:  # from a process that has imported what takes seconds, and run nothing
        context.set_forkserver_preload(['mmsolov2', 'mmdet.models', 'mmsolov2.models'])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


# The machine


def cpu_name() -> str:
    """The CPU's model, as far as the system tells."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return next(iter(names), platform.processor() or platform.machine())


def machine(device: torch.device) -> dict:
    """What figures depend on: hardware, versions, the date and the command line."""
    found = dict(
        device=torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU',
        cpu=cpu_name(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        date=datetime.now(timezone.utc).strftime('%Y-%m-%d'),
        command=' '.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )
    packages = (torch, mmdet, mmengine)
    return {**found, **{package.__name__: package.__version__ for package in packages}}
