#!/usr/bin/env python3
"""Random models through pass pipelines; ONNX Runtime says before and after what they compute.

    python -m tools.random_graphs [--count 40000] [--seed S] [--only N] [--jobs J] [--pipeline TEXT]

Every number draws a model (``cases``) in some form of file (``forms``) and a pipeline: the
prepare stage of the default preset, one pass alone, or some in random order. The model is imported, taken through it
and exported; ONNX Runtime, optimisations off, runs the file before and after, our interpreter the graph before and
after, and, one in twenty, ONNX' reference evaluator the file before. Results must agree within the tolerance that
follows from the graph (``amctc.magnitude``).

A *miscompile* is a result further off. A *break* is an exception, a file that is refused, another interface, a second
run that changes something, or other bytes in a second compilation. Prints how often each rewrite fired, every finding
with the options that repeat it, and a summary line; exits with 1 if there is a finding, or if a rewrite
fired less than 50 times in 10 000 models or more.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import onnx

from amctc.contract import Exact, Rounding
from amctc.errors import AmctcError, UnsupportedError
from amctc.interp import Plan
from amctc.ir import Graph
from amctc.onnx_bridge import export_model
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.onnx_bridge.sessions import open_session
from amctc.pipeline import Context, Pipeline, installed
from amctc.text import print_graph
from amctc.types import Array
from tools.random_graphs.cases import Case, drawn_case, float_rewrites
from tools.random_graphs.forms import Feeds, without_node_names
from tools.random_graphs.judges import Finding, Results, check_interface, compare, is_valid
from tools.random_graphs.pipelines import drawn_pipeline, prepare_stage
from tools.random_graphs.reference import by_reference

LEAST_FIRINGS, FROM_COUNT = 50, 10_000
"""A rewrite that fired less often was not tried; said of campaigns of so many models and more."""

REFERENCE_EVERY = 20
"""One model in so many is run by the reference evaluator, which is slow."""


@dataclass
class Tally:
    """Counts of a campaign. ``oracle`` says who ran what, ``not_run`` why ONNX Runtime refused originals."""

    models: int = 0
    compared: int = 0
    not_compared: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    oracle: Counter[str] = field(default_factory=Counter)
    not_run: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count what another tally counted too."""
        self.models += other.models
        self.compared += other.compared
        self.not_compared += other.not_compared
        for own, others in ((self.fired, other.fired), (self.oracle, other.oracle), (self.not_run, other.not_run)):
            own.update(others)
        self.findings += other.findings

    @property
    def rare(self) -> list[str]:
        """Rewrites that fired too rarely for the campaign to say anything about them."""
        return [r.name for r in float_rewrites() if self.fired[r.name] < LEAST_FIRINGS]


# ------------------------------------------------------------------------------------------------------------- judging


def examine(case: Case, pipeline: Pipeline | None, tally: Tally) -> None:
    """Everything about one case; raises :class:`Finding`."""
    pipeline = pipeline or drawn_pipeline(case)
    tally.models += 1
    graph, context = case.imported, Context()
    result = pipeline.run(graph, context).graph
    model = export_model(result)
    tally.fired.update(context.log.counts())
    check_interface(case, graph, result, model)
    _check_again(case, pipeline, result, model)
    inputs = {i.name for i in result.inputs}
    feeds = {name: array for name, array in case.feeds.items() if name in inputs}  # defaults that were frozen stand
    try:
        before = _run(without_node_names(case.model), feeds)
    except AmctcError as error:
        tally.not_run[_reason(error)] += 1
        return
    try:
        after = _run(model, feeds)
    except AmctcError as error:
        raise Finding("break", f"only the original runs: {error}") from error
    units = sum(a.rule.effect.units for a in context.log.applications if isinstance(a.rule.effect, Rounding))
    exact = all(isinstance(a.rule.effect, Exact) for a in context.log.applications) and not case.is_half
    magnitudes = case.magnitudes(feeds)
    if magnitudes is None and not exact:
        tally.not_compared += 1
        return
    allowed = case.allowed(magnitudes, units) if magnitudes else {name: np.zeros(()) for name in before}
    tally.compared += 1
    compare("ONNX Runtime, after", before, after, allowed)
    if magnitudes is not None:
        _second_oracles(case, graph, result, feeds, before, allowed, tally)


def _reason(error: AmctcError) -> str:
    """Why ONNX Runtime refuses or fails, without places in its source, names and numbers."""
    text = re.sub(r"Exception during initialization: |Non-zero status code returned while running ", "", str(error))
    text = re.sub(
        r"/onnxruntime_src/\S+ .*?\) \[with .*?\] ?|Name:'[^']*'|node \([^)]*\)|\([^()]*_out[^()]*\)", "", text
    )
    return re.sub(r"\d+", "#", text)[:160].replace("\n", " ")


def _run(model: onnx.ModelProto, feeds: Results) -> Results:
    session = open_session(model.SerializeToString(), optimise=False)
    known = {i.name for i in session.get_inputs()} | {i.name for i in session.get_overridable_initializers()}
    names = [o.name for o in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, {n: a for n, a in feeds.items() if n in known}), strict=True))
    except Exception as error:  # the runtime's exception types are not stable across versions
        raise UnsupportedError(f"ONNX Runtime failed: {error}") from error


