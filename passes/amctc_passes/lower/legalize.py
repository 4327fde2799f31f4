"""Return to float what the target cannot compute in integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Changes, Contract
from amctc.ir import Graph, Op, Value, const, constant_data, layer_name
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.targets import load_profile
from amctc.types import QuantizedType, TensorType
from amctc_passes.facts import BIASES_QUANTIZED, NOT_LOWERED, UNOBSERVED, WEIGHTS_QUANTIZED, is_quantized
from amctc_passes.quantize.layers import integer_obstacle


@register
@dataclass(frozen=True)
class Legalize(Pass):
    """Take the quantizers off layers that the target does not compute in integers, and say why.

    ``place-qdq`` asks the same question first, so after it nothing is left to do here unless the target changed or
    the quantizers came with the model. Quantized weights stay rounded: they become float constants.
    """

    target: str = ""

    name: ClassVar[str] = "legalize"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("layers return to float"), requires=(NOT_LOWERED, UNOBSERVED),
        keeps=(WEIGHTS_QUANTIZED, BIASES_QUANTIZED),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.target:
            load_profile(self.target)

    def run(self, graph: Graph, context: Context) -> Graph:
        """Strip quantizers where the target has no integer form."""
        target = load_profile(self.target) if self.target else context.target

        def legal(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            if not isinstance(op.kind, nn.Layer) or not any(map(is_quantized, operands)):
                return None
            reason = self._obstacle(op, operands, target.name) or integer_obstacle(op, target)
            if reason is None:
                return None
            context.note(self.name, layer_name(op), f"left in float: {reason}")
            stripped = tuple(map(_stripped, operands))
            return (Op(op.kind, stripped, (op.result.type,), (op.result.name,), op.origins).result,)

        return convert(graph, legal)

    @staticmethod
    def _obstacle(op: Op, operands: tuple[Value | None, ...], target: str) -> str | None:
        """Quantizers that came in a form N24 cannot say."""
        if not (is_quantized(operands[0]) and is_quantized(operands[1])):
            return "only some of its operands are quantized"
        types = [_source(o).elem for o in operands[:2] if o is not None]
        activation, weight = types
        assert isinstance(activation, QuantizedType)
        assert isinstance(weight, QuantizedType)
        if activation.storage.name != "i8" or activation.axis is not None:
            return f"activations stored as {activation.storage} are not simulated on {target} yet"
        if any(weight.zero_points) or weight.storage.name not in ("i8", "i4"):
            return "weights must be symmetric int8 (N10)"
        kind, rank = op.kind, _source(operands[1]).rank
        assert isinstance(kind, nn.Layer)
        if weight.axis is not None and weight.axis != nn.weight_channel_axis(
            kind, TensorType((None,) * rank, weight.expressed)
        ):
            return "weight scales do not run over output channels"
        if len(operands) > 2 and operands[2] is not None and not is_quantized(operands[2]):
            return "its bias is not quantized"
        return None


def _source(value: Value | None) -> TensorType:
    assert value is not None
    assert value.producer is not None
    operand = value.producer.operands[0]
    assert operand is not None
    return operand.type


def _stripped(value: Value | None) -> Value | None:
    """A dequantized value in float again: what was quantized, or the float constant the integers stand for."""
    if value is None or not is_quantized(value):
        return value
    assert value.producer is not None
    stored = value.producer.operands[0]
    assert stored is not None
    data, elem = constant_data(stored), stored.type.elem
    assert isinstance(elem, QuantizedType)
    if data is not None:
        return const(quant.dequantized(data, elem), name=value.name)
    assert stored.producer is not None
    return stored.producer.operands[0] if isinstance(stored.producer.kind, quant.Quantize) else value
