"""The integer interpreter against the float32 matrix products inside it, ONNX Runtime and the ONNX reference."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from amctc.api import compress
from amctc.concurrency import in_order, open_executor
from amctc.ir import Graph
from amctc.numerics.threads import single_threaded_blas
from amctc.onnx_bridge import import_model
from amctc.ops import ascend, nn
from amctc.session import Session
from tools.bench.clock import Timing, interleaved
from tools.bench.rows import Row
from tools.bench.standard_form import standard_form

Array = np.ndarray[Any, Any]

FAST_GOALS = {"ascend910b1": 1.5, "ascend310": 5.0}
"""Executor onnxruntime over ONNX Runtime's int8: with fused requantization, and with the epilogue apart (issue 5)."""

GOALS = {"mobilenet_v2": (5.0, 8.0, 20.0), "resnet_50": (1.5, 5.5, 40.0)}
"""Per network: times its products, times ONNX Runtime's int8, times faster than the reference evaluator (issue 5)."""


def interpreter_rows(model: onnx.ModelProto, size: int, targets: tuple[str, ...], rounds: int) -> Iterator[Row]:
    """Time of one image of ``size`` in the interpreter for each of ``targets``, over what it is compared with."""
    name, images = model.graph.name, _images(size)
    deployed = {target: _deployed(model, images, target) for target in targets}
    sessions = {target: Session(graph) for target, graph in deployed.items()}
    fast = {target: Session(graph, executor="onnxruntime") for target, graph in deployed.items()}
    feeds = {"x": images[0]}
    peer = _quantized_by_onnxruntime(model, images)
    runtime = _runtime_session(peer)
    products = float32_products(next(iter(sessions.values())).graph)
    contenders: dict[str, Callable[[], object]] = {
        "products": products, "runtime": lambda: runtime.run(None, feeds),
        **{target: (lambda session=session: session.run(feeds)) for target, session in sessions.items()},
        **{f"{target} fast": (lambda session=session: session.run(feeds)) for target, session in fast.items()},
    }  # fmt: skip
    times = interleaved(contenders, rounds)
    slow = _reference(sessions[targets[0]], feeds)
    over_products, over_runtime, faster = GOALS[name]
    for target in targets:
        own, where = times[target], f"{name} {size}², {target}"
        first = target == targets[0]  # the goals were set for fused requantization
        yield Row(f"{where}: over its float32 products", own.median / times["products"].median, "×",
                  over_products if first else None, how=f"{own} over {times['products']}")  # fmt: skip
        yield Row(f"{where}: over ONNX Runtime int8 (u8·s8)", own.median / times["runtime"].median, "×",
                  over_runtime if first else None, how=f"ONNX Runtime: {times['runtime']}")  # fmt: skip
        _require_same_bits(sessions[target], fast[target], feeds)
        yield Row(f"{where}, executor onnxruntime: over ONNX Runtime int8", times[f"{target} fast"].median
                  / times["runtime"].median, "×", FAST_GOALS[target], how=str(times[f"{target} fast"]))  # fmt: skip
        if first:
            yield Row(f"{where}: faster than onnx.reference", slow.median / own.median, "×", faster, at_least=True,
                      how=f"one run of {slow.median:.2f} s on the same integer graph, same bits")  # fmt: skip


def thread_rows(model: onnx.ModelProto, size: int, images: int, rounds: int) -> Iterator[Row]:
    """How much faster two threads run a set of images than one, by the clock, in each executor."""
    name, feeds = model.graph.name, [{"x": image} for image in _images(size, images)]
    graph = _deployed(model, [feed["x"] for feed in feeds[:2]], "ascend910b1")

    def run_all(session: Session, jobs: int) -> None:
        kind: Literal["threads", "serial"] = "threads" if jobs > 1 else "serial"
        with open_executor(kind, jobs) as pool, single_threaded_blas():
            for _ in in_order(pool, session.run, feeds):
                pass

    for executor in ("numpy", "onnxruntime"):
        session = Session(graph, executor=executor)
        contenders = {str(jobs): lambda jobs=jobs, session=session: run_all(session, jobs) for jobs in (1, 2)}
        times = interleaved(contenders, rounds, clock=time.perf_counter)
        one, two = times["1"], times["2"]
        yield Row(f"{name} {size}², ascend910b1, executor {executor}: two threads over one", one.median / two.median,
                  "×", how=f"{images} images by the clock: {two} over {one}")  # fmt: skip


def _images(size: int, count: int = 2) -> list[Array]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((1, 3, size, size)).astype(np.float32) for _ in range(count)]


def _deployed(model: onnx.ModelProto, images: list[Array], target: str) -> Graph:
    made = compress(import_model(model), [{"x": i} for i in images], target=target, preset="fast", compare_samples=1)
    return made.deploy_graph


def _require_same_bits(session: Session, other: Session, feeds: dict[str, Array]) -> None:
    wanted, given = session.run(feeds), other.run(feeds)
    if any(wanted[name].tobytes() != given[name].tobytes() for name in wanted):
        raise ArithmeticError("two executors give different bits")


def _reference(session: Session, feeds: dict[str, Array]) -> Timing:
    """One run of ONNX's reference evaluator on the graph of ``session``; its results must have the same bits."""
    evaluator = ReferenceEvaluator(standard_form(session.graph))
    expected = session.run(feeds)
    given: list[Array] = []
    timing = interleaved({"reference": lambda: given.extend(evaluator.run(None, feeds))}, 1, 0)["reference"]
    for name, array in zip(session.output_names, given, strict=True):
        if expected[name].dtype != array.dtype or not np.array_equal(expected[name], array, equal_nan=True):
            raise ArithmeticError(f"output {name!r} of the reference evaluator differs from the interpreter's")
    return timing


def float32_products(graph: Graph) -> Callable[[], None]:
    """A function that computes one float32 product per dense layer, of the shape its patches and weight have.

    The floor of any interpreter that multiplies in float32: operands are gathered, converted and in place. Layers with
    groups are left out.
    """
    operands = []
    for op in graph.ops:
        if not isinstance(op.kind, ascend.Conv | ascend.MatMul | nn.Conv | nn.Gemm | nn.MatMul):
            continue
        weight, result = op.operands[1], op.results[0].type.dims
        assert weight is not None
        shape = tuple(d for d in weight.type.dims if isinstance(d, int))
        if getattr(op.kind, "group", 1) > 1:
            continue
        conv = isinstance(op.kind, ascend.Conv | nn.Conv)
        width = shape[0] if conv or getattr(op.kind, "trans_b", False) else shape[1]
        rows = math.prod(d for d in (result[2:] if conv else result[:-1]) if isinstance(d, int))
        operands.append((rows, math.prod(shape) // width, width))
    rng = np.random.default_rng(0)
    arrays = [
        (rng.integers(-128, 128, (m, k)).astype(np.float32), rng.integers(-128, 128, (k, n)).astype(np.float32),
         np.empty((m, n), np.float32))
        for m, k, n in operands
    ]  # fmt: skip

    def run() -> None:
        for a, b, out in arrays:
            np.matmul(a, b, out=out)

    return run


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: list[Array]) -> None:
        self._left = iter({"x": i} for i in images)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._left, None)


def _quantized_by_onnxruntime(model: onnx.ModelProto, images: list[Array]) -> onnx.ModelProto:
    """The same network with QLinear nodes: uint8 activations, int8 weights per channel; its fastest form here."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, before)
        quantize_static(before, after, _Reader(images), QuantFormat.QOperator, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
        return onnx.load(after)


def _runtime_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
