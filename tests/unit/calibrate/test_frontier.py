"""Values of a growing graph over samples: the same as computing them at once, from what is kept."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from amctc.calibrate.frontier import Frontier, watched
from amctc.data import ArrayData
from amctc.errors import InputError, LimitError, UsageError
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.ops import nn
from amctc.types import F32, TensorType

RNG = np.random.default_rng(7)
CONV = nn.Conv((1, 1), (1, 1, 1, 1), (1, 1))


class Counted:
    """Batches of three, two and one samples that count how often they are read."""

    def __init__(self) -> None:
        self.passes = 0
        self.arrays = [RNG.normal(size=(n, 2, 4, 4)).astype(np.float32) for n in (3, 2, 1)]

    def __iter__(self):
        self.passes += 1
        return iter([{"x": a} for a in self.arrays])


def network() -> tuple[GraphInput, list[Value]]:
    """Two residual blocks, and the values after each."""
    x = GraphInput("x", TensorType(("n", 2, 4, 4), F32))
    found: list[Value] = [x]
    for _ in range(2):
        weight = const(RNG.normal(size=(2, 2, 3, 3)).astype(np.float32))
        found.append(apply(nn.Add(), apply(nn.Relu(), apply(CONV, found[-1], weight)), found[-1]))
    return x, found


def test_reads_the_same_from_what_is_kept() -> None:
    _, values = network()
    samples = Counted()
    at_once = list(Frontier(samples).read(values[2]))
    frontier = Frontier(samples)
    frontier.store(values[1])
    assert frontier.rows == 6
    before = samples.passes
    again = list(frontier.read(values[2]))
    assert samples.passes == before, "the samples need not be read once a value is kept that all goes through"
    assert [a.shape[0] for a in again] == [3, 2, 1]
    for a, b in zip(at_once, again, strict=True):
        assert (a == b).all()
    frontier.drop(values[1])
    assert frontier.rows == 0
    assert (np.concatenate(list(frontier.read(values[2]))) == np.concatenate(at_once)).all()
    assert samples.passes == before + 1


def test_a_value_kept_beside_the_inputs() -> None:
    """A piece may start from a kept value and from the samples at once."""
    x, values = network()
    samples = Counted()
    frontier = Frontier(samples)
    frontier.store(values[2])
    joined = apply(nn.Add(), values[2], x)
    found = list(frontier.read(joined))
    for a, b, given in zip(found, frontier.read(values[2]), samples.arrays, strict=True):
        assert (a == b + given).all()


def test_a_graph_input_and_a_default() -> None:
    x = GraphInput("x", TensorType(("n", 2), F32))
    y = GraphInput("y", TensorType((2,), F32), ArrayData(np.float32([10, 20])))
    batches = [{"x": np.float32([[1, 2]])}, {"x": np.float32([[3, 4]])}]
    frontier = Frontier(batches)
    frontier.store(x)
    assert np.concatenate(list(frontier.read(x))).tolist() == [[1, 2], [3, 4]]
    total = apply(nn.Add(), x, y)
    assert [a.tolist() for a in Frontier(batches).read(total)] == [[[11, 22]], [[13, 24]]]
    graph = Graph((x, y), (total,), ("t",))
    seen = list(watched(graph, [x, y, total], batches))
    assert [arrays[total].tolist() for arrays in seen] == [[[11, 22]], [[13, 24]]]
    assert seen[0][y].tolist() == [10, 20]


def test_refused() -> None:
    x, values = network()
    with pytest.raises(UsageError, match="no calibration samples"):
        list(Frontier([]).read(values[1]))
    with pytest.raises(InputError, match="no input 'x'"):
        list(Frontier([{"z": np.zeros(1)}]).read(values[1]))
    graph = Graph((x,), (values[1],), ("y",))
    with pytest.raises(UsageError, match="no calibration samples"):
        list(watched(graph, [values[1]], []))
    with pytest.raises(InputError, match="no input 'x'"):
        list(watched(graph, [values[1]], [{}]))


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The very last byte too: nothing waits in a buffer until someone reads."""
    real = os.pwrite

    def almost(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[:-1], offset)

    monkeypatch.setattr(os, "pwrite", almost)
    _, values = network()
    with pytest.raises(LimitError, match=r"No space left.*TMPDIR"):
        Frontier(Counted()).store(values[1])


def test_every_lack_of_samples_is_an_error_of_its_own() -> None:
    """Callers add to an error where it was; the next one must not say so too."""
    _, values = network()
    found = []
    for where in ("first", "second"):
        with pytest.raises(UsageError) as caught:
            Frontier([]).store(values[1])
        found.append(caught.value.located(where))
    assert [error.where for error in found] == ["first", "second"]
