"""What layers read, from samples, while the graph around them is being rewritten in topological order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from amctc.calibrate.contraction import Contraction
from amctc.calibrate.frontier import Frontier
from amctc.errors import AmctcError
from amctc.ir import Op, Value, layer_name
from amctc.ops import nn
from amctc.pipeline import Context
from amctc.types import Array
from amctc_passes.quantize.reference import before_quantizer


class LayerInputs:
    """The data of the layers ``chosen``, as columns of matrix products (:mod:`amctc.calibrate.contraction`).

    Each layer is announced by :meth:`arrive`, in the order of ``chosen``, read as often as needed, and left by
    :meth:`leave`. About ``columns`` windows of each are drawn, spread over the samples: by the seed and the number of
    the row, so that two such walks over the same samples draw the same, whatever the order of independent layers.
    """

    def __init__(self, chosen: Sequence[Op], context: Context, source: str, columns: int) -> None:
        self._context, self._columns = context, columns
        self._frontier = Frontier(context.calibration(source), context.provider)
        released = last_readers([before_quantizer(op.operands[0]) for op in chosen])
        self._released = dict(zip(chosen, released, strict=True))
        self._built: dict[Value, Value] = {}

    def arrive(self, op: Op, data: Value | None, *, stored: bool = True) -> None:
        """The layer ``op`` will read ``data``, which is computed and ``stored`` unless nobody will ask."""
        assert data is not None
        self._built[before_quantizer(op.operands[0])] = before_quantizer(data)
        if stored:
            self._frontier.store(before_quantizer(data))

    def leave(self, op: Op) -> None:
        """Let go of what no later layer starts from."""
        for value in self._released[op]:
            self._frontier.drop(self._built[value])

    def batches(
        self, op: Op, data: Value | None, contraction: Contraction, longest: int
    ) -> Iterator[tuple[Array, Array]]:
        """Batch by batch ``data`` whole, and its windows that count as columns [G, K, n].

        At least 4 · ``longest`` windows are wanted: a covariance of so many terms needs as many.
        """
        assert data is not None
        share = -(-max(self._columns, 4 * longest) // max(1, self._frontier.rows))
        seen = 0
        for x in map(np.atleast_2d, self._frontier.read(data)):
            yield x, contraction.columns(x, self._spread(seen, x, contraction.positions(x), share))
            seen += len(x)

    def _spread(self, first: int, x: Array, positions: int, share: int) -> npt.NDArray[np.int64]:
        """Which windows of each row of ``x`` count [N, P]: drawn by the number of the row, whatever its batch."""
        seeds = ([self._context.seed, first + i] for i in range(len(x)))
        drawn = [np.random.default_rng(s).permutation(positions)[:share] for s in seeds]
        return np.array(drawn, np.int64).reshape(len(x), min(share, positions))


@contextmanager
def at_layer(op: Op, reads: Sequence[tuple[LayerInputs, Value | None]], *, stored: bool) -> Iterator[None]:
    """The layer ``op`` has arrived at the data it ``reads``, and is left afterwards; errors inside name it."""
    try:
        for inputs, data in reads:
            inputs.arrive(op, data, stored=stored)
        yield
    except AmctcError as error:
        raise error.located(layer_name(op)) from None
    for inputs, _ in reads:
        inputs.leave(op)


def contraction_of(op: Op) -> Contraction:
    """A layer with a weight of known shape as a matrix product."""
    weight = op.operands[1]
    assert isinstance(op.kind, nn.Layer)
    assert weight is not None
    return Contraction(op.kind, tuple(d for d in weight.type.dims if isinstance(d, int)))


def last_readers(values: Sequence[Value]) -> list[list[Value]]:
    """For each of ``values``, kept one after the other, those from which nothing behind it is computed."""
    last: dict[Value, int] = {}
    for number, value in enumerate(values):
        stack, seen = [value], set[Value]()
        while stack:
            top = stack.pop()
            if top in last:
                last[top] = number
            elif top not in seen and top.producer is not None:
                seen.add(top)
                stack.extend(o for o in top.producer.operands if o is not None)
        last[value] = number
    found: list[list[Value]] = [[] for _ in values]
    for value, number in last.items():
        found[number].append(value)
    return found
