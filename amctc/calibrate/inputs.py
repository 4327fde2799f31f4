"""What a model wants as samples, and whether an array is that: rank, dimensions, number type, finite values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.calibrate.geometry import shape_text
from amctc.calibrate.preprocess import CHOICES, Preprocess, is_float
from amctc.errors import InputError, LimitError, UnsupportedError, UsageError

MAX_BATCH_BYTES = 1 << 30  # what one batch may take in memory


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: ``shape`` with the batch axis first (an int, a symbol or ``None`` each) and number type.

    ``run`` tells that the first axis counts runs and is not fed (see :mod:`amctc.calibrate.axes`).
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any]
    run: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "dtype", np.dtype(self.dtype))


def fixed_batch(inputs: Sequence[InputSpec]) -> int | None:
    """The number of samples the model takes at a time, ``None`` if it takes any; the inputs share their first axis.

    Raises :class:`UnsupportedError` for a model without inputs.
    """
    if not inputs:
        raise UnsupportedError("the model has no inputs, so it takes no samples")
    return next((size for spec in inputs if isinstance(size := spec.shape[0], int) and size > 0), None)


@dataclass(frozen=True)
class Feed:
    """The step from arrays as they are stored to what the model is fed.

    A uint8 array of rank 3 or 4 for a floating-point input, or for any input once a preprocessing is given, is taken as
    images (N,H,W) or (N,H,W,C).
    """

    inputs: tuple[InputSpec, ...]
    preprocess: Preprocess | None = None

    def takes_images(self, spec: InputSpec, dtype: np.dtype[Any], rank: int) -> bool:
        """Whether an array of this type and rank is images for ``spec``."""
        return dtype == np.uint8 and rank in (3, 4) and (self.preprocess is not None or is_float(spec.dtype))

    def check(self, arrays: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> int:
        """The number of samples, if arrays of these shapes and types can be fed; they are all there, by input name.

        Raises :class:`InputError` naming the input, what it wants and what it got, :class:`UsageError` when images lack
        a preprocessing or a preprocessing has no images.
        """
        images = 0
        symbols: dict[str, tuple[int, str]] = {}
        for spec in self.inputs:
            shape, dtype = arrays[spec.name]
            if self.takes_images(spec, dtype, len(shape)):
                self._check_images(spec, shape)
                images += 1
            else:
                _check_plain(spec, shape, dtype)
                _check_symbols(spec, shape, symbols)
        if self.preprocess is not None and not images:
            raise UsageError(
                "a preprocessing is given, but the samples are no uint8 images", remedy="leave out the preprocessing"
            )
        counts = {spec.name: arrays[spec.name][0][0] for spec in self.inputs}
        if len(set(counts.values())) > 1:
            lengths = ", ".join(f"{name!r} {count}" for name, count in counts.items())
            raise InputError(
                f"the inputs have different numbers of samples: {lengths}", remedy="give each input as many samples"
            )
        return next(iter(counts.values()))

    def _check_images(self, spec: InputSpec, shape: tuple[int, ...]) -> None:
        if self.preprocess is None:
            raise UsageError(
                f"input {spec.name!r} is given as uint8 images, and nothing says how to normalise them",
                remedy=f"add --preprocess: {CHOICES}",
            )
        self.preprocess.check(shape, spec.shape, spec.dtype)

    def convert(self, arrays: Mapping[str, NDArray[Any]], first: int) -> dict[str, NDArray[Any]]:
        """The arrays as the model's inputs; ``first`` is the index of their first sample, for messages.

        Raises :class:`InputError` naming input and sample if a value is NaN, infinite or outside the model's type.
        """
        fed = {}
        for spec in self.inputs:
            array = arrays[spec.name]
            if self.preprocess is not None and self.takes_images(spec, array.dtype, array.ndim):
                array = self.preprocess.apply(array, spec.shape, spec.dtype)
            fed[spec.name] = cast(spec, array, first)
        return fed


def require_memory(inputs: Sequence[InputSpec], shapes: Sequence[tuple[int, ...]], batch_size: int) -> None:
    """Raise :class:`LimitError` if a batch of samples of these shapes takes more than ``MAX_BATCH_BYTES``."""
    for spec, shape in zip(inputs, shapes, strict=True):
        size = batch_size * math.prod(shape[1:]) * spec.dtype.itemsize
        if size > MAX_BATCH_BYTES:
            raise LimitError(
                f"{batch_size} samples of input {spec.name!r} take {size} bytes, a batch may take {MAX_BATCH_BYTES}",
                remedy="use smaller batches or smaller samples",
            )


def _family(dtype: np.dtype[Any]) -> str:
    """Number types within a family may be cast to each other, if the values fit."""
    if is_float(dtype):
        return "float"
    kinds = {"i": "integer", "u": "integer", "b": "bool", "O": "text", "U": "text"}
    return kinds.get(dtype.kind, dtype.name)


def _check_plain(spec: InputSpec, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse a shape or number type that the input cannot take; the batch axis is free."""
    pairs = zip(spec.shape[1:], shape[1:], strict=False)
    if len(shape) != len(spec.shape) or any(isinstance(w, int) and w > 0 and w != got for w, got in pairs):
        raise InputError(
            f"input {spec.name!r} wants {shape_text(('N', *spec.shape[1:]))}, got {shape_text(shape)}",
            remedy="give each sample in the model's shape, with the batch axis first",
        )
    if 0 in shape:
        raise InputError(f"input {spec.name!r} got no samples: {shape_text(shape)}", remedy="give at least one sample")
    if _family(spec.dtype) != _family(dtype):
        wanted = "strings" if spec.dtype == object else spec.dtype.name
        raise InputError(
            f"input {spec.name!r} wants {wanted}, got {dtype.name}",
            remedy=f"save the array as {wanted}" + (", normalised as in training" if is_float(spec.dtype) else ""),
        )


