"""One BLAS thread: threaded BLAS on the small products of an interpreter collapses as soon as a core is busy."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

import threadpoolctl


@functools.cache
def _controller() -> threadpoolctl.ThreadpoolController:
    """Finding the loaded BLAS libraries takes milliseconds, so it is done once."""
    return threadpoolctl.ThreadpoolController()


def single_threaded_blas() -> AbstractContextManager[object]:
    """Context in which NumPy's matrix products use one thread. Results do not depend on it; times do."""
    context: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return context
