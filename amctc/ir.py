"""The persistent graph: values, ops, graphs. Nothing is ever mutated, nothing points forward.

A value is a graph input or a result of an op; an op holds its operands. A graph is its inputs and outputs, so dead
code, dangling values, cycles, stale use lists and name collisions cannot be written down. Building an op infers its
result types: an ill-typed op cannot exist either.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from amctc.data import ArrayData, Data
from amctc.errors import AmctcError, VerificationError
from amctc.schema import OpKind, register
from amctc.types import Array, Elem, ScalarType, TensorType, merge_types, require, scalar_of, shapes_agree


class Origin(NamedTuple):
    """A node of the user's model an op descends from: its name and its ONNX op type."""

    name: str
    op_type: str


Origins = tuple[Origin, ...]
_origins: ContextVar[Origins] = ContextVar("origins", default=())


class provenance:
    """Ops built inside descend from ``origins`` unless told otherwise."""

    def __init__(self, origins: Origins) -> None:
        self._new = origins

    def __enter__(self) -> None:
        self._token = _origins.set(self._new)

    def __exit__(self, *error: object) -> None:
        _origins.reset(self._token)


def union_origins(*several: Origins) -> Origins:
    """All origins once each, in order of first appearance."""
    return tuple(dict.fromkeys(origin for origins in several for origin in origins))


class Value:
    """A tensor in a graph. Compared by identity. ``name`` is a hint for reports and exported files, not an identity."""

    __slots__ = ("__weakref__", "name", "type")
    type: TensorType
    name: str | None

    @property
    def producer(self) -> Op | None:
        """The op this value is a result of, or ``None`` for a graph input."""
        return None


class GraphInput(Value):
    """A value fed from outside. ``default`` is used when nothing is fed (an ONNX initializer that is also an input)."""

    __slots__ = ("default",)
    name: str

    def __init__(self, name: str, type: TensorType, default: Data | None = None) -> None:
        self.name, self.type, self.default = name, type, default

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Result(Value):
    """The ``index``-th result of ``op``."""

    __slots__ = ("index", "op")

    def __init__(self, op: Op, index: int, type: TensorType, name: str | None) -> None:
        self.op, self.index, self.type, self.name = op, index, type, name

    @property
    def producer(self) -> Op:
        """The op this value is a result of."""
        return self.op

    def __repr__(self) -> str:
        return f"%{self.name or '?'}: {self.type} = {self.op.kind.op_name}[{self.index}]"


class Op:
    """An application of an op kind to operands. ``None`` operands are absent optional ones."""

    __slots__ = ("__weakref__", "kind", "operands", "origins", "results")

    kind: OpKind
    operands: tuple[Value | None, ...]
    results: tuple[Result, ...]
    origins: Origins

    def __init__(
        self,
        kind: OpKind,
        operands: tuple[Value | None, ...],
        types: tuple[TensorType, ...],
        names: tuple[str | None, ...],
        origins: Origins,
    ) -> None:
        self.kind, self.operands, self.origins = kind, operands, origins
        if len(types) == len(names) == 1:  # as of nearly every op
            self.results: tuple[Result, ...] = (Result(self, 0, types[0], names[0]),)
        else:
            self.results = tuple(Result(self, i, t, n) for i, (t, n) in enumerate(zip(types, names, strict=True)))

    @property
    def result(self) -> Result:
        """The only result."""
        (only,) = self.results
        return only

    def operand(self, index: int) -> Value | None:
        """The operand at ``index``, ``None`` when absent or past the end."""
        return self.operands[index] if index < len(self.operands) else None

    def __repr__(self) -> str:
        return f"{self.kind.op_name}({', '.join('_' if o is None else f'%{o.name}' for o in self.operands)})"


def build(
    kind: OpKind,
    *operands: Value | None,
    names: tuple[str | None, ...] | None = None,
    origins: Origins | None = None,
) -> Op:
    """Build an op, inferring its result types; raises :class:`TypeConstraintError` when they cannot be."""
    while operands and operands[-1] is None:
        operands = operands[:-1]
    types = tuple([None if o is None else o.type for o in operands])
    kind.check_arity(types)
    if type(kind).infer_with is OpKind.infer_with:  # as of most kinds: contents do not matter
        results = kind.inferred(types)
    else:
        results = kind.infer_with([constant_data(o) for o in operands], *types)
    if names is None:
        names = (None,) * len(results)
    kind = kind.rebound(types, results)
    return Op(kind, operands, results, names, _origins.get() if origins is None else origins)


def apply(kind: OpKind, *operands: Value | None, name: str | None = None, origins: Origins | None = None) -> Result:
    """Build an op of one result and return that result."""
    return build(kind, *operands, names=(name,), origins=origins).result


def with_operands(op: Op, operands: tuple[Value | None, ...]) -> Op:
    """``op`` on other operands: attributes, result names and origins kept, types inferred again if any changed."""
    names = tuple([r.name for r in op.results])
    if len(op.operands) == len(operands) and _same_types(op.operands, operands):
        return Op(op.kind, operands, tuple([r.type for r in op.results]), names, op.origins)
    try:
        return build(op.kind, *operands, names=names, origins=op.origins)
    except AmctcError as error:
        raise error.located(layer_name(op)) from None


def _same_types(old: tuple[Value | None, ...], new: tuple[Value | None, ...]) -> bool:
    for was, now in zip(old, new, strict=True):
        if was is now:
            continue
        if was is None or now is None or (was.type is not now.type and was.type != now.type):
            return False
    return True


