"""What small integer tensors hold that are computed from shapes: a number, a symbol or nothing known per element.

Exporters compute the target of a reshape from the shape of what they reshape. Where the batch is free no such tensor is
constant, though most of its elements are, and the rest are symbols of the type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from amctc.analysis import forward
from amctc.errors import AmctcError
from amctc.ir import Constant, Op, Value, build, const, constant_data, with_operands
from amctc.onnx_bridge.carried import integer_attributes
from amctc.ops import nn
from amctc.ops.onnx import Node
from amctc.ops.shapes import broadcast, slice_range
from amctc.schema import OpKind
from amctc.types import BOOL, I32, I64, Dim, TensorType, merge_types, shapes_agree

Contents = tuple[Dim, ...]
"""The elements of a scalar or vector. A symbol stands for a dimension, so it is not negative."""

Rule = Callable[[Op, Sequence[Contents]], "Contents | None"]

MOST = 64
"""Elements of a tensor that is followed: no shape is longer."""


@forward
def contents(value: Value, operands: tuple[Contents | None, ...]) -> Contents | None:
    """The elements of an integer or boolean scalar or vector; ``None`` for any other value."""
    op, type_ = value.producer, value.type
    small = type_.shape is not None and type_.rank <= 1 and (type_.num_elements or 0) <= MOST
    if op is None or not small or type_.elem not in (I64, I32, BOOL):
        return None
    if (data := constant_data(value)) is not None:
        return tuple(int(v) for v in data.read().reshape(-1))
    rule = NODES.get(op.kind.op_type) if isinstance(op.kind, Node) and not op.kind.domain else RULES.get(type(op.kind))
    if rule is None:
        return None
    if rule is _shape:
        return _shape(op, ())
    known = [o for o in operands if o is not None]
    found = rule(op, known) if len(known) == len(operands) else None
    return found if found is None or len(found) <= MOST else None


def _shape(op: Op, operands: Sequence[Contents]) -> Contents | None:
    assert isinstance(op.kind, Node)
    source = op.operands[0]
    assert source is not None
    if source.type.shape is None:
        return None
    between = integer_attributes(op.kind)
    return source.type.dims[between.get("start", 0) : between.get("end")]


def _same(op: Op, operands: Sequence[Contents]) -> Contents | None:
    return operands[0]


def _cast(op: Op, operands: Sequence[Contents]) -> Contents | None:
    """Between integers; symbols fit 32 bits, other numbers may not."""
    assert isinstance(op.kind, nn.Cast)
    fits = all(not isinstance(d, int) or -(1 << 31) <= d < 1 << 31 for d in operands[0])
    return operands[0] if op.kind.to == I64 or (op.kind.to == I32 and fits) else None


def _concat(op: Op, operands: Sequence[Contents]) -> Contents | None:
    return tuple(d for o in operands for d in o)


def _gather(op: Op, operands: Sequence[Contents]) -> Contents | None:
    x, indices = operands
    inside = all(isinstance(i, int) and -len(x) <= i < len(x) for i in indices)
    return tuple(x[i] for i in indices if isinstance(i, int)) if inside else None


def _slice(op: Op, operands: Sequence[Contents]) -> Contents | None:
    kind, (x,) = op.kind, operands
    assert isinstance(kind, nn.Slice)
    for start, end, step in zip(kind.starts, kind.ends, kind.steps, strict=True):
        x = tuple(x[i] for i in slice_range(len(x), start, end, step))
    return x


def _elementwise(function: Callable[..., Dim]) -> Rule:
    """A function of one element of each operand; one element goes with all."""

    def rule(op: Op, operands: Sequence[Contents]) -> Contents | None:
        length = max(map(len, operands), default=0)
        if any(len(o) not in (1, length) for o in operands):
            return None
        return tuple(_stored(function(*(o[i % len(o)] for o in operands))) for i in range(length))

    return rule


def _stored(size: Dim) -> Dim:
    """A number that int64 holds, ``None`` for others: they wrap around, and forty squares in a row fill the memory."""
    return size if not isinstance(size, int) or -(1 << 63) <= size < 1 << 63 else None


def _plus(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return a if b == 0 else b if a == 0 else None


def _minus(a: Dim, b: Dim) -> Dim:
    return a - b if isinstance(a, int) and isinstance(b, int) else a if b == 0 else None


def _times(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return a if b == 1 else b if a == 1 else None


def _over(a: Dim, b: Dim) -> Dim:
    """Rounded toward zero (ONNX Div)."""
    if isinstance(a, int) and isinstance(b, int) and b != 0:
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a if b == 1 else None


def _equal(a: Dim, b: Dim) -> Dim:
    if a is None or b is None:
        return None
    if isinstance(a, str) != isinstance(b, str):
        number = b if isinstance(b, int) else a
        return 0 if isinstance(number, int) and number < 0 else None
    return int(a == b) if a == b or isinstance(a, int) else None


def _where(condition: Dim, a: Dim, b: Dim) -> Dim:
    if condition is None:
        return a if a == b else None
    return a if condition else b


RULES: dict[type[OpKind], Rule] = {
    **dict.fromkeys((nn.Identity, nn.Unsqueeze, nn.Squeeze, nn.Reshape), _same),
    nn.Cast: _cast, nn.Concat: _concat, nn.Gather: _gather, nn.Slice: _slice, nn.Where: _elementwise(_where),
}  # fmt: skip
NODES: dict[str, Rule] = {
    "Shape": _shape, "Add": _elementwise(_plus), "Sub": _elementwise(_minus), "Mul": _elementwise(_times),
    "Div": _elementwise(_over), "Equal": _elementwise(_equal),
}  # fmt: skip
"""Integer arithmetic is carried; these are its ops that exporters compute shapes with."""


# --------------------------------------------------------------------------------------------------- what follows


def settled(op: Op, operands: tuple[Value | None, ...]) -> Sequence[Value] | None:
    """``op`` on ``operands`` as shapes settle it; ``None`` where they do not.

    That is a constant in place of elements that are all numbers, a reshape in place of a carried one whose target has
    one element that is neither a number nor the symbol of the same axis, a type for a carried Expand.
    """
    if isinstance(op.kind, Constant) or len(op.results) != 1:
        return None
    if isinstance(op.kind, Node) and not op.kind.domain and op.kind.op_type in ("Reshape", "Expand"):
        x, target = operands[:2]
        if x is None or target is None or x.type.shape is None or constant_data(target) is not None:
            return None
        dims = contents(target)
        if dims is None:
            return None
        return _reshape(op, x, dims) if op.kind.op_type == "Reshape" else _expand(op, op.kind, operands, dims)
    type_ = op.result.type
    if type_.shape is None or type_.rank > 1 or type_.elem not in (I64, I32, BOOL):
        return None
    same = all(a is b for a, b in zip(operands, op.operands, strict=True))
    found = contents((op if same else with_operands(op, operands)).result)
    if found is None or not all(isinstance(d, int) for d in found):
        return None
    array = np.asarray(found, type_.elem.dtype).reshape(() if type_.rank == 0 else -1)
    return [const(array, type_.elem, name=op.result.name, origins=op.origins)]


def _reshape(op: Op, x: Value, dims: Contents) -> Sequence[Value] | None:
    assert isinstance(op.kind, Node)
    if integer_attributes(op.kind).get("allowzero"):  # 0 would be a size
        return None
    inferred = sum(not isinstance(d, int) or d == -1 for d in dims)
    target: list[int] = []
    for axis, d in enumerate(dims):
        copied = isinstance(d, str) and inferred > 1 and axis < x.type.rank and x.type.dims[axis] == d
        target.append(d if isinstance(d, int) else 0 if copied else -1)
    if target.count(-1) > 1:
        return None
    try:
        made = build(nn.Reshape(tuple(target)), x, names=(op.result.name,), origins=op.origins)
    except AmctcError:  # the file's own declarations disagree: it stays as it came
        return None
    return made.results if shapes_agree(made.results[0].type.shape, op.result.type.shape) else None


def _expand(op: Op, kind: Node, operands: tuple[Value | None, ...], dims: Contents) -> Sequence[Value] | None:
    x = operands[0]
    assert x is not None
    try:
        type_ = merge_types(op.result.type, TensorType(broadcast(x.type.dims, dims, "Expand"), x.type.elem))
    except AmctcError:
        return None
    if type_ == op.result.type or any(isinstance(d, int) and d < 0 for d in dims):
        return None
    types = tuple(None if o is None else o.type for o in operands)
    better = replace(kind, operand_types=types, result_types=(type_,))
    return build(better, *operands, names=(op.result.name,), origins=op.origins).results
