"""Pipelines that are edited, written down and read back, run whole, twice, in parts, and killed.

Which passes may stand where follows from their contracts: an edit after which a pass refuses its graph is taken back.
"""

from __future__ import annotations

import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from amctc.calibrate.checkpoint import Checkpoint
from amctc.contract import Exact
from amctc.ir import Graph
from amctc.ops import nn
from amctc.parser import parse_graph
from amctc.pipeline import Context, Pass, PatternPass, Pipeline, Repeat, pass_names
from amctc.preset import STAGES, load_preset
from amctc.testing import graphs, properties
from amctc.testing.pass_checks import LAYERS_MOSTLY, samples_for
from amctc.testing.pass_properties import REFUSALS, Step, check_results, tables_for
from amctc.text import print_graph
from amctc.verify import verify

Item = Pass | Repeat

DEFAULT = Pipeline.parse(str(load_preset("balanced"))).passes
OPTIONS = ("observe{bins=512 moving-average}", "place-qdq{method=min-max symmetric}", "mask-weights{sparsity=0.25}",
           "place-qdq{method=moving-average override=[\"*{bits=4}\"]}", "round-weights{correct-bias=false}",
           "repeat(fold-batch-norm,fold-affine)", "split-low-rank{ratio=0.5}", "roll-back{sqnr=80.0}")  # fmt: skip
ITEMS: tuple[Item, ...] = tuple(
    dict.fromkeys((*DEFAULT, *(i for text in (*pass_names(), *OPTIONS) for i in Pipeline.parse(text).passes)))
)
GRAPHS = st.one_of(
    graphs(max_ops=5), graphs(max_ops=6, kinds=LAYERS_MOSTLY), graphs(max_ops=3, kinds=(nn.Conv, nn.Gemm))
)
STARTS = st.sampled_from((0, *range(len(DEFAULT) - 8, len(DEFAULT) + 1)))
places = st.integers(0, 1 << 16)


class Killed(BaseException):
    """Raised where a process would end."""


