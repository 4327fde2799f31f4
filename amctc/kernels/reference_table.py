"""The target's arithmetic in its plainest form: a second kernel table, which defines what the fast one must compute.

Written for reading, from the rules. Float islands are not part of it: what a chip computes there in float16 has one set
of kernels (:mod:`amctc.kernels.tables`), because a sum of floats has no exact definition to hold it against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from amctc.interp import Kernel, KernelFactory
from amctc.ir import Op, layer_name
from amctc.kernels import epilogue_reference as epilogue
from amctc.kernels.ascend_table import OverflowListener, ascend_table, constant_operand, weight_and_bias
from amctc.kernels.epilogue_parameters import dequant_parameters, requant_parameters
from amctc.kernels.integer_epilogue import split_fp16_scale
from amctc.kernels.integer_linear import fold_offset, weight_sums
from amctc.kernels.integer_reference import (
    INT32_MAX,
    INT32_MIN,
    Int32,
    Int64,
    conv_sums,
    conv_transpose_sums,
    gemm_sums,
    saturate32,
    wrap32,
)
from amctc.kernels.tables import FLOAT
from amctc.kernels.vector_epilogue import split_dequant_scale
from amctc.kernels.windows import Window
from amctc.ops import ascend, nn
from amctc.schema import OpKind
from amctc.targets import Profile
from amctc.types import F16, I8, Array

Constants = Sequence[Array | None]


def reference_table(profile: Profile, on_overflow: OverflowListener | None = None) -> dict[type[OpKind], KernelFactory]:
    """Kernels that compute what ``profile``'s chip computes, as :func:`~amctc.kernels.ascend_table.ascend_table`."""
    return {**ascend_table(profile, on_overflow), **_Definitions(profile, on_overflow).table()}


