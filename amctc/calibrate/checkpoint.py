"""Checkpoints of calibration: what was gathered so far, in a file, so that a run that was killed goes on behind it.

A pass gathers in *collections*: steps (batches, layers, candidates) that each change a state made of arrays. A run is
deterministic, so its collections are opened in one order, and the k-th of a resumed run is the k-th of the run that was
killed. Only what was gathered is kept, not what passes made of it: passes run again, on the same states, and get the
same graph. Collections that are finished stay in the file, because a run may be killed in a later one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from amctc.calibrate.checkpoint_file import NEW_START, Record, is_checkpoint, read_records, write_records
from amctc.errors import InputError
from amctc.types import Array

AnyPath = str | os.PathLike[str]
State = Callable[[], Mapping[str, Array]]

INTERVAL = 10.0
"""Seconds between two writes."""

_LARGEST_SHARE = 20
"""Writing takes at most one part in so many of the time."""


class Collection:
    """How far one collection is, and its state as arrays; made by :meth:`Checkpoint.open`, else kept nowhere.

    ``done`` counts steps, ``finished`` says that they were all. A step's work may be spread over workers, but
    :meth:`advance` is called in the order of the steps.
    """

    def __init__(
        self, record: Record | None = None, written: Callable[[], None] = lambda: None, where: str = ""
    ) -> None:
        self._record = Record("", "") if record is None else record
        self._kept, self._written, self._where = record is not None, written, where
        self._state: State | None = None

    @property
    def done(self) -> int:
        """Steps done."""
        return self._record.done

    @property
    def finished(self) -> bool:
        """Whether there are no steps left."""
        return self._record.finished

    def array(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> Array:
        """The array ``name`` of the state that was found, read-only; :class:`InputError` unless it is such a one."""
        found = self._record.arrays.get(name)
        if found is None or found.shape != shape or found.dtype != np.dtype(dtype):
            raise InputError(f"the checkpoint lacks what {self._record.name} gathered", where=self._where,
                             remedy=NEW_START)  # fmt: skip
        return found

    def advance(self, state: State) -> None:
        """One more step is done; ``state`` gives the arrays (int64, float64, int8) after it, if they are wanted."""
        self._record.done += 1
        if self._kept:
            self._state = state
            self._written()

    def finish(self) -> None:
        """There are no more steps."""
        known, self._record.finished = self.finished, True
        if self._kept and not known:
            self.gather()
            self._state = None
            self._written()

    def gather(self) -> Record:
        """The record, with the state as it is now."""
        if self._state is not None:
            self._record.arrays = dict(self._state())
        return self._record


class Checkpoint:
    """The file ``path`` of a run that does ``work`` (:func:`amctc.calibrate.work.described_work`).

    If the file is there, the run resumes what it holds, else it is made. It is written every ``interval`` seconds at
    most, as a rule, and whole or not at all: a kill at any moment leaves the last one. Raises :class:`InputError` for
    a file that is damaged, no checkpoint, or of other work, and as :func:`amctc.files.atomic_writer` where it cannot be
    written; the last one is still there then.
    """

    def __init__(self, path: AnyPath, work: Mapping[str, str], *, interval: float = INTERVAL) -> None:
        self.path, self._work, self._interval = Path(path), dict(work), interval
        self._found: list[Record] = []
        self._opened: list[Collection] = []
        self._pause, self._last = interval, time.monotonic()
        if os.path.lexists(self.path):
            found, self._found = read_records(self.path)
            self._require_same(found)
        self.write()  # what cannot be written shows now, not after an hour

    def open(self, name: str, positions: Iterable[str]) -> Collection:
        """The next collection: ``name``, of what ``positions`` say; :class:`InputError` where another one is found."""
        number, digest = len(self._opened), hashlib.sha256(repr(list(positions)).encode()).hexdigest()
        record = self._found[number] if number < len(self._found) else Record(name, digest)
        if (record.name, record.positions) != (name, digest):
            raise self._other(f"its {record.name} gathered something else")
        collection = Collection(record, self._write_when_due, str(self.path))
        self._opened.append(collection)
        return collection

    def write(self) -> None:
        """Write now."""
        start = time.monotonic()
        write_records(self.path, self._work, [c.gather() for c in self._opened] + self._found[len(self._opened) :])
        self._last = time.monotonic()
        self._pause = max(self._interval, _LARGEST_SHARE * (self._last - start)) if self._interval else 0.0

    def remove(self) -> None:
        """Delete the file, for the work is done; not one that took its name since."""
        if is_checkpoint(self.path):
            self.path.unlink(missing_ok=True)

    def _write_when_due(self) -> None:
        if time.monotonic() - self._last >= self._pause:
            self.write()

    def _require_same(self, found: Mapping[str, str]) -> None:
        different = [key for key in self._work if found.get(key) != self._work[key]]
        if different or found.keys() != self._work.keys():
            raise self._other("another " + ", another ".join(different or ["kind"]))

    def _other(self, finding: str) -> InputError:
        return InputError(f"the checkpoint is of other work: {finding}", where=str(self.path), remedy=NEW_START)
