"""``amctc estimate``: how long a model would take on chips nobody has at hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from amctc.cli.evaluate import located
from amctc.cli.program import Command
from amctc.errors import UsageError, printable
from amctc.report.terminal import make_console

if TYPE_CHECKING:
    from amctc.ir import Graph
    from amctc.report.estimates import TargetEstimate
    from amctc.targets import Profile

Form = tuple[str, "Callable[[Profile], Graph]"]
"""How a model can run on a target: ``float16`` or ``int8``, and its graph there."""


@click.command(
    cls=Command,
    examples=(
        "amctc estimate out --target ascend910b1,ascend310p3",
        "amctc estimate model.onnx --batch 8",
        "amctc estimate out/model_deploy.onnx -t ascend310b1 --full",
    ),
)
@click.argument("model")
@click.option("-t", "--target", metavar="CHIPS", help="One chip or several, with commas between.  [default: the "
              "model's, or ascend910b1]")  # fmt: skip
@click.option("-b", "--batch", type=click.IntRange(min=1), metavar="N",
              help="Samples at a time.  [default: the model's, or 1]")  # fmt: skip
@click.option("--full", is_flag=True, help="List every op.")
def estimate(model: str, target: str | None, batch: int | None, full: bool) -> None:
    """Estimate time and memory of a model on chips, side by side, and say what to do about it.

    MODEL is a float model, run in float16; or the output folder of `amctc compress` or a deploy model in it, run in
    int8 and, where the float model is still there, in float16 too.
    """
    from amctc.frontends.onnx_file import load
    from amctc.report.estimates import LEGEND, print_hints, print_ops, print_totals
    from amctc.session import TARGET_KEY
    from amctc.targets import DEFAULT_TARGET, load_profile

    path, recorded = located(model)
    graph = load(path)
    named = target or dict(graph.metadata).get(TARGET_KEY) or DEFAULT_TARGET
    names = [name.strip() for name in named.split(",") if name.strip()]
    if not names:
        raise UsageError("no target named", remedy="for example --target ascend910b1,ascend310p3")
    profiles = list({p.name: p for p in map(load_profile, names)}.values())
    forms = _forms(graph, path, recorded.reference)
    size = _batch(graph, batch)
    rows = [_estimated(form, profile, size) for profile in profiles for form in forms]
    console = make_console(sys.stdout)
    console.print(f"{printable(Path(path).name)}, {'1 sample' if size == 1 else f'batches of {size}'}\n")
    detailed = [row for row in rows if row.form == forms[-1][0] and row.estimate is not None]
    for row in detailed:
        print_ops(row, console, full=full)
    if detailed:
        console.print(f"{LEGEND}\n", style="dim")
    print_totals(rows, size, console)
    print_hints(rows, console)


def _batch(graph: Graph, wanted: int | None) -> int:
    """The batch to estimate for: the model's own where all its inputs have one."""
    shapes = [value.type.shape for value in graph.inputs if value.default is None]
    sizes = {shape[0] if shape and isinstance(shape[0], int) else None for shape in shapes}
    fixed = sizes.pop() if len(sizes) == 1 else None
    if fixed and wanted and wanted != fixed:
        raise UsageError(f"the model takes batches of {fixed} only, not of {wanted}",
                         remedy="leave --batch out, or export a model with a free first axis")  # fmt: skip
    return wanted or fixed or 1


def _forms(graph: Graph, path: str, reference: str | None) -> list[Form]:
    """The forms of a model, int8 last."""
    from amctc.frontends.onnx_file import load
    from amctc.session import compiled, graph_kind

    kind = graph_kind(graph)
    if kind == "qdq":
        raise UsageError("a QDQ model runs on no chip as it is", where=path,
                         remedy="name the deploy model beside it, or the float model")  # fmt: skip
    if kind == "float":
        return [("float16", _prepared(graph))]
    integer: Form = ("int8", lambda profile: compiled(graph, profile))
    return [("float16", _prepared(load(reference))), integer] if reference else [integer]


def _prepared(graph: Graph) -> Callable[[Profile], Graph]:
    """The float graph as every target's compiler would have it: batch normalisation and activations folded."""
    from amctc.pipeline import Context
    from amctc.preset import load_preset

    prepared = load_preset("balanced").prepare.run(graph, Context()).graph
    return lambda profile: prepared


def _estimated(form: Form, profile: Profile, batch: int) -> TargetEstimate:
    from amctc.cost import estimate as run
    from amctc.memory import peak_memory
    from amctc.report.estimates import TargetEstimate

    name, make = form
    graph = make(profile)
    memory = peak_memory(graph, profile, batch=batch)
    if not profile.has_cost_figures:
        return TargetEstimate(profile, name, None, memory)
    return TargetEstimate(profile, name, run(graph, profile, batch=batch), memory)
