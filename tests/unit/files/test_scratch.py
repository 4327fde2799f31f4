"""Arrays on disk: they come back as they were, or the disk's fault is one clear line."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amctc.errors import LimitError
from amctc.files.scratch import ScratchFile


@given(st.lists(hnp.arrays(st.sampled_from([np.float32, np.int8, np.bool_, np.complex64]),
                           hnp.array_shapes(min_dims=0, min_side=0)), max_size=5))  # fmt: skip
def test_arrays_come_back(arrays: list[np.ndarray]) -> None:
    scratch = ScratchFile("arrays")
    places = [scratch.append(np.asfortranarray(a)) for a in arrays]
    for array, offset in zip(arrays, places, strict=True):
        found = scratch.read(offset, array.shape, array.dtype)
        assert found.tobytes() == array.tobytes()
        assert found.shape == array.shape
    assert scratch.size == sum(a.nbytes for a in arrays)


def test_a_disk_that_writes_a_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:3], offset))
    scratch = ScratchFile("arrays")
    scratch.append(np.arange(10))
    assert scratch.read(0, (10,), np.dtype(np.int64)).tolist() == list(range(10))


def test_a_full_disk_and_a_missing_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    scratch = ScratchFile("the samples")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(LimitError, match=r"the samples cannot be kept.*No space.*TMPDIR"):
        scratch.append(np.zeros(4))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(LimitError, match="No such file"):
        ScratchFile("the samples")


def test_a_file_that_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = ScratchFile("arrays")
    scratch.append(np.zeros(4))
    with pytest.raises(LimitError, match="cut short"):
        scratch.read(8, (4,), np.dtype(np.float64))
