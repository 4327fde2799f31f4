"""Samples in ``.bin`` files: numbers without any header, as the command lines of the Ascend tools take them.

Shape and number type are stated beside: ``x:1,3,224,224`` and ``float32``, several inputs with semicolons between.
"""

from __future__ import annotations

import bisect
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.calibrate.arrays import Header, ReadRows
from amctc.calibrate.geometry import shape_text
from amctc.calibrate.inputs import InputSpec
from amctc.errors import InputError, UsageError
from amctc.files import open_regular

SUFFIX = ".bin"
SEPARATOR = ";"
TYPES = (
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
    "bool",
)
_SHAPE_FORM = 'write "x:1,3,224,224"; several inputs as "ids:1,128;mask:1,128"'


def parse_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Shapes by input name, of text such as ``ids:1,128;mask:1,128``; the name may hold colons, the first size be -1.

    ``rate:`` is a scalar. Raises :class:`UsageError` for text of another form.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for part in filter(None, (p.strip() for p in text.split(SEPARATOR))):
        name, colon, sizes = part.rpartition(":")
        try:
            shape = tuple(int(size) for size in sizes.split(",")) if sizes.strip() else ()
        except ValueError:
            name = ""
        if not colon or not name:
            raise UsageError(f"--input-shape: {part!r} is no name with a shape", remedy=_SHAPE_FORM)
        if name in shapes:
            raise UsageError(f"--input-shape: {name!r} is there twice", remedy=_SHAPE_FORM)
        if min(shape[1:], default=1) < 1 or shape[:1] == (0,) or min(shape, default=1) < -1:
            raise UsageError(f"--input-shape: {part!r}: only the first size may be -1, for any number of samples",
                             remedy="state the size of one sample")  # fmt: skip
        shapes[name] = shape
    if not shapes:
        raise UsageError("--input-shape is empty", remedy=_SHAPE_FORM)
    return shapes


def parse_types(text: str) -> list[np.dtype[Any]]:
    """Number types of text such as ``int64;float32``; :class:`UsageError` for one that raw files cannot have."""
    names = [part.strip() for part in text.split(SEPARATOR) if part.strip()]
    for name in names or [text]:
        if name not in TYPES:
            raise UsageError(f"--data-types: {name!r} is no number type", remedy=f"types are {', '.join(TYPES)}")
    return [np.dtype(name).newbyteorder("<") for name in names]


@dataclass(frozen=True)
class RawInput:
    """Where the samples of one input lie and what they are: ``shape`` of a file, its first size -1 if it may vary."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def raw_inputs(
    paths: Sequence[str], inputs: Sequence[InputSpec], input_shape: str | None, data_types: str | None
) -> dict[str, RawInput]:
    """Where each input of a model is: one path per input, in the order of ``input_shape``, else of the model.

    What is not stated is taken from the model. Raises :class:`UsageError` when they do not agree in number or names.
    """
    known = {spec.name: spec for spec in inputs}
    shapes = parse_shapes(input_shape) if input_shape is not None else {s.name: _model_shape(s) for s in inputs}
    for name in (*(n for n in shapes if n not in known), *(n for n in known if n not in shapes)):
        fault = "no shape" if name in known else "a shape and is no input"
        raise UsageError(f"--input-shape: {name!r} has {fault}", remedy=f"inputs are {', '.join(known)}")
    order = list(shapes)
    if len(paths) != len(order):
        raise UsageError(
            f"{len(paths)} paths of {SUFFIX} files, and the inputs are {', '.join(order)}",
            remedy=f"give one folder per input in this order, with {SEPARATOR} between",
        )
    types = parse_types(data_types) if data_types is not None else [known[n].dtype.newbyteorder("<") for n in order]
    if len(types) != len(order):
        raise UsageError(f"--data-types: {len(types)} given, and the inputs are {', '.join(order)}",
                         remedy=f"give one type per input in this order, with {SEPARATOR} between")  # fmt: skip
    if input_shape is not None:
        shapes = {name: _with_sample_axis(known[name], shape) for name, shape in shapes.items()}
    found = zip(order, paths, types, strict=True)
    return {name: RawInput(Path(path.strip()), shapes[name], dtype) for name, path, dtype in found}


def _with_sample_axis(spec: InputSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A stated shape as that of samples: itself, or what one run is fed behind an axis of runs."""
    if not (spec.run or shape):
        raise UsageError(f"--input-shape: {spec.name!r} is no scalar", remedy=_SHAPE_FORM)
    if spec.run and -1 in shape:
        raise UsageError(f"--input-shape: {spec.name!r}: a file holds what one run is fed, of sizes that are known",
                         remedy="state the first size too")  # fmt: skip
    return (1, *shape) if spec.run else shape


