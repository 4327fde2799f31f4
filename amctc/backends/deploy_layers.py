"""The layers of a deploy file: standard ONNX nodes on integers (N24), weight-only products (N21)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amctc.errors import UnsupportedError
from amctc.ir import Op, Value, layer_name
from amctc.onnx_bridge.emitters.quantization import quantization_parameters
from amctc.onnx_bridge.exporter import Emitter, Writer
from amctc.onnx_bridge.tensors import elem_code
from amctc.ops import ascend
from amctc.schema import OpKind
from amctc.types import F16


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
}  # fmt: skip
"""Emitters of the layers by op kind."""
