#!/usr/bin/env python3
"""Shrink an ONNX model that makes a command fail, or do anything else of interest.

    python -m tools.reduce model.onnx [-o reduced.onnx] [--seconds N] -- COMMAND … {} …

COMMAND is run on candidates, {} standing for the file; exit status 0 says that a candidate is still interesting. To
keep models on which something fails, negate it: ``-- sh -c '! amctc run fold-batch-norm {}'``. Outputs, ops,
sizes, attributes and contents go as long as the command says so; the last interesting model is always on disk.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from amctc.api import load, save
from amctc.errors import AmctcError
from amctc.ir import Graph
from amctc.testing.reductions import reduced


class Command:
    """The command as a predicate of graphs; an interesting one is saved to ``out`` at once."""

    def __init__(self, words: Sequence[str], out: Path, timeout: float | None) -> None:
        self._words, self._out, self._timeout, self.runs = words, out, timeout, 0

    def __call__(self, graph: Graph) -> bool:
        """Whether the command exits with 0 on the graph; one that takes too long does not."""
        self.runs += 1
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.onnx"
            try:
                save(graph, path)
                words = [word.replace("{}", str(path)) for word in self._words]
                done = subprocess.run(words, capture_output=True, timeout=self._timeout, check=False)
            except (AmctcError, subprocess.TimeoutExpired):
                return False
        if done.returncode == 0:
            save(graph, self._out)
        return done.returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 with a model in ``--out``; 1 if the model is not interesting to begin with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("reduced.onnx"))
    parser.add_argument("--seconds", type=float, help="stop after this long")
    parser.add_argument("--timeout", type=float, help="seconds one run of the command may take")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    given = parser.parse_args(arguments)
    if not any("{}" in word for word in given.command):
        parser.error("the command does not name its file: put {} where it belongs")
    interesting = Command(given.command, given.out, given.timeout)
    graph = load(given.model)
    if not interesting(graph):
        print("the model is not interesting: the command does not exit with 0 on it", file=sys.stderr)
        return 1
    deadline = None if given.seconds is None else time.monotonic() + given.seconds
    smallest = reduced(graph, interesting, stop=lambda: deadline is not None and time.monotonic() > deadline)
    print(f"{len(graph.ops)} ops became {len(smallest.ops)} in {interesting.runs} runs: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
