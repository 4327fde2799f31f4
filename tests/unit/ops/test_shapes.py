"""Shape inference: against NumPy and brute force where sizes are numbers, by hand where they are symbols."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from amctc.errors import TypeConstraintError
from amctc.ops.shapes import broadcast, concatenated, reshaped, transposed_output, window_output, window_shape
from amctc.types import F32, Dim, Shape, TensorType

sizes = st.integers(0, 5)


# ---------------------------------------------------------------------------------------------------- broadcasting


@given(st.lists(sizes, max_size=4).map(tuple), st.lists(sizes, max_size=4).map(tuple))
def test_broadcasting_is_that_of_numpy(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    try:
        expected = np.broadcast_shapes(a, b)
    except ValueError:
        with pytest.raises(TypeConstraintError, match="do not broadcast"):
            broadcast(a, b, "C2")
    else:
        assert broadcast(a, b, "C2") == expected


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        (("N", 3), (1,), ("N", 3)),
        (("N", 3), ("N", 1), ("N", 3)),
        (("N",), (3,), (3,)),  # N is 1 or 3
        (("N",), ("M",), (None,)),
        ((None,), ("M",), (None,)),  # M may be 1
        ((None,), (None,), (None,)),
        ((), ("N",), ("N",)),
    ],
)
def test_broadcasting_symbols(a: Shape, b: Shape, result: Shape) -> None:
    assert broadcast(a, b, "C2") == result
    assert broadcast(b, a, "C2") == result


# ---------------------------------------------------------------------------------------------------- windows


@given(sizes.map(lambda s: s + 1), st.integers(1, 4), st.integers(1, 4), sizes, sizes, st.integers(1, 3))
def test_windows_that_fit_counted_one_by_one(size: int, kernel: int, stride: int, lo: int, hi: int, step: int) -> None:
    extent = step * (kernel - 1) + 1
    starts = [s for s in range(0, size + lo + hi, stride) if s + extent <= size + lo + hi]
    assert window_output(size, kernel, stride, lo, hi, step) == (len(starts) or -1)


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.data(), st.integers(1, 3))
def test_ceil_mode_adds_a_window_that_starts_inside(
    size: int, kernel: int, stride: int, data: st.DataObject, step: int
) -> None:
    extent = step * (kernel - 1) + 1
    lo, hi = data.draw(st.integers(0, extent - 1)), data.draw(st.integers(0, extent - 1))
    assume(size + lo + hi >= extent)
    # A window counts if it starts before the end padding, and the window before it did not reach the very end.
    starts = [s for s in range(0, size + lo, stride) if s == 0 or s - stride + extent < size + lo + hi]
    assert window_output(size, kernel, stride, lo, hi, step, ceil_mode=True) == len(starts)


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        (("H", 3, 1, 1, 1, 1), "H"),  # "same" padding
        (("H", 3, 1, 2, 2, 2), "H"),
        (("H", 3, 2, 1, 1, 1), None),
        (("H", 3, 1, 0, 0, 1), None),
        ((None, 1, 1, 0, 0, 1), None),
        ((224, 7, 2, 3, 3, 1), 112),  # the first convolution of ResNet
        ((5, 2, 2, 0, 0, 1, True), 3),
        ((4, 2, 2, 0, 0, 1, True), 2),
    ],
)
def test_windows_by_hand(arguments: tuple[Dim, int, int, int, int, int], result: Dim) -> None:
    assert window_output(*arguments) == result


def test_a_window_that_does_not_fit() -> None:
    with pytest.raises(
        TypeConstraintError, match=r"a window of \[3, 5\] does not fit \[3, 4\] padded by \[0, 0, 0, 0\]"
    ):
        window_shape((3, 4), (3, 5), (1, 1), (0, 0, 0, 0), (1, 1), "C6")


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2))
def test_transposed_windows_undo_windows(size: int, kernel: int, stride: int, step: int, extra: int) -> None:
    assume(extra < stride)
    out = transposed_output(size, kernel, stride, 0, 0, step, extra)
    assert window_output(out, kernel, stride, 0, 0, step) == size


def test_transposed_windows_by_hand() -> None:
    assert transposed_output(7, 4, 2, 1, 1, 1, 0) == 14
    assert transposed_output("H", 4, 2, 1, 1, 1, 0) is None


# ---------------------------------------------------------------------------------------------------- reshaping


@given(st.lists(sizes, max_size=4).map(tuple), st.lists(st.integers(-1, 6), max_size=4).map(tuple))
def test_reshaping_is_that_of_numpy(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    try:
        expected = np.empty(source).reshape(target).shape
    except ValueError:
        with pytest.raises(TypeConstraintError):
            reshaped(source, target, True, "C2")
    else:
        assert reshaped(source, target, True, "C2") == expected


@pytest.mark.parametrize(
    ("source", "target", "result"),
    [
        ((2, 3, 4), (0, -1), (2, 12)),  # 0 copies
        ((2, 3, 4), (0, 0, 2, 2), (2, 3, 2, 2)),
        (("N", 3, 4), (0, -1), ("N", 12)),
        (("N", 3, 4), (-1, 12), ("N", 12)),
        (("N", 3, 4), (-1, 6), (None, 6)),  # 2 N
        (("N", "M", 4), (0, -1), ("N", None)),  # 4 M
        (("N", "M", 1), (0, -1), ("N", "M")),
        (("N", "N"), (0, -1), ("N", "N")),
        ((None, 4), (0, -1), (None, 4)),
        ((None, None, 4), (0, -1), (None, None)),
        (("N", 4), (2, 2), (2, 2)),  # N is 1
        ((), (1, 1), (1, 1)),
        ((1,), (), ()),
    ],
)
def test_reshaping_by_hand(source: Shape, target: tuple[int, ...], result: Shape) -> None:
    assert reshaped(source, target, False, "C2") == result


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ((2, 3), (4, 2), r"cannot reshape \[2, 3\] to \[4, 2\]"),
        ((2, 3), (4, -1), r"cannot reshape \[2, 3\] to \[4, -1\]"),
        ((2, 3), (-1, -1), r"\[-1, -1\] is no reshape target"),
        ((2, 3), (-2, 3), r"\[-2, 3\] is no reshape target"),
        ((2, 3), (2, 3, 0), r"copies dimension 2 of a rank 2 input"),
        ((2, 0), (0, 0, -1), r"cannot reshape \[2, 0\] to \[0, 0, -1\]"),
    ],
)
def test_what_cannot_be_reshaped(source: Shape, target: tuple[int, ...], message: str) -> None:
    with pytest.raises(TypeConstraintError, match=message) as raised:
        reshaped(source, target, False, "C2")
    assert raised.value.rule == "C2"


# ---------------------------------------------------------------------------------------------------- joining


@pytest.mark.parametrize(
    ("shapes", "axis", "result"),
    [
        (((2, 3), (2, 4)), 1, (2, 7)),
        ((("N", 3), (2, 4)), 1, (2, 7)),
        (((None, "M"), ("N", 4)), 1, ("N", None)),
        ((("N", 3),), 0, ("N", 3)),
        (((0,), (3,), (1,)), 0, (4,)),
    ],
)
def test_joining(shapes: tuple[Shape, ...], axis: int, result: Shape) -> None:
    assert concatenated([TensorType(s, F32) for s in shapes], axis, "C3") == result


@pytest.mark.parametrize("other", [(3, 4), (2,), (2, 4, 1)])
def test_what_cannot_be_joined(other: Shape) -> None:
    with pytest.raises(TypeConstraintError):
        concatenated([TensorType((2, 3), F32), TensorType(other, F32)], 1, "C3")
