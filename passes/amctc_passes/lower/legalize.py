"""Return to float what the target cannot compute in integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amctc.analysis import value_range
from amctc.contract import Changes, Contract
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name, with_operands
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.targets import Profile, load_profile
from amctc.types import QuantizedType
from amctc_passes.facts import (
    BIASES_QUANTIZED,
    NOT_LOWERED,
    TWO_OF_FOUR,
    UNOBSERVED,
    WEIGHTS_QUANTIZED,
    has_quantizer,
    has_row_steps,
    is_quantized,
    quantized_type,
    stands_for_integers,
    stored_under,
)
from amctc_passes.quantize.layers import integer_obstacle, row_obstacle, weight_only_obstacle
from amctc_passes.quantize.stored_forms import (
    activation_obstacle,
    bias_obstacle,
    row_weight_obstacle,
    weight_obstacle,
)


@register
@dataclass(frozen=True)
class Legalize(Pass):
    """Take the quantizers off layers that the target does not compute in integers, and say why.

    ``place-qdq`` asks the same question first, so after it nothing is left to do here unless the target changed or
    the quantizers came with the model. Quantized weights stay rounded: they become float constants, except in matrix
    products under float data where the target computes those (N21). Quantizers between other ops go as well where the
    target has none of their form (uint8, per channel). Only rounding is lost: values stay within the range of a
    quantizer taken off, because other tools leave the clip of a relu to its saturation.
    """

    target: str = ""

    name: ClassVar[str] = "legalize"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("layers return to float"), requires=(NOT_LOWERED, UNOBSERVED),
        keeps=(WEIGHTS_QUANTIZED, BIASES_QUANTIZED, TWO_OF_FOUR),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.target:
            load_profile(self.target)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Strip quantizers where the target has no integer form."""
        target = load_profile(self.target) if self.target else context.target
        reals = _Reals()

        def legal(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            reals.follow(op, operands)
            if isinstance(op.kind, quant.Dequantize):
                return self._dequantized(op, reals, context)
            if isinstance(op.kind, quant.FakeQuantizeRows):
                return None if target.row_scales or operands[0] is None else (operands[0],)
            if not isinstance(op.kind, nn.Layer | nn.AveragePool) or not any(map(stands_for_integers, op.operands)):
                return None
            if _is_weight_only(op):
                reason = weight_only_obstacle(op, target)
            else:
                reason = integer_obstacle(op, target) or _obstacle(op, target)
            if reason is None:
                return None
            context.note(self.name, layer_name(op), f"left in float: {reason}")
            stripped = tuple(map(reals.stripped, op.operands, operands))
            return (Op(op.kind, stripped, (op.result.type,), (op.result.name,), op.origins).result,)

        return convert(graph, legal)

    def _dequantized(self, op: Op, reals: _Reals, context: Context) -> tuple[Value, ...] | None:
        """What was quantized, for an activation in a form that the target has no quantizer for."""
        stored = op.operands[0]
        assert stored is not None
        elem, real = stored.type.elem, reals.of(stored)
        assert isinstance(elem, QuantizedType)
        if real is None or has_quantizer(elem):
            return None
        assert stored.producer is not None
        form = f"{elem.storage} per channel" if elem.axis is not None else f"{elem.storage}"
        context.note(self.name, layer_name(stored.producer),
                     f"left in float: no quantizer of the target stores {form}")  # fmt: skip
        return (real,)


def _obstacle(op: Op, target: Profile) -> str | None:
    """Quantizers that came in a form N24 cannot say."""
    if has_row_steps(op.operands[0]):
        return row_obstacle(op, target) or row_weight_obstacle(op)
    both = isinstance(op.kind, nn.Layer)
    if not all(map(is_quantized, op.operands[: 1 + both])):
        return "only some of its operands are quantized"
    activation = quantized_type(op.operands[0])
    reason = activation_obstacle(activation, target)
    if reason is not None or not both:
        return reason
    return weight_obstacle(op, activation, target) or bias_obstacle(op, activation, quantized_type(op.operands[1]))


def _is_weight_only(op: Op) -> bool:
    """True for a layer whose constant weight alone is quantized."""
    if not isinstance(op.kind, nn.Layer) or stands_for_integers(op.operands[0]) or not is_quantized(op.operands[1]):
        return False
    return constant_data(stored_under(op.operands[1])) is not None


class _Reals:
    """What quantized activations of a graph stand for, computed in float: without rounding, within their range.

    Followed along the graph in topological order, from quantizers on through what moves and joins integers. Old values
    are asked for, new ones given.
    """

    def __init__(self) -> None:
        self._found: dict[Value, Value] = {}

    def follow(self, op: Op, operands: tuple[Value | None, ...]) -> None:
        """Remember the real numbers of the quantized results of ``op``, whose converted operands are ``operands``."""
        if isinstance(op.kind, quant.Quantize):
            assert operands[0] is not None
            self._found[op.result] = saturated(operands[0], op.kind.to)
        elif isinstance(op.kind, quant.FakeQuantizeRows):
            assert operands[0] is not None
            self._found[op.result] = operands[0]
        elif isinstance(op.results[0].type.elem, QuantizedType) and any(o in self._found for o in op.operands):
            real = tuple(map(self._real, op.operands, operands))
            if not any(r is not None and isinstance(r.type.elem, QuantizedType) for r in real):
                self._found.update(zip(op.results, with_operands(op, real).results, strict=True))

    def of(self, stored: Value) -> Value | None:
        """The real numbers of an activation; ``None`` for a constant and for what nothing here quantized."""
        return self._found.get(stored)

    def stripped(self, old: Value | None, new: Value | None) -> Value | None:
        """An operand in float: what was quantized, or the float constant that integers stand for."""
        if has_row_steps(old):
            return self._real(old, new)
        if new is None or not is_quantized(old) or not is_quantized(new):
            return new
        real = self._real(stored_under(old), new)
        return const(data, name=new.name) if (data := constant_data(real)) is not None else real

    def _real(self, old: Value | None, new: Value | None) -> Value | None:
        """What ``old`` stands for; ``new``, the same operand converted, where that is not known or needed."""
        elem, data = None if old is None else old.type.elem, constant_data(old)
        if data is not None and isinstance(elem, QuantizedType):
            return const(quant.dequantized(data, elem))
        return new if old is None else self._found.get(old, new)


def saturated(value: Value, elem: QuantizedType) -> Value:
    """``value`` clipped to the reals that ``elem`` has, channel by channel; as it is where it lies within them."""
    steps, zeros = elem.scale_array.astype(np.float64), elem.zero_point_array
    lows, highs = (elem.low - zeros) * steps, (elem.high - zeros) * steps
    known = value_range(value)
    if lows.max(initial=-np.inf) <= known.low and known.high <= highs.min(initial=np.inf):
        return value
    if lows.min() == lows.max() and highs.min() == highs.max():
        return apply(nn.Clip(float(lows[0]), float(highs[0])), value)
    assert elem.axis is not None
    shape = [1] * value.type.rank
    shape[elem.axis] = -1
    low, high = (const(ends.reshape(shape).astype(elem.expressed.dtype)) for ends in (lows, highs))
    return apply(nn.Min(), apply(nn.Max(), value, low), high)
