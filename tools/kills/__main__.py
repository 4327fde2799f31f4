#!/usr/bin/env python3
"""Kill writers at every step and at random moments, fill their disk, let them race: no output may ever be torn.

    python -m tools.kills [--rounds 100] [--seed 1]

Three writers are tried, each replacing files that are there: one model file, a model with external data beside it, and
``amctc compress`` as a whole. After each kill −9 every output must be absent, the old one or the new one, byte for
byte, and no set may mix the two; the next writer must succeed and leave nothing of the killed one. An error of the
system (full disk, quota, I/O) at any step must end in one of our errors with all old files as they were. Prints a line
per kind and a summary; exits with 1 if anything was torn.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools import small_models
from tools.kills.interruptions import (
    KILLED,
    Task,
    contents,
    ended,
    failing,
    in_child,
    kill_after,
    kill_before,
    steps,
)

WRITERS = 8
"""Processes that write to one folder at once."""


@dataclass(frozen=True)
class Case:
    """A way to write version 0 or 1 of some files into ``out``, and what both are."""

    name: str
    out: Path
    write: tuple[Task, Task]
    versions: list[dict[str, bytes]] = field(default_factory=list)

    def prepare(self) -> None:
        """Version 0 lies there."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        for name, data in self.versions[0].items():
            (self.out / name).write_bytes(data)

    def problem(self) -> str:
        """What is wrong with the files that are there; nothing if each is of one version, and all of the same."""
        found = {n: d for n, d in contents(self.out).items() if not n.startswith(".amctc-")}
        fitting = [v for v in self.versions if all(v.get(n) == d for n, d in found.items())]
        if fitting:
            return ""
        torn = [n for n, d in found.items() if all(v.get(n) != d for v in self.versions)]
        return f"{torn[0]} is torn" if torn else "files of two versions"


