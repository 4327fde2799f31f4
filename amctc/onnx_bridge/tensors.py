"""ONNX element types, tensors and types as ours, and back. Sizes are checked before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from amctc.data import ArrayData, Data, FileData
from amctc.errors import InputError, LimitError, UnsupportedError, printable
from amctc.onnx_bridge.subgraphs import tensors_of
from amctc.types import I4, SCALAR_TYPES, U4, Array, Dim, Elem, QuantizedType, ScalarType, TensorType

ELEM_TYPES: dict[int, ScalarType] = {
    TensorProto.FLOAT: SCALAR_TYPES["f32"], TensorProto.FLOAT16: SCALAR_TYPES["f16"],
    TensorProto.DOUBLE: SCALAR_TYPES["f64"], TensorProto.BFLOAT16: SCALAR_TYPES["bf16"],
    TensorProto.INT8: SCALAR_TYPES["i8"], TensorProto.INT16: SCALAR_TYPES["i16"],
    TensorProto.INT32: SCALAR_TYPES["i32"], TensorProto.INT64: SCALAR_TYPES["i64"],
    TensorProto.UINT8: SCALAR_TYPES["u8"], TensorProto.UINT16: SCALAR_TYPES["u16"],
    TensorProto.UINT32: SCALAR_TYPES["u32"], TensorProto.UINT64: SCALAR_TYPES["u64"],
    TensorProto.INT4: SCALAR_TYPES["i4"], TensorProto.UINT4: SCALAR_TYPES["u4"],
    TensorProto.BOOL: SCALAR_TYPES["bool"], TensorProto.STRING: SCALAR_TYPES["string"],
    TensorProto.COMPLEX64: SCALAR_TYPES["c64"], TensorProto.COMPLEX128: SCALAR_TYPES["c128"],
    TensorProto.FLOAT8E4M3FN: SCALAR_TYPES["f8e4m3fn"], TensorProto.FLOAT8E5M2: SCALAR_TYPES["f8e5m2"],
    TensorProto.FLOAT8E4M3FNUZ: SCALAR_TYPES["f8e4m3fnuz"], TensorProto.FLOAT8E5M2FNUZ: SCALAR_TYPES["f8e5m2fnuz"],
}  # fmt: skip
_CODES = {t.name: code for code, t in ELEM_TYPES.items()}

BODY_LIMIT = 1 << 30
"""Most bytes of external data that one carried node's attributes and bodies may hold: they are kept in memory."""

ExternalFile = Callable[[str], Path]
"""Resolves the name of an external-data file to a path that is safe to read, or raises."""


def elem_of(code: int, where: str) -> ScalarType:
    """Our scalar type of an ONNX element type code."""
    if code not in ELEM_TYPES:
        raise UnsupportedError(f"element type {code} is not known", where=where, remedy="upgrade amctc or convert")
    return ELEM_TYPES[code]


def elem_code(elem: Elem) -> int:
    """ONNX element type code of what is stored."""
    return _CODES[(elem.storage if isinstance(elem, QuantizedType) else elem).name]


def tensor_data(tensor: TensorProto, external: ExternalFile | None) -> tuple[Data, ScalarType]:
    """Contents and element type of a tensor; external data stays in its file."""
    where = f"tensor {printable(tensor.name)!r}"
    elem = elem_of(tensor.data_type, where)
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape):
        raise InputError(f"a negative dimension in {list(shape)}", where=where, remedy="the file is damaged")
    count = math.prod(shape)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(tensor, shape, elem, external, where), elem
    if tensor.HasField("raw_data"):
        wanted = (count * elem.bits + 7) // 8
        if len(tensor.raw_data) != wanted:
            raise InputError(f"{len(tensor.raw_data)} bytes for {list(shape)} {elem}, expected {wanted}", where=where,
                             remedy="the file is damaged; export the model again")  # fmt: skip
    elif _typed_length(tensor) != _entries(count, elem):
        raise InputError(f"{_typed_length(tensor)} elements for shape {list(shape)}", where=where,
                         remedy="the file is damaged; export the model again")  # fmt: skip
    array = numpy_helper.to_array(tensor)
    return ArrayData(np.asarray(array).astype(elem.dtype, copy=False).reshape(shape)), elem


