"""``amctc compensate``: correct a quantized model for what quantization changed in it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.text import Text

from amctc.cli.compress import print_files
from amctc.cli.evaluate import located, opened
from amctc.cli.options import DataOptions, RunOptions, data_options, require_folder, run_options, target_option
from amctc.cli.program import Command
from amctc.cli.progress import progress_bar
from amctc.errors import UsageError, printable
from amctc.report.table import Column, print_table
from amctc.report.terminal import make_console
from amctc.report.units import ABSENT, db_text, share_text

if TYPE_CHECKING:
    from amctc.report.compensation import CompensationReport, Sweep


@click.command(
    cls=Command,
    examples=(
        "amctc compensate out --data images -o better",
        "amctc compensate qdq.onnx --reference model.onnx -d images -p imagenet -o better",
    ),
)
@click.argument("model")
@data_options
@click.option("-r", "--reference", metavar="ONNX", help="The float model.  [default: the one that was compressed]")
@click.option("-n", "--calibration", type=click.IntRange(min=1), default=100, show_default=True, metavar="N",
              help="Use the first N samples, a quarter of them only to judge.")  # fmt: skip
@click.option("--sweeps", type=click.IntRange(min=1), default=3, show_default=True, metavar="N",
              help="Walks over all layers, at most.")  # fmt: skip
@click.option("--no-rescale", is_flag=True, help="Correct biases only, no scales.")
@target_option("The chip to lower the result for.  [default: that of the folder, else ascend910b1]")
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder for the results; made if it is missing.")
@run_options
def compensate(
    model: str, data: DataOptions, reference: str | None, calibration: int, sweeps: int, no_rescale: bool,
    target: str | None, out: str, runs: RunOptions,
) -> None:  # fmt: skip
    """Correct a quantized model, layer after layer, for what quantization changed in it.

    MODEL is the output folder of `amctc compress` or a QDQ file of any tool. The sums of each layer are compared with
    those of the float model on the samples; its bias and the scale of each channel are corrected by least squares,
    behind layers already corrected, where that holds on samples held back. Sweeps end when the outputs come no nearer;
    what does not help is undone. Written is what `amctc compress` writes, and compensation.json.
    """
    require_folder(out)
    from amctc.compensation import COMPENSATION_FILE
    from amctc.compensation import compensate as run
    from amctc.session import TARGET_KEY, Session
    from amctc.targets import DEFAULT_TARGET

    if data.path is None:
        raise UsageError("no samples to compare on", remedy="give --data")
    runs.prepare()
    path, recorded = located(model)
    session = Session(path, target=target, provider=runs.provider)
    float_model = reference or recorded.reference
    if float_model is None:
        raise UsageError("no float model to compare with", where=model, remedy="name it: --reference FLOAT.onnx")
    samples = opened(data, session, recorded, 0, calibration)
    chip = target or dict(session.graph.metadata).get(TARGET_KEY) or DEFAULT_TARGET
    with progress_bar() as progress:
        found = run(
            recorded.qdq or path, samples, float_model, sweeps=sweeps, options="{rescale=false}" if no_rescale else "",
            out=out, target=chip, preprocess=data.preprocess or recorded.preprocess, provider=runs.provider,
            progress=progress,
        )  # fmt: skip
    console = make_console(sys.stdout)
    print_compensation(found.report, console)
    print_files(found.result, console)
    console.print(f"  {COMPENSATION_FILE}: what was corrected, layer by layer", soft_wrap=True)


def print_compensation(report: CompensationReport, console: Console) -> None:
    """What each sweep did to the outputs, and to each layer."""
    sweeps = report.sweeps
    console.print(Text(f"{printable(report.model)} beside {printable(report.reference)}\n", "bold"))
    if not sweeps:
        console.print("Nothing to correct: no layer comes nearer to its float form on samples held back.")
    else:
        columns = [
            Column("sweep", [str(i + 1) for i in range(len(sweeps))], True),
            Column("layers corrected", [str(len(s.layers)) for s in sweeps], True),
            Column("SQNR dB before", [db_text(s.sqnr_before_db) for s in sweeps], True),
            Column("after", [db_text(s.sqnr_after_db) for s in sweeps], True),
            Column("gain of a sample", [db_text(s.gain_db) for s in sweeps], True, 1),
            Column("±", [db_text(s.error_db) for s in sweeps], True, 1),
            Column("agreement before", [share_text(s.agreement_before) for s in sweeps], True),
            Column("after", [share_text(s.agreement_after) for s in sweeps], True),
            Column("", ["kept" if s.kept else "undone" for s in sweeps]),
        ]
        print_table([c for c in columns if any(cell != ABSENT for cell in c.cells)], console)
        for number, sweep in enumerate(sweeps, 1):
            _print_layers(number, sweep, console)
    console.print(f"Corrected on {report.corrected} samples, judged on {report.held_back} others.", style="dim")


def _print_layers(number: int, sweep: Sweep, console: Console) -> None:
    if sweep.kept:
        console.print(Text(f"\nSweep {number}, layer by layer", "bold"))
        for layer, text in sweep.layers:
            console.print(Text(f"  {printable(layer)}: {printable(text, 400)}"), soft_wrap=True)
        console.print()
