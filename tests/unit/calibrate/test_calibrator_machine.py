"""A calibrator that is fed, checkpointed, killed at any point, resumed and merged, beside a plain model of it."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from amctc.calibrate.checkpoint import Checkpoint, Collection
from amctc.calibrate.observers import Observers
from amctc.errors import InputError, UnsupportedError
from amctc.numerics.histogram import Histogram
from amctc.numerics.moving_average import MovingAverageRange

VALUES, BINS, RATE = 2, 16, 0.25
WORK = {"model": "m"}
NEVER = math.inf

numbers = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 2.0**-149])
)
batches = st.tuples(*[st.lists(numbers, max_size=4)] * VALUES)
"""What each value was over one batch; empty tensors too."""


class Killed(BaseException):
    """Raised where a process would end."""


class Plain(NamedTuple):
    """What one value was, by the definitions: exact rational arithmetic, everything in memory."""

    low: float
    high: float
    exponent: int
    counts: dict[int, int]
    zeros: int
    ends: tuple[float, float] | None


def plain(seen: list[list[float]], averaging: bool) -> Plain:
    everything = [x for batch in seen for x in batch]
    exponent = -149
    while any(abs(Fraction(x)) >= Fraction(2) ** exponent for x in everything if x):
        exponent += 1
    width = Fraction(2) ** exponent / (BINS // 2)
    counts = Counter(math.floor(Fraction(x) / width) + BINS // 2 for x in everything)
    ends: tuple[float, float] | None = None
    for batch in filter(None, seen) if averaging else ():
        new = (min(batch), max(batch))
        ends = new if ends is None else tuple(moved(e, n) for e, n in zip(ends, new, strict=True))
    return Plain(min(everything, default=0.0), max(everything, default=0.0), exponent, dict(counts),
                 everything.count(0.0), ends)  # fmt: skip


def moved(end: float, target: float) -> float:
    return min(max(end + RATE * (target - end), min(end, target)), max(end, target))


def shown(observers: Observers, averaging: bool) -> list[Plain]:
    """What observers say, in the plain model's terms."""
    found = []
    for i, h in enumerate(observers.histograms):
        counts = {i: int(c) for i, c in enumerate(h.counts) if c}
        average = observers.averages[i] if averaging else None
        ends = (average.low, average.high) if average is not None and average.batches else None
        found.append(Plain(h.low, h.high, h.exponent, counts, h.zeros, ends))
    return found


class Calibrator(RuleBasedStateMachine):
    """``fed`` is what the live process saw, ``saved`` what the checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="amctc-test-"))
        self.disk = mock.patch("os.fsync")  # thousands of files: a process dies here, not the machine
        self.disk.start()
        self.path = self.folder / "checkpoint"
        self.live: Observers | None = None
        self.fed: list[tuple[list[float], ...]] = []
        self.saved: list[tuple[list[float], ...]] = []

    def teardown(self) -> None:
        self.disk.stop()
        shutil.rmtree(self.folder)

    @initialize(averaging=st.booleans())
    def begin(self, averaging: bool) -> None:
        self.averaging = averaging
        self.empty = Observers.empty(VALUES, BINS, MovingAverageRange(RATE) if averaging else None)
        self.start()

    def start(self) -> None:
        self.checkpoint = Checkpoint(self.path, WORK, interval=NEVER)
        self.collection: Collection = self.checkpoint.open("observe", ["a", "b"])
        self.live = self.empty.restored(self.collection) if self.collection.done else self.empty
        self.fed = list(self.saved)

    def watched(self, batch: tuple[list[float], ...]) -> list[Histogram]:
        return [Histogram.empty(BINS).updated(np.float32(x)) for x in batch]

    @precondition(lambda self: self.live is not None)
    @rule(batch=batches)
    def feed(self, batch: tuple[list[float], ...]) -> None:
        assert self.live is not None
        self.live = self.live.updated(self.watched(batch), 1)
        self.fed.append(batch)
        self.collection.advance(self.live.state)

    @precondition(lambda self: self.live is not None)
    @rule()
    def write(self) -> None:
        self.checkpoint.write()
        self.saved = list(self.fed)

    @precondition(lambda self: self.live is not None)
    @rule(renamed=st.booleans())
    def kill_while_writing(self, renamed: bool) -> None:
        """Before the new file has the name, or just after."""

        def replace(old: Path, new: Path) -> None:
            if renamed:
                Path(old).rename(new)
            raise Killed

        with mock.patch("amctc.files.writing.os.replace", replace), pytest.raises(Killed):
            self.checkpoint.write()
        self.saved = list(self.fed) if renamed else self.saved
        self.live = None

    @precondition(lambda self: self.live is not None)
    @rule()
    def kill(self) -> None:
        self.live = None

    @precondition(lambda self: self.live is None)
    @rule()
    def resume(self) -> None:
        self.start()
        assert self.collection.done == len(self.saved)

    @precondition(lambda self: self.live is not None)
    @rule(shard=st.lists(batches, max_size=3))
    def merge(self, shard: list[tuple[list[float], ...]]) -> None:
        """With what another calibrator saw of other samples."""
        assert self.live is not None
        other = self.empty
        for batch in shard:
            other = other.updated(self.watched(batch), 1)
        if self.averaging:
            with pytest.raises(UnsupportedError, match="order of all batches"):
                self.live.merged(other)
            return
        merged = self.live.merged(other)
        assert merged == other.merged(self.live)
        assert shown(merged, False) == self.expected([*self.fed, *shard])

    @rule(at=st.integers(0, 1 << 20), bit=st.integers(0, 7), cut=st.booleans())
    def damage_a_copy(self, at: int, bit: int, cut: bool) -> None:
        data = bytearray(self.path.read_bytes())
        at %= len(data)
        damaged = data[:at] if cut else data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        copy = self.folder / "copy"
        copy.write_bytes(damaged)
        with pytest.raises(InputError):
            Checkpoint(copy, WORK)
        assert copy.read_bytes() == damaged, "what is refused is left alone"

    @invariant()
    def is_the_plain_model(self) -> None:
        if self.live is not None:
            assert shown(self.live, self.averaging) == self.expected(self.fed)
            assert self.live.samples == len(self.fed)

    @invariant()
    def file_is_that_of_a_run_never_killed(self) -> None:
        if not self.path.exists():  # before begin
            return
        other = self.folder / "never killed"
        other.unlink(missing_ok=True)
        checkpoint = Checkpoint(other, WORK, interval=NEVER)
        if self.path.read_bytes() != other.read_bytes():  # else nobody wrote since the file was made
            collection, observers = checkpoint.open("observe", ["a", "b"]), self.empty
            for batch in self.saved:
                observers = observers.updated(self.watched(batch), 1)
                collection.advance(observers.state)
            checkpoint.write()
            assert self.path.read_bytes() == other.read_bytes()
        else:
            assert not self.saved

    def expected(self, seen: list[tuple[list[float], ...]]) -> list[Plain]:
        return [plain([batch[i] for batch in seen], self.averaging) for i in range(VALUES)]


TestCalibrator = Calibrator.TestCase
TestCalibrator.settings = settings(
    max_examples=settings.default.max_examples // 4 or 1,
    stateful_step_count=20,  # type: ignore[union-attr]
)
