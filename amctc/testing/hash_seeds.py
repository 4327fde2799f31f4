"""The same bytes under other hash seeds: passes are run again in processes of their own.

As a program it reads pickled passes and graph texts from standard input and prints a digest of each result.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence

from amctc.errors import AmctcError
from amctc.parser import parse_graph
from amctc.pipeline import Context, Pass, Pipeline
from amctc.testing.arrays import Recipe, feed
from amctc.testing.violations import Violation
from amctc.text import print_graph

SEEDS = ("1", "2")

INSIDE = "AMCTC_HASH_SEED_CHECK"
"""Set in the processes started here: importing a module of passes may run its checks, which must start no more."""


def check_hash_seeds(items: tuple[Pass, ...], texts: Sequence[str]) -> list[str]:
    """**same bytes under every hash seed**: the passes give the same texts; returns why that was not tried, if so.

    Passes that another process cannot import (made in a function, or in a program's main module) are not tried.
    """
    if INSIDE in os.environ:
        return ["inside of a check of hash seeds"]
    if any(type(i).__module__ == "__main__" or "<locals>" in type(i).__qualname__ for i in items):
        return ["another process cannot import the pass: hash seeds are not tried"]
    given = pickle.dumps((items, tuple(texts)))
    first, second = (_digests(given, seed) for seed in SEEDS)
    for text, one, other in zip(texts, first, second, strict=True):
        if one != other:
            finding = f"PYTHONHASHSEED={SEEDS[0]} and {SEEDS[1]} give different results"
            raise Violation("same bytes under every hash seed", finding, parse_graph(text))
    return []


def _digests(given: bytes, seed: str) -> list[str]:
    environment = {
        **os.environ,
        "PYTHONHASHSEED": seed,
        INSIDE: "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "amctc.testing.hash_seeds"], input=given, env=environment, capture_output=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise Violation("same bytes under every hash seed", done.stderr.decode("utf-8", "replace")[-2000:])
    return done.stdout.decode().split()


def _digest(items: tuple[Pass, ...], text: str) -> str:
    graph = parse_graph(text)
    inputs = tuple(i for i in graph.inputs if i.default is None)
    context = Context(samples=[feed(inputs, Recipe(seed)) for seed in (1, 2)])
    try:
        result = print_graph(Pipeline(items).run(graph, context).graph)
    except AmctcError as error:
        result = str(error)
    return hashlib.sha256(result.encode()).hexdigest()


def _main() -> None:
    """Print the digests, and nothing that a module says while it is imported."""
    with contextlib.redirect_stdout(sys.stderr):
        passes, drawn = pickle.loads(sys.stdin.buffer.read())  # what the process that started this one wrote
        digests = [_digest(passes, text) for text in drawn]
    print("\n".join(digests))


if __name__ == "__main__":
    _main()
