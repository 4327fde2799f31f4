"""Samplers: per op kind, how to draw attributes and operand types that build.

A sampler is told what is already fixed (:class:`Wanted`) and chooses the rest::

    @sampler(Swish)
    def sample_swish(source: Source, wanted: Wanted) -> Sample:
        x = wanted.operand(0) or wanted.result or draw_type(source, wanted.elem)
        return Sample(Swish(beta=source.choice((1.0, 0.5))), (x,))

It constructs what fits instead of filtering, may raise :class:`Unfit` for the rare case it cannot serve, and need
not check its own work: :func:`draw_sample` infers the result and compares.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from amctc.errors import AmctcError, UsageError
from amctc.schema import OpKind
from amctc.testing.source import Source, Unfit
from amctc.types import F32, Dim, Elem, ScalarType, TensorType


class Slot(enum.Enum):
    """State of an operand whose type is not fixed."""

    FREE = "free"
    """The sampler chooses its type."""
    ABSENT = "absent"
    """The optional operand is left out."""


Operand: TypeAlias = TensorType | Slot


@dataclass(frozen=True)
class Wanted:
    """What a sampler must respect: fixed operand types, a fixed result type if any, else the element type to use."""

    operands: tuple[Operand, ...]
    result: TensorType | None = None
    default_elem: ScalarType = F32

    def operand(self, index: int) -> TensorType | None:
        """The fixed type of an operand, ``None`` where it is free or absent."""
        found = self.operands[index] if index < len(self.operands) else Slot.ABSENT
        return found if isinstance(found, TensorType) else None

    def absent(self, index: int) -> bool:
        """True when the operand is to be left out."""
        return index >= len(self.operands) or self.operands[index] is Slot.ABSENT

    @property
    def fixed(self) -> tuple[TensorType, ...]:
        """The fixed operand types."""
        return tuple(o for o in self.operands if isinstance(o, TensorType))

    @property
    def elem(self) -> Elem:
        """The element type: of the fixed operands, else of the result, else the default."""
        known = [*self.fixed, *([] if self.result is None else [self.result])]
        return known[0].elem if known else self.default_elem


@dataclass(frozen=True)
class Sample:
    """An op kind with a type per operand (``None``: absent). Constants at ``nonnegative`` operands are (variances).

    ``indices`` pairs an operand that must be a constant with the number of elements its contents choose from;
    ``constants`` are others that must be one.
    """

    kind: OpKind
    operands: tuple[TensorType | None, ...]
    nonnegative: tuple[int, ...] = ()
    indices: tuple[tuple[int, int], ...] = ()
    constants: tuple[int, ...] = ()


Sampler: TypeAlias = Callable[[Source, Wanted], Sample]

_SAMPLERS: dict[type[OpKind], Sampler] = {}


def sampler(*kinds: type[OpKind]) -> Callable[[Sampler], Sampler]:
    """Decorator: register how instances of ``kinds`` are drawn; a later registration replaces an earlier one."""

    def enter(function: Sampler) -> Sampler:
        for kind in kinds:
            _SAMPLERS[kind] = function
        return function

    return enter


def registered_samplers() -> Mapping[type[OpKind], Sampler]:
    """The sampler of each op kind that has one."""
    return dict(_SAMPLERS)


def has_sampler(kind: type[OpKind]) -> bool:
    """True when :func:`draw_sample` can draw this op kind."""
    return kind in _SAMPLERS


def sampler_of(kind: type[OpKind]) -> Sampler:
    """The sampler of an op kind; :class:`UsageError` says how to register one."""
    try:
        return _SAMPLERS[kind]
    except KeyError:
        raise UsageError(
            f"no sampler for op kind {kind.op_name or kind.__name__!r}",
            remedy="register one with @amctc.testing.sampler(kind): it draws attributes and operand types",
        ) from None


def draw_sample(
    source: Source,
    kind: type[OpKind],
    wanted: Wanted,
    *,
    function: Sampler | None = None,
    where: Callable[[Any], bool] | None = None,
) -> tuple[Sample, TensorType]:
    """A sample that respects ``wanted`` and ``where``, and its first result's type.

    Asks the sampler a bounded number of times (the source's patience); :class:`Unfit` after that.
    """
    function = function or sampler_of(kind)
    reason: object = "never asked"
    for _ in range(source.patience):
        try:
            sample = function(source, wanted)
            if where is not None and not where(sample.kind):
                reason = "where= refuses"
                continue
            _respect(sample, wanted)
            result = sample.kind.infer(*_trimmed(sample.operands))[0]
        except (Unfit, AmctcError) as error:
            # A sampler serves the combinations it knows; what does not build is drawn again.
            reason = error  # put into words only where it is the last
            continue
        if wanted.result is None or result == wanted.result:
            return sample, result
        reason = "another result"
    raise Unfit(f"{kind.op_name}: {reason}")


def _respect(sample: Sample, wanted: Wanted) -> None:
    for index, operand in enumerate(wanted.operands):
        given = sample.operands[index] if index < len(sample.operands) else None
        if given is None if operand is Slot.FREE else given != (None if operand is Slot.ABSENT else operand):
            raise Unfit(f"operand {index} is {given}, not {operand}")
        if operand is Slot.FREE and given is not None and None in given.dims:
            raise Unfit(f"operand {index} is {given}: an unknown dimension need not fit when it runs")


def _trimmed(types: tuple[TensorType | None, ...]) -> tuple[TensorType | None, ...]:
    while types and types[-1] is None:
        types = types[:-1]
    return types


def free_operands(source: Source, kind: type[OpKind], *fixed: TensorType) -> tuple[Operand, ...]:
    """Slots for all operands of ``kind``: the first ones ``fixed``, optional ones present or absent, the rest free."""
    slots: list[Operand] = []
    for spec in kind.operand_specs:
        if spec.variadic:
            slots += [Slot.FREE] * source.integer(1, 3)
        else:
            slots.append(Slot.ABSENT if spec.optional and source.flip() else Slot.FREE)
    for index, type_ in enumerate(fixed[: len(slots)]):
        slots[index] = type_
    return tuple(slots)


def draw_size(source: Source) -> int:
    """A small dimension."""
    return source.choice((1, 2, 3, 2, 3, 4))


def draw_batch(source: Source) -> Dim:
    """A batch dimension, sometimes the symbol N."""
    return "N" if source.flip(0.2) else source.choice((1, 2))


def draw_type(source: Source, elem: Elem, low: int = 1, high: int = 4) -> TensorType:
    """A tensor type of ``low`` to ``high`` dimensions, the first of them the batch."""
    rank = source.choice(sorted(range(low, high + 1), key=lambda r: (abs(r - 2), r)))
    return TensorType(tuple(draw_batch(source) if i == 0 else draw_size(source) for i in range(rank)), elem)


def dim(type_: TensorType | None, axis: int) -> Dim:
    """A dimension of a type, ``None`` where the type is free; :class:`Unfit` where it is missing or unknown."""
    if type_ is None:
        return None
    if not -type_.rank <= axis < type_.rank or type_.dims[axis] is None:
        raise Unfit(f"{type_} has no known dimension {axis}")
    return type_.dims[axis]


def known(*dims: Dim) -> Dim:
    """The first dimension that is known, ``None`` if none is."""
    return next((d for d in dims if d is not None), None)


def number(d: Dim) -> int | None:
    """A dimension as a number or ``None``; :class:`Unfit` for a symbol."""
    if isinstance(d, str):
        raise Unfit(f"dimension {d!r} must be a number")
    return d
