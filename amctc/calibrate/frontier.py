"""Run a graph piece by piece over samples while it is being rewritten.

A pass that treats layer after layer, each on what the layers before it now give, would run the whole network once per
layer. Here the values it has reached wait in temporary files, and each piece starts from them: every op runs about
once. Memory stays bounded by the batch, disk by the values that later pieces read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from amctc.calibrate.inputs import no_samples
from amctc.errors import InputError
from amctc.files.scratch import ScratchFile
from amctc.ir import Constant, Graph, GraphInput, Op, Value, with_operands
from amctc.onnx_bridge.runtime import FloatSession
from amctc.types import Array


class Frontier:
    """Values of a growing graph over all samples.

    ``samples`` is iterated as often as a value must be computed from the graph inputs; its batches ``{input name:
    array}`` are the batches of everything. ONNX Runtime computes on ``provider``, each op as it is written: optimised,
    quantized graphs may differ by a step. Raises :class:`UsageError` without samples.
    """

    def __init__(self, samples: Iterable[Mapping[str, Array]], provider: str = "cpu") -> None:
        self._samples, self._provider = samples, provider
        self._stored: dict[Value, _Spool] = {}

    def store(self, value: Value) -> None:
        """Compute ``value`` over all samples and keep it."""
        if value not in self._stored:
            spool = _Spool()
            for array in self._computed(value):
                spool.append(array)
            self._stored[value] = spool

    @property
    def rows(self) -> int:
        """The length of the first axis of what is kept, over all batches: the samples, in most networks."""
        return max((spool.rows for spool in self._stored.values()), default=0)

    def drop(self, value: Value) -> None:
        """Let go of a kept value; no-op for others."""
        self._stored.pop(value, None)

    def read(self, value: Value) -> Iterator[Array]:
        """The arrays of ``value``, batch by batch."""
        return iter(self._stored[value]) if value in self._stored else self._computed(value)

    def _computed(self, value: Value) -> Iterator[Array]:
        piece, kept = self._piece(value)
        session = FloatSession(piece, optimise=False, provider=self._provider)
        fed = [i for i in piece.inputs if i not in kept.values()]
        readers = {placeholder.name: iter(self._stored[v]) for v, placeholder in kept.items()}
        batches: Iterable[Mapping[str, Array]] = self._samples
        if not fed:
            batches = ({} for _ in range(len(self._stored[next(iter(kept))]) if kept else 1))
        empty = True
        for feeds in batches:
            empty = False
            given = {i.name: fed_array(i, feeds) for i in fed}
            yield session.run({**given, **{name: next(reader) for name, reader in readers.items()}})["value"]
        if empty:
            raise no_samples()

    def _piece(self, value: Value) -> tuple[Graph, dict[Value, GraphInput]]:
        """The graph that computes ``value`` from kept values and graph inputs."""
        kept: dict[Value, GraphInput] = {}
        inputs: dict[GraphInput, None] = {}
        done: dict[Value, Value] = {}
        stack = [value]
        while stack:
            top = stack[-1]
            if top in done:
                stack.pop()
            elif top in self._stored:
                done[top] = kept.setdefault(top, GraphInput(f"kept/{len(kept)}", top.type))
            elif isinstance(top, GraphInput):
                inputs[top] = None
                done[top] = top
            else:
                op = top.producer
                assert op is not None
                missing = [o for o in op.operands if o is not None and o not in done]
                stack.extend(missing)
                if not missing:
                    done.update(zip(op.results, _rebuilt(op, done).results, strict=True))
        return Graph((*inputs, *kept.values()), (done[value],), ("value",)), kept


def _rebuilt(op: Op, done: Mapping[Value, Value]) -> Op:
    if isinstance(op.kind, Constant):
        return op
    operands = tuple(None if o is None else done[o] for o in op.operands)
    same = all(a is b for a, b in zip(operands, op.operands, strict=True))
    return op if same else with_operands(op, operands)


def watched(
    graph: Graph,
    values: Sequence[Value],
    samples: Iterable[Mapping[str, Array]],
    provider: str = "cpu",
    *,
    done: int = 0,
) -> Iterator[dict[Value, Array]]:
    """The arrays of ``values`` of a float graph, batch by batch behind the first ``done``.

    Raises :class:`UsageError` without samples.
    """
    computed = [v for v in values if not isinstance(v, GraphInput)]
    session = FloatSession(graph.with_outputs((), ()), computed, provider=provider) if computed else None
    empty = not done
    for feeds in islice(samples, done, None):
        empty = False
        fed = {i.name: fed_array(i, feeds) for i in graph.inputs}
        arrays = session.run_values(fed) if session is not None else {}
        yield {v: fed_array(v, feeds) if isinstance(v, GraphInput) else arrays[v] for v in values}
    if empty:
        raise no_samples()


def fed_array(value: GraphInput, feeds: Mapping[str, Array]) -> Array:
    """What a batch holds for a graph input, or its default; :class:`InputError` where there is neither."""
    if value.name in feeds:
        return feeds[value.name]
    if value.default is None:
        raise InputError(f"the samples have no input {value.name!r}", remedy=f"they have {', '.join(feeds)}")
    return value.default.read()


class _Spool:
    """Arrays kept on disk, in order."""

    def __init__(self) -> None:
        self._file = ScratchFile("activations")
        self._arrays: list[tuple[int, tuple[int, ...], np.dtype[np.generic]]] = []

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def rows(self) -> int:
        return sum(shape[0] if shape else 1 for _, shape, _ in self._arrays)

    def append(self, array: Array) -> None:
        self._arrays.append((self._file.append(array), array.shape, array.dtype))

    def __iter__(self) -> Iterator[Array]:
        return (self._file.read(*place) for place in self._arrays)
