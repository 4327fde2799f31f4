"""The ``quant`` dialect: observers and quantizers. Quantization itself lives in the element type."""

from __future__ import annotations

from dataclasses import dataclass

from amctc.data import ArrayData, Data, deferred
from amctc.numerics.histogram import Histogram
from amctc.numerics.linear import dequantize_linear
from amctc.schema import OpKind, Trait, register
from amctc.types import I32, QuantizedType, TensorType


@register("quant.observe", "x", Trait.IDENTITY, Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Observe(OpKind):
    """x itself, annotated with what calibration saw: the fields of :class:`amctc.numerics.histogram.Histogram`.

    The statistics sit in the graph, so a rewrite that moves or copies the value carries them along.
    """

    counts: Data
    exponent: int
    low: float
    high: float
    count: int
    zeros: int = 0

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 floating point, C2 low <= high, C3 an even number of bins."""
        (x,) = operands
        assert x is not None
        self.require(x.is_float, 1, f"{x} is not floating point")
        self.require(self.low <= self.high, 2, f"observed range [{self.low}, {self.high}]")
        bins = self.counts.shape
        self.require(len(bins) == 1 and bins[0] % 2 == 0, 3, "bins come in pairs around zero")
        return (x,)

    @property
    def histogram(self) -> Histogram:
        """The statistics as a value that observers and threshold searches work on."""
        return Histogram(self.counts.read(), self.exponent, self.low, self.high, self.count, self.zeros)

    @staticmethod
    def of(h: Histogram) -> Observe:
        """The op kind that carries ``h``."""
        return Observe(ArrayData(h.counts), h.exponent, h.low, h.high, h.count, h.zeros)


@register("quant.quantize", "x", Trait.ELEMENTWISE)
@dataclass(frozen=True)
class Quantize(OpKind):
    """ONNX QuantizeLinear: saturate(round_half_even(x / scale) + zero_point), per the element type ``to``."""

    to: QuantizedType

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1: the operand has the type ``to`` expresses."""
        (x,) = operands
        assert x is not None
        self.require(x.elem == self.to.expressed, 1, f"{x.elem} quantized to {self.to}")
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


def dequantized(data: Data, elem: QuantizedType) -> Data:
    """The real values of stored integers, as a deferred constant."""
    dtype = elem.expressed.dtype
    return deferred(
        "dequantize",
        lambda q: dequantize_linear(q, elem.scale_array, elem.zero_point_array, axis=elem.axis, dtype=dtype),
        data, shape=data.shape, dtype=dtype,
    )  # fmt: skip
