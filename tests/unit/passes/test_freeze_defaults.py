"""Inputs with defaults become constants."""

from __future__ import annotations

import numpy as np

from amctc.api import compress
from amctc.data import ArrayData
from amctc.interp import evaluate
from amctc.ir import Constant, Graph, GraphInput, apply
from amctc.kernels.tables import ORACLE
from amctc.ops import nn
from amctc.pipeline import Context, Pipeline
from amctc.types import F32, TensorType
from amctc_passes.simplify.freeze_defaults import SHOWN

PASS = Pipeline.parse("freeze-defaults")


def convolution() -> Graph:
    """As old exporters write it: the weight is an input with a default; so is one that nothing reads."""
    x = GraphInput("x", TensorType(("n", 2, 5, 5), F32))
    weight = (np.arange(36, dtype=np.float32).reshape(2, 2, 3, 3) - 17) / 8
    w = GraphInput("w", TensorType(weight.shape, F32), ArrayData(weight))
    spare = GraphInput("spare", TensorType((1,), F32), ArrayData(np.zeros(1, np.float32)))
    y = apply(nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), x, w)
    return Graph((x, w, spare), (y, w), ("y", "kernel"), "old")


def test_defaults_become_constants_and_leave_the_interface() -> None:
    before, context = convolution(), Context()
    after = PASS.run(before, context).graph
    assert [i.name for i in after.inputs] == ["x"]
    assert after.output_names == ("y", "kernel")
    assert [op.results[0].name for op in after.ops if isinstance(op.kind, Constant)] == ["w"]
    x = np.linspace(-1, 1, 50, dtype=np.float32).reshape(1, 2, 5, 5)
    old, new = (evaluate(g, {"x": x}, ORACLE) for g in (before, after))
    assert all(np.array_equal(old[name], new[name]) for name in after.output_names)
    assert [n.text for n in context.notes] == ["inputs with defaults are constants now: w, spare"]
    assert PASS.run(after, Context()).graph is after


def test_a_note_names_so_many_inputs_and_counts_the_others() -> None:
    x = GraphInput("x", TensorType((1,), F32))
    for count, more in (SHOWN, ""), (SHOWN + 1, " and 1 more"), (SHOWN + 7, " and 7 more"):
        given = [GraphInput(f"w{i}", TensorType((1,), F32), ArrayData(np.ones(1, np.float32))) for i in range(count)]
        context = Context()
        PASS.run(Graph((x, *given), (apply(nn.Relu(), x),), ("y",)), context)
        (note,) = context.notes
        names = ", ".join(f"w{i}" for i in range(SHOWN))
        assert note.text == f"inputs with defaults are constants now: {names}{more}"


def test_compress_quantizes_a_layer_whose_weight_is_an_input() -> None:
    samples = [{"x": np.random.default_rng(k).standard_normal((4, 2, 5, 5)).astype(np.float32)} for k in range(3)]
    report = compress(convolution(), samples).report
    assert [layer.action for layer in report.layers] == ["int8"]
    assert any("inputs with defaults are constants now" in note for note in report.notes)
