"""Check the invariants of a graph.

Most broken graphs cannot be built. This checks what a graph is after it was assembled from raw :class:`~amctc.ir.Op`
objects, read from a damaged file, or returned by a pass of somebody else:

====  ==========================================================================================
G1    interface names are unique and not empty, one per output
G2    every value in use is a result of the op it names or one of the graph's inputs
G3    no value depends on itself
G4    an op's results name that op and their place among its results
G5    operands come in the declared number, and result types are what the op infers from them
      (a carried op's count only, once its operands' types are not those it was imported with)
G6    constants and defaults of inputs have the element type and shape of their type; ``deep``: so
      has what is read, and stored integers lie inside the storage range
G7    types keep their own rules T1 to T8 (:mod:`amctc.types`)
====  ==========================================================================================

A symbolic dimension comes from an input or a carried op: by G5 no other op can bring one in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import zip_longest

from amctc.collector import collector_paused
from amctc.data import Data
from amctc.errors import AmctcError, InputError, VerificationError
from amctc.ir import Constant, Graph, GraphInput, Op, Result, Value, layer_name
from amctc.ops import onnx
from amctc.text import excerpt
from amctc.types import QuantizedType, TensorType, shapes_agree


def verify(graph: Graph, *, deep: bool = False) -> None:
    """Raise the first violation: :class:`VerificationError` (G…) or :class:`TypeConstraintError` (T…, C…).

    ``deep`` also reads every constant, one at a time. Takes time linear in the graph.
    """
    with collector_paused():
        for error in violations(graph, deep=deep):
            raise error


def violations(graph: Graph, *, deep: bool = False) -> Iterator[AmctcError]:
    """All violations, the interface's first, then by topological order of the ops; G2 and G3 end the search."""
    yield from _interface(graph)
    for value in graph.inputs:
        try:
            _check_type(value.type)
            if value.default is not None:
                _check_data(value.default, value.type, deep)
        except InputError as error:
            yield error.located(f"input {value.name}")
    try:
        ops = _ordered(graph)
    except VerificationError as error:
        yield error
        return
    sound: dict[int, TensorType] = {}  # by identity, for graphs share types
    for op in ops:
        try:
            _check_op(op, deep, sound)
        except InputError as error:
            with suppress(TypeError, ValueError):  # broken types and attributes may have no text
                error.detail = excerpt(graph, op)
            yield error.located(layer_name(op))


def _interface(graph: Graph) -> Iterator[VerificationError]:
    if len(graph.outputs) != len(graph.output_names):
        yield VerificationError(f"{len(graph.outputs)} outputs with {len(graph.output_names)} names", rule="G1")
    for side, names in (("inputs", tuple(i.name for i in graph.inputs)), ("outputs", graph.output_names)):
        if bad := [name for name, count in Counter(names).items() if count > 1 or not name]:
            yield VerificationError(f"{side} named {', '.join(map(repr, bad))} lack a name of their own", rule="G1")


def _ordered(graph: Graph) -> Sequence[Op]:
    """The ops, operands before users. Unlike :attr:`Graph.ops` it survives a cycle (G3)."""
    if (known := graph.known_order) is not None and _is_order(graph, known):
        return known
    inputs = frozenset(graph.inputs)
    order: list[Op] = []
    finished: dict[Op, bool] = {}  # False while the op's operands are being visited
    stack = [op for v in reversed(graph.outputs) if (op := _producer(v, inputs, None)) is not None]
    while stack:
        op = stack[-1]
        if op in finished:
            stack.pop()
            if not finished[op]:
                finished[op] = True
                order.append(op)
            continue
        finished[op] = False
        for operand in reversed(op.operands):
            needed = None if operand is None else _producer(operand, inputs, op)
            if needed is None:
                continue
            if finished.get(needed) is False:
                raise _broken("G3", f"a result of {needed.kind.op_name} depends on itself", op)
            stack.append(needed)
    return order


def _is_order(graph: Graph, order: Sequence[Op]) -> bool:
    """Whether ``order`` holds all ops once, operands before users; False also where G2 or G3 is broken."""
    before, inputs = set[Op](), frozenset(graph.inputs)
    for op in order:
        for value in op.operands:
            if value is not None and not _is_known(value, before, inputs):
                return False
        before.add(op)
    return len(before) == len(order) and all(_is_known(value, before, inputs) for value in graph.outputs)


def _is_known(value: Value, before: set[Op], inputs: frozenset[GraphInput]) -> bool:
    op = value.producer
    return value in inputs if op is None else op in before and _is_result(value, op)


def _producer(value: Value, inputs: frozenset[GraphInput], user: Op | None) -> Op | None:
    """The op that computes ``value``, ``None`` for an input of the graph."""
    op = value.producer
    if op is None and value not in inputs:
        raise _broken("G2", f"value %{value.name} is neither computed nor a graph input", user)
    if op is not None and not _is_result(value, op):
        raise _broken("G2", f"value %{value.name} is not the result of {op.kind.op_name} it says it is", user)
    return op


def _is_result(value: Value, op: Op) -> bool:
    """Whether ``op`` has ``value`` at the place that the value names."""
    assert isinstance(value, Result)
    return 0 <= value.index < len(op.results) and op.results[value.index] is value


def _broken(rule: str, what: str, op: Op | None) -> VerificationError:
    where = "a graph output" if op is None else layer_name(op)
    return VerificationError(what, rule=rule, where=where, detail=None if op is None else repr(op))


def _check_op(op: Op, deep: bool, sound: dict[int, TensorType]) -> None:
    kind, types = op.kind, tuple([r.type for r in op.results])
    for index, result in enumerate(op.results):
        if result.op is not op or result.index != index:
            raise VerificationError(f"a result of {kind.op_name} says it is another's", rule="G4")
    for type_ in types:
        if id(type_) not in sound:
            _check_type(type_)
            sound[id(type_)] = type_
    if isinstance(kind, Constant):
        _check_data(kind.data, types[0], deep)
    operands = tuple([None if o is None else o.type for o in op.operands])
    kind.check_arity(operands)
    if isinstance(kind, onnx.Node) and any(a != b for a, b in zip_longest(operands, kind.operand_types)):
        inferred = types if len(types) == len(kind.result_types) else kind.result_types
    else:
        inferred = kind.inferred(operands)
    if inferred != types:
        gives, has = ", ".join(map(str, inferred)), ", ".join(map(str, types))
        raise VerificationError(f"{kind.op_name} gives {gives}, not {has}", rule="G5")


def _check_type(type_: TensorType) -> None:
    if isinstance(type_.elem, QuantizedType):
        type_.elem.__post_init__()
    type_.__post_init__()


def _check_data(data: Data, type_: TensorType, deep: bool) -> None:
    elem = type_.elem
    array = data.read() if deep else None
    for found in (data,) if array is None else (data, array):
        same = found.dtype is elem.dtype and found.shape == type_.shape  # as nearly always
        if not same and (found.dtype != elem.dtype or not shapes_agree(found.shape, type_.shape)):
            raise VerificationError(f"{found.dtype}{list(found.shape)} data for {type_}", rule="G6")
    if array is None or not array.size or not (isinstance(elem, QuantizedType) or elem.bits < 8):
        return  # elsewhere every bit pattern is a value
    low, high = (elem.low, elem.high) if isinstance(elem, QuantizedType) else elem.integer_range
    least, most = int(array.min()), int(array.max())
    if not low <= least <= most <= high:
        raise VerificationError(f"stored integers from {least} to {most} exceed [{low}, {high}]", rule="G6")
