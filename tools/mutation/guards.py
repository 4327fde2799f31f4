#!/usr/bin/env python3
"""Switch off the preconditions of rewrites and passes one at a time, and see that a test notices each.

    python -m tools.mutation.guards [--only TEXT] [--every N] [--list]

What counts as a precondition is said in :mod:`tools.mutation.preconditions`. A mutant is a module of
``amctc_patterns`` or ``amctc_passes`` in which one of them is gone. It runs the derived tests of the rewrites or passes
that can reach it and the unit tests that name them, in that order for a rewrite, in the other for a pass, up to the
first failure. ``--only`` takes the preconditions whose line has a text in it, ``--every`` each N-th.

Prints a line per precondition with the test that noticed, then the survivors and the figures; exits with 1 if there
are survivors. Nothing is drawn anew: two runs print the same.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.abc
import importlib.util
import os
import re
import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

import amctc.api  # noqa: F401  (what most tests import is imported once)
from amctc.testing import violations
from tools.mutation.preconditions import ROOT, Precondition, module_paths, preconditions

PATIENCE = 120
"""Seconds of CPU after which a mutant counts as one that does not come to an end."""

NOTICED, UNNOTICED = 1, 0
"""What pytest exits with."""


IMPORT = " (import)"
"""Where a test file cannot be imported."""


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a source of its own."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self._name, self._path, self._source = name, path, source

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module's spec, ``None`` for any other."""
        return importlib.util.spec_from_loader(name, self, origin=str(self._path)) if name == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the source."""
        exec(compile(self._source, str(self._path), "exec"), vars(module))


class Selection:
    """A pytest plugin: of the derived tests those for some rewrites or passes, by name, and which test failed first."""

    def __init__(self, names: Sequence[str], *, unnamed: bool) -> None:
        self._names, self._unnamed = names, unnamed
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the derived tests of the chosen names, the nearest first, and all other tests."""
        derived = [i for i in items if "tests/derived/" in i.nodeid]
        others = [i for i in items if "tests/derived/" not in i.nodeid]
        kept = sorted((i for i in derived if self._rank(i) is not None), key=lambda i: self._rank(i) or 0)
        items[:] = [*kept, *others] if derived and items[0] is derived[0] else [*others, *kept]

    def _rank(self, item: pytest.Item) -> int | None:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if "name" in parameters and self._names:
            return self._names.index(parameters["name"]) if parameters["name"] in self._names else None
        return 0 if self._unnamed else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a failure."""
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot even be imported is noticed by the tests that read it."""
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid}{IMPORT}"


# ----------------------------------------------------------------------------------------------------- which tests run


@cache
def imported() -> dict[str, set[str]]:
    """What each module of both packages imports of them."""
    paths = module_paths()
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        nodes = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.ImportFrom)]
        named = {n.module or "" for n in nodes} | {f"{n.module}.{a.name}" for n in nodes for a in n.names}
        found[name] = named & set(paths)
    return found


def distances(module: str) -> dict[str, int]:
    """The modules that import ``module``, directly or through others, and how many steps away; itself is 0."""
    found, edge = {module: 0}, {module}
    while edge := {m for m, names in imported().items() if names & edge} - set(found):
        found |= dict.fromkeys(edge, max(found.values()) + 1)
    return found


def reachable(group: str, module: str) -> list[str]:
    """The entry points of a group that can reach a module, the nearest first."""
    steps = distances(module)
    near = {e.name: steps[e.module] for e in metadata.entry_points(group=group) if e.module in steps}
    return sorted(near, key=lambda name: (near[name], name))


@cache
def unit_files() -> dict[Path, str]:
    """The unit tests of passes and of what they need, by path."""
    paths = [*sorted((ROOT / "tests" / "unit").rglob("test_*.py"))]
    return {path.relative_to(ROOT): path.read_text("utf-8") for path in paths}


def unit_tests(module: str) -> list[str]:
    """Test files that name the module or a pass that reaches it: those of its own name first, then by distance."""
    passes = reachable("amctc.passes", module)
    words = [module.rpartition(".")[2], *(p.replace("-", "_") for p in passes)]
    own = [str(p) for word in words for p in unit_files() if p.stem.startswith(f"test_{word}")]
    named = re.compile("|".join(rf"\b{re.escape(w)}\b" for w in (module, *passes)))
    others = [str(p) for p, text in unit_files().items() if "passes" in p.parts and named.search(text)]
    pages = [f"tests/golden/test_golden.py::test_page[{p.stem}]" for p in sorted((ROOT / "tests/golden").glob("*.page"))
             if named.search(p.read_text("utf-8").partition("\n")[0])]  # fmt: skip
    return list(dict.fromkeys((*own, *pages, *others)))


