"""Contents of constants: arrays, slices of files, deferred recipes."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from amctc.data import EAGER_BYTES, ArrayData, Data, DeferredData, FileData, deferred
from amctc.errors import InputError
from amctc.types import Array

F = np.dtype(np.float32)


# ---------------------------------------------------------------------------------------------------- arrays


def test_the_caller_may_go_on_writing_to_its_array() -> None:
    array = np.array([1.0, 2.0], np.float32)
    data = ArrayData(array)
    array[0] = 9
    assert data.read().tolist() == [1.0, 2.0]
    assert not data.read().flags.writeable
    assert array.flags.writeable


def test_a_read_only_view_of_writeable_memory_is_copied_too() -> None:
    array = np.zeros(1, np.float32)
    data = ArrayData(np.broadcast_to(array, (3,)))  # a read-only view
    array[0] = 5
    assert data.read().tolist() == [0.0, 0.0, 0.0]


def test_read_only_memory_is_not_copied() -> None:
    array = np.frombuffer(b"\x00\x00\x80\x3f", np.float32)
    assert ArrayData(array).read() is array


def test_size_and_bytes() -> None:
    data = ArrayData(np.zeros((2, 3), np.float16))
    assert (data.shape, data.dtype.name, data.size, data.nbytes) == ((2, 3), "float16", 6, 12)
    assert (ArrayData(np.array(1)).size, ArrayData(np.zeros((0, 3))).nbytes) == (1, 0)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (np.array([1, 2], np.int8), np.array([1, 2], np.int8), True),
        (np.array([1, 2], np.int8), np.array([1, 3], np.int8), False),
        (np.array([1, 2], np.int8), np.array([1, 2], np.uint8), False),
        (np.array([1, 2], np.int8), np.array([[1, 2]], np.int8), False),
        (np.array(1.0), np.array(1.0), True),
        (np.array([np.nan]), np.array([np.nan]), True),  # contents are compared bit by bit
        (np.array([0.0]), np.array([-0.0]), False),
        (np.array(["a", "b"], object), np.array(["a", "b"], object), True),
        (np.array(["a", "b"], object), np.array(["ab", ""], object), False),
        (np.array([1.5], ml_dtypes.bfloat16), np.array([1.5], ml_dtypes.bfloat16), True),
        (np.array([1.5], ml_dtypes.float8_e5m2), np.array([1.0], ml_dtypes.float8_e5m2), False),
        (np.zeros((0, 2)), np.zeros((0, 2)), True),
        (np.arange(6).reshape(2, 3).T, np.ascontiguousarray(np.arange(6).reshape(2, 3).T), True),
    ],
)
def test_equality_is_of_shape_dtype_and_contents(left: Array, right: Array, equal: bool) -> None:
    a, b = ArrayData(left), ArrayData(right)
    assert (a == b) is equal
    assert not equal or hash(a) == hash(b)


def test_digest_tells_types_of_one_width_apart() -> None:
    byte = np.array([60], np.uint8)
    views = [byte.view(t) for t in (np.int8, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2)]
    assert len({ArrayData(v).digest() for v in views}) == 4


def test_data_differs_from_anything_else() -> None:
    assert (ArrayData(np.zeros(1)) == 0) is False


# ---------------------------------------------------------------------------------------------------- files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"\xff" + np.arange(4, dtype="<f4").tobytes())
    return path


def test_a_slice_at_an_odd_offset(file: Path) -> None:
    data = FileData(file, 1, (2, 2), F)
    assert data.read().tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert not data.read().flags.writeable
    assert data == ArrayData(np.array([[0, 1], [2, 3]], np.float32))
    assert data.read() is not data.read()  # nothing stays mapped


def test_a_slice_of_a_narrow_float(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"\x80\x3f\x00\x40")
    read = FileData(tmp_path / "w", 0, (2,), np.dtype(ml_dtypes.bfloat16)).read()
    assert read.dtype == ml_dtypes.bfloat16
    assert read.astype(np.float32).tolist() == [1.0, 2.0]


def test_scalars_and_empty_tensors(file: Path) -> None:
    assert FileData(file, 13, (), F).read().shape == ()
    assert FileData(file, 13, (), F).read() == 3.0
    assert FileData(file, 17, (0, 3), F).read().shape == (0, 3)  # zero bytes at the very end


@pytest.mark.parametrize(("offset", "shape"), [(2, (4,)), (-1, (1,)), (18, (0,))])
def test_a_slice_past_the_end(file: Path, offset: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"ends past the file's 17 bytes; the file is truncated"):
        FileData(file, offset, shape, F)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file or directory"):
        FileData(tmp_path / "none", 0, (1,), F)


@pytest.mark.parametrize("how", ["cut", "gone", "another", "a link", "other contents"])
def test_a_file_that_changes_after_it_was_opened(file: Path, how: str) -> None:
    data, contents = FileData(file, 1, (4,), F), file.read_bytes()
    other = file.with_name("other")
    other.write_bytes(contents)
    if how == "cut":
        file.write_bytes(b"\x00" * 5)
    elif how == "other contents":
        file.write_bytes(contents)
        os.utime(file, ns=(1, 1))
    else:
        file.unlink()
        if how == "another":
            other.rename(file)
        elif how == "a link":
            file.symlink_to(other)
    with pytest.raises(InputError, match="gone or was cut"):
        data.read()


# ---------------------------------------------------------------------------------------------------- recipes


def test_a_recipe_runs_each_time_it_is_read() -> None:
    calls = []

    def double(array: Array) -> Array:
        calls.append(1)
        return array * 2

    data = DeferredData("double", double, (ArrayData(np.ones(2, np.float32)),), (2,), F)
    assert not calls
    assert data.read().tolist() == [2.0, 2.0]
    assert data.read().tolist() == [2.0, 2.0]
    assert len(calls) == 2
    assert not data.read().flags.writeable


def test_a_shared_input_is_evaluated_once_per_reading() -> None:
    calls = []

    def count(array: Array) -> Array:
        calls.append(1)
        return array + 1

    shared = DeferredData("count", count, (ArrayData(np.zeros(1, np.float32)),), (1,), F)
    both = DeferredData("sum", np.add, (shared, shared), (1,), F)
    assert both.read().tolist() == [2.0]
    assert len(calls) == 1


def test_arrays_in_between_are_let_go() -> None:
    """Of a chain of recipes only the array it reads is alive when one runs."""
    arrays: list[weakref.ref[Array]] = []
    alive: list[int] = []

    def add_one(array: Array) -> Array:
        result = array + 1
        arrays.append(weakref.ref(result))
        alive.append(sum(a() is not None for a in arrays))
        return result

    data: Data = ArrayData(np.zeros(1, np.float32))
    for _ in range(5):
        data = DeferredData("add one", add_one, (data,), (1,), F)
    assert data.read().tolist() == [5.0]
    assert alive == [1, 2, 2, 2, 2]


def test_small_results_are_evaluated_at_once() -> None:
    source = ArrayData(np.zeros(1, np.float32))
    limit = EAGER_BYTES // 4
    small = deferred("fill", lambda a: np.repeat(a, limit), source, shape=(limit,), dtype=F)
    large = deferred("fill", lambda a: np.repeat(a, limit + 1), source, shape=(limit + 1,), dtype=np.float32)
    assert isinstance(small, ArrayData)
    assert isinstance(large, DeferredData)
    assert large == ArrayData(np.zeros(limit + 1, np.float32))


@pytest.mark.parametrize("wrong", [np.zeros(3, np.float32), np.zeros(2, np.float64)])
def test_a_recipe_must_keep_its_word(wrong: Array) -> None:
    with pytest.raises(AssertionError, match=r"recipe 'fold' gave float(32|64)\((3|2),\), declared float32\(2,\)"):
        deferred("fold", lambda: wrong, shape=(2,), dtype=np.float32)
