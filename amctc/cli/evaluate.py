"""``amctc eval``: score a model on labelled samples and against its float reference."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from amctc.cli.options import (
    DataOptions,
    RunOptions,
    data_options,
    executor_option,
    run_options,
    target_option,
)
from amctc.cli.program import Command
from amctc.cli.progress import progress_bar
from amctc.errors import InputError, UsageError, printable
from amctc.report.terminal import make_console, print_evaluations, print_variants

if TYPE_CHECKING:
    from amctc.calibrate.samples import Samples
    from amctc.evaluation import Evaluator
    from amctc.pipeline import Progress
    from amctc.report.model import Evaluation, VariantResult
    from amctc.session import Session

MAX_REPORT = 1 << 25
"""Bytes of a report: a layer takes some 500. JSON of nested lists takes twenty times its size in memory."""


@click.command(
    "eval",
    cls=Command,
    examples=(
        "amctc eval out --data images --preprocess imagenet --skip-first 100",
        "amctc eval out/model_deploy.onnx -d test.npz -p unit --reference model.onnx",
        "amctc eval model.onnx -d images -p imagenet --labels classes.csv",
        "amctc eval out -d images --skip-first 100 -n 64 --variants",
        "amctc eval out -d test.npz --evaluator metrics.py:f1",
        "amctc eval out -d images --skip-first 100 --executor onnxruntime --check-executor 1",
    ),
)
@click.argument("model")
@data_options
@click.option("-e", "--evaluator", metavar="FILE.py:FUNCTION",
              help="Score by a function of your own: it gets the model, and the samples if it takes them.")  # fmt: skip
@click.option("-r", "--reference", metavar="ONNX", help="The float model to compare with.")
@click.option("--skip-first", type=click.IntRange(min=0), default=0, metavar="N",
              help="Leave out the first N samples: those that calibrated.")  # fmt: skip
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="At most N samples.")
@target_option("The chip, for a deploy model that does not name it, or to try another.")
@click.option("--no-fusion", is_flag=True, help="Without the fusions that the chip's compiler makes.")
@click.option("--variants", is_flag=True,
              help="Run again with each uncertain rule of the chip's arithmetic read differently.")  # fmt: skip
@executor_option
@click.option("-j", "--jobs", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Batches run at once, in threads; the result is the same.")  # fmt: skip
@click.option("--check-executor", "checked", type=click.IntRange(min=1), metavar="N",
              help="First compare every value of N batches with those of the reference executor.")  # fmt: skip
@run_options
def evaluate(
    model: str, data: DataOptions, evaluator: str | None, reference: str | None, skip_first: int, limit: int | None,
    target: str | None, no_fusion: bool, variants: bool, executor: str, jobs: int, checked: int | None,
    runs: RunOptions,
) -> None:  # fmt: skip
    """Print the accuracy of a model and how far it is from the float model.

    MODEL is an ONNX file or the output folder of `amctc compress`: then its deploy model is run as the chip would,
    beside its QDQ model and the float model it came from, on samples preprocessed as the calibration samples were.
    An evaluator is a function that is called with each of these models and returns one number; run(feeds), inputs and
    output_names of a model say how to use it. It needs --data only if it takes samples too.
    """
    from amctc.api import evaluate_variants
    from amctc.session import Session

    runs.prepare()
    path, recorded = located(model)
    metric = user_evaluator(evaluator, data)
    fusion = False if no_fusion else None
    session = Session(path, target=target, fusion=fusion, provider=runs.provider, executor=executor)
    reference = reference or recorded.reference
    other = Session(reference, provider=runs.provider) if reference else None
    qdq = Session(recorded.qdq, provider=runs.provider) if recorded.qdq else None
    samples = None if data.path is None else opened(data, session, recorded, skip_first, limit)
    require_measure(session, other, samples, metric, variants=variants)
    if checked is not None:
        check(session, executor, samples, checked)
    others: tuple[VariantResult, ...] | None = None
    with progress_bar() as progress:
        rows = scores([s for s in (other, qdq, session) if s is not None], other, samples, metric, progress, jobs)
        if variants and samples is not None:
            others = evaluate_variants(path, samples, other, target=target, fusion=fusion, progress=progress)
    print_scores(rows, others, session, samples)


def check(session: Session, executor: str, samples: Samples | None, count: int) -> None:
    """Hold the executor against the reference on the first ``count`` batches, and say what was compared."""
    from itertools import islice

    from amctc.execution.check import check_executor

    if session.target is None or samples is None:
        what = "samples" if samples is None else "a deploy model"
        raise UsageError(f"--check-executor needs {what}", remedy="give --data" if samples is None else "name one")
    click.echo(check_executor(session.graph, session.target, executor, islice(samples, count)))


def require_measure(
    session: Session, reference: Session | None, samples: Samples | None, metric: Evaluator | None, *, variants: bool
) -> None:
    """Refuse an evaluation that could say nothing, before anything is run."""
    if samples is not None and metric is None and reference is None and samples.labels is None:
        raise UsageError("nothing to measure with: no labels and no float model",
                         remedy="give --labels, --evaluator, or --reference FLOAT.onnx")  # fmt: skip
    if variants and samples is None:
        raise UsageError("--variants needs samples", remedy="give --data")
    if variants and session.kind != "deploy":
        raise UsageError(f"a {session.kind} model has no variants", remedy="name a deploy model")


def print_scores(
    rows: Sequence[tuple[str, Evaluation]], variants: Sequence[VariantResult] | None, session: Session,
    samples: Samples | None,
) -> None:  # fmt: skip
    """The scores, the variants if they were asked for, and what else there is to know about the run."""
    console = make_console(sys.stdout)
    print_evaluations(rows, console)
    if variants is not None:
        console.print()
        print_variants(variants, console)
    for layer, count in session.overflows.items():
        click.echo(f"{printable(layer)}: {count} accumulators outside int32, saturated (N7)")
    if samples is not None and samples.dropped:
        click.echo(f"The last {samples.dropped} samples do not fill a batch of the model and were left out.")


def user_evaluator(text: str | None, data: DataOptions) -> Evaluator | None:
    """The function that ``--evaluator`` names; whatever takes samples must have ``--data``."""
    if text is None:
        if data.path is None:
            raise UsageError("no samples to evaluate on", remedy="give --data, or an --evaluator that has its own")
        return None
    from amctc.calibrate.user_function import load_function

    return load_function(text, option="--evaluator").call


def opened(data: DataOptions, session: Session, recorded: Recorded, skip_first: int, limit: int | None) -> Samples:
    """The samples to score on; images without a preprocessing are prepared as those that calibrated."""
    stop = None if limit is None else skip_first + limit
    try:
        samples = data.opened(session, limit=stop)
    except UsageError:
        if data.preprocess is not None or recorded.preprocess is None:
            raise
        samples = data.opened(session, limit=stop, preprocess=recorded.preprocess)
    return samples.limited(skip_first) if skip_first else samples


class Recorded(NamedTuple):
    """What the report beside a model says: the float model it came from, if it is there, and the preprocessing.

    ``qdq`` is the QDQ model of an output folder.
    """

    reference: str | None = None
    preprocess: str | None = None
    qdq: str | None = None


def located(model: str) -> tuple[str, Recorded]:
    """The model file to run, and what the report of ``compress`` beside it recorded."""
    from amctc.api import FILES

    given = Path(model)
    folder = given if os.path.isdir(given) else given.parent
    path, report = folder / FILES["deploy"] if os.path.isdir(given) else given, folder / FILES["report"]
    if os.path.isdir(given) and not os.path.isfile(path):
        raise UsageError(f"no {FILES['deploy']} in this folder", where=model, remedy="name an output of amctc compress")
    written = path.name in (FILES["deploy"], FILES["fakequant"]) and os.path.isfile(report)
    if not written:
        return str(path), Recorded()
    qdq = folder / FILES["fakequant"]
    return str(path), _recorded(report)._replace(qdq=str(qdq) if os.path.isdir(given) and os.path.isfile(qdq) else None)


def _recorded(report: Path) -> Recorded:
    from amctc.files import read_bytes

    try:
        table = json.loads(read_bytes(report, limit=MAX_REPORT, kind="report"))
        model, preprocess = table["model"], table.get("preprocess")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError("this is no report of amctc compress", where=str(report),
                         remedy="remove it, or name another folder") from None  # fmt: skip
    preprocess = preprocess if isinstance(preprocess, str) else None
    if isinstance(model, str) and os.path.isfile(model):  # Path.is_file raises for names that no system takes
        return Recorded(model, preprocess)
    click.echo(f"amctc: the float model {printable(model)!r} is not there; name it with --reference", err=True)
    return Recorded(None, preprocess)


def scores(
    sessions: Sequence[Session], reference: Session | None, samples: Samples | None, metric: Evaluator | None,
    progress: Progress, jobs: int = 1,
) -> list[tuple[str, Evaluation]]:  # fmt: skip
    """One row per model; the float reference only where there is more to say than that it agrees with itself."""
    from amctc.evaluation import evaluate, evaluate_all

    if metric is not None or samples is None:
        return [(row_name(s, reference), evaluate(s, samples, evaluator=metric)) for s in sessions]
    rows = [s for s in sessions if s is not reference or samples.labels is not None]
    found = evaluate_all(rows, samples, reference, progress=progress, jobs=jobs)
    alone = (replace(e, agreement=None, sqnr_db=None) for e in found)
    return [(row_name(s, reference), a if s is reference else e) for s, e, a in zip(rows, found, alone, strict=True)]


def row_name(session: Session, reference: Session | None) -> str:
    """What a row of the table is called."""
    return "QDQ as it came" if session is reference and session.kind == "qdq" else described(session)


def described(session: Session) -> str:
    """What kind of model a session runs, in words."""
    if session.kind == "deploy" and session.target is not None:
        return f"int8 on {session.target.name}"
    return "QDQ, run in float" if session.kind == "qdq" else "float"
