"""The steps of a preset as text for people."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from amctc.report.steps import StepReport, StepTrial
from amctc.report.table import Column, print_table
from amctc.report.units import ABSENT, db_text, share_text


def print_steps(report: StepReport, seconds: Mapping[str, float], console: Console) -> None:
    """What each step gained, and whether it was kept; nothing where none was tried."""
    trials = report.trials
    if not trials:
        return
    console.print(Text("Steps of the preset, each with what it gained on samples held back", "bold"))
    columns = [
        Column("step", [t.name for t in trials], shorten=True),
        Column("without → with it", [t.change for t in trials], rank=4, shorten=True),
        Column("SQNR dB before", [db_text(t.sqnr_before_db) for t in trials], True),
        Column("after", [db_text(t.sqnr_after_db) for t in trials], True),
        Column("gain of a sample", [db_text(t.gain_db) for t in trials], True),
        Column("±", [db_text(t.error_db) for t in trials], True, 3),
        Column("agreement before", [share_text(t.agreement_before) for t in trials], True, 2),
        Column("after", [share_text(t.agreement_after) for t in trials], True, 2),
        Column("s", [f"{seconds[t.name]:.1f}" if t.name in seconds else ABSENT for t in trials], True, 1),
        Column("", [_verdict(t) for t in trials], styles=["green" if t.kept else "yellow" for t in trials]),
    ]  # fmt: skip
    print_table([c for c in columns if any(cell != ABSENT for cell in c.cells)], console)
    console.print(f"Calibrated on {report.calibrated} samples, measured on {report.held_back} others.", style="dim")


def _verdict(trial: StepTrial) -> str:
    if trial.gain_db == 0.0 and trial.error_db == 0.0:
        return "no effect"
    return "kept" if trial.kept else "undone"
