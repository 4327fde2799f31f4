"""Put values in place of others: the only way a graph changes."""

from __future__ import annotations

from collections.abc import Mapping

from amctc.errors import VerificationError
from amctc.ir import Graph, Op, Result, Value, with_operands


def substitute(graph: Graph, replacements: Mapping[Value, Value]) -> Graph:
    """The graph in which every use of a key reads its replacement.

    A replacement is built over values of ``graph``; those that are keys themselves are replaced there too, except
    that a key inside its own replacement is the original (so ``{y: observe(y)}`` wraps ``y``). Ops that read no
    replaced value are kept as they are. A replacement without a name takes the name of what it replaces.
    """
    if not replacements:
        return graph
    outputs = _Rebuild(graph, replacements).all(graph.outputs)
    return graph if outputs == graph.outputs else graph.with_outputs(outputs)


_State = tuple[Value, Value | None]
"""A value to rebuild, and the key inside whose replacement it is met (``None`` outside)."""


class _Rebuild:
    """One rebuilding, iterative and memoised. ``known`` are the values of the old graph."""

    def __init__(self, graph: Graph, replacements: Mapping[Value, Value]) -> None:
        self._replacements = replacements
        self._known = set(graph.values())
        self._done: dict[_State, Value] = {}
        self._ops: dict[tuple[Op, Value | None], Op] = {}

    def all(self, roots: tuple[Value, ...]) -> tuple[Value, ...]:
        for root in roots:
            self._build((root, None))
        return tuple(self._done[root, None] for root in roots)

    def _scope(self, value: Value, inside: Value | None) -> _State:
        """Old values mean the same everywhere, except a key inside its own replacement."""
        return (value, inside) if value is inside or value not in self._known else (value, None)

    def _build(self, root: _State) -> None:
        stack, open_ = [root], set[_State]()
        while stack:
            state = stack[-1]
            if state in self._done:
                stack.pop()
                continue
            needs = [n for n in self._needs(state) if n not in self._done]
            if needs:
                if state in open_:
                    raise VerificationError("a replacement depends on what it replaces through another", rule="G3")
                open_.add(state)
                stack.extend(needs)
                continue
            self._done[state] = self._finish(state)
            open_.discard(state)
            stack.pop()

    def _needs(self, state: _State) -> list[_State]:
        value, inside = state
        if inside is None and value in self._replacements:
            return [self._scope(self._replacements[value], value)]
        inner = None if value is inside else inside
        return [] if value.producer is None else [
            self._scope(o, inner) for o in value.producer.operands if o is not None
        ]  # fmt: skip

    def _finish(self, state: _State) -> Value:
        value, inside = state
        if inside is None and value in self._replacements:
            new = self._done[self._scope(self._replacements[value], value)]
            return _named(new, value.name) if new not in self._known else new
        op = value.producer
        if op is None:
            return value
        assert isinstance(value, Result)
        inner = None if value is inside else inside
        if (op, inner) not in self._ops:
            operands = tuple(None if o is None else self._done[self._scope(o, inner)] for o in op.operands)
            same = all(a is b for a, b in zip(operands, op.operands, strict=True))
            self._ops[op, inner] = op if same else with_operands(op, operands)
        return self._ops[op, inner].results[value.index]


def _named(value: Value, name: str | None) -> Value:
    """A new value under ``name`` if it has none of its own."""
    if not isinstance(value, Result) or value.name is not None or name is None:
        return value
    op = value.op
    names = tuple(name if r is value else r.name for r in op.results)
    return Op(op.kind, op.operands, tuple(r.type for r in op.results), names, op.origins).results[value.index]
