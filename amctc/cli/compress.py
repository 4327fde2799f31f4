"""``amctc compress``: quantize a model for a chip and write the deploy files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from amctc.cli.calibration_samples import CalibrationOptions, calibration_options
from amctc.cli.options import (
    DataOptions,
    RunOptions,
    WorkerOptions,
    data_options,
    held_back_option,
    require_folder,
    run_options,
    target_option,
    worker_options,
)
from amctc.cli.program import Command
from amctc.cli.progress import progress_bar
from amctc.errors import UsageError, printable
from amctc.report.terminal import make_console, print_report, quantized_text

if TYPE_CHECKING:
    from amctc.api import Compression

FILE_NOTES = {
    "deploy": "for the Ascend converter, atc",
    "fakequant": "standard QDQ model, for ONNX Runtime",
    "record": "scales and offsets by layer",
    "report": "this report as data",
}


@click.command(
    cls=Command,
    examples=(
        "amctc compress model.onnx --data images --preprocess imagenet -o out",
        "amctc compress model.onnx -d samples.npz -o out -t ascend310p3 --skip 'head*' --method min-max",
        "amctc compress model.onnx -d samples.npz -o out --set observe.bins=8192 --jobs 4",
        "amctc compress model.onnx -d samples.py:batches -o out",
        "amctc compress model.onnx -d images -p imagenet --select 100 -o out",
        "amctc compress model.onnx -d images -p imagenet -n 5000 -o out --checkpoint out.checkpoint",
        "amctc compress model.onnx -d images -p imagenet -n 100 --max-drop 0.5 --held-back 200 -o out",
        "amctc compress bert.onnx -d 'ids;mask' --input-shape 'ids:1,128;mask:1,128' --data-types 'int64;int64' -o out",
    ),
)
@click.argument("model")
@data_options
@target_option("The chip to compress for; `amctc targets` lists them.  [default: ascend910b1]")
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder for the results; made if it is missing.")
@calibration_options
@click.option(
    "--preset",
    default="balanced",
    show_default=True,
    metavar="NAME",
    help="fast, balanced, best, weight-only, data-free, another one installed, or a .toml file.",
)
@click.option("--skip", multiple=True, metavar="LAYER", help="Leave a layer in float; wildcards, may be repeated.")
@click.option("--tensor", multiple=True, metavar="OP",
              help="Quantize the inputs of an addition or a max pool; wildcards, may be repeated.")  # fmt: skip
@click.option("--override", multiple=True, metavar="LAYER{…}",
              help="Other options for some layers, as 'head*{method=min-max}'; may be repeated.")  # fmt: skip
@click.option("--method", metavar="NAME",
              help="How ranges are chosen: mse, percentile, min-max, entropy, ifmr or hfmg.")  # fmt: skip
@click.option("--symmetric", is_flag=True, help="Quantize activations with a zero point of 0.")
@click.option("--set", "settings", multiple=True, metavar="PASS.OPTION=VALUE",
              help="Set an option of a pass of the preset; may be repeated.")  # fmt: skip
@click.option("--max-drop", type=click.FloatRange(min=0), metavar="POINTS",
              help="Leave layers in float until at most so many points of top-1, or without labels of agreement, "
              "are lost.")  # fmt: skip
@click.option("--min-sqnr", type=float, metavar="DB", help="Leave layers in float until the outputs have this SQNR.")
@click.option("-e", "--evaluator", metavar="FILE.py:FUNCTION",
              help="Measure --max-drop in a score of your own, the higher the better.")  # fmt: skip
@held_back_option
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of random choices.")
@click.option("--validate", is_flag=True, help="Compare results before and after each pass, rewrite by rewrite.")
@click.option(
    "--checkpoint", metavar="FILE", help="Keep calibration in this file, and resume what it holds after a kill."
)
@click.option("--checkpoint-interval", type=click.FloatRange(min=0), default=10.0, show_default=True, metavar="S",
              help="Seconds between two writes of the checkpoint; 0 writes at every step.")  # fmt: skip
@worker_options
@run_options
def compress(
    model: str, data: DataOptions, target: str | None, out: str, calibrated: CalibrationOptions, preset: str,
    skip: tuple[str, ...], tensor: tuple[str, ...], override: tuple[str, ...], method: str | None, symmetric: bool,
    settings: tuple[str, ...], max_drop: float | None, min_sqnr: float | None,
    evaluator: str | None, held_back: int | None, seed: int, validate: bool, checkpoint: str | None,
    checkpoint_interval: float, workers: WorkerOptions, runs: RunOptions,
) -> None:  # fmt: skip
    """Quantize a float model for an Ascend chip and simulate the result.

    MODEL is an ONNX file; one with quantizers (QDQ) keeps them and is lowered only. The samples calibrate; they need
    no labels. Written to the output folder: the model in the form the Ascend converter reads, a standard QDQ model,
    the scales and a report.
    """
    require_folder(out)
    goal = goal_arguments(max_drop, min_sqnr, evaluator, held_back)
    from amctc.api import compress as run
    from amctc.api import load
    from amctc.targets import DEFAULT_TARGET, load_profile

    placing = {"skip": skip, "override": override, "method": method, "symmetric": symmetric}
    options = pass_options(settings, placing, tensor)
    profile = load_profile(target or DEFAULT_TARGET)
    validation = None
    if validate:
        from amctc.validate import Validation

        validation = Validation(out)
    runs.prepare()
    graph = load(model)
    if goal and calibrated.select is not None and held_back is None:
        raise UsageError("--select chooses from what is not held back", remedy="give --held-back")
    samples, selection = calibrated.opened(data, graph, held_back=held_back or 0, seed=seed, provider=runs.provider)
    if goal and samples is None:
        raise UsageError("no samples to measure with", remedy="give --data")
    if goal:
        from amctc.mixed_precision.goal_search import compress_to_goal as run  # type: ignore[assignment]
    with progress_bar() as progress, workers.opened() as executor:
        result = run(
            graph, samples, path=model, target=profile, out=out, preset=preset, options=options,
            preprocess=data.preprocess, seed=seed, executor=executor, provider=runs.provider, progress=progress,
            validate=validation, checkpoint=checkpoint, checkpoint_interval=checkpoint_interval, **goal,
        )  # fmt: skip
    console, precision = make_console(sys.stdout), result.report.precision
    used = 0 if samples is None else len(samples) if precision is None else precision.calibrated
    print_compression(result, used, console)
    if selection is not None:
        console.print(f"\n{selection}", highlight=False, soft_wrap=True)
    if result.report.steps is not None:
        from amctc.report.steps_text import print_steps

        console.print()
        print_steps(result.report.steps, result.step_seconds, console)
    if precision is not None:
        from amctc.report.precision_text import print_precision

        console.print()
        print_precision(precision, console)
    print_files(result, console)
    if validation is not None:
        console.print(str(validation))


def goal_arguments(
    max_drop: float | None, min_sqnr: float | None, evaluator: str | None, held_back: int | None
) -> dict[str, Any]:
    """Arguments of a compression to a goal; none where there is no goal."""
    if max_drop is None and min_sqnr is None:
        if evaluator is not None or held_back is not None:
            raise UsageError("--evaluator and --held-back go with a goal", remedy="give --max-drop or --min-sqnr")
        return {}
    if evaluator is not None and max_drop is None:
        raise UsageError("--evaluator goes with --max-drop", remedy="give --max-drop in units of the score")
    from amctc.calibrate.user_function import load_function
    from amctc.mixed_precision.goal import Goal

    score = None if evaluator is None else load_function(evaluator, option="--evaluator").call
    return {"goal": Goal(max_drop, min_sqnr), "evaluator": score, "held_back": held_back}


def pass_options(
    settings: Sequence[str], placing: Mapping[str, Any], tensor: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Pass name → option → value, from ``--set`` and the options that stand for settings.

    ``placing`` are those of ``place-qdq``; what ``tensor`` names is told to ``observe`` as well.
    """
    options: dict[str, dict[str, Any]] = {}
    for text in settings:
        name, option, value = _setting(text)
        options.setdefault(name, {})[option] = value
    for name, shorthands in (("observe", {"tensor": tensor}), ("place-qdq", {**placing, "tensor": tensor})):
        if given := {option: value for option, value in shorthands.items() if value}:
            options.setdefault(name, {}).update(given)
    return options


