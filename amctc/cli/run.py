"""``amctc run``: any pipeline on any model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from amctc.cli.options import (
    GRAPH_TEXT,
    DataOptions,
    RunOptions,
    WorkerOptions,
    data_options,
    read_graph,
    run_options,
    target_option,
    worker_options,
)
from amctc.cli.program import Command
from amctc.cli.progress import progress_bar
from amctc.errors import UsageError, printable
from amctc.report.table import Column, print_table
from amctc.report.terminal import make_console

if TYPE_CHECKING:
    from amctc.ir import Graph
    from amctc.pipeline import Pass, PipelineResult, Validator
    from amctc.rewrite import Rewrite

MAX_PIPELINE = 1 << 16


@click.command(
    cls=Command,
    examples=(
        "amctc run fold-batch-norm,fuse-activation model.onnx -o folded.onnx",
        "amctc run fold-batch-norm model.onnx --explain fold_batch_norm",
        "amctc run 'observe,place-qdq{method=min-max}' model.onnx -d samples.npz -o qdq.onnx",
        "amctc run @my-pipeline.txt model.onnx --print",
        "amctc run fold-batch-norm,my-pass model.onnx --validate",
    ),
)
@click.argument("pipeline")
@click.argument("model")
@click.option("-o", "--out", metavar="FILE", help="Write the graph: .onnx, or .txt for the text form.")
@data_options
@target_option("The chip that target-dependent passes compile for.  [default: ascend910b1]")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of random choices.")
@click.option("--explain", metavar="REWRITE", help="Where a rewrite fires, and what is missing where it does not.")
@click.option("--print", "printed", is_flag=True, help="Print the resulting graph, constants left out.")
@click.option("--timing", is_flag=True, help="Add the seconds each pass took.")
@click.option("--validate", is_flag=True, help="Compare results before and after each pass, rewrite by rewrite.")
@click.option("--bisect", is_flag=True, help="Find the first rewrite application that changes the outputs too far.")
@worker_options
@run_options
def run(
    pipeline: str, model: str, out: str | None, data: DataOptions, target: str | None, seed: int, explain: str | None,
    printed: bool, timing: bool, validate: bool, bisect: bool, workers: WorkerOptions, runs: RunOptions,
) -> None:  # fmt: skip
    """Run a pipeline of passes on a model.

    PIPELINE is text such as 'fold-batch-norm,place-qdq{bits=8 symmetric}' or @FILE with such text, in which lines that
    start with # are remarks. MODEL is an ONNX file or a .txt file of graph text. --explain looks at the graph as it is
    before the first pass that applies the rewrite. --validate and --bisect end with status 1 at a pass that computes
    something else than its contract allows, and write the smallest case of it, miscompile.*, beside the output.
    """
    from amctc.cli.rules import flattened, rule_named
    from amctc.pipeline import Context, Pipeline
    from amctc.targets import DEFAULT_TARGET, load_profile

    if out is not None:
        require_file(out)
    if validate and bisect:
        raise UsageError("--validate and --bisect are two ways to look", remedy="choose one of them")
    parsed = Pipeline.parse(pipeline_text(pipeline))
    context = Context(
        seed=seed, target=load_profile(target or DEFAULT_TARGET), trace=explain is not None, provider=runs.provider
    )
    validator = _validator(validate, bisect, out)
    context.validate = validator
    rule = None if explain is None else rule_named(explain, flattened(parsed.passes), context.target)
    runs.prepare()
    graph = read_graph(model)
    if data.path is not None:
        context.samples = data.opened(graph)
    with progress_bar() as context.progress, workers.opened() as context.executor:
        result = parsed.run(graph, context)
    if out is not None:
        write(result.graph, out)
    console = make_console(sys.stderr if printed else sys.stdout)
    print_passes(result, timing, console)
    if validator is not None:
        console.print(str(validator))
    if rule is not None:
        print_explanations(*rule, graph, result, console)
    if printed:
        from amctc.text import print_graph

        click.echo(print_graph(result.graph, elide=True), nl=False)


def _validator(validate: bool, bisect: bool, out: str | None) -> Validator | None:
    """What looks at each pass, if anything does; reproducers go beside the output."""
    folder = Path(out).absolute().parent if out else Path()
    if validate:
        from amctc.validate import Validation

        return Validation(folder)
    if bisect:
        from amctc.bisection import Bisection

        return Bisection(folder)
    return None


def pipeline_text(given: str) -> str:
    """The text itself, or that of the file behind ``@``."""
    if not given.startswith("@"):
        return given
    from amctc.files import read_bytes

    text = read_bytes(given[1:], limit=MAX_PIPELINE, kind="pipeline file").decode("utf-8", "replace")
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).strip()


def require_file(out: str) -> None:
    """Refuse an output that cannot be written before any work is done."""
    path = Path(out)
    if path.suffix not in (".onnx", GRAPH_TEXT):
        raise UsageError(f"{path.name!r} is neither .onnx nor {GRAPH_TEXT}", where="-o", remedy="choose one of them")
    if os.path.isdir(path):
        raise UsageError("the output is a folder", where=out, remedy="name a file")
    if not os.path.isdir(path.absolute().parent):
        raise UsageError("the folder to write to does not exist", where=out, remedy="create it first")


def write(graph: Graph, out: str) -> None:
    """The graph as an ONNX file, or as text that can be read back."""
    if Path(out).suffix == GRAPH_TEXT:
        from amctc.files import atomic_write_text
        from amctc.text import print_graph

        atomic_write_text(out, print_graph(graph))
        return
    from amctc.api import save

    save(graph, out)


def print_passes(result: PipelineResult, timing: bool, console: Console) -> None:
    """What each pass did to the graph, and its remarks."""

    records = result.report
    fired = [", ".join(f"{name} {count}" for name, count in r.rewrites.items()) for r in records]
    columns = [
        Column("pass", [r.name for r in records]),
        Column("ops", [f"{r.ops_before} → {r.ops_after}" for r in records], True),
        Column("seconds", [f"{r.seconds:.3f}" for r in records], True),
        Column("rewrites", fired, wrap=True),
    ]
    if records:
        print_table([c for c in columns if timing or c.title != "seconds"], console)
    for note in result.notes:
        console.print(f"{printable(note.source)}: {printable(note.layer)}: {printable(note.text, 300)}")


def print_explanations(
    rule: Rewrite, applied_by: Pass | None, graph: Graph, result: PipelineResult, console: Console
) -> None:
    """For each op at which the rewrite could start: whether it fires, else the nearest miss."""
    from amctc.rewrite import explain

    looked_at = result.graph
    if applied_by is not None:
        first = next(i for i, (done, _) in enumerate(result.trace) if done == applied_by.name)
        looked_at = result.trace[first - 1][1] if first else graph
    found = list(explain(looked_at, rule))
    when = f"before pass {applied_by.name}" if applied_by else "at the end of the pipeline"
    console.print(f"\n{rule.name}, {when}: {rule.doc}")
    if not found:
        kinds = " or ".join(sorted(k.op_name for k in rule.pattern.kinds))
        console.print(f"It starts at {kinds}; there is none.")
        return
    columns = [
        Column("at", [e.layer for e in found], shorten=True),
        Column("fires", ["yes" if e.fires else "no" for e in found],
               styles=["green" if e.fires else "yellow" for e in found]),
        Column("because", [e.reason for e in found], wrap=True),
    ]  # fmt: skip
    print_table(columns, console)
