"""Learn how the weights of a block are rounded, by gradient descent on the error of its output; needs the extra.

BRECQ (Li et al. 2021) with the rounding variable of AdaRound (Nagel et al. 2020): each weight is s·(low + h(v)) with
the rectified sigmoid h(v) = clip(1.2·sigmoid(v) - 0.1, 0, 1). Adam minimises

    error / error at the start + λ · mean (1 - |2h - 1|^β)

over v and biases; β falls until every h is 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from amctc.ir import Op, Value
from amctc.numerics.adaround import BETA, WARM_START
from amctc.types import Array
from amctc_passes.reconstruct.block_data import ROWS, Examples, Numbers
from amctc_passes.reconstruct.blocks import Block
from amctc_passes.reconstruct.rounding_starts import Learned, Start
from amctc_passes.reconstruct.torch_ops import Parameters, computed, spread, tensor

RATE, BIAS_RATE = 0.05, 0.002
"""Learning rates of Adam: of v, and of biases in units of the spread of their layer's output."""

REGULARIZATION = 100.0
"""λ."""

_STRETCH, _SHIFT = 1.2, -0.1
_TINY = 1e-30


@contextmanager
def deterministic() -> Iterator[None]:
    """The same bits on any number of cores: one thread, and only algorithms that give the same every time."""
    threads, known = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(known)


class BlockLearner:
    """A block on examples; the layers in ``starts`` learn, others stay as they are in the graph."""

    def __init__(self, block: Block, starts: Mapping[Op, Start], examples: Examples) -> None:
        self._block, self._starts, self._examples = block, starts, examples
        with torch.no_grad():
            self._constants = _constants(block)

    def learned(self, numbers: Numbers, iterations: int, seed: int) -> dict[Op, Learned]:
        """What ``iterations`` steps make of the layers, on the examples with these numbers, drawn by ``seed``."""
        layers = self._soft(numbers)
        adam = torch.optim.Adam([
            {"params": [soft.v for soft in layers.values()], "lr": RATE},
            {"params": [soft.shift for soft in layers.values()], "lr": BIAS_RATE},
        ])  # fmt: skip
        before, draw = max(self.error(numbers, {}), _TINY), np.random.default_rng(seed)
        count = min(self._examples.per_step, len(numbers))
        for step in range(iterations):
            adam.zero_grad()
            for inputs, outputs in self._examples.chosen(draw.choice(numbers, count, replace=False)):
                own = {op: soft.parameters() for op, soft in layers.items()}
                (self._error(inputs, outputs, own) / before).backward()
            for soft in layers.values():
                soft.push(step / iterations)
            adam.step()
        return {op: soft.hard() for op, soft in layers.items()}

    def error(self, numbers: Numbers, taken: Mapping[Op, Learned]) -> float:
        """The mean square error of the output on these examples; what is not ``taken`` is as in the graph."""
        own = {op: _parameters(self._starts[op], learned) for op, learned in taken.items()}
        total, count = 0.0, 0
        with torch.no_grad():
            for begin in range(0, len(numbers), ROWS):
                for inputs, outputs in self._examples.chosen(numbers[begin : begin + ROWS]):
                    total += float(self._error(inputs, outputs, own)) * outputs.size
                    count += outputs.size
        return total / max(count, 1)

    def _soft(self, numbers: Numbers) -> dict[Op, _SoftLayer]:
        inputs, _ = next(self._examples.chosen(numbers[:ROWS]))
        with torch.no_grad():
            values = self._computed(inputs, {})
        return {op: _SoftLayer(start, float(values[op.result].std())) for op, start in self._starts.items()}

    def _error(self, inputs: Array, outputs: Array, own: Mapping[Op, Parameters]) -> Tensor:
        return (self._computed(inputs, own)[self._block.exit] - tensor(outputs)).square().mean()

    def _computed(self, inputs: Array, own: Mapping[Op, Parameters]) -> dict[Value, Tensor]:
        return computed(self._block.ops, {**self._constants, self._block.entry: tensor(inputs)}, own)


def _constants(block: Block) -> dict[Value, Tensor]:
    """What the block computes from constants alone."""
    inside: set[Value | None] = {block.entry}
    apart = []
    for op in block.ops:
        if inside.isdisjoint(op.operands):
            apart.append(op)
        else:
            inside.add(op.result)
    return computed(apart, {}, {})


def _parameters(start: Start, learned: Learned) -> Parameters:
    integers = tensor(learned.integers)
    bias = None if learned.bias is None else tensor(learned.bias)
    return integers * spread(start.elem.scales, start.elem.axis, integers.ndim), bias


class _SoftLayer:
    """A layer while it learns: ``v`` of the weights between two integers, and ``shift`` of the bias in ``unit``."""

    def __init__(self, start: Start, unit: float) -> None:
        self._unit = unit
        self._low, fractions = tensor(start.low), tensor(start.fractions)
        self._free = fractions > 0.0
        self._scales = spread(start.elem.scales, start.elem.axis, self._low.ndim)
        bias = start.given.bias
        self._bias = None if bias is None else tensor(bias)
        self.v = (-torch.log(_STRETCH / (fractions[self._free] - _SHIFT) - 1.0)).requires_grad_()
        self.shift = torch.zeros(() if self._bias is None else self._bias.shape, requires_grad=start.learns_bias)

    def _rounding(self) -> Tensor:
        return (_STRETCH * self.v.sigmoid() + _SHIFT).clamp(0.0, 1.0)

    def _shifted(self) -> Tensor | None:
        return None if self._bias is None else self._bias + self.shift * self._unit

    def parameters(self) -> Parameters:
        """The weight between its integers, and the bias."""
        steps = self._low + torch.zeros_like(self._low).masked_scatter(self._free, self._rounding())
        return steps * self._scales, self._shifted()

    def push(self, progress: float) -> None:
        """Add the gradient that drives h to 0 or 1, from the end of the warm start on."""
        if progress < WARM_START or not self.v.numel():
            return
        left = (1.0 - progress) / (1.0 - WARM_START)
        beta = BETA[1] + (BETA[0] - BETA[1]) * 0.5 * (1.0 - math.cos(math.pi * left))
        far = (2.0 * self._rounding() - 1.0).abs()
        (REGULARIZATION * (1.0 - far.pow(beta)).mean()).backward()

    def hard(self) -> Learned:
        """Rounded for good."""
        with torch.no_grad():
            up = torch.zeros_like(self._low).masked_scatter(self._free, (self._rounding() >= 0.5).float())
            integers, bias = (self._low + up).numpy().astype(np.int8), self._shifted()
            return Learned(integers, None if bias is None else bias.numpy())
