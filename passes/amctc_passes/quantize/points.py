"""Quantization points, operands that get a quantizer: what ``observe`` observes and ``place-qdq`` quantizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from amctc.errors import UsageError
from amctc.ir import Graph, Op, Value, layer_name
from amctc.ops import nn
from amctc.targets import Profile
from amctc.types import F32
from amctc_passes.quantize.layers import integer_obstacle, is_constant, matching

TENSOR_KINDS = (nn.Add, nn.MaxPool)
"""Op kinds whose inputs are quantized on request: they compute on what the integers stand for."""


class Point(NamedTuple):
    """An operand in front of which a quantizer may stand: operand number ``position`` of ``op``."""

    op: Op
    position: int

    @property
    def value(self) -> Value:
        """What is read there."""
        value = self.op.operands[self.position]
        assert value is not None
        return value


@dataclass(frozen=True)
class QuantizableOp:
    """An op of a kind that runs on integers, with its points.

    ``obstacle`` says why this one cannot, ``None`` when it can. ``symmetric``: the target multiplies it without
    offsets only.
    """

    op: Op
    points: tuple[Point, ...]
    obstacle: str | None
    symmetric: bool = False


def quantizable_ops(graph: Graph, target: Profile, tensor: Sequence[str] = ()) -> list[QuantizableOp]:
    """The ops a quantizer may stand in front of, in topological order.

    These are the layers, each with its data input and a product of two computed matrices with both, average pools,
    and the additions and max pools that ``tensor`` names: by name with wildcards, ``name:1`` for one input alone. A
    pattern that matches none raises :class:`UsageError`.
    """
    requested = _requested(graph, tensor)
    found: list[QuantizableOp] = []
    for op in graph.ops:
        if isinstance(op.kind, nn.Layer | nn.AveragePool):
            points: tuple[Point, ...] = (Point(op, 0), *((Point(op, 1),) if two_sided(op) else ()))
            found.append(QuantizableOp(op, points, integer_obstacle(op, target), symmetric=two_sided(op)))
        elif op in requested:
            points = tuple(Point(op, position) for position in requested[op])
            found.append(QuantizableOp(op, points, _tensor_obstacle(points[0].value, target)))
    return found


def two_sided(op: Op) -> bool:
    """True for a product of two computed matrices, which the target multiplies symmetrically (Layers)."""
    return isinstance(op.kind, nn.MatMul) and not is_constant(op, 0) and not is_constant(op, 1)


def tensor_ops(graph: Graph) -> Iterator[Op]:
    """The ops whose inputs can be quantized on request."""
    return (op for op in graph.ops if isinstance(op.kind, TENSOR_KINDS) and op.results[0].type.is_float)


def _requested(graph: Graph, patterns: Sequence[str]) -> dict[Op, tuple[int, ...]]:
    """The operand numbers that ``patterns`` name, by op; constants need no quantizer."""
    ops = list(tensor_ops(graph)) if patterns else []
    names = [layer_name(op) for op in ops]
    found: dict[Op, set[int]] = {}
    for pattern in patterns:
        name, _, index = pattern.rpartition(":")
        one = index.isdigit() and bool(name) and pattern not in names
        hits = matching(names, [name if one else pattern], "tensor", noun="addition or max pool")
        points = [(op, i) for op, n in zip(ops, names, strict=True) if n in hits for i in _inputs(op)]
        chosen = [(op, i) for op, i in points if not one or i == int(index)]
        if one and not chosen:
            raise UsageError(f"tensor {pattern!r} names no computed input", remedy="inputs are counted from 0")
        for op, i in chosen:
            found.setdefault(op, set()).add(i)
    return {op: tuple(sorted(positions)) for op, positions in found.items()}


def _inputs(op: Op) -> Iterator[int]:
    return (i for i in range(len(op.operands)) if not is_constant(op, i))


def _tensor_obstacle(value: Value, target: Profile) -> str | None:
    if "i8" not in target.storage:
        return f"{target.name} does not compute in int8"
    return None if value.type.elem == F32 else f"activations are {value.type.elem}"
