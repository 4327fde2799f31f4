"""What a sample is: a slice of the shared batch axis, or all that one run is fed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amctc.calibrate.axes import batch_length, share_batch_axis, with_sample_axis
from amctc.calibrate.inputs import InputSpec
from amctc.calibrate.samples import Samples, from_iterable, open_samples
from amctc.errors import InputError

F, I = np.dtype(np.float32), np.dtype(np.int64)  # noqa: E741
STREAM = (InputSpec("x", ("batch", "t"), F), InputSpec("state", (2, "batch", 3), F), InputSpec("rate", (), I))


def specs(*shapes: tuple[int | str | None, ...]) -> tuple[InputSpec, ...]:
    return tuple(InputSpec(f"x{i}", shape, F) for i, shape in enumerate(shapes))


@pytest.mark.parametrize(
    "shapes",
    [
        [("n", 3)],
        [("n", "t"), ("n", "t")],
        [(1, 3), (1, 5)],
        [("n", 3), (1, 100, 4)],
        [("a", 3), ("b", 4)],
        [(None, 3), (None,)],
        [(None, 3), ("n", 4)],
        [(49,)],
        [],
    ],
)
def test_first_axes_that_can_be_the_batch(shapes: list[tuple[int | str | None, ...]]) -> None:
    inputs = specs(*shapes)
    assert share_batch_axis(inputs)
    assert with_sample_axis(inputs) == inputs


@pytest.mark.parametrize(
    "shapes",
    [
        [("n", 3), ()],
        [(1, 3), (2, 1, 4)],
        [("n", 3), (2, "n", 4)],
        [("t", "n", 3), (1, "n", 4)],
        [(164,), ("moves", 9)],
    ],
)
def test_first_axes_that_cannot(shapes: list[tuple[int | str | None, ...]]) -> None:
    """A scalar, two sizes, the batch of one input inside another, a symbol all share behind others, a vector."""
    inputs = specs(*shapes)
    assert not share_batch_axis(inputs)
    runs = with_sample_axis(inputs)
    assert [s.shape for s in runs] == [(1, *shape) for shape in shapes]
    assert with_sample_axis(runs) == runs


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [
        {"x": rng.random((1, 4), np.float32), "state": rng.random((2, 1, 3), np.float32), "rate": np.array(8000 * k)}
        for k in range(count)
    ]


def check(samples: Samples, given: list[dict[str, np.ndarray]]) -> None:
    assert len(samples) == len(given)
    for fed, want in zip(samples, given, strict=True):
        assert all(isinstance(a, np.ndarray) for a in fed.values())
        assert {n: (a.shape, a.dtype) for n, a in fed.items()} == {n: (a.shape, a.dtype) for n, a in want.items()}
        assert all(np.array_equal(fed[n], want[n]) for n in want)


def test_every_run_is_a_sample() -> None:
    given = feeds(3)
    samples = from_iterable(given, STREAM)
    check(samples, given)
    check(samples.limited(1, 2), given[1:2])


def test_runs_in_a_file(tmp_path: Path) -> None:
    given = feeds(3)
    np.savez(tmp_path / "runs.npz", **{n: np.stack([f[n] for f in given]) for n in given[0]})
    check(open_samples(tmp_path / "runs.npz", STREAM), given)
    np.savez(tmp_path / "short.npz", **{**{n: np.stack([f[n] for f in given]) for n in given[0]}, "rate": [1, 2]})
    with pytest.raises(InputError, match="'rate' 2"):
        open_samples(tmp_path / "short.npz", STREAM)


def test_runs_are_checked() -> None:
    wrong = {**feeds(1)[0], "state": np.zeros((2, 1, 4), np.float32)}
    with pytest.raises(InputError, match="'state'"):
        len(from_iterable([wrong], STREAM))


def test_strings_are_samples() -> None:
    inputs = (InputSpec("s", ("n", 1), np.dtype(object)), InputSpec("x", ("n", 2), F))
    texts = np.array([["a"], ["bc"], [""]])
    numbers = np.arange(6, dtype=np.float32).reshape(3, 2)
    for batch in ({"s": texts, "x": numbers}, {"s": texts.astype(object), "x": numbers}):
        for samples in (from_iterable([batch], inputs, batch_size=2), from_iterable(batch, inputs, batch_size=2)):
            found = list(samples)
            assert [f["s"].tolist() for f in found] == [[["a"], ["bc"]], [[""]]]
            assert all(f["s"].dtype == object for f in found)
            assert np.array_equal(np.concatenate([f["x"] for f in found]), numbers)
    with pytest.raises(InputError, match="wants strings, got float32"):
        len(from_iterable([{"s": numbers[:, :1], "x": numbers}], inputs))


def test_samples_in_a_batch() -> None:
    assert batch_length({"a": np.zeros((3, 2)), "b": np.zeros(3)}) == 3
    assert batch_length({"a": np.zeros((3, 2)), "b": np.zeros((2, 3))}) == 1
    assert batch_length({"a": np.zeros((3, 2)), "b": np.zeros(())}) == 1
    assert batch_length({"a": np.zeros(())}) == 1
