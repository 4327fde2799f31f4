"""What layers read, from samples, while the graph around them is being rewritten in topological order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from amctc.calibrate.contraction import Contraction
from amctc.calibrate.frontier import Frontier
from amctc.ir import Op, Value
from amctc.ops import nn
from amctc.pipeline import Context
from amctc.types import Array
from amctc_passes.quantize.reference import before_quantizer


class LayerInputs:
    """The data of the layers ``chosen``, as columns of matrix products (:mod:`amctc.calibrate.contraction`).

    Each layer is announced by :meth:`arrive`, in the order of ``chosen``, read as often as needed, and left by
    :meth:`leave`. About ``columns`` windows of each are drawn, spread over the samples: by the seed, the layer and the
    number of the row, so that two such walks over the same samples draw the same.
    """

    def __init__(self, chosen: Sequence[Op], context: Context, source: str, columns: int) -> None:
        self._context, self._columns = context, columns
        self._frontier = Frontier(context.calibration(source), context.provider)
        self._index = {op: i for i, op in enumerate(chosen)}
        self._released = _last_readers(chosen)
        self._built: dict[Value, Value] = {}

    def arrive(self, op: Op, data: Value | None, *, stored: bool = True) -> None:
        """The layer ``op`` will read ``data``, which is computed and ``stored`` unless nobody will ask."""
        assert data is not None
        self._built[before_quantizer(op.operands[0])] = before_quantizer(data)
        if stored:
            self._frontier.store(before_quantizer(data))

    def leave(self, op: Op) -> None:
        """Let go of what no later layer starts from."""
        for value in self._released.get(op, ()):
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
            yield x, contraction.columns(x, self._spread(op, seen, x, contraction.positions(x), share))
            seen += len(x)

    def _spread(self, op: Op, first: int, x: Array, positions: int, share: int) -> npt.NDArray[np.int64]:
        """Which windows of each row of ``x`` count [N, P]: drawn by the number of the row, whatever its batch."""
        seeds = ([self._context.seed, self._index[op], first + i] for i in range(len(x)))
        drawn = [np.random.default_rng(s).permutation(positions)[:share] for s in seeds]
        return np.array(drawn, np.int64).reshape(len(x), min(share, positions))


def contraction_of(op: Op) -> Contraction:
    """A layer with a weight of known shape as a matrix product."""
    weight = op.operands[1]
    assert isinstance(op.kind, nn.Layer)
    assert weight is not None
    return Contraction(op.kind, tuple(d for d in weight.type.dims if isinstance(d, int)))


def _last_readers(chosen: Sequence[Op]) -> dict[Op, list[Value]]:
    """Per layer, the kept values (of the old graph) from which no later piece starts."""
    kept: set[Value] = set()
    last: dict[Value, Op] = {}
    for op in chosen:
        value = before_quantizer(op.operands[0])
        stack, seen = [value], set[Value]()
        while stack:
            top = stack.pop()
            if top in kept:
                last[top] = op
            elif top not in seen and top.producer is not None:
                seen.add(top)
                stack.extend(o for o in top.producer.operands if o is not None)
        kept.add(value)
        last[value] = op
    found: dict[Op, list[Value]] = {}
    for value, op in last.items():
        found.setdefault(op, []).append(value)
    return found
