"""Joins a dequantizer, the residual addition that alone reads it and a ReLU after that, for the executor ``numpy``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from amctc.interp import Step
from amctc.ir import Op, Value
from amctc.kernels.epilogue_parameters import dequant_parameters
from amctc.kernels.residual import LEAST_MULTIPLIER, add_dequantized
from amctc.ops import ascend, nn
from amctc.targets import Profile
from amctc.types import F16, Array


class ResidualSums:
    """A grouping of a :class:`~amctc.interp.Plan`, by ``profile``'s rules. What it does not join is left alone."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def __call__(
        self, ops: Sequence[Op], constants: Mapping[Value, Array], kept: Collection[Value]
    ) -> Iterator[Op | Step]:
        """Sums in one step each, in the place of their last op, and all other ops."""
        steps = {step.ops[-1]: step for step in self._steps(ops, constants, kept)}
        joined = {op for step in steps.values() for op in step.ops}
        for op in ops:
            if op in steps:
                yield steps[op]
            elif op not in joined:
                yield op

    def _steps(self, ops: Sequence[Op], constants: Mapping[Value, Array], kept: Collection[Value]) -> Iterator[Step]:
        profile = self._profile
        if profile.epilogue == "f16_vector" or profile.dequant_multiplier == "full":
            return
        reads = Counter(o for op in ops for o in op.operands)
        reads.update(kept)
        relus = {op.operands[0]: op for op in ops if type(op.kind) is nn.Relu}
        for op in ops:
            if type(op.kind) is not nn.Add or op.result.type.elem != F16:
                continue
            for own, other in (op.operands, op.operands[::-1]):
                kernel = self._kernel(own, other, constants) if reads[own] == 1 else None
                if kernel is None or own is None or own.producer is None:
                    continue
                relu = relus.get(op.result) if reads[op.result] == 1 else None
                members = (own.producer, op) if relu is None else (own.producer, op, relu)
                yield Step(members, (own.producer.operands[0], other), members[-1].results, kernel.followed(relu))
                break

    def _kernel(self, own: Value | None, other: Value | None, constants: Mapping[Value, Array]) -> _ResidualSum | None:
        """What adds ``other`` to the accumulator that ``own`` is made of, ``None`` where that cannot be had so."""
        op = None if own is None else own.producer
        if own is None or other is None or op is None or not isinstance(op.kind, ascend.Dequant) or op.kind.to != F16:
            return None
        parameter, fits = op.operands[1], own.type == other.type and None not in own.type.dims
        if parameter is None or parameter not in constants or not fits:
            return None
        found = dequant_parameters(op.kind, constants[parameter], self._profile)
        multiplier = found.multiplier(self._profile)
        if found.shift.any() or not (multiplier >= LEAST_MULTIPLIER).all():
            return None
        return _ResidualSum(op.kind, multiplier, self._profile)


@dataclass(frozen=True, eq=False, slots=True)
class _ResidualSum:
    """The kernel of an accumulator and what is added to it."""

    kind: ascend.Dequant
    multiplier: Array
    profile: Profile
    relu: bool = False

    def followed(self, relu: Op | None) -> _ResidualSum:
        """The kernel with the ReLU behind it."""
        return _ResidualSum(self.kind, self.multiplier, self.profile, relu is not None)

    def __call__(self, acc: Array, other: Array) -> Array:
        """The float16 sum."""
        return add_dequantized(
            acc, other, self.multiplier, channel_axis=self.kind.axis, relu=self.kind.relu,
            overflow=self.profile.dequant_overflow, sum_relu=self.relu, sum_overflow=self.profile.island_overflow,
        )  # fmt: skip

    def __str__(self) -> str:
        return "float16 in the cache"
