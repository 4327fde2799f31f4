#!/usr/bin/env python3
"""Switch off the preconditions of rewrites one at a time, and see that the derived tests notice.

    python -m tools.guard_mutants [--only TEXT] [--list]

A guard is an ``if`` whose body begins with ``raise NoMatch``. Each mutant is a copy of ``amctc_patterns`` in which one
such condition counts as false; it is killed when ``tests/derived/test_rewrites.py`` fails for a rewrite that can
reach it. Prints one line per guard and the survivors; exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "patterns" / "amctc_patterns"
TESTS = "tests/derived/test_rewrites.py"
KILLED, SURVIVED = 1, 0
"""What pytest exits with."""


class Guard(NamedTuple):
    """A precondition: the module it is in, its line, its condition as text, and where that text is."""

    module: str
    line: int
    condition: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.module}.py:{self.line}: {' '.join(self.condition.split())}"

    def switched_off(self, source: str) -> str:
        """``source`` with the condition evaluated, for the names it binds, and taken as false."""
        encoded = source.encode()  # the parser counts bytes
        return f"{encoded[: self.start].decode()}(({self.condition}) and False){encoded[self.end :].decode()}"


def guards() -> Iterator[Guard]:
    """All guards of the package, in order."""
    for path in sorted(PACKAGE.glob("*.py")):
        source = path.read_bytes()
        starts = [0, *(i + 1 for i, byte in enumerate(source) if byte == ord("\n"))]
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.If) or not _declines(node.body[0]):
                continue
            test = node.test
            assert test.end_lineno is not None
            assert test.end_col_offset is not None
            start, end = starts[test.lineno - 1] + test.col_offset, starts[test.end_lineno - 1] + test.end_col_offset
            yield Guard(path.stem, node.lineno, source[start:end].decode(), start, end)


def _declines(statement: ast.stmt) -> bool:
    raised = statement.exc if isinstance(statement, ast.Raise) else None
    return isinstance(raised, ast.Call) and isinstance(raised.func, ast.Name) and raised.func.id == "NoMatch"


def users_of(module: str) -> set[str]:
    """The modules of the package that import ``module``, directly or through others, and itself."""
    imported = {p.stem: _imports(p) for p in PACKAGE.glob("*.py")}
    found = {module}
    while more := {m for m, names in imported.items() if names & found} - found:
        found |= more
    return found


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
            inner = (node.module or "").removeprefix(PACKAGE.name).lstrip(".")
            names |= {inner} if inner else {a.name for a in node.names}
    return names


def selected_tests(guard: Guard) -> list[str]:
    """Pytest's arguments: the property tests of all rewrites that can reach the guard."""
    users = users_of(guard.module)
    if "requant" in users:
        return [TESTS, "-k", "not test_rewrite"]
    rules = [e.name for e in metadata.entry_points(group="amctc.rewrites") if e.module.rpartition(".")[2] in users]
    return [f"{TESTS}::test_rewrite[{name}]" for name in sorted(rules)]


def outcome(guard: Guard | None, tests: Sequence[str]) -> int:
    """Exit status of the tests on a mutant, or on the package as it is."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PACKAGE.name
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if guard is not None:
            path = copy / f"{guard.module}.py"
            path.write_text(guard.switched_off(path.read_text("utf-8")), "utf-8")
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        places = f"pythonpath=. passes {folder}"  # pyproject.toml would put the package as it is first
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-qx",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-o",
            places,
            *tests,
        ]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (KILLED, SURVIVED):
        raise RuntimeError(f"the tests did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if every guard is needed by a test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="guards whose line has this text")
    parser.add_argument("--list", action="store_true", help="show the guards and run nothing")
    given = parser.parse_args(arguments)
    chosen = [g for g in guards() if given.only in str(g)]
    if given.list:
        print("\n".join(map(str, chosen)))
        return 0
    survivors = []
    for guard in chosen:
        killed = outcome(guard, selected_tests(guard)) == KILLED
        print(f"{'killed  ' if killed else 'SURVIVED'} {guard}", flush=True)
        survivors += [] if killed else [guard]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} guards killed by {TESTS}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
