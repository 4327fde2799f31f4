"""``check_pass`` accepts right passes and refuses wrong ones: each breaks one promise of a contract."""

from __future__ import annotations

import importlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import strategies as st

from amctc import pipeline as module
from amctc.contract import Changes, Contract, Exact, Fact, Rounding
from amctc.errors import UsageError
from amctc.ir import Graph, Op, Value, apply, const
from amctc.ops import nn
from amctc.parser import parse_graph
from amctc.pattern import Match, any_value, op
from amctc.pipeline import Context, Pass, PatternPass, pass_names
from amctc.rewrite import Rewrite, rewrite
from amctc.substitute import convert, substitute
from amctc.testing import check_pass, check_pipeline, graphs
from amctc.testing.pass_properties import run_step
from amctc.types import Array

x = any_value()
relu = op(nn.Relu, x)
relus = op(nn.Relu, relu)
COUNTER = itertools.count()
RELUS = graphs(max_ops=3, kinds=(nn.Relu, nn.Sigmoid))
BRANCHES = """graph "graph"(%x: tensor<2xf32>) -> ("a" = %0, "b" = %2) {
  %0 = nn.relu(%x) : tensor<2xf32>
  %1 = nn.sigmoid(%x) : tensor<2xf32>
  %2 = nn.relu(%1) : tensor<2xf32>
}
"""


@rewrite(relus, effect=Exact())
def merge_relus(m: Match) -> Value:
    """relu(relu(x)) is relu(x)."""
    return apply(nn.Relu(), m[x])


@rewrite(relu, effect=Exact())
def relu_to_clip(m: Match) -> Value:
    """Wrong above 50."""
    return apply(nn.Clip(0.0, 50.0), m[x])


@rewrite(relus, effect=Rounding(2))
def merge_relus_roughly(m: Match) -> Value:
    """Says that it rounds."""
    return apply(nn.Relu(), m[x])


@dataclass(frozen=True)
class Merging(PatternPass):
    """Merges relus."""

    name: ClassVar[str] = "test-merge-relus"
    contract: ClassVar[Contract] = Contract(effect=Exact())

    def rewrites(self) -> tuple[Rewrite, ...]:
        return (merge_relus,)


class Clipping(Merging):
    """Wrong results."""

    def rewrites(self) -> tuple[Rewrite, ...]:
        return (relu_to_clip,)


class Rough(Merging):
    """Claims to be exact with a rewrite that does not."""

    def rewrites(self) -> tuple[Rewrite, ...]:
        return (merge_relus_roughly,)


@dataclass(frozen=True)
class Free(Pass):
    """A pass that is not a set of rewrites; the mutants derive from it."""

    name: ClassVar[str] = "test-free"
    contract: ClassVar[Contract] = Contract(effect=Changes("test"))

    def run(self, graph: Graph, context: Context) -> Graph:
        return self.replaced(graph, lambda op, x: apply(nn.Clip(0.0, 3.0), x))

    @staticmethod
    def replaced(graph: Graph, make) -> Graph:
        """The graph with what ``make`` gives in place of each relu."""

        def conversion(op: Op, operands):
            return (make(op, operands[0]),) if isinstance(op.kind, nn.Relu) else None

        return convert(graph, conversion)


class LosesAnInput(Free):
    def run(self, graph: Graph, context: Context) -> Graph:
        done = super().run(graph, context)
        return done if done is graph else Graph(done.inputs[::-1][:-1], done.outputs, done.output_names)


class AddsAnOutput(Free):
    def run(self, graph: Graph, context: Context) -> Graph:
        if "more" in graph.output_names or not graph.ops:
            return graph
        return graph.with_outputs((*graph.outputs, graph.outputs[0]), (*graph.output_names, "more"))


class NeverDone(Free):
    def run(self, graph: Graph, context: Context) -> Graph:
        return self.replaced(graph, lambda op, x: apply(nn.Relu(), apply(nn.Relu(), x)))


class Random(Free):
    def run(self, graph: Graph, context: Context) -> Graph:
        return self.replaced(graph, lambda op, x: apply(nn.Clip(0.0, 1.0 + next(COUNTER)), x))


class ReadsNames(Free):
    def run(self, graph: Graph, context: Context) -> Graph:
        named = {o.results[0].name or "" for o in graph.ops}
        top = 2.0 if max(named, default="") > "value.9" else 3.0
        return self.replaced(graph, lambda op, x: apply(nn.Clip(0.0, top), x))


class CountsOps(Free):
    def run(self, graph: Graph, context: Context) -> Graph:
        places = {o: i for i, o in enumerate(graph.ops)}
        return self.replaced(graph, lambda op, x: apply(nn.Clip(0.0, 1.0 + places[op]), x))


class Crashes(Free):
    def run(self, graph: Graph, context: Context) -> Graph:
        raise IndexError("no such thing")


class BreaksItsPromise(Free):
    contract: ClassVar[Contract] = Contract(
        effect=Changes("test"), ensures=(Fact("free of relu", lambda g: "has one" if "Relu" in str(g) else "always"),)
    )


