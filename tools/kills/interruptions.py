"""Children that are killed, or whose disk fails, at a chosen step of writing: what :mod:`tools.kills` is made of."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from amctc.errors import AmctcError
from amctc.files import writing

KILLED, CRASHED = -int(signal.SIGKILL), 70

Task = Callable[[], None]


def in_child(task: Task, *, after_fork: Task = lambda: None) -> int:
    """Start ``task`` in a fork of this process; its process id. Ends with 0, the status of our errors, or CRASHED."""
    child = os.fork()
    if child:
        return child
    status = CRASHED
    try:
        os.setpgid(0, 0)
        after_fork()
        task()
        status = 0
    except AmctcError as error:
        status = error.exit_status
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(child: int) -> int:
    """Wait for a child; its status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Step:
    """Does something at the ``number``-th step of writing (from 0), which is then ``reached``.

    Steps are what asks the system to change something: writes of output files, fsync, mkdir, rename, unlink.
    """

    def __init__(self, number: int, act: Callable[..., Any]) -> None:
        self._left, self._act = number, act

    def install(self) -> None:
        """Take the place of those calls in this process, for good."""
        calls = ((os, "replace"), (os, "fsync"), (os, "mkdir"), (os, "unlink"), (writing._OutputFile, "write"))
        for owner, name in calls:
            setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == -1:
                return self._act(real, *arguments, **named)
            return real(*arguments, **named)

        return call


def kill_before(real: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """End this process without notice, before the step."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(real: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """End this process without notice, after the step, or in the middle of it where it writes bytes."""
    with contextlib.suppress(OSError):  # nothing to unlink
        if getattr(real, "__qualname__", "").endswith("_OutputFile.write"):
            real(arguments[0], memoryview(arguments[1]).cast("B")[: len(arguments[1]) // 2])
        else:
            real(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)


def failing(code: int) -> Callable[..., Any]:
    """An action that fails as the system would, with an error of that number."""

    def fail(real: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        if getattr(real, "__qualname__", "").endswith("_OutputFile.write"):
            with writing.naming_errors(arguments[0]._target):
                raise OSError(code, os.strerror(code))
        raise OSError(code, os.strerror(code))

    return fail


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name, those in folders inside too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def steps(task: Task, act: Callable[..., Any], prepare: Task) -> Iterator[int]:
    """Run ``task`` with ``act`` at step 0, 1, 2, … until it ends without reaching it; the status of each run.

    ``prepare`` comes before each run, in this process.
    """
    number = 0
    while True:
        prepare()
        reached_in, reached_out = os.pipe()

        def acting(real: Callable[..., Any], *arguments: Any, _write: int = reached_out, **named: Any) -> Any:
            os.write(_write, b"!")
            return act(real, *arguments, **named)

        status = ended(in_child(task, after_fork=Step(number, acting).install))
        os.close(reached_out)
        with open(reached_in, "rb") as pipe:
            reached = bool(pipe.read())
        if not reached:
            return
        yield status
        number += 1
