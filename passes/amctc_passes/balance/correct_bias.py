"""Correct biases for the rounding of weights, without data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from amctc.analysis import Use, uses
from amctc.contract import Changes, Contract
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.numerics.affine import weight_scales
from amctc.numerics.clipped_gaussian import ClippedGaussians
from amctc.numerics.linear import dequantize_linear, quantize_weight
from amctc.ops import nn, quant
from amctc.pattern import NoMatch
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import Array
from amctc_passes.balance.channels import rescalable
from amctc_passes.facts import TWO_OF_FOUR, UNQUANTIZED
from amctc_passes.quantize.layers import layers, matching, names
from amctc_passes.ranges.batch_norm_statistics import channel_statistics
from amctc_passes.weights.layer_inputs import contraction_of
from amctc_patterns.layers import input_channel_axis, per_output_channel, with_affine_result

Float64Array = npt.NDArray[np.float64]


@register
@dataclass(frozen=True)
class CorrectBias(Pass):
    """Add to each bias what the rounding of its layer's weights will take off the mean output (bias correction).

    Nagel et al. 2019, section 4.2.1: E[(W - Q(W))·x] = (W - Q(W))·E[x], and E[x] behind a batch normalisation and its
    activation is known in closed form. For layers that read what ``observe-batch-norm`` observed, before
    ``fold-batch-norm``: where a normalisation follows, its factors belong to the weights, and the correction goes into
    its shift. Q is what ``quantize-weights`` of these ``bits`` does. Padding counts like any other value. Layers that
    ``skip`` names, with wildcards, are left alone: name those that ``place-qdq`` skips.
    """

    bits: int = 8
    per_channel: bool = True
    skip: tuple[str, ...] = ()

    name: ClassVar[str] = "correct-bias"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("biases make up for weights that are not rounded yet"), requires=(UNQUANTIZED,),
        keeps=(TWO_OF_FOUR,), idempotent=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits={self.bits}: weights are stored in 4 or 8 bits")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Compute all corrections on the graph as it is, then put them into biases and shifts."""
        read, shifts, skipped = uses(graph), dict[Op, Float64Array](), matching(names(graph), self.skip, "skip")
        for op in layers(graph):
            statistics = None if layer_name(op) in skipped else _statistics(op)
            if statistics is None or not rescalable(op) or not _sums_channels(op):
                continue
            norm = _normalisation(op, read.get(op.result, ()))
            shift = self._shift(op, None if norm is None else _factors(norm), statistics)
            if shift is not None and _moves((norm or op).operand(2), shift):
                shifts[norm or op] = shift
        return convert(graph, lambda op, operands: _shifted(op, operands, shifts[op]) if op in shifts else None)

    def _shift(self, op: Op, factors: Float64Array | None, statistics: ClippedGaussians) -> Float64Array | None:
        """(W - Q(W))·E[x] [O] with ``factors`` [O] in the weights; ``None`` where the weights are not so many."""
        kind, weight = op.kind, op.operands[1]
        data = constant_data(weight)
        assert isinstance(kind, nn.Layer)
        assert weight is not None
        assert data is not None
        array, contraction = data.read(), contraction_of(op)
        if factors is not None:
            array = (array * per_output_channel(kind, weight.type, factors)).astype(array.dtype)
        mean = statistics.moments()[0]
        terms = contraction.groups * contraction.length
        if not np.isfinite(array).all() or terms % mean.size:
            return None
        columns = np.repeat(mean, terms // mean.size).reshape(contraction.groups, contraction.length)
        lost = contraction.matrix(array - self._rounded(kind, weight, array)).astype(np.float64)
        return np.asarray(np.einsum("gok,gk->go", lost, columns).reshape(-1))

    def _rounded(self, kind: nn.Layer, weight: Value, array: Array) -> Array:
        axis = nn.weight_channel_axis(kind, weight.type) if self.per_channel else None
        scales = weight_scales(array, axis=axis, bits=self.bits)
        return dequantize_linear(quantize_weight(array, scales, axis=axis, bits=self.bits), scales, 0, axis=axis)


def _statistics(op: Op) -> ClippedGaussians | None:
    """What is known of the data of a layer that will be quantized: it was observed."""
    data = op.operands[0]
    if data is None or data.producer is None or not isinstance(data.producer.kind, quant.Observe):
        return None
    return channel_statistics(data)


def _sums_channels(op: Op) -> bool:
    """Whether every output of a layer sums all that a window holds of some channels, axis 1 of its data."""
    data = op.operands[0]
    assert isinstance(op.kind, nn.Layer)
    assert data is not None
    return not isinstance(op.kind, nn.ConvTranspose) and input_channel_axis(op.kind, data.type.rank) == 1


def _normalisation(op: Op, readers: tuple[Use, ...]) -> Op | None:
    """The batch normalisation that alone reads the result of a layer, and will be folded into it."""
    norm = readers[0].op if len(readers) == 1 else None
    fits = norm is not None and isinstance(norm.kind, nn.BatchNorm) and readers[0].position == 0
    assert isinstance(op.kind, nn.Layer)
    plain = op.kind.activation is None and nn.result_channel_axis(op.kind, op.result.type.rank) == 1
    constant = norm is not None and all(constant_data(o) is not None for o in norm.operands[1:])
    return norm if fits and plain and constant else None


def _factors(norm: Op) -> Float64Array:
    gamma, variance = (constant_data(norm.operands[i]) for i in (1, 4))
    assert isinstance(norm.kind, nn.BatchNorm)
    assert gamma is not None
    assert variance is not None
    with np.errstate(all="ignore"):
        return np.asarray(gamma.read() / np.sqrt(variance.read().astype(np.float64) + norm.kind.eps))


def _moves(bias: Value | None, shift: Float64Array) -> bool:
    """Whether ``shift`` is not lost in the rounding of the bias it is added to, of a layer or a normalisation."""
    data = constant_data(bias)
    old = np.zeros(1, np.float32) if data is None else data.read()
    return bool(((old + shift).astype(old.dtype) != old).any())


def _shifted(op: Op, operands: tuple[Value | None, ...], shift: Float64Array) -> tuple[Value, ...] | None:
    x, weight, *rest = operands
    assert x is not None
    assert weight is not None
    if isinstance(op.kind, nn.BatchNorm):
        beta = constant_data(rest[0])
        assert beta is not None
        moved = const((beta.read() + shift).astype(beta.dtype), name=rest[0].name if rest[0] else None)
        return (apply(op.kind, x, weight, moved, *rest[1:]),)
    assert isinstance(op.kind, nn.Layer)
    try:
        return (with_affine_result(op.kind, x, weight, rest[0] if rest else None, None, shift),)
    except NoMatch:  # a bias per row, or one that is computed
        return None
