#!/usr/bin/env python3
"""Count how often a QLinear… node and the quantizers it becomes differ, and by how many steps, in ONNX Runtime.

    python -m tools.conformance.q_operator_steps [--write]

Both sides run without optimisations on the same random integers; ``--write`` puts the table into
``docs/conformance.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from amctc.onnx_bridge import export_model, import_model
from amctc.onnx_bridge.sessions import open_session
from tools.conformance.__main__ import PAGE, write_table

RUNTIME = "com.microsoft"
SHAPE = (4, 16, 24, 24)
WEIGHTS = {"Conv": (32, 16, 3, 3), "MatMul": (24, 40), "Gemm": (16 * 24 * 24, 40)}


@dataclass
class Node:
    """One node under count: ``data`` operands, how many of them weights, and its attributes."""

    op_type: str
    domain: str = RUNTIME
    data: int = 1
    weight: str = ""
    bias: bool = False
    shape: tuple[int, ...] = SHAPE
    attributes: dict[str, Any] = field(default_factory=dict)


NODES = (
    Node("QLinearConv", "", weight="Conv", bias=True),
    Node("QLinearMatMul", "", weight="MatMul"),
    Node("QGemm", weight="Gemm", bias=True, shape=(64, 16 * 24 * 24)),
    Node("QLinearAdd", data=2),
    Node("QLinearMul", data=2),
    Node("QLinearAveragePool", attributes={"kernel_shape": [3, 3]}),
    Node("QLinearGlobalAveragePool", shape=(64, 64, 24, 24)),
    Node("QLinearLeakyRelu", attributes={"alpha": 0.1}),
    Node("QLinearSigmoid"),
    Node("QLinearSoftmax", attributes={"axis": -1, "opset": 13}),
    Node("QLinearConcat", data=2, attributes={"axis": 1}),
)


def model_of(node: Node, rng: np.random.Generator) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A model of the node between a quantizer for each operand and a dequantizer, and feeds."""
    tensors: dict[str, Any] = {}
    nodes, triples, feeds = [], [], {}
    for index in range(node.data):
        x, scale = f"x{index}", np.float32(rng.uniform(0.01, 0.03))
        tensors |= {f"{x}_scale": scale, f"{x}_zero": np.uint8(rng.integers(100, 150))}
        feeds[x] = (rng.normal(size=node.shape) * scale * 40).astype(np.float32)
        parameters = [f"{x}_scale", f"{x}_zero"]
        nodes.append(helper.make_node("QuantizeLinear", [x, *parameters], [f"{x}_q"]))
        triples += [f"{x}_q", *parameters]
    if node.weight:
        shape = WEIGHTS[node.weight]
        channels, fan = (shape[0], np.prod(shape[1:])) if node.weight == "Conv" else (shape[1], shape[0])
        per_channel = node.op_type != "QGemm"
        scale = rng.uniform(0.002, 0.004, channels if per_channel else ()).astype(np.float32) * np.float32(fan**-0.5)
        tensors |= {"w": rng.integers(-63, 64, shape).astype(np.int8), "w_scale": scale,
                    "w_zero": np.zeros(scale.shape, np.int8)}  # fmt: skip
        triples += ["w", "w_scale", "w_zero"]
        if node.bias:
            tensors["b"] = rng.integers(-2000, 2000, channels).astype(np.int32)
    tensors |= {"y_scale": np.float32(output_scale(node, tensors)), "y_zero": np.uint8(120)}
    result = ["y_scale", "y_zero"]
    bias = ["b"] if node.bias else []
    inputs = [*result, *triples] if node.op_type == "QLinearConcat" else [*triples, *result, *bias]
    if node.op_type == "QGemm":
        inputs = [*triples, *bias, *result]
    nodes.append(helper.make_node(node.op_type, inputs, ["q"], domain=node.domain, **node.attributes))
    nodes.append(helper.make_node("Identity", ["q"], ["y"]))
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in feeds.items()]
    graph = helper.make_graph(
        nodes, node.op_type, given, [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in tensors.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(RUNTIME, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), feeds


def output_scale(node: Node, tensors: dict[str, Any]) -> float:
    """A step that spreads results as inputs are spread: over some 40 integers each side of their mean."""
    x = float(tensors["x0_scale"])
    if node.weight:
        fan = np.prod(WEIGHTS[node.weight][1:]) if node.weight == "Conv" else WEIGHTS[node.weight][0]
        return float(np.sqrt(fan) * x * np.mean(tensors["w_scale"]) * np.std(tensors["w"]))
    averaged = {"QLinearAveragePool": 3, "QLinearGlobalAveragePool": 24}
    bounded = {"QLinearSigmoid": 1 / 128, "QLinearSoftmax": 1 / 128, "QLinearMul": 40 * x * tensors.get("x1_scale", 1)}
    return bounded.get(node.op_type, x / averaged.get(node.op_type, 1))


def counts(rng: np.random.Generator) -> Iterator[tuple[str, int, int, int]]:
    """Per op: its name, elements compared, elements that differ, the largest difference in steps."""
    for node in NODES:
        model, feeds = model_of(node, rng)
        ours = export_model(import_model(model))
        assert not any(n.op_type == node.op_type for n in ours.graph.node), f"{node.op_type} is carried"
        (a,), (b,) = (open_session(m.SerializeToString(), optimise=False).run(None, feeds) for m in (model, ours))
        apart = np.abs(a.astype(np.int32) - b.astype(np.int32))
        spread = len(np.unique(a))
        assert spread > 20, f"{node.op_type} gives only {spread} integers"
        yield node.op_type, apart.size, int((apart > 0).sum()), int(apart.max())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="put the table into the documentation")
    write = parser.parse_args().write
    lines = ["| op | elements | differ | share | largest difference |", "|---|---|---|---|---|"]
    lines += [
        f"| {op} | {size} | {differ} | {differ / size:.2g} | {steps} |"
        for op, size, differ, steps in counts(np.random.default_rng(0))
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if write:
        write_table(PAGE, text, "steps")


if __name__ == "__main__":
    main()
