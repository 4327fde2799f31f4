#!/usr/bin/env python3
"""Give the command line bad and hostile inputs and hold it to its contract.

    python -m tools.bad_inputs [--only TEXT] [--seed 1] [--verbose]

Each input (of ``models``, ``bombs``, ``samples``, ``files``) runs ``amctc`` in a process of
its own. It must end with a status of 2 to 5 (never 1, never a signal), one line on stderr (under which a caret may
point at a text) that is printable and has no traceback, no new or changed file, within 20 s and 1.5 GB. Files damaged
at random may turn out fine; they are counted apart. Prints a table of outcomes by kind, every breach, and a summary;
exits with 1 if there is one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import signal
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

SECONDS, MEMORY = 20, 1536 << 20
"""The bounds of the contract, which the system enforces too."""

WAITING = 3 * SECONDS
"""Seconds after which a run that needs no time must be waiting for something."""

ROOM = 2 << 30
"""Address space above what the libraries take at the start: more than memory used, because allocators reserve some."""

STATUSES = (2, 3, 4, 5)
LONGEST = 700


@dataclass(frozen=True)
class Bad:
    """A command line and the files it meets; ``make`` puts special ones into the folder.

    ``may_pass`` tells that the input was damaged at random, and may be good.
    """

    kind: str
    name: str
    arguments: Sequence[str]
    files: dict[str, bytes] = field(default_factory=dict)
    make: Callable[[Path], None] = lambda folder: None
    may_pass: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended: status (negative for a signal), stderr, and what is against the contract."""

    bad: Bad
    status: int
    message: str
    breaches: tuple[str, ...]


def main() -> int:
    """Run the cases that the command line chooses; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose kind and name hold TEXT")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="print each message")
    arguments = parser.parse_args()
    outcomes = []
    for outcome in run(b for b in all_cases(arguments.seed) if arguments.only in f"{b.kind} {b.name}"):
        outcomes.append(outcome)
        if arguments.verbose:
            print(f"{outcome.bad.kind:10} {outcome.bad.name:40} {outcome.status:3} {outcome.message}", flush=True)
    print_table(outcomes)
    return any(o.breaches for o in outcomes)


def all_cases(seed: int = 1) -> Iterator[Bad]:
    """Every case; ``seed`` chooses the random damage."""
    from tools.bad_inputs import bombs, files, models, samples

    yield from models.cases(seed)
    yield from bombs.cases()
    yield from samples.cases(seed)
    yield from files.cases(seed)


def print_table(outcomes: Sequence[Outcome]) -> None:
    """Outcomes by kind, breaches, summary."""
    kinds = dict.fromkeys(o.bad.kind for o in outcomes)
    heads = ("tried", "usage 2", "input 3", "unsupported 4", "limit 5", "fine 0", "breaches")
    print(f"{'kind':12}", *heads, sep="  ")
    for kind in kinds:
        own = [o for o in outcomes if o.bad.kind == kind]
        counts = Counter(o.status for o in own)
        numbers = (len(own), *(counts[status] for status in (2, 3, 4, 5, 0)), sum(bool(o.breaches) for o in own))
        print(f"{kind:12}", *(f"{n:{len(h)}}" for n, h in zip(numbers, heads, strict=True)), sep="  ")
    bad = [o for o in outcomes if o.breaches]
    for outcome in bad:
        print(f"{outcome.bad.kind} {outcome.bad.name}: {'; '.join(outcome.breaches)}: {outcome.message[-300:]!r}")
    fine = sum(o.status == 0 for o in outcomes)
    print(f"bad_inputs: {len(outcomes)} inputs, {fine} turned out fine, {len(bad)} breaches")


def run(cases: Iterable[Bad]) -> Iterator[Outcome]:
    """The outcome of each case, each in a fork of this process and a folder of its own."""
    import amctc.api
    import amctc.calibrate.samples
    import amctc.parser  # noqa: F401 - what the command line imports when it runs is loaded once for all

    for bad in cases:
        with tempfile.TemporaryDirectory(prefix="amctc-bad-") as folder:
            yield _run(bad, Path(folder))


def _run(bad: Bad, place: Path) -> Outcome:
    folder, errors = place / "in", place / "stderr"
    folder.mkdir()
    for name, data in bad.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    bad.make(folder)
    before = _snapshot(folder)
    child = os.fork()
    if not child:
        _command(bad.arguments, folder, errors)
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    message = errors.read_bytes().decode("utf-8", "replace")
    breaches = tuple(_breaches(bad, code, message, used))
    if code and _snapshot(folder) != before:
        breaches += ("files were made or changed",)
    for path in folder.rglob("*"):
        with suppress(OSError):
            path.chmod(0o700)
    return Outcome(bad, code, message.rstrip("\n"), breaches)


def _command(arguments: Sequence[str], folder: Path, errors: Path) -> None:
    """Run ``amctc`` in this process, which ends."""
    from amctc.cli import amctc

    status = 70
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT, 0o600), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))  # a busy machine must not count
        signal.alarm(WAITING)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        amctc.main(list(arguments))
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(status)


def _breaches(bad: Bad, status: int, message: str, used: resource.struct_rusage) -> Iterator[str]:
    if status in (-signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL):
        yield f"more than {SECONDS} s, or endless waiting"
    elif status not in STATUSES and not (bad.may_pass and status == 0):
        yield f"status {status}"
    if used.ru_maxrss * 1024 > MEMORY:
        yield f"{used.ru_maxrss >> 10} MiB of memory"
    if not status:
        return
    lines = message.splitlines()
    pointed = len(lines) == 3 and lines[2].strip() == "^"
    if not (len(lines) == 1 or pointed) or not lines[0].startswith("amctc: "):
        yield f"{len(lines)} lines on stderr"
    if not all(line.isprintable() and len(line) <= LONGEST for line in lines):
        yield "a line that is too long or not printable"
    if "Traceback" in message or "internal error" in message:
        yield "a traceback"


def _snapshot(folder: Path) -> dict[str, str]:
    """What is in a folder: contents of files, what else there is, links as such."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        regular = stat.S_ISREG(mode) and path.stat().st_size < 1 << 26
        what = hashlib.sha1(path.read_bytes()).hexdigest() if regular else stat.filemode(mode)
        found[str(path.relative_to(folder))] = what
    return found


if __name__ == "__main__":
    sys.exit(main())
