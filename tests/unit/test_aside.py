"""Constants kept on disk: the same contents, and nothing of them in memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from amctc import aside, examples, interp
from amctc.api import compress, load, open_samples_for
from amctc.aside import LARGE, SetAside
from amctc.data import ArrayData, deferred
from amctc.errors import AmctcError, LimitError, UnsupportedError
from amctc.interp import Kernel, Plan
from amctc.ir import Graph, GraphInput, Op, Value, apply, const
from amctc.onnx_bridge import runtime
from amctc.ops import nn
from amctc.session import Session
from amctc.types import F32, Array, TensorType

RNG = np.random.default_rng(0)
WIDTH = 600  # 600 x 600 float32 are more than LARGE


def weight() -> Array:
    return RNG.normal(size=(WIDTH, WIDTH)).astype(np.float32)


def products(*weights: Value) -> Graph:
    x = value = GraphInput("x", TensorType((2, WIDTH), F32))
    for w in weights:
        value = apply(nn.MatMul(), value, w)
    return Graph((x,), (value,), ("y",))


def matmul(op: Op, constants: Sequence[Array | None]) -> Kernel:
    return np.matmul


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.float16, np.bool_])
def test_contents_come_back(dtype: type) -> None:
    kept = SetAside("arrays")
    arrays = [(RNG.normal(size=(3, LARGE)) > 0).astype(dtype) for _ in range(2)]
    for array, data in [(a, kept.array(a)) for a in arrays]:
        assert data == ArrayData(array)
        assert not data.read().flags.writeable
        assert (data.shape, data.dtype) == (array.shape, array.dtype)


def test_what_is_small_and_texts_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    kept = SetAside("arrays")
    assert kept.array(np.ones(4)).read().tolist() == [1.0] * 4
    texts = np.full(LARGE, "text", object)
    assert kept.array(texts).read()[-1] == "text"
    with pytest.raises(LimitError, match="arrays cannot be kept"):
        kept.array(weight())


def test_the_file_lasts_as_long_as_what_is_in_it() -> None:
    array = weight()
    data = SetAside("arrays").array(array)
    gc.collect()
    np.testing.assert_array_equal(data.read(), array)


def test_a_recipe_is_evaluated_once() -> None:
    calls: list[int] = []

    def doubled(w: Array) -> Array:
        calls.append(1)
        return w * 2

    array = weight()
    data = deferred("doubled", doubled, ArrayData(array), shape=array.shape, dtype=array.dtype)
    kept = SetAside("arrays").data(data)
    for _ in range(2):
        np.testing.assert_array_equal(kept.read(), array * 2)
    assert calls == [1]


def test_a_plan_binds_large_constants_anew_in_each_run_and_holds_none() -> None:
    bound: list[weakref.ref[Array]] = []

    def watched(op: Op, constants: Sequence[Array | None]) -> Kernel:
        packed = np.array(constants[1])
        bound.append(weakref.ref(packed))
        return lambda x, w: x @ packed + 0 * w[0, 0]

    graph = products(const(weight()), const(weight()))
    expected = Plan(graph, {nn.MatMul: matmul})
    plan = Plan(graph, {nn.MatMul: watched}, aside=SetAside("weights"))
    assert (plan.constant_bytes, bound) == (0, [])
    for count in (2, 4):
        x = RNG.normal(size=(2, WIDTH)).astype(np.float32)
        np.testing.assert_array_equal(plan.run({"x": x})["y"], expected.run({"x": x})["y"])
        gc.collect()
        assert [ref() for ref in bound] == [None] * count


def test_a_large_constant_may_be_an_output_or_in_another_precision() -> None:
    w = const(weight(), name="w")
    x = GraphInput("x", TensorType((2, WIDTH), F32))
    graph = Graph((x,), (apply(nn.MatMul(), x, w), w), ("y", "w"))
    feeds = {"x": RNG.normal(size=(2, WIDTH)).astype(np.float32)}
    for kind in (None, np.float64):
        held = Plan(graph, {nn.MatMul: matmul}, float_type=kind).run(feeds)
        found = Plan(graph, {nn.MatMul: matmul}, float_type=kind, aside=SetAside("weights")).run(feeds)
        for name in ("y", "w"):
            assert found[name].dtype == held[name].dtype
            np.testing.assert_array_equal(found[name], held[name])


def test_an_error_of_a_late_kernel_names_its_layer() -> None:
    def refuse(op: Op, constants: Sequence[Array | None]) -> Kernel:
        raise UnsupportedError("too large")

    plan = Plan(products(const(weight(), name="w")), {nn.MatMul: refuse}, aside=SetAside("weights"))
    with pytest.raises(AmctcError, match=r"too large$") as found:
        plan.run({"x": np.zeros((2, WIDTH), np.float32)})
    assert found.value.where


def test_a_compression_with_its_weights_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Mapped weights multiply in another order, so sums differ by roundings: as good, not the same."""
    source = examples.model_path()
    samples = open_samples_for(load(source), examples.calibration_path(), preprocess="unit", limit=48)
    held = compress(source, samples, preset="fast", compare_samples=48)
    monkeypatch.setattr(runtime, "IN_MEMORY", 0)
    for module in (aside, interp):
        monkeypatch.setattr(module, "LARGE", 0)
    mapped = compress(source, samples, preset="fast", compare_samples=48, out=tmp_path)
    assert mapped.report.output_sqnr_db == pytest.approx(held.report.output_sqnr_db, abs=0.5)
    assert Session(mapped.files["deploy"]).output_names == Session(source).output_names
