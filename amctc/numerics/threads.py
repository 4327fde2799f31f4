"""One BLAS thread: threaded BLAS on the small products of an interpreter collapses as soon as a core is busy."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import threadpoolctl


@functools.cache
def _controller() -> threadpoolctl.ThreadpoolController:
    """Finding the loaded BLAS libraries takes milliseconds, so it is done once."""
    return threadpoolctl.ThreadpoolController()


_lock = threading.Lock()
_inside: list[Any] = []
"""The limit, as often as threads are in the context: it is the process's, so the first sets and the last lifts it."""


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Context in which NumPy's matrix products use one thread. Results do not depend on it; times do."""
    with _lock:
        _inside.append(_inside[0] if _inside else _controller().limit(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            limit = _inside.pop()
            if not _inside:
                limit.restore_original_limits()
