"""Put values in place of others: the only way a graph changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from amctc.errors import VerificationError
from amctc.ir import Graph, Op, Result, Value, provenance, with_operands


def substitute(graph: Graph, replacements: Mapping[Value, Value]) -> Graph:
    """The graph in which every use of a key reads its replacement.

    A replacement is built over values of ``graph``; those that are keys themselves are replaced there too, except
    that a key inside its own replacement is the original (so ``{y: observe(y)}`` wraps ``y``). Ops that read no
    replaced value are kept as they are. A new value without a name takes the name of what it replaces first.
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
        self._ops: dict[tuple[Op, tuple[Value | None, ...]], Op] = {}
        self._names: dict[Value, str] = {}
        for old, new in replacements.items():
            if old.name is not None and new.name is None and new not in self._known:
                self._names.setdefault(new, old.name)

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
            return self._done[self._scope(self._replacements[value], value)]
        op = value.producer
        if op is None:
            return value
        assert isinstance(value, Result)
        inner = None if value is inside else inside
        operands = tuple(None if o is None else self._done[self._scope(o, inner)] for o in op.operands)
        if (op, operands) not in self._ops:  # met inside several replacements, an op is still rebuilt once
            self._ops[op, operands] = self._rebuilt(op, operands)
        return self._ops[op, operands].results[value.index]

    def _rebuilt(self, op: Op, operands: tuple[Value | None, ...]) -> Op:
        """``op`` on other operands, results that lack a name named; ``op`` itself when neither changes anything."""
        if any(r in self._names for r in op.results):
            names = tuple(self._names.get(r, r.name) for r in op.results)
            op = Op(op.kind, op.operands, tuple(r.type for r in op.results), names, op.origins)
        same = all(a is b for a, b in zip(operands, op.operands, strict=True))
        return op if same else with_operands(op, operands)


Conversion = Callable[[Op, tuple[Value | None, ...]], Sequence[Value] | None]
"""Gets an op and its converted operands; gives its converted results, or ``None`` to keep the op on new operands."""


def convert(graph: Graph, conversion: Conversion) -> Graph:
    """Rebuild a graph op by op in topological order: how a graph moves from one dialect to another.

    Unlike :func:`substitute` types may change on the way. Results keep their names and ops their origins: ops built
    by ``conversion`` descend from the op they convert. The same graph comes back where nothing changed.
    """
    values: dict[Value, Value] = {i: i for i in graph.inputs}
    seen: set[Op | None] = set()
    for op in graph.ops:
        operands = tuple(None if o is None else values[o] for o in op.operands)
        with provenance(op.origins):
            results = conversion(op, operands)
        if results is None:
            same = all(a is b for a, b in zip(operands, op.operands, strict=True))
            results = (op if same else with_operands(op, operands)).results
        values.update(zip(op.results, _named(op.results, results, seen), strict=True))
        seen.update(values[r].producer for r in op.results)
    outputs = tuple(values[o] for o in graph.outputs)
    return graph if outputs == graph.outputs else graph.with_outputs(outputs)


def _named(old: Sequence[Value], new: Sequence[Value], kept: set[Op | None]) -> list[Value]:
    """``new`` with those that have no name under that of ``old``; ops of ``kept`` are left as they are."""
    names: dict[Value, str] = {}
    for was, now in zip(old, new, strict=True):
        if was.name is not None and now.name is None and now.producer is not None and now.producer not in kept:
            names.setdefault(now, was.name)
    ops: dict[Op | None, Op] = {}
    for op in dict.fromkeys(value.producer for value in names):
        assert op is not None
        types, own = tuple(r.type for r in op.results), tuple(names.get(r, r.name) for r in op.results)
        ops[op] = Op(op.kind, op.operands, types, own, op.origins)
    return [ops[v.op].results[v.index] if isinstance(v, Result) and v.op in ops else v for v in new]
