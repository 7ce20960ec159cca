"""One task after another on all cores, in forked processes that die with their parent; it does not know what they do.

Whatever a task needs is there already when a process is forked; only its number goes in and its result comes out.
A child runs nothing of the parent's but the task: torch on one thread, no TensorBoard, no Ctrl-C of its own.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar, cast

import torch

from policykd.errors import EnvError, UsageError

__all__ = ["MOST", "Ahead", "crew", "each"]

T = TypeVar("T")

MOST = 8
"""Processes at most, unless more are asked for."""

_PATIENCE = 1.0  # seconds for a child to leave by itself


def crew(workers: int | None) -> int:
    """How many processes to use: ``workers``, None for one a usable core (8 at most); 1 where forking is not safe.

    Not safe: outside Linux, once CUDA has been used, and in a daemonic process, which may have no children.

    Raises:
        UsageError: ``rollouts.workers`` for fewer than 1.
    """
    if workers is not None and workers < 1:
        raise UsageError("rollouts.workers", f"{workers} workers", "at least 1", "1 plays in this process")
    if sys.platform != "linux" or torch.cuda.is_initialized() or multiprocessing.current_process().daemon:
        return 1
    return min(len(os.sched_getaffinity(0)), MOST) if workers is None else workers


def each(task: Callable[[int], T], count: int, workers: int | None = None) -> tuple[list[T], float]:
    """``task(0)`` to ``task(count - 1)``, on ``crew(workers)`` processes; one process is this one.

    Torch runs on one thread in any case, so that results do not depend on the number of processes.

    Returns:
        The results in order, and the processor seconds that other processes have spent.

    Raises:
        EnvError: ``env.worker`` when a process dies, ``env.failed`` for an exception that cannot leave its process;
            every other exception of a task arrives as it is.
    """
    processes = min(crew(workers), count)
    if processes < 2:
        with _one_thread():
            return [task(i) for i in range(count)], 0.0
    return _forked(task, count, processes)


class Ahead(Generic[T]):
    """A task that another process does meanwhile, where there is another core for it; ``result`` waits for it.

    Where there is none it is done when its result is asked for. Closing, or losing the last reference, ends it.

    Args:
        task: needs no argument; as for ``each``.
        workers: as for ``each``; with fewer than 2 nothing is started.
    """

    def __init__(self, task: Callable[[], T], workers: int | None = None) -> None:
        self._task = task
        self._children: dict[Connection, BaseProcess] = {}
        self._found: list[T] = []
        self._end = weakref.finalize(self, _end, self._children)
        if crew(workers) > 1:
            _start(lambda _: task(), self._children)
            for line in self._children:
                _send(line, 0, self._children)

    def result(self) -> T:
        """What the task returns.

        Raises:
            EnvError: as for ``each``; every exception of the task arrives as it is.
        """
        if not self._found:
            for line in list(self._children):
                done, _, found = _receive(line, self._children)
                self.close()
                if not done:
                    raise found
                self._found.append(found)
        if not self._found:
            with _one_thread():
                self._found.append(self._task())
        return self._found[0]

    def close(self) -> None:
        """End the process."""
        self._end()


def _end(children: dict[Connection, BaseProcess]) -> None:
    for line, child in children.items():
        line.close()
        if child.exitcode is None:
            child.kill()
        child.join()
        child.close()
    children.clear()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _forked(task: Callable[[int], T], count: int, processes: int) -> tuple[list[T], float]:
    results: dict[int, T] = {}
    seconds: dict[Connection, float] = {}
    children: dict[Connection, BaseProcess] = {}
    waiting = iter(range(count))
    try:
        for _ in range(processes):
            _start(task, children)
        busy = {line: next(waiting) for line in children}
        for line, i in busy.items():
            _send(line, i, children)
        while busy:
            for line in cast("list[Connection]", wait(list(busy))):
                done, seconds[line], found = _receive(line, children)
                if not done:
                    raise found
                results[busy.pop(line)] = found
                for i in waiting:
                    busy[line] = i
                    _send(line, i, children)
                    break
        for line in children:
            line.close()  # the child sees the end of its work, and leaves
        for child in children.values():
            child.join(_PATIENCE)
    finally:
        _end(children)  # nothing that they hold is needed any more
    return [results[i] for i in range(count)], sum(seconds.values())


def _start(task: Callable[[int], Any], children: dict[Connection, BaseProcess]) -> None:
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    child = context.Process(target=_serve, args=(task, theirs, [*children, mine]), name="policykd-worker")
    # Ctrl-C reaches the whole group: a child must not meet it before it can ignore it.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of locks that other threads may hold. The child takes none of theirs: it steps its own
            # environments and runs torch on one thread; the interpreter and malloc renew their own locks at a fork.
            warnings.filterwarnings("ignore", r".*multi-threaded, use of fork\(\)", DeprecationWarning)
            child.start()
        children[mine] = child
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()  # the child's end has closed when the child has died, and no later child holds it


def _send(line: Connection, i: int, children: dict[Connection, BaseProcess]) -> None:
    try:
        line.send_bytes(pickle.dumps(i))
    except OSError:
        raise _died(children[line]) from None


def _receive(line: Connection, children: dict[Connection, BaseProcess]) -> tuple[bool, float, Any]:
    try:
        done, seconds, found, where = pickle.loads(line.recv_bytes())
    except (EOFError, OSError):
        raise _died(children[line]) from None
    if not done:
        found.add_note(f"In the process that played it:\n{where}")
    return done, seconds, found


def _died(child: BaseProcess) -> EnvError:
    child.join(_PATIENCE)
    code = child.exitcode
    if code is None:
        how = "closed its connection"
    elif code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    else:
        how = f"ended itself with exit code {code}"
    return EnvError(
        "env.worker",
        f"a process that played episodes {how}",
        "one that plays them to their end",
        "give it more memory, or play in one process (workers=1) to see what the environment does",
    )


def _serve(task: Callable[[int], Any], line: Connection, parents: list[Connection]) -> None:
    """What a child does: tasks by number until the parent hangs up, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # what was the parent's is not this process's to finalise
    torch.set_num_threads(1)
    for end in parents:
        end.close()  # a child that held the parent's ends would never see them close
    try:
        while True:
            i = pickle.loads(line.recv_bytes())
            try:
                found = task(i)
                answer = pickle.dumps((True, time.process_time(), found, ""))
            except BaseException as error:
                answer = pickle.dumps((False, time.process_time(), _portable(error), traceback.format_exc()))
            line.send_bytes(answer)
    except (EOFError, OSError):
        return


def _portable(error: BaseException) -> BaseException:
    """The error if it survives pickling, else its words."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # an exception's own constructor may raise anything at all
        pass
    said = f"{type(error).__name__}: {error}"
    return EnvError("env.failed", said, "episodes that end", "play in one process (workers=1) to see where it happens")
