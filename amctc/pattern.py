"""Patterns: immutable descriptions of small subgraphs, matched from their root towards the inputs.

A match is indexed by the pattern objects themselves, so what comes out is typed: an op pattern gives the op kind with
its attributes, a weight pattern its array, a value pattern the value::

    x, w, b = any_value(), weight(), weight(optional=True)
    conv = op(nn.Conv, x, w, b, uses=1)

    match[conv].strides      # the nn.Conv
    match[w]                 # a NumPy array
    match[b]                 # an array or None
    match.value(x)           # the value itself

The same pattern object in two places matches only the same value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any, Generic, Literal, TypeAlias, TypeVar, overload

import ml_dtypes
import numpy as np

from amctc.data import Data
from amctc.ir import Op, Origins, Value, constant_data, union_origins
from amctc.schema import OpKind, Trait
from amctc.types import Array

K = TypeVar("K", bound=OpKind)
T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Pattern(Generic[T]):
    """What a value may be. ``T`` is the type a match gives for it."""

    name: str = field(default="", kw_only=True)

    def __repr__(self) -> str:
        """Short: patterns share parts, and written out each part would appear wherever it is shared."""
        return f"<pattern of {self.described()}>"

    def described(self) -> str:
        """The pattern in a message: its name, else what it matches."""
        kinds = {AnyValue: "a value", Weight: "a weight", Number: "a number"}
        return self.name or kinds.get(type(self), "one of several patterns")


@dataclass(frozen=True, eq=False, repr=False)
class AnyValue(Pattern[Value]):
    """Any value at all, constants included unless ``constant`` is False. An ``optional`` one may be absent."""

    constant: bool | None = None
    optional: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Weight(Pattern[T]):
    """A constant. An ``optional`` one may be absent."""

    optional: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Number(Pattern[float]):
    """A floating-point constant all of whose elements are the same number: ``value`` as its type rounds it, if given.

    Constants of more than :data:`NUMBER_BYTES` are not read, hence not matched.
    """

    value: float | None = None

    def read(self, value: Value | None) -> float | None:
        """The number that ``value`` is a constant of, ``None`` where it is not one of this pattern."""
        data = constant_data(value)
        if value is None or data is None or not value.type.is_float or not 0 < data.nbytes <= NUMBER_BYTES:
            return None
        array = data.read().astype(np.float64).reshape(-1)
        if not (array == array[0]).all() and not np.isnan(array).all():
            return None
        found = float(array[0])
        if self.value is None:
            return found
        nearest = float(np.asarray(self.value).astype(data.dtype))
        spacing = abs(nearest) * float(ml_dtypes.finfo(data.dtype).eps)  # type: ignore[no-untyped-call]
        return self.value if abs(found - nearest) <= spacing else None


NUMBER_BYTES = 1 << 16
"""Exporters spread a number over a shape now and then, but not over a large one."""


@dataclass(frozen=True, eq=False, repr=False)
class OpPattern(Pattern[K]):
    """The only result of an op of one of ``kinds`` whose operands match ``operands`` in order (``None``: any operands).

    ``uses`` is the exact number of uses of the result (graph outputs count), ``readers`` the op kinds that may read
    it, ``where`` a condition on the attributes that says what it wants in ``wanted``. A layer with a fused activation
    matches only with ``fused``: a rewrite that does not think of the activation must not see it.
    """

    kinds: tuple[type[K], ...]
    operands: tuple[Pattern[Any], ...] | None
    uses: int | None = None
    readers: tuple[type[OpKind], ...] | None = None
    where: Callable[[K], bool] | None = None
    wanted: str = ""
    fused: bool = False

    @functools.cached_property
    def has_choices(self) -> bool:
        """Whether it can match one value in several ways: it has alternatives, or operands that can be exchanged."""
        parts = self.operands or ()
        return any(Trait.COMMUTATIVE in k.traits for k in self.kinds) or any(
            p.has_choices if isinstance(p, OpPattern) else isinstance(p, Either) for p in parts
        )

    def accepts(self, kind: OpKind) -> bool:
        """True for a kind and attributes the pattern takes."""
        return isinstance(kind, self.kinds) and self.refusal(kind) is None

    def refusal(self, kind: K) -> str | None:
        """Why the attributes of a kind do not fit, ``None`` where they do."""
        if not self.fused and getattr(kind, "activation", None) is not None:
            return "no fused activation"
        return self.wanted if self.where is not None and not self.where(kind) else None

    def described(self) -> str:
        """Its name, else the names of its op kinds."""
        return self.name or " or ".join(k.op_name for k in self.kinds)


@dataclass(frozen=True, eq=False, repr=False)
class Either(Pattern[Any]):
    """The first of several patterns that matches."""

    choices: tuple[Pattern[Any], ...]


def any_value(*, constant: bool | None = None, optional: bool = False, name: str = "") -> AnyValue:
    """Matches every value; with ``constant`` given, only constants or only others; ``optional``: absence too."""
    return AnyValue(constant, optional, name=name)


def number(value: float | None = None, *, name: str = "") -> Number:
    """Matches a constant that is one number throughout, ``value`` to the last place if given; a match gives a float."""
    return Number(value, name=name or ("" if value is None else f"{value:g}"))


@overload
def weight(*, optional: Literal[False] = ..., name: str = ...) -> Weight[Array]: ...
@overload
def weight(*, optional: Literal[True], name: str = ...) -> Weight[Array | None]: ...
def weight(*, optional: bool = False, name: str = "") -> Weight[Any]:
    """Matches a constant; with ``optional`` also an absent operand, whose array is then ``None``."""
    return Weight(optional, name=name)


def op(
    kind: type[K] | tuple[type[K], ...],
    *operands: Pattern[Any] | EllipsisType,
    uses: int | None = None,
    readers: tuple[type[OpKind], ...] | None = None,
    where: Callable[[K], bool] | None = None,
    wanted: str = "",
    fused: bool = False,
    name: str = "",
) -> OpPattern[K]:
    """Matches an op of one result; see :class:`OpPattern`. Commutative kinds try both operand orders.

    A lone ``...`` in place of the operand patterns accepts any operands: ``op(nn.Concat, ..., uses=1)``.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    named = None if operands == (...,) else tuple(p for p in operands if isinstance(p, Pattern))
    if named is not None and len(named) != len(operands):
        raise ValueError("... stands alone in place of all operand patterns")
    for k in kinds:
        specs = k.operand_specs
        if named is not None and not (specs and specs[-1].variadic) and len(named) > len(specs):
            raise ValueError(f"{k.op_name} has {len(specs)} operands, the pattern names {len(named)}")
        least = sum(not (s.optional or s.variadic) for s in specs)
        if named is not None and len(named) < least:
            raise ValueError(f"{k.op_name} has at least {least} operands, the pattern names {len(named)}")
    if where is not None and not wanted:
        raise ValueError("say in wanted= what where= asks for: a declined match explains itself with it")
    return OpPattern(kinds, named, uses, readers, where, wanted, fused, name=name)


