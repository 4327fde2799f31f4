"""Arrays that are too many for memory, kept on disk while an object lives. (Not in ``amctc.files``: it needs NumPy.)"""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amctc.errors import LimitError

MAX_BYTES = 1 << 36
"""64 GiB; an endless source of arrays must end somewhere."""


class ScratchFile:
    """Arrays one after the other in a temporary file, which lies in ``TMPDIR``, has no name and goes with this object.

    ``what`` names the contents in messages. Raises :class:`LimitError` where there is no folder for it, the disk is
    full or more than :data:`MAX_BYTES` are to be kept.
    """

    def __init__(self, what: str) -> None:
        self._what, self.size = what, 0
        try:
            # Nothing is buffered: what was appended is on its way to the disk, so no later call can fail for it.
            self._file = tempfile.TemporaryFile(prefix="amctc-", buffering=0)  # noqa: SIM115 - open as long as this
        except OSError as error:
            raise self._failure(error) from None
        weakref.finalize(self, self._file.close)

    def append(self, array: NDArray[Any]) -> int:
        """Keep ``array``, which holds no objects; gives the offset to read it from."""
        offset, data = self.size, memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        if offset + len(data) > MAX_BYTES:
            raise LimitError(f"{self._what} take more than {MAX_BYTES} bytes", remedy="limit their number")
        try:
            while data:
                data = data[os.pwrite(self._file.fileno(), data, offset + array.nbytes - len(data)) :]
        except OSError as error:
            raise self._failure(error) from None
        self.size += array.nbytes
        return offset

    def read(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """A new array of what was kept at ``offset``; rows of an array are found by their own offset."""
        data = bytearray(math.prod(shape) * dtype.itemsize)
        done = 0
        while done < len(data):
            count = os.preadv(self._file.fileno(), [memoryview(data)[done:]], offset + done)
            if not count:
                raise LimitError(f"the temporary file of {self._what} is cut short", remedy="run again")
            done += count
        return np.frombuffer(data, np.uint8).view(dtype).reshape(shape)

    def mapped(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """What was kept at ``offset``, at least a byte of it, as a read-only map whose pages the system may drop."""
        flat = np.memmap(self._file, np.uint8, "r", offset, (math.prod(shape) * dtype.itemsize,))
        return flat.view(dtype).reshape(shape)

    def _failure(self, error: OSError) -> LimitError:
        place = tempfile.tempdir or os.environ.get("TMPDIR") or "a temporary folder"
        return LimitError(
            f"{self._what} cannot be kept in {place}: {error.strerror}",
            remedy="free space there, set TMPDIR to another folder, or use fewer samples",
        )
