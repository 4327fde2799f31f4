"""Write files so that a failure leaves nothing half done (POSIX).

A temporary file beside the target, flushed to disk, then renamed. What a killed process leaves behind is called
``.amctc-…``; nobody reads it, and the next writer to that folder removes it.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from amctc.errors import AmctcError, LimitError, UsageError
from amctc.files.leftovers import TEMPORARY, fresh_name, locked, remove_leftovers, try_lock
from amctc.files.paths import AnyPath, sort_of_file

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""How systems say that a disk, a quota or a limit on files is full."""

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def atomic_writer(path: AnyPath) -> Iterator[BinaryIO]:
    """A binary file (seekable, read and write) that replaces ``path`` when the block ends without an error.

    Until then, and after any error, ``path`` is as it was and no temporary file stays. An existing file keeps its
    permissions. Raises :class:`UsageError` when ``path`` is a link, folder or device or its folder is missing or not
    writable, :class:`LimitError` when the disk is full.
    """
    target = Path(path)
    require_replaceable(target)
    temporary = target.with_name(fresh_name(TEMPORARY))
    try:
        with ExitStack() as stack:
            with naming_errors(target), locked(target.parent) as exclusive:
                if exclusive:
                    remove_leftovers(target.parent)
                file = stack.enter_context(new_file(temporary, like=target))
            yield file
        with naming_errors(target):
            os.replace(temporary, target)
    except BaseException:
        with suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def atomic_write_bytes(path: AnyPath, data: bytes) -> None:
    """Make ``data`` the content of ``path``, wholly or not at all; errors as :func:`atomic_writer`."""
    with atomic_writer(path) as file:
        file.write(data)


def atomic_write_text(path: AnyPath, text: str) -> None:
    """Make ``text`` (as UTF-8) the content of ``path``, wholly or not at all; errors as :func:`atomic_writer`."""
    atomic_write_bytes(path, text.encode("utf-8"))


class _OutputFile(io.FileIO):
    """A file that blames ``target`` for what goes wrong when bytes reach the system, now or from a buffer later."""

    def __init__(self, descriptor: int, target: Path) -> None:
        super().__init__(descriptor, "w+b")
        self._target = target

    def write(self, data: Any, /) -> int:  # any buffer
        with naming_errors(self._target):
            return super().write(data)


@contextmanager
def new_file(path: Path, *, like: Path) -> Iterator[BinaryIO]:
    """A file created at ``path``, on disk when the block ends; permissions of ``like``, else those of the umask."""
    with naming_errors(like):
        descriptor = os.open(path, _CREATE, 0o666)
    try_lock(descriptor)  # until it is closed: others see that its writer lives
    with io.BufferedRandom(_OutputFile(descriptor, like)) as file:
        with suppress(FileNotFoundError):
            os.fchmod(descriptor, stat.S_IMODE(like.stat().st_mode))
        yield cast(BinaryIO, file)
        file.flush()
        with naming_errors(like):
            os.fsync(descriptor)


@contextmanager
def naming_errors(target: Path) -> Iterator[None]:
    """Errors of the system in the block become ours and name ``target``."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise _unwritable(error, target) from error


def require_replaceable(target: Path) -> None:
    """Refuse a target that a rename would turn into something else: a link, a folder, a device."""
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _unwritable(error, target) from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"the output is {sort_of_file(mode)}", where=str(target), remedy="name a plain file")


def sync_folder(folder: Path) -> None:
    """Have the names in ``folder`` on disk, where the file system can."""
    with suppress(OSError):  # the files are there already; some file systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritable(error: OSError | ValueError, target: Path) -> AmctcError:
    where = str(target)
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return LimitError("there is no space left to write the output", where=where, remedy="free space and run again")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UsageError("the folder to write to does not exist", where=where, remedy="create it first")
    if isinstance(error, PermissionError):
        return UsageError("no permission to write there", where=where, remedy="choose another folder")
    reason = error.strerror if isinstance(error, OSError) else error
    return UsageError(f"the output cannot be written: {reason}", where=where, remedy="choose another path")
