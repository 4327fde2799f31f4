"""External data: read from the model's folder wherever a tensor may stand, and from nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from amctc.errors import AmctcError, InputError, LimitError
from amctc.frontends.onnx_file import load
from amctc.ir import Graph
from amctc.onnx_bridge import FloatSession, export_model, import_model, tensors
from amctc.text import print_graph

W = np.arange(6, dtype=np.float32).reshape(2, 3)
X = np.ones((2, 3), np.float32)


def external(tensor: TensorProto, location: str, **entries: object) -> None:
    """Let ``tensor`` (float32 [2,3]) refer to a file instead of holding data."""
    name = tensor.name
    tensor.Clear()
    tensor.name, tensor.data_type, tensor.data_location = name, TensorProto.FLOAT, TensorProto.EXTERNAL
    tensor.dims.extend(W.shape)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))


def in_an_initializer() -> tuple[onnx.ModelProto, list[TensorProto]]:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y) <float[1] w = {0}> { y = Add(x, w) }""")
    return model, [model.graph.initializer[0]]


def in_a_default() -> tuple[onnx.ModelProto, list[TensorProto]]:
    model, found = in_an_initializer()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3]))
    return model, found


def in_a_constant_node() -> tuple[onnx.ModelProto, list[TensorProto]]:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y) { w = Constant <value = float[1] {0}> () y = Add(x, w) }""")
    return model, [model.graph.node[0].attribute[0].t]


def in_a_body() -> tuple[onnx.ModelProto, list[TensorProto]]:
    """An initializer of one branch, a Constant node in a body inside the other."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y) { c = Constant <value_int = 1> () b = Cast <to = 9> (c)
        y = If <then_branch = t () => (float[2,3] ta) <float[1] w = {0}> { ta = Add(x, w) },
                else_branch = e () => (float[2,3] ea) {
                    ea = If <then_branch = et () => (float[2,3] eta) {
                                v = Constant <value = float[1] {0}> () eta = Add(x, v) },
                             else_branch = ee () => (float[2,3] eea) { eea = Neg(x) }> (b) }> (b) }""")
    branches = {a.name: a.g for a in model.graph.node[-1].attribute}
    inner = {a.name: a.g for a in branches["else_branch"].node[0].attribute}
    return model, [branches["then_branch"].initializer[0], inner["then_branch"].node[0].attribute[0].t]


def in_an_attribute() -> tuple[onnx.ModelProto, list[TensorProto]]:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "of.others" : 1]>
        net (float[2,3] x) => (float[2,3] y) { y = of.others.Magic <w = float[1] {0}> (x) }""")
    return model, [model.graph.node[0].attribute[0].t]


Place = Callable[[], tuple[onnx.ModelProto, list[TensorProto]]]
PLACES: list[Place] = [in_an_initializer, in_a_default, in_a_constant_node, in_a_body, in_an_attribute]
everywhere = pytest.mark.parametrize("place", PLACES, ids=lambda p: p.__name__)


def loaded(folder: Path, place: Place, location: str, **entries: object) -> Graph:
    model, found = place()
    for tensor in found:
        external(tensor, location, **entries)
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return load(folder / "net.onnx")


def dense(place: Place) -> Graph:
    """The graph of the same model with the data inside."""
    model, found = place()
    for tensor in found:
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, W.shape, W.tobytes(), raw=True))
    return import_model(model)