class MakesNaN(Free):
    def run(self, graph: Graph, context: Context) -> Graph:
        return self.replaced(graph, lambda op, x: apply(nn.Clip(0.0, 3.0), apply(nn.Mul(), x, _nan(x.type.rank))))


class Bloats(Free):
    def run(self, graph: Graph, context: Context) -> Graph:
        def bloated(op: Op, x: Value) -> Value:
            zeros = np.zeros((40_000,), np.float32)
            return apply(nn.Clip(0.0, 3.0), apply(nn.Add(), x, apply(nn.ReduceSum((0,), False), const(zeros))))

        return self.replaced(graph, bloated)


class OtherObject(Free):
    def run(self, graph: Graph, context: Context) -> Graph:
        done = super().run(graph, context)
        return substitute(done, {}) if done is not graph else graph.with_outputs(graph.outputs)


def _nan(rank: int) -> Value:
    filled: Array = np.full((1,) * rank, np.nan, np.float32)
    return const(filled)


@pytest.mark.parametrize(
    ("mutant", "broken"),
    [
        (Clipping, "same results"), (Rough, "effect covers its rewrites"), (LosesAnInput, "builds well-typed ops"),
        (AddsAnOutput, "interface kept"), (NeverDone, "idempotent"), (Random, "deterministic"),
        (ReadsNames, "names are hints"), (CountsOps, "order is free"), (Crashes, "runs"),
        (BreaksItsPromise, "keeps its contract"), (MakesNaN, "stays finite"), (Bloats, "size bound"),
        (OtherObject, "same object"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_found(mutant: type[Pass], broken: str) -> None:
    drawn = st.just(parse_graph(BRANCHES)) if mutant is CountsOps else RELUS  # few drawn graphs branch
    with pytest.raises(AssertionError, match=f"property '{broken}' fails") as caught:
        check_pass(mutant(), examples=100, hash_seeds=False, drawn=drawn)
    message = str(caught.value)
    assert "repeat with: check_pass(" in message
    shown = message[message.rindex('graph "graph"') : message.rindex("repeat with")]
    assert len(parse_graph(shown).ops) <= 6


def test_a_right_pass_is_accepted_and_reported() -> None:
    report = check_pass(Merging(), hash_seeds=False, minimum_changes=20, examples=40)
    assert report.changed >= 20
    assert report.firings["merge_relus"] >= 20
    assert report.compared > report.changed
    assert "merge_relus" in str(report)


def test_a_pass_that_does_nothing_is_vacuous() -> None:
    with pytest.raises(AssertionError, match="'not vacuous' fails: wanted 50 changed graphs"):
        check_pass(Free(), drawn=graphs(max_ops=2, kinds=(nn.Sigmoid,)), examples=3)


def test_the_same_seed_draws_the_same_graphs() -> None:
    first, second, third = (
        str(check_pass("merge-transposes", seed=seed, examples=25, minimum_changes=1, hash_seeds=False))
        for seed in (1, 1, 2)
    )
    assert first == second != third


def test_hash_seeds_are_tried_for_what_can_be_imported() -> None:
    assert not check_pass("drop-identity", examples=10, minimum_changes=2).notes
    local = type("Local", (Merging,), {"__qualname__": "f.<locals>.Local"})
    assert "hash seeds are not tried" in str(check_pass(local(), examples=10, minimum_changes=1))


TALKATIVE = """
from tests.unit.testing.test_testing_pass_checks import Merging
from amctc.testing import check_pass

class Talkative(Merging):
    pass

print(check_pass(Talkative(), examples=5, minimum_changes=1))
"""


def test_a_module_that_checks_its_pass_when_imported_starts_no_more_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pass is unpickled in other processes, which import it, check included."""
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("talkative")
    assert "hash seeds" not in capsys.readouterr().out


def test_text_must_name_one_pass() -> None:
    with pytest.raises(UsageError, match="is 2 passes"):
        check_pass("drop-identity,dedup")


def test_a_pipeline_names_the_pass_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_passes", {**module._passes, "test-merge-relus": Clipping})
    assert "test-merge-relus" in pass_names()
    with pytest.raises(AssertionError, match=r"pass test-merge-relus: .*same results") as caught:
        check_pipeline("drop-identity,repeat(merge-transposes,test-merge-relus)", hash_seeds=False)
    assert 'check_pipeline("drop-identity,repeat(' in str(caught.value)


def test_a_right_pipeline_is_reported() -> None:
    report = check_pipeline("drop-identity,fold-batch-norm,fuse-activation", examples=20, minimum_changes=10)
    assert {"fold_batch_norm", "fuse_activation"} <= set(report.firings)


def test_requirements_are_reached_by_the_default_preset() -> None:
    report = check_pass("pack-constants", examples=10, minimum_changes=1, hash_seeds=False)
    assert report.changed


def test_a_run_needs_what_the_pass_requires() -> None:
    graph = parse_graph('graph "g"(%x: tensor<2xf32>) -> ("y" = %0) {\n  %0 = nn.relu(%x) : tensor<2xf32>\n}\n')
    assert run_step(Merging(), graph, []).after is graph
