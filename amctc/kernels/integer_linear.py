"""Exact int32 accumulators of int8 convolutions and matrix products (N7, N8).

The weight is prepared once; the object that comes back is called with int8 activations. All sums are exact:
floating-point units only ever add integers they represent (amctc.numerics.exact_gemm has the proof), so the
result does not depend on blocking, threads or the order of additions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from amctc.errors import InputError, LimitError
from amctc.kernels import integer_winograd as winograd
from amctc.kernels.accumulator import (
    INT32_MAX,
    INT32_MIN,
    Accumulator,
    Array,
    Int8,
    Int32,
    Int64,
    check_activations,
)
from amctc.kernels.integer_depthwise import DepthwiseConv
from amctc.kernels.tiles import ChannelTiles, TileStep
from amctc.kernels.windows import Window, blocks, channels_first, channels_last, pad_for, patch_view
from amctc.numerics.exact_gemm import PackedWeight

PATCH_BYTES = 4 << 20  # scratch for gathered patches, as int8 and float32; measured flat from 4 to 32 MiB
MERGED_CHANNELS = 32  # groups are merged into dense blocks up to this many channels (notes/performance B)


def prepare_conv(
    weight: Int8,
    bias: Int32 | None,
    *,
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    group: int = 1,
    offset_x: int = 0,
    wrap: bool = False,
) -> Accumulator:
    """Pack an int8 convolution: weight (O, I/group, kernel…), bias int32 (O) -> x (N, I, spatial…) -> (N, O, out…).

    acc = Σ w · q + bias′ with q = ``offset_x`` outside the input and bias′ = bias − offset_x · Σ w (N8), all exact;
    1 to 3 spatial axes. The result is channels-last in memory. Raises :class:`LimitError` when bias′ leaves int32,
    :class:`InputError` for shapes, types or an offset that do not fit.
    """
    check_operands(weight, bias, weight.shape[0], offset_x)
    if group < 1 or weight.shape[0] % group or weight.ndim < 3:
        raise InputError(f"a weight of shape {weight.shape} cannot have {group} groups")
    window = Window(weight.shape[2:], strides, pads, dilations)
    folded = fold_offset(weight_sums(weight), bias, offset_x)
    return folded_conv(weight, folded, window, group, offset_x, wrap)


def folded_conv(weight: Int8, folded: Int64, window: Window, group: int, offset_x: int, wrap: bool) -> Accumulator:
    """The fastest kernel for a convolution whose bias′ has been computed."""
    if group > 1 and weight.shape[1] == 1 and weight.ndim <= 4:
        return DepthwiseConv(weight, folded, window, group, offset_x, wrap)
    patches = PatchConv(weight, folded, window, group, offset_x, wrap)
    if winograd.pays(weight, window, group) and patches.is_exact_in_float32 and winograd.is_exact(weight):
        return winograd.WinogradConv(weight, folded, window, offset_x, patches)
    return patches


def weight_sums(weight: Int8) -> Int64:
    """Σ w per output channel of a convolution's weight (O, I/group, kernel…)."""
    return np.asarray(weight.reshape(weight.shape[0], -1).sum(axis=1, dtype=np.int64))


def prepare_gemm(weight: Int8, bias: Int32 | None = None, *, offset_x: int = 0, wrap: bool = False) -> Accumulator:
    """Pack an int8 matrix product: weight (K, N), bias int32 (N) -> x (…, K) -> (…, N).

    acc = Σ w · q + bias − offset_x · Σ w (N8), exact. Errors as :func:`prepare_conv`.
    """
    if weight.ndim != 2:
        raise InputError(f"the weight of a matrix product has shape {weight.shape}, not (K, N)")
    check_operands(weight, bias, weight.shape[1], offset_x)
    return Product(PackedWeight(weight, fold_offset(weight.sum(axis=0, dtype=np.int64), bias, offset_x)), wrap)


def prepare_matmul(weight: Int8, *, offset_x: int = 0) -> Accumulator:
    """:func:`prepare_gemm` without a bias."""
    return prepare_gemm(weight, None, offset_x=offset_x)


