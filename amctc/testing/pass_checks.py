"""``check_pass`` and ``check_pipeline``: property tests of passes, drawn from their rewrites and at random."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from amctc.errors import UsageError, printable
from amctc.ir import Graph
from amctc.ops import quant
from amctc.pipeline import Batch, Context, Pass, PatternPass, Pipeline, Repeat, installed
from amctc.preset import load_preset
from amctc.testing import properties
from amctc.testing.arrays import Recipe, feed
from amctc.testing.checks import ROUNDS, default_examples
from amctc.testing.families import LAYERS_MOSTLY, MAX_OPS, brought_families, float_families
from amctc.testing.hash_seeds import check_hash_seeds
from amctc.testing.instances import instances
from amctc.testing.pass_properties import REFUSALS, Step, check_effect, check_structure, run_step
from amctc.testing.strategies import graphs
from amctc.testing.violations import Violation, explore
from amctc.text import print_graph

SHOWN = 80
"""Characters of a reason that a report shows."""

KEPT_TEXTS = 8
"""Graphs on which the pass is repeated under other hash seeds."""


@dataclass
class PassReport:
    """What a check saw.

    ``graphs`` were drawn; on ``unfit`` ones the pass does not start, ``refused`` counts its reasons for declining
    others. It ``changed`` so many by so many ``firings`` of each rewrite; results were ``compared`` so often, and
    ``notes`` counts why some were not.
    """

    subject: str
    graphs: int = 0
    unfit: int = 0
    changed: int = 0
    compared: int = 0
    firings: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        first = f"{self.subject}: {self.graphs} graphs, {self.changed} changed, {self.compared} results compared"
        parts = [first, *([f"{self.unfit} unfit"] if self.unfit else [])]
        for title, counts in (("fired", self.firings), ("refused", self.refused), ("not compared", self.notes)):
            if counts:
                parts.append(f"{title} " + ", ".join(f"{n}x {what}" for what, n in counts.most_common()))
        return "; ".join(parts)


def check_pass(
    item: Pass | str, *, examples: int | None = None, seed: int | None = 0, minimum_changes: int = 50,
    drawn: SearchStrategy[Graph] | None = None, hash_seeds: bool = True,
) -> PassReport:  # fmt: skip
    """Check everything the contract of a pass promises on ``examples`` drawn graphs; runs anywhere.

    ``item`` is a pass or its text. Half the graphs of a :class:`PatternPass` are drawn from the patterns of its
    rewrites, the others at random. Those of another pass come from :mod:`amctc.testing.families`, in the end from
    families in which it found something to do, and are taken through the passes before it in the preset it stands in,
    else through the default preset as long as it requires. ``drawn`` draws others.

    Properties, each named in the message when it fails: the pass runs and keeps its contract's facts; the result
    verifies, prints and parses; interface, argument and size bound are kept; a second run gives the same bytes, one
    on the result changes nothing where that is claimed; neither names of values nor the order of independent ops
    matter, nor the hash seed (``hash_seeds``: two more processes, for passes that can be pickled); and results are the
    same as far as its effect says, at each rewrite application and at the outputs.

    It must change ``minimum_changes`` graphs (50), for which up to eight times ``examples`` (100, or
    ``AMCTC_EXAMPLES``) are drawn. ``seed`` None draws other graphs on every call.

    Raises :class:`AssertionError` with the property, the finding, a small graph and a line that repeats the search.
    """
    if isinstance(item, str):
        stages = _flattened(Pipeline.parse(item).passes)
        if len(stages) != 1:
            raise UsageError(f"{item!r} is {len(stages)} passes", remedy="check_pipeline checks several")
        item = stages[0]
    call = f'check_pass("{Pipeline((item,))}", {_arguments(seed, examples, minimum_changes)})'
    return _check((item,), f"{Pipeline((item,))} ({item.contract.effect})", call, examples, seed, minimum_changes,
                  drawn, hash_seeds, reach=True)  # fmt: skip


def check_pipeline(
    text: str | Pipeline, *, examples: int | None = None, seed: int | None = 0, minimum_changes: int = 50,
    drawn: SearchStrategy[Graph] | None = None, hash_seeds: bool = True,
) -> PassReport:  # fmt: skip
    """Check every pass of a pipeline on the graphs that the passes before it give; parameters as :func:`check_pass`.

    What ``repeat`` holds runs one round. A message that a property fails names the pass.
    """
    pipeline = Pipeline.parse(text) if isinstance(text, str) else text
    call = f'check_pipeline("{pipeline}", {_arguments(seed, examples, minimum_changes)})'
    return _check(_flattened(pipeline.passes), str(pipeline), call, examples, seed, minimum_changes, drawn, hash_seeds)


def _arguments(seed: int | None, examples: int | None, minimum_changes: int) -> str:
    """What draws the same graphs again, in the same rounds."""
    return f"seed={seed}, examples={examples or default_examples()}, minimum_changes={minimum_changes}"


def _check(
    items: tuple[Pass, ...], subject: str, call: str, examples: int | None, seed: int | None, minimum_changes: int,
    drawn: SearchStrategy[Graph] | None, hash_seeds: bool, reach: bool = False,
) -> PassReport:  # fmt: skip
    count = default_examples() if examples is None else examples
    report, texts = PassReport(subject), list[str]()
    each = _examination(items, report, texts, reach)
    strategies: Sequence[SearchStrategy[Graph]] = _drawn(items) if drawn is None else (drawn,)
    rounds = max(ROUNDS, -(-ROUNDS * minimum_changes // count))
    try:
        for turn in range(rounds):
            if turn and report.changed >= minimum_changes:
                break
            strategies = _fruitful(strategies, report, each, count, None if seed is None else seed * rounds + turn)
        if report.changed < minimum_changes:
            raise Violation("not vacuous", f"wanted {minimum_changes} changed graphs and saw: {report}")
        if hash_seeds:
            report.notes.update(check_hash_seeds(items, texts))
    except Violation as violation:
        violation.args = (f"{subject}: {violation.args[0]}",)
        raise violation.replayed(call) from violation.__cause__
    return report


def _fruitful(
    strategies: Sequence[SearchStrategy[Graph]], report: PassReport, each: Callable[[Graph], None], count: int,
    seed: int | None,
) -> Sequence[SearchStrategy[Graph]]:  # fmt: skip
    """Examine ``count`` graphs in equal parts; the strategies of which some graph changed, all if none did."""
    found = []
    for strategy in strategies:
        before = report.changed
        explore(strategy, each, examples=-(-count // len(strategies)), seed=seed)
        found += [strategy] if report.changed > before else []
    return found or strategies


def _examination(items: tuple[Pass, ...], report: PassReport, texts: list[str], reach: bool) -> Callable[[Graph], None]:
    def examine(graph: Graph) -> None:
        report.graphs += 1
        samples = samples_for(graph)
        try:
            with np.errstate(all="ignore"):  # drawn weights overflow, and that is no finding
                start = _reached(items[0], graph, samples) if reach else graph
                end = start
                for item in items:
                    end = examine_pass(item, end, samples, report).after
        except UsageError as error:
            report.unfit += 1
            report.refused[printable(error.what, SHOWN)] += 1
            return
        except REFUSALS as error:
            report.refused[printable(error.what, SHOWN)] += 1
            return
        report.changed += end is not start
        if end is not start and len(texts) < KEPT_TEXTS:
            texts.append(print_graph(start))

    return examine


def examine_pass(item: Pass, graph: Graph, samples: Sequence[Batch], report: PassReport | None = None) -> Step:
    """All properties of a pass on one graph; what it refuses is raised as it raised it."""
    text = print_graph(graph)
    try:
        step = run_step(item, graph, samples)
        properties.check_arguments_unchanged(graph, text)
        check_structure(step, samples)
        notes = list(check_effect(step))
    except Violation as violation:
        violation.args = (f"pass {item.name}: {violation.args[0]}",)
        raise
    if report is not None:
        report.firings.update(a.rule.name for a in step.applications)
        report.compared += notes.count(None)
        report.notes.update(note for note in notes if note is not None)
    return step


def samples_for(graph: Graph) -> list[Batch]:
    """Two drawn batches, for passes that calibrate. Inputs with a default keep it: a pass may freeze them."""
    inputs = tuple(i for i in graph.inputs if i.default is None)
    return [feed(inputs, Recipe(seed)) for seed in (1, 2)]


def _reached(item: Pass, graph: Graph, samples: Sequence[Batch]) -> Graph:
    """``graph`` where a pass belongs: at its place in a preset, else the last stage of the default it may take.

    A graph with quantizers is taken through what presets do with models that bring them. Sets of rewrites start as
    soon as they may, because graphs are drawn for them.
    """
    if isinstance(item, PatternPass) and _meets(item, graph):
        return graph
    brought = any(isinstance(op.kind, quant.Quantize) for op in graph.ops)
    places = [stages for stages in _preset_stages(brought) if item.name in _names(stages)]
    if places:
        return _taken_through(places[0][: _names(places[0]).index(item.name)], graph, samples)
    found = graph if _meets(item, graph) else None
    for stage in () if brought else _preset_stages(brought)[0]:
        if found is not None and isinstance(item, PatternPass):
            return found
        graph = _taken_through((stage,), graph, samples)
        found = graph if _meets(item, graph) else found
    if found is None:
        raise UsageError(f"no stage of the default preset meets what {item.name} requires")
    return found


def _taken_through(stages: tuple[Pass, ...], graph: Graph, samples: Sequence[Batch]) -> Graph:
    """``graph`` after passes that are checked elsewhere."""
    return Pipeline(stages).run(graph, Context(samples=samples, verify=False)).graph


def _names(stages: Sequence[Pass]) -> list[str]:
    return [stage.name for stage in stages]


def _meets(item: Pass, graph: Graph) -> bool:
    return all(fact.violation(graph) is None for fact in item.contract.requires)


@functools.cache
def _preset_stages(brought: bool) -> tuple[tuple[Pass, ...], ...]:
    """The passes of every installed preset, the default first; of what it does with models that bring quantizers."""
    presets = map(load_preset, sorted(installed("amctc.presets"), key=lambda name: (name != "balanced", name)))
    texts = [str(preset.adopting() if brought else preset) for preset in presets]
    return tuple(_flattened(Pipeline.parse(text).passes) for text in texts)


def _flattened(items: Sequence[Pass | Repeat]) -> tuple[Pass, ...]:
    """The passes of one round."""
    return tuple(p for i in items for p in (_flattened(i.body) if isinstance(i, Repeat) else (i,)))


def _drawn(items: Sequence[Pass]) -> tuple[SearchStrategy[Graph], ...]:
    """What to draw graphs from: the patterns of the rewrites, and at random; families where a pass has no patterns."""
    if not all(isinstance(item, PatternPass) for item in items):
        starts = [b for b in (False, True) if any(items[0].name in _names(stages) for stages in _preset_stages(b))]
        return tuple(f for b in starts or (False, True) for f in (brought_families() if b else float_families()))
    random = st.one_of(graphs(max_ops=MAX_OPS), graphs(max_ops=MAX_OPS, kinds=LAYERS_MOSTLY))
    patterns = dict.fromkeys(r.pattern for item in items if isinstance(item, PatternPass) for r in item.rewrites())
    return (st.one_of(random, st.one_of([instances(p).map(lambda instance: instance.graph) for p in patterns])),)
