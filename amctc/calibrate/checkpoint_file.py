"""The file of a checkpoint: arrays by collection, written whole or not at all, verified before anything is believed.

::

    amctc checkpoint 1\\n
    SHA-256 of all that follows, 64 hexadecimal digits\\n
    one line of JSON: the work, and of each collection its name, positions, steps done and arrays\\n
    the arrays one after the other, little-endian, C order

Nothing is unpickled, and no size is believed that the bytes at hand do not bear out. Numbers come back bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from amctc.errors import InputError, LimitError
from amctc.files import atomic_writer, open_regular, read_bytes
from amctc.types import Array

AnyPath = str | os.PathLike[str]

MAX_BYTES = 1 << 34
"""16 GiB. The largest content is that of rounded weights, a byte each."""

NEW_START = "delete it to start anew, or give another path"

_MAGIC, _VERSION = b"amctc checkpoint ", b"1"
_PREFIX = _MAGIC + _VERSION + b"\n"
_DIGEST = 64
_TYPES = ("<i8", "<f8", "|i1")


@dataclass
class Record:
    """One collection: its name, a digest of what it observes, the steps done, whether all are, and its state."""

    name: str
    positions: str
    done: int = 0
    finished: bool = False
    arrays: dict[str, Array] = field(default_factory=dict)


def write_records(path: AnyPath, work: Mapping[str, str], records: Sequence[Record]) -> None:
    """Replace ``path``; until that is done the old file stays. Arrays are int64, float64 or int8.

    Raises as :func:`amctc.files.atomic_writer`, and :class:`LimitError` past :data:`MAX_BYTES`.
    """
    stored = [{n: np.asarray(a, _type_of(a), order="C") for n, a in r.arrays.items()} for r in records]
    if (size := sum(a.nbytes for arrays in stored for a in arrays.values())) > MAX_BYTES:
        raise LimitError(f"the checkpoint would take {size} bytes, more than the {MAX_BYTES} allowed",
                         where=os.fspath(path), remedy="run without it")  # fmt: skip
    header = {"work": dict(work), "collections": [
        {"name": r.name, "positions": r.positions, "done": r.done, "finished": r.finished,
         "arrays": [[n, a.dtype.str, list(a.shape)] for n, a in arrays.items()]}
        for r, arrays in zip(records, stored, strict=True)
    ]}  # fmt: skip
    parts = [json.dumps(header).encode() + b"\n", *(a.tobytes() for arrays in stored for a in arrays.values())]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    with atomic_writer(path) as file:
        file.write(_PREFIX + digest.hexdigest().encode() + b"\n")
        for part in parts:
            file.write(part)


def _type_of(array: Array) -> str:
    return {"i": "|i1" if array.dtype == np.int8 else "<i8", "f": "<f8"}[array.dtype.kind]


def is_checkpoint(path: AnyPath) -> bool:
    """Whether ``path`` is a file that begins as a checkpoint does."""
    with suppress(InputError), open_regular(path) as file:
        return file.read(len(_MAGIC)) == _MAGIC
    return False


def read_records(path: AnyPath) -> tuple[dict[str, str], list[Record]]:
    """The work and its collections in a file that :func:`write_records` wrote; arrays are read-only.

    Raises :class:`InputError` for a file that is no checkpoint, is damaged, or cannot be read.
    """
    where = os.fspath(path)
    data = read_bytes(path, limit=MAX_BYTES, kind="checkpoint")
    if data and not data.startswith(_MAGIC):
        raise InputError("this file is no checkpoint", where=where, remedy="give another path")
    if data and not data.startswith(_PREFIX[: len(data)]):
        raise InputError("the checkpoint was written by another version of amctc", where=where, remedy=NEW_START)
    start = len(_PREFIX) + _DIGEST + 1
    body = memoryview(data)[start:]
    if data[len(_PREFIX) : start] != hashlib.sha256(body).hexdigest().encode() + b"\n":
        raise _damaged(where, "its digest is not that of its content")
    try:
        end = data.index(b"\n", start)
        header = json.loads(data[start:end])
        records = list(_records(header["collections"], memoryview(data)[end + 1 :]))
        return {str(key): str(value) for key, value in header["work"].items()}, records
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _damaged(where, f"its header makes no sense: {type(error).__name__}") from None


def _records(described: Sequence[Mapping[str, Any]], data: memoryview) -> Iterator[Record]:
    """The collections of a header, their arrays views of ``data``, which they must use up."""
    at = 0
    for entry in described:
        arrays: dict[str, Array] = {}
        for name, dtype, shape in entry["arrays"]:
            if dtype not in _TYPES or not all(type(d) is int and d >= 0 for d in shape):
                raise ValueError("an array of a type or shape that is never written")
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if size > len(data) - at:
                raise ValueError("an array ends past the file")
            arrays[str(name)] = array = np.frombuffer(data[at : at + size], dtype).reshape(shape).copy()
            array.flags.writeable = False
            at += size
        done, finished = entry["done"], entry["finished"]
        if type(done) is not int or done < 0 or type(finished) is not bool:
            raise ValueError("no count of steps")
        yield Record(str(entry["name"]), str(entry["positions"]), done, finished, arrays)
    if at != len(data):
        raise ValueError("bytes that belong to no array")


def _damaged(where: str, finding: str) -> InputError:
    return InputError(f"the checkpoint is damaged: {finding}", where=where, remedy=NEW_START)
