"""Read files nobody vouches for (POSIX).

Regular files only, opened without blocking, checked on the open descriptor, bounded in size. Names found *inside* an
input (external data of a model) are resolved component by component with ``O_NOFOLLOW`` below its folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from amctc.errors import InputError, LimitError
from amctc.files.paths import AnyPath, sort_of_file

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK: opening a FIFO must not wait for a writer
_CHUNK = 1 << 20


@contextmanager
def open_regular(path: AnyPath, *, limit: int | None = None, kind: str = "file") -> Iterator[BinaryIO]:
    """The regular file ``path``, open for reading; ``kind`` is the word for it in messages ("model", "labels").

    A symbolic link the user names is followed. Raises :class:`InputError` when the file is missing, unreadable or not a
    regular file, :class:`LimitError` when it holds more than ``limit`` bytes.
    """
    where = os.fspath(path)
    try:
        _require_regular(os.stat(path), where, kind, limit)  # before opening: a device may act on being opened
        descriptor = os.open(path, _READ)
    except (OSError, ValueError) as error:
        raise _unreadable(error, where, kind) from None
    with _checked_file(descriptor, where, kind, limit) as file:
        yield file


def read_bytes(path: AnyPath, *, limit: int, kind: str = "file") -> bytes:
    """All bytes of the regular file ``path``, at most ``limit``; errors as :func:`open_regular`."""
    with open_regular(path, limit=limit, kind=kind) as file:
        try:
            data = file.read(os.fstat(file.fileno()).st_size + 1)
            while len(data) <= limit and (more := file.read(_CHUNK)):  # it grew, or it states no size (/proc)
                data += more
        except OSError as error:
            raise _unreadable(error, os.fspath(path), kind) from None
    if len(data) > limit:
        raise _too_large(os.fspath(path), kind, len(data), limit)
    return data


@contextmanager
def open_contained(
    folder: AnyPath, relative: str, *, kind: str = "external data file", limit: int | None = None
) -> Iterator[BinaryIO]:
    """The file ``relative`` inside ``folder``, opened step by step so that no link can lead outside.

    Refused with :class:`InputError`: an absolute name, ``..``, a symbolic link in any component below ``folder``, a
    file with several hard links, anything that is not a regular file. What was checked is what is read (no race).
    """
    parts = _relative_parts(relative, os.fspath(folder), kind)
    where = os.path.join(folder, *parts)
    try:
        parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _unreadable(error, os.fspath(folder), "folder") from None
    try:
        for part in parts[:-1]:
            _refuse_link(part, parent, where, kind)
            step = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            os.close(parent)
            parent = step
        _require_regular(_refuse_link(parts[-1], parent, where, kind), where, kind, limit)
        descriptor = os.open(parts[-1], _READ | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        raise _unreadable(error, where, kind, "copy it into the model's folder") from None
    finally:
        os.close(parent)
    with _checked_file(descriptor, where, kind, limit) as file:
        if os.fstat(descriptor).st_nlink > 1:
            raise InputError(f"the {kind} has several hard links", where=where, remedy="replace it by a plain copy")
        yield file


def contained_path(folder: AnyPath, relative: str, *, kind: str = "external data file") -> Path:
    """The path of ``relative`` inside ``folder`` once :func:`open_contained` accepts it.

    For libraries that take names only; whoever reads the bytes should use :func:`open_contained`, which leaves no time
    between the check and the use.
    """
    with open_contained(folder, relative, kind=kind):
        return Path(folder).joinpath(*_relative_parts(relative, os.fspath(folder), kind))


def _relative_parts(relative: str, folder: str, kind: str) -> list[str]:
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if not parts or "\0" in relative or relative.startswith("/") or ".." in parts:
        raise InputError(
            f"the name {relative!r} of the {kind} does not stay inside the folder",
            where=folder,
            remedy="name it relative to the folder, without '..'",
        )
    return parts


def _refuse_link(part: str, parent: int, where: str, kind: str) -> os.stat_result:
    """The state of ``part`` in the open folder ``parent``; a symbolic link is refused."""
    state = os.stat(part, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISLNK(state.st_mode):
        raise InputError(
            f"the {kind} is reached through the symbolic link {part!r}",
            where=where,
            remedy="replace the link by a copy of what it points to",
        )
    return state


@contextmanager
def _checked_file(descriptor: int, where: str, kind: str, limit: int | None) -> Iterator[BinaryIO]:
    """The open descriptor as a file object, after the same checks as before opening; closes it."""
    try:
        _require_regular(os.fstat(descriptor), where, kind, limit)
        file = os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
    with file:
        yield file


def _require_regular(state: os.stat_result, where: str, kind: str, limit: int | None) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise InputError(
            f"the {kind} is {sort_of_file(state.st_mode)}, not a regular file", where=where, remedy="name a plain file"
        )
    if limit is not None and state.st_size > limit:
        raise _too_large(where, kind, state.st_size, limit)


def _too_large(where: str, kind: str, size: int, limit: int) -> LimitError:
    return LimitError(
        f"the {kind} holds {size} bytes, more than the {limit} allowed", where=where, remedy="give a smaller file"
    )


def _unreadable(error: OSError | ValueError, where: str, kind: str, remedy: str = "check the path") -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"no such {kind}", where=where, remedy=remedy)
    if isinstance(error, PermissionError):
        return InputError(f"no permission to read the {kind}", where=where, remedy="change the file's permissions")
    reason = error.strerror if isinstance(error, OSError) else error
    return InputError(f"the {kind} cannot be read: {reason}", where=where, remedy=remedy)
