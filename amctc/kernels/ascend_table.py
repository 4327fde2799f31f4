"""The target's kernel table: integer ops by the rules of a profile, float islands rounded to float16 (N26).

Which choices of a profile are honoured here, which by the passes that lower for it, and which nothing simulates yet,
is listed in docs/numerics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from types import FunctionType

import numpy as np

from amctc.errors import UnsupportedError
from amctc.interp import Kernel, KernelFactory
from amctc.ir import Op, layer_name
from amctc.kernels import integer_epilogue as epilogue
from amctc.kernels.accumulator import Accumulator
from amctc.kernels.epilogue_parameters import (
    DequantParameters,
    dequant_parameters,
    quant_factors,
    requant_parameters,
)
from amctc.kernels.integer_batch import BatchProduct
from amctc.kernels.integer_linear import prepare_conv, prepare_gemm
from amctc.kernels.integer_transposed import prepare_conv_transpose
from amctc.kernels.row_quantization import quantize_rows
from amctc.kernels.tables import FLOAT, QUANT
from amctc.kernels.vector_epilogue import dequantize_f16, split_dequant_scale
from amctc.kernels.weight_only import antiquantized, weight_only_matmul
from amctc.numerics.rounding import MAX_FLOAT16
from amctc.ops import ascend, nn
from amctc.schema import OpKind
from amctc.targets import Profile
from amctc.types import F16, I8, Array

OverflowListener = Callable[[str, int], None]
"""Told the layer and how many accumulators left int32 in one call (N7)."""


def ascend_table(profile: Profile, on_overflow: OverflowListener | None = None) -> dict[type[OpKind], KernelFactory]:
    """Kernels that compute what ``profile``'s chip computes.

    Accumulators outside int32 are brought back as the profile says and reported to ``on_overflow``.
    """
    saturating = _saturating(FLOAT) if profile.island_overflow == "saturate" else {}
    return {**FLOAT, **QUANT, **saturating, **_Kernels(profile, on_overflow).table()}


class _Kernels:
    def __init__(self, profile: Profile, on_overflow: OverflowListener | None) -> None:
        self._profile, self._on_overflow = profile, on_overflow
        self._wrap = profile.accumulate_overflow == "wrap"

    def table(self) -> dict[type[OpKind], KernelFactory]:
        return {
            ascend.Quant: self._quant, ascend.Conv: self._conv, ascend.ConvTranspose: self._conv_transpose,
            ascend.MatMul: self._matmul, ascend.BatchMatMul: self._batch_matmul, ascend.SumPool: self._sum_pool,
            ascend.Dequant: self._dequant, ascend.Requant: self._requant, ascend.AntiQuant: self._anti_quant,
            ascend.WeightQuantMatMul: self._weight_quant_matmul, nn.MaxPool: self._max_pool, nn.Add: self._add,
            ascend.DynamicQuant: self._dynamic_quant, ascend.DequantRows: self._dequant_rows,
        }  # fmt: skip

    def _quant(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.Quant)
        profile, scale, sqrt_mode = self._profile, kind.scale, kind.sqrt_mode
        if profile.quant_mode == "fp16":
            if not sqrt_mode:  # else the file has split the scale already
                scale, sqrt_mode = epilogue.split_fp16_scale(scale)
            return lambda x: epilogue.quantize_fp16(
                x, scale, kind.offset, bits=kind.to.bits, sqrt_mode=sqrt_mode, overflow=profile.island_overflow
            )
        scale, *again = quant_factors(kind, profile)
        return lambda x: epilogue.quantize_fp32(x, scale, kind.offset, bits=kind.to.bits, sqrt_mode=bool(again))

    def _dynamic_quant(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        return lambda x: quantize_rows(x, self._profile.dynamic_quant)

    def _dequant_rows(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.DequantRows)
        overflow = self._profile.dequant_overflow

        def run(acc: Array, scale: Array, row_scale: Array, bias: Array | None = None) -> Array:
            y = epilogue.dequantize_full_scale(
                acc, scale, token_scale=row_scale[..., None], bias=bias, overflow=overflow
            )
            return y if kind.to == F16 else y.astype(kind.to.dtype)

        return run

    def _watched(self, kernel: Accumulator | BatchProduct, layer: str) -> Accumulator | BatchProduct | WatchedKernel:
        """The kernel itself where overflow is impossible, else one that reports every call that overflowed."""
        if not kernel.overflow_possible or self._on_overflow is None:
            return kernel
        return WatchedKernel(kernel, layer, self._on_overflow)

    def _conv(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.Conv)
        weight, bias = weight_and_bias(op, constants)
        accumulator = prepare_conv(
            weight, bias, strides=kind.strides, pads=kind.pads, dilations=kind.dilations, group=kind.group,
            offset_x=kind.offset_x, wrap=self._wrap,
        )  # fmt: skip
        return FirstOperand(self._watched(accumulator, layer_name(op)))

    def _matmul(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.MatMul)
        weight, bias = weight_and_bias(op, constants)
        accumulator = prepare_gemm(weight.T if kind.trans_b else weight, bias, offset_x=kind.offset_x, wrap=self._wrap)
        return FirstOperand(self._watched(accumulator, layer_name(op)))

    def _conv_transpose(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.ConvTranspose)
        weight, bias = weight_and_bias(op, constants)
        accumulator = prepare_conv_transpose(
            weight, bias, strides=kind.strides, pads=kind.pads, output_padding=kind.output_padding, group=kind.group,
            offset_x=kind.offset_x, wrap=self._wrap,
        )  # fmt: skip
        return FirstOperand(self._watched(accumulator, layer_name(op)))

    def _batch_matmul(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        bias = None if op.operand(2) is None else constant_operand(op, constants, 2, "the bias")
        return self._watched(BatchProduct(bias, self._wrap), layer_name(op))

    def _sum_pool(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        k = op.kind
        assert isinstance(k, ascend.SumPool)
        return lambda q: epilogue.sum_pool_int8(
            q, k.offset_x, kernel=k.kernel, strides=k.strides, pads=k.pads, dilations=k.dilations
        )

    def _weight_quant_matmul(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind, profile, x = op.kind, self._profile, op.operands[0]
        assert isinstance(kind, ascend.WeightQuantMatMul)
        assert x is not None
        bias = constants[4] if len(constants) > 4 else None
        if op.operand(4) is not None and bias is None:
            raise UnsupportedError("a weight-only layer needs a constant bias", where=layer_name(op))
        weight = antiquantized(
            constant_operand(op, constants, 1, "the weight"),
            constant_operand(op, constants, 2, "the weight scale"),
            None if op.operand(3) is None else constant_operand(op, constants, 3, "the weight offset"),
            axis=kind.parameter_axis, group=kind.group,
            half=x.type.elem == F16 and profile.weight_only_type == "input",
        )  # fmt: skip
        matrix = np.ascontiguousarray(weight.T) if kind.trans_b else weight
        return FirstOperand(lambda data: weight_only_matmul(data, matrix, bias, profile.island_overflow))

    def _dequant(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.Dequant)
        parameter = constant_operand(op, constants, 1, "the dequantization scale")
        run = self._dequantize(kind, dequant_parameters(kind, parameter, self._profile))
        return FirstOperand(run if kind.to == F16 else lambda acc: run(acc).astype(kind.to.dtype))

    def _dequantize(self, kind: ascend.Dequant, parameters: DequantParameters) -> Callable[[Array], Array]:
        """int32 to float16 by the chip's epilogue: N15 on its vector unit, else N12 with the multiplier's form."""
        scale, shift = parameters
        profile, axis, relu, overflow = self._profile, kind.axis, kind.relu, self._profile.dequant_overflow
        if profile.epilogue == "f16_vector":
            guard = profile.dequant_guard == "shift17"
            scale, sqrt_mode = split_dequant_scale(scale)
            return lambda acc: dequantize_f16(
                acc, scale, channel_axis=axis, relu=relu, guard=guard, sqrt_mode=sqrt_mode, overflow=overflow,
                shift=shift,
            )  # fmt: skip
        if profile.dequant_multiplier == "full":
            return lambda acc: epilogue.dequantize_full_scale(
                acc, scale, channel_axis=axis, relu=relu, overflow=overflow, shift=shift
            )
        return lambda acc: epilogue.dequantize_fixpipe(
            acc, scale, channel_axis=axis, relu=relu, overflow=overflow, shift=shift,
            round_multiplier=profile.dequant_multiplier == "round",
        )  # fmt: skip

    def _requant(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        kind = op.kind
        assert isinstance(kind, ascend.Requant)
        parameter = constant_operand(op, constants, 1, "the requantization scale")
        given = requant_parameters(kind, parameter, self._profile)
        return FirstOperand(lambda acc: epilogue.requantize_fixpipe(
            acc, given.multiplier, given.offset, negative_multiplier=given.negative, unsigned=given.unsigned,
            channel_axis=kind.axis, shift=given.shift,
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


def _saturating(table: Mapping[type[OpKind], KernelFactory]) -> dict[type[OpKind], KernelFactory]:
    """The float kernels, float16 results of finite operands saturated to ±65504 (N26, island_overflow).

    An infinity that comes in is passed on: masks are made of them. The result of an op is looked at after an activation
    that is fused into it.
    """

    def saturated(factory: KernelFactory) -> KernelFactory:
        def bound(op: Op, constants: Sequence[Array | None]) -> Kernel:
            kernel, limit = factory(op, constants), np.float16(MAX_FLOAT16)

            def run(*operands: Array | None) -> Array | tuple[Array, ...]:
                result = kernel(*operands)
                if isinstance(result, tuple) or result.dtype != np.float16 or not np.isinf(result).any():
                    return result
                given = [o for o in operands if o is not None and o.dtype.kind == "f"]
                return result if any(np.isinf(o).any() for o in given) else np.clip(result, -limit, limit)

            return run

        return bound

    return {kind: saturated(factory) for kind, factory in table.items()}


@dataclass(frozen=True, eq=False, slots=True)
class WatchedKernel:
    """A kernel that tells ``listener`` of every call in which accumulators of ``layer`` left int32.

    One call at a time: its count is of all calls together.
    """

    kernel: Accumulator | BatchProduct
    layer: str
    listener: OverflowListener
    _turn: Lock = field(default_factory=Lock)

    def __call__(self, *operands: Array) -> Array:
        """What the kernel gives."""
        with self._turn:
            before = self.kernel.overflows
            acc = self.kernel(*operands)
            if self.kernel.overflows > before:
                self.listener(self.layer, self.kernel.overflows - before)
            return acc

    def __str__(self) -> str:
        return f"{self.kernel}, overflow watched"


@dataclass(frozen=True, eq=False, slots=True)
class FirstOperand:
    """A kernel of its first operand; the others are constants it has already absorbed."""

    kernel: Kernel

    def __call__(self, x: Array, *_: Array | None) -> Array | tuple[Array, ...]:
        """What the kernel gives for the first operand."""
        return self.kernel(x)

    def __str__(self) -> str:
        return "" if isinstance(self.kernel, FunctionType) else str(self.kernel)


def constant_operand(op: Op, constants: Sequence[Array | None], index: int, what: str) -> Array:
    """The array of an operand; :class:`UnsupportedError` naming ``what`` it is unless it is constant."""
    array = constants[index]
    if array is None:
        raise UnsupportedError(f"{what} of {op.kind.op_name} is not a constant", where=layer_name(op))
    return array


def weight_and_bias(op: Op, constants: Sequence[Array | None]) -> tuple[Array, Array | None]:
    """The constant operands of an integer layer; :class:`UnsupportedError` for one that is computed."""
    bias = constants[2] if len(constants) > 2 else None
    if op.operand(2) is not None and bias is None:
        raise UnsupportedError("an integer layer needs a constant bias", where=layer_name(op))
    return constant_operand(op, constants, 1, "the weight"), bias
