"""ONNX element types, tensors and types as ours, and back. Sizes are checked before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from amctc.data import ArrayData, Data, FileData, deferred
from amctc.errors import AmctcError, InputError, LimitError, UnsupportedError, printable
from amctc.onnx_bridge.subgraphs import tensors_of
from amctc.types import SCALAR_TYPES, Array, Dim, Elem, OpaqueType, QuantizedType, ScalarType, TensorType

_NAMES = {
    "FLOAT": "f32", "FLOAT16": "f16", "DOUBLE": "f64", "BFLOAT16": "bf16", "INT8": "i8", "INT16": "i16",
    "INT32": "i32", "INT64": "i64", "UINT8": "u8", "UINT16": "u16", "UINT32": "u32", "UINT64": "u64", "INT4": "i4",
    "UINT4": "u4", "INT2": "i2", "UINT2": "u2", "BOOL": "bool", "STRING": "string", "COMPLEX64": "c64",
    "COMPLEX128": "c128", "FLOAT8E4M3FN": "f8e4m3fn", "FLOAT8E5M2": "f8e5m2", "FLOAT8E4M3FNUZ": "f8e4m3fnuz",
    "FLOAT8E5M2FNUZ": "f8e5m2fnuz", "FLOAT8E8M0": "f8e8m0", "FLOAT4E2M1": "f4e2m1",
}  # fmt: skip
ELEM_TYPES: dict[int, ScalarType] = {
    code: SCALAR_TYPES[_NAMES[name]] for name, code in TensorProto.DataType.items() if name in _NAMES
}
"""Our scalar types by ONNX element type code, as far as the installed onnx has the code."""

_CODES = {t.name: code for code, t in ELEM_TYPES.items()}

_AS_STORED = {
    t.name: t.dtype.newbyteorder("<") for t in ELEM_TYPES.values()
    if t.bits >= 8 and t.dtype.kind in "fiu" and t.dtype.isbuiltin
}  # fmt: skip
"""NumPy types of elements that stand in a file as NumPy holds them."""

BODY_LIMIT = 1 << 30
"""Most bytes of external data that one carried node's attributes and bodies may hold: they are kept in memory."""

ExternalFile = Callable[[str], Path]
"""Resolves the name of an external-data file to a path that is safe to read, or raises."""


def elem_of(code: int, where: str | None = None) -> ScalarType:
    """Our scalar type of an ONNX element type code."""
    if code not in ELEM_TYPES:
        raise UnsupportedError(f"element type {code} is not known", where=where, remedy="upgrade amctc or convert")
    return ELEM_TYPES[code]


def elem_code(elem: Elem) -> int:
    """ONNX element type code of what is stored."""
    return _CODES[(elem.storage if isinstance(elem, QuantizedType) else elem).name]


def tensor_data(tensor: TensorProto, external: ExternalFile | None) -> tuple[Data, ScalarType]:
    """Contents and element type of a tensor; external data stays in its file."""
    try:
        return _contents(tensor, external)
    except AmctcError as error:
        raise error.located(f"tensor {printable(tensor.name)!r}") from None


def _contents(tensor: TensorProto, external: ExternalFile | None) -> tuple[Data, ScalarType]:
    elem = elem_of(tensor.data_type)
    shape = tuple(tensor.dims[:])
    if shape and min(shape) < 0:
        raise InputError(f"a negative dimension in {list(shape)}", remedy="the file is damaged")
    count = math.prod(shape)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(tensor, shape, elem, external), elem
    if tensor.HasField("raw_data"):
        raw, wanted = tensor.raw_data, stored_bytes(count, elem)
        if len(raw) != wanted:
            raise InputError(f"{len(raw)} bytes for {list(shape)} {elem}, expected {wanted}",
                             remedy="the file is damaged; export the model again")  # fmt: skip
        little = _AS_STORED.get(elem.name)
        if little is not None:  # nothing to unpack: no copy either
            return ArrayData(np.frombuffer(raw, little).astype(elem.dtype, copy=False).reshape(shape)), elem
    elif _typed_length(tensor) != _entries(count, elem):
        raise InputError(f"{_typed_length(tensor)} elements for shape {list(shape)}",
                         remedy="the file is damaged; export the model again")  # fmt: skip
    array = numpy_helper.to_array(tensor)
    return ArrayData(np.asarray(array).astype(elem.dtype, copy=False).reshape(shape)), elem


def _typed_length(tensor: TensorProto) -> int:
    return len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))


def _entries(count: int, elem: ScalarType) -> int:
    """Entries of a typed data field for ``count`` elements: two for a complex number, one for a byte of narrow ones."""
    if elem.name in ("c64", "c128"):
        return 2 * count
    return stored_bytes(count, elem) if elem.bits < 8 else count


def stored_bytes(count: int, elem: ScalarType) -> int:
    """Bytes that ``count`` elements take in a file; elements narrower than a byte share one."""
    return (count * elem.bits + 7) // 8


