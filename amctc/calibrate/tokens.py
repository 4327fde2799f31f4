"""Token sequences from a ``.jsonl`` file: one sample per line, of any length, padded to one.

A line is an object with a list per input, ``{"input_ids": [101, 7592, 102]}`` (what tokenizers give, written as JSON),
or for a model with one input the list alone.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.calibrate.arrays import MemoryArrays
from amctc.calibrate.inputs import InputSpec
from amctc.errors import InputError, LimitError
from amctc.files import read_bytes

MAX_BYTES = 1 << 27  # two characters become eight bytes in memory, and eight more where sequences are padded
MAX_LINE = 1 << 24  # of nested lists, JSON takes twenty times the size of its text
MAX_PADDED = 1 << 29  # bytes of one input; a single long sequence makes all others as long
MASK = "mask"
PADDING = 0

Sample = dict[str, NDArray[Any]]


def read_sequences(path: str | os.PathLike[str], inputs: Sequence[InputSpec]) -> MemoryArrays:
    """The samples of a file as one array per input, sequences padded at their end with 0.

    They are padded to the size the model fixes, else to the longest of the file. A two-dimensional input whose name
    holds ``mask`` and that no line has is made: 1 for what the line gives, 0 for padding. Raises :class:`InputError`
    naming the line that is no JSON, has other inputs or other ranks than the first, or is longer than the model takes;
    :class:`LimitError` for a file, a line or padded samples that are too large.
    """
    where = os.fspath(path)
    samples = list(_samples(where, inputs))
    if not samples:
        raise InputError(
            "the file has no lines", where=where, remedy='write one sample per line: {"input_ids": [1, 2]}'
        )
    fixed = {spec.name: spec.shape[1] for spec in inputs if len(spec.shape) == 2}
    arrays: dict[str, NDArray[Any]] = {}
    for name, first in samples[0].items():
        wanted = fixed.get(name)
        arrays[name] = (
            _padded([s[name] for s in samples], name, wanted, where)
            if first.ndim == 1
            else _stacked([s[name] for s in samples], name, where)
        )
    arrays.update(_masks(samples, arrays, inputs))
    return MemoryArrays(arrays, where)


def _samples(where: str, inputs: Sequence[InputSpec]) -> Iterator[Sample]:
    """Each line as arrays; all have the names and ranks of the first."""
    first: Sample | None = None
    lines = io.BytesIO(read_bytes(where, limit=MAX_BYTES, kind="sample file"))
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(line) > MAX_LINE:
            raise LimitError(
                f"line {number} has more than {MAX_LINE} bytes", where=where, remedy="give shorter samples"
            )
        sample = _parsed(line, number, where, inputs)
        first = first or sample
        if {n: a.ndim for n, a in sample.items()} != {n: a.ndim for n, a in first.items()}:
            raise _bad(where, number, f"has {_described(sample)}, the first line has {_described(first)}")
        yield sample


def _parsed(line: bytes, number: int, where: str, inputs: Sequence[InputSpec]) -> Sample:
    try:
        table = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad(where, number, f"is no JSON: {error}") from None
    if isinstance(table, list) and len(inputs) == 1:
        table = {inputs[0].name: table}
    if not isinstance(table, dict) or not table:
        raise _bad(where, number, "is no object with a list of numbers per input")
    sample = {}
    for name, values in table.items():
        try:
            array = np.asarray(values)
        except (ValueError, OverflowError):  # lists of different lengths inside one
            array = np.asarray(None)
        if array.dtype.kind not in "biuf" or 0 in array.shape:
            raise _bad(where, number, f"has no numbers in {name!r}, or lists of different lengths")
        sample[name] = array
    return sample


def _described(sample: Sample) -> str:
    return ", ".join(f"{name} of rank {array.ndim}" for name, array in sample.items())


def _padded(rows: list[NDArray[Any]], name: str, wanted: int | str | None, where: str) -> NDArray[Any]:
    """Sequences as one array [samples, size]."""
    longest = max(map(len, rows))
    size = wanted if isinstance(wanted, int) and wanted > 0 else longest
    if longest > size:
        number = next(i for i, row in enumerate(rows, 1) if len(row) > size)
        raise InputError(f"sample {number} has {len(rows[number - 1])} numbers in {name!r}, the model takes {size}",
                         where=where, remedy="cut it when tokenizing")  # fmt: skip
    dtype = np.result_type(*rows)
    if len(rows) * size * dtype.itemsize > MAX_PADDED:
        raise LimitError(f"{len(rows)} samples padded to {size} numbers in {name!r} take more than {MAX_PADDED} bytes",
                         where=where, remedy="cut long samples when tokenizing, or give fewer")  # fmt: skip
    padded = np.full((len(rows), size), PADDING, dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def _stacked(rows: list[NDArray[Any]], name: str, where: str) -> NDArray[Any]:
    try:
        return np.stack(rows)
    except ValueError:
        shapes = sorted({row.shape for row in rows})
        raise InputError(f"{name!r} has samples of shapes {list(shapes[0])} and {list(shapes[1])}", where=where,
                         remedy="only sequences (one list per sample) are padded") from None  # fmt: skip


def _masks(samples: list[Sample], arrays: dict[str, NDArray[Any]], inputs: Sequence[InputSpec]) -> Sample:
    """1 where a sample has a token and 0 where it was padded, for each mask the model wants and the file lacks."""
    wanted = [s for s in inputs if MASK in s.name.lower() and len(s.shape) == 2 and s.name not in arrays]
    ids = next((s.name for s in inputs if s.name in arrays and samples[0][s.name].ndim == 1), None)
    if ids is None or not wanted:
        return {}
    lengths = np.array([len(s[ids]) for s in samples])
    mask = np.arange(arrays[ids].shape[1]) < lengths[:, None]
    return {spec.name: mask.astype(spec.dtype) for spec in wanted}


def _bad(where: str, line: int, what: str) -> InputError:
    return InputError(
        f"line {line} {what}", where=where, remedy='write {"input_ids": [101, 7592, 102], …}, a line each'
    )
