"""Executors: order, how much is in flight, errors, what opening one refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from amctc.concurrency import SerialExecutor, in_order, open_executor, shares_memory
from amctc.errors import InputError, LimitError, UsageError


def square(x: int) -> int:
    return x * x


def refuse(x: int) -> int:
    if x == 3:
        raise InputError("three", where="sample 3", remedy="leave it out", rule="R3")
    return x


def die(x: int) -> int:
    os._exit(7)


def test_serial_runs_at_once_in_the_callers_thread() -> None:
    with SerialExecutor() as executor:
        future = executor.submit(threading.get_ident)
        assert future.done()
        assert future.result() == threading.get_ident()
        assert list(executor.map(square, range(4))) == [0, 1, 4, 9]
        assert isinstance(executor.submit(refuse, 3).exception(), InputError)


def test_serial_lets_an_interrupt_through() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SerialExecutor().submit(interrupt)


@pytest.mark.parametrize(("kind", "jobs"), [("serial", None), ("threads", 3), ("processes", 2)])
def test_results_come_in_order_and_errors_whole(kind, jobs) -> None:
    with open_executor(kind, jobs) as executor:
        assert list(in_order(executor, square, range(20))) == [x * x for x in range(20)]
        seen = []
        with pytest.raises(InputError) as caught:
            seen.extend(in_order(executor, refuse, range(20)))
        error = caught.value
        assert (error.what, error.where, error.remedy, error.rule) == ("three", "sample 3", "leave it out", "R3")


class Held(Executor):
    """Runs nothing until it is asked for a result: the worst case for what is in flight."""

    _max_workers = 3

    def __init__(self) -> None:
        self.running = self.most = 0

    def submit(self, fn, /, *args, **kwargs):
        executor = self

        class Lazy(Future):
            def result(self, timeout=None):
                executor.running -= 1
                return fn(*args, **kwargs)

        self.running += 1
        self.most = max(self.most, self.running)
        return Lazy()


def test_one_item_more_than_workers_is_in_flight() -> None:
    held = Held()
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for i in range(50):
            drawn.append(i)
            yield i

    for done, result in enumerate(in_order(held, square, items())):
        assert result == done * done
        assert len(drawn) <= done + 4
    assert held.most == 4
    assert held.running == 0


def test_serial_holds_one_item() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for i in range(5):
            drawn.append(i)
            yield i

    for done, _ in enumerate(in_order(SerialExecutor(), square, items())):
        assert len(drawn) == done + 1


def test_what_has_not_started_is_cancelled_after_an_error() -> None:
    gate = threading.Event()
    started: list[int] = []

    def work(x: int) -> int:
        started.append(x)
        if x == 0:
            raise InputError("no")
        gate.wait(10)
        return x

    with ThreadPoolExecutor(1) as pool:
        blocker = pool.submit(gate.wait, 10)
        results = in_order(pool, work, range(2))
        threading.Timer(0.05, gate.set).start()
        with pytest.raises(InputError, match="no"):
            list(results)
        gate.set()
        blocker.result()
    assert 0 in started


def test_a_worker_that_dies_is_one_clear_error() -> None:
    with open_executor("processes", 1) as executor, pytest.raises(LimitError, match="ended abruptly"):
        list(in_order(executor, die, range(3)))


def test_which_executors_share_memory() -> None:
    assert shares_memory(SerialExecutor())
    with open_executor(None, 2) as threads:
        assert isinstance(threads, ThreadPoolExecutor)
        assert shares_memory(threads)
    with open_executor("processes", 1) as processes:
        assert not shares_memory(processes)
    assert isinstance(open_executor(), SerialExecutor)
    assert isinstance(open_executor("threads"), ThreadPoolExecutor)


@pytest.mark.parametrize(("kind", "jobs", "words"), [(None, 0, "0 jobs"), ("threads", -1, "-1 jobs"),
                                                      ("serial", 2, "no 2 jobs")])  # fmt: skip
def test_refusals(kind, jobs, words) -> None:
    with pytest.raises(UsageError, match=words):
        open_executor(kind, jobs)


KILLED_STARTER = """
import os, signal
from amctc.concurrency import open_executor

if __name__ == "__main__":
    executor = open_executor("processes", 2)
    assert executor.submit(abs, -1).result() == 1
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """They hold its standard output, so that has no end before they have one."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED_STARTER)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
