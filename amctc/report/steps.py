"""What the steps of a preset gained, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepTrial:
    """One step: the model without it and with it, on samples that calibrated nothing.

    ``change`` is what it puts in the place of what. SQNR in dB and agreement are of the QDQ model against the float
    one. ``gain_db`` is what the SQNR of a sample rose by on average, ``error_db`` the standard error of that. A step is
    ``kept`` or undone; one without any effect is kept where the result hangs on it all the same.
    """

    name: str
    change: str
    sqnr_before_db: float
    sqnr_after_db: float
    gain_db: float
    error_db: float
    agreement_before: float | None
    agreement_after: float | None
    kept: bool


@dataclass(frozen=True)
class StepReport:
    """The steps of a preset in the order of their trials, and how many samples calibrated these or were held back."""

    calibrated: int
    held_back: int
    trials: tuple[StepTrial, ...]
