"""Pipelines: text, look-up of passes, contracts checked on the way, what a run reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from amctc import pipeline as module
from amctc.contract import Changes, Contract, Exact, Fact
from amctc.errors import AmctcError, LimitError, UsageError, VerificationError
from amctc.ir import Graph, GraphInput, Op, Value, apply, const
from amctc.ops import nn
from amctc.pattern import Match, any_value, op
from amctc.pipeline import MAX_REPEATS, Context, Pass, PatternPass, Pipeline, Repeat, pass_class, pass_names, register
from amctc.rewrite import Rewrite, rewrite
from amctc.targets import DEFAULT_TARGET
from amctc.types import F32, TensorType


def relus(count: int) -> Graph:
    x = GraphInput("x", TensorType(("N", 2), F32))
    y: Value = x
    for i in range(count):
        y = apply(nn.Relu(), y, name=f"r{i}")
    return Graph((x,), (y,), ("y",))


def depth(graph: Graph) -> int:
    return len(graph.ops)


SHALLOW = Fact("shallow", lambda g: None if depth(g) <= 2 else f"{depth(g)} ops")
NOT_EMPTY = Fact("not empty", lambda g: None if depth(g) else "no ops")


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two passes for the tests; they and those that a test registers are forgotten after it."""
    monkeypatch.setattr(module, "_passes", dict(module._passes))
    register(Shorten)
    register(ShortenOnce)


