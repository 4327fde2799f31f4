"""Observers, which leave no trace, and quantizers."""

from __future__ import annotations

from amctc.errors import UnsupportedError
from amctc.ir import Op, layer_name
from amctc.onnx_bridge.emitters.nodes import Formula
from amctc.onnx_bridge.exporter import Emitter, Writer
from amctc.onnx_bridge.tensors import elem_code
from amctc.ops import quant
from amctc.schema import OpKind
from amctc.types import F32, I32, QuantizedType, ScalarType, TensorType


def _observe(writer: Writer, op: Op) -> None:
    """Observers leave no trace in a file, except an Identity where one is a graph output."""
    source = op.operands[0]
    assert source is not None
    if not writer.alias(op.result, source):
        writer.node("Identity", [writer.name(source)], [writer.name(op.result)], f"{layer_name(op)}/observe")


def quantization_parameters(writer: Writer, elem: QuantizedType, type_: TensorType, hint: str) -> list[str]:
    """Scale and zero point initializers; an int32 bias has no zero point."""
    shape: tuple[int, ...] = () if elem.axis is None else (-1,)
    if elem.block:
        shape = elem.parameter_shape([d for d in type_.dims if isinstance(d, int)])
    names = [writer.constant(f"{hint}/scale", elem.scale_array.reshape(shape))]
    if elem.storage != I32:
        zero = elem.zero_point_array.astype(elem.dtype)
        names.append(writer.constant(f"{hint}/zero_point", zero.reshape(shape), elem.storage))
    return names


def _quantize(writer: Writer, op: Op) -> None:
    kind = op.kind
    assert isinstance(kind, quant.Quantize)
    result = writer.name(op.result)
    _check_range(kind.to, op)
    source = writer.name(op.operands[0])
    if kind.to.expressed != F32:  # scales are float32 and would lose bits in the type of narrower data
        source, narrow = writer.tensor(f"{result}/float32"), source
        writer.node("Cast", [narrow], [source], f"{result}/Cast", to=elem_code(F32))
    inputs = [source, *quantization_parameters(writer, kind.to, op.result.type, result)]
    writer.node("QuantizeLinear", inputs, [result], f"{result}/QuantizeLinear", axis=kind.to.axis)


def _dequantize(writer: Writer, op: Op) -> None:
    source = op.operands[0]
    assert source is not None
    elem = source.type.elem
    assert isinstance(elem, QuantizedType)
    result = writer.name(op.result)
    inputs = [writer.name(source), *quantization_parameters(writer, elem, source.type, result)]
    wide = result if elem.expressed == F32 else writer.tensor(f"{result}/float32")
    writer.node("DequantizeLinear", inputs, [wide], f"{result}/DequantizeLinear", axis=elem.axis,
                block_size=elem.block or None)  # fmt: skip
    if wide != result:
        writer.node("Cast", [wide], [result], f"{result}/Cast", to=elem_code(elem.expressed))


def _fake_quantize_rows(writer: Writer, op: Op) -> None:
    """The formula of N6 in float operators: ONNX has no quantizer that finds a scale for each row."""
    f = Formula(writer, op)
    sizes, newer = f.step("Abs", f.operands[0]), writer.opset >= 18  # where the axes are an operand
    largest = f.step("ReduceMax", sizes, *([f.integers("axes", -1)] if newer else []), keepdims=1,
                     axes=None if newer else [-1])  # fmt: skip
    factor = f.step("Div", f.number(127.0), largest)
    integers = f.step("Round", f.step("Mul", f.operands[0], factor))
    real = f.step("Mul", integers, f.step("Div", f.number(1.0), factor))
    f.step("Where", f.step("Greater", largest, f.number(2.0**-100)), real, f.operands[0], last=True)


def _check_range(elem: QuantizedType, op: Op) -> None:
    assert isinstance(elem.storage, ScalarType)
    if (elem.low, elem.high) != elem.storage.integer_range:
        raise UnsupportedError(f"QuantizeLinear cannot clip to [{elem.low}, {elem.high}]", where=layer_name(op))


QUANTIZATION: dict[type[OpKind], Emitter] = {
    quant.Observe: _observe, quant.Quantize: _quantize, quant.Dequantize: _dequantize,
    quant.FakeQuantizeRows: _fake_quantize_rows,
}  # fmt: skip
