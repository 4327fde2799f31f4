"""Plain element types, as ONNX and NumPy know them, and the opaque ones of values that are no dense tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from amctc.errors import TypeConstraintError


@dataclass(frozen=True, slots=True)
class ScalarType:
    """A plain element type. ``name`` is its text form, ``bits`` its width on the wire."""

    name: str
    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type that holds one element (int4 and int2 are held unpacked in int8)."""
        return _DTYPES[self.name]

    @property
    def is_float(self) -> bool:
        """True for floating-point types, narrow ones included."""
        return self.name in _FLOATS

    @property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers (bool is none)."""
        return self.name[0] in "iu"

    @property
    def integer_range(self) -> tuple[int, int]:
        """Smallest and largest value of an integer type."""
        if self.name[0] == "i":
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class OpaqueType(ScalarType):
    """What a value holds that is no dense tensor: a sequence, an optional, a map, a sparse tensor.

    ``name`` says it in ONNX's notation, ``proto`` is its serialized TypeProto. Carried ops alone take such values.
    """

    proto: bytes

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy has no type for it; its values are passed on as they are."""
        return np.dtype(object)

    @property
    def is_float(self) -> bool:
        """False: nothing can be computed with it."""
        return False

    @property
    def is_integer(self) -> bool:
        """False: nothing can be computed with it."""
        return False

    def __str__(self) -> str:
        return f'opaque<{json.dumps(self.name)}, "0x{self.proto.hex()}">'


_FLOATS = frozenset({"f16", "f32", "f64", "bf16", "f8e4m3fn", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz", "f8e8m0", "f4e2m1"})

_DTYPES: dict[str, np.dtype[Any]] = {
    "f16": np.dtype(np.float16), "f32": np.dtype(np.float32), "f64": np.dtype(np.float64),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f8e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn), "f8e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "f8e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz), "f8e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "f8e8m0": np.dtype(ml_dtypes.float8_e8m0fnu), "f4e2m1": np.dtype(ml_dtypes.float4_e2m1fn),
    "i2": np.dtype(np.int8), "i4": np.dtype(np.int8), "i8": np.dtype(np.int8), "i16": np.dtype(np.int16),
    "i32": np.dtype(np.int32), "u2": np.dtype(np.uint8),
    "i64": np.dtype(np.int64), "u4": np.dtype(np.uint8), "u8": np.dtype(np.uint8), "u16": np.dtype(np.uint16),
    "u32": np.dtype(np.uint32), "u64": np.dtype(np.uint64), "bool": np.dtype(np.bool_),
    "c64": np.dtype(np.complex64), "c128": np.dtype(np.complex128), "string": np.dtype(object),
}  # fmt: skip

_BITS = {"f8e4m3fn": 8, "f8e5m2": 8, "f8e4m3fnuz": 8, "f8e5m2fnuz": 8, "f8e8m0": 8, "f4e2m1": 4, "bf16": 16, "bool": 8,
         "string": 64}  # fmt: skip

SCALAR_TYPES: dict[str, ScalarType] = {
    name: ScalarType(name, _BITS.get(name) or int("".join(filter(str.isdigit, name)))) for name in _DTYPES
}

F16, F32, F64, BF16 = (SCALAR_TYPES[n] for n in ("f16", "f32", "f64", "bf16"))
I4, I8, I16, I32, I64 = (SCALAR_TYPES[n] for n in ("i4", "i8", "i16", "i32", "i64"))
U4, U8, U16, U32, U64 = (SCALAR_TYPES[n] for n in ("u4", "u8", "u16", "u32", "u64"))
BOOL, STRING = SCALAR_TYPES["bool"], SCALAR_TYPES["string"]

_BY_DTYPE = {t.dtype: t for t in SCALAR_TYPES.values() if t.name not in ("i2", "u2", "i4", "u4")}


def scalar_of(dtype: np.dtype[Any] | type) -> ScalarType:
    """The scalar type held by a NumPy dtype; :class:`TypeConstraintError` for one without an ONNX counterpart."""
    dtype = np.dtype(dtype)
    if dtype.kind in "USO":
        return STRING
    try:
        return _BY_DTYPE[dtype]
    except KeyError:
        raise TypeConstraintError(f"no tensor element type for NumPy {dtype}", remedy="convert the array") from None
