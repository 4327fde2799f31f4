"""What the steps of a preset gained, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepTrial:
    """One step: the model without it and with it, on samples that calibrated nothing.

    ``change`` is what it puts in the place of what. SQNR in dB and agreement are of the QDQ model against the float
    one; ``error_db`` is the standard error of the gain. A step is ``kept`` or undone; one without any effect is kept.
    """

    name: str
    change: str
    sqnr_before_db: float
    sqnr_after_db: float
    error_db: float
    agreement_before: float | None
    agreement_after: float | None
    kept: bool

    @property
    def gain_db(self) -> float:
        """What it added to the SQNR of the outputs."""
        return self.sqnr_after_db - self.sqnr_before_db


@dataclass(frozen=True)
class StepReport:
    """The steps of a preset in the order of their trials, and how many samples calibrated these or were held back."""

    calibrated: int
    held_back: int
    trials: tuple[StepTrial, ...]
