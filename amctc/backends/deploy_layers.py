"""The layers of a deploy file: standard ONNX nodes on integers (N24), weight-only products (N21)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amctc.errors import UnsupportedError
from amctc.ir import Op, Value, layer_name
from amctc.onnx_bridge.deploy_form import QUANT_MATMUL
from amctc.onnx_bridge.emitters.quantization import quantization_parameters
from amctc.onnx_bridge.exporter import Emitter, Writer
from amctc.onnx_bridge.tensors import elem_code
from amctc.ops import ascend
from amctc.schema import OpKind
from amctc.types import F16, I8

FLOAT16_CODE = 1
"""float16 in the graph engine's data types: what attribute ``dtype`` of QuantBatchMatMul holds."""


def _conv(writer: Writer, op: Op) -> None:
    kind, weight = op.kind, op.operands[1]
    assert isinstance(kind, ascend.Conv | ascend.ConvTranspose)
    assert weight is not None
    extra = (kind.output_padding or None) if isinstance(kind, ascend.ConvTranspose) else None
    writer.node(
        type(kind).__name__, [writer.name(o) for o in op.operands], [writer.name(op.result)], layer_name(op),
        strides=kind.strides, pads=kind.pads, dilations=kind.dilations, group=kind.group,
        kernel_shape=weight.type.dims[2:], output_padding=extra,
    )  # fmt: skip


def _average_pool(writer: Writer, op: Op) -> None:
    """AveragePool: the dequantizer behind it says the scale of the average, the file nowhere the sum (N26)."""
    kind = op.kind
    assert isinstance(kind, ascend.SumPool)
    writer.node(
        "AveragePool", [writer.name(op.operands[0])], [writer.name(op.result)], layer_name(op),
        kernel_shape=kind.kernel, strides=kind.strides, pads=kind.pads, ceil_mode=0, count_include_pad=1,
    )  # fmt: skip


def _matmul(writer: Writer, op: Op) -> None:
    """Gemm, or MatMul with an Add for the bias, whichever the layer was in the user's model (N24)."""
    kind, (x, w, b) = op.kind, (*op.operands, None)[:3]
    assert isinstance(kind, ascend.MatMul)
    _product(writer, op, x, writer.name(w), b, kind.trans_b)


def _weight_quant_matmul(writer: Writer, op: Op) -> None:
    """DequantizeLinear, in the type of the data, and a product: no form of the target's own is published (N21)."""
    kind, (x, w, scale, offset, b) = op.kind, (*op.operands, None, None)[:5]
    assert isinstance(kind, ascend.WeightQuantMatMul)
    assert x is not None
    assert w is not None
    elem, hint = ascend.stored_type(kind, w.type, scale, offset), f"{layer_name(op)}.weight"
    real = writer.tensor(f"{hint}.dequant")
    inputs = [writer.name(w), *quantization_parameters(writer, elem, w.type, hint)]
    writer.node("DequantizeLinear", inputs, [real], f"{hint}.dequant", axis=elem.axis, block_size=elem.block or None)
    if x.type.elem == F16:
        wide, real = real, writer.tensor(f"{hint}.cast")
        writer.node("Cast", [wide], [real], f"{hint}.cast", to=elem_code(F16))
    _product(writer, op, x, real, b, kind.trans_b)


def _dequant_rows(writer: Writer, op: Op) -> None:
    """QuantBatchMatMul, the integer product with its epilogue (N13): operands x, w, scale, no offset, b, row scales.

    Its result is float16; what the file leaves in float32 is cast.
    """
    kind, (acc, scale, rows, bias) = op.kind, (*op.operands, None)[:4]
    assert isinstance(kind, ascend.DequantRows)
    product = None if acc is None else acc.producer
    matrix = None if product is None else product.kind
    if product is None or not isinstance(matrix, ascend.MatMul) or not is_product_of_rows(product):
        raise UnsupportedError("scales per row of something that is no product with a constant matrix",
                               where=layer_name(op), rule="N13", remedy="dequantize it with AscendDequant")  # fmt: skip
    layer, result = layer_name(product), writer.name(op.result)
    half = result if kind.to == F16 else writer.tensor(f"{result}/float16")
    inputs = [*map(writer.name, product.operands[:2]), writer.name(scale), "", writer.name(bias), writer.name(rows)]
    writer.node(QUANT_MATMUL, inputs, [half], layer, dtype=FLOAT16_CODE, transpose_x1=0,
                transpose_x2=int(matrix.trans_b))  # fmt: skip
    if half != result:
        writer.node("Cast", [half], [result], f"{layer}/Cast", to=elem_code(kind.to))


def is_product_of_rows(op: Op) -> bool:
    """Whether QuantBatchMatMul can say this product: int8 by int8, no offset, no bias in the accumulator."""
    kind, weight = op.kind, op.operand(1)
    plain = isinstance(kind, ascend.MatMul) and kind.offset_x == 0 and op.operand(2) is None
    return plain and weight is not None and weight.type.elem == I8


def _product(writer: Writer, op: Op, x: Value | None, w: str, b: Value | None, trans_b: bool) -> None:
    """Gemm, or MatMul with an Add, by the tensor ``w``."""
    assert x is not None
    layer = layer_name(op)
    came_as_matmul = any(o == (layer, "MatMul") for o in op.origins)
    if x.type.rank == 2 and (trans_b or not came_as_matmul):
        fixed: dict[str, Any] = {"alpha": 1.0, "beta": 1.0, "transB": int(trans_b)}
        inputs = [writer.name(x), w, *([] if b is None else [writer.name(b)])]
        writer.node("Gemm", inputs, [writer.name(op.result)], layer, **fixed)
        return
    if trans_b:
        raise UnsupportedError(f"a transposed weight under data of rank {x.type.rank}", where=layer,
                               remedy="store the weight as [K, N]")  # fmt: skip
    _matmul_and_bias(writer, op, x, w, b)


def _batch_matmul(writer: Writer, op: Op) -> None:
    x, w, b = (*op.operands, None)[:3]
    _matmul_and_bias(writer, op, x, writer.name(w), b)


def _matmul_and_bias(writer: Writer, op: Op, x: Value | None, w: str, b: Value | None) -> None:
    """MatMul, and an Add for the bias."""
    layer, result = layer_name(op), writer.name(op.result)
    product = result if b is None else writer.tensor(f"{result}/product")
    writer.node("MatMul", [writer.name(x), w], [product], layer)
    if b is not None:
        writer.node("Add", [product, writer.name(b)], [result], f"{layer}/bias")


LAYERS: Mapping[type[OpKind], Emitter] = {
    ascend.Conv: _conv, ascend.ConvTranspose: _conv, ascend.MatMul: _matmul, ascend.BatchMatMul: _batch_matmul,
    ascend.SumPool: _average_pool, ascend.WeightQuantMatMul: _weight_quant_matmul,
    ascend.DequantRows: _dequant_rows,
}  # fmt: skip
"""Emitters of the layers by op kind."""