def main() -> int:
    """Run all kinds of interruption; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="kills at random moments, per writer")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="amctc-kills-") as folder, _quiet():
        tally = run(Path(folder), rounds=arguments.rounds, rng=random.Random(arguments.seed))
    for line in tally.lines:
        print(line)
    print(f"kills: {tally.kills} kills and {tally.failures} failing steps survived, {len(tally.problems)} problems")
    for problem in tally.problems:
        print(problem)
    return bool(tally.problems)


@dataclass
class Tally:
    """What was done and what was found."""

    kills: int = 0
    failures: int = 0
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run(folder: Path, *, rounds: int, rng: random.Random, cases: Sequence[str] = ("file", "pair", "compress")) -> Tally:
    """Interrupt the named writers in ``folder`` in all ways."""
    tally = Tally()
    for case in _cases(folder, cases):
        for version in (0, 1):
            case.write[version]()
            case.versions.append(contents(case.out))
        assert case.versions[0] != case.versions[1], case.name
        _killed_at_steps(case, tally)
        _killed_at_random(case, tally, rounds, rng)
        _failing(case, tally)
    _racing(folder / "race", tally, rounds=max(1, rounds // 10))
    return tally


def _cases(folder: Path, names: Sequence[str]) -> Iterator[Case]:
    from amctc.backends.onnx_file import save
    from amctc.cli import amctc
    from amctc.frontends.onnx_file import load

    model, samples = folder / "small.onnx", folder / "samples.npz"
    model.write_bytes(small_models.convolutions().SerializeToString())
    samples.write_bytes(small_models.samples(8))
    other = folder / "other.onnx"
    other.write_bytes(small_models.quantized().SerializeToString())
    graphs = load(model), load(other)

    def saving(out: Path, version: int, threshold: int) -> Task:
        return lambda: (
            out.mkdir(exist_ok=True),
            save(graphs[version], out / "m.onnx", external_data_threshold=threshold),
        )[1]

    def compressing(out: Path, count: int) -> Task:
        def task() -> None:
            try:
                amctc.main(["compress", str(model), "-d", str(samples), "-o", str(out), "-n", str(count)])
            except SystemExit as ended:
                if ended.code:
                    raise

        return task

    for name in names:
        out = folder / name
        if name == "compress":
            yield Case(name, out, (compressing(out, 2), compressing(out, 8)))
        else:
            threshold = 0 if name == "pair" else 1 << 30
            yield Case(name, out, (saving(out, 0, threshold), saving(out, 1, threshold)))


def _check(case: Case, tally: Tally, how: str, expected: Sequence[int], status: int) -> None:
    """Note what is wrong after one interruption, and whether the next writer mends it."""
    if status not in expected:
        tally.problems.append(f"{case.name}, {how}: ended with {status}")
    if problem := case.problem():
        tally.problems.append(f"{case.name}, {how}: {problem}")


def _mended(case: Case, tally: Tally, how: str) -> None:
    case.write[1]()
    if contents(case.out) != case.versions[1]:
        left = sorted(set(contents(case.out)) - set(case.versions[1]))
        tally.problems.append(f"{case.name}, {how}: the next writer leaves {left or 'other contents'}")


def _killed_at_steps(case: Case, tally: Tally) -> None:
    count = 0
    for how, act in (("killed before step", kill_before), ("killed after step", kill_after)):
        for number, status in enumerate(steps(case.write[1], act, case.prepare)):
            _check(case, tally, f"{how} {number}", [KILLED], status)
            _mended(case, tally, f"{how} {number}")
            count += 1
    tally.kills += count
    tally.lines.append(f"{case.name:9} killed at each step:        {count} kills")


def _killed_at_random(case: Case, tally: Tally, rounds: int, rng: random.Random) -> None:
    """Kill at moments spread over the time that a writer takes, half of them from its first step of writing on."""
    case.prepare()
    started = time.monotonic()
    ended(in_child(case.write[1]))
    whole, count = time.monotonic() - started, 0
    for number in range(rounds):
        case.prepare()
        child = in_child(case.write[1])
        time.sleep(rng.uniform(0.6 if number % 2 else 0, 1) * whole)
        os.kill(child, signal.SIGKILL)
        status = ended(child)
        count += status == KILLED
        _check(case, tally, f"killed at random, round {number}", [KILLED, 0], status)
        if number % 10 == 0:
            _mended(case, tally, f"killed at random, round {number}")
    tally.kills += count
    tally.lines.append(f"{case.name:9} killed at random moments:   {count} kills of {rounds} writers, others were done")


def _failing(case: Case, tally: Tally) -> None:
    """Let each step fail; then bound the size of files, as a full disk does in the middle of a write."""
    count = 0
    for code in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        for number, status in enumerate(steps(case.write[1], failing(code), case.prepare)):
            count += 1
            how = f"{errno.errorcode[code]} at step {number}"
            _check(case, tally, how, [0, 2, 5], status)
            if status and contents(case.out) != case.versions[0]:
                tally.problems.append(f"{case.name}, {how}: not as it was: {sorted(contents(case.out))}")
    largest = max(map(len, case.versions[1].values()))
    for size in sorted({0, 1, 100, largest // 2, largest - 1}):
        case.prepare()
        bound = (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        status = ended(in_child(case.write[1], after_fork=lambda b=bound: resource.setrlimit(resource.RLIMIT_FSIZE, b)))
        _check(case, tally, f"files of at most {size} bytes", [5], status)
        if contents(case.out) != case.versions[0]:
            tally.problems.append(f"{case.name}, files of at most {size} bytes: not as it was")
        count += 1
    tally.failures += count
    tally.lines.append(f"{case.name:9} failing at each step:       {count} failures")


def _racing(out: Path, tally: Tally, rounds: int) -> None:
    """Several processes write sets of files to one folder; it must end with one set, whole."""
    from amctc.files import output_folder

    def writing(number: int) -> Task:
        def task() -> None:
            for _ in range(5):
                with output_folder(out) as folder:
                    for name in "abcd":
                        folder.write_bytes(name, bytes([number]) * 1000)

        return task

    for round_ in range(rounds):
        statuses = [ended(child) for child in [in_child(writing(n)) for n in range(WRITERS)]]
        found = contents(out)
        if statuses != [0] * WRITERS or len(found) != 4 or len(set(found.values())) != 1:
            tally.problems.append(f"race {round_}: {statuses}, {[(n, d[:1]) for n, d in found.items()]}")
    tally.lines.append(f"{'race':9} {WRITERS} writers at once:          {rounds} rounds of 5 sets each")


@contextmanager
def _quiet() -> Iterator[None]:
    """Let what the writers print go nowhere; the children inherit it."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    kept_errors = os.dup(2)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.dup2(kept_errors, 2)


if __name__ == "__main__":
    sys.exit(main())
