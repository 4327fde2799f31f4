"""Estimates as text: a table of ops for each target, totals side by side, hints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from amctc.cost import Bound, Estimate, OpCost
from amctc.memory import Memory
from amctc.report.hints import hints
from amctc.report.table import Column, print_table
from amctc.report.terminal import print_section
from amctc.report.units import ABSENT, bytes_text, share_text, time_text
from amctc.targets import Profile

MAX_ROWS = 15
"""Ops listed unless all are asked for."""

LEGEND = (
    "Each column in µs, as if that unit were alone; the largest is the time of the op. Padding: the share of the "
    "cube's products that are with padding of the channel blocks."
)
REMARK = "Estimates without launch overheads and without L2: lower bounds of compute, best read as ratios."


@dataclass(frozen=True)
class TargetEstimate:
    """A model in one form (``float16`` or ``int8``) on one target; no ``estimate`` where figures are not published."""

    profile: Profile
    form: str
    estimate: Estimate | None
    memory: Memory | None

    @property
    def title(self) -> str:
        """``int8 on ascend910b1``."""
        return f"{self.form} on {self.profile.name}"


def print_ops(row: TargetEstimate, console: Console, *, full: bool = False) -> None:
    """The ops of one estimate in the model's order, the slowest :data:`MAX_ROWS` of them unless ``full``."""
    if row.estimate is None:
        return
    ops, shown = row.estimate.ops, row.estimate.ops
    if not full and len(ops) > MAX_ROWS:
        slowest = sorted(range(len(ops)), key=lambda i: -(ops[i].time_us or 0.0))[:MAX_ROWS]
        shown = tuple(ops[i] for i in sorted(slowest))
    console.print(f"{row.title}" + (f", the {len(shown)} slowest of {len(ops)} ops" if len(shown) < len(ops) else ""),
                  style="bold")  # fmt: skip
    if not shown:
        console.print("nothing that takes time\n")
        return
    columns = [
        Column("layer", [op.layer for op in shown], shorten=True, footer="all ops"),
        Column("op", [op.op_name.removeprefix("nn.") for op in shown], rank=1),
        *(Column(f"{unit} µs", [_unit_text(op, unit) for op in shown], True, footer=_sum_text(ops, unit))
          for unit in _UNITS),
        Column("time", [time_text(op.time_us) for op in shown], True, footer=time_text(row.estimate.total_us)),
        Column("bound", [op.bound or ABSENT for op in shown]),
        Column("padding", [ABSENT if op.work is None else share_text(op.work.padding, 0) for op in shown], True),
    ]  # fmt: skip
    print_table(columns, console)
    console.print()


_UNITS: tuple[Bound, ...] = ("cube", "vector", "memory")


def _unit_text(op: OpCost, unit: Bound) -> str:
    return ABSENT if op.times_us is None else _micro(op.times_us[unit])


def _sum_text(ops: Sequence[OpCost], unit: Bound) -> str:
    times = [op.times_us[unit] for op in ops if op.times_us is not None]
    return _micro(sum(times)) if len(times) == len(ops) else ABSENT


def _micro(value: float) -> str:
    return "0" if value == 0 else f"{value:.3f}" if value < 100 else f"{value:.0f}"


def print_totals(rows: Sequence[TargetEstimate], batch: int, console: Console) -> None:
    """Every target and form in one line each; those without figures say so below."""
    columns = [
        Column("target", [r.profile.name for r in rows]),
        Column("runs in", [r.form for r in rows]),
        Column("time", [time_text(_total(r)) for r in rows], True),
        Column("per sample", [ABSENT if (t := _total(r)) is None else time_text(t / batch) for r in rows], True),
        Column("bound by", [bound_text(r.estimate) for r in rows]),
        Column("weights", [ABSENT if r.memory is None else bytes_text(r.memory.weights) for r in rows], True, 1),
        Column("peak memory", [ABSENT if r.memory is None else bytes_text(r.memory.peak) for r in rows], True),
        Column("fullest at", [ABSENT if r.memory is None else r.memory.layer for r in rows], shorten=True, rank=2),
    ]
    if batch == 1:
        del columns[3]
    print_table(columns, console)
    console.print(REMARK, style="dim")
    for name in dict.fromkeys(r.profile.name for r in rows if r.estimate is None):
        console.print(f"{name}: no times, its cores, clock and bandwidth are not published")
    console.print()


def _total(row: TargetEstimate) -> float | None:
    return None if row.estimate is None else row.estimate.total_us


def bound_text(estimate: Estimate | None) -> str:
    """What sets most of the time, with its share: ``memory (71 %)``."""
    if estimate is None or not estimate.total_us:
        return ABSENT
    unit, spent = next(iter(estimate.bound_us.items()))
    return f"{unit} ({share_text(spent / estimate.total_us, 0)})"


def print_hints(rows: Sequence[TargetEstimate], console: Console) -> None:
    """What to do, for the last form of each target: int8 where there is one."""
    last = {row.profile.name: row for row in rows}
    for row in last.values():
        if row.estimate is None:
            continue
        float16 = next((r.estimate for r in rows if r.profile is row.profile and r.form == "float16"), None)
        lines = hints(row.estimate, row.memory, row.profile, float16=float16 if row.form == "int8" else None)
        print_section(f"Hints for {row.title}", lines, console)
