"""What the target's graph compiler fuses (N12, N17, N18, N19): dequantize + activation + quantize into one step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from amctc.contract import Exact, Lossy
from amctc.ir import Op, Value, apply, const
from amctc.numerics.fixed_point import requant_scale, unpack_dequant
from amctc.ops import ascend, nn
from amctc.pattern import Match, NoMatch, any_value, either, op, weight
from amctc.rewrite import Rewrite, rewrite
from amctc.types import I8, Array

acc, scale = any_value(name="acc"), weight(name="scale")
dequant = op(ascend.Dequant, acc, scale, uses=1)
ACTIVATIONS: tuple[type[nn.Activation], ...] = (nn.Relu, nn.LeakyRelu, nn.Clip)
activation = op(ACTIVATIONS, dequant, uses=1)
quant = op(ascend.Quant, either(activation, dequant), where=lambda k: k.to == I8 and not k.sqrt_mode,
           wanted="plain int8 quantization")  # fmt: skip


@rewrite(quant, effect=Lossy(bound=2))
def fuse_requant(m: Match) -> Value:
    """quant(activation(dequant(acc))) is requant(acc) when nothing else reads what lies between (N17, N18, N19)."""
    kind = m[quant]
    if unpacked_shift(m[scale]).any():
        raise NoMatch("the accumulator is shifted first (N16)")
    with np.errstate(over="ignore", under="ignore"):
        product = _accumulator_step(m) * np.float32(kind.scale)
    if not (np.isfinite(product).all() and (product >= np.finfo(np.float32).tiny).all()):
        raise NoMatch("the product of the scales leaves float32")
    multiplier = requant_scale(_accumulator_step(m), np.float32(kind.scale))
    slope = _slope(m.get(activation), kind)
    if m[dequant].relu:
        slope = 0.0
    parameter = const(multiplier, name=_parameter_name(m))
    return apply(ascend.Requant(m[dequant].axis, kind.offset, slope), m[acc], parameter)


def _without_leaky(m: Match) -> Value:
    kind: nn.Activation | None = m.get(activation)
    if isinstance(kind, nn.LeakyRelu):
        raise NoMatch("the target does not fuse leaky relu (N17)")
    return fuse_requant(m)


fuse_requant_without_leaky = replace(fuse_requant, function=_without_leaky)
""":data:`fuse_requant` for a target whose requantization has no slope (N17, requant_leaky)."""


def _accumulator_step(m: Match) -> Array:
    """What one unit of the accumulator stands for; of AveragePool the scale over the positions of a window (N26)."""
    return np.asarray(dequant_scale(m[scale]) / np.float32(m[dequant].divisor))


def dequant_scale(parameter: Array) -> Array:
    """The float32 scale of a dequantization parameter, packed (N11) or not."""
    return unpack_dequant(parameter)[0] if parameter.dtype == np.uint64 else parameter


def unpacked_shift(parameter: Array) -> Array:
    """The shift of a dequantization parameter (N16), 0 where it is not packed."""
    return unpack_dequant(parameter)[1] if parameter.dtype == np.uint64 else np.zeros(1, np.int64)


def _parameter_name(m: Match) -> str | None:
    name = m.value(scale).name
    return None if name is None else f"{name}.requant"


def _slope(kind: nn.Activation | None, quantizer: ascend.Quant) -> float:
    """What a negative accumulator is multiplied by, beside the scale; declines an activation that does not fuse."""
    if kind is None:
        return 1.0
    if isinstance(kind, nn.Relu):
        return 0.0
    if isinstance(kind, nn.LeakyRelu):
        if not 0 <= kind.alpha <= 1:
            raise NoMatch(f"leaky relu of slope {kind.alpha:g}")
        return kind.alpha
    if (kind.low, kind.high) != (0.0, 6.0):
        raise NoMatch(f"clip to [{kind.low:g}, {kind.high:g}] is not relu6")
    top = np.float32(127 - quantizer.offset) / np.float32(quantizer.scale)
    if not top < np.float32(6.0):
        raise NoMatch(f"the quantizer reaches {top:g}, so relu6 is not relu (N19)")
    return 0.0


relu = op(nn.Relu, dequant)


@rewrite(relu, effect=Exact())
def fuse_dequant_relu(m: Match) -> Value:
    """relu(dequant(acc)) is dequant with its relu flag (N12: the negative branch is multiplied by 0)."""
    return apply(replace(m[dequant], relu=True), m[acc], m.value(scale))


pooled_integers = any_value(name="q")
summed = op(ascend.SumPool, pooled_integers, uses=1)
average = op(ascend.Dequant, summed, scale)


@rewrite(average, effect=Lossy(bound=2))
def average_in_float(m: Match) -> Value:
    """dequant(sum_pool(q)) is average_pool(anti_quant(q)) where the target pools in float16 (N26)."""
    pool, kind = m[summed], m[average]
    if kind.divisor != pool.area or m[scale].size != 1 or unpacked_shift(m[scale]).any():
        raise NoMatch("the dequantizer is not that of an average")
    step = float(dequant_scale(m[scale]).reshape(()))
    real = apply(ascend.AntiQuant(step, -pool.offset_x, kind.to), m[pooled_integers])
    y = apply(nn.AveragePool(pool.strides, pool.pads, pool.dilations, pool.kernel, False, True), real)
    return apply(nn.Relu(), y) if kind.relu else y


pooled_value = any_value(name="x")
pool = op(nn.MaxPool, pooled_value, uses=1)
pooled = op(ascend.Quant, pool, where=lambda k: k.to == I8, wanted="int8: the target pools no other integers")


@rewrite(pooled, effect=Exact())
def quantize_before_pool(m: Match) -> Value:
    """quant(max_pool(x)) is max_pool(quant(x)): quantization is monotonic (N26, max_pool_int8)."""
    value = m[pooled_value]
    inner = apply(m[pooled], value, name=f"{value.name}.quant" if value.name else None)
    return apply(m[pool], inner)


concat = op(nn.Concat, ..., uses=1)
joined = op(ascend.Quant, concat)


def concat_obstacle(op: Op, block: int) -> str | None:
    """Why no quantizer moves before a concatenation (N19: channels aligned to the block); ``None`` when one does."""
    assert isinstance(op.kind, nn.Concat)
    types = [v.type for v in op.operands if v is not None]
    if op.kind.axis % types[0].rank != 1:
        return "joined along another axis than the channels"
    channels = [t.dims[1] for t in types]
    aligned = all(isinstance(c, int) and c % block == 0 for c in channels)
    return None if aligned else f"channels {channels} are not multiples of {block}"


def quantize_before_concat(block: int) -> Rewrite:
    """The concat rule for a target whose channel block holds ``block`` int8 values (N19)."""

    @rewrite(joined, effect=Exact())
    def quantize_before_concat(m: Match) -> Value:
        """quant(concat(xs)) is concat of quant(x): one scale, channels aligned to the block (N19)."""
        root = m.value(concat).producer
        assert root is not None
        if (obstacle := concat_obstacle(root, block)) is not None:
            raise NoMatch(obstacle)
        values = [v for v in root.operands if v is not None]
        parts = [apply(m[joined], v, name=f"{v.name}.quant" if v.name else None) for v in values]
        return apply(m[concat], *parts)

    return quantize_before_concat
