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
    rebuild = _Rebuild(graph, replacements)
    outputs = tuple(map(rebuild.value, graph.outputs))
    if outputs == graph.outputs:
        return graph
    return graph.with_outputs(outputs, order=tuple(rebuild.order) if rebuild.is_closed else None)


class _Rebuild:
    """One rebuilding, iterative and memoised, from the outputs: what nothing reads any more is not built.

    ``order`` holds the ops of the result in the order of :attr:`Graph.ops`, for both walk from the outputs alike. The
    result ``is_closed`` if it reads no input but the graph's own.
    """

    def __init__(self, graph: Graph, replacements: Mapping[Value, Value]) -> None:
        self._old = set(graph.ops)
        self._done: dict[Value, Value] = {i: i for i in graph.inputs if i not in replacements}
        self._replacements = {old: self._apart(old, new) for old, new in replacements.items()}
        self._names: dict[Value, str] = {}
        for old, new in self._replacements.items():
            if old.name is not None and new.name is None and new.producer not in self._old:
                self._names.setdefault(new, old.name)
        self._ops: dict[Op, Op] = {}
        self._entered = set[Value]()
        self.order: list[Op] = []
        self.is_closed = True

    def value(self, root: Value) -> Value:
        """What stands for ``root`` in the result."""
        done, replacements, entered, stack = self._done, self._replacements, self._entered, [root]
        while stack:
            value = stack[-1]
            if value in done:
                stack.pop()
                continue
            new, op = replacements.get(value), value.producer
            read = (new,) if new is not None else () if op is None else op.operands
            needs = [v for v in read if v is not None and v not in done]
            if not needs:
                done[value] = done[new] if new is not None else self._result(value, op)
                stack.pop()
                continue
            if value in entered:
                raise VerificationError("a replacement depends on what it replaces through another", rule="G3")
            entered.add(value)
            needs.reverse()
            stack += needs
        return done[root]

    def _result(self, value: Value, op: Op | None) -> Value:
        if op is None:
            self.is_closed = False
            return value
        assert isinstance(value, Result)
        rebuilt = self._ops.get(op)
        if rebuilt is None:
            done = self._done
            rebuilt = self._rebuilt(op, tuple([None if o is None else done[o] for o in op.operands]))
            self._ops[op] = rebuilt
            self.order.append(rebuilt)
        return rebuilt.results[value.index]

    def _rebuilt(self, op: Op, operands: tuple[Value | None, ...]) -> Op:
        """``op`` on other operands, results that lack a name named; ``op`` itself when neither changes anything."""
        if self._names and not self._names.keys().isdisjoint(op.results):
            names = tuple(self._names.get(r, r.name) for r in op.results)
            op = Op(op.kind, op.operands, tuple(r.type for r in op.results), names, op.origins)
        return op if operands == op.operands else with_operands(op, operands)  # values are compared by identity

    def _apart(self, key: Value, replacement: Value) -> Value:
        """``replacement``, with a value of its own for the original where it reads ``key``."""
        ops = self._new_ops(replacement)
        if replacement is not key and not [op for op in ops if key in op.operands]:
            return replacement
        if isinstance(key, Result):
            original: Value = Result(key.op, key.index, key.type, key.name)
        else:
            original = Value()
            original.name, original.type, self._done[original] = key.name, key.type, key
        apart = {key: original}
        for op in ops:
            if any(o in apart for o in op.operands if o is not None):
                operands = tuple(None if o is None else apart.get(o, o) for o in op.operands)
                apart.update(zip(op.results, with_operands(op, operands).results, strict=True))
        return apart.get(replacement, replacement)

    def _new_ops(self, replacement: Value) -> list[Op]:
        """The ops of a replacement that are not of the old graph, operands before users."""
        order: dict[Op, None] = {}
        stack = [replacement.producer]
        while stack:
            op = stack[-1]
            operands = () if op is None or op in order or op in self._old else op.operands
            needs = [p for o in operands if o is not None and (p := o.producer) not in order and p not in self._old]
            needs = [p for p in needs if p is not None]
            if needs:
                stack += needs
                continue
            if op is not None and op not in self._old:
                order[op] = None
            stack.pop()
        return list(order)


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