@register("const")
@dataclass(frozen=True)
class Constant(OpKind):
    """A constant tensor. Its element type may be quantized: then ``data`` holds the stored integers."""

    data: Data
    elem: Elem

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1: the data is stored in the NumPy type of the element type."""
        data, elem = self.data, self.elem
        if data.dtype is not elem.dtype and data.dtype != elem.dtype:
            self.require(False, 1, f"{data.dtype} data for elements of {elem}")
        plain = type(elem) is ScalarType  # quantizers are kept as they are, though others may be equal
        return (_constant_type(data.shape, elem) if plain else TensorType(data.shape, elem),)


@functools.lru_cache(4096)
def _constant_type(shape: tuple[int, ...], elem: Elem) -> TensorType:
    """Shared, as :meth:`OpKind.inferred` shares the types of other results."""
    return TensorType(shape, elem)


def const(
    value: Array | Data | Any, elem: Elem | None = None, *, name: str | None = None, origins: Origins | None = None
) -> Result:
    """A constant value. ``elem`` defaults to the array's own type; give it for quantized or int4 contents."""
    data = value if isinstance(value, Data) else ArrayData(value)
    kind = Constant(data, scalar_of(data.dtype) if elem is None else elem)
    return Op(kind, (), kind.infer(), (name,), _origins.get() if origins is None else origins).results[0]


def constant_data(value: Value | None) -> Data | None:
    """The contents of a constant, ``None`` for any other value."""
    op = None if value is None else value.producer
    return op.kind.data if op is not None and isinstance(op.kind, Constant) else None


LAYER_OP_TYPES = frozenset({"AveragePool", "Conv", "ConvTranspose", "Gemm", "MatMul"})
"""ONNX op types whose node names name a layer: they own a weight, or have an accumulator of their own on the target."""


def layer_name(op: Op) -> str:
    """What reports call an op: the origin of its weight op, else its first origin, else its op kind."""
    for origin in op.origins:
        if origin.op_type in LAYER_OP_TYPES:
            return origin.name
    return op.origins[0].name if op.origins else op.kind.op_name


@dataclass(frozen=True, eq=False)
class Graph:
    """Inputs and outputs; everything between is reached from the outputs.

    ``output_names`` are the interface names of ``outputs``. ``metadata`` is kept from and written to the model file, so
    is ``declared``: what the file said of outputs by name, where that is more than can be inferred.
    """

    inputs: tuple[GraphInput, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...]
    name: str = "graph"
    metadata: tuple[tuple[str, str], ...] = ()
    declared: tuple[tuple[str, TensorType], ...] = ()
    _memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        require(len(self.outputs) == len(self.output_names), "G1", "as many output names as outputs")
        names = [i.name for i in self.inputs]
        require(len(set(names)) == len(names), "G1", "two graph inputs have one name")
        require(len(set(self.output_names)) == len(self.outputs), "G1", "two graph outputs have one name")

    @property
    def ops(self) -> tuple[Op, ...]:
        """All ops reached from the outputs, operands before users, in an order that only the graph determines."""
        if "ops" not in self._memo:
            self._memo["ops"] = _topological(self.outputs, frozenset(self.inputs))
        ops: tuple[Op, ...] = self._memo["ops"]
        return ops

    @property
    def known_order(self) -> tuple[Op, ...] | None:
        """:attr:`ops` where they were asked for before or are known from how the graph was made, else ``None``."""
        return self._memo.get("ops")

    def values(self) -> Iterator[Value]:
        """Graph inputs, then all results in topological order."""
        yield from self.inputs
        for op in self.ops:
            yield from op.results

    def with_outputs(
        self, outputs: tuple[Value, ...], names: tuple[str, ...] | None = None, *, order: tuple[Op, ...] | None = None
    ) -> Graph:
        """The graph that computes other outputs from the same inputs; ``order``, where known, is its :attr:`ops`."""
        names = self.output_names if names is None else names
        memo = {} if order is None else {"ops": order}
        return Graph(self.inputs, outputs, names, self.name, self.metadata, self.declared, memo)

    def output_type(self, index: int) -> TensorType:
        """What is known of an output: its value's type, with sizes that were declared and cannot be inferred."""
        type_, declared = self.outputs[index].type, dict(self.declared).get(self.output_names[index])
        fits = declared is not None and declared.elem == type_.elem and shapes_agree(declared.shape, type_.shape)
        return merge_types(type_, declared) if declared is not None and fits else type_

    def with_metadata(self, **entries: str) -> Graph:
        """The same graph with metadata entries set (``__`` in a key stands for a dot)."""
        merged = {**dict(self.metadata), **{k.replace("__", "."): v for k, v in entries.items()}}
        order = {"ops": self._memo["ops"]} if "ops" in self._memo else {}  # other facts may be about the metadata
        metadata = tuple(sorted(merged.items()))
        return Graph(self.inputs, self.outputs, self.output_names, self.name, metadata, self.declared, order)


def _topological(roots: tuple[Value, ...], inputs: frozenset[Value]) -> tuple[Op, ...]:
    """Depth-first post-order from ``roots``, left to right, without recursion."""
    order: list[Op] = []
    opened, done = set[Op](), set[Op]()  # an op is opened when its operands are put on the stack before it
    stack = [op for root in reversed(roots) if (op := _producer(root, inputs)) is not None]
    while stack:
        op = stack[-1]
        if op in opened:
            stack.pop()
            if op not in done:
                done.add(op)
                order.append(op)
            continue
        opened.add(op)
        for operand in reversed(op.operands):
            needed = None if operand is None else _producer(operand, inputs)
            if needed is not None and needed not in opened:
                stack.append(needed)
    return tuple(order)


def _producer(value: Value, inputs: frozenset[Value]) -> Op | None:
    op = value.producer
    if op is None and value not in inputs:
        raise VerificationError(f"value %{value.name} is neither computed nor a graph input", rule="G2")
    return op
