"""Independent pieces of work in this thread, in threads or in processes: in order, and a bounded number at a time."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import connection, get_context, parent_process
from typing import Literal, ParamSpec, TypeVar

from amctc.errors import LimitError, UsageError

P = ParamSpec("P")
Item = TypeVar("Item")
T = TypeVar("T")

ExecutorKind = Literal["serial", "threads", "processes"]


class SerialExecutor(Executor):
    """Runs each call in the caller's thread, at the moment it is submitted."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """A future that is done: with the result, or with the error."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def open_executor(kind: ExecutorKind | None = None, jobs: int | None = None) -> Executor:
    """An executor of ``jobs`` workers; close it, or use it as a context.

    ``kind`` defaults to threads for more than one job, else serial; ``jobs`` to the cores this process may use.
    Processes are spawned, because ONNX Runtime's threads do not survive a fork: a script that opens such an executor
    needs ``if __name__ == "__main__":`` around its work. Raises :class:`UsageError` for less than one job.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} jobs", remedy="give at least 1")
    if kind == "serial" and (jobs or 1) > 1:
        raise UsageError(f"a serial executor runs no {jobs} jobs", remedy="choose threads or processes")
    kind = kind or ("threads" if (jobs or 1) > 1 else "serial")
    if kind == "serial":
        return SerialExecutor()
    count = jobs or usable_cores()
    if kind == "threads":
        return ThreadPoolExecutor(count, "amctc")
    return ProcessPoolExecutor(count, get_context("spawn"), _start_worker)


def _start_worker() -> None:
    """Leave an interrupt from the keyboard to the process that started the workers, and do not outlive it.

    A process that is killed tells its workers nothing, and they would wait for work for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    starter = parent_process()
    assert starter is not None
    threading.Thread(target=_end_with, args=(starter.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def usable_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares_memory(executor: Executor) -> bool:
    """Whether calls run in this process and see its objects; what others get must be picklable, and small."""
    return isinstance(executor, SerialExecutor | ThreadPoolExecutor)


def in_order(executor: Executor, function: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
    """``function`` of each item, in the order of the items; at most one more item than workers is held at a time.

    The first error ends it: what has not started by then is cancelled. Raises :class:`LimitError` when a worker
    process dies.
    """
    window = _workers(executor) + 1
    pending: deque[Future[T]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            del item  # the future does not hold it once it has run, nor should this frame
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenExecutor:
        raise LimitError(
            "a worker process ended abruptly",
            remedy="if memory ran out, use fewer jobs or smaller batches; a script needs to guard its work with "
            "`if __name__ == '__main__':`",
        ) from None
    finally:
        for future in pending:
            future.cancel()


def _workers(executor: Executor) -> int:
    """Workers beside the caller. Both pools of the standard library keep the number under this name."""
    if isinstance(executor, SerialExecutor):
        return 0
    count = getattr(executor, "_max_workers", None)
    return count if isinstance(count, int) else usable_cores()
