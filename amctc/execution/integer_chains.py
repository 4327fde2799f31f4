"""Joins what the executor ``numpy`` computes without leaving the cache: a product and what is done to its sums.

Between a convolution or matrix product and its requantizer, or its dequantizer with a residual addition and a ReLU,
values are handed on block by block: as float32, which holds the sums exactly where the weights prove so
(:mod:`amctc.numerics.exact_gemm`), and float16 numbers too. Where nobody else reads the result, its quantizers join,
and residual sums that read it later get it as float32 (:mod:`amctc.kernels.half_results`). Nothing else changes, so
neither do the bits.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amctc.errors import AmctcError
from amctc.interp import KernelTable, Step
from amctc.ir import Op, Value
from amctc.kernels.accumulator import Accumulator
from amctc.kernels.ascend_table import FirstOperand
from amctc.kernels.epilogue_parameters import dequant_parameters, quant_factors, requant_parameters
from amctc.kernels.half_precision import Overflow
from amctc.kernels.half_results import HalfResult, TileReader
from amctc.kernels.integer_epilogue import fixpipe_dequantizer, fixpipe_requantizer, fp32_quantizer
from amctc.kernels.residual import LEAST_MULTIPLIER, residual_adder
from amctc.kernels.tiles import TileStep
from amctc.kernels.vector_epilogue import split_dequant_scale, vector_dequantizer
from amctc.ops import ascend, nn
from amctc.targets import Profile
from amctc.types import F16, Array


@dataclass(frozen=True, eq=False)
class _Tail:
    """``ops`` after an accumulator, in order, as one step; ``beside`` is what a residual sum adds.

    ``step`` is told what becomes of a float16 result; ``overflow`` is where such a result may be held, else ``None``.
    """

    ops: tuple[Op, ...]
    step: Callable[[HalfResult], TileStep]
    overflow: Overflow | None = None
    beside: tuple[Value, ...] = ()


@dataclass(frozen=True, eq=False)
class _Chain:
    """A tail, and the product before it with its kernel, if that joins."""

    tail: _Tail
    product: tuple[Op, Accumulator] | None


class IntegerChains:
    """A grouping of a :class:`~amctc.interp.Plan`, by ``profile``'s rules. What it does not join is left alone.

    ``table`` are the kernels of the ops when they are not joined.
    """

    def __init__(self, profile: Profile, table: KernelTable) -> None:
        self._profile, self._table = profile, table

    def __call__(
        self, ops: Sequence[Op], constants: Mapping[Value, Array], kept: Collection[Value]
    ) -> Iterator[Op | Step]:
        """Joined steps, each where its sum, or what dequantizes or requantizes, was; and all other ops."""
        readers = _Readers(ops, kept)
        chains = list(self._chains(readers, ops, constants))
        adders = {chain.tail.ops[1] for chain in chains if chain.tail.beside}
        steps = {chain.tail.ops[-1]: self._step(chain, readers, adders) for chain in chains}
        joined = {op for step in steps.values() for op in step.ops}
        for op in ops:
            if op in steps:
                yield steps[op]
            elif op not in joined:
                yield op

    def _chains(self, readers: _Readers, ops: Sequence[Op], constants: Mapping[Value, Array]) -> Iterator[_Chain]:
        taken: set[Op] = set()  # of an addition of two dequantized values, one is joined to it
        for op in ops:
            if isinstance(op.kind, ascend.Requant | ascend.Dequant) and (acc := op.operands[0]) is not None:
                tail = self._tail(op, readers, constants, taken)
                if tail is None:
                    continue
                product = self._product(acc, tail, readers, constants)
                if product is None and len(tail.ops) == 1:
                    continue  # alone it is what it is without a step
                taken.update(tail.ops)
                yield _Chain(tail, product)

    def _step(self, chain: _Chain, readers: _Readers, adders: Collection[Op]) -> Step:
        tail, product = chain.tail, chain.product
        acc, result = tail.ops[0].operands[0], tail.ops[-1].result
        half, quantizers = self._joined(tail, readers, adders)
        data = acc if product is None else product[0].operands[0]
        members = (*(() if product is None else product[:1]), *tail.ops, *quantizers)
        given = () if half.joined and not half.held else (result,)
        stored: dict[Value, np.dtype[Any]] = {result: np.dtype(np.float32)} if half.held else {}
        step = tail.step(half)
        finish = _apart(step, tail.ops[0]) if product is None else _finished(product[1], step)
        return Step(members, (data, *tail.beside), (*given, *(op.result for op in quantizers)), finish, stored)

    def _joined(self, tail: _Tail, readers: _Readers, adders: Collection[Op]) -> tuple[HalfResult, list[Op]]:
        """What becomes of the result, and the quantizers that join: where beside them only ``adders`` read it."""
        if tail.overflow is None:
            return HalfResult("saturate"), []  # no float16, or of a unit whose results are not held
        found = readers.all(tail.ops[-1].result)
        quantizers = [op for op in found if self._joins(op)]
        others = [op for op in found if op not in quantizers]
        if not found or any(op not in adders for op in others):
            return HalfResult(tail.overflow), []
        return HalfResult(tail.overflow, True, bool(others), tuple(map(self._quantizer, quantizers))), quantizers

    def _joins(self, op: Op) -> bool:
        return isinstance(op.kind, ascend.Quant) and self._profile.quant_mode != "fp16"

    def _quantizer(self, op: Op) -> TileReader:
        kind = op.kind
        assert isinstance(kind, ascend.Quant)
        return fp32_quantizer(quant_factors(kind, self._profile), kind.offset, kind.to.bits)

    def _tail(
        self, op: Op, readers: _Readers, constants: Mapping[Value, Array], taken: set[Op]
    ) -> _Tail | None:  # fmt: skip
        """What begins with ``op``, ``None`` where its parameters do not allow one step."""
        parameter = op.operands[1]
        if parameter is None or parameter not in constants:
            return None
        if isinstance(op.kind, ascend.Requant):
            given = requant_parameters(op.kind, constants[parameter], self._profile)
            step = None if given.shift.any() else fixpipe_requantizer(
                given.multiplier, given.offset, negative_multiplier=given.negative, unsigned=given.unsigned
            )  # fmt: skip
            return None if step is None else _Tail((op,), lambda _: step)
        assert isinstance(op.kind, ascend.Dequant)
        found = dequant_parameters(op.kind, constants[parameter], self._profile)
        if found.shift.any() or op.kind.to != F16:
            return None
        if self._profile.epilogue == "f16_vector":
            vector = self._vector_step(op.kind, found.scale)
            return _Tail((op,), lambda _: vector)
        if self._profile.dequant_multiplier == "full":
            return None
        multiplier = found.multiplier(self._profile)
        relu = op.kind.relu
        return self._sum(op, multiplier, readers, taken) or _Tail(
            (op,), lambda half: fixpipe_dequantizer(multiplier, relu=relu, result=half), self._profile.dequant_overflow
        )

    def _vector_step(self, kind: ascend.Dequant, scale: Array) -> TileStep:
        profile, (scales, sqrt_mode) = self._profile, split_dequant_scale(scale)
        guard = profile.dequant_guard == "shift17"
        return vector_dequantizer(
            scales, relu=kind.relu, guard=guard, sqrt_mode=sqrt_mode, overflow=profile.dequant_overflow
        )

    def _sum(self, op: Op, multiplier: Array, readers: _Readers, taken: set[Op]) -> _Tail | None:
        """The residual addition that alone reads ``op``, with a ReLU that alone reads it, ``None`` without one."""
        add, profile = readers.only(op.result), self._profile
        if add is None or type(add.kind) is not nn.Add or add in taken or add.result.type.elem != F16:
            return None
        (other,) = (o for o in add.operands if o is not op.result)
        fits = other is not None and other.type == op.result.type and None not in other.type.dims
        if other is None or not fits or not (multiplier >= LEAST_MULTIPLIER).all():
            return None
        assert isinstance(op.kind, ascend.Dequant)
        after = readers.only(add.result)
        relu = after if after is not None and type(after.kind) is nn.Relu else None
        adder = functools.partial(residual_adder, multiplier, relu=op.kind.relu, overflow=profile.dequant_overflow,
                                  sum_relu=relu is not None)  # fmt: skip
        ops = (op, add) if relu is None else (op, add, relu)
        return _Tail(ops, lambda half: adder(result=half), profile.island_overflow, (other,))

    def _product(
        self, acc: Value, tail: _Tail, readers: _Readers, constants: Mapping[Value, Array]
    ) -> tuple[Op, Accumulator] | None:
        """The product that makes ``acc`` for the tail alone, and its kernel, if its sums are exact in float32."""
        op = acc.producer
        if op is None or not isinstance(op.kind, ascend.Conv | ascend.MatMul) or readers.only(acc) is not tail.ops[0]:
            return None
        if any(o not in constants for o in op.operands[1:] if o is not None) or not _innermost(tail, acc):
            return None
        try:
            kernel = self._table[type(op.kind)](op, [None if o is None else constants.get(o) for o in op.operands])
        except AmctcError:
            return None  # the plan says it again, and where
        found = kernel.kernel if isinstance(kernel, FirstOperand) else None
        return (op, found) if isinstance(found, Accumulator) and found.is_exact_in_float32 else None


class _Readers:
    """Which ops read a value."""

    def __init__(self, ops: Sequence[Op], kept: Collection[Value]) -> None:
        self._reads = Counter(o for op in ops for o in op.operands)
        self._reads.update(kept)
        self._kept, self._by = kept, dict[Value | None, list[Op]]()
        for op in ops:
            for operand in dict.fromkeys(op.operands):
                self._by.setdefault(operand, []).append(op)

    def all(self, value: Value) -> list[Op]:
        """The ops, none where it is kept: then nobody may do without it."""
        return [] if value in self._kept else self._by.get(value, [])

    def only(self, value: Value) -> Op | None:
        """The op that alone reads it, once; ``None`` where there are others, or it is kept."""
        return self._by[value][0] if self._reads[value] == 1 and value in self._by else None


def _innermost(tail: _Tail, acc: Value) -> bool:
    """Whether parameters per channel go along the axis that a product has innermost in memory."""
    kind = tail.ops[0].kind
    assert isinstance(kind, ascend.Requant | ascend.Dequant)
    conv = acc.producer is not None and isinstance(acc.producer.kind, ascend.Conv)
    whole = all(p.size == 1 for p in tail.step(HalfResult("saturate")).parameters)
    return whole or kind.axis == (1 if conv else acc.type.rank - 1)


def _finished(product: Accumulator, step: TileStep) -> _Described:
    return _Described(lambda x, *beside: product.finished(x, step, beside), f"{product}, sums kept in the cache")


def _apart(step: TileStep, op: Op) -> _Described:
    kind = op.kind
    assert isinstance(kind, ascend.Requant | ascend.Dequant)
    return _Described(lambda acc, *beside: step(acc, kind.axis, beside), "float16 kept in the cache")


@dataclass(frozen=True, eq=False, slots=True)
class _Described:
    """A kernel that says how it computes."""

    kernel: Callable[..., list[Array]]
    text: str

    def __call__(self, *operands: Array) -> tuple[Array, ...]:
        """What the kernel gives."""
        return tuple(self.kernel(*operands))

    def __str__(self) -> str:
        return self.text
