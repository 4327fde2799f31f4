#!/usr/bin/env python3
"""Measure by mutation testing how much of numerics, kernels and passes the tests pin down.

    python -m tools.mutation [--package numerics|kernels|passes]... [--sample N] [--seed S] [--folder F]

needs ``pip install -e .[test,nightly]``. mutmut mutates a copy of the tree in a temporary folder, never the tree
itself; a folder F outside the tree keeps the copy, and a later call repeats only what changed. Per package a random
sample of N mutants (0: all) is drawn with seed S, and the tests that reach the mutated function run, the shortest
first, until one fails.

Prints the changed lines of each survivor, and whether ``tests/mutation_survivors.md`` lists them; then per package the
score: killed of all drawn mutants, with the 95 % interval of Wilson (1927), and the score without those listed as
equivalent. Mutants that ran out of time count as killed; those that no test reaches, among them what runs only on
import, as survivors. Exits with 1 if a score is below 85 %.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
REVIEW = ROOT / "tests" / "mutation_survivors.md"
EQUIVALENT = "## Equivalent"
"""The part of the review that lists mutants no test could kill."""
GOAL = 0.85
KEPT = ("staticmethod", "classmethod", "overload")
"""Decorators that stay: mutmut follows the first two, the third has no body."""
OUT_OF_TIME = (-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL)
"""Exit statuses of tests that a limit ended."""


class Package(NamedTuple):
    """What is mutated, where it lies in the copy, and the tests that must notice."""

    source: str
    flat: str
    tests: tuple[str, ...]


PACKAGES = {
    "numerics": Package("amctc/numerics", "amctc/numerics", ("tests/unit/numerics",)),
    "kernels": Package(
        "amctc/kernels", "amctc/kernels", ("tests/unit/kernels", "tests/unit/execution", "tests/derived/test_ops.py")
    ),
    "passes": Package(
        "passes/amctc_passes",
        "amctc_passes",
        ("tests/unit/passes", "tests/golden", "tests/unit/calibrate/test_checkpoint.py"),
    ),
}
SOURCES = ("amctc", "passes/amctc_passes", "patterns/amctc_patterns", "tests", "tools", "docs")


class Score(NamedTuple):
    """What became of the mutants drawn from a package: the survivors with their changed lines."""

    package: str
    drawn: int
    out_of_time: int
    survivors: dict[str, str]

    def line(self, equivalent: int) -> str:
        """The figures, of all mutants and without the equivalent ones."""
        killed = self.drawn - len(self.survivors)
        low, high = wilson(killed, self.drawn)
        rest = self.drawn - equivalent
        return (
            f"{self.package}: {killed} of {self.drawn} mutants killed ({self.out_of_time} out of time), "
            f"{killed / self.drawn:.1%} [{low:.1%}, {high:.1%}]; {killed / rest:.1%} of the {rest} not equivalent"
        )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927, with z = 1.96)."""
    z, p = 1.96, successes / trials
    centre, spread = p + z * z / (2 * trials), z * math.sqrt(p * (1 - p) / trials + (z / (2 * trials)) ** 2)
    return (centre - spread) / (1 + z * z / trials), (centre + spread) / (1 + z * z / trials)


def stage(package: Package, folder: Path) -> None:
    """Copy the tree to ``folder``, packages side by side, the mutated one undecorated, with mutmut's configuration.

    Files that are there with the same contents keep their time, by which mutmut knows what to do again.
    """
    wanted = {folder / "pyproject.toml": configuration(package).encode()}
    for source in SOURCES:
        for path in (ROOT / source).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                target = folder / Path(source).name / path.relative_to(ROOT / source)
                mutated = target.is_relative_to(folder / package.flat) and path.suffix == ".py"
                wanted[target] = undecorated(path.read_text("utf-8")).encode() if mutated else path.read_bytes()
    for target, contents in wanted.items():
        if not target.exists() or target.read_bytes() != contents:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(contents)
            (folder / "mutants" / "reached.json").unlink(missing_ok=True)


def configuration(package: Package) -> str:
    """``pyproject.toml`` with a section for mutmut."""
    root = package.flat.split("/")[0]
    options = {
        "source_paths": [root],
        "only_mutate": [f"{package.flat}/*.py"],
        "also_copy": [Path(source).name for source in SOURCES if Path(source).name not in (root, "tests")],
    }
    section = "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())  # TOML writes these as JSON
    return f"{(ROOT / 'pyproject.toml').read_text('utf-8')}\n[tool.mutmut]\n{section}"


