#!/usr/bin/env python3
"""Run the test suites that come with ONNX: import, export, ONNX Runtime, and our own float interpreter.

    python -m tools.conformance [--suite NAME ...] [--only TEXT] [--write]

Each model is imported and exported, and both files are run by ONNX Runtime without optimisations. Where it cannot run
the original, ours must give what the suite expects, within the suite's own tolerances; where it can run neither, ours
must give the same file again. Ours must pass the standard's full check wherever the original does. The interpreter
runs the imported graph: ours alone where every op is modelled, through ONNX Runtime op by op where some are carried.
Prints a table and everything that was refused, went wrong or could not be run; ``--write`` puts the table into
``docs/conformance.md``. Exits with 1 if a result was wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from amctc.errors import AmctcError
from amctc.interp import Plan
from amctc.ir import Graph
from amctc.onnx_bridge import export_model, import_model
from amctc.onnx_bridge.edge_casts import EdgeCasts
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops.onnx import Node
from amctc.types import TensorType
from tools.conformance.suites import SUITES, Case, cases, same, similar

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"

SAME, CLOSE, EXPECTED, VALID = "same bits", "within tolerance", "as the suite expects", "valid, not runnable"
REFUSED, WRONG = "refused", "wrong"
ROUND_TRIP = (SAME, CLOSE, EXPECTED, VALID, REFUSED, WRONG)
"""What can become of a model on its way in and out again, best first."""

MODELLED, CARRIED, NOT_RUN, DIFFERENT = "all ops modelled", "some carried", "not run", "different"
INTERPRETER = (MODELLED, CARRIED, NOT_RUN, DIFFERENT)
"""How the interpreter ran a graph, best first."""


@dataclass(frozen=True)
class Verdict:
    """What became of one case: one of :data:`ROUND_TRIP`, one of :data:`INTERPRETER`, and why."""

    case: Case
    round_trip: str
    interpreter: str
    why: str = ""


def judged(case: Case) -> Verdict:
    """Import, export and run one case; of several data sets the worst counts."""
    try:
        graph = import_model(case.model)
        exported = export_model(graph)
    except AmctcError as error:
        return Verdict(case, REFUSED, NOT_RUN, str(error))
    trips, runs = [], []
    for feeds, wanted in _data(case, graph):
        runtime, why = _run(case.model, graph, feeds)
        trips.append(_round_trip(case, graph, exported, feeds, wanted, runtime) or (VALID, why))
        runs.append(_interpreted(case, graph, feeds, [wanted, runtime]))
    trip, why = max(trips, key=lambda f: ROUND_TRIP.index(f[0]))
    run, why_not = max(runs, key=lambda f: INTERPRETER.index(f[0]))
    return Verdict(case, trip, run, why or why_not)


def _data(case: Case, graph: Graph) -> Iterator[tuple[dict[str, Any], Sequence[Any]]]:
    """Feeds by name, elements held as graphs hold them, and the outputs the suite expects."""
    types = {i.name: i.type for i in graph.inputs}
    names = [i.name for i in case.model.graph.input if i.name in types]
    for given, wanted in case.data:
        yield {name: _held(value, types[name]) for name, value in zip(names, given, strict=False)}, wanted


def _held(value: Any, type_: TensorType) -> Any:
    """The suite has NumPy types for int4 and int2; a graph holds them in bytes."""
    return value.astype(type_.elem.dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "V" else value


def _round_trip(
    case: Case, graph: Graph, exported: onnx.ModelProto, feeds: dict[str, Any], wanted: Any, runtime: Any
) -> tuple[str, str] | None:
    """How the exported model compares; ``None`` where neither can be run and ours is valid."""
    after, why = _run(exported, graph, feeds)
    if after is None and runtime is not None:
        return WRONG, f"only the original runs: {why}"
    if not _is_valid(exported) and _is_valid(case.model):
        return WRONG, "the standard's checker refuses it"
    if after is None:
        again = export_model(import_model(exported)).SerializeToString()
        return None if again == exported.SerializeToString() else (WRONG, "a second round trip gives another model")
    if runtime is None:
        return (EXPECTED, "") if similar(wanted, after, case) else (WRONG, "not what the suite expects")
    if same(runtime, after):
        return SAME, ""
    return (CLOSE, "") if similar(runtime, after, case) else (WRONG, "not what the original gives")


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _run(model: onnx.ModelProto, graph: Graph, feeds: dict[str, Any]) -> tuple[list[Any] | None, str]:
    """The outputs of a model whose interface is that of ``graph``, or ``None`` and why not."""
    copy, casts = onnx.ModelProto(), EdgeCasts(graph)
    copy.CopyFrom(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        content = casts.add_to(copy).SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return casts.run(session, graph.output_names, feeds), ""
    except Exception as error:  # the runtime's exception types are not stable across versions
        return None, str(error)


def _interpreted(case: Case, graph: Graph, feeds: dict[str, Any], references: Sequence[Any]) -> tuple[str, str]:
    """How the interpreter's results compare with what the suite expects, or else with ONNX Runtime's."""
    try:
        results = list(Plan(graph, WHOLE_FLOAT).run(feeds).values())
    except AmctcError as error:
        return NOT_RUN, str(error)
    declared = [_in_type(result, value.type) for result, value in zip(results, graph.outputs, strict=True)]
    if not any(wanted is not None and similar(wanted, declared, case) for wanted in references):
        return DIFFERENT, "the interpreter gives something else"
    return (CARRIED if any(isinstance(op.kind, Node) for op in graph.ops) else MODELLED), ""


def _in_type(value: Any, type_: TensorType) -> Any:
    """The interpreter computes float32 in float64 when it is fed so, and narrow floats in float32."""
    return value.astype(type_.elem.dtype) if isinstance(value, np.ndarray) and type_.is_float else value


def table(verdicts: Sequence[Verdict]) -> str:
    """Counts per suite, as a Markdown table."""
    head = ["suite", "models", *ROUND_TRIP, *(f"interpreter: {name}" for name in INTERPRETER)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for suite in dict.fromkeys(v.case.suite for v in verdicts):
        own = [v for v in verdicts if v.case.suite == suite]
        trips, runs = Counter(v.round_trip for v in own), Counter(v.interpreter for v in own)
        counts = [len(own), *(trips[name] for name in ROUND_TRIP), *(runs[name] for name in INTERPRETER)]
        lines.append(f"| {suite} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines) + "\n"


def explained(verdicts: Sequence[Verdict]) -> str:
    """Names by what was not as it should be and the reason, node names left out of it."""
    groups: dict[tuple[str, str], list[str]] = {}
    for v in verdicts:
        poor = v.round_trip if v.round_trip in (VALID, REFUSED, WRONG) else v.interpreter
        if poor not in (SAME, MODELLED, CARRIED):
            reason = re.sub(r"'[^']*'|Name: *'[^']*'", "'…'", v.why)[:160].replace("\n", " ")
            groups.setdefault((poor, reason), []).append(v.case.name)
    lines = []
    for (poor, reason), names in sorted(groups.items()):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"{poor}: {reason}\n    {len(names)}: {', '.join(names[:3])}{more}")
    return "\n".join(lines)


def write_table(page: Path, text: str, mark: str = "suites") -> None:
    """Put the table between the marks of the documentation page."""
    start, end = f"<!-- {mark} -->\n", "<!-- end -->"
    before, rest = page.read_text("utf-8").split(start)
    page.write_text(before + start + text + end + rest.split(end, 1)[1], "utf-8")


def main() -> int:
    """Run the suites named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--suite", action="append", choices=SUITES, help="run this one; may be repeated")
    parser.add_argument("--only", default="", metavar="TEXT", help="run the cases with this in their name")
    parser.add_argument("--write", action="store_true", help="put the table into the documentation")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite's own formulas divide by zero
        every = (case for suite in options.suite or SUITES for case in cases(suite))
        verdicts = [judged(case) for case in every if options.only in case.name]
    print(explained(verdicts))
    print(table(verdicts))
    if options.write:
        write_table(PAGE, table(verdicts))
    return any(v.round_trip == WRONG or v.interpreter == DIFFERENT for v in verdicts)


if __name__ == "__main__":
    sys.exit(main())
