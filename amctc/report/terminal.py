"""The report of a compression and scores of models as text for people, on a terminal or in a file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from amctc.errors import printable
from amctc.report.model import CompressionReport, Evaluation, LayerReport, VariantResult
from amctc.report.table import Column, fitted, print_table
from amctc.report.units import (
    ABSENT,
    bytes_text,
    count_text,
    db_text,
    macs_text,
    ratio_text,
    share_text,
    time_text,
)

PLAIN_WIDTH = 120
"""Columns where there is no terminal and COLUMNS is not set."""

MOST_NAMES = 4
"""Layers of one reason that get a line each; of more so many are named, and report.json has them all."""

POOR_DB = 20.0
"""Below it a layer's output is noise for one part in ten of its amplitude: worth a look."""

MOST_LISTED = 24
"""Ops between the layers that are named one by one."""

LEGEND = {
    "SQNR dB": "SQNR: of the layer's output, integer run against float.",
    "steps off": "Steps off: its integer input against the QDQ model, largest difference and share of elements.",
}
"""What columns mean that do not say it themselves."""

_ACTION = {True: "yellow", False: "green"}


def make_console(stream: TextIO) -> Console:
    """A console that prints names literally; off a terminal it is :data:`PLAIN_WIDTH` wide and without colours."""
    plain = not stream.isatty()
    width = PLAIN_WIDTH if plain and not os.environ.get("COLUMNS", "").isdigit() else None
    return Console(file=stream, width=width, no_color=plain or None, markup=False, emoji=False, highlight=False)


def print_report(report: CompressionReport, console: Console) -> None:
    """The layers, what stayed in float and why, totals, uncertain arithmetic, and the command to compile the result."""
    columns = [c for c in _layer_columns(report) if any(cell != ABSENT for cell in c.cells)]
    if report.layers:
        print_table(columns, console)
        for column in fitted(columns, console.width):
            if column.title in LEGEND:
                console.print(LEGEND[column.title], style="dim")
        console.print()
    for heading, lines in _sections(report):
        print_section(heading, lines, console)
    if report.atc:
        console.print(Text("To compile it for the chip, in the output folder, with the Ascend toolkit", "bold"))
        console.print(Text(f"  {printable(report.atc, 4000)}"), soft_wrap=True)


def print_section(heading: str, lines: Sequence[str], console: Console) -> None:
    """A heading and indented lines below it; nothing without lines."""
    if not lines:
        return
    console.print(Text(heading, "bold"))
    for line in lines:
        for part in Text(printable(line, 1000)).wrap(console, max(20, console.width - 2)):
            console.print(Text("  "), part, sep="")
    console.print()


def _layer_columns(report: CompressionReport) -> list[Column]:
    layers = report.layers
    footer = f"{len(layers)} layers, {quantized_text(layers)}"
    poor = ["red" if x.sqnr_db is not None and x.sqnr_db < POOR_DB else "" for x in layers]
    steps = [_steps(layer) for layer in layers]
    before, after = sum(x.bytes_before for x in layers), sum(x.bytes_after for x in layers)
    macs, times = [layer.macs for layer in layers], [layer.time_us for layer in layers]
    return [
        Column("layer", [x.name for x in layers], shorten=True, footer=footer),
        Column("op", [x.op_type for x in layers], rank=3),
        Column(
            "runs in",
            [_runs_in(x) for x in layers],
            styles=["yellow" if x.action == "float" else "green" for x in layers],
        ),
        Column("float32", [bytes_text(x.bytes_before) for x in layers], True, 4, footer=bytes_text(before)),
        Column("stored", [bytes_text(x.bytes_after) for x in layers], True, 2, footer=bytes_text(after)),
        Column("MACs", [count_text(m) for m in macs], True, 1, footer=count_text(_total(macs))),
        Column("SQNR dB", [db_text(x.sqnr_db) for x in layers], True, styles=poor),
        Column("steps off", steps, True, 6),
        Column("result", [x.edge for x in layers], rank=5),
        Column("est. time", [time_text(t) for t in times], True),
    ]


def quantized_text(layers: Sequence[LayerReport], of: str = "") -> str:
    """How many layers are quantized, in what they compute, and how many have weights of fewer bits: for a heading."""
    quantized = [layer for layer in layers if layer.action != "float"]
    how = "in int8" if all(layer.action == "int8" for layer in quantized) else "quantized"
    narrow = Counter(layer.weight_bits for layer in quantized if (layer.weight_bits or 8) < 8)
    few = "".join(f", {count} with int{bits} weights" for bits, count in narrow.items())
    return f"{len(quantized)}{of} {how}{few}"


def _runs_in(layer: LayerReport) -> str:
    """``int8``, or ``int8, w4`` where the weight has fewer bits."""
    return layer.action if (layer.weight_bits or 8) == 8 else f"{layer.action}, w{layer.weight_bits}"


def _total(numbers: Sequence[int | None]) -> int | None:
    known = [n for n in numbers if n is not None]
    return sum(known) if len(known) == len(numbers) else None


def _steps(layer: LayerReport) -> str:
    """``2 (0.31 %)``: the largest difference of the quantized input from the QDQ model, and the share that differs."""
    if layer.steps_max is None:
        return ABSENT
    return f"{layer.steps_max} ({share_text(layer.steps_share)})" if layer.steps_max else "0"


