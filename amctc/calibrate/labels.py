"""Class labels from CSV files: ``file,label`` for images, ``index,label`` or one column for arrays."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from amctc.errors import InputError, LimitError
from amctc.files import read_bytes

MAX_BYTES = 1 << 25
MAX_ROWS = 1 << 21  # each takes some 200 bytes in memory
MAX_LABEL_DIGITS = 9

AnyPath = str | os.PathLike[str]


def file_labels(path: AnyPath) -> list[tuple[str, int]]:
    """The rows ``(file, label)`` of a CSV file with at least the columns ``file`` and ``label``, in its order.

    Raises :class:`InputError` naming the line of the first bad row.
    """
    rows = _rows(path)
    _, header = next(rows, (0, []))
    file, label = _column(header, "file", path), _column(header, "label", path)
    found: dict[str, int] = {}
    for line, row in rows:
        if len(row) <= max(file, label):
            raise _bad(path, line, f"has {len(row)} columns, the header has {len(header)}")
        name = row[file]
        if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise _bad(path, line, f"names the file {name!r}, which is not inside the folder")
        if name in found:
            raise _bad(path, line, f"names the file {name!r} a second time")
        found[name] = _label(row[label], path, line)
    if not found:
        raise InputError("the labels file has no rows", where=os.fspath(path), remedy="add a row per image: file,label")
    return list(found.items())


def array_labels(path: AnyPath, count: int) -> NDArray[np.int64]:
    """``count`` labels for the samples of an array, from the columns ``index`` and ``label`` or a single column.

    A single column may have the heading ``label``; its order is that of the samples. Raises :class:`InputError` naming
    the line of a bad row, or when there are not ``count`` labels.
    """
    rows = list(_rows(path))
    header = rows[0][1] if rows else []
    if len(header) == 1 and header[0].strip().isdecimal():
        values = {number: _label(row[0], path, line) for number, (line, row) in enumerate(rows)}
    else:
        label = _column(header, "label", path)
        index = _column(header, "index", path) if "index" in header or len(header) > 1 else None
        values = {}
        for number, (line, row) in enumerate(rows[1:]):
            if len(row) < len(header):
                raise _bad(path, line, f"has {len(row)} columns, the header has {len(header)}")
            position = number if index is None else _label(row[index], path, line)
            if position in values or position >= count:
                raise _bad(path, line, f"labels sample {position}, which is labelled already or not there")
            values[position] = _label(row[label], path, line)
    if len(values) != count:
        raise InputError(
            f"{len(values)} labels for {count} samples", where=os.fspath(path), remedy="give one label per sample"
        )
    return np.array([values[number] for number in range(count)], np.int64)


def _rows(path: AnyPath) -> Iterator[tuple[int, list[str]]]:
    """The non-empty rows of a CSV file with their line numbers."""
    data = read_bytes(path, limit=MAX_BYTES, kind="labels file")
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        for count, row in enumerate(reader):
            if count >= MAX_ROWS:
                raise LimitError(f"the labels file has more than {MAX_ROWS} rows", where=os.fspath(path),
                                 remedy="label fewer samples")  # fmt: skip
            if row:
                yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"the labels file is not CSV in UTF-8: {error}", where=os.fspath(path), remedy="write it as CSV: file,label"
        ) from None


def _column(header: list[str], name: str, path: AnyPath) -> int:
    names = [column.strip() for column in header]
    if name not in names:
        raise InputError(
            f"the labels file has no column {name!r}, its first line is {','.join(header)!r}",
            where=os.fspath(path),
            remedy="write 'file,label' for images, 'index,label' or 'label' for arrays",
        )
    return names.index(name)


def _label(text: str, path: AnyPath, line: int) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= MAX_LABEL_DIGITS):
        raise _bad(path, line, f"has {text!r} where a whole number from 0 is expected")
    return int(digits)


def _bad(path: AnyPath, line: int, what: str) -> InputError:
    return InputError(f"line {line} of the labels file {what}", where=os.fspath(path), remedy="correct that line")
