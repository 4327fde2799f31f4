"""Tensor types: shapes with symbolic and unknown dimensions, element types, quantization inside the element type.

Numbered constraints, checked when a type is built:

====  ==========================================================================================
T1    a dimension is an integer >= 0, a non-empty symbol, or unknown (``None``)
T2    scales are finite, positive, and exactly representable in float32
T3    as many zero points as scales; one of each without an axis
T4    a quantization axis lies inside the rank; its dimension, where known, equals the number of scales, or, of a type
      with blocks, there is a scale for each block along the axis at each position of the other axes
T5    the storage range lies inside the storage type and is not empty
T6    zero points lie inside the storage range
T7    a quantized type expresses a floating-point type and stores an integer type
T8    nothing is known of the shape of a value that is no dense tensor
T9    blocks have a size of at least 1 (0: there are none) and run along an axis
====  ==========================================================================================
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from amctc.errors import TypeConstraintError
from amctc.scalars import BF16 as BF16
from amctc.scalars import BOOL as BOOL
from amctc.scalars import F16 as F16
from amctc.scalars import F32 as F32
from amctc.scalars import F64 as F64
from amctc.scalars import I4 as I4
from amctc.scalars import I8 as I8
from amctc.scalars import I16 as I16
from amctc.scalars import I32 as I32
from amctc.scalars import I64 as I64
from amctc.scalars import SCALAR_TYPES as SCALAR_TYPES
from amctc.scalars import STRING as STRING
from amctc.scalars import U4 as U4
from amctc.scalars import U8 as U8
from amctc.scalars import U16 as U16
from amctc.scalars import U32 as U32
from amctc.scalars import U64 as U64
from amctc.scalars import OpaqueType as OpaqueType
from amctc.scalars import ScalarType as ScalarType
from amctc.scalars import scalar_of as scalar_of

Dim: TypeAlias = int | str | None
"""A dimension: a size, a symbol that stands for one size throughout a graph, or unknown."""

Shape: TypeAlias = tuple[Dim, ...]
Array: TypeAlias = NDArray[Any]


Message: TypeAlias = str | Callable[[], str]
"""What an error says, or a function that says it: writing types out costs more than checking them."""


def require(condition: bool, rule: str, message: Message, where: str | None = None) -> None:
    """Raise :class:`TypeConstraintError` labelled ``rule`` unless ``condition`` holds."""
    if not condition:
        raise TypeConstraintError(message if isinstance(message, str) else message(), rule=rule, where=where)


@dataclass(frozen=True, slots=True)
class QuantizedType:
    """A uniformly quantized element type: ``real = scale * (stored - zero_point)``.

    ``scales`` and ``zero_points`` hold one entry (per tensor, ``axis`` is ``None``) or one per slice along ``axis``.
    With ``block`` each run of that many elements along ``axis`` has an entry of its own (the last run may be shorter):
    the entries are those of a tensor of the value's shape whose ``axis`` counts the blocks, in row-major order, as in
    ONNX DequantizeLinear with ``block_size``. ``low`` and ``high`` bound the stored integers.
    """

    storage: ScalarType
    expressed: ScalarType
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int | None
    low: int
    high: int
    block: int = 0

    def __post_init__(self) -> None:
        require(self.block == 0 or (self.block > 0 and self.axis is not None), "T9",
                f"blocks of {self.block} along axis {self.axis}")  # fmt: skip
        require(
            self.storage.is_integer and self.expressed.is_float,
            "T7",
            f"a quantized type stores an integer and expresses a float, not {self.storage} and {self.expressed}",
        )
        require(len(self.scales) == len(self.zero_points) and (self.axis is not None or len(self.scales) == 1), "T3",
                f"{len(self.scales)} scales and {len(self.zero_points)} zero points with axis {self.axis}")  # fmt: skip
        scales = np.asarray(self.scales, np.float64)
        with np.errstate(over="ignore"):
            narrowed = scales.astype(np.float32).astype(np.float64)
        fine = np.isfinite(scales) & (scales > 0) & (narrowed == scales)
        if not fine.all():
            bad = self.scales[int(np.argmin(fine))]
            require(False, "T2", f"scale {bad} is not finite, positive and exact in float32")
        low, high = self.storage.integer_range
        require(low <= self.low < self.high <= high, "T5",
                f"storage range [{self.low}, {self.high}] does not fit {self.storage}")  # fmt: skip
        if self.zero_points:
            require(self.low <= min(self.zero_points) and max(self.zero_points) <= self.high, "T6",
                    f"a zero point lies outside [{self.low}, {self.high}]")  # fmt: skip

    @staticmethod
    def per_tensor(
        scale: float, zero_point: int = 0, storage: ScalarType = I8, expressed: ScalarType = F32
    ) -> QuantizedType:
        """One scale and zero point for the whole tensor, over the full range of ``storage``."""
        return QuantizedType(storage, expressed, (float(scale),), (int(zero_point),), None, *storage.integer_range)

    @staticmethod
    def per_axis(
        scales: Sequence[float] | Array, axis: int, storage: ScalarType = I8, expressed: ScalarType = F32
    ) -> QuantizedType:
        """Symmetric, one scale per slice along ``axis``, over the full range of ``storage``."""
        values = tuple(float(s) for s in scales)
        return QuantizedType(storage, expressed, values, (0,) * len(values), axis, *storage.integer_range)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of the stored integers."""
        return self.storage.dtype

    @property
    def bits(self) -> int:
        """Bits of one stored element."""
        return self.storage.bits

    @property
    def scale_array(self) -> NDArray[np.float32]:
        """Scales as float32 ``[C]`` or ``[1]``."""
        return np.asarray(self.scales, np.float32)

    @property
    def zero_point_array(self) -> NDArray[np.int64]:
        """Zero points as int64 ``[C]`` or ``[1]``."""
        return np.asarray(self.zero_points, np.int64)

    def parameter_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the scales of a value of this type and ``shape``: ``[]``, ``[C]``, or one entry per block."""
        if self.axis is None:
            return ()
        count = shape[self.axis]
        if not self.block:
            return (count,)
        return (*shape[: self.axis], -(-count // self.block), *shape[self.axis + 1 :])

    def __str__(self) -> str:
        axis = "" if self.axis is None else f":{self.axis}" + (f":{self.block}" if self.block else "")
        span = "" if (self.low, self.high) == self.storage.integer_range else f"[{self.low}:{self.high}]"
        pairs = (
            f"{np.float32(s)!s}" + (f":{z}" if z else "") for s, z in zip(self.scales, self.zero_points, strict=True)
        )
        return f"quant<{self.storage}{span}:{self.expressed}{axis}, {{{', '.join(pairs)}}}>"


Elem: TypeAlias = ScalarType | QuantizedType


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and element type of a value. ``shape`` is ``None`` where even the rank is unknown (carried ops only)."""

    shape: Shape | None
    elem: Elem

    def __post_init__(self) -> None:
        if self.shape is None:
            return
        if isinstance(self.elem, OpaqueType):
            require(False, "T8", f"{self.elem.name} has no shape")
        for d in self.shape:
            if d is None or (type(d) is int and d >= 0) or (type(d) is str and d):
                continue
            require(False, "T1", f"{d!r} is not a dimension")
        elem = self.elem
        if isinstance(elem, QuantizedType) and elem.axis is not None:
            require(0 <= elem.axis < len(self.shape), "T4", f"axis {elem.axis} outside rank {len(self.shape)}")
            if elem.block:
                sizes = [d for d in self.shape if isinstance(d, int)]
                require(len(sizes) < len(self.shape) or math.prod(elem.parameter_shape(sizes)) == len(elem.scales),
                        "T4", f"{len(elem.scales)} scales for blocks of {elem.block} in {sizes}")  # fmt: skip
                return
            size = self.shape[elem.axis]
            require(not isinstance(size, int) or size == len(elem.scales), "T4",
                    f"{len(elem.scales)} scales for a dimension of {size}")  # fmt: skip

    def __hash__(self) -> int:
        """By the shape alone: there are few element types, and this is asked for every op built."""
        return hash(self.shape)

    @property
    def rank(self) -> int:
        """Number of dimensions; only valid where the rank is known."""
        if self.shape is None:
            raise TypeConstraintError("the rank of this value is unknown", rule="T1")
        return len(self.shape)

    @property
    def dims(self) -> Shape:
        """The shape; only valid where the rank is known."""
        self.rank  # noqa: B018 - raises where the rank is unknown
        return self.shape  # type: ignore[return-value]

    @property
    def is_static(self) -> bool:
        """True when every dimension is a number."""
        return self.shape is not None and all(isinstance(d, int) for d in self.shape)

    @property
    def num_elements(self) -> int | None:
        """Element count, or ``None`` where a dimension is not a number."""
        return math.prod(self.shape) if self.is_static else None  # type: ignore[arg-type]

    @property
    def scalar(self) -> ScalarType:
        """What is computed with: the element type itself, or the type a quantized one expresses."""
        return self.elem.expressed if isinstance(self.elem, QuantizedType) else self.elem

    @property
    def is_float(self) -> bool:
        """True for a tensor of plain floating-point elements."""
        return type(self.elem) is ScalarType and self.elem.is_float

    def with_elem(self, elem: Elem) -> TensorType:
        """The same shape with other elements."""
        return TensorType(self.shape, elem)

    def __str__(self) -> str:
        if self.shape is None:
            return f"tensor<*x{self.elem}>"
        return f"tensor<{''.join(f'{format_dim(d)}x' for d in self.shape)}{self.elem}>"