def selected_tests(module: str) -> tuple[list[str], Selection]:
    """Pytest's arguments in the order they run, and what of the derived tests is meant."""
    if module.startswith("amctc_passes"):
        nearest = Selection(reachable("amctc.passes", module)[:NEAREST], unnamed=False)
        return [*unit_tests(module), "tests/derived/test_passes.py::test_contract_on_drawn_graphs"], nearest
    integer = "amctc_patterns.requant" in distances(module)
    rules = Selection(reachable("amctc.rewrites", module), unnamed=integer)
    return ["tests/derived/test_rewrites.py", *unit_tests(module)], rules


NEAREST = 3
"""Passes whose derived tests are run for a module that many use: its unit tests are faster."""


# ------------------------------------------------------------------------------------------------------------- running


def noticed_by(mutant: Precondition) -> str:
    """The test that fails on a mutant, empty where none does."""
    path = module_paths()[mutant.module]
    tests, selection = selected_tests(mutant.module)
    finder = Mutated(mutant.module, path, mutant.switched_off(path.read_text("utf-8")))
    return first_failure(tests, selection, finder)


def first_failure(tests: Sequence[str], selection: Selection, finder: Mutated | None = None) -> str:
    """The first of the tests to fail in a process of its own, which imports a module through ``finder``."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 3
        resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE))
        with contextlib.suppress(BaseException):
            status = _run(tests, selection, finder)
        os.write(writing, f"{status} {selection.failed}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        status, _, test = pipe.read().decode().partition(" ")
    _, ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended):
        return f"does not end within {PATIENCE} s"
    if int(status) not in (NOTICED, UNNOTICED) and not test:
        raise RuntimeError(f"pytest exits with {status} for {' '.join(tests)}")
    return test


def _run(tests: Sequence[str], selection: Selection, finder: Mutated | None) -> int:
    if finder is not None:
        sys.meta_path.insert(0, finder)
    violations.SHRINKING_RUNS = 0
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    # Assertions need no rewriting: nobody reads the messages, and what is imported already cannot be rewritten.
    options = ["-qx", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return int(pytest.main([*options, *tests], plugins=[selection]))


def chosen(only: Sequence[str], every: int) -> list[Precondition]:
    """The preconditions to switch off."""
    found = (p for name, path in module_paths().items() for p in preconditions(name, path.read_text("utf-8")))
    return [p for p in found if not only or any(text in str(p) for text in only)][::every]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if every precondition is needed by a test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="preconditions whose line has this text")
    parser.add_argument("--every", type=int, default=1, help="each N-th of them")
    parser.add_argument("--list", action="store_true", help="show the preconditions and run nothing")
    given = parser.parse_args(arguments)
    os.chdir(ROOT)
    mutants = chosen(given.only, given.every)
    if given.list:
        print("\n".join(map(str, mutants)))
        return 0
    tests: dict[Precondition, str] = {}
    for mutant in mutants:
        tests[mutant] = noticed_by(mutant)
        print(f"{'killed  ' if tests[mutant] else 'SURVIVED'} {mutant}  {tests[mutant]}".rstrip(), flush=True)
    return summary(tests)


def summary(tests: Mapping[Precondition, str]) -> int:
    """Print the survivors and the figures; 1 if there are survivors or a test fails without any mutant."""
    survivors = [mutant for mutant, test in tests.items() if not test]
    print("".join(f"survived: {mutant}\n" for mutant in survivors), end="")
    suites = Counter(test.split("/")[1] for test in tests.values() if test.startswith("tests/"))
    used = sorted({test.removesuffix(IMPORT) for test in tests.values() if test.startswith("tests/")})
    broken = first_failure(used, Selection((), unnamed=True)) if used else ""
    if broken:
        print(f"fails without any mutant: {broken}")
    by = ", ".join(f"{count} by tests/{suite}" for suite, count in sorted(suites.items()))
    print(f"{len(tests) - len(survivors)} of {len(tests)} preconditions killed: {by}")
    return 1 if survivors or broken else 0


if __name__ == "__main__":
    sys.exit(main())