def _check_symbols(spec: InputSpec, shape: tuple[int, ...], symbols: dict[str, tuple[int, str]]) -> None:
    """Refuse two sizes for one symbolic dimension; ``symbols`` maps each to its size and the input that set it."""
    for symbol, size in zip(spec.shape[1:], shape[1:], strict=True):
        if isinstance(symbol, str) and symbols.setdefault(symbol, (size, spec.name))[0] != size:
            known, other = symbols[symbol]
            raise InputError(
                f"dimension {symbol!r} is {known} in input {other!r} and {size} in input {spec.name!r}",
                remedy="give arrays that agree",
            )


def cast(spec: InputSpec, array: NDArray[Any], first: int) -> NDArray[Any]:
    """``array`` in the model's number type; refuses values that are not finite or do not fit it."""
    if _family(spec.dtype) == "integer":
        info = np.iinfo(spec.dtype)
        if int(array.min()) < info.min or int(array.max()) > info.max:
            raise _misfit(spec, (array < info.min) | (array > info.max), first, f"a value outside {spec.dtype.name}")
        return np.ascontiguousarray(array).astype(spec.dtype, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        fed: NDArray[Any] = np.ascontiguousarray(array).astype(spec.dtype, copy=False)
    if is_float(spec.dtype) and not (finite := np.isfinite(fed)).all():
        lost = np.isfinite(array).all()
        raise _misfit(spec, ~finite, first, f"a value too large for {spec.dtype.name}" if lost else "NaN or infinity")
    return fed


def _misfit(spec: InputSpec, bad: NDArray[np.bool_], first: int, what: str) -> InputError:
    sample = first + int(bad.reshape(len(bad), -1).any(axis=1).argmax())
    return InputError(f"input {spec.name!r} has {what} in sample {sample}", remedy="correct or leave out that sample")


def no_samples() -> UsageError:
    """What a pass over samples ends with that met none; a new error each time, because callers add where it was."""
    return UsageError("there are no calibration samples", remedy="give at least one batch of samples")
