"""``amctc demo``: the whole way on the example that ships with amctc."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console

from amctc.cli.options import require_folder, target_option
from amctc.cli.program import Command
from amctc.cli.progress import progress_bar
from amctc.errors import printable
from amctc.report.table import Column, print_table
from amctc.report.terminal import make_console
from amctc.report.units import bytes_text, db_text, share_text, time_text

if TYPE_CHECKING:
    from amctc.report.model import CompressionReport, Evaluation

PREPROCESS = "unit"
"""What the example was trained with: pixels over 255."""

REMARK = (
    "The int8 column is computed bit for bit by the chip's rules, no chip was needed; report.json lists the rules "
    "that are inferred. The times are of compute and memory alone, in float16 and in int8: launching the ops "
    "of so small a network takes longer."
)


@click.command(cls=Command, examples=("amctc demo", "amctc demo -o tour -t ascend310p3"))
@click.option("-o", "--out", default="amctc-demo", show_default=True, metavar="DIR", help="Folder for the results.")
@target_option("The chip to compress for.  [default: ascend910b1]")
def demo(out: str, target: str | None) -> None:
    """Compress the shipped digits network and measure it, in seconds and without any files of your own."""
    require_folder(out)
    from amctc import examples
    from amctc.api import compress, evaluate, load, open_samples_for
    from amctc.cli.compress import print_files
    from amctc.session import Session
    from amctc.targets import DEFAULT_TARGET, load_profile

    profile = load_profile(target or DEFAULT_TARGET)
    model = examples.model_path()
    graph = load(model)
    samples = open_samples_for(graph, examples.calibration_path(), preprocess=PREPROCESS)
    test = open_samples_for(graph, examples.test_path(), preprocess=PREPROCESS)
    with progress_bar() as progress:
        result = compress(graph, samples, path=model, target=profile, out=out, preprocess=PREPROCESS, progress=progress)
        reference = Session(graph)
        before = evaluate(reference, test, progress=lambda what, *n: progress("float model", *n))
        after = evaluate(Session(result.files["deploy"]), test, reference, progress=progress)
    console = make_console(sys.stdout)
    counts = f"calibrated on {len(samples)} images, tested on {len(test)} others"
    console.print(f"A network that reads handwritten digits, {counts}.\n")
    print_scores(result.report, before, after, console)
    print_files(result, console)
    print_next(out, console)


def print_scores(report: CompressionReport, before: Evaluation, after: Evaluation, console: Console) -> None:
    """The float model and the compressed one side by side."""

    integer = sum(layer.action != "float" for layer in report.layers)
    rows = [
        ("top-1 accuracy", share_text(before.top1), share_text(after.top1)),
        ("top-5 accuracy", share_text(before.top5), share_text(after.top5)),
        ("same digit as the float model", "", share_text(after.agreement)),
        ("SQNR of the output", "", f"{db_text(after.sqnr_db)} dB"),
        ("layers in int8", "", f"{integer} of {len(report.layers)}"),
        ("file", bytes_text(report.bytes_before), bytes_text(report.bytes_after)),
        ("least time per image, estimated", time_text(report.float_time_us), time_text(report.time_us)),
    ]
    columns = [
        Column("", [name for name, *_ in rows]),
        Column("float model", [b for _, b, _ in rows], True),
        Column(f"int8 on {report.target}", [a for *_, a in rows], True),
    ]
    print_table(columns, console)
    console.print(f"\n{REMARK}")


def print_next(out: str, console: Console) -> None:
    """Commands to go on with."""
    folder = printable(out)
    lines = (
        (f"amctc inspect {folder}/model_deploy.onnx", "what the chip gets"),
        ("amctc compress --help", "the same with a model and images of your own"),
        ("amctc targets", "other chips"),
    )
    width = max(len(command) for command, _ in lines)
    console.print("\nNext", style="bold")
    for command, what in lines:
        console.print(f"  {command:{width}}  {what}", soft_wrap=True)
