#!/usr/bin/env python3
"""Fuzz everything that reads files nobody vouches for: models, samples, presets, profiles, records, texts.

    python -m tools.fuzz [TARGET ...] [--seconds 60] [--seed 1] [--engine atheris|random] [--out DIR]

Each target runs for ``--seconds`` in a process of its own. The engine ``atheris`` (extra ``nightly``) is guided by
coverage; ``random`` damages the seeds. An exception other than an ``AmctcError``, a crash of the process, an input that
takes more than 20 s or 1.5 GB is a finding: its input is kept in DIR (default ``fuzz-findings``), one per place in the
code. ``python -m tools.fuzz TARGET --replay FILE`` runs one input. Prints a line per target and a summary; exits with
1 if there is a finding.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

INPUT_SECONDS, MEMORY_MIB = 20, 1536
"""The contract for every bad input."""

LARGEST = 1 << 16
"""Bytes of an input."""


def main() -> int:
    """Fuzz the targets that the command line names; the exit status."""
    arguments = _parser().parse_args()
    out = Path(arguments.out)
    if arguments.inside:
        _inside(arguments.inside, arguments, out)
        return 0
    from tools.fuzz.targets import TARGETS

    names = arguments.targets or list(TARGETS)
    if arguments.replay:
        TARGETS[names[0]].run(Path(arguments.replay).read_bytes())
        return 0
    out.mkdir(exist_ok=True)
    total, started = 0, time.monotonic()
    for name in names:
        count, problem = _fuzz(name, arguments)
        found = sorted(p.name for p in out.glob(f"{name}.*"))
        print(
            f"{name:16} {count:8} inputs   {problem or 'no crash'}   {len(found)} findings {' '.join(found)}",
            flush=True,
        )
        total += count
    findings = [p for p in out.iterdir() if p.name.split(".")[0] in names]
    took = time.monotonic() - started
    print(f"fuzz: {len(names)} targets, {total} inputs in {took:.0f} s, {len(findings)} findings")
    return bool(findings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("atheris", "random"),
                        default="atheris" if importlib.util.find_spec("atheris") else "random")  # fmt: skip
    parser.add_argument("--out", default="fuzz-findings")
    parser.add_argument("--replay", metavar="FILE")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    return parser


def _fuzz(name: str, arguments: argparse.Namespace) -> tuple[int, str]:
    """Run one target in a process; inputs tried, and how the process ended where that was not as it should."""
    command = [sys.executable, "-m", "tools.fuzz", "--inside", name, "--out", str(arguments.out), "--engine",
               arguments.engine, "--seconds", str(arguments.seconds), "--seed", str(arguments.seed)]  # fmt: skip
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a disk in memory: each input is a file for a moment
    with tempfile.TemporaryDirectory(prefix="amctc-fuzz-", dir=memory) as folder:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env={**os.environ, "TMPDIR": folder}
        )
    counts = re.findall(r"Done (\d+) runs|^#(\d+)\t", done.stderr, re.MULTILINE)
    count = max((int(a or b) for a, b in counts), default=0)
    if done.returncode == 0:
        return count, ""
    (Path(arguments.out) / f"{name}.log").write_text(done.stderr[-20000:])
    return count, f"ended with {done.returncode}"


def _inside(name: str, arguments: argparse.Namespace, out: Path) -> None:
    """Fuzz one target in this process."""
    warnings.simplefilter("ignore")
    if arguments.engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["amctc", "amctc_passes", "amctc_patterns"]):
            from tools.fuzz.targets import TARGETS

            target = TARGETS[name]
            seeds = target.seeds()
            for seed in seeds:
                _attempt(name, seed, out)  # imports what the target needs while imports are instrumented
    else:
        from tools.fuzz.targets import TARGETS

        target, seeds = TARGETS[name], TARGETS[name].seeds()
    if arguments.engine == "random":
        _random(name, seeds, arguments, out)
        return
    corpus = tempfile.mkdtemp(prefix="amctc-corpus-")
    for index, seed in enumerate(seeds):
        Path(corpus, str(index)).write_bytes(seed)

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = bytes(atheris.Mutate(data, size)) if rng.random() < 0.25 else target.damage(data, rng)
        return changed[:size] if len(changed) <= size else data[:size]

    flags = [f"-max_total_time={arguments.seconds}", f"-seed={arguments.seed}", f"-timeout={INPUT_SECONDS}",
             f"-rss_limit_mb={MEMORY_MIB}", f"-max_len={LARGEST}", f"-artifact_prefix={out}/{name}.",
             "-print_final_stats=1"]  # fmt: skip
    atheris.Setup([sys.argv[0], *flags, corpus], lambda data: _attempt(name, bytes(data), out), custom_mutator=mutate)
    atheris.Fuzz()


def _random(name: str, seeds: list[bytes], arguments: argparse.Namespace, out: Path) -> None:
    """Damage seeds again and again, each time one to four steps deep."""
    from tools.fuzz.targets import TARGETS

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MIB << 20,) * 2)
    rng, count, end = random.Random(arguments.seed), 0, time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        data = rng.choice(seeds)
        for _ in range(rng.randrange(1, 5)):
            data = TARGETS[name].damage(data, rng)
        started = time.monotonic()
        _attempt(name, data, out)
        if time.monotonic() - started > INPUT_SECONDS:
            _keep(name, "slow", data, out)
        count += 1
    print(f"Done {count} runs", file=sys.stderr)


def _attempt(name: str, data: bytes, out: Path) -> None:
    """Run one input; an exception that is none of ours is kept with the input."""
    from amctc.errors import AmctcError
    from tools.fuzz.targets import TARGETS

    try:
        TARGETS[name].run(data)
    except AmctcError as error:
        if error.exit_status == 1 or "\n" in str(error) or not str(error).isprintable():
            _keep(name, "message", data, out)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = next((f for f in reversed(frames) if "amctc" in f.filename), frames[-1])
        where = f"{type(error).__name__}-{Path(place.filename).stem}-{place.lineno}"
        _keep(name, where, data, out)


def _keep(name: str, where: str, data: bytes, out: Path) -> None:
    """Keep the smallest input for each place."""
    path = out / f"{name}.{where}"
    if not path.exists() or len(data) < path.stat().st_size:
        path.write_bytes(data)
        print(f"{path}: sha1 {hashlib.sha1(data).hexdigest()}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
