"""Choose the ranges of activations by what they do to outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from amctc.contract import Changes, Contract
from amctc.cycles import layer_macs
from amctc.ir import Graph, Op, Value, apply, layer_name
from amctc.numerics.range_search import search_range
from amctc.ops import quant
from amctc.pipeline import Context, Pass, register
from amctc.substitute import convert
from amctc.types import Array, QuantizedType
from amctc_passes.facts import NOT_LOWERED, TWO_OF_FOUR, UNOBSERVED, is_quantized
from amctc_passes.quantize.held_back import EVERY
from amctc_passes.quantize.layers import layers
from amctc_passes.ranges.headroom import fits_accumulator
from amctc_passes.ranges.noise_at_layers import NoiseAtLayers
from amctc_passes.ranges.noise_at_outputs import NoiseAtOutputs
from amctc_passes.ranges.quantized_tensors import QuantizedTensor, quantized_tensors
from amctc_passes.ranges.range_noise import Noise, RangeNoise
from amctc_passes.ranges.ranges import type_of_range

MOST_MACS = 2e12
"""Work for all runs of the network, a few minutes on a core; beyond it samples are cut, not below two held back."""

NEVER = Noise(math.inf, math.inf)
"""Of a range that must not be."""

RUNS = 4
"""Runs of the network per tensor, about: one to know what it costs, a dozen for those that matter."""


@register
@dataclass(frozen=True)
class TuneRanges(Pass):
    """Search both ends of activation ranges for the least error of outputs, not of the tensor.

    ``place-qdq`` chooses ranges by the tensor alone, where a rare large value counts by its square. What it does
    further on may be little: an activation cuts it off, or a mean takes it in. ``at=outputs`` measures the outputs of
    the network, one run for each range tried, for the tensors that make at least a hundredth of the noise there.
    ``at=layers`` measures the outputs of the layers that read the tensor, behind their activations, on ``windows``
    windows of each sample, for all tensors in one run. Every tensor is searched alone, no other quantized, on the first
    ``samples``; a new range stays if it makes less noise both on those that chose it and on every fourth, which is held
    back, alone and (``at=outputs``) among all other quantizers. A zero point of 0 stays, tensors with one range keep
    one, and those that integer biases were made for keep theirs.

    Behind ``round-weights``: before it, corrections of biases would make up for the mean of what ranges cut off, and
    spoil what they do not.
    """

    at: Literal["outputs", "layers"] = "outputs"
    samples: int = 64
    windows: int = 64

    name: ClassVar[str] = "tune-ranges"
    contract: ClassVar[Contract] = Contract(
        effect=Changes("activations are rounded to other integers"), requires=(NOT_LOWERED, UNOBSERVED),
        keeps=(TWO_OF_FOUR,), idempotent=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for option in ("samples", "windows"):
            if getattr(self, option) < 1:
                raise ValueError(f"{option}={getattr(self, option)} is not positive")

    def run(self, graph: Graph, context: Context) -> Graph:
        """Measure, search, and give the quantizers their new types."""
        reference, tensors = quantized_tensors(graph, context.target)
        tensors = [t for t in tensors if not _fixed(t)]
        if not tensors:
            return graph
        types, where = dict[QuantizedTensor, QuantizedType](), "the outputs" if self.at == "outputs" else "its layers"
        for tensor, (elem, gain) in self._searched(reference, tensors, context).items():
            if elem != tensor.elem:
                types[tensor] = elem
                ends = f"{_shown(replace(tensor, elem=elem))} in place of {_shown(tensor)}"
                layer = layer_name(tensor.points[0].op)
                context.note(self.name, layer, f"reads {ends}: {gain:.1f} dB less noise in {where}")
        return _retyped(graph, types) if types else graph

    def _searched(
        self, reference: Graph, tensors: Sequence[QuantizedTensor], context: Context
    ) -> Mapping[QuantizedTensor, tuple[QuantizedType, float]]:
        """The type of every tensor, and the decibels it gained alone on samples held back."""
        collection = context.collection(self.name, [t.quantizers[0] for t in tensors])
        types, gains = {t: t.elem for t in tensors}, dict.fromkeys(tensors, 0.0)
        if collection.done:
            steps, found = (collection.array(n, (len(tensors),), np.float64).tolist() for n in ("steps", "gains"))
            zeros = collection.array("zeros", (len(tensors),), np.int64).tolist()
            gains = dict(zip(tensors, found, strict=True))
            for t, step, zero in zip(tensors, steps, zeros, strict=True):
                types[t] = QuantizedType.per_tensor(step, zero, t.elem.storage)

        def state() -> dict[str, Array]:
            return {
                "steps": np.array([e.scales[0] for e in types.values()]), "gains": np.array(list(gains.values())),
                "zeros": np.array([e.zero_points[0] for e in types.values()], np.int64),
            }  # fmt: skip

        if not collection.finished:
            measure = self._measure(reference, tensors, context)
            searched = measure.worth_searching(tensors)
            for done, tensor in enumerate(searched[collection.done :], collection.done + 1):
                types[tensor], gains[tensor] = _tuned(tensor, types, measure)
                collection.advance(state)
                context.progress("tuning ranges", done, len(searched))
            collection.finish()
        return {t: (types[t], gains[t]) for t in tensors}

    def _measure(self, reference: Graph, tensors: Sequence[QuantizedTensor], context: Context) -> RangeNoise:
        if self.at == "layers":
            return NoiseAtLayers(reference, tensors, context, self.name, self.samples, self.windows)
        macs = sum(layer_macs(op) or 0 for op in layers(reference))
        affordable = int(MOST_MACS // (RUNS * len(tensors) * max(1, macs)))
        return NoiseAtOutputs(reference, context, self.name, min(self.samples, max(2 * EVERY, affordable)))


def _tuned(
    tensor: QuantizedTensor, types: Mapping[QuantizedTensor, QuantizedType], measure: RangeNoise
) -> tuple[QuantizedType, float]:
    """The type of least noise, and its gain; the old one where samples held back or the other tensors do not agree."""
    noise = {tensor.elem: measure.alone(tensor, tensor.elem)}

    def loss(low: float, high: float) -> float:
        elem = _type(tensor, low, high)
        if elem not in noise:
            noise[elem] = NEVER if _overflows(tensor, elem) else measure.alone(tensor, elem)
        return noise[elem].chosen

    low, high = tensor.range
    found = _type(tensor, *search_range(0.0 if _symmetric(tensor) else low, high, loss))
    if found == tensor.elem or not noise[found].below(noise[tensor.elem]):
        return tensor.elem, 0.0
    if not measure.in_place(tensor, {**types, tensor: found}).below(measure.in_place(tensor, types)):
        return tensor.elem, 0.0
    return found, -10.0 * math.log10(max(noise[found].held_back / noise[tensor.elem].held_back, 1e-12))


def _fixed(tensor: QuantizedTensor) -> bool:
    """True where an integer bias was made for the range there is (N9)."""
    return any(is_quantized(p.op.operand(2)) for p in tensor.points)


def _overflows(tensor: QuantizedTensor, elem: QuantizedType) -> bool:
    """Whether a layer with integer weights that reads ``tensor`` as ``elem`` could leave int32 (N9)."""
    return any(not fits_accumulator(p.op, elem) for p in tensor.points if is_quantized(p.op.operand(1)))


def _symmetric(tensor: QuantizedTensor) -> bool:
    return tensor.elem.zero_points[0] == 0


def _type(tensor: QuantizedTensor, low: float, high: float) -> QuantizedType:
    """The type of ``tensor`` for another range; one without an offset spans as much below 0 as above."""
    if _symmetric(tensor):
        low = -high
    low, high = max(low, min(tensor.bounds.low, 0.0)), min(high, max(tensor.bounds.high, 0.0))
    bits = tensor.elem.storage.bits
    return type_of_range(low, high, tensor.bounds, bits=bits, symmetric=_symmetric(tensor))


def _shown(tensor: QuantizedTensor) -> str:
    return "[{:.3g}, {:.3g}]".format(*tensor.range)


def _retyped(graph: Graph, types: Mapping[QuantizedTensor, QuantizedType]) -> Graph:
    """The QDQ graph with other types behind the quantizers of some tensors."""
    of = {quantizer: elem for tensor, elem in types.items() for quantizer in tensor.quantizers}

    def retyped(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
        return (apply(quant.Quantize(of[op]), *operands, name=op.result.name),) if op in of else None

    return convert(graph, retyped)
