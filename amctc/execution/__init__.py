"""Executors: three ways to run a lowered graph, which give the same bits.

``reference`` follows the rules line by line (:mod:`amctc.kernels.reference_table`), ``numpy`` computes the same through
float32 matrix products that are proven exact (:mod:`amctc.kernels.ascend_table`), ``onnxruntime`` gives what it can to
ONNX Runtime's integer kernels (:mod:`amctc.execution.runtime_forms`) and the rest to ``numpy``.
"""

from __future__ import annotations

from collections.abc import Sequence

from amctc.errors import UsageError
from amctc.execution.integer_chains import IntegerChains
from amctc.execution.segments import RuntimeSegments
from amctc.execution.self_test import runtime_is_exact
from amctc.interp import Grouping, Plan
from amctc.ir import Graph, Value
from amctc.kernels.ascend_table import OverflowListener, ascend_table
from amctc.kernels.reference_table import reference_table
from amctc.onnx_bridge.runtime import CARRIED
from amctc.targets import Profile

EXECUTORS = ("numpy", "reference", "onnxruntime")
DEFAULT_EXECUTOR = "numpy"


def plan_for(
    graph: Graph,
    profile: Profile,
    executor: str = DEFAULT_EXECUTOR,
    *,
    keep: Sequence[Value] = (),
    on_overflow: OverflowListener | None = None,
) -> Plan:
    """A lowered graph bound to the kernels of an executor, for ``profile``'s chip.

    ``keep`` names further values that :meth:`~amctc.interp.Plan.run_values` returns; ``on_overflow`` is told of
    accumulators outside int32 (N7). ``onnxruntime`` is ``numpy`` where ONNX Runtime's kernels fail their self-test.
    Raises :class:`UsageError` for an unknown executor.
    """
    require_executor(executor)
    make = reference_table if executor == "reference" else ascend_table
    table = {**make(profile, on_overflow), **CARRIED}
    grouping: Grouping | None = None
    if executor == "onnxruntime" and runtime_is_exact():
        grouping = RuntimeSegments(profile)
    elif executor != "reference":
        grouping = IntegerChains(profile, table)
    return Plan(graph, table, keep=keep, grouping=grouping)


def require_executor(executor: str) -> None:
    """:class:`UsageError` for a name that is none of :data:`EXECUTORS`."""
    if executor not in EXECUTORS:
        raise UsageError(f"no executor {executor!r}", remedy=f"choose {', '.join(EXECUTORS)}")
