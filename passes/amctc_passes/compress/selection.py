"""Which layers a structural pass works on, and why it leaves the others as they are."""

from __future__ import annotations

from collections.abc import Sequence

from amctc.ir import Graph, Op, constant_data, layer_name
from amctc.ops import nn
from amctc_passes.quantize.layers import layers, matching, names


def selected(graph: Graph, only: Sequence[str], skip: Sequence[str]) -> tuple[Op, ...]:
    """The layers that ``only`` names (all when empty) and ``skip`` does not, in topological order.

    Both hold names with wildcards; one that matches no layer is a :class:`amctc.errors.UsageError`.
    """
    known = names(graph)
    wanted = matching(known, only, "layers") if only else set(known)
    wanted -= matching(known, skip, "skip")
    return tuple(op for op in layers(graph) if layer_name(op) in wanted)


def weight_obstacle(op: Op) -> str | None:
    """Why the weight of a layer cannot be changed; ``None`` when it can."""
    if constant_data(op.operand(1)) is None:
        return "both sides are computed" if isinstance(op.kind, nn.MatMul) else "the weight is computed, not constant"
    return None
