"""How near to its float model a compressed model must be."""

from __future__ import annotations

from dataclasses import dataclass

from amctc.errors import UsageError
from amctc.measurement import Measurement


@dataclass(frozen=True)
class Goal:
    """How near to its float model a model must be: one of two bounds.

    ``max_drop`` is in percent points, of top-1 where there are labels and of agreement with the float model where there
    are none; with an evaluator in units of its score. ``min_sqnr`` is the SQNR of the outputs in dB. Raises
    :class:`UsageError` for none or both, or a bound that is no number.
    """

    max_drop: float | None = None
    min_sqnr: float | None = None

    def __post_init__(self) -> None:
        if (self.max_drop is None) == (self.min_sqnr is None):
            raise UsageError("a goal is one of max_drop and min_sqnr", remedy="give one of them")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise UsageError(f"max_drop={self.max_drop} is negative or no number", remedy="give 0 or more")
        if self.min_sqnr is not None and not abs(self.min_sqnr) < float("inf"):
            raise UsageError(f"min_sqnr={self.min_sqnr} is no number of decibels", remedy="give 30, for example")

    def excess(self, found: Measurement, clean: Measurement) -> float:
        """By how much ``found`` misses the goal, in the unit of the bound; 0 or less where it is reached."""
        if self.min_sqnr is not None:
            return self.min_sqnr - found.sqnr_db
        assert self.max_drop is not None
        return self._drop(found, clean) - self.max_drop

    def _drop(self, found: Measurement, clean: Measurement) -> float:
        if clean.score is not None and found.score is not None:
            return clean.score - found.score
        before, after = (clean.agreement, found.agreement) if clean.top1 is None else (clean.top1, found.top1)
        if before is None or after is None:
            raise UsageError("the first output has no row of scores per sample, so no class can change",
                             remedy="give min_sqnr, or an evaluator")  # fmt: skip
        return round(100.0 * (before - after), 9)  # 0.97 - 0.965 is half a point

    def text(self, clean: Measurement) -> str:
        """The goal in words."""
        if self.min_sqnr is not None:
            return f"outputs of at least {self.min_sqnr:g} dB"
        if clean.score is not None:
            return f"a score at most {self.max_drop:g} below the float model's"
        what = "agreement with the float model" if clean.top1 is None else "top-1"
        return f"at most {self.max_drop:g} points of {what} lost"
