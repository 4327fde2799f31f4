"""Values that calls on an executor read: the same everywhere, once in memory, gone afterwards."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amctc.concurrency import (
    SerialExecutor,
    _mapped,
    _written,
    in_order,
    open_executor,
    shares_memory,
    sharing,
)
from amctc.errors import InputError, LimitError

VALUE = {
    "a": np.arange(70_000, dtype=np.float32).reshape(7, -1),
    "b": [np.array([], np.int8), np.array("text")],
    "c": 5,
}


@pytest.fixture(scope="module", params=["serial", "threads", "processes"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with open_executor(request.param, None if request.param == "serial" else 2) as found:
        yield found


def row(value: Callable[[], Any], index: int) -> tuple[float, list[Any], int, bool, bool, int]:
    a, b, c = value()["a"], value()["b"], value()["c"]
    return float(a[index].sum()), [x.tolist() for x in b], c, a.flags.owndata, a.flags.writeable, os.getpid()


def test_calls_read_what_was_shared(executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with sharing(executor) as share:
        value, other = share(VALUE), share({**VALUE, "c": 6})
        found = list(in_order(executor, functools.partial(row, value), range(7)))
        others = list(in_order(executor, functools.partial(row, other), range(7)))
    assert [f[0] for f in found] == VALUE["a"].sum(axis=1, dtype=np.float32).tolist()
    assert {(str(f[1]), f[2]) for f in found} == {("[[], 'text']", 5)}
    assert {f[2] for f in others} == {6}
    if not shares_memory(executor):
        assert {f[3:5] for f in found} == {(False, False)}
        assert os.getpid() not in {f[5] for f in found}
    assert not os.listdir(tmp_path)


def test_arrays_with_gaps_are_shared_as_well(tmp_path: Path) -> None:
    array = np.arange(60_000, dtype=np.float64).reshape(300, 200)
    for view in (array, array.T, array[::-1, ::-1], array[:, 50:150], array[::2]):
        pickled = _written(tmp_path / str(id(view)), {"view": view})
        assert (pickled.sizes, len(pickled.rest) < 1000) == ((view.nbytes,), True)
        np.testing.assert_array_equal(_mapped(pickled)["view"], view)


def test_an_error_inside_is_not_one_of_sharing(executor: Executor) -> None:
    for error in (InputError("refused"), FileNotFoundError("gone")):
        with pytest.raises(type(error)), sharing(executor):
            raise error


def test_where_nothing_can_be_written_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with sharing(SerialExecutor()) as share:
        assert share(VALUE)() is VALUE
    with open_executor("processes", 1) as pool, pytest.raises(LimitError, match="what workers share"), sharing(pool):
        pass