class _Definitions:
    def __init__(self, profile: Profile, on_overflow: OverflowListener | None) -> None:
        self._profile, self._on_overflow = profile, on_overflow

    def table(self) -> dict[type[OpKind], KernelFactory]:
        made: dict[type[OpKind], Callable[[Op, Constants], Kernel]] = {
            ascend.Quant: self._quant, ascend.Conv: self._conv, ascend.ConvTranspose: self._conv_transpose,
            ascend.MatMul: self._matmul, ascend.BatchMatMul: self._batch_matmul, ascend.SumPool: self._sum_pool,
            ascend.Dequant: self._dequant, ascend.Requant: self._requant, ascend.AntiQuant: self._anti_quant,
            nn.MaxPool: self._max_pool, nn.Add: self._add, ascend.DynamicQuant: self._dynamic_quant,
            ascend.DequantRows: self._dequant_rows,
        }  # fmt: skip
        return {kind: _quiet(factory) for kind, factory in made.items()}

    def _quant(self, op: Op, constants: Constants) -> Kernel:
        kind: Any = op.kind
        scale, offset, bits, steps = kind.scale, kind.offset, kind.to.bits, 1 + kind.sqrt_mode
        if self._profile.quant_mode == "fp16":
            if not kind.sqrt_mode:
                scale, rooted = split_fp16_scale(scale)
                steps += rooted
            return lambda x: epilogue.quantize_fp16(x, scale, offset, bits, steps, self._profile.island_overflow)
        if kind.sqrt_mode and self._profile.sqrt_mode_squares:
            scale, steps = float(np.float32(scale) * np.float32(scale)), 1
        return lambda x: epilogue.quantize_fp32(x, scale, offset, bits, steps)

    def _dynamic_quant(self, op: Op, constants: Constants) -> Kernel:
        return lambda x: epilogue.quantize_rows(x, self._profile.dynamic_quant)

    def _dequant_rows(self, op: Op, constants: Constants) -> Kernel:
        kind: Any = op.kind
        overflow, dtype = self._profile.dequant_overflow, kind.to.dtype

        def run(acc: Array, scale: Array, row_scale: Array, bias: Array | None = None) -> Array:
            return epilogue.dequantize_rows(acc, scale, row_scale, bias, overflow).astype(dtype)

        return run

    def _settled(self, op: Op, sums: Int64) -> Int32:
        """int32 of exact sums (N7), those outside reported."""
        outside = int(np.count_nonzero((sums < INT32_MIN) | (sums > INT32_MAX)))
        if outside and self._on_overflow is not None:
            self._on_overflow(layer_name(op), outside)
        return wrap32(sums) if self._profile.accumulate_overflow == "wrap" else saturate32(sums)

    def _conv(self, op: Op, constants: Constants) -> Kernel:
        k: Any = op.kind
        weight, bias = weight_and_bias(op, constants)
        fold_offset(weight_sums(weight), bias, k.offset_x)  # the bias′ that the target computes must fit (N8)
        return lambda x, *_: self._settled(op, conv_sums(
            x, weight, bias, strides=k.strides, pads=k.pads, dilations=k.dilations, group=k.group, offset_x=k.offset_x
        ))  # fmt: skip

    def _conv_transpose(self, op: Op, constants: Constants) -> Kernel:
        k: Any = op.kind
        weight, bias = weight_and_bias(op, constants)
        grouped = weight.reshape(k.group, len(weight) // k.group, weight.shape[1], -1)
        fold_offset(grouped.sum(axis=(1, 3), dtype=np.int64).reshape(-1), bias, k.offset_x)
        return lambda x, *_: self._settled(op, conv_transpose_sums(
            x, weight, bias, strides=k.strides, pads=k.pads, output_padding=k.output_padding, group=k.group,
            offset_x=k.offset_x,
        ))  # fmt: skip

    def _matmul(self, op: Op, constants: Constants) -> Kernel:
        k: Any = op.kind
        weight, bias = weight_and_bias(op, constants)
        matrix = weight.T if k.trans_b else weight
        fold_offset(matrix.sum(axis=0, dtype=np.int64), bias, k.offset_x)
        return lambda x, *_: self._settled(op, gemm_sums(x, matrix, bias, offset_x=k.offset_x))

    def _batch_matmul(self, op: Op, constants: Constants) -> Kernel:
        bias = np.int64(0) if op.operand(2) is None else constant_operand(op, constants, 2, "the bias").astype(np.int64)
        return lambda x, w, *_: self._settled(op, x.astype(np.int64) @ w.astype(np.int64) + bias)

    def _sum_pool(self, op: Op, constants: Constants) -> Kernel:
        k: Any = op.kind
        window = Window(k.kernel, k.strides, k.pads, k.dilations)
        positions = int(np.prod(k.kernel))

        def run(q: Array) -> Array:
            sums = _over_windows(q, np.sum, k.offset_x, window)
            return np.asarray(sums - k.offset_x * positions, np.int32)

        return run

    def _max_pool(self, op: Op, constants: Constants) -> Kernel:
        k: Any = op.kind
        if op.result.type.elem != I8:
            return FLOAT[nn.MaxPool](op, constants)
        window = Window(k.kernel, k.strides, k.pads, k.dilations, k.ceil_mode)
        return lambda q: _over_windows(q, np.max, -128, window).astype(np.int8)

    def _dequant(self, op: Op, constants: Constants) -> Kernel:
        kind: Any = op.kind
        profile = self._profile
        given = dequant_parameters(kind, constant_operand(op, constants, 1, "the dequantization scale"), profile)
        shift, overflow = _along(given.shift, kind.axis, op), profile.dequant_overflow

        def finish(acc: Array) -> Array:
            if profile.epilogue != "f16_vector":
                multiplier = _along(given.multiplier(profile), kind.axis, op)
                return epilogue.dequantize(acc, multiplier, kind.relu, overflow)
            scale, sqrt_mode = split_dequant_scale(given.scale)
            guard = profile.dequant_guard == "shift17"
            return epilogue.dequantize_vector(
                acc, _along(scale, kind.axis, op), kind.relu, overflow, guard=guard, sqrt_mode=sqrt_mode
            )

        dtype: np.dtype[Any] = kind.to.dtype
        return lambda acc, *_: np.asarray(finish(epilogue.shifted(acc, shift)), dtype)

    def _requant(self, op: Op, constants: Constants) -> Kernel:
        kind: Any = op.kind
        parameter = constant_operand(op, constants, 1, "the requantization scale")
        given = requant_parameters(kind, parameter, self._profile)
        shift, offset, positive = (_along(p, kind.axis, op) for p in (given.shift, given.offset, given.multiplier))
        negative = None if given.negative is None else _along(given.negative, kind.axis, op)
        return lambda acc, *_: epilogue.requantize(
            epilogue.shifted(acc, shift), positive, negative, offset, given.unsigned
        )

    def _anti_quant(self, op: Op, constants: Constants) -> Kernel:
        k: Any = op.kind
        return lambda q: epilogue.antiquantize(q, k.scale, k.offset, self._profile.dequant_overflow).astype(k.to.dtype)

    def _add(self, op: Op, constants: Constants) -> Kernel:
        if op.result.type.elem != F16:
            return FLOAT[nn.Add](op, constants)
        return lambda a, b: epilogue.add_float16(a, b, self._profile.island_overflow)


def _over_windows(q: Array, reduce: Callable[..., Array], outside: int, window: Window) -> Array:
    return epilogue.window_reduced(
        q, reduce, outside, kernel=window.kernel, strides=window.strides, pads=window.pads,
        dilations=window.dilations, out=window.output_shape(q.shape[2:]),
    )  # fmt: skip


def _along(parameter: Array, axis: int, op: Op) -> Array:
    """A parameter of one element or one per channel, shaped to broadcast along ``axis`` of the result."""
    flat = np.asarray(parameter).reshape(-1)
    after = op.result.type.rank - 1 - axis % op.result.type.rank if flat.size > 1 else 0
    return flat.reshape(-1, *(1,) * after)


def _quiet(factory: Callable[[Op, Constants], Kernel]) -> KernelFactory:
    """Kernels that overflow and meet NaN without a warning."""

    def bind(op: Op, constants: Constants) -> Kernel:
        kernel = factory(op, constants)

        def run(*arrays: Array | None) -> Array | tuple[Array, ...]:
            with np.errstate(all="ignore"):
                return kernel(*arrays)

        return run

    return bind
