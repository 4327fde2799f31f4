"""Sets of files that belong together: written aside, then put into their folder by renaming (POSIX).

A process that is killed meanwhile leaves the old set, the new one, or a part of one of them, never a mix: where files
are replaced, all old ones are moved away, the last written first, before the new ones come in the order in which they
were written. So whatever is written last, a model after its weights, is there only together with what it needs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from amctc.errors import UsageError
from amctc.files.leftovers import STAGING, fresh_name, locked, remove_leftovers, try_lock
from amctc.files.paths import AnyPath
from amctc.files.writing import naming_errors, new_file, require_replaceable, sync_folder

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


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
        require_replaceable(self.path / name)
        if name not in self._names:
            self._names.append(name)
        return self.staging / name

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """A binary file (seekable, read and write) that becomes ``name``; a second one of that name replaces it."""
        temporary = self.staged(name)
        with naming_errors(self.path / name):
            temporary.unlink(missing_ok=True)
        with new_file(temporary, like=self.path / name) as file:
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
    was there before is unchanged, and a folder made here is gone. Of several writers at once the last one's files stay,
    all of them. Errors as :func:`amctc.files.atomic_writer`.
    """
    folder = Path(path)
    made, staging = False, folder / fresh_name(STAGING)
    owned: int | None = None
    try:
        with naming_errors(folder):
            made = _make_folder(folder)
            with locked(folder) as exclusive:
                if exclusive:
                    remove_leftovers(folder)
                staging.mkdir(mode=0o700)
                owned = os.open(staging, _FOLDER)
                try_lock(owned)  # until it is closed: others see that its writer lives
        output = OutputFolder(folder, staging)
        yield output
        with naming_errors(folder):
            written = _synced(output)
            with locked(folder):
                _put_in_place(output, written)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        if made:
            with suppress(OSError):  # someone else put a file there meanwhile
                folder.rmdir()
        raise
    finally:
        if owned is not None:
            os.close(owned)
    shutil.rmtree(staging, ignore_errors=True)
    sync_folder(folder)


def _make_folder(folder: Path) -> bool:
    """Make ``folder`` unless it is there; whether it was made."""
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise UsageError("the output folder is a file", where=str(folder), remedy="name a folder") from None
        return False
    return True


def _synced(output: OutputFolder) -> list[str]:
    """The names of the staged files, all of which are on disk."""
    written = [name for name in output.names if (output.staging / name).exists()]
    for name in written:
        _sync_file(output.staging / name)
    return written


def _put_in_place(output: OutputFolder, written: list[str]) -> None:
    """Rename the staged files ``written`` to their targets; on an error put the old files back."""
    for name in written:
        require_replaceable(output.path / name)
    if len(written) == 1:
        os.replace(output.staging / written[0], output.path / written[0])
        return
    saved = output.staging / ".old"
    saved.mkdir()
    moved: list[str] = []
    placed: list[str] = []
    try:
        for name in reversed(written):
            with suppress(FileNotFoundError):
                os.replace(output.path / name, saved / name)
                moved.append(name)
        sync_folder(output.path)
        for name in written:
            os.replace(output.staging / name, output.path / name)
            placed.append(name)
    except BaseException:
        for name in reversed(placed):
            with suppress(OSError):
                (output.path / name).unlink()
        for name in reversed(moved):
            with suppress(OSError):
                os.replace(saved / name, output.path / name)
        raise


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
