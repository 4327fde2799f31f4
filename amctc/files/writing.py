"""Write files so that a failure leaves nothing half done (POSIX).

A temporary file beside the target, flushed to disk, then renamed; a set of files appears whole or not at all.
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

from amctc.errors import AmctcError, LimitError, UsageError
from amctc.files.paths import AnyPath, sort_of_file

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
        raise UsageError(f"the output is {sort_of_file(mode)}", where=str(target), remedy="name a plain file")


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
