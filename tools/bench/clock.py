"""How time and memory are measured: CPU seconds, contenders in turn, medians; large work in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from amctc.numerics.threads import single_threaded_blas

T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """CPU seconds of one contender: the median of all rounds, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Of at least one measurement."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0])
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median * 1e3:.2f} ms ({self.low * 1e3:.2f}–{self.high * 1e3:.2f})"


def interleaved(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, Timing]:  # fmt: skip
    """Seconds of each contender, taken in turn so that a busy neighbour slows all alike: CPU time of this thread.

    BLAS has one thread, else its other threads' time would be missing.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with single_threaded_blas():
        for turn in range(-warm_up, rounds):
            for name, run in contenders.items():
                start = clock()
                run()
                spent = clock() - start
                if turn >= 0:
                    seconds[name].append(spent)
    return {name: Timing.of(spent) for name, spent in seconds.items()}


def cpu_seconds(run: Callable[[], T]) -> tuple[T, float]:
    """The result of ``run`` and the CPU seconds of the whole process, all threads, that it took."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def resident_bytes() -> int:
    """What of this process is in memory now, files it has mapped included."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """The most of this process that was in memory at once, files it had mapped included.

    Not ``ru_maxrss``: that survives exec, so a process would start with the peak of the one it was started from.
    """
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@dataclass
class Memory:
    """The most bytes of this process that were in memory at once: of its own, and of files it had mapped.

    Pages of files are the system's to drop when others ask for memory; what is the process's own stays.
    """

    own: int = 0
    mapped: int = 0

    def look(self) -> None:
        """Take in what is in memory now."""
        status = Path("/proc/self/status").read_text("ascii")
        own, mapped = (int(status.split(f"{key}:")[1].split()[0]) * 1024 for key in ("RssAnon", "RssFile"))
        self.own, self.mapped = max(self.own, own), max(self.mapped, mapped)


@contextmanager
def memory_watched(seconds: float = 0.002) -> Iterator[Memory]:
    """Memory while the block lasts, looked at every few milliseconds: the system keeps a peak of the sum only."""
    memory, ended = Memory(), threading.Event()

    def watch() -> None:
        while not ended.wait(seconds):
            memory.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        ended.set()
        thread.join()
        memory.look()


def in_fresh_process(measure: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What ``measure(*arguments)`` returns in a new process: no garbage, caches or peak of earlier work."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        return pool.submit(measure, *arguments).result()
