"""Contents of constants kept in a temporary file: what a pass computes for every layer need not stay in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from amctc.data import ArrayData, Data, FileData
from amctc.files.scratch import ScratchFile
from amctc.types import Array

LARGE = 1 << 20
"""Bytes of contents above which they are set aside: below, a map of them weighs more than it saves."""


class SetAside:
    """Writes large contents to one temporary file; what comes back maps them there. Raises as :class:`ScratchFile`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._file: ScratchFile | None = None

    def array(self, array: Array) -> Data:
        """Contents equal to ``array``, in the file if they are large."""
        if array.nbytes <= LARGE or array.dtype == object:
            return ArrayData(array)
        if self._file is None:
            self._file = ScratchFile(self._what)
        return _ScratchData(self._file, self._file.append(array), array.shape, array.dtype)

    def data(self, data: Data) -> Data:
        """``data``, read once and kept if that is work or takes memory; a slice of a file as it is."""
        return data if data.nbytes <= LARGE or isinstance(data, FileData) else self.array(data.read())


class _ScratchData(Data):
    """A slice of a temporary file, mapped when read; the file lasts as long as what refers to it."""

    __slots__ = ("_file", "_offset")

    def __init__(self, file: ScratchFile, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(shape, dtype)
        self._file, self._offset = file, offset

    def read(self) -> Array:
        """A read-only memory map."""
        return self._file.mapped(self._offset, self.shape, self.dtype)
