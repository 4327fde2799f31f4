"""Hold an executor against the reference, tensor by tensor and bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from amctc.errors import AmctcError, printable
from amctc.execution import plan_for
from amctc.ir import Constant, Graph, Value, layer_name
from amctc.targets import Profile
from amctc.types import I32, Array


class ExecutorMismatchError(AmctcError):
    """Two executors gave different bits for one value: a bug in one of them."""


@dataclass(frozen=True)
class Agreement:
    """How many ``tensors`` with how many ``elements`` were compared, over how many ``batches``; none differed."""

    executor: str
    batches: int
    tensors: int
    elements: int

    def __str__(self) -> str:
        return (
            f"executor {self.executor}: {self.tensors} tensors with {self.elements} elements of {self.batches} "
            f"{'batch' if self.batches == 1 else 'batches'} are those of the reference, bit for bit"
        )


def check_executor(graph: Graph, profile: Profile, executor: str, batches: Iterable[Mapping[str, Array]]) -> Agreement:
    """Run every batch in ``executor`` and in the reference, and compare all values.

    Accumulators are compared where the executor keeps them: ``onnxruntime`` computes most together with what follows.
    An executor that must keep fewer values joins more: the outputs of such a run are compared as well. Raises
    :class:`ExecutorMismatchError` at the first value that differs.
    """
    values = [r for op in graph.ops if not isinstance(op.kind, Constant) for r in op.results]
    if executor == "onnxruntime":
        values = [v for v in values if v.type.elem != I32]
    plan, reference = (plan_for(graph, profile, name, keep=values) for name in (executor, "reference"))
    joined = plan_for(graph, profile, executor)
    compared: list[int] = []
    for feeds in batches:
        given, wanted = plan.run_values(feeds), reference.run_values(feeds)
        for value in values:
            _require_equal(executor, value, given[value], wanted[value])
        for output, array in joined.run_values(feeds).items():
            _require_equal(executor, output, array, wanted[output])
        compared.append(sum(np.size(wanted[v]) for v in values))
    return Agreement(executor, len(compared), len(compared) * len(values), sum(compared))


def _require_equal(executor: str, value: Value, given: Array, wanted: Array) -> None:
    comparable = given.dtype == wanted.dtype and given.shape == wanted.shape
    if comparable and _same_bits(given, wanted):
        return
    op = value.producer
    assert op is not None
    finding = f"{given.dtype} {given.shape} is not {wanted.dtype} {wanted.shape}"
    if comparable:
        finding = f"{np.count_nonzero(given != wanted)} of {given.size} elements differ"
    raise ExecutorMismatchError(
        f"executor {executor} computes {op.kind.op_name} differently from the reference: {finding}",
        where=printable(value.name or layer_name(op)), remedy="please report it; meanwhile use another executor",
    )  # fmt: skip


def _same_bits(a: Array, b: Array) -> bool:
    """Equal in every bit, but for what a NaN carries."""
    if not isinstance(a, np.ndarray) or a.dtype.hasobject:
        return bool(np.all(a == b))
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    numbers = ~np.isnan(a)
    return bool(np.array_equal(a, b, equal_nan=True) and (np.signbit(a) == np.signbit(b))[numbers].all())
