#!/usr/bin/env python3
"""Check the import rule: a module imports only from a lower floor, or from its own folder.

    python tools/check_floors.py [ROOT]

Prints one line per breach and exits with 1 if there is any. The floors are those of the design: data flows downward.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FLOORS: dict[str, int] = {
    "amctc.errors": 0, "amctc.collector": 0, "amctc.concurrency": 0, "amctc.scalars": 0, "amctc.types": 0,
    "amctc.files": 0, "amctc.numerics": 0,
    "amctc.targets": 1, "amctc.data": 1, "amctc.aside": 1, "amctc.schema": 1, "amctc.ir": 1, "amctc.text": 1,
    "amctc.cursor": 1, "amctc.records": 1,
    "amctc.ops": 2, "amctc.intervals": 2, "amctc.analysis": 2, "amctc.attributes": 2, "amctc.parser": 2,
    "amctc.verify": 3, "amctc.pattern": 3, "amctc.matcher": 3,
    "amctc.substitute": 3, "amctc.outputs": 3, "amctc.interp": 3, "amctc.kernels": 3,
    "amctc.onnx_bridge": 3, "amctc.execution": 3,
    "amctc.rewrite": 4, "amctc.contract": 4, "amctc.magnitude": 4, "amctc.calibrate": 4,
    "amctc.spec": 5, "amctc.options": 5, "amctc.pipeline": 5, "amctc.cycles": 5, "amctc.cost": 5, "amctc.memory": 5,
    "amctc.frontends": 6, "amctc.backends": 6, "amctc.report": 6, "amctc.testing": 6, "amctc.preset": 6,
    "amctc.examples": 6, "amctc.reproducer": 6, "amctc.validate": 6, "amctc.bisection": 6,
    "amctc.session": 7, "amctc.evaluation": 7, "amctc.variants": 7, "amctc.api": 7, "amctc.mixed_precision": 7,
    "amctc.measurement": 7, "amctc.steps": 7, "amctc.compensation": 7,
    "amctc.cli": 7, "amctc.__main__": 7, "amctc": 7,
}  # fmt: skip
"""Floor of each module or folder. Modules of one floor may import each other as long as no cycle forms."""

PATTERNS_UP_TO, PASSES_UP_TO = 4, 6

ONLY_IN: dict[str, tuple[str, ...]] = {
    "onnx": ("amctc.onnx_bridge", "amctc.frontends", "amctc.backends"),
    "onnx_graphsurgeon": ("amctc.onnx_bridge", "amctc.frontends", "amctc.backends"),
    "onnxruntime": ("amctc.onnx_bridge", "amctc.frontends", "amctc.backends"),
    "hypothesis": ("amctc.testing",),
    "networkx": ("amctc.backends", "amctc.frontends"),
}
"""Third-party packages that only some rooms may import."""


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Every module of the three packages with its dotted name."""
    for base, package in ((root, "amctc"), (root / "patterns", "amctc_patterns"), (root / "passes", "amctc_passes")):
        for path in sorted((base / package).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            yield ".".join(p for p in parts if p != "__init__"), path


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute module names a file imports outside ``if TYPE_CHECKING:``, with their lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno


def room(name: str) -> str:
    """The entry of :data:`FLOORS` a module lives in."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "amctc" and len(parts) > 1 else parts[0]


def breaches(root: Path) -> Iterator[str]:
    """One line per import that goes up, or reaches for a package that has its own room."""
    edges: dict[str, set[str]] = {}
    for name, path in modules(root):
        here = room(name)
        for target, line in imports(path):
            place = f"{path.relative_to(root)}:{line}"
            package = target.split(".")[0]
            if package in ONLY_IN and here not in ONLY_IN[package]:
                yield f"{place}: {name} imports {package}, which stays in {', '.join(ONLY_IN[package])}"
            if package not in ("amctc", "amctc_patterns", "amctc_passes"):
                continue
            yield from _judged(place, name, here, target)
            if room(target) != here:
                edges.setdefault(here, set()).add(room(target))
    yield from _cycles(edges)


def _judged(place: str, name: str, here: str, target: str) -> Iterator[str]:
    there = room(target)
    if there in ("amctc_patterns", "amctc_passes"):
        allowed = here == "amctc_passes" or here == there
        if not allowed:
            yield f"{place}: {name} imports {target}; passes and patterns are found by entry points"
        return
    if there not in FLOORS:
        yield f"{place}: {target} has no floor; enter it in tools/check_floors.py"
        return
    limit = {"amctc_patterns": PATTERNS_UP_TO, "amctc_passes": PASSES_UP_TO}.get(here, FLOORS.get(here, 0))
    if FLOORS[there] > limit:
        yield f"{place}: {name} (floor {limit}) imports {target} (floor {FLOORS[there]})"


def _cycles(edges: dict[str, set[str]]) -> Iterator[str]:
    """Rooms of one floor that reach each other both ways."""
    for start in sorted(edges):
        seen, stack = set[str](), list(edges[start])
        while stack:
            at = stack.pop()
            if at not in seen:
                seen.add(at)
                stack.extend(edges.get(at, ()))
        if start in seen:
            yield f"{start} imports itself through {', '.join(sorted(r for r in seen if start in edges.get(r, ())))}"


def main() -> int:
    """Check the tree given on the command line, or the one this file is in."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    found = list(breaches(root))
    print("\n".join(found) if found else "floors hold")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
