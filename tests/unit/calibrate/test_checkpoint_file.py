"""The file of a checkpoint: bit for bit, whole or refused, in one line, with exit status 3."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.calibrate.checkpoint_file import Record, read_records, write_records
from amctc.errors import AmctcError, InputError, LimitError, UsageError

WORK = {"model": "a", "samples": "b"}
NAN_WITH_PAYLOAD = np.array([0x7FF8_0000_0000_BEEF], np.int64).view(np.float64)


def records() -> list[Record]:
    floats = np.array([0.1, -0.0, np.inf, 5e-324, 2.0**-1074 * 3, 1e308])
    return [
        Record("equalize", "p", 7, True, {"low": floats, "count": np.array(12, np.int64)}),
        Record("observe", "q", 2, False, {
            "counts": np.array([[1, 2**62], [-(2**63), 2**63 - 1]]), "codes": np.arange(-3, 3, dtype=np.int8),
            "none": np.zeros((0, 4)), "nan": NAN_WITH_PAYLOAD,
        }),
        Record("roll-back", "r"),
    ]  # fmt: skip


def test_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write_records(path, WORK, records())
    work, found = read_records(path)
    assert work == WORK
    assert [(r.name, r.positions, r.done, r.finished) for r in found] == [
        ("equalize", "p", 7, True), ("observe", "q", 2, False), ("roll-back", "r", 0, False)]  # fmt: skip
    for old, new in zip(records(), found, strict=True):
        assert list(old.arrays) == list(new.arrays)
        for name, array in old.arrays.items():
            assert (array.dtype, array.shape, array.tobytes()) == (
                new.arrays[name].dtype, new.arrays[name].shape, new.arrays[name].tobytes()), name  # fmt: skip
            assert not new.arrays[name].flags.writeable


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    write_records(tmp_path / "a", WORK, records())
    write_records(tmp_path / "b", *read_records(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def refused(path: Path) -> str:
    """The message of the refusal, which is one of the input's and says where."""
    with pytest.raises(InputError) as caught:
        read_records(path)
    assert caught.value.exit_status == 3
    assert caught.value.where == str(path)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return caught.value.what


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write_records(path, WORK, records())
    data = path.read_bytes()
    for end in {*range(120), *range(120, len(data), 17), len(data) - 1}:
        path.write_bytes(data[:end])
        refused(path)
    path.write_bytes(data + b"\0")
    assert refused(path).startswith("the checkpoint is damaged")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("flipped") / "c"
    write_records(path, WORK, records())
    return path, path.read_bytes()


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_every_flipped_bit_is_refused(written: tuple[Path, bytes], at: int, bit: int) -> None:
    path, data = written
    flipped = bytearray(data)
    flipped[at % len(data)] ^= 1 << bit
    path.write_bytes(flipped)
    refused(path)


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x0a\x12\x00" * 100)
    assert refused(path) == "this file is no checkpoint"
    path.write_bytes(b"amctc checkpoint 2\n" + b"0" * 64 + b"\n")
    assert "another version" in refused(path)
    os.mkfifo(tmp_path / "fifo")
    assert "FIFO" in refused(tmp_path / "fifo")
    assert "no such checkpoint" in refused(tmp_path / "missing")


def entry(**changes: object) -> dict[str, object]:
    return {"name": "n", "positions": "p", "done": 1, "finished": False, "arrays": [["a", "<i8", [1]]], **changes}


@pytest.mark.parametrize("header", [
    "[]", "{}", "{", "7", "null", '{"work": [], "collections": []}', '{"work": {}, "collections": {"a": 1}}',
    "[" * 100_000, '{"work": {}, "collections": [' + "[" * 100_000,
    *(json.dumps({"work": {}, "collections": [c]}) for c in (
        entry(arrays=[["a", "<i8", [2]]]), entry(arrays=[["a", "<i8", [0]]]), entry(arrays=[["a", "<i8", [-1, -8]]]),
        entry(arrays=[["a", "<i8", [1 << 62, 1 << 62]]]), entry(arrays=[["a", "<i8", [10**400]]]),
        entry(arrays=[["a", "|O", [1]]]), entry(arrays=[["a", ["<i8"], [1]]]), entry(arrays=[["a", "<i8", [True]]]),
        entry(arrays=[["a", "<i8", 1]]), entry(arrays=7), entry(arrays=[["a"]]), entry(done=-1), entry(done=1.0),
        entry(done="1"), entry(finished=1), entry(arrays=[["a", "<i8", [0] * 100]]), {}, [], 7,
    )),
])  # fmt: skip
def test_headers_that_lie_are_refused(header: str, tmp_path: Path) -> None:
    """Whoever writes the digest may write any header: nothing but a refusal may come of it."""
    body = header.encode() + b"\n" + bytes(8)
    path = tmp_path / "c"
    path.write_bytes(b"amctc checkpoint 1\n" + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    assert refused(path).startswith("the checkpoint is damaged: its header makes no sense")


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        write_records(tmp_path / "missing" / "c", WORK, [])
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symbolic link"):
        write_records(tmp_path / "link", WORK, [])
    write_records(tmp_path / "c", WORK, [])
    before = (tmp_path / "c").read_bytes()
    monkeypatch.setattr("amctc.calibrate.checkpoint_file.MAX_BYTES", 100)
    with pytest.raises(LimitError, match="more than the 100 allowed"):
        write_records(tmp_path / "c", WORK, records())
    with pytest.raises(AmctcError):
        read_records(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before
