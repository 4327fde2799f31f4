"""Round weights under float data by what that does to the outputs of their layers, each on the data it will see."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from amctc.errors import AmctcError
from amctc.ir import Graph, Op, Value, constant_data, layer_name
from amctc.numerics.threads import single_threaded_blas
from amctc.numerics.weight_only_search import BlockScheme, RoundedWeight, weight_candidates
from amctc.pipeline import Context
from amctc.substitute import convert
from amctc.types import Array
from amctc_passes.quantize.held_back import SplitGram
from amctc_passes.weights.layer_inputs import LayerInputs, contraction_of

METHODS = ("nearest", "clip", "gptq", "clip and gptq")
Store = Callable[[Op, tuple[Value | None, ...], RoundedWeight, BlockScheme], tuple[Value, ...]]
"""The results of a layer with operands, its weight stored as integers."""


class CalibratedWeights:
    """One walk over a graph that rounds the weights of the layers of ``schemes``.

    ``clip`` and ``second_order`` say what is tried. What gives a layer the least error on the samples held back is
    taken, rounding to nearest where nothing is better.
    """

    def __init__(
        self, schemes: Mapping[Op, BlockScheme], context: Context, source: str, *, clip: bool, second_order: bool,
        columns: int,
    ) -> None:  # fmt: skip
        self._schemes, self._context, self._source = schemes, context, source
        self._clip, self._second_order = clip, second_order
        self._index = {op: i for i, op in enumerate(schemes)}
        self._inputs = LayerInputs(list(schemes), context, source, columns)
        self._collection = context.collection(source, schemes)
        self._state: dict[str, Array] = {}

    def run(self, graph: Graph, store: Store) -> Graph:
        """``graph`` with what ``store`` makes of each layer."""

        def converted(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            if op not in self._schemes:
                return None
            try:
                self._inputs.arrive(op, operands[0], stored=not self._collection.finished)
                result = store(op, operands, self._rounded(op, operands[0]), self._schemes[op])
            except AmctcError as error:
                raise error.located(layer_name(op)) from None
            self._inputs.leave(op)
            self._context.progress("rounding weights", self._index[op] + 1, len(self._index))
            return result

        with single_threaded_blas():
            result = convert(graph, converted)
        self._collection.finish()
        return result

    def _rounded(self, op: Op, data: Value | None) -> RoundedWeight:
        index = self._index[op]
        if index < self._collection.done:
            found, decibels = self._kept(op)
        else:
            found, decibels = self._best(op, data)
        self._state |= {
            f"{index} weight": found.codes, f"{index} scales": found.scales, f"{index} zeros": found.zeros,
            f"{index} method": np.array(METHODS.index(found.method), np.int64), f"{index} gain": np.array(decibels),
        }  # fmt: skip
        if index >= self._collection.done:
            self._collection.advance(lambda: self._state)
        text = "rounded to nearest: no samples held back say that anything is better"
        if found.method != METHODS[0]:
            text = f"rounded by {found.method}: {decibels:.1f} dB less noise at the output than rounded to nearest"
        self._context.note(self._source, layer_name(op), text)
        return found

    def _best(self, op: Op, data: Value | None) -> tuple[RoundedWeight, float]:
        """The candidate that the samples held back like best, and by how many decibels."""
        matrix, scheme, split = weight_matrix(op), self._schemes[op], self._split(op, data)
        tried = list(weight_candidates(matrix, split.to_choose(), scheme, clip=self._clip,
                                       second_order=self._second_order, executor=self._context.executor))  # fmt: skip
        judge = split.to_judge()
        losses = [float(judge.loss(matrix - c.real(scheme)).sum()) for c in tried]
        best = int(np.argmin(losses))
        return tried[best], 10.0 * math.log10(losses[0] / losses[best]) if losses[best] > 0 else 0.0

    def _split(self, op: Op, data: Value | None) -> SplitGram:
        contraction, scheme, seen = contraction_of(op), self._schemes[op], 0
        split = SplitGram(contraction.length, max(1, scheme.block))
        for x, columns in self._inputs.batches(op, data, contraction, split.longest):
            samples = seen + np.arange(len(x)).repeat(columns.shape[2] // max(1, len(x)))
            split.add(columns[0].T, samples)
            seen += len(x)
        return split

    def _kept(self, op: Op) -> tuple[RoundedWeight, float]:
        """What :meth:`_best` gave in the run that this one resumes."""
        index, array, length = self._index[op], self._collection.array, contraction_of(op).length
        outputs, blocks = contraction_of(op).outputs, len(self._schemes[op].blocks(length))
        method = METHODS[int(array(f"{index} method", (), np.int64))]
        scales = array(f"{index} scales", (outputs, blocks), np.float64)
        zeros, codes = (array(f"{index} {n}", s, t) for n, s, t in
                        (("zeros", (outputs, blocks), np.int64), ("weight", (outputs, length), np.int8)))  # fmt: skip
        return RoundedWeight(method, scales, zeros, codes), float(array(f"{index} gain", (), np.float64))


def weight_matrix(op: Op) -> npt.NDArray[np.float64]:
    """The constant weight of a matrix product as [O, K]."""
    data = constant_data(op.operands[1])
    assert data is not None
    return np.asarray(contraction_of(op).matrix(data.read())[0], np.float64)
