#!/usr/bin/env python3
"""Kill `amctc compress --checkpoint` with SIGKILL again and again, resume it, and compare every byte it writes.

    python -m tools.kills.resume [--count 200] [--seed 0]

Each round draws options (samples, batch size, method, seed, moving averages, threads), runs once without interruption,
then runs a chain: each run resumes the checkpoint of the one before and is killed, until one ends by itself. Kills come
while the new checkpoint is written (its bytes are there, its name is not), right after it has its name, or at a drawn
moment from outside. Afterwards the output folder must hold the bytes of the uninterrupted run, and the checkpoint and
all temporary files must be gone; then a checkpoint with a bit flipped must be refused with status 3. Every run is a
process of its own, forked from one that has imported amctc. Prints a line per round and a summary; exits with 1 if
anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import amctc.api  # noqa: F401 - imported before forking, not in every process
from amctc import examples
from amctc.cli import amctc as program
from amctc.files import writing
from amctc.preset import load_preset

BEFORE, AFTER, OUTSIDE = "before the rename", "after the rename", "from outside"
KILLED = -signal.SIGKILL


class Kill(NamedTuple):
    """When a run is killed: at its ``at``-th checkpoint, or after the share ``at`` of an uninterrupted run's time."""

    how: str
    at: float


class Round(NamedTuple):
    """The command line of a round without where it writes, and where that is."""

    options: tuple[str, ...]
    folder: Path

    def command(self, out: str, jobs: int, *more: str) -> list[str]:
        """Compress the shipped example into the folder ``out``."""
        return ["compress", str(examples.model_path()), "-d", str(examples.calibration_path()), "-p", "unit",
                *self.options, "--jobs", str(jobs), "-o", str(self.folder / out), *more]  # fmt: skip

    def checkpointed(self, jobs: int) -> list[str]:
        """The same with a checkpoint that is written at every step."""
        path = str(self.folder / "checkpoint")
        return self.command("out", jobs, "--checkpoint", path, "--checkpoint-interval", "0")


def main() -> int:
    """Rounds until there were enough kills; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="kills, at least")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    load_preset("balanced")
    kills = resumed = findings = refused = 0
    while kills < arguments.count:
        draw = random.Random(f"{arguments.seed} {resumed}")
        with tempfile.TemporaryDirectory(prefix="amctc-kills-") as folder:
            round_ = Round(drawn_options(draw), Path(folder))
            chain = killed_chain(round_, draw)
            found = different_files(round_.folder / "whole", round_.folder / "out")
            found += [p.name for p in Path(folder).iterdir() if p.name not in ("whole", "out")]
            damaged = damage_is_refused(round_, draw)
        kills, resumed, refused = kills + len(chain), resumed + 1, refused + damaged
        findings += bool(found) + (not damaged)
        print(f"{' '.join(round_.options)}: {len(chain)} kills ({', '.join(f'{k.how} {k.at:.2f}' for k in chain)}): "
              f"{'differs: ' + ', '.join(found) if found else 'the same bytes'}", flush=True)  # fmt: skip
    print(f"{kills} kills, {resumed} chains resumed, {refused} damaged checkpoints refused, {findings} findings")
    return 1 if findings else 0


def drawn_options(draw: random.Random) -> tuple[str, ...]:
    """Samples, batches, method and seed; what the default preset gathers, and its variants."""
    method = draw.choice(("mse", "min-max", "percentile", "entropy", "ifmr", "hfmg", "moving-average"))
    count, batch, seed, sqnr = draw.randint(1, 60), draw.randint(1, 16), draw.randint(0, 9), draw.choice((20.0, 90.0))
    options = ["-n", str(count), "--batch-size", str(batch), "--seed", str(seed), "--method", method,
               "--set", f"roll-back.sqnr={sqnr}"]  # fmt: skip
    if method == "moving-average":
        options += ["--set", "observe.moving-average=true"]
    return tuple(options)


def killed_chain(round_: Round, draw: random.Random) -> list[Kill]:
    """The kills of a chain, which starts from nothing and ends with a run that nobody killed."""
    start = time.monotonic()
    require(forked(round_.command("whole", 1)), 0, round_)
    seconds, kills = time.monotonic() - start, list[Kill]()
    while True:
        how = draw.choice((BEFORE, AFTER, OUTSIDE))
        kill = Kill(how, draw.uniform(0.1, 1.0) if how == OUTSIDE else draw.randint(1, 12))
        status = forked(round_.checkpointed(draw.randint(1, 3)), kill, seconds)
        if status != KILLED:
            require(status, 0, round_)
            return kills
        kills.append(kill)


def damage_is_refused(round_: Round, draw: random.Random) -> bool:
    """Whether a run with a damaged checkpoint ends with status 3 and leaves that file alone."""
    path = round_.folder / "checkpoint"
    require(forked(round_.checkpointed(1), Kill(AFTER, draw.randint(1, 6))), KILLED, round_)
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return forked(round_.checkpointed(1)) == 3 and path.read_bytes() == data


def forked(command: list[str], kill: Kill | None = None, seconds: float = 0.0) -> int:
    """The exit status of a process that runs a command line of amctc, negative for the signal that killed it."""
    child = os.fork()
    if not child:
        run_and_exit(command, kill)
    timer = None
    if kill is not None and kill.how == OUTSIDE:
        timer = threading.Timer(kill.at * seconds, os.kill, (child, signal.SIGKILL))
        timer.start()
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    if timer is not None:  # before the process is reaped its number cannot be another's
        timer.cancel()
        timer.join()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def run_and_exit(command: list[str], kill: Kill | None) -> None:
    """In the child: the command, silent, killed where its checkpoint is put in place if told so."""
    status = 1
    try:
        with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            at_rename = None if kill is None or kill.how == OUTSIDE else killing(os.replace, kill)
            with mock.patch.object(writing.os, "replace", at_rename) if at_rename else contextlib.nullcontext():
                program.main(command)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(status)


def killing(replace: Callable[[object, object], None], kill: Kill) -> Callable[[object, object], None]:
    """``os.replace`` that kills its process at one of the renames of a checkpoint."""
    left = kill.at

    def counted(old: object, new: object) -> None:
        nonlocal left
        left -= os.path.basename(str(new)) == "checkpoint"
        if left == 0 and kill.how == BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(old, new)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return counted


def different_files(expected: Path, found: Path) -> list[str]:
    """Names of files that are not the same in both folders."""
    names = sorted({p.name for folder in (expected, found) for p in folder.glob("*")})
    return [n for n in names if not _same(expected / n, found / n)]


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.read_bytes() == b.read_bytes()


def require(status: int, wanted: int, round_: Round) -> None:
    """End with what went wrong: no kill explains it."""
    if status != wanted:
        sys.exit(f"amctc {' '.join(round_.command('out', 1))} ended with {status}, not {wanted}")


if __name__ == "__main__":
    sys.exit(main())