def _setting(text: str) -> tuple[str, str, Any]:
    """``pass.option=value`` in its parts, the value read as in a pipeline."""
    from amctc.pipeline import pass_class
    from amctc.spec import PassSpec, parse_specs

    name, dot, rest = text.partition(".")
    form = "write it as pass.option=value, a list as [a, b]"
    if not dot or "=" not in rest:
        raise UsageError(f"--set {text!r} names no option of a pass", remedy=form)
    pass_class(name)
    try:
        (spec,) = parse_specs(f"{name}{{{rest}}}")
        assert isinstance(spec, PassSpec)
        ((option, value),) = spec.options
    except (UsageError, ValueError):
        raise UsageError(f"--set {text!r} is no setting", remedy=form) from None
    return name, option, value


def print_compression(result: Compression, samples: int, console: Console) -> None:
    """What was done, in one line, and the report."""
    report = result.report
    seconds = sum(result.seconds.values())
    name = printable(Path(report.model).name)
    calibrated = any(name == "observe" for name, _ in report.passes)
    samples_text = f"calibrated on {samples}" if calibrated else f"compared on {report.samples}"
    layers = quantized_text(report.layers, of=f" of {len(report.layers)} layers")
    done = f"{layers}, {samples_text} samples in {seconds:.1f} s"
    console.print(Text(f"{name} for {report.target}: {done}\n", "bold"))
    print_report(report, console)


def print_files(result: Compression, console: Console) -> None:
    """The files written, each with what it is for."""
    names = {key: printable(path, 1000) for key, path in result.files.items()}
    width = max(map(len, names.values()), default=0)
    console.print(Text("\nWritten", "bold"))
    for key, name in names.items():
        console.print(Text(f"  {name:{width}}  {FILE_NOTES.get(key, '')}".rstrip()), soft_wrap=True)
