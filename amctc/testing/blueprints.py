"""Blueprints: the op kinds and types of one instance of a pattern, drawn from the root down, before any value exists.

From the root down because that is where quantized patterns are tied together: ``conv(dequantize(x), dequantize(w))``
needs a convolution first, and then two dequantizers that give what it wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amctc.errors import UsageError
from amctc.pattern import AnyValue, Either, Number, OpPattern, Pattern, Weight
from amctc.schema import OpKind, Trait
from amctc.testing.samplers import Operand, Sample, Sampler, Slot, Wanted, draw_sample, free_operands, has_sampler
from amctc.testing.source import SeededSource, Source, Unfit
from amctc.types import F32, ScalarType, TensorType

ATTEMPTS = 200
"""How many blueprints are tried before the pattern is declared impossible to draw."""

Samplers = Mapping[OpPattern[Any] | type[OpKind], Sampler]
"""Samplers that replace the registered ones, for one op pattern or for an op kind."""


class Blueprint:
    """What was chosen: per pattern a type (``None``: absent), per op pattern a sample and the patterns it reads."""

    def __init__(self, source: Source, samplers: Samplers, default_elem: ScalarType = F32) -> None:
        self._source, self._samplers, self._elem = source, samplers, default_elem
        self.types: dict[Pattern[Any], TensorType | None] = {}
        self.samples: dict[OpPattern[Any], Sample] = {}
        self.operands: dict[OpPattern[Any], tuple[Pattern[Any], ...]] = {}
        self._chosen: dict[Either, Pattern[Any]] = {}

    def resolve(self, pattern: Pattern[Any]) -> Pattern[Any]:
        """The pattern itself, or what was chosen where it offers a choice."""
        while isinstance(pattern, Either):
            if pattern not in self._chosen:
                self._chosen[pattern] = self._source.choice(pattern.choices)
            pattern = self._chosen[pattern]
        return pattern

    def draw(self, pattern: OpPattern[Any], wanted: TensorType | None = None) -> None:
        """Choose an op for ``pattern`` with a result of type ``wanted``, then what it reads."""
        kind = self._source.choice(self._kinds(pattern))
        operands = tuple(map(self.resolve, self._named(pattern, kind)))
        self.operands[pattern] = operands
        function = self._samplers.get(pattern) or self._samplers.get(kind)
        sample, result = draw_sample(
            self._source, kind, Wanted(tuple(map(self._slot, operands)), wanted, self._elem),
            function=function, where=pattern.accepts,
        )  # fmt: skip
        self.samples[pattern], self.types[pattern] = sample, result
        # Leaves first: an op that reads a shared leaf must then fit it (residual connections).
        numbered = sorted(enumerate(operands), key=lambda item: isinstance(item[1], OpPattern))
        for index, operand in numbered:
            type_ = sample.operands[index] if index < len(sample.operands) else None
            if operand in self.types:
                if self.types[operand] != type_:
                    raise Unfit(f"{operand.described()} is {self.types[operand]} in one place and {type_} in another")
            elif isinstance(operand, OpPattern):
                self.draw(operand, type_)
            else:
                constant = isinstance(operand, Weight | Number) or (isinstance(operand, AnyValue) and operand.constant)
                if constant and type_ is not None and not type_.is_static:
                    raise Unfit(f"{operand.described()} is a constant and cannot be {type_}")
                self.types[operand] = type_

    def _named(self, pattern: OpPattern[Any], kind: type[OpKind]) -> tuple[Pattern[Any], ...]:
        """The operand patterns; values of any kind where the pattern leaves its operands open."""
        if pattern.operands is not None:
            return pattern.operands
        slots = free_operands(self._source, kind)
        present = [i for i, slot in enumerate(slots) if slot is not Slot.ABSENT]
        return tuple(AnyValue() for _ in slots[: max(present, default=-1) + 1])

    def _slot(self, operand: Pattern[Any]) -> Operand:
        if operand in self.types:
            return self.types[operand] or Slot.ABSENT
        if isinstance(operand, OpPattern) and (likely := self._likely(operand)) is not None and self._source.flip(0.8):
            return likely
        if isinstance(operand, Weight | AnyValue) and operand.optional and self._source.flip(0.35):
            return Slot.ABSENT
        return Slot.FREE

    def _likely(self, pattern: Pattern[Any]) -> TensorType | None:
        """The type a pattern has; if it is not drawn yet, that of what it reads, which element-wise ops mostly keep."""
        pattern = self.resolve(pattern)
        if pattern in self.types or not isinstance(pattern, OpPattern) or pattern.operands is None:
            return self.types.get(pattern)
        if not all(Trait.ELEMENTWISE in kind.traits for kind in pattern.kinds):
            return None
        read = [t for o in pattern.operands if (t := self._likely(o)) is not None]
        return max(read, key=lambda t: t.rank, default=None)

    def _kinds(self, pattern: OpPattern[Any]) -> list[type[OpKind]]:
        own = pattern in self._samplers
        kinds = [k for k in pattern.kinds if own or k in self._samplers or has_sampler(k)]
        if not kinds:
            names = ", ".join(k.op_name or k.__name__ for k in pattern.kinds)
            raise UsageError(
                f"cannot draw {pattern.described()}: no sampler for {names}",
                remedy="register one with @amctc.testing.sampler(kind), or pass samplers={pattern: function}",
            )
        return kinds

    def is_nonnegative(self, leaf: Pattern[Any]) -> bool:
        """True when constants for this leaf must not be negative (a variance)."""
        return any(
            index in sample.nonnegative and operand is leaf
            for pattern, sample in self.samples.items()
            for index, operand in enumerate(self.operands[pattern])
        )

    def index_of(self, leaf: Pattern[Any]) -> int | None:
        """How many elements the contents of this leaf choose from, ``None`` where they are no indices."""
        for pattern, sample in self.samples.items():
            for index, size in sample.indices:
                if self.operands[pattern][index] is leaf:
                    return size
        return None

    def first_position(self, leaf: Pattern[Any]) -> int:
        """Which operand a leaf is, where it is read first."""
        return next(o.index(leaf) for o in self.operands.values() if leaf in o)

    @property
    def leaves(self) -> list[AnyValue | Weight[Any] | Number]:
        """The patterns that are no ops, those of absent operands included."""
        return [p for p in self.types if isinstance(p, AnyValue | Weight | Number)]


def draw_blueprint(
    source: Source, pattern: OpPattern[Any], samplers: Samplers, default_elem: ScalarType = F32
) -> Blueprint:
    """A blueprint of ``pattern``; :class:`UsageError` says what to do when none is found in a bounded number of tries.

    The first tries take their choices from ``source`` (they shrink well), later ones from a seed drawn from it.
    """
    reason = ""
    seed = source.integer(0, 1 << 16)
    for attempt in range(ATTEMPTS):
        blueprint = Blueprint(source if attempt < 2 else SeededSource(seed + attempt), samplers, default_elem)
        try:
            blueprint.draw(pattern)
            return blueprint
        except Unfit as unfit:
            reason = str(unfit)
    raise UsageError(
        f"cannot draw an instance of {pattern.described()} in {ATTEMPTS} tries; the last failed because {reason}",
        remedy="pass samplers={op pattern: function} that draws attributes its where= accepts and types that fit",
    )
