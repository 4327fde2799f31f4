"""Joins what the executor ``numpy`` computes without leaving the cache: a product and what is done to its sums.

Between a convolution or matrix product and its requantizer, or its dequantizer with a residual addition and a ReLU,
values are handed on block by block: as float32, which holds the sums exactly where the weights prove so
(:mod:`amctc.numerics.exact_gemm`), and float16 numbers too. Nothing else changes, so neither do the bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from amctc.errors import AmctcError
from amctc.interp import KernelTable, Step
from amctc.ir import Op, Value
from amctc.kernels.accumulator import Accumulator
from amctc.kernels.ascend_table import FirstOperand
from amctc.kernels.epilogue_parameters import dequant_parameters, requant_parameters
from amctc.kernels.integer_epilogue import fixpipe_dequantizer, fixpipe_requantizer
from amctc.kernels.residual import LEAST_MULTIPLIER, residual_adder
from amctc.kernels.tiles import TileStep
from amctc.kernels.vector_epilogue import split_dequant_scale, vector_dequantizer
from amctc.ops import ascend, nn
from amctc.targets import Profile
from amctc.types import F16, Array


@dataclass(frozen=True, eq=False)
class _Tail:
    """``ops`` after an accumulator, in order, as one step; ``beside`` is what a residual sum adds."""

    ops: tuple[Op, ...]
    step: TileStep
    beside: tuple[Value, ...] = ()


class IntegerChains:
    """A grouping of a :class:`~amctc.interp.Plan`, by ``profile``'s rules. What it does not join is left alone.

    ``table`` are the kernels of the ops when they are not joined.
    """

    def __init__(self, profile: Profile, table: KernelTable) -> None:
        self._profile, self._table = profile, table

    def __call__(
        self, ops: Sequence[Op], constants: Mapping[Value, Array], kept: Collection[Value]
    ) -> Iterator[Op | Step]:
        """Joined steps, each in the place of its last op, and all other ops."""
        steps = list(self._steps(_Readers(ops, kept), ops, constants))
        last = {step.ops[-1]: step for step in steps}
        joined = {op for step in steps for op in step.ops}
        for op in ops:
            if op in last:
                yield last[op]
            elif op not in joined:
                yield op

    def _steps(self, readers: _Readers, ops: Sequence[Op], constants: Mapping[Value, Array]) -> Iterator[Step]:
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
                data = acc if product is None else product[0].operands[0]
                members = tail.ops if product is None else (product[0], *tail.ops)
                finish = _apart(tail.step, op) if product is None else _finished(product[1], tail.step)
                yield Step(members, (data, *tail.beside), members[-1].results, finish)

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
            return None if step is None else _Tail((op,), step)
        assert isinstance(op.kind, ascend.Dequant)
        found = dequant_parameters(op.kind, constants[parameter], self._profile)
        if found.shift.any() or op.kind.to != F16:
            return None
        if self._profile.epilogue == "f16_vector":
            return _Tail((op,), self._vector_step(op.kind, found.scale))
        if self._profile.dequant_multiplier == "full":
            return None
        multiplier = found.multiplier(self._profile)
        total = self._sum(op, multiplier, readers, taken)
        step = fixpipe_dequantizer(multiplier, relu=op.kind.relu, overflow=self._profile.dequant_overflow)
        return total or _Tail((op,), step)

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
        step = residual_adder(multiplier, relu=op.kind.relu, overflow=profile.dequant_overflow,
                              sum_relu=relu is not None, sum_overflow=profile.island_overflow)  # fmt: skip
        return _Tail((op, add) if relu is None else (op, add, relu), step, (other,))

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
    """Which op alone reads a value, once."""

    def __init__(self, ops: Sequence[Op], kept: Collection[Value]) -> None:
        self._reads = Counter(o for op in ops for o in op.operands)
        self._reads.update(kept)
        self._by = {o: op for op in ops for o in op.operands}

    def only(self, value: Value) -> Op | None:
        """The op, ``None`` where there are other readers or nobody may do without the value."""
        return self._by.get(value) if self._reads[value] == 1 else None


def _innermost(tail: _Tail, acc: Value) -> bool:
    """Whether parameters per channel go along the axis that a product has innermost in memory."""
    kind = tail.ops[0].kind
    assert isinstance(kind, ascend.Requant | ascend.Dequant)
    conv = acc.producer is not None and isinstance(acc.producer.kind, ascend.Conv)
    whole = all(p.size == 1 for p in tail.step.parameters)
    return whole or kind.axis == (1 if conv else acc.type.rank - 1)


def _finished(product: Accumulator, step: TileStep) -> Callable[..., Array]:
    return _Described(lambda x, *beside: product.finished(x, step, beside), f"{product}, sums kept in the cache")


def _apart(step: TileStep, op: Op) -> Callable[..., Array]:
    kind = op.kind
    assert isinstance(kind, ascend.Requant | ascend.Dequant)
    return _Described(lambda acc, *beside: step(acc, kind.axis, beside), "float16 kept in the cache")


@dataclass(frozen=True, eq=False, slots=True)
class _Described:
    """A kernel that says how it computes."""

    kernel: Callable[..., Array]
    text: str

    def __call__(self, *operands: Array) -> Array:
        """What the kernel gives."""
        return self.kernel(*operands)

    def __str__(self) -> str:
        return self.text
