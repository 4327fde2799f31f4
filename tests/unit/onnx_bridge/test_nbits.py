"""MatMulNBits becomes a product with a weight quantized in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from amctc.interp import evaluate
from amctc.ir import Constant
from amctc.kernels.tables import ORACLE
from amctc.onnx_bridge import FloatSession, export_model, import_model
from amctc.onnx_bridge.sessions import open_session
from amctc.ops import nn
from amctc.ops.onnx import Node
from amctc.pipeline import Context, Pipeline
from amctc.targets import load_profile
from amctc.verify import verify

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]


def pack(rows: np.ndarray, bits: int) -> np.ndarray:
    """Two 4-bit numbers to a byte along the last axis, the first in the low half; 8-bit ones as they are."""
    if bits == 8:
        return rows.astype(np.uint8)
    even = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, rows.shape[-1] % 2)]).astype(np.uint8)
    return even[..., 0::2] | (even[..., 1::2] << 4)


def product(k: int, n: int, block: int, bits: int, zeros: bool, bias: bool, seed: int) -> Any:
    """A model of one MatMulNBits, the weight [K, N] it stands for in float64, and its bias."""
    rng, blocks, middle = np.random.default_rng(seed), -(-k // block), 1 << (bits - 1)
    q = rng.integers(0, 1 << bits, (n, blocks * block))
    scales = rng.uniform(0.01, 0.1, (n, blocks)).astype(np.float32)
    zero = rng.integers(0, 1 << bits, (n, blocks)) if zeros else np.full((n, blocks), middle)
    real = (q.reshape(n, blocks, block) - zero[..., None]) * scales[..., None].astype(np.float64)
    tensors = {"b": pack(q.reshape(n, blocks, block), bits), "s": scales.ravel()}
    tensors |= {"z": pack(zero, bits).ravel()} if zeros else {}
    tensors |= {"c": rng.normal(size=n).astype(np.float32)} if bias else {}
    inputs = ["x", "b", "s", "z" if zeros else "", "", "c" if bias else ""]
    while not inputs[-1]:
        inputs.pop()
    node = helper.make_node("MatMulNBits", inputs, ["y"], "layer", domain="com.microsoft", K=k, N=n, bits=bits,
                            block_size=block)  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", k), ("y", n))]
    graph = helper.make_graph([node], "net", ends[:1], ends[1:],
                              [numpy_helper.from_array(a, name) for name, a in tensors.items()])  # fmt: skip
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=8)
    return model, real.reshape(n, -1)[:, :k].T, tensors.get("c", np.float32(0))


@given(st.integers(1, 70), st.integers(1, 5), st.sampled_from([16, 32]), st.sampled_from([4, 8]), st.booleans(),
       st.booleans(), st.integers(0, 1 << 16))  # fmt: skip
def test_the_weight_is_the_one_that_was_packed(
    k: int, n: int, block: int, bits: int, zeros: bool, bias: bool, seed: int
) -> None:
    model, weight, offset = product(k, n, block, bits, zeros, bias, seed)
    graph = import_model(model)
    verify(graph, deep=True)
    assert not any(isinstance(op.kind, Node) for op in graph.ops)
    (layer,) = (op for op in graph.ops if isinstance(op.kind, nn.MatMul))
    stored = layer.operands[1].producer.operands[0].type.elem
    assert (stored.axis, stored.block, stored.storage.bits) == (0, block, bits)
    x = np.random.default_rng(seed).normal(size=(3, k)).astype(np.float32)
    (y,) = evaluate(graph, {"x": x.astype(np.float64)}, ORACLE, float_type=np.float64).values()
    # Each weight is rounded to float32 once, in the dequantizer.
    slack = 2.0**-24 * (np.abs(x.astype(np.float64)) @ np.abs(weight))
    assert (np.abs(y - (x.astype(np.float64) @ weight + offset)) <= slack + 1e-12).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_it_computes_what_the_runtime_computes(bits: int) -> None:
    model, weight, offset = product(64, 6, 32, bits, True, True, 5)
    exported = export_model(import_model(model))
    assert {n.op_type for n in exported.graph.node} == {"DequantizeLinear", "MatMul", "Add"}
    onnx.checker.check_model(exported, full_check=True)
    assert export_model(import_model(exported)).SerializeToString() == exported.SerializeToString()
    x = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    (theirs,), (ours,) = (
        open_session(m.SerializeToString(), optimise=False).run(None, {"x": x}) for m in (model, exported)
    )
    bound = 64 * 2.0**-23 * (np.abs(x).astype(np.float64) @ np.abs(weight) + np.abs(offset))
    assert (np.abs(theirs.astype(np.float64) - ours) <= 2 * bound).all()


def damaged(**changes: Any) -> onnx.ModelProto:
    model, _, _ = product(32, 4, 16, 4, True, False, 1)
    for tensor in model.graph.initializer:
        if tensor.name in changes:
            tensor.CopyFrom(numpy_helper.from_array(changes[tensor.name], tensor.name))
    return model


@pytest.mark.parametrize(
    "model",
    [
        damaged(s=np.zeros(8, np.float32)), damaged(s=np.full(8, np.nan, np.float32)),
        damaged(z=np.full(8, 8.0, np.float32)), damaged(b=np.zeros((4, 2, 8), np.int8)),
    ],
    ids=["zero scales", "nan", "float zero points", "int8"],
)  # fmt: skip
def test_other_forms_are_carried(model: onnx.ModelProto) -> None:
    graph = import_model(model)
    assert [op.kind.op_type for op in graph.ops if not isinstance(op.kind, Constant)] == ["MatMulNBits"]


def test_computed_scales_and_reordered_columns_are_carried() -> None:
    model, _, _ = product(32, 4, 16, 4, False, False, 1)
    model.graph.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [8]))
    del model.graph.initializer[1]
    assert sum(isinstance(op.kind, Node) for op in import_model(model).ops) == 1
    model, _, _ = product(32, 4, 16, 4, False, False, 1)
    model.graph.node[0].input.extend(["", "g"])
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(32, np.int32), "g"))
    graph = import_model(model)
    assert sum(isinstance(op.kind, Node) for op in graph.ops) == 1
    assert FloatSession(graph).run({"x": np.ones((2, 32), np.float32)})["y"].shape == (2, 4)


@pytest.mark.parametrize("zeros", [False, True])
def test_it_reaches_the_target_as_a_weight_only_product(zeros: bool) -> None:
    model, _, _ = product(128, 64, 32, 4, zeros, False, 1)
    context = Context(target=load_profile("ascend910b1"))
    lowered = Pipeline.parse("signed-storage,legalize,to-ascend,pack-constants").run(import_model(model), context).graph
    assert [op.kind.op_name for op in lowered.ops if op.operands] == ["ascend.weight_quant_matmul"]
    assert not context.notes
