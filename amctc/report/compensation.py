"""What error compensation of a quantized model found, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from amctc.report.json_text import json_text


@dataclass(frozen=True)
class Sweep:
    """One walk over all layers: the outputs before and after it, on samples that corrected nothing.

    SQNR in dB and agreement are of the QDQ model against the float one; ``gain_db`` is what the SQNR of a sample rose
    by on average, ``error_db`` the standard error of that. ``layers`` names each layer that was corrected,
    with what was done and its own outputs before and after.
    """

    sqnr_before_db: float
    sqnr_after_db: float
    gain_db: float
    error_db: float
    agreement_before: float | None
    agreement_after: float | None
    kept: bool
    layers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CompensationReport:
    """The sweeps over ``model``, compared with ``reference``; the last one is undone unless it is kept."""

    model: str
    reference: str
    corrected: int
    held_back: int
    sweeps: tuple[Sweep, ...]

    def to_json(self) -> str:
        """The report as JSON text; the same bytes for the same run."""
        return json_text(self)
