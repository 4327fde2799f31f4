"""Contents of constants: an array, a slice of a file, or a deferred recipe over other constants.

Reading is explicit and leaves nothing behind, so a model larger than memory passes through a pipeline
tensor by tensor: folding a batch-norm into a 64 MB weight builds a :class:`DeferredData` of a few hundred
bytes, and the exporter evaluates it when it writes that tensor.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from amctc.errors import InputError
from amctc.types import Array

EAGER_BYTES = 1 << 16
"""Results of recipes up to this size are kept as arrays: a thunk would weigh as much and hide errors longer."""


class Data:
    """An immutable array that may not be in memory. Two are equal when shape, dtype and contents are."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype

    @property
    def nbytes(self) -> int:
        """Size of the array in memory, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self) -> Array:
        """The array, read-only. May be computed or loaded anew on every call."""
        raise NotImplementedError(type(self).__name__)

    def digest(self) -> str:
        """SHA-256 over dtype, shape and contents; what equality and deduplication go by."""
        array = self.read()
        state = hashlib.sha256(f"{self.dtype.str} {self.dtype.name}{self.shape}".encode())
        # Narrow floats (bfloat16, float8) export no buffer, so contents are hashed as bytes.
        strings = array.dtype == object
        state.update(repr(array.tolist()).encode() if strings else np.ascontiguousarray(array).view(np.uint8).data)
        return state.hexdigest()

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Data) or (self.shape, self.dtype) != (other.shape, other.dtype):
            return False
        return self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))


class ArrayData(Data):
    """Contents held in memory."""

    __slots__ = ("_array",)

    def __init__(self, array: Array) -> None:
        array = np.asarray(array)
        if _writeable(array):
            array = array.copy()  # the caller may go on writing to its own
            array.flags.writeable = False
        super().__init__(array.shape, array.dtype)
        self._array = array

    def read(self) -> Array:
        """The array itself."""
        return self._array


def _writeable(array: Array) -> bool:
    """True if anyone can still write to the memory: through the array, or through one it is a view of."""
    base: object = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return True
        base = base.base
    return False


_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


def _state(found: os.stat_result) -> tuple[int, ...]:
    """What tells a file from another one, and from itself after a change."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class FileData(Data):
    """``prod(shape)`` little-endian elements at ``offset`` of a file, mapped when read and let go afterwards."""

    __slots__ = ("_state", "offset", "path")

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(shape, dtype)
        self.path, self.offset = path, offset
        try:
            found = os.stat(path, follow_symlinks=False)
        except OSError as error:
            raise InputError(f"the file cannot be read: {error.strerror}", where=str(path)) from None
        self._state, available = _state(found), found.st_size
        if offset < 0 or offset + self.nbytes > available:
            raise InputError(
                f"a tensor of {self.nbytes} bytes at offset {offset} ends past the file's {available} bytes",
                where=str(path),
                remedy="the file is truncated; fetch it again",
            )

    def read(self) -> Array:
        """A read-only memory map of the tensor; :class:`InputError` if the file is gone or another one since."""
        if self.size == 0:
            return np.zeros(self.shape, self.dtype)
        try:
            with os.fdopen(os.open(self.path, _READ), "rb") as file:
                if _state(os.fstat(file.fileno())) != self._state:
                    raise ValueError
                flat = np.memmap(file, np.uint8, "r", self.offset, (self.nbytes,))
        except (OSError, ValueError):
            raise InputError("the file is gone or was cut or changed since it was opened", where=str(self.path),
                             remedy="load the model again") from None  # fmt: skip
        return flat.view(self.dtype.newbyteorder("<")).reshape(self.shape)


class DeferredData(Data):
    """The value of a pure function of other constants, computed each time it is read.

    ``recipe`` receives the arrays of ``inputs`` and must return ``shape`` and ``dtype``; anything else is an error
    that names ``label``.
    """

    __slots__ = ("inputs", "label", "recipe")

    def __init__(
        self,
        label: str,
        recipe: Callable[..., Array],
        inputs: tuple[Data, ...],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        super().__init__(shape, np.dtype(dtype))
        self.label, self.recipe, self.inputs = label, recipe, inputs

    def read(self) -> Array:
        """Evaluate the recipe and those it rests on, without recursion; arrays are let go after their last use."""
        order = self._order()
        awaited = Counter(id(i) for node in order if isinstance(node, DeferredData) for i in node.inputs)
        done: dict[int, Array] = {}
        for node in order:
            if not isinstance(node, DeferredData):
                done[id(node)] = node.read()
                continue
            done[id(node)] = node.evaluated([done[id(i)] for i in node.inputs])
            for used in map(id, node.inputs):
                awaited[used] -= 1
                if not awaited[used]:
                    del done[used]
        return done[id(self)]

    def _order(self) -> list[Data]:
        """All data this rests on, inputs before what is computed from them, itself last."""
        order: list[Data] = []
        seen: set[int] = set()
        stack: list[Data] = [self]
        while stack:
            node = stack[-1]
            missing = [i for i in node.inputs if id(i) not in seen] if isinstance(node, DeferredData) else []
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            if id(node) not in seen:
                seen.add(id(node))
                order.append(node)
        return order

    def evaluated(self, arrays: list[Array]) -> Array:
        """What the recipe makes of the contents of the inputs."""
        result = np.asarray(self.recipe(*arrays))
        if result.shape != self.shape or result.dtype != self.dtype:
            raise AssertionError(
                f"recipe {self.label!r} gave {result.dtype}{result.shape}, declared {self.dtype}{self.shape}"
            )
        result.flags.writeable = False
        return result


def deferred(
    label: str, recipe: Callable[..., Array], *inputs: Data, shape: tuple[int, ...], dtype: np.dtype[Any] | type
) -> Data:
    """Data computed from ``inputs``: evaluated now when the result is small, else when it is read."""
    data = DeferredData(label, recipe, inputs, shape, np.dtype(dtype))
    if data.nbytes > EAGER_BYTES:
        return data
    return ArrayData(data.evaluated([i.read() for i in inputs]))