def _model_shape(spec: InputSpec) -> tuple[int, ...]:
    sizes = [size for size in spec.shape[1:] if isinstance(size, int) and size > 0]
    if len(sizes) < len(spec.shape) - 1:
        raise UsageError(
            f"{SUFFIX} files do not say their shape, nor does the model: {spec.name}{shape_text(spec.shape)}",
            remedy=f"add --input-shape: {_SHAPE_FORM}",
        )
    return (-1, *sizes)


class RawArrays:
    """The files of each input one after the other as one array; see :class:`amctc.calibrate.arrays.ArrayStore`.

    A folder's files come in the order of their names, numbers in them compared as numbers. Raises
    :class:`InputError` for a folder without such files, and for a file whose size is not that of its shape.
    """

    def __init__(self, inputs: Mapping[str, RawInput], where: str) -> None:
        self.where = where
        self._files: dict[str, list[Path]] = {}
        self._ends: dict[str, list[int]] = {}
        headers = {}
        for name, raw in inputs.items():
            files = raw_files(raw.path)
            self._files[name] = files
            self._ends[name] = list(itertools.accumulate(_sample_count(file, raw) for file in files))
            headers[name] = Header((self._ends[name][-1], *raw.shape[1:]), raw.dtype)
        self.headers: Mapping[str, Header] = headers

    @contextmanager
    def opened(self) -> Iterator[ReadRows]:
        """See :meth:`amctc.calibrate.arrays.ArrayStore.opened`; a file is open only while it is read."""
        yield self._rows

    def _rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        header, ends = self.headers[name], self._ends[name]
        rows = np.empty((stop - start, *header.shape[1:]), header.dtype)
        at = start
        while at < stop:
            index = bisect.bisect_right(ends, at)
            first = ends[index - 1] if index else 0
            last = min(stop, ends[index])
            _read_into(rows[at - start : last - start], self._files[name][index], at - first)
            at = last
        return rows


def raw_files(path: Path) -> list[Path]:
    """The ``.bin`` files of a folder in order, or the one file."""
    files = [path] if path.suffix.lower() == SUFFIX else []
    if os.path.isdir(path):
        with _readable(path):
            files = sorted((f for f in path.iterdir() if f.suffix.lower() == SUFFIX), key=_natural)
    if not files or not os.path.exists(files[0]):
        raise InputError(f"there are no {SUFFIX} files", where=str(path),
                         remedy=f"name a folder of {SUFFIX} files, or one")  # fmt: skip
    return files


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror}", where=str(path),
                         remedy="check its permissions") from None  # fmt: skip


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts 2.bin before 10.bin."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _sample_count(file: Path, raw: RawInput) -> int:
    with _readable(file):
        size = file.stat().st_size
    row = math.prod(raw.shape[1:]) * raw.dtype.itemsize
    wanted = f"{raw.dtype.name}{shape_text(raw.shape[1:])}, {row} bytes a sample"
    if raw.shape[0] > 0 and size != raw.shape[0] * row:
        raise InputError(
            f"it has {size} bytes; {raw.shape[0]} x {wanted}, take {raw.shape[0] * row}", where=str(file),
            remedy="correct --input-shape or --data-types; a first size of -1 takes any number of samples",
        )  # fmt: skip
    if size % row or not size:
        raise InputError(
            f"it has {size} bytes, no multiple of {wanted}", where=str(file),
            remedy="state how the file was written with --input-shape and --data-types",
        )  # fmt: skip
    return size // row


def _read_into(rows: NDArray[Any], path: Path, first: int) -> None:
    """Fill ``rows`` from sample ``first`` of the file on."""
    view = rows.reshape(-1).view(np.uint8)
    with open_regular(path, kind="sample file") as file:
        file.seek(first * (view.size // len(rows)))
        if file.readinto(view.data) != view.size:  # type: ignore[attr-defined]
            raise InputError("it was cut while in use", where=os.fspath(path), remedy="run again")
