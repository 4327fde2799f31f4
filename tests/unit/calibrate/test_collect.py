"""Calibration on executors: the same histograms, bit for bit, whoever runs the batches and however they are cut."""

from __future__ import annotations

import numpy as np
import pytest

from amctc import examples
from amctc.api import load, open_samples_for
from amctc.calibrate.collect import collect
from amctc.calibrate.observers import Observers
from amctc.concurrency import open_executor
from amctc.errors import InputError, UnsupportedError, UsageError
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.onnx_bridge import runtime
from amctc.ops import nn
from amctc.types import BF16, F32, I64, TensorType

RNG = np.random.default_rng(3)
EXECUTORS = [("serial", None), ("threads", 1), ("threads", 3), ("processes", 2)]


def points(graph: Graph) -> list[Value]:
    return list(dict.fromkeys(op.operands[0] for op in graph.ops if isinstance(op.kind, nn.Layer)))


def watch(graph: Graph, batches, executor=None, **options) -> Observers:
    """What ``collect`` sees at all points of a graph."""
    watched = points(graph)
    return collect(graph, watched, batches, Observers.empty(len(watched), 256), executor=executor, **options)


@pytest.fixture(scope="module")
def digits():
    graph = load(examples.model_path())
    return graph, open_samples_for(graph, examples.calibration_path(), preprocess="unit", limit=40)


@pytest.mark.parametrize("size", [1, 7, 16])
def test_every_executor_gives_the_same_histograms(digits, size) -> None:
    graph, samples = digits
    values = points(graph)
    feeds = {name: np.concatenate([b[name] for b in samples]) for name in ("image",)}
    batches = [{"image": feeds["image"][i : i + size]} for i in range(0, 40, size)]
    found = []
    for kind, jobs in EXECUTORS:
        with open_executor(kind, jobs) as executor:
            found.append(collect(graph, values, batches, Observers.empty(len(values), 1024), executor=executor))
    assert all(other == found[0] for other in found[1:])
    (image,) = (h for v, h in zip(values, found[0].histograms, strict=True) if isinstance(v, GraphInput))
    assert image.count == feeds["image"].size
    assert (image.low, image.high) == (float(feeds["image"].min()), float(feeds["image"].max()))
    assert image.zeros == int((feeds["image"] == 0).sum())


X = GraphInput("x", TensorType(("N", 3), F32))


def product(data: Value, name: str = "y") -> Value:
    return apply(nn.Gemm(), data, const(RNG.standard_normal((3, 2)).astype(np.float32)), name=name)


@pytest.mark.parametrize(("kind", "jobs"), EXECUTORS)
def test_progress_counts_samples_in_order(kind, jobs) -> None:
    graph = Graph((X,), (product(apply(nn.Relu(), X, name="r")),), ("y",))
    batches = [{"x": np.ones((n, 3), np.float32)} for n in (4, 1, 2)]
    told: list[tuple[str, int, int]] = []
    with open_executor(kind, jobs) as executor:
        watch(graph, batches, executor, progress=lambda *what: told.append(what))
    assert [t[:2] for t in told] == [("calibrating", 4), ("calibrating", 5), ("calibrating", 7)]


@pytest.mark.parametrize(("kind", "jobs"), EXECUTORS)
def test_errors_name_value_and_sample_whoever_finds_them(kind, jobs) -> None:
    huge = apply(nn.Mul(), X, const(np.float32([3e38])), name="huge")
    graph = Graph((X,), (product(huge),), ("y",))
    batches = [{"x": np.full((2, 3), v, np.float32)} for v in (0.1, 0.1, 1e3, 0.1)]
    with open_executor(kind, jobs) as executor, pytest.raises(InputError) as caught:
        watch(graph, batches, executor)
    assert str(caught.value).startswith("value 'huge', batch from sample 4: calibration data holds NaN")
    assert caught.value.remedy


@pytest.mark.parametrize(("kind", "jobs"), EXECUTORS)
def test_what_the_runtime_refuses_is_refused_alike(kind, jobs) -> None:
    table = const(np.zeros((4, 3), np.float32))
    ids = GraphInput("ids", TensorType(("N",), I64))
    graph = Graph((ids,), (product(apply(nn.Gather(0), table, ids, name="e")),), ("y",))
    with open_executor(kind, jobs) as executor, pytest.raises(UnsupportedError, match="ONNX Runtime failed"):
        watch(graph, [{"ids": np.int64([9])}], executor)


def test_a_model_that_is_mapped_gives_the_same_in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "IN_MEMORY", 0)
    rng = np.random.default_rng(0)
    first = apply(nn.Relu(), apply(nn.MatMul(), X, const(rng.normal(size=(3, 40)).astype(np.float32)), name="p"))
    graph = Graph((X,), (apply(nn.MatMul(), first, const(rng.normal(size=(40, 2)).astype(np.float32))),), ("y",))
    batches = [{"x": rng.normal(size=(5, 3)).astype(np.float32)} for _ in range(3)]
    found = []
    for kind, jobs in EXECUTORS:
        with open_executor(kind, jobs) as executor:
            found.append(watch(graph, batches, executor))
    assert found == found[:1] * len(found)


@pytest.mark.parametrize(("kind", "jobs"), EXECUTORS)
def test_only_graph_inputs_need_no_session(kind, jobs) -> None:
    graph = Graph((X,), (product(X),), ("y",))
    with open_executor(kind, jobs) as executor:
        (found,) = watch(graph, [{"x": np.float32([[1, -2, 0]])}], executor).histograms
    assert (found.low, found.high, found.count, found.zeros) == (-2.0, 1.0, 3, 1)


def test_no_batches() -> None:
    graph = Graph((X,), (product(X),), ("y",))
    with pytest.raises(UsageError, match="no calibration samples"):
        watch(graph, [])


def test_a_provider_that_is_not_there() -> None:
    graph = Graph((X,), (product(apply(nn.Relu(), X)),), ("y",))
    with pytest.raises(UsageError, match=r"no provider 'abacus' here; it has .*cpu"):
        watch(graph, [{"x": np.ones((1, 3), np.float32)}], provider="abacus")


@pytest.mark.parametrize(("kind", "jobs"), EXECUTORS)
def test_types_that_are_exchanged_in_wider_ones(kind, jobs) -> None:
    narrow = GraphInput("narrow", TensorType(("N", 3), BF16))
    graph = Graph((narrow,), (product(apply(nn.Cast(F32), narrow, name="wide")),), ("y",))
    feeds = {"narrow": np.array([[1.5, -2, 0]]).astype(BF16.dtype)}
    with open_executor(kind, jobs) as executor:
        (found,) = watch(graph, [feeds], executor).histograms
    assert (found.low, found.high, found.count) == (-2.0, 1.5, 3)
