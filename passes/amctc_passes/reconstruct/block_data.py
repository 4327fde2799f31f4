"""What blocks read in a network that is being quantized, and what they give in the float one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amctc.calibrate.axes import batch_length
from amctc.calibrate.frontier import Frontier
from amctc.ir import Graph, Op, Value, const, with_operands
from amctc.pipeline import Batch
from amctc.types import Array
from amctc_passes.facts import is_quantized
from amctc_passes.quantize.float_twins import FloatTwin, saturated
from amctc_passes.quantize.reference import before_quantizer
from amctc_passes.reconstruct.blocks import Block
from amctc_passes.weights.layer_inputs import last_readers

Numbers = npt.NDArray[np.int64]

ROWS = 32
"""Samples that are computed together."""


@dataclass(frozen=True)
class Examples:
    """What a block reads and what it should give, as pairs of arrays: each is computed as it is.

    With ``by_row`` there is one pair, whose rows are samples that do not depend on each other.
    """

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    by_row: bool

    def __len__(self) -> int:
        return len(self.inputs[0]) if self.by_row else len(self.inputs)

    def chosen(self, numbers: Numbers) -> Iterator[tuple[Array, Array]]:
        """Inputs and outputs of the examples with these numbers."""
        if self.by_row:
            yield self.inputs[0][numbers], self.outputs[0][numbers]
        else:
            yield from ((self.inputs[i], self.outputs[i]) for i in numbers.tolist())

    @property
    def per_step(self) -> int:
        """How many hold about :data:`ROWS` samples."""
        return ROWS if self.by_row else -(-ROWS // max(1, len(np.atleast_1d(self.inputs[0]))))


class BlockData:
    """The examples of ``blocks`` of ``graph``, asked for in their order, from the first ``samples`` of ``batches``.

    ``real`` are the values of the float network by those of ``graph``.
    """

    def __init__(
        self, graph: Graph, blocks: Sequence[Block], real: Mapping[Value, Value], batches: Iterable[Batch],
        samples: int, provider: str,
    ) -> None:  # fmt: skip
        self._blocks, self._real = blocks, real
        self._rows = frozenset(i.type.dims[0] if i.type.dims else None for i in graph.inputs)
        first = _First(batches, samples)
        self._before, self._after = Frontier(first, provider), Frontier(first, provider)
        self._read = last_readers([before_quantizer(block.entry) for block in blocks])
        self._given = last_readers([real[block.exit] for block in blocks])
        self._built: dict[Value, Value] = {}

    def examples(self, number: int, built: Mapping[Value, Value]) -> Examples:
        """Those of a block; ``built`` are the values that stand for those of the graph, as far as it is rebuilt."""
        block = self._blocks[number]
        source, target = before_quantizer(block.entry), self._real[block.exit]
        self._built[source] = built[source]
        self._before.store(built[source])
        self._after.store(target)
        inputs, outputs = list(self._before.read(built[block.entry])), list(self._after.read(target))
        for value in self._read[number]:
            self._before.drop(self._built[value])
        for value in self._given[number]:
            self._after.drop(value)
        if not self._by_row(block, inputs, outputs):
            return Examples(tuple(inputs), tuple(outputs), by_row=False)
        return Examples((np.concatenate(inputs),), (np.concatenate(outputs),), by_row=True)

    def _by_row(self, block: Block, inputs: Sequence[Array], outputs: Sequence[Array]) -> bool:
        """Whether the first axis is a symbol of its own all through the block, and nothing else differs."""
        ends = {v.type.dims[0] if v.type.dims else None for v in (block.entry, block.exit)}
        if ends != self._rows or len(ends) != 1 or not all(isinstance(d, str) for d in ends):
            return False
        return all(len({a.shape[1:] for a in arrays}) == 1 for arrays in (inputs, outputs))


@dataclass(frozen=True)
class _First:
    """Whole batches that hold at least ``samples`` samples, or all there are; as often as they are asked for."""

    batches: Iterable[Batch]
    samples: int

    def __iter__(self) -> Iterator[Batch]:
        seen = 0
        for feeds in self.batches:
            yield feeds
            seen += batch_length(feeds)
            if seen >= self.samples:
                return


def float_values(graph: Graph, twins: Mapping[Op, FloatTwin], *, saturating: bool) -> dict[Value, Value]:
    """The values of the float network inside ``graph``, whose layers have the weights and biases of their ``twins``.

    Quantizers do not round; where they are ``saturating`` they still clip: tools leave activations to them.
    """
    real: dict[Value, Value] = {i: i for i in graph.inputs}
    for op in graph.ops:
        source = before_quantizer(op.results[0])
        if source is not op.results[0]:
            clips = saturating and is_quantized(op.results[0])
            real[op.results[0]] = saturated(op.results[0], real[source]) if clips else real[source]
            continue
        operands = tuple(None if o is None else real[o] for o in op.operands)
        if op in twins:
            constants = (twins[op].weight, twins[op].bias)
            operands = (operands[0], *(None if data is None else const(data) for data in constants))
        real.update(zip(op.results, with_operands(op, operands).results, strict=True))
    return real
