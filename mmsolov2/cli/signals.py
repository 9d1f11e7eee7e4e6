"""Ending a tool, and the processes it forked, when it is told to stop or dies."""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

NAMES = ('SIGHUP', 'SIGINT', 'SIGTERM')
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
PR_SET_PDEATHSIG = 1  # of Linux's prctl


class Stopped(SystemExit, KeyboardInterrupt):
    """A signal said stop: it interrupts what is done as Ctrl-C, and exits without a traceback."""


def stop_on_signals(*, within: float | None = None) -> None:
    """End this process on SIGHUP, SIGINT or SIGTERM: a line, and 128 + the signal as exit status.

    It ends as by Ctrl-C, what is being done first; ``within`` seconds, if given, also when it is
    busy in a library. A second signal changes nothing. Signals that are ignored stay so, as SIGHUP
    under nohup. Forked processes, as the workers of a data loader, leave signals to this one; on
    Linux those that the main thread forks end with it, also when it is killed: alone they can wait
    for ever to hand over a batch.
    """
    if within is not None:
        heard, told = socket.socketpair()
        told.setblocking(False)
        signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_exit_late, args=(heard, told, within), daemon=True).start()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    if hasattr(os, 'register_at_fork'):  # not on Windows, where nothing is forked
        prctl = ctypes.CDLL(None).prctl if sys.platform == 'linux' else None
        forking = threading.local()
        os.register_at_fork(
            before=partial(_note_parent, forking),
            after_in_child=partial(_follow_parent, forking, prctl),
        )


def _stop(number: int, frame: FrameType | None) -> None:
    for each in (*SIGNALS, getattr(signal, 'SIGCHLD', number)):  # torch raises when a worker ends
        signal.signal(each, _pass)
    os.write(2, f'stopped by {signal.Signals(number).name}\n'.encode())  # print() may be at work
    raise Stopped(128 + number)


def _pass(number: int, frame: FrameType | None) -> None:
    """Do nothing, also for a signal that has come already, of which SIG_IGN makes Python speak."""


def _exit_late(heard: socket.socket, told: socket.socket, seconds: float) -> None:
    """Wait for a signal, then exit after some seconds, whatever the main thread is doing.

    ``told`` is what signals write to, before Python has a chance to call their handlers.
    """
    number = 0
    while number not in SIGNALS:
        number = heard.recv(1)[0]
    time.sleep(seconds)
    os._exit(128 + number)


def _note_parent(forking: threading.local) -> None:
    """Keep the process that forks, if the thread that does lives as long as it."""
    in_main = threading.current_thread() is threading.main_thread()
    forking.parent = os.getpid() if in_main else None


def _follow_parent(forking: threading.local, prctl: Callable | None) -> None:
    signal.set_wakeup_fd(-1)  # it is the parent's
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the parent's word
    if prctl is not None and forking.parent is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # by the kernel, when the thread that forked ends
        if os.getppid() != forking.parent:  # it has ended already
            os._exit(128 + signal.SIGKILL)
