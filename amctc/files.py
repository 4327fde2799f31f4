"""Read files nobody vouches for, and write files so that a failure leaves nothing half done (POSIX).

Reading: regular files only, opened without blocking, checked on the open descriptor, bounded in size. Names found
*inside* an input (external data of a model) are resolved component by component with ``O_NOFOLLOW`` below its folder.
Writing: a temporary file beside the target, flushed to disk, then renamed; a set of files appears whole or not at all.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from amctc.errors import AmctcError, InputError, LimitError, UsageError

AnyPath = str | os.PathLike[str]

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK: opening a FIFO must not wait for a writer
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


# ---------------------------------------------------------------------------------------------------- reading


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
            f"the {kind} is {_sort_of_file(state.st_mode)}, not a regular file", where=where, remedy="name a plain file"
        )
    if limit is not None and state.st_size > limit:
        raise _too_large(where, kind, state.st_size, limit)


def _sort_of_file(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


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


# ---------------------------------------------------------------------------------------------------- writing


@contextmanager
def atomic_writer(path: AnyPath) -> Iterator[BinaryIO]:
    """A binary file (seekable, read and write) that replaces ``path`` when the block ends without an error.

    Until then, and after any error, ``path`` is as it was and no temporary file stays. An existing file keeps its
    permissions. Raises :class:`UsageError` when ``path`` is a link, folder or device or its folder is missing or not
    writable, :class:`LimitError` when the disk is full.
    """
    target = Path(path)
    _require_replaceable(target)
    temporary = target.with_name(f".amctc-{secrets.token_hex(8)}.tmp")
    try:
        with _new_file(temporary, like=target) as file:
            yield file
        with _naming_errors(target):
            os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def atomic_write_bytes(path: AnyPath, data: bytes) -> None:
    """Make ``data`` the content of ``path``, wholly or not at all; errors as :func:`atomic_writer`."""
    with atomic_writer(path) as file:
        file.write(data)


def atomic_write_text(path: AnyPath, text: str) -> None:
    """Make ``text`` (as UTF-8) the content of ``path``, wholly or not at all; errors as :func:`atomic_writer`."""
    atomic_write_bytes(path, text.encode("utf-8"))


class OutputFolder:
    """Files written aside under their final names, to be put into a folder together; see :func:`output_folder`."""

    def __init__(self, path: Path, staging: Path) -> None:
        self.path = path
        self.staging = staging
        self._names: list[str] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files so far, in the order in which they were first asked for."""
        return tuple(self._names)

    def staged(self, name: str) -> Path:
        """Where to write the file ``name`` now, for libraries that want a path; siblings lie beside it.

        A name that is asked for and then not written is left out.
        """
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise UsageError(f"{name!r} is not the name of a file in the output folder", where=str(self.path))
        _require_replaceable(self.path / name)
        if name not in self._names:
            self._names.append(name)
        return self.staging / name

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """A binary file (seekable, read and write) that becomes ``name``; a second one of that name replaces it."""
        temporary = self.staged(name)
        temporary.unlink(missing_ok=True)
        with _new_file(temporary, like=self.path / name) as file:
            yield file

    def write_bytes(self, name: str, data: bytes) -> None:
        """Make ``data`` the content of the file ``name``."""
        with self.writer(name) as file:
            file.write(data)

    def write_text(self, name: str, text: str) -> None:
        """Make ``text`` (as UTF-8) the content of the file ``name``."""
        self.write_bytes(name, text.encode("utf-8"))


@contextmanager
def output_folder(path: AnyPath) -> Iterator[OutputFolder]:
    """A folder whose new files appear together when the block ends without an error.

    The folder is made if it is missing (its parent must exist). After an error no new file is there, every file that
    was there before is unchanged, and a folder made here is gone. Errors as :func:`atomic_writer`.
    """
    folder = Path(path)
    made, staging = False, folder / f".amctc-{secrets.token_hex(8)}"
    try:
        with _naming_errors(folder):
            made = _make_folder(folder)
            staging.mkdir(mode=0o700)
        output = OutputFolder(folder, staging)
        yield output
        with _naming_errors(folder):
            _put_in_place(output)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        if made:
            with suppress(OSError):  # someone else put a file there meanwhile
                folder.rmdir()
        raise
    shutil.rmtree(staging, ignore_errors=True)
    _sync_folder(folder)


def _make_folder(folder: Path) -> bool:
    """Make ``folder`` unless it is there; whether it was made."""
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise UsageError("the output folder is a file", where=str(folder), remedy="name a folder") from None
        return False
    return True


def _put_in_place(output: OutputFolder) -> None:
    """Rename all staged files to their targets; on an error put the old files back."""
    written = [name for name in output.names if (output.staging / name).exists()]
    for name in written:
        _require_replaceable(output.path / name)
        _sync_file(output.staging / name)
    undo: list[tuple[Path, Path | None]] = []
    try:
        for number, name in enumerate(written):
            target, saved = output.path / name, output.staging / f".old-{number}"
            undo.append((target, _save_old(target, saved)))
            os.replace(output.staging / name, target)
    except BaseException:
        for target, old in reversed(undo):
            with suppress(OSError):
                if old is None:
                    target.unlink(missing_ok=True)
                else:
                    os.replace(old, target)
        raise


def _save_old(target: Path, saved: Path) -> Path | None:
    """A second name for the file now at ``target``, ``None`` if there is none."""
    if not target.exists():
        return None
    try:
        os.link(target, saved)
    except OSError:  # a file system without hard links: for a moment the file has its saved name only
        os.replace(target, saved)
    return saved


@contextmanager
def _new_file(path: Path, *, like: Path) -> Iterator[BinaryIO]:
    """A file created at ``path``, on disk when the block ends; permissions of ``like``, else those of the umask."""
    with _naming_errors(like):
        descriptor = os.open(path, _CREATE, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            with suppress(FileNotFoundError):
                os.fchmod(descriptor, stat.S_IMODE(like.stat().st_mode))
            yield file
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        if error.errno in _FULL:  # any other one may come from what the caller reads
            raise _unwritable(error, like) from error
        raise


@contextmanager
def _naming_errors(target: Path) -> Iterator[None]:
    """Errors of the system in the block become one clear line about ``target``."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise _unwritable(error, target) from error


def _require_replaceable(target: Path) -> None:
    """Refuse a target that a rename would turn into something else: a link, a folder, a device."""
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _unwritable(error, target) from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"the output is {_sort_of_file(mode)}", where=str(target), remedy="name a plain file")


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # the files are there already; some file systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritable(error: OSError | ValueError, target: Path) -> AmctcError:
    where = str(target)
    if isinstance(error, OSError) and error.errno in _FULL:
        return LimitError("there is no space left to write the output", where=where, remedy="free space and run again")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UsageError("the folder to write to does not exist", where=where, remedy="create it first")
    if isinstance(error, PermissionError):
        return UsageError("no permission to write there", where=where, remedy="choose another folder")
    reason = error.strerror if isinstance(error, OSError) else error
    return UsageError(f"the output cannot be written: {reason}", where=where, remedy="choose another path")
