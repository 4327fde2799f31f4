"""What writers of a folder leave behind when they are killed, and how others know that they were.

A writer holds a lock on its temporary file or folder while it lives; the system lets go of it with the process. Locks
are advisory, and a file system without them only keeps leftovers longer.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY, STAGING = ".tmp", ""
"""How names of temporary files and of folders with several of them end."""

_TRIES, _PAUSE = 3000, 0.01

_NAME = re.compile(r"\.amctc-[0-9a-f]{16}(\.tmp)?")


def fresh_name(suffix: str) -> str:
    """A name for something temporary that nothing else has."""
    return f".amctc-{secrets.token_hex(8)}{suffix}"


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keep other writers out of ``folder`` for the block, which should be short; whether that was possible.

    It is not where the file system has no locks, or where a stranger holds this one for half a minute.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        exclusive = try_lock(descriptor)
        for _ in range(_TRIES):
            if exclusive:
                break
            time.sleep(_PAUSE)
            exclusive = try_lock(descriptor)
        yield exclusive
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed; whether nobody else has it and the file system can."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in ``folder``, which is :func:`locked`; living ones hold locks on theirs."""
    for name in os.listdir(folder):
        if _NAME.fullmatch(name):
            with suppress(OSError):  # another user's, or gone by now
                _remove_unlocked(folder / name)


def _remove_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if try_lock(descriptor):
            if path.name.endswith(TEMPORARY):
                path.unlink()
            else:
                shutil.rmtree(path)
    finally:
        os.close(descriptor)
