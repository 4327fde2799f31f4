"""One BLAS thread for as long as anyone asks for it."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import threadpoolctl

from amctc.numerics.threads import single_threaded_blas


def blas_threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {info["num_threads"] for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"}


@pytest.mark.parametrize("first_out", [0, 1])
def test_the_last_to_leave_lifts_the_limit(first_out: int) -> None:
    """Threads enter and leave in any order, and the limit is the process's: here two enter, and either leaves first."""
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        before = blas_threads()
        stacks = [ExitStack(), ExitStack()]
        for stack in stacks:
            stack.enter_context(single_threaded_blas())
            assert blas_threads() == {1}
        stacks[first_out].close()
        assert blas_threads() == {1}
        stacks[1 - first_out].close()
        assert blas_threads() == before


def test_an_error_inside_lifts_it_too() -> None:
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        before = blas_threads()
        with pytest.raises(ZeroDivisionError), single_threaded_blas():
            raise ZeroDivisionError
        assert blas_threads() == before
