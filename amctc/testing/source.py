"""Where random choices come from: Hypothesis, which shrinks them, or a seeded generator, which is cheap to retry."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

T = TypeVar("T")


class Unfit(Exception):
    """No op fits what was asked for: the drawing is tried again with other choices."""


class Source(ABC):
    """A stream of choices. Every choice shrinks towards its first option."""

    patience: ClassVar[int]
    """How often a sampler is asked again before the whole drawing starts over."""

    def __init__(self) -> None:
        self._remembered: list[object] = []

    @abstractmethod
    def integer(self, low: int, high: int) -> int:
        """An integer in ``[low, high]``."""

    def choice(self, options: Sequence[T]) -> T:
        """One of ``options``; :class:`Unfit` without any."""
        if not options:
            raise Unfit("nothing to choose from")
        return options[self.integer(0, len(options) - 1)]

    def remember(self, item: T) -> T:
        """``item``, offered to later :meth:`recalled`: patterns ask whether two attributes agree."""
        self._remembered.append(item)
        return item

    def recalled(self, of: type[T]) -> list[T]:
        """What was remembered of this type, the newest first."""
        return [item for item in reversed(self._remembered) if isinstance(item, of)]

    def flip(self, probability: float = 0.5) -> bool:
        """True with ``probability``; shrinks to False."""
        return self.integer(0, 99) >= round(100 * (1 - probability))


class HypothesisSource(Source):
    """Choices drawn from Hypothesis: each shrinks on its own.

    They come through ``st.randoms``: integers drawn one strategy at a time invite Hypothesis to copy them over each
    other, and five in six examples would be near copies of another one.
    """

    patience = 4

    def __init__(self, draw: DrawFn) -> None:
        super().__init__()
        self._random = draw(st.randoms(use_true_random=False))

    def integer(self, low: int, high: int) -> int:
        """An integer in ``[low, high]`` that shrinks towards ``low``."""
        return low if low == high else self._random.randint(low, high)


class SeededSource(Source):
    """Choices that follow from one seed: hundreds of attempts cost Hypothesis a single draw."""

    patience = 100

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        """An integer in ``[low, high]``."""
        return self._random.randint(low, high)
