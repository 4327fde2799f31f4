"""``amctc run``: any pipeline on any model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from amctc.cli.options import GRAPH_TEXT, data_options, read_graph, require_folder, target_option
from amctc.cli.progress import progress_bar
from amctc.cli.program import Command
from amctc.errors import UsageError, printable

if TYPE_CHECKING:
    from rich.console import Console

    from amctc.ir import Graph
    from amctc.pipeline import Context, Pipeline, PipelineResult

MAX_PIPELINE = 1 << 16


@click.command(
    cls=Command,
    examples=(
        "amctc run fold-batch-norm,fuse-activation model.onnx -o folded.onnx",
        "amctc run fold-batch-norm model.onnx --explain fold_batch_norm",
        "amctc run 'observe,place-qdq{method=min-max}' model.onnx -d samples.npz -o qdq.onnx",
        "amctc run @my-pipeline.txt model.onnx --print",
    ),
)
@click.argument("pipeline")
@click.argument("model")
@click.option("-o", "--out", metavar="FILE", help="Write the graph: .onnx, or .txt for the text form.")
@data_options(required=False)
@target_option("The chip that target-dependent passes compile for.  [default: ascend910b1]")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of random choices.")
@click.option("--explain", metavar="REWRITE", help="Where a rewrite fires, and what is missing where it does not.")
@click.option("--print", "printed", is_flag=True, help="Print the resulting graph, constants left out.")
@click.option("--timing", is_flag=True, help="Add the seconds each pass took.")
def run(
    pipeline: str, model: str, out: str | None, data: str | None, preprocess: str | None, labels: str | None,
    batch_size: int, target: str | None, seed: int, explain: str | None, printed: bool, timing: bool,
) -> None:  # fmt: skip
    """Run a pipeline of passes on a model.

    PIPELINE is text such as 'fold-batch-norm,place-qdq{bits=8 symmetric}' or @FILE with such text, in which lines that
    start with # are remarks. MODEL is an ONNX file or a .txt file of graph text. --explain looks at the graph as it is
    before the first pass that applies the rewrite.
    """
    from amctc.pipeline import Context, Pipeline
    from amctc.report.terminal import make_console
    from amctc.targets import DEFAULT_TARGET, load_profile

    if out is not None:
        require_file(out)
    elif data and preprocess and not data:
        raise UsageError("--preprocess without --data")
    parsed = Pipeline.parse(pipeline_text(pipeline))
    context = Context(seed=seed, target=load_profile(target or DEFAULT_TARGET), trace=explain is not None)
    graph = read_graph(model)
    if data is not None:
        from amctc.api import open_samples_for

        context.samples = open_samples_for(graph, data, preprocess=preprocess, labels=labels, batch_size=batch_size)
    with progress_bar() as context.progress:
        result = parsed.run(graph, context)
    if out is not None:
        write(result.graph, out)
    console = make_console(sys.stderr if printed else sys.stdout)
    print_passes(result, timing, console)
    if explain is not None:
        print_explanations(explain, parsed, graph, result, context, console)
    if printed:
        from amctc.text import print_graph

        click.echo(print_graph(result.graph, elide=True), nl=False)
