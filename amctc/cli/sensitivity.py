"""``amctc sensitivity``: which layers lose what when they are quantized."""

from __future__ import annotations

import sys

import click

from amctc.cli.program import Command
from amctc.cli.trials import Trials, listed, trial_options
from amctc.report.terminal import make_console


@click.command(
    cls=Command,
    examples=(
        "amctc sensitivity model.onnx --data images --preprocess imagenet",
        "amctc sensitivity model.onnx -d samples.npz --mode one-in --metric kl --json layers.json",
        "amctc sensitivity model.onnx -d images -p imagenet --candidates w8a8,w4a8 --preset fast",
        "amctc sensitivity model.onnx -d images -p imagenet --evaluator metrics.py:f1",
    ),
)
@trial_options(
    click.option("--metric", type=click.Choice(["sqnr", "mse", "cosine", "kl"]), default="sqnr", show_default=True,
                 help="What ranks the layers; all are shown."),
    click.option("-e", "--evaluator", metavar="FILE.py:FUNCTION",
                 help="Rank by a score of your own, the higher the better."),
    click.option("--mode", type=click.Choice(["one-in", "one-out", "both"]), default="both", show_default=True,
                 help="Quantize only one layer, or all but one."),
    click.option("--candidates", default="w8a8", show_default=True, metavar="LIST",
                 help="w8a16, w8a8, w4a8, or several with commas."),
    click.option("--json", "json_path", metavar="FILE", help="Write the numbers to this file too."),
)  # fmt: skip
def sensitivity(
    trials: Trials, metric: str, evaluator: str | None, mode: str, candidates: str, json_path: str | None
) -> None:
    """Measure what quantizing each layer does to the outputs.

    MODEL is a float ONNX file. Each layer is quantized alone, its weights and its data, then left in float alone; the
    outputs are compared with the float model's on samples that calibrate nothing.
    """
    from amctc.calibrate.user_function import load_function
    from amctc.files import atomic_write_bytes
    from amctc.mixed_precision.sensitivities import MODES
    from amctc.mixed_precision.sensitivities import sensitivity as run
    from amctc.report.precision_text import print_sensitivities

    score = None if evaluator is None else load_function(evaluator, option="--evaluator").call
    with trials.opened("measure on") as (graph, samples, arguments):
        report = run(
            graph, samples, metric="score" if score is not None else metric,  # type: ignore[arg-type]
            modes=MODES if mode == "both" else (mode,), candidates=listed(candidates), evaluator=score,  # type: ignore[arg-type]
            **arguments,
        )  # fmt: skip
    print_sensitivities(report, make_console(sys.stdout))
    if json_path is not None:
        atomic_write_bytes(json_path, report.to_json().encode("utf-8"))
