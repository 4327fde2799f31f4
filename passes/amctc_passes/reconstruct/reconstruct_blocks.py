"""Learn how weights are rounded, block by block, from what the blocks of the float network give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

import numpy as np

from amctc.analysis import use_counts
from amctc.contract import Changes, Contract
from amctc.errors import AmctcError, UnsupportedError
from amctc.ir import Graph, Op, Value, apply, const, constant_data, layer_name
from amctc.ops import nn, quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import F32, I4, I8
from amctc_passes.facts import (
    BIASES_QUANTIZED,
    NOT_LOWERED,
    TWO_OF_FOUR,
    UNOBSERVED,
    UNQUANTIZED,
    WEIGHTS_QUANTIZED,
    is_quantized,
    quantized_type,
    stored_under,
)
from amctc_passes.quantize.float_twins import FloatTwin, float_twins, real_contents
from amctc_passes.quantize.held_back import held
from amctc_passes.quantize.layers import layers
from amctc_passes.reconstruct.block_data import BlockData, Examples, float_values
from amctc_passes.reconstruct.blocks import Block, blocks_of
from amctc_passes.reconstruct.rounding_starts import Learned, Start, rounding_start, within_int32

EXTRA = "reconstruct"
"""The extra of this package that installs PyTorch."""


@register
@dataclass(frozen=True)
class ReconstructBlocks(Pass):
    """Learn how rounded weights are rounded, block by block, so that blocks give what they give in the float network.

    A block is a residual block or any other part with one way in and one way out and at most ``largest`` layers, else a
    layer. In execution order each reads what the blocks before it now give, and learns by gradient descent, in
    ``iterations`` steps on the first ``samples`` samples, which weights go up and which down (AdaRound, Nagel et al.
    2020) and, while biases are in float, these too, by the error of its output (BRECQ, Li et al. 2021). Scales stay. A
    weight takes the integer it has or the next one towards its float weight, which is that of ``Context.reference``;
    where there is none, or its layer is another, it stays. One sample in four only judges: a block that comes no nearer
    there stays as it was, and a note says so. Behind ``round-weights`` and before ``quantize-bias``. Needs PyTorch:
    ``pip install "amctc[reconstruct]"``.
    """

    iterations: int = 500
    samples: int = 128
    largest: int = 8

    name: ClassVar[str] = "reconstruct-blocks"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    contract: ClassVar[Contract] = Contract(
        effect=Changes("weights are rounded again, biases corrected"), requires=(NOT_LOWERED, UNOBSERVED),
        keeps=(WEIGHTS_QUANTIZED, BIASES_QUANTIZED, TWO_OF_FOUR), idempotent=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for option in ("iterations", "samples", "largest"):
            if getattr(self, option) < 1:
                raise ValueError(f"{option}={getattr(self, option)} is below 1")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Walk over the blocks in topological order, running the part of both networks in between."""
        chosen = [op for op in layers(graph) if _has_rounded_weight(op, graph)]
        twins = float_twins(graph, chosen, context.reference)
        starts = {op: rounding_start(op, twins[op]) for op in chosen}
        starts = {op: start for op, start in starts.items() if start.learns}
        if not starts:
            return graph
        require_torch()
        return _Walk(self, graph, twins, starts, context).run()


def require_torch() -> None:
    """Raises :class:`UnsupportedError` where PyTorch is not installed."""
    if find_spec("torch") is None:
        raise UnsupportedError("PyTorch is not installed", remedy=f'pip install "amctc[{EXTRA}]"')


def _has_rounded_weight(op: Op, graph: Graph) -> bool:
    """Whether the weight of a layer is stored in integers, symmetric, and read by this layer only."""
    weight, counts = op.operands[1], use_counts(graph)
    if weight is None or not is_quantized(weight) or counts[weight] > 1 or counts[stored_under(weight)] > 1:
        return False
    data, elem = constant_data(stored_under(weight)), quantized_type(weight)
    whole = elem.storage in (I4, I8) and not any(elem.zero_points) and not elem.block and elem.expressed == F32
    read = quantized_type(op.operands[0]) if is_quantized(op.operands[0]) else None
    bias = op.operand(2) is None or real_contents(op.operand(2)) is not None
    matrix = not isinstance(op.kind, nn.MatMul) or weight.type.rank == 2
    return data is not None and whole and matrix and bias and (read is None or len(read.scales) == 1)


