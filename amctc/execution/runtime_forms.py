"""Which ops of a lowered graph ONNX Runtime computes bit for bit.

An op is taken where a proof says that ONNX Runtime's formula gives the same bits for every input:

* a product whose accumulator cannot leave int32 (|bias′| + 128 · Σ|w| < 2^31), because theirs wraps unreported;
* its requantization by an int8 offset (:mod:`amctc.onnx_bridge.segment_emitters` says why that is the same);
* its dequantization; of a layer with groups where no partial sum exceeds 2^24, which float32 then adds exactly;
* sums, relu, clips and quantizers after that, as long as a bound on their magnitude, carried from op to op, shows that
  no NaN arises: ONNX Runtime would quantize one differently. Infinities it treats alike, so a sum may have one operand
  without a bound, but not two;
* a quantizer without the clip before it, where its own saturation covers that (:mod:`amctc.execution.saturation`);
* where relu meets a -0, which ONNX Runtime passes on and we do not, 0 is added; a clip is not taken then. Only a
  dequantized negative number below half of float16's least one is -0, and a sum of two of them.

Everything else is left to the NumPy kernels: float islands, leaky relu, shifts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from amctc.execution.bounds import in_float16, largest_accumulators, largest_partial_sum
from amctc.execution.saturation import saturates_within
from amctc.ir import Op, Value
from amctc.kernels.accumulator import INT32_MAX
from amctc.kernels.epilogue_parameters import DequantParameters, dequant_parameters, quant_factors, requant_parameters
from amctc.kernels.integer_epilogue import split_fp16_scale
from amctc.kernels.vector_epilogue import GUARD, split_dequant_scale
from amctc.numerics.exact_gemm import EXACT_FLOAT32, INT8_MAGNITUDE
from amctc.onnx_bridge import segment_emitters as emit
from amctc.onnx_bridge.segment_products import Product
from amctc.onnx_bridge.segment_writer import TO_LAST, SegmentWriter, channels_are_last
from amctc.ops import ascend, nn
from amctc.targets import Profile
from amctc.types import F16, F32, I8, I32, Array, TensorType

HALF_LEAST_FLOAT16 = 2.0**-25
"""What rounds to a zero of float16."""


Emission: TypeAlias = Callable[[SegmentWriter], None]
"""Writes the nodes of an op."""


@dataclass(frozen=True, eq=False)
class Form:
    """How a segment computes ``ops``, the last of which gives the result; ``weight_bytes`` is 0 without a product."""

    ops: tuple[Op, ...]
    emit: Emission
    weight_bytes: int = 0


class RuntimeForms:
    """The forms of the ops of a graph, by the op that gives the result.

    ``absorbed`` are the products that are computed with their epilogue; ``bounds`` has the values that are never NaN,
    and what the magnitude of each cannot exceed; ``signed_zeros`` those that may be -0.
    """

    def __init__(
        self, profile: Profile, ops: Sequence[Op], constants: Mapping[Value, Array], kept: Collection[Value]
    ) -> None:
        self.by_op: dict[Op, Form] = {}
        self.absorbed: set[Op] = set()
        self.bounds: dict[Value, float] = {}
        self.signed_zeros: set[Value] = set()
        self._profile, self._constants, self._kept = profile, constants, kept
        self._uses: dict[Value, int] = {}
        for op in ops:
            for operand in op.operands:
                if operand is not None:
                    self._uses[operand] = self._uses.get(operand, 0) + 1
        taken = {
            ascend.Requant: self._requant, ascend.Dequant: self._dequant, ascend.Quant: self._quant, nn.Add: self._add,
            nn.Relu: self._relu, nn.Clip: self._clip, nn.MaxPool: self._max_pool, nn.Concat: self._concat,
        }  # fmt: skip
        for op in ops:
            take = taken.get(type(op.kind))
            form = take(op) if take is not None else None
            if form is not None:
                self.by_op[op] = form
                self.absorbed.update(form.ops[:-1])
        for op in ops:
            form = None if op in self.absorbed else self._accumulator(op)
            if form is not None:
                self.by_op[op] = form

    def _accumulator(self, op: Op) -> Form | None:
        """The sums alone, where what follows has no form; without groups, which the runtime's product does not know."""
        product = self._layer(op, op.result.type) if isinstance(op.kind, ascend.Conv | ascend.MatMul) else None
        if product is None or product.group > 1 or not _static(op.result.type):
            return None
        return Form((op,), lambda w: emit.emit_accumulator(w, op.result, product), product.weight.nbytes)

    def _requant(self, op: Op) -> Form | None:
        kind, made = op.kind, self._product(op)
        assert isinstance(kind, ascend.Requant)
        parameter = self._parameter(op)
        if made is None or parameter is None:
            return None
        product, layer = made
        given = requant_parameters(kind, parameter, self._profile)
        offsets = set(given.offset.reshape(-1).tolist())
        relu = given.negative is not None and not given.negative.any()
        if given.unsigned or given.shift.any() or len(offsets) != 1 or not (relu or given.negative is None):
            return None
        offset = int(offsets.pop())
        if not -INT8_MAGNITUDE <= offset < INT8_MAGNITUDE or not _usable(given.multiplier):
            return None
        multiplier = _per_channel(given.multiplier, product)
        return Form(
            (layer, op), lambda w: emit.emit_requant(w, op.result, product, multiplier, offset, relu),
            product.weight.nbytes,
        )  # fmt: skip

    def _dequant(self, op: Op) -> Form | None:
        kind, made, profile = op.kind, self._product(op), self._profile
        assert isinstance(kind, ascend.Dequant)
        parameter = self._parameter(op)
        if made is None or parameter is None or not _static(op.result.type):
            return None
        product, layer = made
        given = dequant_parameters(kind, parameter, profile)
        exact = product.group == 1 or largest_partial_sum(product) <= EXACT_FLOAT32
        if not exact or given.shift.any() or not _usable(given.scale):
            return None
        take = self._by_vector if profile.epilogue == "f16_vector" else self._by_multiplier
        return Form((layer, op), take(op, kind, product, given), product.weight.nbytes)

    def _by_multiplier(self, op: Op, kind: ascend.Dequant, product: Product, given: DequantParameters) -> Emission:
        """N12, N13: one multiplication."""
        multiplier = given.multiplier(self._profile)
        largest = float((largest_accumulators(product) * multiplier.astype(np.float64)).max(initial=0))
        self.bounds[op.result], clip = in_float16(largest, self._profile.dequant_overflow)
        if not kind.relu and multiplier.min(initial=1) <= HALF_LEAST_FLOAT16:
            self.signed_zeros.add(op.result)
        spread = _per_channel(multiplier, product)
        return lambda w: emit.emit_dequant(w, op.result, product, spread, kind.relu, clip)

    def _by_vector(self, op: Op, kind: ascend.Dequant, product: Product, given: DequantParameters) -> Emission:
        """N15: by the guard, then by the scale, in sqrt_mode twice, each time rounded to float16."""
        overflow, guarded = self._profile.dequant_overflow, self._profile.dequant_guard == "shift17"
        roots, sqrt_mode = split_dequant_scale(given.scale)
        halves = roots.astype(np.float16).astype(np.float32)
        guard = float(GUARD) if guarded else 1.0
        largest = float(largest_accumulators(product).max(initial=0))
        first, clip_first = in_float16(largest * guard, overflow)
        second, clip_second = in_float16(first / guard * float(halves.max()), overflow)
        scales, clips = [_per_channel(halves / np.float32(guard), product)], [clip_first, clip_second]
        self.bounds[op.result] = second
        if sqrt_mode:
            self.bounds[op.result], clip_third = in_float16(second * float(halves.max()), overflow)
            scales, clips = [*scales, _per_channel(halves, product)], [*clips, clip_third]
        if not kind.relu and min(halves.min(), halves.min() ** len(scales)) <= 4 * HALF_LEAST_FLOAT16:
            self.signed_zeros.add(op.result)
        return lambda w: emit.emit_dequant_vector(w, op.result, product, guard, scales, kind.relu, clips)

    def _quant(self, op: Op) -> Form | None:
        kind, profile, clip = op.kind, self._profile, self._superfluous_clip(op)
        x = _operand(op if clip is None else clip)
        bound = self.bounds.get(x)
        assert isinstance(kind, ascend.Quant)
        if kind.to != I8 or bound is None or x.type.elem != F16:
            return None
        ops = (op,) if clip is None else (clip, op)
        if profile.quant_mode == "fp16":
            scale, sqrt_mode = (kind.scale, True) if kind.sqrt_mode else split_fp16_scale(kind.scale)
            half = float(np.float16(scale))
            saturate = profile.island_overflow == "saturate"
            if (saturate and math.isinf(bound)) or not 0 < half < math.inf:
                return None
            scales = (half,) * (1 + sqrt_mode)
            return Form(ops, lambda w: emit.emit_quant(w, op, x, scales, half=True, clip=saturate))
        factors = quant_factors(kind, profile)
        return Form(ops, lambda w: emit.emit_quant(w, op, x, factors, half=False, clip=False))

    def _superfluous_clip(self, quant: Op) -> Op | None:
        """The clip or relu before ``quant``, which alone reads it, if saturation does its work and no NaN meets it."""
        x = _operand(quant)
        clip = x.producer
        if clip is None or self._uses.get(x) != 1 or x in self._kept or clip.operands[0] not in self.bounds:
            return None
        fits = x.type.elem == F16 and isinstance(quant.kind, ascend.Quant) and quant.kind.to == I8
        return clip if fits and saturates_within(quant, clip, self._profile) else None

    def _add(self, op: Op) -> Form | None:
        a, b = (self.bounds.get(o) if o is not None else None for o in op.operands)
        types = {o.type for o in op.operands if o is not None}
        if a is None or b is None or op.result.type.elem != F16 or types != {op.result.type}:
            return None
        if math.isinf(a) and math.isinf(b):
            return None
        self.bounds[op.result], clip = in_float16(a + b, self._profile.island_overflow)
        if self.signed_zeros.issuperset(op.operands):
            self.signed_zeros.add(op.result)
        return Form((op,), lambda w: emit.emit_add(w, op, clip))

    def _relu(self, op: Op) -> Form | None:
        bound = self.bounds.get(_operand(op))
        if bound is None or op.result.type.elem != F16:
            return None
        self.bounds[op.result] = bound
        signed_zero = op.operands[0] in self.signed_zeros
        return Form((op,), lambda w: emit.emit_relu(w, op, signed_zero))

    def _clip(self, op: Op) -> Form | None:
        kind, bound = op.kind, self.bounds.get(_operand(op))
        assert isinstance(kind, nn.Clip)
        with np.errstate(over="ignore"):
            low, high = (float(np.float16(end)) for end in (kind.low, kind.high))
        if bound is None or op.result.type.elem != F16 or low > high or op.operands[0] in self.signed_zeros:
            return None
        self.bounds[op.result] = min(bound, max(abs(low), abs(high)))
        return Form((op,), lambda w: emit.emit_clip(w, op, low, high))

    def _max_pool(self, op: Op) -> Form | None:
        kind = op.kind
        assert isinstance(kind, nn.MaxPool)
        if op.result.type.elem != I8 or not channels_are_last(op.result.type) or set(kind.dilations) != {1}:
            return None
        return Form((op,), lambda w: emit.emit_max_pool(w, op))

    def _concat(self, op: Op) -> Form | None:
        kind, rank = op.kind, op.result.type.rank
        assert isinstance(kind, nn.Concat)
        if op.result.type.elem != I8 or any(o in self._constants for o in op.operands):
            return None
        axis = kind.axis % rank
        axis = TO_LAST.index(axis) if channels_are_last(op.result.type) else axis
        return Form((op,), lambda w: emit.emit_concat(w, op, axis))

    def _parameter(self, op: Op) -> Array | None:
        operand = op.operands[1]
        return None if operand is None else self._constants.get(operand)

    def _product(self, epilogue: Op) -> tuple[Product, Op] | None:
        """The product before an epilogue, its only reader, if no accumulator of it can leave int32."""
        acc = _operand(epilogue)
        layer = acc.producer
        if layer is None or self._uses.get(acc) != 1 or acc in self._kept:
            return None
        product = self._layer(layer, epilogue.result.type)
        return None if product is None else (product, layer)

    def _layer(self, layer: Op, result: TensorType) -> Product | None:
        """A layer of constant weights whose ``result`` a segment can hold, if none of its sums can leave int32."""
        kind = layer.kind
        if not isinstance(kind, ascend.Conv | ascend.MatMul):
            return None
        x, weight, bias = (layer.operand(i) for i in range(3))
        assert x is not None
        array = None if weight is None else self._constants.get(weight)
        added = None if bias is None else self._constants.get(bias)
        conv = isinstance(kind, ascend.Conv)
        fits = channels_are_last(x.type) if conv else not channels_are_last(x.type) and _static(result)
        if array is None or (bias is not None and added is None) or not fits or x.type.elem != I8:
            return None
        array = array.astype(np.int8, copy=False)
        outputs = array.shape[0] if conv or getattr(kind, "trans_b", False) else array.shape[1]
        added = np.zeros(outputs, np.int32) if added is None else added.astype(np.int32, copy=False)
        if isinstance(kind, ascend.Conv):
            product = Product(x, array, added, kind.offset_x, kind.strides, kind.pads, kind.dilations, kind.group)
        else:
            product = Product(x, array.T if kind.trans_b else array, added, kind.offset_x)
        return product if largest_accumulators(product).max(initial=0) <= INT32_MAX else None


def _usable(multiplier: Array) -> bool:
    """Whether every multiplier is a normal positive float32, whatever the processor does with subnormal numbers."""
    return bool(((multiplier >= np.finfo(np.float32).tiny) & np.isfinite(multiplier)).all())


def _per_channel(multiplier: Array, product: Product) -> Array:
    """One multiplier for each output channel: the runtime's kernels are told nothing else."""
    spread: Array = np.ascontiguousarray(np.broadcast_to(multiplier.astype(np.float32), (product.outputs,)))
    return spread


def _static(type_: TensorType) -> bool:
    """Whether all sizes after the first are known, as a reshape needs."""
    known = type_.rank >= 2 and all(isinstance(d, int) and d > 0 for d in type_.dims[1:])
    return known and type_.elem in (I8, I32, F16, F32)


def _operand(op: Op) -> Value:
    value = op.operands[0]
    assert value is not None
    return value
