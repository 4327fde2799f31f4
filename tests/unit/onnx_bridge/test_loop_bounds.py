"""Loops whose number of turns is computed: all turns up to the bound, and one line about the one after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from amctc.concurrency import open_executor
from amctc.errors import LimitError
from amctc.interp import evaluate
from amctc.kernels.tables import ORACLE
from amctc.onnx_bridge import CARRIED, import_model, loop_bounds
from amctc.onnx_bridge.runtime import FloatSession
from amctc.onnx_bridge.workers import shared_session
from tests.command_line import refused

BODY = "(int64 i, bool go, float[1] v) => (bool on, float[1] w) { w = Add(v, one) on = Less(w, limit) }"
FORMS = {
    "alone": f"{{ y = Loop <body = b {BODY}> (none, yes, x) }}",
    "with a computed count": f"{{ y = Loop <body = b {BODY}> (n, yes, x) }}",
    "in a loop of one turn": f"""{{ y = Loop <
        body = outer (int64 j, bool also, float[1] u) => (bool again, float[1] z) {{
        again = Not(also) z = Loop <body = b {BODY}> (none, also, u) }}> (none, yes, x) }}""",
    "in a branch": f"""{{ y = If <then_branch = t () => (float[1] ta) {{ ta = Loop <body = b {BODY}> (none, yes, x) }},
        else_branch = e () => (float[1] ea) {{ ea = Neg(x) }}> (yes) }}""",
}


def counting(form: str) -> onnx.ModelProto:
    """Adds 1 to ``x`` until ``limit`` is reached, at least once."""
    given = "float[1] x, float[1] limit, int64 n" if "(n," in form else "float[1] x, float[1] limit"
    weights = "float[1] one = {1}, bool yes = {1}"
    head = f'<ir_version: 8, opset_import: ["" : 17]> net ({given}) => (float[1] y) <{weights}>'
    model = parser.parse_model(f"{head} {form}")
    for graph in (model.graph, *(a.g for node in model.graph.node for a in node.attribute if a.HasField("g"))):
        for node in graph.node:  # the text form has no input that is left out
            node.input[:] = ["" if name == "none" else name for name in node.input]
            node.name = node.name or f"the {node.op_type}"
    return model


def feeds(model: onnx.ModelProto, turns: int) -> dict[str, np.ndarray]:
    found = {"x": np.zeros(1, np.float32), "limit": np.float32([turns])}
    return found | {"n": np.array(1 << 40)} if len(model.graph.input) == 3 else found


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_last_turn_allowed_is_made_and_no_more(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_bounds, "MOST_COMPUTED_TURNS", 50)
    model = counting(form)
    graph = import_model(model)
    session = FloatSession(graph)
    assert session.run(feeds(model, 50))["y"].tolist() == [50]
    with pytest.raises(LimitError) as caught:
        session.run(feeds(model, 51))
    assert caught.value.exit_status == 5
    assert str(caught.value) == (
        "node 'the Loop' (Loop): a loop makes more than 50 turns; give it a trip count, or samples for which its "
        "condition ends it"
    )
    tables = {**ORACLE, **CARRIED}
    assert evaluate(graph, feeds(model, 50), tables)["y"].tolist() == [50]
    with pytest.raises(LimitError, match="more than 50 turns"):
        evaluate(graph, feeds(model, 51), tables)


def test_a_constant_count_has_its_own_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_bounds, "MOST_COMPUTED_TURNS", 5)
    model = counting(FORMS["with a computed count"].replace("(n,", "(many,"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1000), "many"))
    assert FloatSession(import_model(model)).run(feeds(model, 60))["y"].tolist() == [60]


def test_workers_are_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_bounds, "MOST_COMPUTED_TURNS", 50)
    model = counting(FORMS["alone"])
    with open_executor("processes", 1) as executor, shared_session(import_model(model), executor) as run:
        future = executor.submit(run, feeds(model, 51))
        with pytest.raises(LimitError, match="more than 50 turns"):
            future.result()


def test_the_command_ends_with_status_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop_bounds, "MOST_COMPUTED_TURNS", 50)
    model = counting(FORMS["alone"])
    onnx.save(model, "loop.onnx")
    np.savez("samples.npz", **feeds(model, 1000))
    line = refused(5, "compress", "loop.onnx", "-d", "samples.npz", "-o", "out")
    assert "a loop makes more than 50 turns; give it a trip count" in line
