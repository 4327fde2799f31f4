"""Try the steps of a preset one after the other, and keep those that help on samples that calibrated nothing.

A trial is the QDQ model with the steps kept so far and the one in question, calibrated on some samples and measured on
others. Passes are run once for each graph they get, so a trial costs what its step changes and all behind that. The
model itself is then made on all samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from amctc.calibrate.samples import Samples
from amctc.errors import UsageError
from amctc.ir import Graph
from amctc.measurement import Measurement, Reference, held_back
from amctc.pipeline import Context, Pass, Pipeline, Repeat
from amctc.preset import Preset, Step
from amctc.report.steps import StepReport, StepTrial
from amctc.rewrite import RewriteLog
from amctc.types import Array

FEWEST = 8
"""Samples held back that a step can be judged by; with fewer all steps are taken untried."""

_SHARE = 4
"""One trial sample of so many is held back."""


@dataclass(frozen=True)
class Settled:
    """A preset with nothing left to try, what the trials found, and their seconds by step."""

    preset: Preset
    report: StepReport | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def settle(preset: Preset, prepared: Graph, samples: Samples, context: Context, held: Samples | None = None) -> Settled:
    """The preset with the steps that help the float graph ``prepared``.

    They are tried on the first ``preset.trial_samples`` of ``samples``, a quarter of them held back, or judged on
    ``held``. A step is kept if the SQNR of a sample rises on average by more than the standard error of that gain. One
    that was undone before another was kept is tried once more at the end; one without any effect stays until then, for
    those that might build on it. Where there are too few samples, or no output tells how near a model is, all steps are
    taken.
    """
    parts = _parted(samples, held, preset.trial_samples) if preset.steps else None
    if parts is None:
        return Settled(preset.taking(preset.steps))
    try:
        trials = _Trials(preset, prepared, *parts, context)
    except UsageError:  # no output holds floating-point numbers
        return Settled(preset.taking(preset.steps))
    kept = trials.run()
    report = StepReport(len(parts[0]), len(parts[1]), tuple(trials.found))
    return Settled(preset.taking(kept), report, trials.seconds)


def _parted(samples: Samples, held: Samples | None, most: int) -> tuple[Samples, Samples] | None:
    """What calibrates the trials and what they are measured on; ``None`` where these are too few."""
    unit = samples.smallest_batch
    if held is None:
        if len(samples) < 2 * unit:
            return None
        samples, held = held_back(samples)
    behind = max(unit, most // _SHARE // unit * unit)
    parts = samples.limited(0, max(unit, most - behind)), held.limited(0, behind)
    return parts if len(parts[1]) >= FEWEST and len(parts[0]) else None


class _Trials:
    """The trials of one preset on one model."""

    def __init__(
        self, preset: Preset, prepared: Graph, calibrating: Samples, held: Samples, context: Context
    ) -> None:  # fmt: skip
        self._preset, self._prepared, self._outer = preset, prepared, context
        self._context = replace(context, samples=calibrating, notes=[], log=RewriteLog(), checkpoint=None,
                                validate=None, trace=False)  # fmt: skip
        self._reference = Reference(prepared, held, context.target, provider=context.provider)
        self._collection = context.collection("steps", ())
        self._known: dict[tuple[Graph, Pass | Repeat], Graph] = {}
        self._state: dict[str, Array] = {}
        self._measured = 0
        self._before: Measurement | None = None
        self.found: list[StepTrial] = []
        self._idle: dict[Step, int] = {}
        self.seconds: dict[str, float] = {}

    def run(self) -> list[Step]:
        """The steps to keep. One that was undone gets a second chance if a later one was kept."""
        steps = self._preset.steps
        kept: list[Step] = []
        for done, step in enumerate(steps):
            self._try(step, step.name, kept)
            self._outer.progress("trying steps", done + 1, len(steps))
        last = max((i for i, step in enumerate(steps) if step in kept), default=0)
        for step in [step for step in steps[:last] if step not in kept]:
            self._try(step, f"{step.name}, again", kept)
        kept = self._without_idle(kept)
        self._collection.finish()
        return kept

    def _without_idle(self, kept: list[Step]) -> list[Step]:
        """``kept`` without the steps that had no effect: what they would do with all samples has not been tried."""
        for step, place in self._idle.items():
            fewer = [other for other in kept if other is not step]
            if self._before is None or str(self._preset.taking(fewer)) == str(self._preset.taking(kept)):
                continue
            if self._measurement(fewer).by_sample == self._before.by_sample:
                kept = fewer
                self.found[place] = replace(self.found[place], kept=False)
        return kept

    def _try(self, step: Step, name: str, kept: list[Step]) -> None:
        """Add a step to those ``kept``, if it belongs there."""
        if str(self._preset.taking([*kept, step])) == str(self._preset.taking(kept)):
            return  # options make it the same, or it changes a pass that was undone
        start = time.perf_counter()
        before = self._before = self._before or self._measurement(kept)
        after = self._measurement([*kept, step])
        same = after.by_sample == before.by_sample  # nothing to do for it, but maybe for a step that builds on it
        better = same or gains(before, after)
        self.found.append(self._trial(step, name, before, after, kept=better))
        if same:
            self._idle[step] = len(self.found) - 1
        if better:
            kept.append(step)
            self._before = after
        self.seconds[name] = time.perf_counter() - start

    def _trial(
        self, step: Step, name: str, before: Measurement, after: Measurement, *, kept: bool
    ) -> StepTrial:  # fmt: skip
        without, instead = str(step.without), str(self._preset.form(step))
        gain, error = gain_with_error(before, after)
        return StepTrial(
            name, f"{without or 'nothing'} → {instead or 'nothing'}", round(before.sqnr_db, 6),
            round(after.sqnr_db, 6), round(gain, 6), round(error, 6), before.agreement, after.agreement, kept,
        )  # fmt: skip

    def _measurement(self, taken: Sequence[Step]) -> Measurement:
        """What the model with the steps ``taken`` gives, measured now or in the run that this one resumes."""
        index, self._measured = self._measured, self._measured + 1
        if index < self._collection.done:
            return self._restored(index)
        stages = self._preset.taking(taken)
        balanced = self._run(stages.balance, self._prepared)
        found = self._reference.measure(self._run(stages.quantize, balanced, reference=balanced))
        agreement = math.nan if found.agreement is None else found.agreement
        figures = np.array([found.noise, agreement, len(found.by_sample)], np.float64)
        self._state |= {f"{index}": figures, f"{index} by sample": np.array(found.by_sample, np.float64)}
        self._collection.advance(lambda: self._state)
        return found

    def _run(self, pipeline: Pipeline, graph: Graph, reference: Graph | None = None) -> Graph:
        """The graph after the pipeline, each of whose passes runs once for each graph it gets."""
        context = replace(self._context, reference=reference)
        for item in pipeline.passes:
            if (graph, item) not in self._known:
                self._known[graph, item] = Pipeline((item,)).run(graph, context).graph
            graph = self._known[graph, item]
        return graph

    def _restored(self, index: int) -> Measurement:
        figures = self._collection.array(f"{index}", (3,), np.float64)
        noise, agreement, rows = figures.tolist()
        by_sample = self._collection.array(f"{index} by sample", (int(rows),), np.float64)
        self._state |= {f"{index}": figures, f"{index} by sample": by_sample}
        same = None if math.isnan(agreement) else agreement
        return replace(self._reference.clean, noise=noise, agreement=same, by_sample=tuple(by_sample.tolist()))


def gains(before: Measurement, after: Measurement) -> bool:
    """Whether ``after`` has less noise, and by so much that chance in the choice of samples is no likely reason."""
    gain, error = gain_with_error(before, after)
    return gain > error


def gain_with_error(before: Measurement, after: Measurement) -> tuple[float, float]:
    """What the SQNR of a sample rose by in dB, the mean over the same samples, and the standard error of that mean.

    Not what the noise of all together fell by: that is mostly the noise of a few samples, so another few would often
    judge otherwise. No noise counts as the least of float32, 2⁻⁴⁸ of the signal.
    """
    noises = [np.clip(m.by_sample, 2.0**-48, 2.0**48) for m in (before, after)]
    if len(noises[0]) != len(noises[1]) or len(noises[0]) < 2:
        return 0.0, math.inf
    each = 10.0 * np.log10(noises[0] / noises[1])
    return float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each))
