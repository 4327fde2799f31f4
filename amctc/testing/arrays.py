"""Array contents as a short recipe: a seed, a scale and a special form, expanded by NumPy when needed.

A recipe shrinks in three choices and prints in one line, where an array drawn element by element does neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from amctc.errors import UnsupportedError
from amctc.ir import GraphInput
from amctc.testing.source import Source
from amctc.types import F16, Array, Elem, OpaqueType, QuantizedType, Shape, TensorType

SPECIALS = ("integers", "", "", "", "", "", "zeros", "negative", "tiny", "large", "channel")
"""Forms of contents: small integers, plain normal numbers, all zero, all negative, times 2^-24, times 2^16, and one
slice along the first axis 1000 times larger than the others."""

EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, 6.0, -6.0, 2.0**20, -(2.0**20), 2.0**-20)
"""Values that activations, clips and roundings treat specially."""


@dataclass(frozen=True)
class Recipe:
    """How to fill an array. ``special`` is one of :data:`SPECIALS`, ``edges`` or ``nonfinite`` (NaN, infinities)."""

    seed: int = 0
    scale: float = 1.0
    special: str = ""

    def array(self, shape: tuple[int, ...], elem: Elem, *, nonnegative: bool = False) -> Array:
        """The array of this shape in the NumPy type of ``elem``; quantized types get stored integers in range."""
        if isinstance(elem, OpaqueType):
            raise UnsupportedError(f"no contents can be drawn for {elem}", remedy="give samples")
        rng = np.random.default_rng(self.seed)
        if isinstance(elem, QuantizedType) or elem.is_integer:
            low, high = (elem.low, elem.high) if isinstance(elem, QuantizedType) else elem.integer_range
            span = (low, high) if self.special in ("large", "edges") else (max(low, -8), min(high, 8))
            return rng.integers(span[0], span[1], size=shape, endpoint=True, dtype=elem.dtype)
        if not elem.is_float:
            return rng.integers(0, 2, size=shape).astype(elem.dtype)
        values = self._values(rng, shape, narrow=elem == F16)
        return (np.abs(values) if nonnegative else values).astype(elem.dtype)

    def _values(self, rng: np.random.Generator, shape: tuple[int, ...], narrow: bool) -> Array:
        if self.special in ("edges", "nonfinite"):
            options = EDGES if self.special == "edges" else (*EDGES, np.nan, np.inf, -np.inf)
            chosen = rng.choice(np.asarray(options), size=shape)
            return np.clip(chosen, -1024, 1024) if narrow else np.asarray(chosen)
        if self.special == "integers" or narrow:
            # Multiples of 1/8 keep products of float16 constants away from its subnormal numbers.
            whole = rng.integers(-3, 3, size=shape, endpoint=True)
            return whole * 1.0 if self.special == "integers" else whole / 8 + np.sign(whole)
        values = np.asarray(rng.standard_normal(shape)) * self.scale
        if self.special == "negative":
            return -np.abs(values)
        if self.special == "channel" and shape and shape[0] > 1:
            values[rng.integers(shape[0])] *= 1000.0
        return values * {"zeros": 0.0, "tiny": 2.0**-24, "large": 2.0**16}.get(self.special, 1.0)


def draw_recipe(source: Source) -> Recipe:
    """A recipe; shrinks to small integers."""
    special = source.choice(SPECIALS)
    return Recipe(source.integer(0, 9999), source.choice((1.0, 0.1, 10.0)), special)


def concrete_shape(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """``shape`` with symbols looked up in ``sizes`` (2 where absent), unknown dimensions 1."""
    return tuple(d if isinstance(d, int) else 1 if d is None else sizes.get(d, 2) for d in shape)


def feed(inputs: tuple[GraphInput, ...], recipe: Recipe, sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
    """One array per graph input: ``recipe`` with a seed of its own for each, symbols standing for ``sizes``."""
    return {
        value.name: numbered(recipe, index).array(concrete_shape(value.type.dims, sizes or {}), value.type.elem)
        for index, value in enumerate(inputs)
    }


def numbered(recipe: Recipe, index: int) -> Recipe:
    """The recipe with another seed per ``index``."""
    return Recipe(recipe.seed + 7919 * (index + 1), recipe.scale, recipe.special)


def filled(type_: TensorType, recipe: Recipe, *, nonnegative: bool = False) -> Array:
    """An array of a tensor type, symbols standing for 2."""
    return recipe.array(concrete_shape(type_.dims, {}), type_.elem, nonnegative=nonnegative)
