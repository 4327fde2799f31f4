"""Raw ``.bin`` samples: how shapes and types are stated, how files become samples, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.calibrate.preprocess import PRESETS
from amctc.calibrate.raw import parse_shapes, parse_types, raw_files
from amctc.calibrate.samples import InputSpec, open_samples
from amctc.errors import InputError, UsageError

ROW = InputSpec("x", ("N", 2, 3), np.dtype(np.float32))
PAIR = (InputSpec("ids", ("N", "T"), np.dtype(np.int64)), InputSpec("mask", ("N", "T"), np.dtype(np.float32)))


def written(
    folder: Path, sizes: list[int], *, dtype: str = "<f4", row: tuple[int, ...] = (2, 3), first: int = 0
) -> Path:
    """Files 0.bin, 1.bin, … of so many samples each, numbers counted through."""
    folder.mkdir()
    at = first
    for index, size in enumerate(sizes):
        count = size * int(np.prod(row))
        np.arange(at, at + count, dtype=dtype).tofile(folder / f"{index}.bin")
        at += count
    return folder


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("x:1,3,224,224", {"x": (1, 3, 224, 224)}),
        (" ids:4,6 ; mask:-1,6;", {"ids": (4, 6), "mask": (-1, 6)}),
        ("image:0:1,8", {"image:0": (1, 8)}),
        ("a b:5", {"a b": (5,)}),
    ],
)
def test_shapes(text, shapes) -> None:
    assert parse_shapes(text) == shapes


@pytest.mark.parametrize("text", ["", ";", "x", "1,3", ":1,3", "x:1,,3", "x:1,a", "x:1,-1", "x:0,3", "x:-2,3",
                                  "x:1,0", "x:1,3;x:1,3", "x:1.5"])  # fmt: skip
def test_shapes_refused(text) -> None:
    with pytest.raises(UsageError, match="--input-shape") as caught:
        parse_shapes(text)
    assert caught.value.remedy


def test_types() -> None:
    assert parse_types("int64; float32") == [np.dtype("<i8"), np.dtype("<f4")]
    for text in ("", "float", "object", "float32,float32", "S8"):
        with pytest.raises(UsageError, match="--data-types"):
            parse_types(text)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 7), st.data())
def test_files_are_one_array_however_they_are_cut(tmp_path_factory, sizes, batch, data) -> None:
    folder = written(tmp_path_factory.mktemp("raw") / "d", sizes)
    samples = open_samples(folder, [ROW], batch_size=batch)
    expected = np.arange(sum(sizes) * 6, dtype=np.float32).reshape(-1, 2, 3)
    assert len(samples) == sum(sizes)
    assert np.array_equal(np.concatenate([b["x"] for b in samples]), expected)
    start = data.draw(st.integers(0, sum(sizes) - 1))
    stop = data.draw(st.integers(start + 1, sum(sizes)))
    assert np.array_equal(np.concatenate([b["x"] for b in samples.limited(start, stop)]), expected[start:stop])


def test_numbers_in_names_count_as_numbers(tmp_path) -> None:
    folder = written(tmp_path / "d", [1] * 12)
    (folder / "notes.txt").touch()
    assert [f.stem for f in raw_files(folder)] == [str(i) for i in range(12)]


def test_several_inputs_in_the_order_stated(tmp_path) -> None:
    ids = written(tmp_path / "ids", [2, 2], dtype="<i4", row=(3,))
    mask = written(tmp_path / "mask", [2, 2], dtype="<f8", row=(3,), first=100)
    for order in (("ids", "mask"), ("mask", "ids")):
        where = {"ids": str(ids), "mask": str(mask)}
        samples = open_samples(
            ";".join(where[name] for name in order), PAIR,
            input_shape=";".join(f"{name}:2,3" for name in order),
            data_types=";".join({"ids": "int32", "mask": "float64"}[name] for name in order),
        )  # fmt: skip
        (batch,) = samples
        assert np.array_equal(batch["ids"], np.arange(12, dtype=np.int64).reshape(4, 3))
        assert np.array_equal(batch["mask"], np.arange(100, 112, dtype=np.float32).reshape(4, 3))
        assert (batch["ids"].dtype, batch["mask"].dtype) == (np.int64, np.float32)


def test_models_without_a_shared_batch_axis(tmp_path) -> None:
    """One file of each input is what one run is fed."""
    inputs = (InputSpec("state", (2, "N", 3), np.dtype(np.float32)), InputSpec("rate", (), np.dtype(np.float32)))
    state, rate = written(tmp_path / "s", [1, 1], row=(2, 4, 3)), written(tmp_path / "r", [1, 1], row=(), first=7)
    samples = open_samples(f"{state};{rate}", inputs, input_shape="state:2,4,3;rate:")
    assert [{n: a.shape for n, a in b.items()} for b in samples] == [{"state": (2, 4, 3), "rate": ()}] * 2
    assert [float(b["rate"]) for b in samples] == [7.0, 8.0]
    assert np.array_equal([b["state"] for b in samples], np.arange(48, dtype=np.float32).reshape(2, 2, 4, 3))
    with pytest.raises(UsageError, match="what one run is fed"):
        open_samples(f"{state};{rate}", inputs, input_shape="state:-1,4,3;rate:")


def test_one_file_and_the_models_own_shape(tmp_path) -> None:
    folder = written(tmp_path / "d", [3])
    assert len(open_samples(folder / "0.bin", [ROW])) == 3
    assert len(open_samples(folder, [InputSpec("x", (1, 2, 3), np.dtype(np.float32))])) == 3


def test_raw_images_are_normalised(tmp_path) -> None:
    folder = written(tmp_path / "d", [2], dtype="u1", row=(4, 5, 3))
    spec = InputSpec("x", ("N", 3, 4, 5), np.dtype(np.float32))
    (batch,) = open_samples(folder, [spec], preprocess=PRESETS["unit"], input_shape="x:2,4,5,3", data_types="uint8")
    pixels = (np.arange(120) % 256).reshape(2, 4, 5, 3).transpose(0, 3, 1, 2)
    assert np.array_equal(batch["x"], pixels.astype(np.float32) / np.float32(255))


def test_shapes_decide_in_a_folder_of_images_too(tmp_path) -> None:
    folder = written(tmp_path / "d", [2])
    (folder / "preview.png").touch()
    assert len(open_samples(folder, [ROW], input_shape="x:-1,2,3")) == 2
    with pytest.raises(UsageError, match="preprocess"):
        open_samples(folder, [ROW])


@pytest.mark.parametrize(
    ("kind", "words", "options"),
    [
        (InputError, "0.bin: it has 48 bytes; 3 x float32", {"input_shape": "x:3,2,3"}),
        (InputError, "no multiple of float64", {"input_shape": "x:-1,7", "data_types": "float64"}),
        (InputError, r"wants \[N,2,3\], got \[2,3,2\]", {"input_shape": "x:2,3,2"}),
        (InputError, "wants float32, got int32", {"data_types": "int32"}),
        (UsageError, "'z' has a shape and is no input", {"input_shape": "x:2,2,3;z:1,2"}),
        (UsageError, "is empty", {"input_shape": ";"}),
        (UsageError, "'x' is no scalar", {"input_shape": "x:"}),
        (UsageError, "2 given, and the inputs are x", {"data_types": "float32;float32"}),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, kind, words, options) -> None:
    folder = written(tmp_path / "d", [2])
    with pytest.raises(kind, match=words):
        open_samples(folder, [ROW], **options)


def test_other_refusals(tmp_path) -> None:
    folder = written(tmp_path / "d", [2])
    with pytest.raises(UsageError, match=r"1 paths of \.bin files, and the inputs are ids, mask"):
        open_samples(folder, PAIR, input_shape="ids:1,6;mask:1,6")
    with pytest.raises(UsageError, match="do not say their shape, nor does the model: ids"):
        open_samples(f"{folder};{folder}", PAIR)
    with pytest.raises(InputError, match=r"there are no \.bin files"):
        open_samples(tmp_path / "none.bin", [ROW])
    (folder / "1.bin").symlink_to(folder / "gone")
    with pytest.raises(InputError, match=r"1\.bin: it cannot be read: No such file"):
        open_samples(folder, [ROW])
    (folder / "1.bin").unlink()
    (folder / "1.bin").touch()
    with pytest.raises(InputError, match=r"1\.bin: it has 0 bytes"):
        open_samples(folder, [ROW])
    np.save(tmp_path / "a.npy", np.zeros((2, 2, 3), np.float32))
    with pytest.raises(UsageError, match=r"describe \.bin files"):
        open_samples(tmp_path / "a.npy", [ROW], data_types="float32")


def test_values_are_checked_as_they_are_read(tmp_path) -> None:
    (tmp_path / "d").mkdir()
    bad = np.zeros((4, 2, 3), np.float32)
    bad[2, 0, 1] = np.nan
    bad.tofile(tmp_path / "d/0.bin")
    with pytest.raises(InputError, match="NaN or infinity in sample 2"):
        list(open_samples(tmp_path / "d", [ROW]))


def test_a_file_cut_while_in_use(tmp_path) -> None:
    folder = written(tmp_path / "d", [4])
    samples = open_samples(folder, [ROW])
    (folder / "0.bin").write_bytes(b"12345678")
    with pytest.raises(InputError, match="cut while in use"):
        list(samples)
