"""Store quantized values in signed integers, which is all that the target computes with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from amctc.contract import Contract, Exact
from amctc.data import Data, deferred
from amctc.ir import Constant, Graph, Op, Value, apply, const
from amctc.ops import onnx, quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import I4, I8, I16, U4, U8, U16, Array, Elem, QuantizedType, ScalarType
from amctc_passes.facts import BIASES_QUANTIZED, NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED, WEIGHTS_QUANTIZED

SIGNED: dict[ScalarType, ScalarType] = {U4: I4, U8: I8, U16: I16}
"""The signed type of each unsigned one."""


@register
@dataclass(frozen=True)
class SignedStorage(Pass):
    """Shift unsigned integers and their zero points by half the range: 0 … 255 becomes -128 … 127.

    The same real numbers are meant, so nothing is rounded: an activation with zero point 3 has -125 then, and a weight
    with zero point 128 is symmetric (N10). Values that the interface or a carried op shows as unsigned stay so, with
    all that share their integers.
    """

    name: ClassVar[str] = "signed-storage"
    contract: ClassVar[Contract] = Contract(
        effect=Exact(), requires=(NOT_LOWERED,), keeps=(UNOBSERVED, WEIGHTS_QUANTIZED, BIASES_QUANTIZED, TWO_OF_FOUR)
    )

    def run(self, graph: Graph, context: Context) -> Graph:
        """Rebuild the quantizers and constants; what moves their integers follows."""
        shown = _shown(graph)

        def shifted(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            kind, to = op.kind, None if op.results[0] in shown else signed(op.results[0].type.elem)
            if to is None:
                return None
            if isinstance(kind, quant.Quantize):
                return (apply(quant.Quantize(to), operands[0]),)
            return (const(_shifted(kind.data, to), to),) if isinstance(kind, Constant) else None

        return convert(graph, shifted)


def signed(elem: Elem) -> QuantizedType | None:
    """The type with the same reals in signed integers; ``None`` for one that is signed or not quantized."""
    storage = SIGNED.get(elem.storage) if isinstance(elem, QuantizedType) else None
    if storage is None:
        return None
    assert isinstance(elem, QuantizedType)
    half = 1 << (storage.bits - 1)
    zeros = tuple(z - half for z in elem.zero_points)
    return replace(elem, storage=storage, zero_points=zeros, low=elem.low - half, high=elem.high - half)


def _shifted(data: Data, to: QuantizedType) -> Data:
    """Unsigned integers less half the range, when they are read."""
    half = 1 << (to.bits - 1)

    def shift(integers: Array) -> Array:
        return np.subtract(integers, half, dtype=np.int32).astype(to.dtype)

    return deferred("signed", shift, data, shape=data.shape, dtype=to.dtype)


def _shown(graph: Graph) -> set[Value]:
    """Values whose integers can be seen from outside, and those that are moved to or from them."""
    shares: dict[Value, list[Value]] = {}
    shown: list[Value] = [v for v in (*graph.inputs, *graph.outputs) if signed(v.type.elem) is not None]
    for op in graph.ops:
        here = [v for v in (*op.operands, *op.results) if v is not None and signed(v.type.elem) is not None]
        if isinstance(op.kind, onnx.Node):
            shown.extend(here)
        for value in here:
            shares.setdefault(value, []).extend(here)
    found: set[Value] = set()
    while shown:
        value = shown.pop()
        if value not in found:
            found.add(value)
            shown.extend(shares.get(value, ()))
    return found