def _external(tensor: TensorProto, shape: tuple[int, ...], elem: ScalarType, external: ExternalFile | None) -> Data:
    entries = {e.key: e.value for e in tensor.external_data}
    if external is None:
        raise InputError("external data, but the model has no folder", remedy="load the model from a file")
    if elem.name == "string":
        raise UnsupportedError(f"external data of type {elem}", remedy="store it inside the model")
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError:
        raise InputError("external offset or length is no number", remedy="the file is damaged") from None
    wanted = stored_bytes(math.prod(shape), elem)
    if length is not None and length != wanted:
        raise InputError(f"external length {length}, expected {wanted}", remedy="the file is damaged")
    path = external(entries.get("location", ""))
    if elem.bits >= 8:
        return FileData(path, offset, shape, elem.dtype)
    packed = FileData(path, offset, (wanted,), np.dtype(np.uint8))
    return deferred("unpack", lambda raw: unpacked(raw, shape, elem), packed, shape=shape, dtype=elem.dtype)


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
    """An initializer with its contents inside."""
    storage = elem.storage if isinstance(elem, QuantizedType) else elem
    if storage.name == "string":
        return helper.make_tensor(name, TensorProto.STRING, array.shape, [_bytes(s) for s in array.ravel()])
    return TensorProto(
        name=name, data_type=elem_code(elem), dims=array.shape, raw_data=tensor_bytes(array, storage).tobytes()
    )


def tensor_bytes(array: Array, storage: ScalarType) -> Array:
    """The bytes of a tensor as they stand in a file: little-endian, narrow elements packed; a view where it can be.

    Of elements narrower than a byte the first is in the low bits (N4 and ONNX agree).
    """
    if storage.bits >= 8:
        little: Array = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        return little.reshape(-1).view(np.uint8)
    each = 8 // storage.bits
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & ((1 << storage.bits) - 1)
    columns = np.append(flat, np.zeros(-flat.size % each, np.uint8)).reshape(-1, each)
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(storage.bits)
    packed: Array = np.bitwise_or.reduce(columns << shifts, axis=1)
    return packed


def unpacked(raw: Array, shape: tuple[int, ...], storage: ScalarType) -> Array:
    """Elements narrower than a byte, one to an entry, signs extended: the inverse of :func:`tensor_bytes`."""
    shifts = np.arange(8 // storage.bits, dtype=np.uint8) * np.uint8(storage.bits)
    flat: Array = ((raw[:, None] >> shifts) & np.uint8((1 << storage.bits) - 1)).reshape(-1)[: math.prod(shape)]
    if storage.is_float:
        return flat.view(storage.dtype).reshape(shape)
    sign = np.uint8(1 << (storage.bits - 1)) if storage.name[0] == "i" else np.uint8(0)
    return ((flat ^ sign) - sign).view(storage.dtype).reshape(shape)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")


def type_of(proto: onnx.TypeProto, where: str) -> TensorType | None:
    """Our type of a value, ``None`` where the element type is not given. Symbols keep their names.

    What is no dense tensor is opaque: its TypeProto is kept.
    """
    if proto.WhichOneof("value") not in (None, "tensor_type"):
        name = _notation(proto)
        if name is None:
            return None
        return TensorType(None, OpaqueType(name, 0, proto.SerializeToString(deterministic=True)))
    tensor = proto.tensor_type
    if not tensor.elem_type:
        return None
    shape = tuple(map(_dim, tensor.shape.dim)) if tensor.HasField("shape") else None
    return TensorType(shape, elem_of(tensor.elem_type, where))


def _notation(proto: onnx.TypeProto) -> str | None:
    """A type as operator schemas write it, ``seq(tensor(float))``; ``None`` where a part of it is not given."""
    kind = proto.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        tensor = getattr(proto, kind)
        return f"{kind.removesuffix('_type')}({_code_name(tensor.elem_type)})" if tensor.elem_type else None
    if kind == "opaque_type":
        return f"opaque({proto.opaque_type.domain},{proto.opaque_type.name})"
    if kind is None:
        return None
    inner = _notation(proto.map_type.value_type if kind == "map_type" else getattr(proto, kind).elem_type)
    if inner is None:
        return None
    if kind == "map_type":
        return f"map({_code_name(proto.map_type.key_type)},{inner})"
    return f"{'seq' if kind == 'sequence_type' else 'optional'}({inner})"


def _code_name(code: int) -> str:
    return TensorProto.DataType.Name(code).lower() if code in TensorProto.DataType.values() else str(code)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return str(dim.dim_param) or None


def value_info(name: str, type_: TensorType) -> onnx.ValueInfoProto:
    """The ONNX declaration of a graph input or output."""
    return onnx.ValueInfoProto(name=name, type=type_proto(type_))


def type_proto(type_: TensorType) -> onnx.TypeProto:
    """The ONNX type of a value (storage for a quantized one)."""
    if isinstance(type_.elem, OpaqueType):
        return onnx.TypeProto.FromString(type_.elem.proto)
    shape = None if type_.shape is None else list(type_.shape)
    return helper.make_tensor_type_proto(elem_code(type_.elem), shape)
