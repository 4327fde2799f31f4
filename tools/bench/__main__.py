"""Measure amctc against its peers, in ratios taken in one run.

    python -m tools.bench [--quick | --all] [--only TEXT] [--json FILE] [--write]

Contenders run in turn in one process and are compared by the medians of the CPU time of the thread; calibration, graphs
and memory by the CPU time and peak memory of a process of their own. ``--quick`` takes small sizes and under a minute,
``--all`` those of the goals; ``--write`` puts the table into ``docs/benchmarks.md``. Nothing here is a test: a figure
that misses its goal is marked, and the exit status is 0.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tools.bench.calibration import calibration_rows, search_rows
from tools.bench.graphs import chain_rows
from tools.bench.interpreter import interpreter_rows, thread_rows
from tools.bench.machine import machine_lines
from tools.bench.networks import mobilenet_v2, resnet_50
from tools.bench.rows import Row, table
from tools.bench.weights import compression_rows, weight_rows
from tools.bench.workers import worker_rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"

Benchmark = Callable[[], Iterable[Row]]

QUICK: dict[str, Benchmark] = {
    "mobilenet_v2": lambda: interpreter_rows(mobilenet_v2(96), 96, ("ascend910b1",), 5),
    "threads": lambda: thread_rows(mobilenet_v2(96), 96, 8, 3),
    "calibration": lambda: calibration_rows(96, 10, ()),
    "search": lambda: search_rows(96, 3),
    "chain": lambda: chain_rows((1_000, 3_000, 10_000), 1),
    "weights": lambda: weight_rows(24, 512),
    "compress": lambda: compression_rows("fast", 24, 512),
    "workers": lambda: worker_rows(2, 256),
}

ALL: dict[str, Benchmark] = {
    "mobilenet_v2": lambda: interpreter_rows(mobilenet_v2(), 224, ("ascend910b1", "ascend310"), 15),
    "resnet_50": lambda: interpreter_rows(resnet_50(), 224, ("ascend910b1", "ascend310"), 9),
    "threads": lambda: thread_rows(mobilenet_v2(), 224, 16, 7),
    "calibration": lambda: calibration_rows(224, 100, ("MinMax", "Percentile", "Entropy")),
    "search": lambda: search_rows(224, 5),
    "chain": lambda: chain_rows((10_000, 30_000, 100_000), 1),
    "weights": lambda: weight_rows(24, 4096),
    "compress": lambda: (*compression_rows("fast", 16, 4096), *compression_rows("balanced", 8, 4096)),
    "workers": lambda: worker_rows(4, 1024),
}


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__.split("\n", 1)[0])
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="small sizes, under a minute (the default)")
    sizes.add_argument("--all", action="store_true", help="the sizes of the goals, some minutes")
    parser.add_argument("--only", default="", metavar="TEXT", help=f"those with this in their name: {', '.join(ALL)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--write", action="store_true", help="put the table into the documentation")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # ONNX Runtime's quantizer advises preprocessing
    machine = machine_lines()
    print("\n".join(machine), flush=True)
    rows: list[Row] = []
    for name, benchmark in (ALL if options.all else QUICK).items():
        if options.only in name:
            for row in benchmark():
                rows.append(row)
                print(" | ".join(row.cells()), flush=True)
    if options.json:
        figures = {"machine": machine, "rows": [row.to_dict() for row in rows]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    if options.write:
        PAGE.write_text(with_table(PAGE.read_text("utf-8"), machine, rows), "utf-8")
    return 0


def with_table(page: str, machine: list[str], rows: list[Row]) -> str:
    """The page with the machine and the table between its marks."""
    text = "\n".join(f"- {line}" for line in machine) + "\n\n" + table(rows)
    found = re.sub(r"(<!-- table -->\n).*?(<!-- end -->)", lambda m: m[1] + text + m[2], page, flags=re.DOTALL)
    if text not in found:
        raise ValueError("the page has no marks for the table")
    return found


if __name__ == "__main__":
    sys.exit(main())
