"""What a path may name."""

from __future__ import annotations

import os
import stat

AnyPath = str | os.PathLike[str]


def sort_of_file(mode: int) -> str:
    """What a file of that mode is, in words."""
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