def _sections(report: CompressionReport) -> list[tuple[str, list[str]]]:
    """Headings and lines that follow the table of layers."""
    kept = [x for x in report.layers if x.action == "float"]
    noted = [x for x in report.layers if x.notes and x.action != "float"]
    overflows = [f"{layer}: {count} accumulators" for layer, count in report.overflows]
    fired: dict[str, int] = {}
    for _, rewrites in report.passes:
        for name, count in rewrites:
            fired[name] = fired.get(name, 0) + count
    return [
        ("Layers left in float", _shared((x.name, _reason(x)) for x in kept)),
        ("Notes", _shared([(x.name, "; ".join(x.notes)) for x in noted] + list(map(_split, report.notes)))),
        ("Outside int32 (N7): the chip saturates", overflows),
        ("Computed in float16 between the integer layers", _float_ops(report.float_ops)),
        ("Rewrites", [", ".join(f"{name} {count}" for name, count in fired.items())] if fired else []),
        ("In all", _totals(report)),
        (
            "Arithmetic this result depends on that is not certain ([D] vendor documentation only, [I] inferred)",
            [f"[{c.tag}] {c.name} = {c.value} ({c.rule})" for c in report.choices],
        ),
    ]


def _float_ops(listed: Sequence[str]) -> list[str]:
    """The ops by name, or of many how many of each kind."""
    if len(listed) <= MOST_LISTED:
        return [", ".join(listed)] if listed else []
    kinds = Counter(op.partition(" (")[0] for op in listed)
    return [", ".join(f"{kind} {count}" for kind, count in kinds.most_common()) + " (by name in report.json)"]


def _shared(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """One line per name and remark; what is remarked of many on one line, the first of them by name."""
    sharing: dict[str, list[str]] = {}
    for name, remark in remarks:
        sharing.setdefault(remark, []).append(name)
    lines = []
    for remark, names in sharing.items():
        many = len(names) > MOST_NAMES
        shown = [f"{', '.join(names[:MOST_NAMES])} and {len(names) - MOST_NAMES} more"] if many else names
        lines += [f"{name}: {remark}" for name in shown]
    return lines


def _split(note: str) -> tuple[str, str]:
    """The name and the remark of a note of the report."""
    name, _, remark = note.partition(": ")
    return name, remark


def _reason(layer: LayerReport) -> str:
    return "; ".join(note.removeprefix("left in float: ") for note in layer.notes) or "no reason recorded"


def _totals(report: CompressionReport) -> list[str]:
    ratio = ratio_text(report.bytes_before, report.bytes_after)
    lines = [f"file    {bytes_text(report.bytes_before)} → {bytes_text(report.bytes_after)} ({ratio})"]
    if report.samples and report.output_sqnr_db is not None:
        same = f"; the largest element is the same in {share_text(report.agreement)} of {report.samples} samples"
        lines.append(
            f"output  SQNR {db_text(report.output_sqnr_db)} dB against the {report.reference} model"
            + (same if report.agreement is not None else "")
        )
    macs = macs_text(_total([x.macs for x in report.layers]))
    if report.time_us is None:
        return [*lines, f"work    {macs} per sample; no time estimate for {report.target}"]
    speed = f", {time_text(report.float_time_us)} in float16" if report.float_time_us else ""
    estimated = f"at least {time_text(report.time_us)} on {report.target}{speed} (estimate without launch overheads)"
    return [*lines, f"work    {macs} per sample; {estimated}"]


def print_evaluations(rows: Sequence[tuple[str, Evaluation]], console: Console) -> None:
    """Scores side by side, one model per row; columns that no model has a number for are left out."""
    scores = [e for _, e in rows]
    metric = next((printable(e.metric) for e in scores if e.metric), "score")
    columns = [
        Column("model", [name for name, _ in rows], shorten=True),
        Column("samples", [str(e.samples or ABSENT) for e in scores], True),
        Column(metric, [ABSENT if e.score is None else f"{e.score:.6g}" for e in scores], True),
        Column("top-1", [share_text(e.top1) for e in scores], True),
        Column("top-5", [share_text(e.top5) for e in scores], True, 1),
        Column("agreement", [share_text(e.agreement) for e in scores], True),
        Column("SQNR dB", [db_text(e.sqnr_db) for e in scores], True),
    ]
    print_table([c for c in columns if any(cell != ABSENT for cell in c.cells)], console)


def print_variants(rows: Sequence[VariantResult], console: Console) -> None:
    """What changes when a choice that is not certain is made differently; a line when no choice was used."""
    if not rows:
        console.print("This run depends on no arithmetic that is uncertain.")
        return
    columns = [
        Column("choice", [r.choice for r in rows]),
        Column("tag", [f"[{r.tag}]" for r in rows], rank=3),
        Column("rule", [r.rule for r in rows], rank=2),
        Column("instead of", [r.default for r in rows], rank=1),
        Column("value", [r.value for r in rows]),
        Column("same bits", [share_text(r.same) for r in rows], True),
        Column("same class", [share_text(r.same_class) for r in rows], True),
        Column("agreement", [share_text(r.agreement) for r in rows], True),
        Column("SQNR dB", [db_text(r.sqnr_db) for r in rows], True),
    ]
    console.print(VARIANTS_HEADING, style="bold")
    print_table([c for c in columns if any(cell != ABSENT for cell in c.cells)], console)
    missing = [f"{r.choice} = {r.value}" for r in rows if not r.simulated]
    console.print(VARIANTS_LEGEND, style="dim")
    if missing:
        console.print(f"Not simulated: {', '.join(missing)}.")


VARIANTS_HEADING = "Other readings of the arithmetic this run depends on ([D] vendor documentation only, [I] inferred)"
VARIANTS_LEGEND = (
    "Same bits, same class: samples whose first output, or its largest element, is that of the run above. "
    "Agreement and SQNR: against the float model."
)
