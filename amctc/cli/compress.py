"""``amctc compress``: quantize a model for a chip and write the deploy files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from amctc.cli.options import data_options, require_folder, target_option
from amctc.cli.program import Command
from amctc.cli.progress import progress_bar
from amctc.errors import UsageError, printable
from amctc.report.terminal import make_console, print_report

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
        "amctc compress model.onnx -d samples.npz -o out --set observe.bins=8192",
    ),
)
@click.argument("model")
@data_options(required=True)
@target_option("The chip to compress for; `amctc targets` lists them.  [default: ascend910b1]")
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder for the results; made if it is missing.")
@click.option("-n", "--calibration", type=click.IntRange(min=1), default=100, show_default=True, metavar="N",
              help="Calibrate on the first N samples.")  # fmt: skip
@click.option("--preset", default="default", show_default=True, metavar="NAME", help="A preset, or a .toml file.")
@click.option("--skip", multiple=True, metavar="LAYER", help="Leave a layer in float; wildcards, may be repeated.")
@click.option("--override", multiple=True, metavar="LAYER{…}",
              help="Other options for some layers, as 'head*{method=min-max}'; may be repeated.")  # fmt: skip
@click.option("--method", metavar="NAME", help="How ranges are chosen: mse, percentile, min-max, entropy or ifmr.")
@click.option("--symmetric", is_flag=True, help="Quantize activations with a zero point of 0.")
@click.option("--set", "settings", multiple=True, metavar="PASS.OPTION=VALUE",
              help="Set an option of a pass of the preset; may be repeated.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of random choices.")
def compress(
    model: str, data: str, preprocess: str | None, labels: str | None, batch_size: int | None, target: str | None,
    out: str, calibration: int, preset: str, skip: tuple[str, ...], override: tuple[str, ...], method: str | None,
    symmetric: bool, settings: tuple[str, ...], seed: int,
) -> None:  # fmt: skip
    """Quantize a float model for an Ascend chip and simulate the result.

    MODEL is an ONNX file. The samples calibrate; they need no labels. Written to the output folder: the model in
    the form the Ascend converter reads, a standard QDQ model, the scales and a report.
    """
    require_folder(out)
    from amctc.api import compress as run
    from amctc.api import load, open_samples_for
    from amctc.targets import DEFAULT_TARGET, load_profile

    options = pass_options(settings, skip=skip, override=override, method=method, symmetric=symmetric)
    profile = load_profile(target or DEFAULT_TARGET)
    graph = load(model)
    samples = open_samples_for(
        graph, data, preprocess=preprocess, labels=labels, batch_size=batch_size, limit=calibration
    )
    with progress_bar() as progress:
        result = run(
            model, samples, target=profile, out=out, preset=preset, options=options, preprocess=preprocess, seed=seed,
            progress=progress,
        )  # fmt: skip
    console = make_console(sys.stdout)
    print_compression(result, len(samples), console)
    print_files(result, console)


def pass_options(
    settings: Sequence[str], *, skip: Sequence[str], override: Sequence[str], method: str | None, symmetric: bool
) -> dict[str, dict[str, Any]]:
    """Pass name → option → value, from ``--set`` and the options that stand for a setting of ``place-qdq``."""
    options: dict[str, dict[str, Any]] = {}
    for text in settings:
        name, option, value = _setting(text)
        options.setdefault(name, {})[option] = value
    shorthands = (("skip", tuple(skip)), ("override", tuple(override)), ("method", method), ("symmetric", symmetric))
    for option, value in shorthands:
        if value:
            options.setdefault("place-qdq", {})[option] = value
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
    integer = sum(layer.action != "float" for layer in report.layers)
    seconds = sum(result.seconds.values())
    name = printable(Path(report.model).name)
    done = f"{integer} of {len(report.layers)} layers in int8, calibrated on {samples} samples in {seconds:.1f} s"
    console.print(Text(f"{name} for {report.target}: {done}\n", "bold"))
    print_report(report, console)


def print_files(result: Compression, console: Console) -> None:
    """The files written, each with what it is for."""
    names = {key: printable(path, 1000) for key, path in result.files.items()}
    width = max(map(len, names.values()), default=0)
    console.print(Text("\nWritten", "bold"))
    for key, name in names.items():
        console.print(Text(f"  {name:{width}}  {FILE_NOTES.get(key, '')}".rstrip()), soft_wrap=True)
