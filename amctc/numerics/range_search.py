"""Both ends of a quantizer's range, searched by what they cost: for losses that no histogram knows."""

from __future__ import annotations

from collections.abc import Callable

Loss = Callable[[float, float], float]
"""What a range (low, high) costs."""

NARROWEST, WIDEST = -5.0, 1.0
"""Powers of two that either end is multiplied by, at the least and at the most."""

TOGETHER, APART = (0.5, 0.25), (0.25, 0.125)
"""Steps of the powers: first for both ends at once, then for each alone."""


def search_range(low: float, high: float, loss: Loss) -> tuple[float, float]:
    """The ends of least ``loss`` near ``low`` ≤ 0 ≤ ``high``, by pattern search (Hooke and Jeeves 1961).

    Ends are multiplied by powers of two between 2**-5 and 2, both together and then each alone, as long as that lowers
    the loss, in steps down to 2**(1/8). An end of 0 stays. The loss of what is returned is that of the given range or
    lower; it is asked for once per range, 8 to 12 times where nothing helps.
    """
    best, known = (0.0, 0.0), dict[tuple[float, float], float]()

    def cost(powers: tuple[float, float]) -> float:
        if powers not in known:
            known[powers] = loss(low * 2.0 ** powers[0], high * 2.0 ** powers[1])
        return known[powers]

    for step, moves in _schedule(low != 0.0, high != 0.0):
        improving = True
        while improving:
            improving = False
            for move in moves:
                while cost(trial := _moved(best, move, step)) < cost(best):
                    best, improving = trial, True
    return low * 2.0 ** best[0], high * 2.0 ** best[1]


Move = tuple[float, float]


def _schedule(low: bool, high: bool) -> list[tuple[float, list[Move]]]:
    """Steps with the directions to try, for the ends that are not 0."""
    both: list[Move] = [(-1.0 * low, -1.0 * high), (1.0 * low, 1.0 * high)]
    if not (low and high):
        return [(step, both) for step in sorted({*TOGETHER, *APART}, reverse=True)] if low or high else []
    alone: list[Move] = [(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)]
    return [*((step, both) for step in TOGETHER), *((step, alone) for step in APART)]


def _moved(powers: tuple[float, float], move: Move, step: float) -> tuple[float, float]:
    low, high = (min(max(p + step * m, NARROWEST), WIDEST) for p, m in zip(powers, move, strict=True))
    return low, high
