"""MatMulNBits: ONNX Runtime's product with a weight in blocks of 4 or 8 bits, as language models come."""

from __future__ import annotations

import numpy as np

from amctc.data import deferred
from amctc.ir import Value, apply, const, constant_data
from amctc.onnx_bridge.converters.node_view import Carry, Converted, NodeView, ranked
from amctc.onnx_bridge.tensors import unpacked
from amctc.ops import nn, quant
from amctc.types import F32, U4, U8, Array, QuantizedType, ScalarType

STORAGE = {4: U4, 8: U8}


@ranked
def matmul_nbits(view: NodeView) -> Converted:
    """A product with a dequantized constant [K, N], whose scales run over blocks of K.

    Carried: other widths, reordered columns (``g_idx``), zero points that are floats, types other than float32.
    """
    a, bias = view.operands[0], view.operand(5)
    reordered = view.operand(4) is not None
    if reordered or any(v is not None and v.type.elem != F32 for v in (a, view.operand(2), bias)):
        return None
    return nn.MatMul(), (a, _weight(view), *(() if bias is None else (bias,)))


def _weight(view: NodeView) -> Value:
    attributes, stored = view.attributes, view.operands[1]
    storage = STORAGE.get(int(attributes.get("bits", 4)))
    k, n, block = (int(attributes[name]) for name in ("K", "N", "block_size"))
    data, steps = constant_data(stored), view.array(2)
    blocks = -(-k // block)
    packed = (n, blocks, block * storage.bits // 8) if storage is not None else ()
    if storage is None or data is None or data.shape != packed or data.dtype != np.uint8 or steps is None:
        raise Carry("a weight that is computed or in another form")
    if steps.size != n * blocks or not (np.isfinite(steps).all() and (steps > 0).all()):
        raise Carry("scales in another form")
    zeros = _zero_points(view, storage, (n, blocks))
    scales = tuple(map(float, steps.reshape(n, blocks).T.ravel()))
    elem = QuantizedType(storage, F32, scales, tuple(map(int, zeros.T.ravel())), 0, *storage.integer_range, block)

    def columns(raw: Array) -> Array:
        """[K, N] of the bytes [N, blocks, bytes of a block]."""
        rows = raw.reshape(n, -1) if storage == U8 else unpacked(raw.reshape(-1), (n, blocks * block), storage)
        return np.ascontiguousarray(rows[:, :k].T)

    assert stored is not None
    unpacked_data = deferred("columns of blocks", columns, data, shape=(k, n), dtype=storage.dtype)
    constant = const(unpacked_data, elem, name=stored.name)
    return apply(quant.Dequantize(), constant, name=f"{stored.name}.dequant", origins=view.origins)


def _zero_points(view: NodeView, storage: ScalarType, shape: tuple[int, int]) -> Array:
    """One per row and block; in the middle of the range unless given. Those of a row fill whole bytes."""
    n, blocks = shape
    if view.operand(3) is None:
        return np.full(shape, 1 << (storage.bits - 1))
    given, row = view.array(3), -(-blocks * storage.bits // 8)
    if given is None or given.dtype != np.uint8 or given.size != n * row:
        raise Carry("zero points that are computed or floats")
    raw = given.reshape(-1)
    wide = row * 8 // storage.bits
    return (raw.reshape(n, -1) if storage == U8 else unpacked(raw, (n, wide), storage))[:, :blocks]