def fold_offset(weight_sums: Int64, bias: Int32 | None, offset_x: int) -> Int64:
    """bias′ = bias − offset_x · Σ w per output channel, in int64 (N8); :class:`LimitError` when it leaves int32."""
    folded = np.zeros_like(weight_sums) if bias is None else bias.astype(np.int64)
    folded -= offset_x * weight_sums
    outside = np.flatnonzero((folded < INT32_MIN) | (folded > INT32_MAX))
    if outside.size:
        raise LimitError(
            f"the bias with the activation offset folded in leaves int32 in {outside.size} channels, "
            f"first in channel {outside[0]} ({folded[outside[0]]})",
            rule="N8, N9",
            remedy="raise the weight scale of these channels or leave the layer in float",
        )
    return folded


class Product(Accumulator):
    """x (…, K) @ weight (K, N) + bias."""

    def __init__(self, packed: PackedWeight, wrap: bool = False) -> None:
        super().__init__(packed.can_overflow, wrap)
        self._packed, self.is_exact_in_float32 = packed, packed.exact_with_bias

    def __str__(self) -> str:
        return f"product{_chunks([self._packed])}"

    def __call__(self, x: Int8) -> Int32:
        """int8 (…, K) -> int32 (…, N)."""
        acc, outside = self._packed.matmul(self._rows(x), wrap=self._wrap)
        self.overflows += outside
        return acc.reshape(*x.shape[:-1], acc.shape[1])

    def finished(self, x: Int8, step: TileStep, beside: Sequence[Array] = ()) -> list[Array]:
        """int8 (…, K) -> what ``step`` makes of (…, N)."""
        rows = self._rows(x)
        sums = np.empty((len(rows), self._packed.matrix.shape[1]), np.float32)
        self._packed.sums_into(rows, sums)
        return step(sums.reshape(*x.shape[:-1], sums.shape[1]), -1, beside)

    def _rows(self, x: Int8) -> Int8:
        depth = len(self._packed.matrix)
        if x.dtype != np.int8 or x.ndim < 1 or x.shape[-1] != depth:
            raise InputError(f"activations {x.dtype} {x.shape} for an int8 matrix product with K = {depth}")
        return x.reshape(math.prod(x.shape[:-1]), depth)


