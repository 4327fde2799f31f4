"""``amctc search``: choose the precision of every layer within a budget."""

from __future__ import annotations

import sys

import click

from amctc.cli.compress import print_compression, print_files
from amctc.cli.options import require_folder
from amctc.cli.program import Command
from amctc.cli.trials import Trials, listed, trial_options
from amctc.errors import UsageError
from amctc.report.terminal import make_console


@click.command(
    cls=Command,
    examples=(
        "amctc search model.onnx --data images --preprocess imagenet --budget-time 0.6x -o out",
        "amctc search model.onnx -d samples.npz --budget-bytes 1.5MiB --candidates w8a8,w4a8 -o out",
        "amctc search model.onnx -d images -p imagenet --budget-bytes 0.4x --budget-time 0.8x -o out",
        "amctc search model.onnx -d images -p imagenet -n 100 --held-back 200 --budget-time 0.3ms -o out",
    ),
)
@trial_options(
    click.option("--budget-bytes", metavar="SIZE",
                 help="Constants in the chip's memory: '0.6x' of all in float16, or 40000, 40KiB, 1.5MiB."),
    click.option("--budget-time", metavar="TIME",
                 help="Estimated time of one sample: '0.6x' of all in float16, or 12us, 0.3ms."),
    click.option("--candidates", default="", metavar="LIST",
                 help="Precisions a layer may have, with commas between. f16: float; w8a16: int8 weights, float data; "
                 "w8a8: int8; w4a8: int4 weights, int8 data.  [default: all that the chip has]"),
    click.option("-o", "--out", required=True, metavar="DIR", help="Folder for the results; made if it is missing."),
)  # fmt: skip
def search(trials: Trials, budget_bytes: str | None, budget_time: str | None, candidates: str, out: str) -> None:
    """Choose the precision of each layer so that the outputs keep most within a budget.

    MODEL is a float ONNX file. The noise of each layer in each precision is measured alone; the best choice within the
    budget is made, its integers are measured beside those of the preset as it is, and the better one is written as
    `amctc compress` writes it, with the front of other choices in front.json. Where no choice is within the budget what
    comes nearest is written, and a line says so.
    """
    require_folder(out)
    from amctc.mixed_precision.budget_search import FRONT_FILE
    from amctc.mixed_precision.budget_search import search as run
    from amctc.mixed_precision.costs import Budget
    from amctc.report.precision_text import print_precision

    budgets = [Budget.parse("bytes", budget_bytes)] if budget_bytes is not None else []
    budgets += [Budget.parse("time", budget_time)] if budget_time is not None else []
    if not budgets:
        raise UsageError("no budget", remedy="give --budget-bytes or --budget-time, for example 0.6x")
    with trials.opened("calibrate and to measure with") as (graph, samples, arguments):
        result = run(
            graph, samples, *budgets, candidates=listed(candidates), out=out, preprocess=trials.data.preprocess,
            **arguments,
        )  # fmt: skip
    console = make_console(sys.stdout)
    assert result.report.precision is not None
    print_compression(result, result.report.precision.calibrated, console)
    console.print()
    print_precision(result.report.precision, console)
    print_files(result, console)
    console.print(f"  {FRONT_FILE}: the front, with the precision of every layer", soft_wrap=True)
