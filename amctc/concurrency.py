"""Independent pieces of work in this thread, in threads or in processes: in order, and a bounded number at a time.

Results do not depend on what runs the pieces, so how work is cut into pieces must not either: a sum may round otherwise
where a matrix has other rows beside it.
"""

from __future__ import annotations

import functools
import io
import itertools
import mmap
import os
import pickle
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, Literal, NamedTuple, ParamSpec, Protocol, TypeVar

import numpy as np

from amctc.errors import LimitError, UsageError

P = ParamSpec("P")
Item = TypeVar("Item")
T = TypeVar("T")

_ALIGNMENT = 64  # of shared arrays, in bytes: what vector units load at once

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


class Share(Protocol):
    """Makes a value readable for calls on an executor; what it gives is small to send, and called there for it."""

    def __call__(self, value: T, /) -> Callable[[], T]:
        """``value``, for whoever calls this."""


@contextmanager
def sharing(executor: Executor) -> Iterator[Share]:
    """What makes values readable for calls on ``executor`` while the block lasts.

    Where calls run in this process they get the value itself. For worker processes its arrays are written to a
    temporary file, which they map: they are in memory once, and read-only. Raises :class:`LimitError` where it cannot
    be written.
    """
    if shares_memory(executor):
        yield lambda value: functools.partial(_same, value)
        return
    with ExitStack() as stack:
        with _naming_the_folder():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amctc-shared-")))
        names = itertools.count()
        yield lambda value: functools.partial(_mapped, _written(folder / str(next(names)), value))


@contextmanager
def _naming_the_folder() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LimitError(
            f"what workers share cannot be written: {error.strerror}",
            where=tempfile.tempdir or "the temporary folder",
            remedy="free space there, set TMPDIR to another folder, or work in threads",
        ) from None


def _same(value: T) -> T:
    return value


class _Pickled(NamedTuple):
    """A pickled value whose buffers lie in a file, one after the other in these sizes."""

    path: Path
    sizes: tuple[int, ...]
    rest: bytes


def _written(path: Path, value: object) -> _Pickled:
    buffers: list[pickle.PickleBuffer] = []
    rest = io.BytesIO()
    _Pickler(rest, protocol=5, buffer_callback=buffers.append).dump(value)
    with _naming_the_folder(), path.open("xb") as file:
        for buffer in buffers:
            file.write(buffer.raw())
            file.seek(-file.tell() % _ALIGNMENT, os.SEEK_CUR)
        file.truncate()
    return _Pickled(path, tuple(b.raw().nbytes for b in buffers), rest.getvalue())


class _Pickler(pickle.Pickler):
    """Puts every array into a buffer of its own; by default those with gaps are pickled with the rest."""

    def reducer_override(self, obj: Any) -> Any:
        """What makes the array; ``NotImplemented`` for what is none."""
        if type(obj) is not np.ndarray or obj.flags.forc:
            return NotImplemented
        return np.ascontiguousarray(obj).__reduce_ex__(5)


@functools.lru_cache(maxsize=4)
def _mapped(pickled: _Pickled) -> Any:
    """The value, in a worker process; the last ones are kept, because many calls read the same.

    What is unpickled came with the call, from the process that started this one; the file holds bytes of arrays alone.
    """
    size = pickled.path.stat().st_size
    with pickled.path.open("rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")
    starts = itertools.accumulate((-(-s // _ALIGNMENT) * _ALIGNMENT for s in pickled.sizes), initial=0)
    return pickle.loads(pickled.rest, buffers=[whole[a : a + s] for a, s in zip(starts, pickled.sizes, strict=False)])


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
