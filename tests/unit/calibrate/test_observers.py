"""Observers of several values: their state in arrays, and what merges."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.calibrate.checkpoint import Collection
from amctc.calibrate.checkpoint_file import Record
from amctc.calibrate.observers import Observers
from amctc.errors import InputError, UnsupportedError
from amctc.numerics.hfmg import HfmgHistogram
from amctc.numerics.histogram import Histogram
from amctc.numerics.moving_average import MovingAverageRange

AVERAGE = MovingAverageRange(0.25, 99.0)


def fed(observers: Observers, *batches: list[float]) -> Observers:
    """Observers of one value fed batches of one sample."""
    for batch in batches:
        observers = observers.updated([Histogram.empty(16).updated(np.float32(batch))], 1)
    return observers


def found(state: dict) -> Collection:
    return Collection(Record("observe", "", 1, False, state), where="c")


def test_by_hand() -> None:
    seen = fed(Observers.empty(1, 16, MovingAverageRange(0.5)), [1.0, -1.0, 0.0], [3.0, 0.5])
    (h,), (a,) = seen.histograms, seen.averages
    assert (h.low, h.high, h.count, h.zeros, seen.samples) == (-1.0, 3.0, 5, 1, 2)
    assert h.exponent == 2
    assert h.counts[8 + 6] == 1  # 3.0 in bins of 0.5
    assert (a.low, a.high, a.batches) == (-0.25, 2.0, 2)  # from -1 halfway to 0.5, from 1 halfway to 3


def test_a_state_is_restored_bit_for_bit() -> None:
    start = Observers.empty(1, 16, AVERAGE)
    seen = fed(start, [0.1, 1e-40], [-7.3, 1e30], [])
    again = start.restored(found(seen.state()))
    assert again == seen
    assert fed(again, [0.3]) == fed(seen, [0.3])
    assert fed(again, [0.3]).state().keys() == start.state().keys()


@pytest.mark.parametrize("start", [
    Observers.empty(2, 16), Observers.empty(1, 32), Observers.empty(0, 16), Observers.empty(1, 16, AVERAGE)
])  # fmt: skip
def test_a_state_of_another_form_is_refused(start: Observers) -> None:
    with pytest.raises(InputError, match="lacks what observe gathered"):
        start.restored(found(fed(Observers.empty(1, 16), [1.0]).state()))


def test_shards_merge_to_the_whole() -> None:
    start = Observers.empty(1, 16)
    batches = [[0.1, -2.0], [1e6], [0.0], [3e-41, 5.0]]
    whole = fed(start, *batches)
    for cut in range(5):
        first, second = fed(start, *batches[:cut]), fed(start, *batches[cut:])
        assert first.merged(second) == second.merged(first) == whole


def test_what_depends_on_order_is_not_merged() -> None:
    start = Observers.empty(1, 16, AVERAGE)
    assert fed(start, [1.0], [2.0]) != fed(start, [2.0], [1.0]), "the reason"
    with pytest.raises(UnsupportedError, match="depend on the order of all batches") as caught:
        fed(start, [1.0]).merged(fed(start, [2.0]))
    assert caught.value.remedy
    with pytest.raises(UnsupportedError, match="depend on the order of all batches"):
        fed(Observers.empty(1, 16), [1.0]).merged(fed(start, [2.0]))
    with pytest.raises(UnsupportedError, match="depend on the order of all batches"):
        HfmgHistogram.empty().updated([1.0]).merged(HfmgHistogram.empty())
    with pytest.raises(InputError, match="1 and 2 values"):
        Observers.empty(1, 16).merged(Observers.empty(2, 16))
    with pytest.raises(InputError, match="cannot be merged"):
        Observers.empty(1, 16).merged(Observers.empty(1, 32))
