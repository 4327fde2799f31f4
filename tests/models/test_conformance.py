"""A sample of the suites that come with ONNX; ``python -m tools.conformance`` runs all of them."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import onnx
import pytest

from amctc.ir import Graph
from amctc.onnx_bridge import export_model
from amctc.onnx_bridge.runtime import WHOLE_FLOAT
from amctc.ops import nn
from tools.conformance import __main__ as conformance
from tools.conformance.__main__ import DIFFERENT, MODELLED, NOT_RUN, REFUSED, SAME, WRONG, Verdict, judged, table
from tools.conformance.suites import Case, cases

KNOWN = Path(__file__).with_name("conformance_known.txt")
STEPS = {"node": 12, "pytorch-converted": 4, "pytorch-operator": 3, "simple": 1}
"""Every which case of a suite is run: the sample takes seconds, and another one runs wherever cases are added."""


def known() -> set[str]:
    return {line for line in KNOWN.read_text("utf-8").splitlines() if line and not line.startswith("#")}


@cache
def verdicts(suite: str) -> list[Verdict]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite's own formulas divide by zero
        every = list(cases(suite))
        return [judged(c) for index, c in enumerate(every) if index % STEPS[suite] == 0 or c.name in known()]


def failed(verdict: Verdict) -> bool:
    return verdict.round_trip in (REFUSED, WRONG) or verdict.interpreter == DIFFERENT


@pytest.mark.parametrize("suite", sorted(STEPS))
def test_every_case_comes_out_as_it_went_in(suite: str) -> None:
    found = {v.case.name: v.why for v in verdicts(suite) if failed(v)}
    assert {name: why for name, why in found.items() if name not in known()} == {}


def test_the_list_of_known_failures_only_shrinks() -> None:
    ran = [v for suite in STEPS for v in verdicts(suite)]
    names = {v.case.name for v in ran}
    assert known() <= names, "these cases do not exist"
    assert [v.case.name for v in ran if v.case.name in known() and not failed(v)] == []


def test_the_sample_is_not_empty_and_mostly_runs() -> None:
    """A check that cannot fail would be one of cases that nothing runs."""
    for suite, step in STEPS.items():
        counts = Counter(v.round_trip for v in verdicts(suite))
        assert counts.total() >= 10, suite
        assert counts[SAME] > counts.total() / 2, (suite, step, counts)
    assert any(v.interpreter == MODELLED for v in verdicts("node"))


def negation() -> Case:
    return next(c for c in cases("node") if c.name == "test_neg_example")


def test_a_wrong_export_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = negation()
    assert judged(case).round_trip == SAME

    def exported(graph: Graph) -> onnx.ModelProto:
        model = export_model(graph)
        model.graph.node[0].op_type = "Abs"
        return model

    monkeypatch.setattr(conformance, "export_model", exported)
    assert judged(case).round_trip == WRONG


def test_a_wrong_interpreter_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(negation()).interpreter == MODELLED
    monkeypatch.setattr(conformance, "WHOLE_FLOAT", {**WHOLE_FLOAT, nn.Neg: WHOLE_FLOAT[nn.Abs]})
    assert judged(negation()).interpreter == DIFFERENT


def test_what_cannot_be_read_is_seen_and_the_table_counts_it() -> None:
    case, model = negation(), onnx.ModelProto()
    model.CopyFrom(case.model)
    model.opset_import[0].version = 999
    verdict = judged(replace(case, model=model))
    assert (verdict.round_trip, verdict.interpreter) == (REFUSED, NOT_RUN)
    head, _, row = table([verdict]).splitlines()
    counts = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert (counts["refused"], counts["wrong"]) == ("1", "0")
