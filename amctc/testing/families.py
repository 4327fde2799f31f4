"""Families of graphs for passes that are no sets of rewrites: no pattern says what they work on.

Each family is what models of one kind have and random graphs have not. ``check_pass`` draws from all of them, and again
from those in which a pass finds something to do.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from amctc.ir import Graph, Origin, Value, build, const, with_operands
from amctc.ops import nn, quant
from amctc.ops.onnx import Node
from amctc.pattern import OpPattern, any_value, either, op, weight
from amctc.testing.instances import instances
from amctc.testing.samplers import draw_type
from amctc.testing.source import HypothesisSource, Source
from amctc.testing.strategies import graphs
from amctc.testing.workbench import Workbench
from amctc.types import F32, I8, I32, U8, Array, Dim, TensorType

MAX_OPS = 6
"""Ops of random graphs; those drawn from a pattern have as many as the pattern and its context."""

LAYERS_MOSTLY = (nn.Conv, nn.Relu, nn.Gemm, nn.Add, nn.MatMul, nn.AveragePool, nn.Conv, nn.BatchNorm, nn.MaxPool)

LAYERS: tuple[type[nn.Layer], ...] = (nn.Conv, nn.Gemm, nn.MatMul, nn.ConvTranspose)
usual = op(quant.Quantize, any_value(), where=lambda k: k.to.axis is None and k.to.storage in (I8, U8),
           wanted="8 bits, one scale")  # fmt: skip
data, stored = op(quant.Dequantize, op(quant.Quantize, any_value())), op(quant.Dequantize, weight())
BROUGHT: tuple[OpPattern[nn.Layer] | OpPattern[nn.AveragePool], ...] = (
    op(LAYERS, op(quant.Dequantize, usual), stored, weight(optional=True), fused=True),
    op(LAYERS, data, either(stored, weight()), any_value(optional=True), fused=True),
    op(nn.AveragePool, data),
)
"""Layers and pools as models that bring their quantizers have them: of every storage type, per tensor and per axis."""


def float_families() -> tuple[SearchStrategy[Graph], ...]:
    """Random graphs, networks of layers, branches that repeat each other, wide and unbalanced layers, …"""
    layers = graphs(max_ops=MAX_OPS, kinds=LAYERS_MOSTLY)
    others = repeated_branches(), wide_layers(), unbalanced_layers(), high_biases(), normalised_layers()
    return graphs(max_ops=MAX_OPS), layers, *others, quantized_at_run_time()


def brought_families() -> tuple[SearchStrategy[Graph], ...]:
    """Graphs as models that bring their quantizers are: layers of the usual form, layers of any form, pools."""
    return tuple(instances(p).map(lambda instance: instance.graph) for p in BROUGHT)


@st.composite
def repeated_branches(draw: DrawFn) -> Graph:
    """Two branches that begin with the same op on the same operands, on an input that may have a default."""
    source = HypothesisSource(draw)
    bench = Workbench(source)
    type_ = draw_type(source, F32, 2, 4)
    x = bench.input(type_, bench.constant(type_) if type_.is_static and source.flip() else None)
    first = bench.follow(x)
    assert first.producer is not None
    again = with_operands(first.producer, first.producer.operands).results[0]
    return bench.graph([bench.follow(value) if source.flip() else value for value in (first, again)])


@st.composite
def wide_layers(draw: DrawFn) -> Graph:
    """A convolution or product of so many channels that one of lower rank saves something, and an op after it."""
    source = HypothesisSource(draw)
    bench = Workbench(source)
    batch: Dim = "N" if source.flip() else 2
    if source.flip():
        x = bench.input(TensorType((batch, 96), F32))
        value = bench.apply(nn.Gemm(), x, bench.constant(TensorType((96, 96), F32)), _bias(bench, 96))
    else:
        x = bench.input(TensorType((batch, 32, 3, 3), F32))
        w = bench.constant(TensorType((32, 32, 3, 3), F32))
        value = bench.apply(nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), x, w, _bias(bench, 32))
    return bench.graph([bench.follow(value) if source.flip() else value])


@st.composite
def unbalanced_layers(draw: DrawFn) -> Graph:
    """A small layer that takes differences of data far from zero, which 8 bits cannot tell apart, and larger layers."""
    source = HypothesisSource(draw)
    bench = Workbench(source)
    channels = source.choice((2, 4))
    x = bench.input(TensorType((source.choice((1, 2)), channels, 6, 6), F32))
    far = bench.apply(nn.Add(), x, const(np.float32(source.choice((64, 100, 1000)))))
    # Its padding sees the shift, so that the shift stays where it is.
    narrow = bench.apply(nn.Conv((1, 1), (0, 1, 0, 1), (1, 1)), far, const(_differences(source, channels)))
    value: Value = narrow
    for _ in range(source.integer(1, 2)):
        w = bench.constant(TensorType((16, value.type.dims[1], 3, 3), F32))
        value = bench.apply(nn.Conv((1, 1), (1, 1, 1, 1), (1, 1)), value, w)
    return bench.graph([value])


def _differences(source: Source, channels: int) -> Array:
    """A weight [2, C, 1, 1] of rows that add up to zero."""
    w: Array = np.random.default_rng(source.integer(0, 9999)).standard_normal((2, channels, 1, 1))
    return np.asarray(w - w.mean(axis=1, keepdims=True), np.float32)


@st.composite
def high_biases(draw: DrawFn) -> Graph:
    """A layer whose bias keeps its relu from cutting anything off, and one or two layers without padding behind it."""
    source = HypothesisSource(draw)
    bench = Workbench(source)
    x = bench.input(TensorType((source.choice((1, 2)), 2, 4, 4), F32))
    bias = const(np.array([source.choice((0, 100, 1000)), source.choice((100, 1000)), 0], np.float32))
    kernel = bench.constant(TensorType((3, 2, 1, 1), F32))
    value = bench.apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1), 1, nn.Relu()), x, kernel, bias)
    plain = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))
    readers = range(source.integer(1, 2))
    return bench.graph([bench.apply(plain, value, bench.constant(TensorType((2, 3, 2, 2), F32))) for _ in readers])


@st.composite
def normalised_layers(draw: DrawFn) -> Graph:
    """Convolutions with batch normalisations behind them, as training leaves them, and a relu or none between."""
    source = HypothesisSource(draw)
    bench = Workbench(source)
    value: Value = bench.input(TensorType((source.choice((1, 2)), 2, 5, 5), F32))
    for _ in range(source.integer(2, 3)):
        kernel = bench.constant(TensorType((source.choice((2, 3)), value.type.dims[1], 2, 2), F32))
        value = bench.apply(nn.Conv((1, 1), (0, 0, 0, 0), (1, 1)), value, kernel)
        channels = TensorType((value.type.dims[1],), F32)
        gamma, beta, mean = (bench.constant(channels) for _ in range(3))
        variance = const(np.full(channels.dims[0], source.choice((0.25, 1.0)), np.float32))  # type: ignore[arg-type]
        value = bench.apply(nn.BatchNorm(), value, gamma, beta, mean, variance)
        value = bench.apply(nn.Relu(), value) if source.flip() else value
    return bench.graph([value])


@st.composite
def quantized_at_run_time(draw: DrawFn) -> Graph:
    """A matrix product in integers, of data that a carried node quantizes while it runs, and scales back."""
    source = HypothesisSource(draw)
    bench = Workbench(source)
    rows, columns = source.integer(1, 4), source.integer(1, 4)
    x = bench.input(TensorType(("N" if source.flip() else 2, rows), F32))
    scalar, batch = TensorType((), F32), x.type.dims[0]
    q, scale, zero = _carried("DynamicQuantizeLinear", (x,), (x.type.with_elem(U8), scalar, scalar.with_elem(U8)))
    w = bench.constant(TensorType((rows, columns), I8))
    (product,) = _carried("MatMulInteger", (q, w, zero), (TensorType((batch, columns), I32),))
    real, step = bench.apply(nn.Cast(F32), product), const(np.float32(source.choice((1.0, 0.25))))
    first, second = (scale, step) if source.flip() else (step, scale)
    if source.flip():
        value = bench.apply(nn.Mul(), real, bench.apply(nn.Mul(), first, second))
    else:
        value = bench.apply(nn.Mul(), bench.apply(nn.Mul(), real, first), second)
    return bench.graph([bench.follow(value) if source.flip() else value])


def _carried(op_type: str, operands: tuple[Value, ...], types: tuple[TensorType, ...]) -> tuple[Value, ...]:
    """The results of an ONNX node without attributes."""
    lists = ((1, [f"i{i}" for i in range(len(operands))]), (2, [f"o{i}" for i in range(len(types))]), (4, [op_type]))
    # The wire format of a NodeProto: each text under its field number, with its length.
    proto = b"".join(bytes((8 * field + 2, len(text))) + text.encode() for field, texts in lists for text in texts)
    kind = Node(op_type, "", 17, proto, tuple(o.type for o in operands), types)
    return build(kind, *operands, origins=(Origin(op_type.lower(), op_type),)).results


def _bias(bench: Workbench, outputs: int) -> Value | None:
    return bench.constant(TensorType((outputs,), F32)) if bench.source.flip() else None