@everywhere
@pytest.mark.parametrize(
    ("location", "entries"),
    [("w.bin", {}), ("./sub//w.bin", {"offset": 8, "length": 24}), ("sub/w.bin", {"offset": 8, "checksum": "x"})],
)
def test_data_in_the_folder_is_read(place: Place, location: str, entries: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    (tmp_path / "sub" / "w.bin").write_bytes(bytes(8) + W.tobytes() + bytes(4))
    graph = loaded(tmp_path, place, location, **entries)
    assert print_graph(graph) == print_graph(dense(place))
    exported = export_model(graph)
    assert b"w.bin" not in exported.SerializeToString()
    assert exported.SerializeToString() == export_model(dense(place)).SerializeToString()


@everywhere
def test_what_was_read_is_what_runs_even_if_the_folder_changes(place: Place, tmp_path: Path) -> None:
    if place is in_an_attribute:
        pytest.skip("nobody can run it")
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    session = FloatSession(loaded(tmp_path, place, "w.bin"))
    (tmp_path / "w.bin").unlink()
    np.testing.assert_array_equal(session.run({"x": X})["y"], X + W)


@everywhere
def test_nothing_else_is_read(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(W.tobytes())
    (folder / "own.bin").write_bytes(W.tobytes())
    os.link(folder / "own.bin", folder / "hard.bin")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "fifo.bin")
    monkeypatch.chdir(tmp_path)  # the working directory is not the model's folder
    for location in (
        "secret.bin", "../secret.bin", "a/../../secret.bin", str(tmp_path / "secret.bin"), "/dev/zero", "link.bin",
        "up/secret.bin", "hard.bin", "fifo.bin", "", ".", "/", "*/_ORT_MEM_ADDR_/*", "none.bin",
        "own.bin\0x", "file:own.bin", "x" * 5000,
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            loaded(folder, place, location)
        assert str(caught.value).startswith("net.onnx")
        assert "\n" not in str(caught.value)


@everywhere
@pytest.mark.parametrize(
    "entries",
    [{"offset": 4}, {"offset": -4}, {"offset": 1 << 70}, {"offset": "x"}, {"length": 20}, {"length": 1 << 60},
     {"length": -24}, {"length": 0}, {"offset": (1 << 64) - 24, "length": 24}],
    ids=str,
)  # fmt: skip
def test_data_outside_the_file_is_refused(place: Place, entries: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    with pytest.raises(InputError):
        loaded(tmp_path, place, "w.bin", **entries)


@everywhere
def test_a_truncated_file_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes()[:-1])
    with pytest.raises(InputError, match=r"truncated"):
        loaded(tmp_path, place, "w.bin")


@everywhere
def test_a_model_from_memory_has_no_folder(place: Place) -> None:
    model, found = place()
    for tensor in found:
        external(tensor, "w.bin")
    with pytest.raises(InputError, match="load the model from a file"):
        import_model(model)


def test_a_file_cut_after_loading_is_noticed_when_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    graph = loaded(tmp_path, in_an_initializer, "w.bin")
    (tmp_path / "w.bin").write_bytes(b"")
    with pytest.raises(AmctcError, match="cut or changed since"):
        export_model(graph)


def test_the_data_that_one_node_holds_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of tensors may name one file; in bodies they would all be held in memory."""
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    monkeypatch.setattr(tensors, "BODY_LIMIT", 2 * W.nbytes)
    loaded(tmp_path, in_a_body, "w.bin")
    monkeypatch.setattr(tensors, "BODY_LIMIT", 2 * W.nbytes - 1)
    with pytest.raises(LimitError, match="more than 47 bytes"):
        loaded(tmp_path, in_a_body, "w.bin")


def test_huge_external_tensors_cost_nothing_until_read(tmp_path: Path) -> None:
    """A terabyte that is not there is refused by arithmetic; a file with a hole is only mapped."""
    model, (tensor,) = in_an_initializer()
    external(tensor, "w.bin")
    tensor.dims[:] = [1 << 20, 1 << 18]
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="ends past the file"):
        load(tmp_path / "net.onnx")
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x) => (float[2,3] y, float[K,L] z) <float[1] w = {0}> { y = Relu(x) z = Identity(w) }""")
    external(model.graph.initializer[0], "hole.bin")
    model.graph.initializer[0].dims[:] = [1 << 16, 1 << 16]
    with open(tmp_path / "hole.bin", "wb") as file:
        file.truncate(1 << 34)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    graph = load(tmp_path / "net.onnx")
    assert graph.outputs[1].type.dims == (1 << 16, 1 << 16)
    with pytest.raises(LimitError, match="do not fit one ONNX file"):
        export_model(graph)