def either(*choices: Pattern[Any], name: str = "") -> Either:
    """Matches what any of the patterns matches, tried in order."""
    return Either(choices, name=name)


Bindings: TypeAlias = dict[Pattern[Any], "Value | None"]
"""What each pattern of an attempt matched; an absent operand is ``None``."""


class NoMatch(Exception):
    """Raised by a rewrite that declines a structural match; the message says why."""


class Match:
    """Values bound to the patterns of one match."""

    def __init__(self, root: OpPattern[Any], bindings: Bindings) -> None:
        self.root, self._bindings = root, bindings
        self._ops: tuple[Op, ...] | None = None  # functools.cached_property takes a lock

    @overload
    def __getitem__(self, pattern: OpPattern[K]) -> K: ...
    @overload
    def __getitem__(self, pattern: Weight[T]) -> T: ...
    @overload
    def __getitem__(self, pattern: Number) -> float: ...
    @overload
    def __getitem__(self, pattern: AnyValue) -> Value: ...
    @overload
    def __getitem__(self, pattern: Pattern[Any]) -> Any: ...
    def __getitem__(self, pattern: Pattern[Any]) -> Any:
        """The op kind, the array, or the value a pattern matched."""
        value = self._bindings[pattern]
        if isinstance(pattern, OpPattern):
            assert value is not None
            assert value.producer is not None
            return value.producer.kind
        if isinstance(pattern, Weight):
            return None if value is None else self.data(pattern).read()
        if isinstance(pattern, Number):
            return pattern.read(value)
        return value

    def get(self, pattern: Pattern[T]) -> T | None:
        """What :meth:`__getitem__` gives, ``None`` for a pattern that took no part (a choice not taken)."""
        found: T | None = self[pattern] if pattern in self._bindings else None
        return found

    def __contains__(self, pattern: Pattern[Any]) -> bool:
        return pattern in self._bindings

    def value(self, pattern: Pattern[Any]) -> Value:
        """The value a pattern matched; it must not be absent."""
        value = self._bindings[pattern]
        assert value is not None
        return value

    def optional(self, pattern: Pattern[Any]) -> Value | None:
        """The value a pattern matched, ``None`` if the operand was absent."""
        return self._bindings[pattern]

    def values(self, *patterns: Pattern[Any]) -> tuple[Value, ...]:
        """The values several patterns matched."""
        return tuple(self.value(p) for p in patterns)

    def data(self, pattern: Weight[Any]) -> Data:
        """The unread contents of a constant, for deferred recipes."""
        data = constant_data(self._bindings[pattern])
        assert data is not None
        return data

    @property
    def ops(self) -> tuple[Op, ...]:
        """The matched ops, operands first."""
        if self._ops is None:
            self._ops = self._matched_ops()
        return self._ops

    def _matched_ops(self) -> tuple[Op, ...]:
        bound = [v.producer for p, v in self._bindings.items() if isinstance(p, OpPattern) and v is not None]
        matched = [op for op in bound if op is not None]
        if len(matched) <= 2:
            return tuple(matched[::-1])  # the root, which reads the other, is bound first
        found: dict[Op, None] = {}

        def visit(op: Op | None) -> None:  # as deep as the pattern
            if op is not None and op in matched and op not in found:
                for operand in op.operands:
                    visit(None if operand is None else operand.producer)
                found[op] = None

        for value in self._bindings.values():
            visit(None if value is None else value.producer)
        return tuple(found)

    @property
    def origins(self) -> Origins:
        """The union of the matched ops' origins, operands first."""
        return union_origins(*(o.origins for o in self.ops))
