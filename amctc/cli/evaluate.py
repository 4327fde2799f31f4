"""``amctc eval``: score a model on labelled samples and against its float reference."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from amctc.cli.options import data_options, target_option
from amctc.cli.program import Command
from amctc.cli.progress import progress_bar
from amctc.errors import InputError, UsageError, printable
from amctc.report.terminal import make_console, print_evaluations, print_variants

if TYPE_CHECKING:
    from amctc.calibrate.samples import Samples
    from amctc.pipeline import Progress
    from amctc.report.model import Evaluation, VariantResult
    from amctc.session import Session

MAX_REPORT = 1 << 28


@click.command(
    "eval",
    cls=Command,
    examples=(
        "amctc eval out --data images --preprocess imagenet --skip-first 100",
        "amctc eval out/model_deploy.onnx -d test.npz -p unit --reference model.onnx",
        "amctc eval model.onnx -d images -p imagenet --labels classes.csv",
        "amctc eval out -d images --skip-first 100 -n 64 --variants",
    ),
)
@click.argument("model")
@data_options(required=True)
@click.option("-r", "--reference", metavar="ONNX", help="The float model to compare with.")
@click.option("--skip-first", type=click.IntRange(min=0), default=0, metavar="N",
              help="Leave out the first N samples: those that calibrated.")  # fmt: skip
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="At most N samples.")
@target_option("The chip, for a deploy model that does not name it, or to try another.")
@click.option("--no-fusion", is_flag=True, help="Without the fusions that the chip's compiler makes.")
@click.option("--variants", is_flag=True,
              help="Run again with each uncertain rule of the chip's arithmetic read differently.")  # fmt: skip
def evaluate(
    model: str, data: str, preprocess: str | None, labels: str | None, batch_size: int | None, reference: str | None,
    skip_first: int, limit: int | None, target: str | None, no_fusion: bool,
    variants: bool,
) -> None:  # fmt: skip
    """Print the accuracy of a model and how far it is from the float model.

    MODEL is an ONNX file or the output folder of `amctc compress`: then its deploy model is run as the chip would,
    beside the float model it came from, on samples preprocessed as the calibration samples were.
    """
    from amctc.api import evaluate_variants, open_samples_for
    from amctc.session import Session

    path, recorded = located(model)
    fusion = False if no_fusion else None
    session = Session(path, target=target, fusion=fusion)
    reference = reference or recorded.reference
    other = Session(reference) if reference else None
    stop = None if limit is None else skip_first + limit

    def opened(preprocess: str | None) -> Samples:
        return open_samples_for(session, data, preprocess=preprocess, labels=labels, batch_size=batch_size, limit=stop)

    try:
        samples = opened(preprocess)
    except UsageError:
        if preprocess is not None or recorded.preprocess is None:
            raise
        samples = opened(recorded.preprocess)  # images: prepare them as those that calibrated
    if skip_first:
        samples = samples.limited(skip_first)
    if other is None and samples.labels is None:
        raise UsageError("nothing to measure with: no labels and no float model",
                         remedy="give --labels, or --reference FLOAT.onnx")  # fmt: skip
    if variants and session.kind != "deploy":
        raise UsageError(f"a {session.kind} model has no variants", where=path, remedy="name a deploy model")
    others: tuple[VariantResult, ...] = ()
    with progress_bar() as progress:
        rows = scores(session, other, samples, progress)
        if variants:
            others = evaluate_variants(path, samples, other, target=target, fusion=fusion, progress=progress)
    console = make_console(sys.stdout)
    print_evaluations(rows, console)
    if variants:
        console.print()
        print_variants(others, console)
    for layer, count in session.overflows.items():
        click.echo(f"{printable(layer)}: {count} accumulators outside int32, saturated (N7)")
    if samples.dropped:
        click.echo(f"The last {samples.dropped} samples do not fill a batch of the model and were left out.")


class Recorded(NamedTuple):
    """What the report beside a model says: the float model it came from, if it is there, and the preprocessing."""

    reference: str | None = None
    preprocess: str | None = None


def located(model: str) -> tuple[str, Recorded]:
    """The model file to run, and what the report of ``compress`` beside it recorded."""
    from amctc.api import FILES

    given = Path(model)
    folder = given if given.is_dir() else given.parent
    path, report = folder / FILES["deploy"] if given.is_dir() else given, folder / FILES["report"]
    if given.is_dir() and not path.is_file():
        raise UsageError(f"no {FILES['deploy']} in this folder", where=model, remedy="name an output of amctc compress")
    written = path.name in (FILES["deploy"], FILES["fakequant"]) and report.is_file()
    return str(path), _recorded(report) if written else Recorded()


def _recorded(report: Path) -> Recorded:
    from amctc.files import read_bytes

    try:
        table = json.loads(read_bytes(report, limit=MAX_REPORT, kind="report"))
        model, preprocess = table["model"], table.get("preprocess")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError("this is no report of amctc compress", where=str(report),
                         remedy="remove it, or name another folder") from None  # fmt: skip
    preprocess = preprocess if isinstance(preprocess, str) else None
    if isinstance(model, str) and Path(model).is_file():
        return Recorded(model, preprocess)
    click.echo(f"amctc: the float model {printable(model)!r} is not there; name it with --reference", err=True)
    return Recorded(None, preprocess)


def scores(
    session: Session, reference: Session | None, samples: Samples, progress: Progress
) -> list[tuple[str, Evaluation]]:
    """One row per model, the float reference first where there are labels to score it by."""
    from amctc.api import evaluate as run

    rows = []
    if reference is not None and samples.labels is not None:
        rows.append(("float", run(reference, samples, progress=lambda what, *n: progress("float model", *n))))
    rows.append((described(session), run(session, samples, reference, progress=progress)))
    return rows


def described(session: Session) -> str:
    """What kind of model a session runs, in words."""
    if session.kind == "deploy" and session.target is not None:
        return f"int8 on {session.target.name}"
    return "QDQ, run in float" if session.kind == "qdq" else "float"
