"""What commands that compress a model again and again share: their options, and what they open before the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from amctc.cli.options import (
    DataOptions,
    F,
    RunOptions,
    WorkerOptions,
    bundled,
    data_options,
    held_back_option,
    run_options,
    target_option,
    worker_options,
)
from amctc.cli.progress import progress_bar
from amctc.errors import UsageError

if TYPE_CHECKING:
    from amctc.calibrate.samples import Samples
    from amctc.ir import Graph

Option = Callable[[Any], Any]
"""A decorator that adds an option to a command."""


@dataclass(frozen=True)
class TrialOptions:
    """How the model is compressed each time, and on which samples the results are measured."""

    target: str | None
    preset: str
    skip: tuple[str, ...]
    settings: tuple[str, ...]
    seed: int
    calibration: int
    held_back: int | None

    @property
    def samples(self) -> int:
        """Samples to open: those held back are among the first, or follow them where their number was given."""
        return self.calibration + (self.held_back or 0)

    def arguments(self) -> dict[str, Any]:
        """Arguments of what is run, with the names it has for them."""
        from amctc.cli.compress import pass_options
        from amctc.targets import DEFAULT_TARGET, load_profile

        options = pass_options(self.settings, {"skip": self.skip}, ())
        return {"target": load_profile(self.target or DEFAULT_TARGET), "preset": self.preset, "options": options,
                "seed": self.seed, "held_back": self.held_back}  # fmt: skip


@dataclass(frozen=True)
class Trials:
    """What the command line says of a model, its samples, and how it is compressed again and again."""

    model: str
    data: DataOptions
    options: TrialOptions
    workers: WorkerOptions
    runs: RunOptions

    @contextmanager
    def opened(self, purpose: str) -> Iterator[tuple[Graph, Samples, dict[str, Any]]]:
        """The model, its samples, and the arguments of what is run besides.

        Raises :class:`UsageError` without samples, which are there for the ``purpose``.
        """
        from amctc.api import load

        if self.data.path is None:
            raise UsageError(f"no samples to {purpose}", remedy="give --data")
        arguments = self.options.arguments()
        self.runs.prepare()
        graph = load(self.model)
        samples = self.data.opened(graph, limit=self.options.samples)
        with progress_bar() as progress, self.workers.opened() as executor:
            run = {"path": self.model, "executor": executor, "provider": self.runs.provider, "progress": progress}
            yield graph, samples, {**arguments, **run}


def trial_options(*own: Option) -> Callable[[F], F]:
    """The argument MODEL and the options of trials, which the command gets as ``trials``, a :class:`Trials`.

    Help shows options of its ``own`` behind those about samples.
    """

    shared: tuple[Option, ...] = (
        run_options,
        worker_options,
        _how_options,
        *reversed(own),
        data_options,
        click.argument("model"),
    )
    return bundled("trials", Trials, shared)


def _how_options(function: F) -> F:
    """Options of preset, target, samples and seed, as ``options``, a :class:`TrialOptions`."""
    options = (
        click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of random choices."),
        click.option("--set", "settings", multiple=True, metavar="PASS.OPTION=VALUE",
                     help="Set an option of a pass of the preset; may be repeated."),
        click.option("--skip", multiple=True, metavar="LAYER",
                     help="Leave a layer in float; wildcards, may be repeated."),
        click.option("--preset", default="balanced", show_default=True, metavar="NAME",
                     help="What makes the models: balanced, fast, another one installed, or a .toml file."),
        held_back_option,
        click.option("-n", "--calibration", type=click.IntRange(min=1), default=100, show_default=True, metavar="N",
                     help="Use the first N samples."),
        target_option("The chip; `amctc targets` lists them.  [default: ascend910b1]"),
    )  # fmt: skip
    return bundled("options", TrialOptions, options)(function)


def listed(text: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name for part in text.split(",") if (name := part.strip()))
