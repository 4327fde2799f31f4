"""What a converter sees of a node, and which operands it can be asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, helper

from amctc.ir import Op, Origins, Result, Value, build, constant_data
from amctc.onnx_bridge.fields import NodeFields
from amctc.schema import OpKind
from amctc.types import Array, QuantizedType, TensorType


class Carry(Exception):
    """Raised inside a converter under one of the decorators below: the node is carried; the message says why."""


@dataclass(eq=False)
class NodeView:
    """A node with its operands resolved to values and its attributes to Python values."""

    node: NodeFields
    operands: tuple[Value | None, ...]
    version: int
    origins: Origins = ()

    _attributes: dict[str, Any] | None = None  # functools.cached_property takes a lock

    @property
    def attributes(self) -> dict[str, Any]:
        """Attribute values by name; strings decoded."""
        if self._attributes is None:
            self._attributes = {a.name: _contents(a) for a in self.node.attribute if a.type != AttributeProto.GRAPH}
        return self._attributes

    def operand(self, index: int) -> Value | None:
        """The operand at ``index``, ``None`` when absent."""
        return self.operands[index] if index < len(self.operands) else None

    def type(self, index: int = 0) -> TensorType:
        """Type of a present operand."""
        value = self.operands[index]
        assert value is not None
        return value.type

    def array(self, index: int) -> Array | None:
        """The operand's contents if it is a constant."""
        data = constant_data(self.operand(index))
        return None if data is None else data.read()

    def integers(self, name: str, index: int) -> tuple[int, ...] | None:
        """Integers given as attribute ``name`` or, in newer opsets, as the constant operand ``index``.

        ``None`` where they are absent; raises :class:`Carry` where they are computed.
        """
        if name in self.attributes:
            return tuple(int(v) for v in self.attributes[name])
        if self.operand(index) is None:
            return None
        array = self.array(index)
        if array is None:
            raise Carry(f"{name} is computed")
        return tuple(int(v) for v in array.ravel())

    @property
    def spatial(self) -> int:
        """Spatial axes of the first operand."""
        return self.type().rank - 2


def _contents(attribute: AttributeProto) -> Any:
    if attribute.type == AttributeProto.INTS:  # as nearly all are
        return attribute.ints[:]
    value = helper.get_attribute_value(attribute)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


Converted = tuple[OpKind, Sequence[Value | None]] | Result | None
"""A kind with its operands, a finished value where one op stands for several nodes, ``None``: the node is carried."""

Converter = Callable[[NodeView], Converted]


def _only(accepts: Callable[[NodeView], bool], converter: Converter) -> Converter:
    def convert(view: NodeView) -> Converted:
        try:
            return converter(view) if accepts(view) else None
        except Carry:
            return None

    return convert


def _is_float(value: Value | None) -> bool:
    return value is None or (value.type.is_float and value.type.shape is not None)


def _is_ranked(value: Value | None) -> bool:
    return value is None or value.type.shape is not None


def _one_scale(operands: Sequence[Value | None]) -> bool:
    elems = {o.type.elem for o in operands if o is not None}
    return len(elems) == 1 and all(not isinstance(e, QuantizedType) or e.axis is None for e in elems)


def floats(converter: Converter) -> Converter:
    """Only where all operands are floats of known rank: what the nn dialect computes with."""
    return _only(lambda v: all(map(_is_float, v.operands)), converter)


def float_data(converter: Converter) -> Converter:
    """Only where the first operand is a float of known rank; others are parameters of any type."""
    return _only(lambda v: _is_float(v.operands[0]), converter)


def ranked(converter: Converter) -> Converter:
    """Only where all ranks are known."""
    return _only(lambda v: all(map(_is_ranked, v.operands)), converter)


def uniform(converter: Converter) -> Converter:
    """Ranked operands of one element type, none with scales per channel: what ops that move elements take."""
    return _only(lambda v: all(map(_is_ranked, v.operands)) and _one_scale(v.operands), converter)


def moved(converter: Converter) -> Converter:
    """Like :func:`uniform` for the first operand alone; others, of known rank, say how its elements move."""
    return _only(lambda v: all(map(_is_ranked, v.operands)) and _one_scale(v.operands[:1]), converter)


def build_named(kind: OpKind, operands: Sequence[Value | None], outputs: Sequence[str], origins: Origins) -> Op:
    """The op that a converter decided on, its results called after a node's ``outputs`` (empty: nobody reads it)."""
    if len(outputs) == 1:
        return build(kind, *operands, names=(outputs[0] or None,), origins=origins)
    op = build(kind, *operands, origins=origins)
    types = tuple(r.type for r in op.results)
    return Op(op.kind, op.operands, types, tuple(n or None for n in outputs[: len(types)]), op.origins)