def _is_float(reference: Graph | None) -> bool:
    return reference is not None and UNQUANTIZED.violation(reference) is None


class _Walk:
    """One walk over a graph."""

    def __init__(
        self, options: ReconstructBlocks, graph: Graph, twins: Mapping[Op, FloatTwin], starts: Mapping[Op, Start],
        context: Context,
    ) -> None:  # fmt: skip
        from amctc_passes.reconstruct.torch_ops import untranslated

        self._options, self._graph, self._starts, self._context = options, graph, starts, context
        self._blocks: list[Block] = []
        for block in blocks_of(graph, list(starts), options.largest):
            if (kind := untranslated(block.ops)) is None:
                self._blocks.append(block)
            else:
                self._note(block, f"left as rounded: {kind.op_name} has no form in PyTorch here")
        real = float_values(graph, twins, saturating=not _is_float(context.reference))
        self._data = BlockData(graph, self._blocks, real, context.calibration(options.name), options.samples,
                               context.provider)  # fmt: skip
        self._first = {block.layers[0]: number for number, block in enumerate(self._blocks)}
        self._built: dict[Value, Value] = {i: i for i in graph.inputs}
        self._learned: dict[Op, Learned] = {}

    def run(self) -> Graph:
        from amctc_passes.reconstruct.torch_rounding import deterministic

        with deterministic():
            return convert(self._graph, self._converted)

    def _converted(self, op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        self._built.update((old, new) for old, new in zip(op.operands, operands, strict=True) if old and new)
        if op in self._first:
            number = self._first[op]
            try:
                self._learn(self._blocks[number], self._data.examples(number, self._built))
            except AmctcError as error:
                raise error.located(layer_name(op)) from None
            self._context.progress("reconstructing blocks", number + 1, len(self._blocks))
        return self._rebuilt(op, operands) if op in self._learned else None

    def _learn(self, block: Block, examples: Examples) -> None:
        """Keep what ``block`` learns, if its output comes nearer for samples held back; if there are none, for all."""
        from amctc_passes.reconstruct.torch_rounding import BlockLearner

        starts = {op: self._starts[op] for op in block.layers}
        numbers = np.arange(len(examples))
        back = held(numbers)
        judging = numbers[back] if back.any() else numbers
        learner = BlockLearner(block, starts, examples)
        learned = learner.learned(numbers[~back], self._options.iterations, self._context.seed)
        learned = {op: within_int32(op, starts[op], found) for op, found in learned.items()}
        before, after = learner.error(judging, {}), learner.error(judging, learned)
        if after < before:
            self._learned |= learned
            gain = 10.0 * np.log10(before / after) if after else np.inf
            self._note(block, f"{_counted(block.layers)} reconstructed: {gain:.1f} dB less noise at the output")
        else:
            self._note(block, "left as rounded: reconstruction helps no samples held back")

    def _rebuilt(self, op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...]:
        learned, start = self._learned[op], self._starts[op]
        weight, bias = op.operands[1], op.operand(2)
        assert weight is not None
        stored = const(learned.integers, start.elem, name=stored_under(weight).name)
        rest = operands[2:]
        if start.learns_bias:
            rest = (const(learned.bias, name=f"{layer_name(op)}.bias" if bias is None else bias.name),)
        real = apply(quant.Dequantize(), stored, name=weight.name)
        return (apply(op.kind, operands[0], real, *rest, name=op.result.name),)

    def _note(self, block: Block, text: str) -> None:
        self._context.note(self._options.name, block.name, text)


def _counted(ops: tuple[Op, ...]) -> str:
    return f"block of {len(ops)} layers" if len(ops) > 1 else "layer"
