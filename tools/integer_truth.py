#!/usr/bin/env python3
"""Compare the integer kernels with ONNX Runtime's operators and with the numerics rules in exact arithmetic.

    python -m tools.integer_truth [--cases N] [--seed S] [--only TEXT] [--executor NAME]

Every case is one op, or one small graph, with drawn attributes, parameters and integers, run through a plan over the
kernels of a target; the profiles' choices are drawn as well. It is compared with the same operator of ONNX Runtime
where the formula is theirs, else with the rule (N1 …, see docs/numerics) written down again in Python integers and
fractions, in ``tools/integer_oracles``. Prints a row per rule and a summary; the exit status is 1 if an element
differs where none may. N (default 500) is the usual number of cases of a row; slow rows have fewer, broad ones more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator

from amctc.execution import DEFAULT_EXECUTOR, EXECUTORS
from tools.integer_oracles import compiled, epilogue, fusions, layers, parameters, rows, runtime
from tools.integer_oracles.cases import Row, Tally, run_row

ROWS: tuple[Row, ...] = (
    *parameters.ROWS, *layers.ROWS, *epilogue.ROWS, *rows.ROWS, *fusions.ROWS, *compiled.ROWS, *runtime.ROWS,
)  # fmt: skip

NOT_COMPARED = {
    "N23": "lossless compression of weights on the wire changes no number",
    "N25": "record text: what is read back is compared in tests/unit/frontends and tests/unit/backends",
}
"""Rules without a row, and why."""

RULES = 26


def rules_of(row: Row) -> list[str]:
    """The labels of the rules that a row is about."""
    return row.rule.split()


def uncovered() -> list[str]:
    """Rules that have neither a row nor a reason: there should be none."""
    stated = {rule for row in ROWS for rule in rules_of(row)} | set(NOT_COMPARED)
    return [f"N{i}" for i in range(1, RULES + 1) if f"N{i}" not in stated]


def run(cases: int, seed: int, only: str = "", executor: str = DEFAULT_EXECUTOR) -> Iterator[Tally]:
    """The tallies of all rows, or of those whose rule or name holds ``only``."""
    return (run_row(row, cases, seed, executor) for row in ROWS if only in f"{row.rule}: {row.name}")


def table(tallies: Iterable[Tally]) -> Iterator[str]:
    """One line per row, as it is done, and what broke."""
    yield f"{'rule':24} {'compared':46} {'cases':>7} {'elements':>10} {'different':>9}"
    for tally in tallies:
        row = tally.row
        note = f"  (each by {row.steps} step at most, as N5 and N12 say)" if row.steps else ""
        yield f"{row.rule:24} {row.name:46} {tally.cases:7} {tally.elements:10} {tally.different:9}{note}"
        if tally.wrong:
            yield f"    WRONG: {tally.wrong}"


def main() -> None:
    """Print the table; exit with 1 if an element differs where none may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500, help="cases of a row (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="draw others (default 0)")
    parser.add_argument("--only", default="", help="rows whose rule or name holds this text")
    parser.add_argument("--executor", choices=EXECUTORS, default=DEFAULT_EXECUTOR, help="what runs the kernels")
    options = parser.parse_args()
    started, tallies = time.monotonic(), list[Tally]()

    def kept() -> Iterator[Tally]:
        for tally in run(options.cases, options.seed, options.only, options.executor):
            tallies.append(tally)
            yield tally

    for line in table(kept()):
        print(line, flush=True)
    print(*(f"{rule:24} {reason}" for rule, reason in NOT_COMPARED.items()), sep="\n")
    wrong = sum(bool(t.wrong) for t in tallies)
    exact = [t for t in tallies if not t.row.steps]
    print(
        f"{sum(t.cases for t in tallies)} cases of {len(tallies)} rows, {sum(t.elements for t in exact)} elements that "
        f"must be equal, {sum(t.different for t in exact)} different; {wrong} rows broken; "
        f"executor {options.executor}, seed {options.seed}, {time.monotonic() - started:.0f} s"
    )
    sys.exit(1 if wrong or uncovered() else 0)


if __name__ == "__main__":
    main()
