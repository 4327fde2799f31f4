"""Read ``.npy`` and ``.npz`` files a few samples at a time, without ever unpickling.

Sizes are compared with the bytes present before anything is allocated. An ``.npz`` member is read as a stream, so
memory does not depend on how many samples it holds.
"""

from __future__ import annotations

import io
import math
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from amctc.errors import InputError, LimitError
from amctc.files import open_regular

MAX_HEADER = 10_000  # bytes; NumPy's own bound for headers it parses
MAX_COLUMN_MAJOR = 1 << 28  # bytes of a Fortran-ordered array, which has to be read whole
MAX_MEMBERS = 1000  # each open stream takes some 40 kB
MAX_DIRECTORY = 1 << 20  # bytes of the list of members; zipfile takes ten times that
_CHUNK = 1 << 20
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,  # encrypted; and NotImplementedError, a zip feature that zipfile lacks
    struct.error,
)

ReadRows = Callable[[str, int, int], NDArray[Any]]


@dataclass(frozen=True)
class Header:
    """What an array is before it is read: shape, number type, order of axes in the file, where its data starts."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    column_major: bool = False
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayStore(Protocol):
    """Named arrays that can be read by rows."""

    @property
    def where(self) -> str:
        """The place to name in messages."""

    @property
    def headers(self) -> Mapping[str, Header]:
        """What each array is."""

    def opened(self) -> AbstractContextManager[ReadRows]:
        """A function ``read(name, start, stop)`` for a copy of rows of an array, while the context lasts."""


@dataclass(frozen=True)
class MemoryArrays:
    """Arrays the caller holds."""

    arrays: Mapping[str, NDArray[Any]]
    where: str = "samples"

    @property
    def headers(self) -> Mapping[str, Header]:
        """What each array is."""
        return {name: Header(array.shape, array.dtype) for name, array in self.arrays.items()}

    @contextmanager
    def opened(self) -> Iterator[ReadRows]:
        """See :meth:`ArrayStore.opened`."""
        yield lambda name, start, stop: self.arrays[name][start:stop].copy()


class ArrayFile:
    """The arrays of an ``.npz`` file by name, or the one of an ``.npy`` file under the name ``x``.

    Raises :class:`InputError` when the file is missing, damaged or truncated, or holds anything but plain arrays of
    numbers. The file stays closed except within :meth:`opened`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.where = os.fspath(path)
        self.headers: Mapping[str, Header] = {}
        with self._members() as members:
            self.headers = {name: member.header() for name, member in members.items()}

    @contextmanager
    def opened(self) -> Iterator[ReadRows]:
        """See :meth:`ArrayStore.opened`; rows are cheapest in ascending order."""
        with self._members() as members:
            checked: set[str] = set()

            def read(name: str, start: int, stop: int) -> NDArray[Any]:
                if name not in checked and members[name].header() != self.headers[name]:
                    raise InputError(f"array {name!r} changed while in use", where=self.where, remedy="run again")
                checked.add(name)
                return members[name].rows(self.headers[name], start, stop)

            yield read

    @contextmanager
    def _members(self) -> Iterator[dict[str, _Member]]:
        with open_regular(self.where, kind="sample file") as file, ExitStack() as stack:
            if not self.where.lower().endswith(".npz"):
                yield {"x": _Member("x", file, os.fstat(file.fileno()).st_size, self.where)}
                return
            with _damage(self.where, "the file"):
                _require_short_directory(file)
                archive = stack.enter_context(zipfile.ZipFile(file))
                members: dict[str, _Member] = {}
                if len(archive.infolist()) > MAX_MEMBERS:
                    raise ValueError(f"it holds more than {MAX_MEMBERS} arrays")
                for info in archive.infolist():
                    name = _member_name(info, members, self.where)
                    stream = stack.enter_context(archive.open(info))
                    members[name] = _Member(name, stream, info.file_size, self.where)
            yield members


