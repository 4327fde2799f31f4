"""Numbers as people read them: bytes, multiply-accumulates, decibels, shares, microseconds."""

from __future__ import annotations

import math

ABSENT = "–"
"""What stands for a number that is not known."""


def bytes_text(size: int | None) -> str:
    """``1536`` as ``1.5 KiB``; powers of 1024."""
    return _scaled(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def count_text(count: int | None) -> str:
    """``1500000`` as ``1.5 M``; powers of 1000."""
    return _scaled(count, 1000, ("", "k", "M", "G", "T"))


def macs_text(macs: int | None) -> str:
    """``1500000`` as ``1.5 MMACs``."""
    return ABSENT if macs is None else f"{count_text(macs)}{'' if macs >= 1000 else ' '}MACs"


def _scaled(number: int | None, base: int, units: tuple[str, ...]) -> str:
    if number is None:
        return ABSENT
    scaled, power = float(number), 0
    while power + 1 < len(units) and round(abs(scaled), 1) >= base:  # rounded: 1023.96 is the next unit's 1.0
        scaled, power = scaled / base, power + 1
    return f"{scaled:.1f} {units[power]}" if power else f"{number} {units[0]}".rstrip()


def db_text(value: float | None) -> str:
    """One decimal, ``∞`` for equal signals."""
    if value is None:
        return ABSENT
    return f"{value:.1f}" if math.isfinite(value) else f"{value}".replace("inf", "∞")


def share_text(share: float | None, decimals: int = 2) -> str:
    """A share in [0, 1] as percent. One that is not quite 0 or 1 is never printed as such."""
    if share is None:
        return ABSENT
    text = f"{100 * share:.{decimals}f}"
    least = 10.0**-decimals
    if 0 < share < 1 and float(text) in (0.0, 100.0):
        return f"<{least:.{decimals}f} %" if share < 0.5 else f">{100 - least:.{decimals}f} %"
    return f"{text} %"


def time_text(microseconds: float | None) -> str:
    """Three significant digits in µs, ms or s."""
    if microseconds is None:
        return ABSENT
    value, unit = microseconds, "µs"
    for larger in ("ms", "s"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    digits = max(0, 2 - math.floor(math.log10(value))) if value >= 0.001 else 3
    return f"{value:.{min(digits, 3)}f} {unit}"


def ratio_text(before: float | None, after: float | None) -> str:
    """``after`` as a share of ``before``, in whole percent; empty when there is nothing to compare."""
    return f"{100 * after / before:.0f} %" if before and after is not None else ""
