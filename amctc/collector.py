"""Pausing Python's cyclic collector while many small objects are built that will stay."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Building a graph makes the collector look at all of it again and again, and nothing of it is garbage.

    Measured: it takes a third of the time to rewrite 100 000 nodes. Graphs themselves are freed by it alone (an op and
    its results refer to each other), so pause it for one pass at a time at most. Works as a decorator, too.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