def _typed_length(tensor: TensorProto) -> int:
    return len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))


def _entries(count: int, elem: ScalarType) -> int:
    """Entries of a typed data field for ``count`` elements: two for a complex number, one for two int4 values."""
    if elem.name in ("c64", "c128"):
        return 2 * count
    return -(-count // 2) if elem in (I4, U4) else count


def _external(
    tensor: TensorProto, shape: tuple[int, ...], elem: ScalarType, external: ExternalFile | None, where: str
) -> Data:
    entries = {e.key: e.value for e in tensor.external_data}
    if external is None:
        raise InputError("external data, but the model has no folder", where=where, remedy="load the model from a file")
    if elem.bits < 8 or elem.name == "string":
        raise UnsupportedError(f"external data of type {elem}", where=where, remedy="store it inside the model")
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError:
        raise InputError("external offset or length is no number", where=where, remedy="the file is damaged") from None
    wanted = math.prod(shape) * elem.dtype.itemsize
    if length is not None and length != wanted:
        raise InputError(f"external length {length}, expected {wanted}", where=where, remedy="the file is damaged")
    return FileData(external(entries.get("location", "")), offset, shape, elem.dtype)


def with_contents(node: onnx.NodeProto, external: ExternalFile | None) -> onnx.NodeProto:
    """The node with external tensors of its attributes and bodies read in; itself if it has none."""
    if not any(t.data_location == TensorProto.EXTERNAL for t in tensors_of(node)):
        return node
    whole = onnx.NodeProto()
    whole.CopyFrom(node)
    total = 0
    for tensor in tensors_of(whole):
        if tensor.data_location == TensorProto.EXTERNAL:
            data, elem = tensor_data(tensor, external)
            total += data.nbytes
            if total > BODY_LIMIT:
                raise LimitError(
                    f"the node's own tensors hold more than {BODY_LIMIT} bytes", remedy="make them initializers"
                )
            tensor.CopyFrom(tensor_proto(tensor.name, data.read(), elem))
    return whole


def tensor_proto(name: str, array: Array, elem: Elem) -> TensorProto:
    """An initializer. int4 is packed two to a byte, low nibble first (N4 and ONNX agree)."""
    storage = elem.storage if isinstance(elem, QuantizedType) else elem
    if storage in (I4, U4):
        flat = np.asarray(array).astype(np.uint8).ravel() & 15
        padded = np.append(flat, np.zeros(flat.size % 2, np.uint8))
        packed = (padded[0::2] | (padded[1::2] << 4)).tobytes()
        return helper.make_tensor(name, elem_code(elem), array.shape, packed, raw=True)
    if storage.name == "string":
        return helper.make_tensor(name, TensorProto.STRING, array.shape, [_bytes(s) for s in array.ravel()])
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return helper.make_tensor(name, elem_code(elem), array.shape, little.tobytes(), raw=True)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")


def type_of(proto: onnx.TypeProto, where: str) -> TensorType | None:
    """Our type of a value, ``None`` where the element type is not given. Symbols keep their names."""
    if proto.WhichOneof("value") not in (None, "tensor_type"):
        kind = str(proto.WhichOneof("value")).removesuffix("_type")
        raise UnsupportedError(f"a value of type {kind} is not a tensor", where=where)
    tensor = proto.tensor_type
    if not tensor.elem_type:
        return None
    shape = tuple(map(_dim, tensor.shape.dim)) if tensor.HasField("shape") else None
    return TensorType(shape, elem_of(tensor.elem_type, where))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return str(dim.dim_param) or None


def value_info(name: str, type_: TensorType) -> onnx.ValueInfoProto:
    """The ONNX declaration of a graph input or output."""
    return onnx.ValueInfoProto(name=name, type=type_proto(type_))


def type_proto(type_: TensorType) -> onnx.TypeProto:
    """The ONNX type of a tensor type (storage for a quantized one)."""
    shape = None if type_.shape is None else list(type_.shape)
    return helper.make_tensor_type_proto(elem_code(type_.elem), shape)
