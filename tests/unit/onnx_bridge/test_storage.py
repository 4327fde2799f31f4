"""External data: what is written where, tensor by tensor, wholly or not at all."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from amctc.backends.onnx_file import save, save_into, saved_size
from amctc.data import ArrayData, Data, DeferredData, deferred
from amctc.errors import AmctcError, InputError, LimitError, UsageError
from amctc.files import output_folder
from amctc.frontends.onnx_file import load
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.onnx_bridge import FloatSession, export_model, model_stream, runtime, storage
from amctc.onnx_bridge.model_stream import LateContents, ModelStream, serialized
from amctc.ops import nn, quant
from amctc.text import print_graph
from amctc.types import F32, I4, SCALAR_TYPES, STRING, QuantizedType, TensorType
from amctc.verify import verify

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 32)).astype(np.float32)


def chain(*weights: Data | np.ndarray) -> Graph:
    """A chain of 32 x 32 matrix products."""
    x = value = GraphInput("x", TensorType(("N", 32), F32))
    for index, weight in enumerate(weights):
        value = apply(nn.MatMul(), value, const(weight, name=f"w{index}"))
    return Graph((x,), (value,), ("y",))


def weights(count: int) -> list[np.ndarray]:
    return [RNG.normal(size=(32, 32)).astype(np.float32) for _ in range(count)]


def entries(tensor: TensorProto) -> dict[str, str]:
    return {e.key: e.value for e in tensor.external_data}


def test_large_contents_go_to_a_file_beside_the_model(tmp_path: Path) -> None:
    arrays = weights(3)
    graph = chain(*arrays)
    save(graph, tmp_path / "m.onnx", external_data_threshold=0)
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    data = (tmp_path / "m.onnx.data").read_bytes()
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for tensor, array in zip(model.graph.initializer, arrays, strict=True):
        where = entries(tensor)
        offset, length = int(where["offset"]), int(where["length"])
        assert (tensor.data_location, where["location"]) == (TensorProto.EXTERNAL, "m.onnx.data")
        assert offset % 4096 == 0
        assert data[offset : offset + length] == array.tobytes()
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    (y,) = onnxruntime.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": X})
    np.testing.assert_array_equal(y, FloatSession(graph).run({"x": X})["y"])


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    graph = chain(*weights(2))
    save(graph, tmp_path / "m.onnx", external_data_threshold=0)
    again = load(tmp_path / "m.onnx")
    verify(again, deep=True)
    assert print_graph(again) == print_graph(load_inline(graph, tmp_path))
    (tmp_path / "again").mkdir()
    save(again, tmp_path / "again" / "m.onnx", external_data_threshold=0)
    for name in ("m.onnx", "m.onnx.data"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def load_inline(graph: Graph, folder: Path) -> Graph:
    save(graph, folder / "inline.onnx")
    assert not (folder / "inline.onnx.data").exists()
    return load(folder / "inline.onnx")


def test_the_threshold_counts_bytes_of_contents(tmp_path: Path) -> None:
    graph = chain(*weights(2))
    assert storage.contents_size(graph) == 2 * 4096
    save(graph, tmp_path / "in.onnx", external_data_threshold=2 * 4096)
    save(graph, tmp_path / "out.onnx", external_data_threshold=2 * 4096 - 1)
    assert sorted(os.listdir(tmp_path)) == ["in.onnx", "out.onnx", "out.onnx.data"]


def test_past_the_limit_of_protobuf_nothing_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amctc.onnx_bridge.exporter.PROTOBUF_LIMIT", 4096)
    graph = chain(*weights(2))
    with pytest.raises(LimitError, match="external data"):
        export_model(graph)
    save(graph, tmp_path / "m.onnx", external_data_threshold=4096)
    again = load(tmp_path / "m.onnx")
    with pytest.raises(LimitError):
        export_model(again)
    assert storage.contents_size(again) == 2 * 4096


def test_small_contents_and_strings_stay_inside(tmp_path: Path) -> None:
    x = GraphInput("x", TensorType((32,), F32))
    large = const(np.full(400, "word" * 99, object), STRING, name="words")
    graph = Graph((x,), (apply(nn.Add(), x, const(np.ones(32, np.float32), name="b")), large), ("y", "s"))
    save(graph, tmp_path / "m.onnx", external_data_threshold=0)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert not any(t.external_data for t in model.graph.initializer)
    assert (tmp_path / "m.onnx.data").stat().st_size == 0
    np.testing.assert_array_equal(FloatSession(load(tmp_path / "m.onnx")).run({"x": X[0]})["y"], X[0] + 1)


def test_int4_is_packed_outside_and_defaults_of_inputs_go_there_too(tmp_path: Path) -> None:
    integers = RNG.integers(-8, 8, (51, 51)).astype(np.int8)
    elem = QuantizedType.per_tensor(0.5, 0, I4)
    default = RNG.normal(size=(51, 51)).astype(np.float32)
    x = GraphInput("x", TensorType((51, 51), F32), const(default).producer.kind.data)
    graph = Graph((x,), (apply(nn.Add(), x, apply(quant.Dequantize(), const(integers, elem, name="w"))),), ("y",))
    save(graph, tmp_path / "m.onnx", external_data_threshold=0)
    tensors = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer
    sizes = [int(entries(t)["length"]) for t in tensors if t.external_data]
    assert sorted(sizes) == [(51 * 51 + 1) // 2, 51 * 51 * 4]
    again = load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(again.inputs[0].default.read(), default)
    np.testing.assert_array_equal(FloatSession(again).run({})["y"], default + integers * np.float32(0.5))


class Watched:
    """Recipes that count how many of their arrays are alive when the next is made."""

    def __init__(self) -> None:
        self.alive: list[weakref.ref[np.ndarray]] = []
        self.most = 0

    def weight(self, value: int) -> Data:
        def recipe() -> np.ndarray:
            gc.collect()
            self.most = max(self.most, sum(ref() is not None for ref in self.alive))
            array = np.full((256, 256), value, np.float32)
            self.alive.append(weakref.ref(array))
            return array

        return deferred("watched", recipe, shape=(256, 256), dtype=np.float32)


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    watched = Watched()
    x = value = GraphInput("x", TensorType((1, 256), F32))
    for index in range(5):
        value = apply(nn.MatMul(), value, const(watched.weight(index), name=f"w{index}"))
    save(Graph((x,), (value,), ("y",)), tmp_path / "m.onnx", external_data_threshold=0)
    assert len(watched.alive) == 5
    assert watched.most == 0


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=5), st.integers(0, 6000))
def test_the_size_is_known_before(tmp_path_factory: Any, lengths: list[int], threshold: int) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    x = GraphInput("x", TensorType((1,), F32))
    outputs = tuple(apply(nn.Identity(), const(np.zeros(n, np.float32), name=f"c{i}")) for i, n in enumerate(lengths))
    graph = Graph((x,), outputs, tuple(f"y{i}" for i in range(len(outputs))))
    with output_folder(folder / "out") as output:
        written = save_into(output, "m.onnx", graph, external_data_threshold=threshold)
    assert written == sum(p.stat().st_size for p in (folder / "out").iterdir())
    assert written == saved_size(graph, "m.onnx", external_data_threshold=threshold)


def failing() -> Data:
    def recipe() -> np.ndarray:
        raise InputError("the weight cannot be read")

    return deferred("fails", recipe, shape=(256, 256), dtype=np.float32)


def test_a_failure_leaves_both_files_as_they_were(tmp_path: Path) -> None:
    graph = chain(*weights(2))
    save(graph, tmp_path / "m.onnx", external_data_threshold=0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    x = GraphInput("x", TensorType((1, 256), F32))
    broken = apply(nn.MatMul(), apply(nn.MatMul(), x, const(np.ones((256, 256), np.float32))), const(failing()))
    for name in ("m.onnx", "new.onnx"):
        with pytest.raises(InputError, match="cannot be read"):
            save(Graph((x,), (broken,), ("y",)), tmp_path / name, external_data_threshold=0)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("at", [0, 1])
def test_a_failing_rename_leaves_both_files_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    save(chain(*weights(2)), tmp_path / "m.onnx", external_data_threshold=0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real, calls = os.replace, []

    def fail(source: Any, target: Any) -> None:
        if ".old-" not in str(source) and ".old-" not in str(target):
            calls.append(target)
            if len(calls) == at + 1:
                raise OSError(5, "I/O error")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(AmctcError):
        save(chain(*weights(3)), tmp_path / "m.onnx", external_data_threshold=0)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_model_is_not_saved_over_the_data_it_reads(tmp_path: Path) -> None:
    save(chain(*weights(2)), tmp_path / "m.onnx", external_data_threshold=0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    graph = load(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="another name"):
        save(graph, tmp_path / "m.onnx", external_data_threshold=0)
    stored = next(op.kind.data for op in graph.ops if not op.operands)
    halved = DeferredData("halved", lambda w: w / 2, (stored,), (32, 32), np.dtype(np.float32))
    with pytest.raises(UsageError, match="another name"):
        save(chain(halved), tmp_path / "m.onnx.data")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    save(graph, tmp_path / "m.onnx")  # the weights go inside: what they are read from stays
    np.testing.assert_array_equal(FloatSession(load(tmp_path / "m.onnx")).run({"x": X})["y"].shape, (2, 32))


@pytest.mark.parametrize("name", ["none/m.onnx", "file/m.onnx", ".", "", "dir"])
def test_targets_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"f")
    (tmp_path / "dir").mkdir()
    with pytest.raises(UsageError):
        save(chain(*weights(1)), name, external_data_threshold=0)
    assert sorted(os.listdir(tmp_path)) == ["dir", "file"]


def test_a_session_takes_a_model_that_would_exist_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain(*weights(3))
    expected = FloatSession(graph).run({"x": X})["y"]
    monkeypatch.setattr(runtime, "IN_MEMORY", 4096)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    session = FloatSession(graph)
    assert os.listdir(tmp_path) == []
    np.testing.assert_array_equal(session.run({"x": X})["y"], expected)


CONTENTS = {
    "f32": (np.float32, F32), "bf16": (SCALAR_TYPES["bf16"].dtype, SCALAR_TYPES["bf16"]), "i4": (np.int8, I4),
    "i64": (np.int64, SCALAR_TYPES["i64"]), "bool": (np.bool_, SCALAR_TYPES["bool"]),
}  # fmt: skip


PARTS = st.lists(st.tuples(st.sampled_from(sorted(CONTENTS)), st.integers(0, 700)), max_size=6)


@given(PARTS, st.booleans(), st.sampled_from([0, 1, 1024, 1 << 16]))
def test_a_streamed_model_has_the_bytes_of_the_message_made_whole(
    parts: list[tuple[str, int]], texts: bool, large: int
) -> None:
    values: list[Value] = []
    for index, (name, size) in enumerate(parts):
        dtype, elem = CONTENTS[name]
        values.append(const(np.arange(2 * size).reshape(2, size).astype(np.int8).astype(dtype), elem, name=f"c{index}"))
    if texts:
        values.append(const(np.full(400, "word", object), STRING, name="words"))
    x = GraphInput("x", TensorType((2, 300), F32), ArrayData(np.ones((2, 300), np.float32)))
    values.append(apply(nn.Relu(), x))
    graph = Graph((x,), tuple(values), tuple(f"y{i}" for i in range(len(values)))).with_metadata(made="here")
    contents = LateContents()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_stream, "LARGE", large)
        stream = ModelStream(export_model(graph, store=contents), contents)
    data = b"".join(stream)
    assert data == serialized(export_model(graph))
    assert stream.size == len(data)
    assert onnx.load_from_string(data) == export_model(graph)


def test_a_model_is_written_tensor_by_tensor_inside_one_file_too(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def made(w: np.ndarray) -> np.ndarray:
        assert all(ref() is None for ref in alive)
        found = np.broadcast_to(w, (256, 256)).copy()
        alive.append(weakref.ref(found))
        return found

    small = ArrayData(np.ones((1, 1), np.float32))
    recipes = [DeferredData("made", made, (small,), (256, 256), np.dtype(np.float32)) for _ in range(3)]
    x = value = GraphInput("x", TensorType((2, 256), F32))
    for index, recipe in enumerate(recipes):
        value = apply(nn.MatMul(), value, const(recipe, name=f"w{index}"))
    graph = Graph((x,), (value,), ("y",))
    with output_folder(tmp_path / "out") as output:
        expected = saved_size(graph, "m.onnx")
        assert not alive
        assert save_into(output, "m.onnx", graph) == expected
    assert len(alive) == 3
    assert (tmp_path / "out" / "m.onnx").stat().st_size == expected
    assert storage.contents_size(load(tmp_path / "out" / "m.onnx")) == 3 * 4 * 256 * 256


def test_external_int4_that_is_too_short_is_refused(tmp_path: Path) -> None:
    elem = QuantizedType.per_tensor(0.5, 0, I4)
    graph = Graph((), (apply(quant.Dequantize(), const(np.zeros((64, 64), np.int8), elem, name="w")),), ("y",))
    save(graph, tmp_path / "m.onnx", external_data_threshold=0)
    (tmp_path / "m.onnx.data").write_bytes(bytes(2047))
    with pytest.raises(InputError, match="truncated"):
        load(tmp_path / "m.onnx")
