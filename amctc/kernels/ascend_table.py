"""The target's kernel table: integer ops by the rules of a profile, float islands rounded to float16 (N26)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from amctc.errors import UnsupportedError
from amctc.interp import Kernel, KernelFactory
from amctc.ir import Op, layer_name
from amctc.kernels import integer_epilogue as epilogue
from amctc.kernels.integer_linear import Accumulator, prepare_conv, prepare_gemm
from amctc.kernels.tables import FLOAT, QUANT
from amctc.numerics.fixed_point import unpack_dequant, unpack_requant
from amctc.numerics.rounding import truncate_multiplier
from amctc.ops import ascend, nn
from amctc.schema import OpKind
from amctc.targets import Profile
from amctc.types import F16, I8, Array

OverflowListener = Callable[[str, int], None]
"""Told the layer and how many accumulators left int32 in one call (N7)."""


def ascend_table(profile: Profile, on_overflow: OverflowListener | None = None) -> dict[type[OpKind], KernelFactory]:
    """Kernels that compute what ``profile``'s chip computes.

    Accumulators outside int32 are saturated and reported to ``on_overflow``. Raises :class:`UnsupportedError` for a
    profile whose epilogue is not simulated yet.
    """
    if profile.epilogue == "f16_vector":
        raise UnsupportedError(
            f"the float16 vector epilogue of {profile.name} (N15) is not simulated yet",
            remedy="choose a target with a fixpipe or vdeq_cast epilogue: `amctc targets`",
        )
    return {**FLOAT, **QUANT, **_Kernels(profile, on_overflow).table()}


class _Kernels:
    def __init__(self, profile: Profile, on_overflow: OverflowListener | None) -> None:
        self._profile, self._on_overflow = profile, on_overflow

    def table(self) -> dict[type[OpKind], KernelFactory]:
        return {
            ascend.Quant: self._quant, ascend.Conv: self._conv, ascend.MatMul: self._matmul,
            ascend.Dequant: self._dequant, ascend.Requant: self._requant, ascend.AntiQuant: self._anti_quant,
            nn.MaxPool: self._max_pool, nn.Add: self._add,
        }  # fmt: skip

    def _quant(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.Quant)
        if self._profile.quant_mode == "fp16":
            scale, sqrt_mode = epilogue.split_fp16_scale(kind.scale)
            return lambda x: epilogue.quantize_fp16(
                x, scale, kind.offset, bits=kind.to.bits, sqrt_mode=sqrt_mode or kind.sqrt_mode
            )
        return lambda x: epilogue.quantize_fp32(x, kind.scale, kind.offset, bits=kind.to.bits, sqrt_mode=kind.sqrt_mode)

    def _watched(self, accumulator: Accumulator, layer: str) -> Callable[[Array], Array]:
        """The accumulator itself where overflow is impossible, else one that reports every call that overflowed."""
        if not accumulator.overflow_possible or self._on_overflow is None:
            return accumulator
        listener = self._on_overflow

        def run(x: Array) -> Array:
            before = accumulator.overflows
            acc = accumulator(x)
            if accumulator.overflows > before:
                listener(layer, accumulator.overflows - before)
            return acc

        return run

    def _conv(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.Conv)
        weight, bias = _weights(op, constants)
        accumulator = prepare_conv(
            weight, bias, strides=kind.strides, pads=kind.pads, dilations=kind.dilations, group=kind.group,
            offset_x=kind.offset_x,
        )  # fmt: skip
        return _first(self._watched(accumulator, layer_name(op)))

    def _matmul(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.MatMul)
        weight, bias = _weights(op, constants)
        accumulator = prepare_gemm(weight.T if kind.trans_b else weight, bias, offset_x=kind.offset_x)
        return _first(self._watched(accumulator, layer_name(op)))

    def _dequant(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.Dequant)
        parameter = _constant(op, constants, 1, "the dequantization scale")
        scale, shift = parameter, np.zeros(1, np.int64)
        if parameter.dtype == np.uint64:
            scale, shift, _ = unpack_dequant(parameter)
        profile = self._profile
        if profile.dequant_multiplier == "full":
            return _first(
                lambda acc: epilogue.dequantize_full_scale(acc, scale, channel_axis=kind.axis, relu=kind.relu)
            )

        def run(acc: Array) -> Array:
            y = epilogue.dequantize_fixpipe(
                acc, scale, channel_axis=kind.axis, relu=kind.relu, overflow=profile.dequant_overflow, shift=shift,
                round_multiplier=profile.dequant_multiplier == "round",
            )  # fmt: skip
            return y if kind.to == F16 else y.astype(kind.to.dtype)

        return _first(run)

    def _requant(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.Requant)
        parameter = _constant(op, constants, 1, "the requantization scale")
        offset, unsigned = np.asarray(kind.offset), False
        multiplier = parameter
        if parameter.dtype == np.uint64:
            multiplier, offset, signed, _ = unpack_requant(parameter)
            unsigned = not bool(signed.all())
        multiplier = truncate_multiplier(multiplier)
        negative = None if kind.slope == 1.0 else truncate_multiplier(np.float32(kind.slope) * multiplier)
        return _first(lambda acc: epilogue.requantize_fixpipe(
            acc, multiplier, offset, negative_multiplier=negative, unsigned=unsigned, channel_axis=kind.axis
        ))  # fmt: skip

    def _anti_quant(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.AntiQuant)

        def run(q: Array) -> Array:
            y = epilogue.antiquantize(q, kind.scale, kind.offset, overflow=self._profile.dequant_overflow)
            return y if kind.to == F16 else y.astype(kind.to.dtype)

        return run

    def _max_pool(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, nn.MaxPool)
        if op.result.type.elem != I8:
            return FLOAT[nn.MaxPool](op, constants)
        return lambda q: epilogue.max_pool_int8(
            q, kernel=kind.kernel, strides=kind.strides, pads=kind.pads, dilations=kind.dilations,
            ceil_mode=kind.ceil_mode,
        )  # fmt: skip

    def _add(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        if op.result.type.elem != F16:
            return FLOAT[nn.Add](op, constants)
        return lambda a, b: epilogue.add_float16(a, b, overflow=self._profile.island_overflow)


def _first(function: Callable[[Array], Array]) -> Kernel:
    """A kernel of its first operand; the others are constants it has already absorbed."""
    return lambda x, *_: function(x)


def _constant(op: Op, constants: Sequence[Array | None], index: int, what: str) -> Array:
    array = constants[index]
    if array is None:
        raise UnsupportedError(f"{what} of {op.kind.op_name} is not a constant", where=layer_name(op))
    return array


def _weights(op: Op, constants: Sequence[Array | None]) -> tuple[Array, Array | None]:
    bias = constants[2] if len(constants) > 2 else None
    if op.operand(2) is not None and bias is None:
        raise UnsupportedError("an integer layer needs a constant bias", where=layer_name(op))
    return _constant(op, constants, 1, "the weight"), bias
