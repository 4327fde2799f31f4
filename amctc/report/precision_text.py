"""Sensitivities and choices of precision as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from amctc.errors import printable
from amctc.report.precision import LayerPrecision, LayerSensitivity, PrecisionReport, SensitivityReport, Trial
from amctc.report.table import Column, print_table
from amctc.report.terminal import POOR_DB
from amctc.report.units import ABSENT, bytes_text, count_text, db_text, share_text, time_text

HEADINGS = {
    "one-in": "One in: only this layer is quantized; the most sensitive first",
    "one-out": "One out: all layers are quantized but this one; the most sensitive first",
}


def print_sensitivities(report: SensitivityReport, console: Console) -> None:
    """A table for each mode, and what was measured on."""
    for mode, heading in HEADINGS.items():
        rows = [row for row in report.layers if row.mode == mode]
        if rows:
            console.print(Text(heading, "bold"))
            print_table(_sensitivity_columns(rows), console)
            console.print()
    console.print(_samples(report.calibrated, report.held_back), style="dim")


def _sensitivity_columns(rows: Sequence[LayerSensitivity]) -> list[Column]:
    columns = [
        Column("layer", [r.layer for r in rows], shorten=True),
        Column("op", [r.op_type for r in rows], rank=3),
        Column("as", [r.candidate for r in rows]),
        Column("MACs", [count_text(r.macs) for r in rows], True, 2),
        Column("SQNR dB", [db_text(r.sqnr_db) for r in rows], True,
               styles=["red" if r.sqnr_db < POOR_DB else "" for r in rows]),
        Column("MSE", [f"{r.mse:.3g}" for r in rows], True, 1),
        Column("1 - cosine", [f"{max(0.0, 1.0 - r.cosine):.3g}" for r in rows], True, 1),
        Column("KL nats", [f"{r.kl:.3g}" for r in rows], True, 1),
        Column("agreement", [share_text(r.agreement) for r in rows], True),
        Column("score", [ABSENT if r.score is None else f"{r.score:.6g}" for r in rows], True),
    ]  # fmt: skip
    return [c for c in columns if any(cell != ABSENT for cell in c.cells)]


def print_precision(report: PrecisionReport, console: Console) -> None:
    """What the goal was and whether it was reached, what was tried, the front, and the choice layer by layer."""
    met = "reached" if report.reached else "MISSED"
    console.print(Text(f"Goal: {report.goal}: {met}; kept: {report.kept}", "bold" if report.reached else "bold yellow"))
    for remark in report.remarks:
        console.print(Text(f"  {printable(remark, 400)}"), style="yellow")
    console.print()
    _print_trials("Measured with the integer model", report.trials, console)
    _print_trials("The front: of what was tried, what nothing else beats", report.front, console)
    if report.layers:
        console.print(Text("Precision by layer, and the outputs' SQNR in dB with that layer alone quantized", "bold"))
        print_table(_layer_columns(report.layers), console)
        console.print()
    console.print(_samples(report.calibrated, report.held_back), style="dim")
    console.print()


def _print_trials(heading: str, trials: Sequence[Trial], console: Console) -> None:
    if not trials:
        return
    console.print(Text(heading, "bold"))
    columns = [
        Column("model", [t.name or ABSENT for t in trials], shorten=True),
        Column("layers in", [", ".join(f"{c} {n}" for c, n in t.counts.items()) for t in trials]),
        Column("constants", [bytes_text(t.bytes) for t in trials], True),
        Column("est. time", [time_text(t.time_us) for t in trials], True),
        Column("predicted dB", [db_text(t.predicted_db) for t in trials], True, 1),
        Column("SQNR dB", [db_text(t.sqnr_db) for t in trials], True),
        Column("agreement", [share_text(t.agreement) for t in trials], True),
        Column("top-1", [share_text(t.top1) for t in trials], True),
        Column("score", [ABSENT if t.score is None else f"{t.score:.6g}" for t in trials], True),
    ]
    print_table([c for c in columns if any(cell != ABSENT for cell in c.cells)], console)
    console.print()


def _layer_columns(layers: Sequence[LayerPrecision]) -> list[Column]:
    candidates = dict.fromkeys(c for layer in layers for c in layer.alone_db)
    return [
        Column("layer", [x.layer for x in layers], shorten=True),
        Column("chosen", [x.chosen for x in layers]),
        *(Column(f"{c} alone", [db_text(x.alone_db.get(c)) for x in layers], True) for c in candidates),
    ]


def _samples(calibrated: int, held_back: int) -> str:
    """Which samples were measured on."""
    return f"Calibrated on the first {calibrated} samples, measured on the {held_back} behind them."
