"""Contracts: what a pass needs, promises and may change. Tests, documentation and pipeline checks derive from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from amctc.ir import Graph


@dataclass(frozen=True)
class Effect:
    """How far results may move."""


@dataclass(frozen=True)
class Exact(Effect):
    """Not at all: the same bits."""

    def __str__(self) -> str:
        return "exact"


@dataclass(frozen=True)
class Rounding(Effect):
    """By floating-point rounding: ``units`` · 2^-23 · magnitude per application (see :mod:`amctc.magnitude`).

    ``algebraic`` says more: without rounding nothing would move, whatever the constants are, and what is computed from
    them are sums, products, quotients and square roots. Checks prove it on exact rationals
    (:mod:`amctc.testing.algebra`).
    """

    units: float = 2.0
    algebraic: bool = False

    def __str__(self) -> str:
        return f"rounding, {self.units:g} units of the last place"


@dataclass(frozen=True)
class Lossy(Effect):
    """By at most ``bound`` steps of the output's quantizer."""

    bound: float

    def __str__(self) -> str:
        return f"lossy, {self.bound:g} quantizer steps"


@dataclass(frozen=True)
class Changes(Effect):
    """In a way no bound describes; ``why`` says what the pass is for."""

    why: str

    def __str__(self) -> str:
        return f"changes results: {self.why}"


@dataclass(frozen=True)
class Fact:
    """A named property of a graph. ``violation`` returns where it fails to hold, or ``None``."""

    name: str
    violation: Callable[[Graph], str | None]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Contract:
    """A pass: the facts it ``requires``, those it ``ensures``, those it ``keeps`` if they held, its ``effect``.

    ``idempotent`` passes change nothing when run a second time. One that ``freezes_defaults`` may take inputs that
    have a default out of the interface; results are those for who does not feed them.
    """

    effect: Effect
    requires: tuple[Fact, ...] = ()
    ensures: tuple[Fact, ...] = ()
    keeps: tuple[Fact, ...] = ()
    idempotent: bool = True
    freezes_defaults: bool = False
