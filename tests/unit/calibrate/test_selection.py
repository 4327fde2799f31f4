"""Choosing samples: what the features are, which samples are picked, how they are read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import amctc
from amctc.calibrate.samples import Samples, from_iterable
from amctc.calibrate.selection import penultimate_features, select_samples
from amctc.errors import InputError, UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.ops import nn
from amctc.session import input_specs
from amctc.types import F32, Array, TensorType

RNG = np.random.default_rng(71)
POINTWISE = nn.Conv((1, 1), (0, 0, 0, 0), (1, 1))


def weight(*shape: int) -> Value:
    return const(RNG.normal(size=shape).astype(np.float32))


def product(x: Value, inputs: int, outputs: int, name: str) -> Value:
    return apply(nn.MatMul(), x, weight(inputs, outputs), name=name, origins=(Origin(name, "MatMul"),))


X = GraphInput("x", TensorType(("N", 4), F32))
CLASSIFIER = Graph((X,), (product(apply(nn.Relu(), X, name="h"), 4, 3, "head"),), ("y",))


def samples_of(graph: Graph, array: Array, **options: object) -> Samples:
    return from_iterable({graph.inputs[0].name: array}, input_specs(graph), **options)


def test_features_are_what_the_last_layer_reads() -> None:
    x = RNG.normal(size=(10, 4)).astype(np.float32)
    found = penultimate_features(CLASSIFIER, samples_of(CLASSIFIER, x, batch_size=4))
    np.testing.assert_array_equal(found, np.maximum(x, 0))


def test_positions_are_averaged() -> None:
    """Images by channel, sequences by element; whatever the batches are."""
    image = GraphInput("x", TensorType(("N", 2, 3, 3), F32))
    graph = Graph((image,), (apply(POINTWISE, image, weight(5, 2, 1, 1)),), ("y",))
    x = RNG.normal(size=(5, 2, 3, 3)).astype(np.float32)
    for size in (1, 2, 5):
        found = penultimate_features(graph, samples_of(graph, x, batch_size=size))
        np.testing.assert_allclose(found, x.mean(axis=(2, 3)), rtol=0, atol=2.0**-22)
    words = GraphInput("x", TensorType(("N", 7, 4), F32))
    graph = Graph((words,), (product(words, 4, 3, "head"),), ("y",))
    x = RNG.normal(size=(5, 7, 4)).astype(np.float32)
    found = penultimate_features(graph, samples_of(graph, x))
    np.testing.assert_allclose(found, x.mean(axis=1), rtol=0, atol=2.0**-22)


def test_rows_of_one_sample_are_averaged() -> None:
    """A model that joins samples and positions before its head."""
    words = GraphInput("x", TensorType(("N", 7, 4), F32))
    flat = apply(nn.Reshape((-1, 4)), words)
    graph = Graph((words,), (product(flat, 4, 3, "head"),), ("y",))
    x = RNG.normal(size=(5, 7, 4)).astype(np.float32)
    found = penultimate_features(graph, samples_of(graph, x, batch_size=2))
    np.testing.assert_allclose(found, x.mean(axis=1), rtol=0, atol=2.0**-22)


def test_several_heads_and_none() -> None:
    trunk = product(X, 4, 6, "trunk")
    heads = [product(apply(f, trunk), 6, 2, f"head{i}") for i, f in enumerate((nn.Relu(), nn.Sigmoid()))]
    graph = Graph((X,), (apply(nn.Add(), heads[0], heads[1]),), ("y",))
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    assert penultimate_features(graph, samples_of(graph, x)).shape == (3, 12)
    bare = Graph((X,), (apply(nn.Relu(), X),), ("y",))
    np.testing.assert_array_equal(penultimate_features(bare, samples_of(bare, x)), np.maximum(x, 0))


@pytest.mark.parametrize("method", ["k-means", "k-center"])
def test_one_sample_of_each_kind(method: str) -> None:
    """30 samples of three kinds, which the model tells apart by a channel, after 20 distractions it cannot see."""
    kinds = RNG.permutation(np.repeat([0, 1, 2], [20, 8, 2]))
    x = np.full((30, 4), -5.0, np.float32) - RNG.uniform(0, 50, (30, 4)).astype(np.float32)
    x[np.arange(30), kinds] = 10 + RNG.uniform(0, 0.1, 30)
    chosen, selection = select_samples(CLASSIFIER, samples_of(CLASSIFIER, x), 3, method=method)
    assert sorted(kinds[list(selection.indices)].tolist()) == [0, 1, 2]
    np.testing.assert_array_equal(next(iter(chosen))["x"], x[list(selection.indices)])
    assert selection.covered.largest < 0.2 < selection.random.largest
    assert f"3 of 30 samples chosen by {method}" in str(selection)


def test_all_when_there_are_no_more() -> None:
    x = RNG.normal(size=(5, 4)).astype(np.float32)
    chosen, selection = select_samples(CLASSIFIER, samples_of(CLASSIFIER, x), 8)
    assert selection.indices == (0, 1, 2, 3, 4)
    assert selection.covered.largest == 0.0
    assert len(chosen) == 5


def test_of_a_range_with_labels_and_limits() -> None:
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    samples = from_iterable({"x": x}, input_specs(CLASSIFIER), labels=np.arange(10), batch_size=2).limited(3, 9)
    picked = samples.picked([5, 0, 2])
    assert picked.labels.tolist() == [8, 3, 5]
    assert [len(b["x"]) for b in picked] == [2, 1]
    np.testing.assert_array_equal(np.concatenate([b["x"] for b in picked]), x[[8, 3, 5]])
    np.testing.assert_array_equal(np.concatenate([b["x"] for b in picked.limited(1)]), x[[3, 5]])
    assert "3 samples picked from" in picked.source
    for wrong in ([6], [-1]):
        with pytest.raises(UsageError, match="there are 6 samples"):
            samples.picked(wrong)


def test_samples_of_several_shapes() -> None:
    words = GraphInput("x", TensorType(("N", "T", 4), F32))
    graph = Graph((words,), (product(words, 4, 3, "head"),), ("y",))
    lengths = [3, 3, 5, 5, 2, 2]
    arrays = [np.full((1, n, 4), i, np.float32) for i, n in enumerate(lengths)]

    def batches() -> Iterator[Array]:
        yield from arrays

    samples = from_iterable(batches(), input_specs(graph), batch_size=2)
    picked = samples.picked([0, 1, 2, 4])
    assert [b["x"].shape[:2] for b in picked] == [(2, 3), (1, 5), (1, 2)]
    assert select_samples(graph, samples, 2)[1].total == 6


def test_a_fixed_batch() -> None:
    x = GraphInput("x", TensorType((4, 4), F32))
    graph = Graph((x,), (product(x, 4, 3, "head"),), ("y",))
    samples = samples_of(graph, RNG.normal(size=(18, 4)).astype(np.float32))
    chosen, selection = select_samples(graph, samples, 8)
    assert selection.total == 16
    assert [len(b["x"]) for b in chosen] == [4, 4]


def test_a_folder_of_images(tmp_path: Path) -> None:
    """Black, white and grey: one of each, though black is on most."""
    levels = [0] * 7 + [255, 128, 255]
    for i, level in enumerate(levels):
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(tmp_path / f"{i}.png")
    image = GraphInput("x", TensorType(("N", 3, 8, 8), F32))
    graph = Graph((image,), (apply(POINTWISE, image, weight(5, 3, 1, 1)),), ("y",))
    samples = amctc.open_samples_for(graph, tmp_path, preprocess="unit")
    _, selection = amctc.select_samples(graph, samples, 3)
    assert sorted(levels[i] for i in selection.indices) == [0, 128, 255]
    assert selection.covered.largest == 0.0


def test_refused() -> None:
    graph = Graph((X,), (product(apply(nn.Exp(), X), 4, 3, "head"),), ("y",))
    samples = samples_of(graph, np.full((4, 4), 1000.0, np.float32))
    with pytest.raises(UsageError, match="0 samples"):
        select_samples(CLASSIFIER, samples, 0)
    with pytest.raises(UsageError, match="k-medoids"):
        select_samples(CLASSIFIER, samples, 1, method="k-medoids")
    with pytest.raises(InputError, match="features of the samples"):
        select_samples(graph, samples, 2)


def test_values_that_belong_to_no_sample() -> None:
    joined = apply(nn.Reshape((1, -1)), X)
    graph = Graph((X,), (apply(nn.MatMul(), joined, weight(8, 3)),), ("y",))
    samples = samples_of(graph, RNG.normal(size=(4, 4)).astype(np.float32), batch_size=2)
    with pytest.raises(InputError, match="2 samples do not show"):
        penultimate_features(graph, samples)
