"""``amctc plan``: what running a deploy model on this machine takes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from amctc.cli.options import executor_option, target_option
from amctc.cli.program import Command
from amctc.errors import UsageError, printable
from amctc.report.table import Column, print_table
from amctc.report.terminal import make_console
from amctc.report.units import bytes_text

if TYPE_CHECKING:
    from rich.console import Console

    from amctc.execution.listing import Listing

UNKNOWN = "?"


@click.command(
    cls=Command,
    examples=(
        "amctc plan out",
        "amctc plan out/model_deploy.onnx --executor onnxruntime",
        "amctc plan out --batch 8 --measure",
    ),
)
@click.argument("model")
@executor_option
@click.option("-b", "--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Samples at a time.")  # fmt: skip
@click.option("--measure", is_flag=True, help="Also run it once, on zeros, and say how much memory NumPy took.")
@target_option("The chip, for a deploy model that does not name it, or to try another.")
@click.option("--no-fusion", is_flag=True, help="Without the fusions that the chip's compiler makes.")
def plan(model: str, executor: str, batch: int, measure: bool, target: str | None, no_fusion: bool) -> None:
    """Show the steps in which this machine runs a deploy model, and the memory they take.

    MODEL is a deploy model or the output folder of `amctc compress`. For each step: the layer, what is computed in it
    and how, and the bytes of all values alive then.
    """
    from amctc.cli.evaluate import located
    from amctc.cost import with_batch
    from amctc.execution import plan_for
    from amctc.execution.listing import listed, measured_peak
    from amctc.session import Session

    path, _ = located(model)
    session = Session(path, target=target, fusion=False if no_fusion else None)
    if session.target is None:
        raise UsageError(f"a {session.kind} model is run by ONNX Runtime", where=path, remedy="name a deploy model")
    made = plan_for(with_batch(session.graph, batch), session.target, executor)
    listing = listed(made)
    console = make_console(sys.stdout)
    print_listing(listing, console)
    if measure and listing.peak_bytes is None:
        raise UsageError("some sizes of the model are not known, so zeros cannot be made", remedy="leave out --measure")
    if measure:
        console.print(f"Measured: {bytes_text(measured_peak(made))} at the fullest moment, scratch included.")


def print_listing(listing: Listing, console: Console) -> None:
    """The steps, and the memory they take together."""
    steps = listing.steps
    columns = [
        Column("step", [str(i) for i in range(1, len(steps) + 1)], True),
        Column("layer", [printable(s.layer) for s in steps], shorten=True),
        Column("computes", [s.ops for s in steps], wrap=True),
        Column("by", [s.kernel for s in steps], wrap=True),
        Column("result", [_bytes(s.result_bytes) for s in steps], True),
        Column("alive", [_bytes(s.alive_bytes) for s in steps], True),
    ]
    print_table(columns, console)
    where = f", in {printable(listing.fullest)}" if listing.fullest else ""
    console.print(f"\nActivations take {_bytes(listing.peak_bytes)} at the fullest step{where}; "
                  f"constants {bytes_text(listing.constant_bytes)}.")  # fmt: skip


def _bytes(size: int | None) -> str:
    return UNKNOWN if size is None else bytes_text(size)