class _Member:
    """One array as a stream of ``size`` bytes."""

    def __init__(self, name: str, stream: IO[bytes], size: int, where: str) -> None:
        self.name, self._stream, self._size, self._where = name, stream, size, where
        self._whole: NDArray[Any] | None = None

    def header(self) -> Header:
        """The checked header: an array of numbers whose bytes are all there."""
        with _damage(self._where, f"array {self.name!r}"):
            self._stream.seek(0)
            shape, column_major, dtype = _parse_header(self._stream)
            found = Header(shape, dtype, column_major and len(shape) > 1, self._stream.tell())
        if dtype.kind not in "biuf":
            what = "Python objects, which would have to be unpickled" if dtype.hasobject else f"values of type {dtype}"
            raise InputError(
                f"array {self.name!r} holds {what}", where=self._where, remedy="save plain arrays of numbers"
            )
        if min(shape, default=1) < 0 or found.nbytes > self._size - found.offset:
            raise InputError(
                f"array {self.name!r} claims the shape {list(shape)}, {found.nbytes} bytes, and the file holds "
                f"{self._size - found.offset}",
                where=self._where,
                remedy="save the file again; it is truncated or damaged",
            )
        return found

    def rows(self, header: Header, start: int, stop: int) -> NDArray[Any]:
        """The rows ``start`` to ``stop`` as a new array."""
        if header.column_major:
            return self._read_column_major(header)[start:stop]
        row = math.prod(header.shape[1:]) * header.dtype.itemsize
        flat = self._read(header.offset + start * row, (stop - start) * row)
        return flat.view(header.dtype).reshape(stop - start, *header.shape[1:])

    def _read_column_major(self, header: Header) -> NDArray[Any]:
        if self._whole is None:
            if header.nbytes > MAX_COLUMN_MAJOR:
                raise LimitError(
                    f"array {self.name!r} is in Fortran order, so all its {header.nbytes} bytes must be read at once",
                    where=self._where,
                    remedy="save np.ascontiguousarray of it",
                )
            flat = self._read(header.offset, header.nbytes)
            self._whole = flat.view(header.dtype).reshape(header.shape[::-1]).T
        return self._whole

    def _read(self, position: int, size: int) -> NDArray[np.uint8]:
        data = np.empty(size, np.uint8)
        done = 0
        with _damage(self._where, f"array {self.name!r}"):
            self._stream.seek(position)
            while done < size:
                chunk = self._stream.read(min(size - done, _CHUNK))
                if not chunk:
                    raise EOFError("it ends too early")
                data[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
                done += len(chunk)
        return data


def _require_short_directory(file: BinaryIO) -> None:
    """Raise :class:`ValueError` for an archive whose list of members is too long; zipfile would read all of it."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # nothing public tells it before all is read
    if end and end[zipfile._ECD_SIZE] > MAX_DIRECTORY:  # type: ignore[attr-defined]
        raise ValueError(f"it lists its arrays in more than {MAX_DIRECTORY} bytes")


def _member_name(info: zipfile.ZipInfo, seen: Mapping[str, object], where: str) -> str:
    """The array's name, if the member is an array, the only one of that name, stored or deflated."""
    name = info.filename.removesuffix(".npy")
    reason = ""
    if name == info.filename:
        reason = "is no array"
    elif name in seen:
        reason = "is there twice"
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA could ask for 4 GiB of memory
        reason = "is compressed in a way that NumPy does not use"
    if reason:
        raise InputError(f"{info.filename!r} in the file {reason}", where=where, remedy="write it with np.savez")
    return name


def _parse_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and type; the length of the header is checked before it is read."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version[0]}.{version[1]} is not one of plain arrays")
    prefix = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER:
        raise ValueError(f"its header of {length} bytes is too long")
    header = io.BytesIO(prefix + stream.read(length))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a file written by Python 2 is read all the same
        parse = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        try:
            shape, column_major, dtype = parse(header, max_header_size=MAX_HEADER)
        except Exception:  # NumPy hands the text to Python's tokenizer and parser, which fail in many ways
            raise ValueError("its header is malformed") from None
    return shape, column_major, dtype


@contextmanager
def _damage(where: str, what: str) -> Iterator[None]:
    """Whatever a damaged file makes the readers raise becomes one clear line."""
    try:
        yield
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{what} cannot be read: {reason}", where=where, remedy="save it again") from None