def _check_again(case: Case, pipeline: Pipeline, result: Graph, model: onnx.ModelProto) -> None:
    """A second run changes nothing where that is claimed of all, and a second compilation gives the same bytes."""
    single = len(pipeline.passes) == 1 or pipeline == prepare_stage()
    if single and pipeline.run(result, Context()).graph is not result:
        raise Finding("break", "a second run changes the result")
    if case.source.flip(0.2):
        again = export_model(pipeline.run(case.imported_anew(), Context()).graph)
        if again.SerializeToString(deterministic=True) != model.SerializeToString(deterministic=True):
            raise Finding("break", "a second compilation gives other bytes")
        if is_valid(case.model) and not is_valid(model):
            raise Finding("break", "the standard's checker refuses the result")


def _second_oracles(
    case: Case, graph: Graph, result: Graph, feeds: Results, before: Results, allowed: Mapping[str, Array], tally: Tally
) -> None:
    with np.errstate(all="ignore"):
        for who, own in (("interpreter, before", graph), ("interpreter, after", result)):
            compare(who, before, Plan(own, WHOLE_FLOAT).run(feeds), allowed)
            tally.oracle[who] += 1
    if case.source.integer(1, REFERENCE_EVERY) == 1:
        compare_with_reference(case, feeds, before, allowed, tally)


def compare_with_reference(
    case: Case, feeds: Feeds, before: Results, allowed: Mapping[str, Array], tally: Tally
) -> None:
    """What the standard's own evaluator says of the original; where it disagrees, once more without known defects."""
    for mended in (False, True):
        try:
            outputs, defects = by_reference(case.model, list(before), feeds, mended=mended)
            compare("reference evaluator", before, outputs, allowed)
        except Finding as finding:
            if mended:
                raise Finding("disagreement", str(finding)) from None
        except Exception as error:  # what it lacks, it raises as anything
            if mended:
                tally.oracle[f"reference evaluator refused: {type(error).__name__}: {str(error)[:60]}"] += 1
        else:
            tally.oracle["reference evaluator agreed" + "".join(f", once mended: {d}" for d in defects)] += 1
            return


# ------------------------------------------------------------------------------------------------------------ campaign


def campaign(seed: int, numbers: Sequence[int], pipeline: str = "") -> Tally:
    """Judge the models of these numbers."""
    tally = Tally()
    chosen = Pipeline.parse(pipeline) if pipeline else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for number in numbers:
            case = drawn_case(seed, number)
            try:
                examine(case, chosen, tally)
            except Finding as finding:
                tally.findings.append((case.name, str(finding)))
            except Exception as error:  # whatever it is, it is a finding
                tally.findings.append((case.name, f"break: {type(error).__name__}: {str(error)[:300]}"))
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=40_000, help="models to draw (40000)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds draw other models (0)")
    parser.add_argument("--only", type=int, metavar="N", help="the model of this number alone, shown as text")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--pipeline", default="", metavar="TEXT", help="this pipeline instead of drawn ones")
    options = parser.parse_args(arguments)
    if options.only is not None:
        case = drawn_case(options.seed, options.only)
        print(onnx.printer.to_text(case.model), print_graph(case.graph), sep="\n")
        print("pipeline:", options.pipeline or drawn_pipeline(drawn_case(options.seed, options.only)))
    numbers = range(options.count) if options.only is None else [options.only]
    chunks = [numbers[i : i + 100] for i in range(0, len(numbers), 100)]
    total = Tally()
    for done in _done(options.seed, chunks, options.pipeline, options.jobs):
        for name, text in done.findings:
            print(f"{text}\n    repeat with: python -m tools.random_graphs {name}", flush=True)
        total.add(done)
    return _print_summary(total, options.seed)


def _done(seed: int, chunks: Sequence[Sequence[int]], pipeline: str, jobs: int) -> Iterator[Tally]:
    work: Callable[[Sequence[int]], Tally] = functools.partial(_chunk, seed, pipeline)
    if jobs == 1 or len(chunks) == 1:
        yield from map(work, chunks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, chunks)


def _chunk(seed: int, pipeline: str, numbers: Sequence[int]) -> Tally:
    return campaign(seed, numbers, pipeline)


def _print_summary(total: Tally, seed: int) -> int:
    print("fired: " + ", ".join(f"{name} {n}" for name, n in sorted(total.fired.items())))
    print("oracles: " + ", ".join(f"{who} {n}" for who, n in sorted(total.oracle.items())))
    for reason, n in total.not_run.most_common(12):
        print(f"not run by ONNX Runtime: {n}x {reason}")
    print(f"not compared, discontinuous or past float16: {total.not_compared}")
    enough = total.models < FROM_COUNT or not total.rare
    if not enough:
        print(f"fired less than {LEAST_FIRINGS} times: {', '.join(total.rare)}")
    kinds = Counter(text.split(":")[0] for _, text in total.findings)
    others = sorted(set(installed("amctc.rewrites")) - {r.name for r in float_rewrites()})
    print(f"out of scope, for ONNX Runtime has no ops of the target (tests/derived proves them): {', '.join(others)}")
    least = min((total.fired[r.name] for r in float_rewrites()), default=0)
    print(f"seed {seed}: {total.models} models, {total.compared} compared, {sum(total.fired.values())} rewrites fired, "
          f"each of {len(float_rewrites())} at least {least} times, {kinds['miscompile']} miscompiles, "
          f"{kinds['break']} breaks, {kinds['disagreement']} disagreements of the oracles")  # fmt: skip
    return 0 if enough and not total.findings else 1


if __name__ == "__main__":
    sys.exit(main())