class Pipelines(RuleBasedStateMachine):
    """``items`` and the graphs before each of them and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Item] = []
        self.graphs: list[Graph] = []

    @initialize(graph=GRAPHS, start=STARTS)
    def begin(self, graph: Graph, start: int) -> None:
        """Random edits would rarely come behind the quantizers: start with nothing, or with so much of the preset."""
        self.samples = samples_for(graph)
        self.graphs = [graph]
        for item in DEFAULT[:start]:
            self.edit([*self.items, item])

    def run_on(self, items: list[Item], graph: Graph, **options: object) -> Graph:
        with np.errstate(all="ignore"):
            context = Context(samples=self.samples, **options)  # type: ignore[arg-type]
            return Pipeline(tuple(items)).run(graph, context).graph

    def edit(self, items: list[Item]) -> None:
        """Go over to other items, unless one refuses what the others give it."""
        same = next((i for i, (a, b) in enumerate(zip(items, self.items, strict=False)) if a != b),
                    min(len(items), len(self.items)))  # fmt: skip
        found = self.graphs[: same + 1]
        try:
            for item in items[same:]:
                found.append(self.run_on([item], found[-1]))
        except REFUSALS:
            return
        self.items, self.graphs = items, found
        self.check_from(same)

    def check_from(self, first: int) -> None:
        """Everything that holds of any pipeline, of what stands at ``first`` and behind it."""
        start = self.graphs[0]
        for i, (before, after) in list(enumerate(pairwise(self.graphs)))[first:]:
            verify(after, deep=True)
            properties.check_interface(start, after, {v for v in start.inputs if v.default and v not in after.inputs})
            item = self.items[i]
            begin = i
            while begin and exact(self.items[begin - 1]):
                begin -= 1
            if isinstance(item, Pass) and exact(item) and after is not before:
                step = Step(item, self.graphs[begin], after, (), Context().target)
                assert all(reason is None for reason in check_results(step, tables_for(step)))

    @rule(item=st.sampled_from(ITEMS), place=places)
    def insert(self, item: Item, place: int) -> None:
        place %= len(self.items) + 1
        self.edit([*self.items[:place], item, *self.items[place:]])

    @precondition(lambda self: self.items)
    @rule(place=places)
    def remove(self, place: int) -> None:
        place %= len(self.items)
        self.edit([*self.items[:place], *self.items[place + 1 :]])

    @precondition(lambda self: len(self.items) > 1)
    @rule(place=places, other=places)
    def swap(self, place: int, other: int) -> None:
        place, other = place % len(self.items), other % len(self.items)
        items = list(self.items)
        items[place], items[other] = items[other], items[place]
        self.edit(items)

    @precondition(lambda self: any(isinstance(i, PatternPass) for i in self.items))
    @rule(place=places)
    def repeat(self, place: int) -> None:
        """What runs to a fixpoint does the same when it is repeated."""
        where = [i for i, item in enumerate(self.items) if isinstance(item, PatternPass)]
        at = where[place % len(where)]
        after = self.graphs[at + 1]
        self.edit([*self.items[:at], Repeat((self.items[at],)), *self.items[at + 1 :]])
        assert isinstance(self.items[at], Repeat)
        assert print_graph(self.graphs[at + 1]) == print_graph(after)

    @invariant()
    def text_reads_back(self) -> None:
        pipeline = Pipeline(tuple(self.items))
        text = str(pipeline)
        for written in (text, text.replace(",", ",\n"), f" {text} "):
            assert Pipeline.parse(written) == pipeline if self.items else not text
        assert str(Pipeline.parse(text)) == text if text else not self.items

    @precondition(lambda self: self.items)
    @rule(cuts=st.tuples(*[places] * 3))
    def preset_file_reads_back(self, cuts: tuple[int, ...]) -> None:
        ends = sorted(c % (len(self.items) + 1) for c in cuts)
        parts = [self.items[a:b] for a, b in pairwise([0, *ends, len(self.items)])]
        with tempfile.TemporaryDirectory(prefix="amctc-test-") as folder:
            path = Path(folder) / "own.toml"
            path.write_text("".join(f"{s} = '''{Pipeline(tuple(p))}'''\n" for s, p in zip(STAGES, parts, strict=True)))
            preset = load_preset(str(path))
        assert [list(stage.passes) for stage in preset.stages] == parts
        assert str(preset) == str(Pipeline(tuple(self.items)))

    @rule()
    def run_again(self) -> None:
        again = self.run_on(self.items, self.graphs[0])
        assert print_graph(again) == print_graph(self.graphs[-1])
        assert again is self.graphs[0] or self.items

    @rule(place=places)
    def run_prefix_then_rest(self, place: int) -> None:
        """What a prefix gives, written as text and read back, is all that the rest needs."""
        place %= len(self.items) + 1
        between = parse_graph(print_graph(self.run_on(self.items[:place], self.graphs[0])))
        assert print_graph(self.run_on(self.items[place:], between)) == print_graph(self.graphs[-1])

    @precondition(lambda self: self.items)
    @rule(writes=st.integers(1, 12))
    def kill_and_resume(self, writes: int) -> None:
        """Killed behind a drawn number of steps, the run goes on to the same bytes."""
        folder = Path(tempfile.mkdtemp(prefix="amctc-test-"))
        left, write = writes, Checkpoint.write

        def killing(checkpoint: Checkpoint) -> None:
            nonlocal left
            write(checkpoint)
            left -= 1
            if not left:
                raise Killed

        with mock.patch("os.fsync"):
            try:
                with mock.patch.object(Checkpoint, "write", killing):
                    checkpoint = Checkpoint(folder / "c", {}, interval=0.0)
                    self.run_on(self.items, self.graphs[0], checkpoint=checkpoint)
            except Killed:
                pass
            checkpoint = Checkpoint(folder / "c", {}, interval=0.0)
            resumed = self.run_on(self.items, self.graphs[0], checkpoint=checkpoint)
            shutil.rmtree(folder)
        assert print_graph(resumed) == print_graph(self.graphs[-1])


def exact(item: Item) -> bool:
    """Whether results stay as they are, by the contract."""
    return all(map(exact, item.body)) if isinstance(item, Repeat) else isinstance(item.contract.effect, Exact)


TestPipelines = Pipelines.TestCase
TestPipelines.settings = settings(
    max_examples=settings.default.max_examples // 20 or 1,
    stateful_step_count=10,  # type: ignore[union-attr]
)
TestPipelines.pytestmark = [pytest.mark.filterwarnings("ignore")]
