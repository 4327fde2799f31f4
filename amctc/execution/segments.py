"""Joins the ops that ONNX Runtime computes bit for bit (:mod:`amctc.execution.runtime_forms`) into segments."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from amctc.execution.runtime_forms import Form, RuntimeForms
from amctc.interp import Step
from amctc.ir import Constant, Op, Value
from amctc.onnx_bridge.segment_writer import Segment, SegmentWriter
from amctc.targets import Profile
from amctc.types import Array

LARGEST_SEGMENT = 1 << 30
"""Bytes of weights in one segment: a serialized model holds at most 2 GiB, and is held twice while a session opens."""


class RuntimeSegments:
    """The grouping of a :class:`~amctc.interp.Plan` in which ONNX Runtime computes what it can of ``profile``'s rules.

    Segments are as long as the graph allows: an op that cannot join goes before the segment unless it reads from it.
    One without a product of integers is not worth the way, its ops stay alone.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def __call__(
        self, ops: Sequence[Op], constants: Mapping[Value, Array], kept: Collection[Value]
    ) -> Iterator[Op | Step]:
        """Segments and the other ops, in an order that can be run."""
        forms = RuntimeForms(self._profile, ops, constants, kept)
        readers = _readers(ops)
        joined: list[Form] = []
        inside: set[Value] = set()
        weight_bytes = 0
        for op in ops:
            if op in forms.absorbed:
                continue
            form = forms.by_op.get(op)
            full = form is not None and weight_bytes + form.weight_bytes > LARGEST_SEGMENT
            if full or (form is None and any(o in inside for o in op.operands)):
                yield from _settled(joined, readers, kept)
                joined, inside, weight_bytes = [], set(), 0
            if form is None:
                yield op
            else:
                joined.append(form)
                weight_bytes += form.weight_bytes
                inside.update(op.results)
        yield from _settled(joined, readers, kept)


def _settled(joined: Sequence[Form], readers: Mapping[Value, set[Op]], kept: Collection[Value]) -> Iterator[Op | Step]:
    """A segment, or its ops alone."""
    ops = [op for form in joined for op in form.ops]
    if not any(form.weight_bytes for form in joined):
        yield from ops
        return
    computed, members = {r for op in ops for r in op.results}, set(ops)
    read = dict.fromkeys(o for op in ops for o in op.operands if o is not None and o not in computed)
    inputs = [o for o in read if o.producer is None or not isinstance(o.producer.kind, Constant)]
    outputs = [r for op in ops for r in op.results if r in kept or not readers.get(r, set()) <= members]
    writer = SegmentWriter()
    for form in joined:
        form.emit(writer)
    yield Step(tuple(ops), tuple(inputs), tuple(outputs), Segment(writer, inputs, outputs))


def _readers(ops: Sequence[Op]) -> dict[Value, set[Op]]:
    found: dict[Value, set[Op]] = {}
    for op in ops:
        for operand in op.operands:
            if operand is not None:
                found.setdefault(operand, set()).add(op)
    return found