@dataclass(frozen=True)
class Shorten(Pass):
    """Drop the last op."""

    by: int = 1

    name: ClassVar[str] = "test-shorten"
    contract: ClassVar[Contract] = Contract(effect=Changes("test"), requires=(NOT_EMPTY,), idempotent=False)

    def __post_init__(self) -> None:
        if self.by < 1:
            raise ValueError(f"by={self.by} is not positive")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Take ``by`` ops away."""
        for _ in range(self.by):
            last = graph.outputs[0].producer
            assert last is not None
            assert last.operands[0] is not None
            graph = graph.with_outputs((last.operands[0],))
        context.note(self.name, "layer", f"shorter by {self.by}")
        return graph


@dataclass(frozen=True)
class ShortenOnce(Pass):
    """Drop the last op unless one is left."""

    name: ClassVar[str] = "test-shorten-once"
    contract: ClassVar[Contract] = Contract(effect=Changes("test"), idempotent=False)

    def run(self, graph: Graph, context: Context) -> Graph:
        """One op less."""
        return Shorten().run(graph, context) if depth(graph) > 1 else graph


def make(name: str, contract: Contract, result: Graph | Exception) -> None:
    """Register a pass that returns or raises ``result``."""

    @dataclass(frozen=True)
    class Made(Pass):
        """A pass of a test."""

        def run(self, graph: Graph, context: Context) -> Graph:
            if isinstance(result, Exception):
                raise result
            return result

    Made.name, Made.contract = name, contract
    Made.__qualname__ = f"Made[{name}]"
    register(Made)


# --------------------------------------------------------------------------------------------------------------- text


def test_text_round_trip() -> None:
    text = "repeat(test-shorten{by=2},repeat(drop-identity)),fold-constants"
    pipe = Pipeline.parse(text)
    assert isinstance(pipe.passes[0], Repeat)
    assert pipe.passes[0].body[0] == Shorten(2)
    assert str(pipe) == text
    assert Pipeline.parse(str(pipe)) == pipe


def test_spaces_and_defaults_are_normalised() -> None:
    assert str(Pipeline.parse(" test-shorten { by = 1 } , drop-identity ")) == "test-shorten,drop-identity"


def test_unknown_pass_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown pass 'fold-batchnorm'") as caught:
        Pipeline.parse("drop-identity,fold-batchnorm")
    assert "fold-batch-norm" in (caught.value.remedy or "")
    assert caught.value.where == "pipeline column 15"


def test_unknown_pass_like_no_other() -> None:
    with pytest.raises(UsageError) as caught:
        Pipeline.parse("qqqqqqqqqq")
    assert "`amctc passes`" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("test-shorten{bi=2}", 14, "has no option 'bi'; did you mean by"),
        ("test-shorten{zzz=2}", 14, "its options are: by"),
        ("drop-identity{zzz}", 15, "its options are: none"),
        ("test-shorten{by=x}", 14, "option 'by' of 'test-shorten' wants an integer, not x"),
        ("drop-identity,test-shorten{by=0}", 15, "by=0 is not positive"),
        ("repeat(drop-identity,test-shorten{by=0})", 22, "by=0 is not positive"),
        ("legalize{target=ascend}", 1, "unknown target 'ascend'"),
    ],
)
def test_bad_options_are_marked(text: str, column: int, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Pipeline.parse(text)
    assert message in str(caught.value)
    assert caught.value.where == f"pipeline column {column}"
    assert "^" in (caught.value.detail or "")


def test_a_required_option_is_asked_for() -> None:
    @dataclass(frozen=True)
    class Needy(Pass):
        """Wants a number."""

        number: int

        name: ClassVar[str] = "test-needy"
        contract: ClassVar[Contract] = Contract(effect=Exact())

        def run(self, graph: Graph, context: Context) -> Graph:
            return graph

    register(Needy)
    with pytest.raises(UsageError, match="'test-needy' needs option number"):
        Pipeline.parse("test-needy")
    assert str(Pipeline.parse("test-needy{number=0}")) == "test-needy{number=0}"


# ----------------------------------------------------------------------------------------------------------- registry


def test_passes_are_listed_and_found() -> None:
    assert pass_names() == sorted(pass_names())
    assert {"test-shorten", "observe", "to-ascend"} <= set(pass_names())
    assert pass_class("test-shorten") is Shorten
    assert pass_class("observe").name == "observe"


def test_two_passes_of_one_name_are_refused() -> None:
    make("test-twice", Contract(effect=Exact()), relus(1))

    @dataclass(frozen=True)
    class Other(Pass):
        """Another one."""

        name: ClassVar[str] = "test-twice"
        contract: ClassVar[Contract] = Contract(effect=Exact())

        def run(self, graph: Graph, context: Context) -> Graph:
            return graph

    with pytest.raises(ValueError, match="two passes are named 'test-twice'"):
        register(Other)


# ---------------------------------------------------------------------------------------------------------------- run


def test_records_notes_and_trace() -> None:
    result = Pipeline.parse("test-shorten{by=2},drop-identity").run(relus(5), Context(trace=True))
    sizes = [(r.name, r.ops_before, r.ops_after) for r in result.report]
    assert sizes == [("test-shorten", 5, 3), ("drop-identity", 3, 1)]  # relu of relu does nothing
    assert result.notes == (module.Note("test-shorten", "layer", "shorter by 2"),)
    assert [name for name, _ in result.trace] == ["test-shorten", "drop-identity"]
    assert result.trace[-1][1] is result.graph
    assert all(r.seconds >= 0 for r in result.report)


def test_no_trace_unless_asked_for() -> None:
    assert Pipeline.parse("drop-identity").run(relus(1)).trace == ()


def test_rewrites_are_counted_per_pass() -> None:
    @rewrite(op(nn.Relu, op(nn.Relu, x := any_value())), effect=Exact())
    def merge(m: Match) -> Value:
        """relu(relu(x)) is relu(x)."""
        return apply(nn.Relu(), m[x])

    @dataclass(frozen=True)
    class Merge(PatternPass):
        """Merge repeated activations."""

        name: ClassVar[str] = "test-merge"
        contract: ClassVar[Contract] = Contract(effect=Exact())

        def rewrites(self) -> tuple[Rewrite, ...]:
            return (merge,)

    register(Merge)
    result = Pipeline.parse("test-merge,test-merge").run(relus(5))
    assert depth(result.graph) == 1
    assert [dict(r.rewrites) for r in result.report] == [{"merge": 4}, {}]


def test_empty_pipeline() -> None:
    graph = relus(1)
    result = Pipeline.parse("").run(graph)
    assert result.graph is graph
    assert result.report == ()


def test_default_context() -> None:
    context = Context()
    assert context.target.name == DEFAULT_TARGET
    assert context.verify
    context.progress("nothing", 0, 1)


# ------------------------------------------------------------------------------------------------------------- repeat


def test_repeat_ends_when_nothing_changes() -> None:
    result = Pipeline.parse("repeat(test-shorten-once)").run(relus(5))
    assert depth(result.graph) == 1
    assert [r.ops_after for r in result.report] == [4, 3, 2, 1, 1]


def test_repeat_is_bounded() -> None:
    graphs = [relus(1), relus(1)]
    make("test-endless", Contract(effect=Exact()), graphs[0])
    pass_class("test-endless").run = lambda self, graph, context: graphs[graph is graphs[0]]  # type: ignore[method-assign]
    with pytest.raises(LimitError, match=rf"repeat\(test-endless\) still changes the graph after {MAX_REPEATS} rounds"):
        Pipeline.parse("repeat(test-endless)").run(graphs[0])


def test_empty_repeat_does_nothing() -> None:
    graph = relus(2)
    assert Pipeline.parse("repeat()").run(graph).graph is graph


# ---------------------------------------------------------------------------------------------------------- contracts


def test_requirements_are_checked_before_the_run() -> None:
    x = GraphInput("x", TensorType((1,), F32))
    with pytest.raises(UsageError, match="pass test-shorten: the graph is not not empty: no ops") as caught:
        Pipeline.parse("test-shorten").run(Graph((x,), (x,), ("y",)))
    assert "earlier in the pipeline" in (caught.value.remedy or "")


@pytest.mark.parametrize("verify", [True, False])
def test_a_broken_promise_is_an_error_of_the_pass(verify: bool) -> None:
    make("test-liar", Contract(effect=Exact(), ensures=(SHALLOW,)), relus(3))
    pipe = Pipeline.parse("test-liar")
    if not verify:
        assert depth(pipe.run(relus(3), Context(verify=False)).graph) == 3
        return
    with pytest.raises(AmctcError, match="pass test-liar broke its contract: not shallow: 3 ops") as caught:
        pipe.run(relus(3), Context(verify=True))
    assert type(caught.value) is AmctcError


def test_a_kept_fact_must_be_kept_only_if_it_held() -> None:
    make("test-keeper", Contract(effect=Exact(), keeps=(SHALLOW,)), relus(3))
    with pytest.raises(AmctcError, match="broke its contract: not shallow"):
        Pipeline.parse("test-keeper").run(relus(2))
    assert depth(Pipeline.parse("test-keeper").run(relus(4)).graph) == 3


def test_facts_nobody_mentions_may_be_lost() -> None:
    make("test-silent", Contract(effect=Exact()), relus(3))
    assert depth(Pipeline.parse("test-silent").run(relus(2)).graph) == 3


def test_results_are_verified() -> None:
    x = GraphInput("x", TensorType((2,), F32))
    wrong = Op(nn.Relu(), (x,), (TensorType((3,), F32),), ("y",), ()).result
    make("test-ill-typed", Contract(effect=Exact()), Graph((x,), (wrong,), ("y",)))
    with pytest.raises(VerificationError, match="G5"):
        Pipeline.parse("test-ill-typed").run(relus(1))


def test_errors_inside_a_pass_name_it() -> None:
    make("test-raises", Contract(effect=Exact()), UsageError("something is wrong"))
    with pytest.raises(UsageError, match="pass test-raises: something is wrong"):
        Pipeline.parse("test-raises").run(relus(1))


def test_errors_that_name_a_place_keep_it() -> None:
    make("test-raises", Contract(effect=Exact()), UsageError("something is wrong", where="layer 7"))
    with pytest.raises(UsageError, match=r"^layer 7: something is wrong"):
        Pipeline.parse("test-raises").run(relus(1))


def test_constants_outside_the_interface_do_not_matter() -> None:
    graph = relus(1).with_outputs((const(np.zeros(2, np.float32)),))
    assert Pipeline.parse("drop-identity").run(graph).graph is graph