def format_dim(dim: Dim) -> str:
    """Text of a dimension: ``3``, ``?``, or a symbol in double quotes (a JSON string)."""
    if dim is None:
        return "?"
    return str(dim) if isinstance(dim, int) else json.dumps(dim)


def dims_agree(a: Dim, b: Dim) -> bool:
    """False only where both dimensions are numbers and differ: a symbol may stand for any size."""
    return not (isinstance(a, int) and isinstance(b, int)) or a == b


def merge_dims(a: Dim, b: Dim) -> Dim:
    """The more informative of two agreeing dimensions: a number before a symbol before unknown."""
    if isinstance(a, int) or b is None:
        return a
    return b if isinstance(b, int) or a is None else a


def shapes_agree(a: Shape | None, b: Shape | None) -> bool:
    """True when two shapes can describe the same array."""
    return a is None or b is None or (len(a) == len(b) and all(map(dims_agree, a, b)))


def merge_types(a: TensorType, b: TensorType) -> TensorType:
    """The more informative of two agreeing types; :class:`TypeConstraintError` (T1) where they contradict."""
    if a is b or a == b:
        return a
    require(a.elem == b.elem and shapes_agree(a.shape, b.shape), "T1", lambda: f"{a} and {b} contradict each other")
    if a.shape is None or b.shape is None:
        return b if a.shape is None else a
    return TensorType(tuple(map(merge_dims, a.shape, b.shape)), a.elem)
