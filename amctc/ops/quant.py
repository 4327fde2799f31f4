"""The ``quant`` dialect: observers and quantizers. Quantization itself lives in the element type."""

from __future__ import annotations

from dataclasses import dataclass

from amctc.data import ArrayData, Data, deferred
from amctc.numerics.histogram import Histogram
from amctc.numerics.linear import dequantize_linear
from amctc.schema import OpKind, Trait, register
from amctc.types import F32, I32, QuantizedType, TensorType


@register("quant.observe", "x", Trait.IDENTITY, Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Observe(OpKind):
    """x itself, annotated with what calibration saw: the fields of :class:`amctc.numerics.histogram.Histogram`.

    ``average`` is the range averaged over batches, (low, high), or empty where nobody asked for it. The statistics sit
    in the graph, so a rewrite that moves or copies the value carries them along.
    """

    counts: Data
    exponent: int
    low: float
    high: float
    count: int
    zeros: int = 0
    average: tuple[float, ...] = ()

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 floating point, C2 low <= high, C3 an even number of bins, C4 an average has two ends."""
        (x,) = operands
        assert x is not None
        self.require(x.is_float, 1, f"{x} is not floating point")
        self.require(self.low <= self.high, 2, f"observed range [{self.low}, {self.high}]")
        bins = self.counts.shape
        self.require(len(bins) == 1 and bins[0] % 2 == 0, 3, "bins come in pairs around zero")
        ends = self.average
        self.require(not ends or (len(ends) == 2 and ends[0] <= ends[1]), 4, f"averaged range {list(ends)}")
        return (x,)

    @property
    def histogram(self) -> Histogram:
        """The statistics as a value that observers and threshold searches work on."""
        return Histogram(self.counts.read(), self.exponent, self.low, self.high, self.count, self.zeros)

    @staticmethod
    def of(h: Histogram, average: tuple[float, ...] = ()) -> Observe:
        """The op kind that carries ``h`` and a range averaged over batches."""
        return Observe(ArrayData(h.counts), h.exponent, h.low, h.high, h.count, h.zeros, average)

    def merged(self, other: Observe) -> Observe:
        """What was seen of both values: one histogram, and the hull of the averaged ranges where both have one."""
        both = self.average and other.average
        hull = (min(self.average[0], other.average[0]), max(self.average[1], other.average[1])) if both else ()
        return Observe.of(self.histogram.merged(other.histogram), hull)


@register("quant.quantize", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Quantize(OpKind):
    """ONNX QuantizeLinear: saturate(round_half_even(x / scale) + zero_point), per the element type ``to``."""

    to: QuantizedType

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1: the operand has the type ``to`` expresses; C2: no blocks, which only weights have."""
        (x,) = operands
        assert x is not None
        self.require(x.elem == self.to.expressed, 1, f"{x.elem} quantized to {self.to}")
        self.require(self.to.block == 0, 2, f"data quantized in blocks of {self.to.block}")
        return (TensorType(x.shape, self.to),)


@register("quant.dequantize", "q", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Dequantize(OpKind):
    """ONNX DequantizeLinear: (q - zero_point) · scale, in the type the operand expresses."""

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1: a quantized operand; C2: int32 storage (biases) has zero points of 0."""
        (q,) = operands
        assert q is not None
        self.require(isinstance(q.elem, QuantizedType), 1, f"{q.elem} is not quantized")
        assert isinstance(q.elem, QuantizedType)
        self.require(q.elem.storage != I32 or not any(q.elem.zero_points), 2, "an int32 value with a zero point")
        return (TensorType(q.shape, q.elem.expressed),)


@register("quant.fake_quantize_rows", "x")
@dataclass(frozen=True)
class FakeQuantizeRows(OpKind):
    """x rounded row by row, along its last axis, to the int8 steps that each row itself asks for (N6).

    The step of a row is known when it is computed, so no element type can hold it: the op gives the numbers that the
    integers stand for. With m the largest magnitude of a row and s = 127 / m they are round_half_even(x · s) · (1 / s).
    Rows below 2^-100 stay as they are; of float16 data those are zeros alone.
    """

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 float32 data, C2 of rank 2 at least."""
        (x,) = operands
        assert x is not None
        self.require(x.elem == F32, 1, f"{x} is not float32")
        self.require(x.rank >= 2, 2, f"{x} has no rows")
        return (x,)


def dequantized(data: Data, elem: QuantizedType) -> Data:
    """The real values of stored integers, as a deferred constant."""
    dtype = elem.expressed.dtype
    return deferred(
        "dequantize",
        lambda q: dequantize_linear(
            q, elem.scale_array, elem.zero_point_array, axis=elem.axis, block=elem.block, dtype=dtype
        ),
        data, shape=data.shape, dtype=dtype,
    )  # fmt: skip
