"""``amctc targets``: the chips amctc knows."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console

from amctc.cli.program import Command
from amctc.report.table import Column, print_table
from amctc.report.terminal import make_console
from amctc.report.units import bytes_text

if TYPE_CHECKING:
    from amctc.targets import Profile

REMARK = """\
* default. Peaks are derived from cores and clock [I].
How well a figure is known: [C] read in source, [D] vendor documentation only, [I] inferred.
`amctc targets NAME` shows all figures and arithmetic choices of a chip."""

LABELS = {
    "soc_version": "atc --soc_version", "sparsity_4_2": "4:2 sparsity", "c0": "channel block (C0)",
    "tile": "cube tile (M×K×N)", "frequency_mhz": "clock MHz", "l2_bytes": "L2", "l1_bytes": "L1", "l0a_bytes": "L0A",
    "l0b_bytes": "L0B", "l0c_bytes": "L0C", "ub_bytes": "unified buffer",
}  # fmt: skip
"""Names of figures that are no plain words."""


@click.command(cls=Command, examples=("amctc targets", "amctc targets ascend310p3"))
@click.argument("name", required=False)
def targets(name: str | None) -> None:
    """List the Ascend chips, or show one with its figures and arithmetic."""
    from amctc.targets import load_profile, profile_names

    console = make_console(sys.stdout)
    if name is None:
        print_list([load_profile(n) for n in profile_names()], console)
    else:
        print_profile(load_profile(name), console)


def tera(rate: float | None) -> str:
    """Operations per second in units of 10^12; a dash where they are not published."""
    return "–" if rate is None else f"{rate / 1e12:.1f}"


def bandwidth_text(profile: Profile) -> str:
    """GB/s with the tag of the figure; a dash where it is not published."""
    return "–" if profile.ddr_bandwidth is None else f"{profile.ddr_bandwidth / 1e9:.0f} [{profile.ddr_bandwidth_tag}]"


def print_list(profiles: list[Profile], console: Console) -> None:
    """One line per chip."""
    from amctc.targets import DEFAULT_TARGET

    columns = [
        Column("target", [p.name + (" *" if p.name == DEFAULT_TARGET else "") for p in profiles]),
        Column("int8 Tops", [tera(p.peak_ops_i8) for p in profiles], True),
        Column("f16 Tflops", [tera(p.peak_flops_f16) for p in profiles], True),
        Column("GB/s", [bandwidth_text(p) for p in profiles], True),
        Column("quantizes in", [f"{p.quant_mode} [{p.choice('quant_mode').tag}]" for p in profiles]),
        Column("epilogue", [p.epilogue for p in profiles]),
        Column("4:2", ["yes" if p.sparsity_4_2 else "no" for p in profiles], rank=3),
        Column("atc soc_version", [p.soc_version for p in profiles], rank=2),
        Column("storage", [" ".join(p.storage) for p in profiles], rank=4),
    ]
    print_table(columns, console)
    console.print(f"\n{REMARK}")


def print_profile(profile: Profile, console: Console) -> None:
    """All figures of a chip, and every arithmetic choice with its alternatives."""
    from amctc.targets import choice_values

    hidden = {*choice_values(), "tags", "name", "description", "ddr_bandwidth", "ddr_bandwidth_tag"}
    shown = [f.name for f in dataclasses.fields(profile) if f.name not in hidden]
    console.print(f"{profile.name}: {profile.description}\n")
    rows = [(LABELS.get(name, name.replace("_", " ")), figure_text(name, getattr(profile, name))) for name in shown]
    rows += [
        ("peak f16 Tflops", tera(profile.peak_flops_f16)),
        ("peak int8 Tops", tera(profile.peak_ops_i8)),
        ("memory GB/s", bandwidth_text(profile)),
    ]
    columns = [Column("figure", [name for name, _ in rows]), Column("value", [text for _, text in rows])]
    print_table(columns, console)
    choices = profile.choices
    columns = [
        Column("choice", [c.name for c in choices]),
        Column("value", [c.value for c in choices]),
        Column("tag", [f"[{c.tag}]" for c in choices], styles=["green" if c.tag == "C" else "yellow" for c in choices]),
        Column("rule", [c.rule for c in choices], rank=2),
        Column("else", [", ".join(c.alternatives) for c in choices], rank=1),
        Column("what it decides", [c.text for c in choices], wrap=True),
    ]
    console.print("\nArithmetic: [C] read in the vendor's source, [D] vendor documentation only, [I] inferred")
    print_table(columns, console)


def figure_text(name: str, value: object) -> str:
    """A field of a profile as people read it."""

    if value is None:
        return "not published"
    if name.endswith("_bytes") and isinstance(value, int):
        return bytes_text(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if hasattr(value, "items"):
        return ", ".join(f"{k} {'×'.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in value.items())
    return str(value)