def undecorated(source: str) -> str:
    """``source`` with ``@d def f`` written as ``def f`` and ``f = d(f)``: mutmut leaves decorated functions alone."""
    lines = source.splitlines()
    for function in reversed(list(_decorated(ast.parse(source)))):
        assert function.end_lineno is not None
        call = function.name
        for decorator in reversed(function.decorator_list):
            call = f"{ast.unparse(decorator)}({call})"
        lines.insert(function.end_lineno, f"{' ' * function.col_offset}{function.name} = {call}")
        del lines[function.decorator_list[0].lineno - 1 : function.lineno - 1]
    return "\n".join(lines) + "\n"


def _decorated(module: ast.Module) -> Iterator[ast.FunctionDef]:
    classes = (node for node in module.body if isinstance(node, ast.ClassDef))
    for node in sorted([*module.body, *(n for c in classes for n in c.body)], key=lambda n: n.lineno):
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            yield from () if ast.unparse(node.decorator_list[0]) in KEPT else (node,)


def measure(name: str, sample: int, seed: int, folder: Path) -> Score:
    """Run the sampled mutants of a package in ``folder``."""
    stage(PACKAGES[name], folder)
    os.chdir(folder)  # mutmut reads its configuration from, and works in, the current folder, from its import on
    from mutmut import __main__ as mutmut
    from mutmut.configuration import reset_config

    reset_config()
    with mutmut.CatchOutput():
        mutmut.copy_src_dir()
        mutmut.copy_also_copy_files()
        mutmut.create_mutants(max_children=1)
    every = sorted(
        mutant
        for path in (folder / "mutants").rglob("*.py.meta")
        for mutant in json.loads(path.read_text("utf-8"))["exit_code_by_key"]
    )
    count = min(sample, len(every)) or len(every)
    drawn = random.Random(seed).sample(every, count)  # in random order: any beginning is a sample too
    print(f"{name}: {len(drawn)} of {len(every)} mutants, seed {seed}", flush=True)
    statuses = exit_statuses(drawn, PACKAGES[name].tests)
    survivors = {mutant: difference(mutant) for mutant, status in statuses.items() if not status}
    return Score(name, len(drawn), sum(s in OUT_OF_TIME for s in statuses.values()), survivors)


def exit_statuses(drawn: Sequence[str], tests: Sequence[str]) -> dict[str, int | None]:
    """What the tests of each mutant exit with, one after the other; None where none reaches it."""
    place = Path("mutants")
    (place / "drawn.txt").write_text("\n".join(drawn), "utf-8")
    environment = {**os.environ, "AMCTC_MUTANTS": "drawn.txt", "AMCTC_PROFILE": "dev", "AMCTC_EXAMPLES": "10"}
    words = [sys.executable, "-m", "pytest", "-q", "-x", "--rootdir=.", "-p", "tools.mutation.session"]
    words += ["-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=mutation", *tests]
    done = subprocess.run(words, cwd=place, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the tests did not run:\n{done.stdout[-4000:]}")
    statuses: dict[str, int | None] = json.loads((place / "statuses.json").read_text("utf-8"))
    return statuses


def difference(mutant: str) -> str:
    """The changed lines of a mutant (mutmut works in the current folder)."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    lines = get_diff_for_mutant(mutant).splitlines()
    return "\n".join(line for line in lines if line[:1] in ("+", "-") and line[:3] not in ("+++", "---"))


def listed(mutant: str, changed: str, review: str) -> bool:
    """Whether one entry of a review, of the module of ``mutant``, quotes every changed line."""
    module, quoted = mutant.rpartition(".")[0], [f"`{line[1:].strip()}`" for line in changed.splitlines()]
    entries = (e for e in review.split("\n- ") if e.startswith(f"`{module}`:"))
    return any(all(line in entry for line in quoted) for entry in entries)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if a score is below the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", action="append", choices=PACKAGES, help="may be repeated; default: all three")
    parser.add_argument("--sample", type=int, default=150, help="mutants per package, 0 for all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the copies and mutmut's files here")
    given = parser.parse_args(arguments)
    review = REVIEW.read_text("utf-8")
    equivalent = review.partition(EQUIVALENT)[2].partition("\n## ")[0]
    with tempfile.TemporaryDirectory() as temporary:
        base = given.folder.resolve() if given.folder else Path(temporary)
        if base.is_relative_to(ROOT):
            parser.error("--folder lies in the tree")
        scores = [measure(n, given.sample, given.seed, base / n) for n in given.package or PACKAGES]
        os.chdir(ROOT)
    for score in scores:
        for mutant, changed in score.survivors.items():
            print(f"survived{', listed' if listed(mutant, changed, review) else ''}: {mutant}\n{changed}\n")
    for score in scores:
        print(score.line(sum(listed(*survivor, equivalent) for survivor in score.survivors.items())))
    return int(any(len(s.survivors) > (1 - GOAL) * s.drawn for s in scores))


if __name__ == "__main__":
    sys.exit(main())