class PatchConv(Accumulator):
    """Convolution as matrix products of gathered patches, a bounded block of output positions at a time."""

    def __init__(self, weight: Int8, folded: Int64, window: Window, group: int, offset_x: int, wrap: bool) -> None:
        columns = merge_groups(weight, group)
        biases = folded.reshape(len(columns), -1)
        self._packed = [PackedWeight(c, b) for c, b in zip(columns, biases, strict=True)]
        super().__init__(any(packed.can_overflow for packed in self._packed), wrap)
        self.is_exact_in_float32 = len(self._packed) == 1 and self._packed[0].exact_with_bias
        self._window, self._offset_x = window, offset_x
        self._channels, self._outputs = weight.shape[1] * group, weight.shape[0]

    def __str__(self) -> str:
        blocks = f", {len(self._packed)} blocks of groups" if len(self._packed) > 1 else ""
        return f"product of patches{blocks}{_chunks(self._packed)}"

    def __call__(self, x: Int8) -> Int32:
        """int8 (N, I, spatial…) -> int32 (N, O, out…), channels-last in memory."""
        patches = self._patches(x)
        acc = np.empty((*patches.shape[: x.ndim - 1], self._outputs), np.int32)
        if self.is_exact_in_float32:
            self._one_product(patches, [acc])
            return channels_first(acc)
        depth, width = self._packed[0].matrix.shape
        channels = self._channels // len(self._packed)
        for box in blocks(acc.shape[:-1], PATCH_BYTES // (5 * depth)):
            tile, target = patches[box], acc[box]
            for number, packed in enumerate(self._packed):
                rows = tile[..., number * channels : (number + 1) * channels].reshape(-1, depth)
                sums, outside = packed.matmul(rows, wrap=self._wrap)
                target[..., number * width : (number + 1) * width] = sums.reshape(*target.shape[:-1], width)
                self.overflows += outside
        return channels_first(acc)

    def finished(self, x: Int8, step: TileStep, beside: Sequence[Array] = ()) -> list[Array]:
        """int8 (N, I, spatial…) -> what ``step`` makes of (N, O, out…)."""
        patches = self._patches(x)
        shape = (*patches.shape[: x.ndim - 1], self._outputs)
        outs = [np.empty(shape, dtype) for dtype in step.dtypes]
        self._one_product(patches, outs, step, [channels_last(b) for b in beside])
        return [channels_first(out) for out in outs]

    def _patches(self, x: Int8) -> Int8:
        check_activations(x, self._channels, self._window)
        out = self._window.output_shape(x.shape[2:])
        return patch_view(channels_last(pad_for(x, self._window, self._offset_x)), self._window, out)

    def _one_product(
        self, patches: Int8, outs: Sequence[Array], step: TileStep | None = None, beside: Sequence[Array] = ()
    ) -> None:  # fmt: skip
        """Fill ``outs`` with the sums, or with what ``step`` makes of them, block by block.

        Each block is one product into scratch that all share: fresh pages cost as much time.
        """
        (packed,) = self._packed
        depth, width = packed.matrix.shape
        boxes = list(blocks(outs[0].shape[:-1], PATCH_BYTES // (5 * depth)))
        most = max((math.prod(outs[0][box].shape[:-1]) for box in boxes), default=0)
        gathered, products = np.empty(most * depth, np.float32), np.empty(most * width, np.float32)
        bias = packed.bias_i64.astype(np.float32)
        tiles = None if step is None else ChannelTiles(step.function, step.parameters, width, most * width, bias)
        for box in boxes:
            tile, targets = patches[box], [out[box].reshape(-1, width) for out in outs]  # views: a run of positions
            rows = gathered[: len(targets[0]) * depth]
            rows.reshape(tile.shape)[...] = tile
            if tiles is None:
                packed.matmul_into(rows.reshape(-1, depth), targets[0], products)
                continue
            sums = products[: targets[0].size]
            np.matmul(rows.reshape(-1, depth), packed.matrix, out=sums.reshape(targets[0].shape))
            with np.errstate(all="ignore"):
                tiles.fill([t.reshape(-1) for t in targets], sums, *(b[box].reshape(-1) for b in beside))


def _chunks(packed: Sequence[PackedWeight]) -> str:
    """In how many chunks K is cut so that float32 stays exact, where it is cut."""
    most = max(len(p.splits) - 1 for p in packed)
    return f", K in {most} chunks" if most > 1 else ""


def merge_groups(weight: Int8, group: int) -> Int8:
    """The weight as GEMM operands (blocks, taps · channels, outputs): taps outermost, small groups merged.

    Groups of few channels make slow matrix products; as many as divide evenly become one block-diagonal operand of
    at most :data:`MERGED_CHANNELS` input channels. The zeros change no sum.
    """
    per_group, taps, outputs = weight.shape[1], math.prod(weight.shape[2:]), weight.shape[0] // group
    single = weight.reshape(group, outputs, per_group, taps).transpose(0, 3, 2, 1)
    merged = max(m for m in range(1, group + 1) if group % m == 0 and m * per_group <= max(per_group, MERGED_CHANNELS))
    operands = np.zeros((group // merged, taps, merged, per_group, merged, outputs), np.int8)
    for place in range(merged):
        operands[:, :, place, :, place] = single[place::merged]
    return operands.reshape(group // merged, taps * merged * per_group, merged * outputs)


def check_operands(weight: Array, bias: Array | None, outputs: int, offset_x: int) -> None:
    """Element types and the shape of the bias of an integer layer; :class:`InputError` where they do not fit."""
    if weight.dtype != np.int8:
        raise InputError(f"an integer kernel takes int8 weights, not {weight.dtype}", rule="N7")
    if bias is not None and (bias.dtype != np.int32 or bias.shape != (outputs,)):
        raise InputError(f"the bias of an integer kernel is int32 of shape ({outputs},), not {bias.dtype} {bias.shape}")
    if not -128 <= offset_x <= 127:
        raise InputError(f"the activation offset {offset_x} is outside int8", rule="N8")
