"""Cut a network into blocks: parts with one way in and one way out, such as residual blocks."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from amctc.analysis import uses
from amctc.ir import Constant, Graph, Op, Value, layer_name
from amctc.ops import nn


@dataclass(frozen=True)
class Block:
    """What ``exit`` is computed with from ``entry``: ``ops``, operands before users, constants among them.

    Whatever lies between is read inside only. ``layers`` are those of the layers asked for that it holds.
    """

    entry: Value
    exit: Value
    ops: tuple[Op, ...]
    layers: tuple[Op, ...]

    @property
    def name(self) -> str:
        """What reports call it: its last layer."""
        return layer_name(self.layers[-1])


def blocks_of(graph: Graph, chosen: Collection[Op], largest: int) -> list[Block]:
    """Disjoint blocks that hold the layers ``chosen``, in the order of their last layers.

    The largest single-entry single-exit regions with at most ``largest`` of these layers: residual blocks, with what
    splits and joins in them. Any other layer is a block of its own. An activation that alone reads the exit belongs to
    the block.
    """
    wanted = frozenset(chosen)
    regions = (_region(graph, exit, entry, wanted, largest) for exit, entry in _dominators(graph).items())
    joined = sorted((r for r in regions if r is not None and len(r.layers) > 1), key=lambda r: -len(r.ops))
    found: list[Block] = []
    taken: set[Op] = set()
    for block in (*joined, *(_layer_block(graph, op) for op in chosen)):
        computing = {op for op in block.ops if not isinstance(op.kind, Constant)}
        if taken.isdisjoint(computing):
            found.append(block)
            taken |= computing
    place = {op: i for i, op in enumerate(graph.ops)}
    return sorted(found, key=lambda block: place[block.layers[-1]])


def _layer_block(graph: Graph, op: Op) -> Block:
    entry = op.operands[0]
    assert entry is not None
    exit = _behind_activation(graph, op.result)
    return Block(entry, exit, tuple(_between(entry, exit)), (op,))


def _region(graph: Graph, exit: Value, entry: Value | None, wanted: frozenset[Op], largest: int) -> Block | None:
    """The region that ends with ``exit``, unless something between is read outside or too many layers are in it."""
    if entry is None:
        return None
    ops: list[Op] = []
    layers: list[Op] = []
    exit = _behind_activation(graph, exit)
    for op in _between(entry, exit):
        ops.append(op)
        layers += [op] if op in wanted else []
        if len(layers) > largest:
            return None
    inside, readers = set(ops), uses(graph)
    computing = (r for op in ops if not isinstance(op.kind, Constant) for r in op.results if r is not exit)
    closed = all(use.op in inside for r in computing for use in readers.get(r, ()))
    return Block(entry, exit, tuple(ops), tuple(layers)) if closed else None


def _behind_activation(graph: Graph, value: Value) -> Value:
    """What an activation makes of ``value`` before anything else reads it; else ``value``."""
    readers = uses(graph).get(value, ())
    op = readers[0].op if len(readers) == 1 else None
    return op.result if op is not None and isinstance(op.kind, nn.Activation) else value


def _between(entry: Value, exit: Value) -> Iterator[Op]:
    """The ops that compute ``exit`` from ``entry`` and constants, operands before users."""
    done: set[Op] = set()
    stack = [exit.producer]
    while stack:
        op = stack[-1]
        if op is None or op in done:
            stack.pop()
            continue
        missing = [o.producer for o in op.operands if o is not None and o is not entry and o.producer not in done]
        missing = [p for p in missing if p is not None]
        stack += missing[::-1]
        if not missing:
            done.add(op)
            yield op


def _dominators(graph: Graph) -> dict[Value, Value | None]:
    """For each computed value the next one before it that all ways to it lead through, ``None`` where there is none.

    One round in topological order finds them (Cooper, Harvey and Kennedy 2001).
    """
    found: dict[Value, Value | None] = dict.fromkeys(graph.inputs)
    depth: dict[Value | None, int] = {None: 0, **dict.fromkeys(graph.inputs, 1)}

    def common(a: Value | None, b: Value | None) -> Value | None:
        while a is not b:
            if depth[a] < depth[b]:
                a, b = b, a
            assert a is not None
            a = found[a]
        return a

    for op in graph.ops:
        sources: list[Value | None] = [o for o in op.operands if o in depth and o is not None]
        for result in op.results if sources else ():
            found[result] = functools.reduce(common, sources)
            depth[result] = depth[found[result]] + 1
    return found
