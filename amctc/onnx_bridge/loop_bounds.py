"""Bounds for loops that ONNX Runtime runs for us: whether a computed condition ever ends one is nobody's to know."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from amctc.errors import AmctcError, LimitError, UnsupportedError, printable
from amctc.onnx_bridge.loops import MOST_TURNS, scalars
from amctc.onnx_bridge.subgraphs import DEFAULT, bodies

MOST_COMPUTED_TURNS = 1 << 20
"""Most turns of a loop whose number of turns is computed: some seconds of the smallest body."""

_MARK = "amctc bound"
_NAMES = "most", "only", "place", "found", "goes on"
_REACHED = re.compile(rf"Name:'{_MARK} (\d+): (.*?)' Status", re.DOTALL)


def bound_loops(model: ModelProto) -> ModelProto:
    """Let every loop without a small constant trip count fail in the turn after the last allowed one, in place.

    Its body then looks up element ``turn // MOST_COMPUTED_TURNS`` of a list of one. Loops in bodies and functions too.
    """
    _bound(model.graph.node, scalars(model.graph), 0)
    for function in model.functions:
        _bound(function.node, {}, 0)
    return model


def _bound(nodes: Iterable[NodeProto], known: Mapping[str, object], depth: int) -> None:
    for node in nodes:
        for body in bodies(node):
            _bound(body.node, {**known, **scalars(body)}, depth + 1)
        if node.op_type == "Loop" and node.domain in DEFAULT and not _ends_soon(node, known):
            _fail_late(node, depth)


def _ends_soon(loop: NodeProto, known: Mapping[str, object]) -> bool:
    turns = known.get(loop.input[0]) if loop.input else None
    return isinstance(turns, int) and turns <= MOST_TURNS


def _fail_late(loop: NodeProto, depth: int) -> None:
    """Names tell depths apart: what is inside a body may not be called as what is outside."""
    for body in bodies(loop):
        if not body.input or not body.output:
            continue  # malformed, which the runtime says
        turn, condition = body.input[0].name, body.output[0]
        most, only, place, found, bounded = (f"{_MARK} {depth}/{name}" for name in _NAMES)
        body.initializer.append(numpy_helper.from_array(np.array(MOST_COMPUTED_TURNS, np.int64), most))
        body.initializer.append(numpy_helper.from_array(np.ones(1, np.bool_), only))
        body.node.append(helper.make_node("Div", [turn, most], [place]))
        body.node.append(
            helper.make_node("Gather", [only, place], [found], f"{_MARK} {MOST_COMPUTED_TURNS}: {loop.name}")
        )
        body.node.append(helper.make_node("And", [condition.name, found], [bounded]))
        condition.name = bounded
        condition.type.tensor_type.ClearField("shape")  # of turn or condition one may be [], the other [1]


def run_failure(error: Exception) -> AmctcError:
    """What a failed run of a model with bounded loops means: :class:`LimitError` where a bound was reached."""
    if (reached := _REACHED.search(str(error))) is None:
        return UnsupportedError(f"ONNX Runtime failed: {printable(error, 300)}")
    turns, name = reached.groups()
    return LimitError(
        f"a loop makes more than {turns} turns", where=f"node {printable(name)!r} (Loop)",
        remedy="give it a trip count, or samples for which its condition ends it",
    )  # fmt: skip
