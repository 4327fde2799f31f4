"""Which samples a command calibrates on: the first ones, or those that represent all best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from amctc.cli.options import DataOptions, bundled
from amctc.errors import UsageError

if TYPE_CHECKING:
    from amctc.calibrate.samples import Samples
    from amctc.calibrate.selection import Method, Selection
    from amctc.ir import Graph

F = TypeVar("F", bound=Callable[..., Any])
FIRST = 100
"""Samples that calibrate where nothing is said."""


@dataclass(frozen=True)
class CalibrationOptions:
    """How many samples calibrate, and how they are chosen."""

    calibration: int | None
    select: int | None
    select_by: Method

    def opened(
        self, data: DataOptions, graph: Graph, *, held_back: int = 0, seed: int = 0, provider: str = "cpu"
    ) -> tuple[Samples | None, Selection | None]:
        """The samples, the last ``held_back`` of them to measure with, and how they were chosen, if they were."""
        if data.path is None:
            if self.select is not None:
                raise UsageError("no samples to select from", remedy="give --data")
            return None, None
        first = FIRST if self.calibration is None and self.select is None else self.calibration
        samples = data.opened(graph, limit=None if first is None else first + held_back)
        if self.select is None:
            return samples, None
        from amctc.calibrate.selection import select_samples

        pool = max(0, len(samples) - held_back)
        candidates = samples.limited(0, pool)
        candidates.require_batch()
        _, selection = select_samples(graph, candidates, self.select, method=self.select_by, seed=seed,
                                      provider=provider)  # fmt: skip
        return samples.picked([*selection.indices, *range(pool, len(samples))]), selection


def calibration_options(function: F) -> F:
    """``--calibration``, ``--select`` and ``--select-by``; the command gets them as ``calibrated``."""
    options = (
        click.option("--select-by", type=click.Choice(["k-center", "k-means"]), default="k-center", show_default=True,
                     help="k-center: no sample is far from a selected one; k-means: typical samples."),
        click.option("--select", type=click.IntRange(min=1), metavar="N",
                     help="Calibrate on the N samples that best represent all, or the first ones that -n gives."),
        click.option("-n", "--calibration", type=click.IntRange(min=1), metavar="N",
                     help=f"Calibrate on the first N samples.  [default: {FIRST}; with --select all are candidates]"),
    )  # fmt: skip
    return bundled("calibrated", CalibrationOptions, options)(function)
