"""Reading ONNX files that may be anything: each bad one ends in one line that names the file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from amctc.backends.onnx_file import model_bytes, save
from amctc.errors import AmctcError, InputError, LimitError, UnsupportedError, UsageError
from amctc.frontends import onnx_file
from amctc.frontends.onnx_file import load, read_model
from amctc.ops import nn
from amctc.text import print_graph


def model_of(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = (), opset: int = 17) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "net", [x], [y], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def conv_model() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.arange(4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3), "w")
    conv = helper.make_node("Conv", ["x", "w"], ["c"], "conv1", pads=[1, 1, 1, 1])
    return model_of(conv, helper.make_node("Relu", ["c"], ["y"], "relu1"), initializers=(weight,))


def written(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def refusal(path: Path) -> str:
    """The message that ``load`` refuses a file with: one line that names the file."""
    with pytest.raises(AmctcError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_load_gives_the_graph_of_a_standard_model(tmp_path: Path) -> None:
    graph = load(written(tmp_path / "net.onnx", conv_model()))
    assert [type(op.kind) for op in graph.ops if op.operands] == [nn.Conv, nn.Relu]


def test_saving_and_loading_keeps_the_graph_and_the_bytes(tmp_path: Path) -> None:
    graph = load(written(tmp_path / "net.onnx", conv_model()))
    save(graph, tmp_path / "again.onnx")
    again = load(tmp_path / "again.onnx")
    assert print_graph(again) == print_graph(graph)
    assert model_bytes(again) == (tmp_path / "again.onnx").read_bytes() == model_bytes(graph)


def test_save_leaves_the_old_file_when_the_graph_has_no_form(tmp_path: Path) -> None:
    target = tmp_path / "net.onnx"
    target.write_bytes(b"old")
    graph = load(written(tmp_path / "in.onnx", conv_model()))
    with pytest.raises(UsageError):
        save(graph, tmp_path / "missing" / "net.onnx")
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"", "empty"),
        (b'{"graph": {}}', "JSON"),
        (b"ir_version: 8\ngraph { }\n", "text"),
        (b"PK\x03\x04rest", "zip"),
        (b"\x80\x02pickle", "pickle"),
        (bytes(range(255, 0, -1)), "not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "not an ONNX model"),
        (b"\x00\x00\x00\x00TFL3", "TFLite"),
    ],
)
def test_a_file_that_is_something_else_is_named_so(tmp_path: Path, content: bytes, finding: str) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=finding):
        read_model(path)
    assert finding in refusal(path)


def test_a_model_without_outputs_is_refused(tmp_path: Path) -> None:
    model = conv_model()
    del model.graph.output[:]
    assert "no outputs" in refusal(written(tmp_path / "net.onnx", model))


def test_missing_folder_fifo_and_device_are_refused_without_waiting(tmp_path: Path) -> None:
    assert "no such model" in refusal(tmp_path / "none.onnx")
    (tmp_path / "folder.onnx").mkdir()
    assert "folder" in refusal(tmp_path / "folder.onnx")
    os.mkfifo(tmp_path / "fifo.onnx")
    assert "FIFO" in refusal(tmp_path / "fifo.onnx")
    assert "device" in refusal(Path("/dev/zero"))


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "SIZE_LIMIT", 100)
    with pytest.raises(LimitError):
        load(written(tmp_path / "net.onnx", conv_model()))


def test_a_model_cut_anywhere_is_refused_or_loads(tmp_path: Path) -> None:
    data = conv_model().SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refusal(path)


def test_flipped_bytes_never_end_in_another_exception(tmp_path: Path) -> None:
    data = bytearray(conv_model().SerializeToString())
    random, path = np.random.default_rng(0), tmp_path / "flipped.onnx"
    for _ in range(200):
        broken = bytearray(data)
        for at in random.integers(0, len(data), 3):
            broken[at] = random.integers(0, 256)
        path.write_bytes(broken)
        with contextlib.suppress(AmctcError):
            load(path)


def test_errors_name_the_file_and_the_node_even_under_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path / ("f" * 100)
    folder.mkdir()
    bad = helper.make_node("Conv", ["x", "w"], ["y"], "conv1", pads=[1, 1, 1, 1])
    weight = numpy_helper.from_array(np.zeros((4, 5, 3, 3), np.float32), "w")
    message = refusal(written(folder / "net.onnx", model_of(bad, initializers=(weight,))))
    assert message.startswith("net.onnx: node 'conv1' (Conv): ")


@pytest.mark.parametrize(
    ("nodes", "finding"),
    [
        ([("Relu", "y", "a"), ("Relu", "a", "y")], "cycle"),
        ([("Relu", "x", "y"), ("Relu", "x", "y")], "twice"),
        ([("Relu", "q", "y")], "never computed"),
        ([("Relu", "x", "z")], "never computed"),
        ([("Concat", "x", "y")], "malformed"),
    ],
)
def test_malformed_graphs_are_refused(tmp_path: Path, nodes: list[tuple[str, str, str]], finding: str) -> None:
    made = [helper.make_node(op, [i], [o], f"n{k}") for k, (op, i, o) in enumerate(nodes)]
    assert finding in refusal(written(tmp_path / "net.onnx", model_of(*made)))


def test_duplicate_initializers_and_inputs_are_refused(tmp_path: Path) -> None:
    model = conv_model()
    model.graph.initializer.append(model.graph.initializer[0])
    assert "twice" in refusal(written(tmp_path / "net.onnx", model))
    model = conv_model()
    model.graph.input.append(model.graph.input[0])
    assert "twice" in refusal(written(tmp_path / "net.onnx", model))


def test_an_unknown_element_type_is_refused(tmp_path: Path) -> None:
    model = conv_model()
    model.graph.initializer[0].data_type = 250
    path = written(tmp_path / "net.onnx", model)
    assert "element type 250" in refusal(path)
    with pytest.raises(UnsupportedError):
        load(path)


def external_model(location: str, **entries: str) -> onnx.ModelProto:
    model = conv_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return model


def test_external_data_inside_the_folder_is_read(tmp_path: Path) -> None:
    inside = conv_model()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(bytes(16) + inside.graph.initializer[0].raw_data)
    graph = load(written(tmp_path / "net.onnx", external_model("sub/w.bin", offset="16")))
    assert print_graph(graph) == print_graph(load(written(tmp_path / "inside.onnx", inside)))


def test_external_data_never_leaves_the_folder(tmp_path: Path) -> None:
    content = conv_model().graph.initializer[0].raw_data
    (tmp_path / "secret.bin").write_bytes(content)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "own.bin").write_bytes(content)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "up").symlink_to(tmp_path)
    os.link(folder / "own.bin", folder / "hard.bin")
    os.mkfifo(folder / "fifo.bin")
    names = ["../secret.bin", "a/../../secret.bin", str(tmp_path / "secret.bin"), "link.bin", "up/secret.bin",
             "hard.bin", "fifo.bin", "", ".", "*/_ORT_MEM_ADDR_/*", "none.bin", "own.bin\0"]  # fmt: skip
    for name in names:
        path = written(folder / "net.onnx", external_model(name))
        refusal(path)
        with pytest.raises(InputError):
            load(path)


@pytest.mark.parametrize("entries", [{"offset": "8"}, {"offset": "-4"}, {"length": str(1 << 50)}, {"offset": "x"}])
def test_external_data_out_of_bounds_is_refused(tmp_path: Path, entries: dict[str, str]) -> None:
    (tmp_path / "w.bin").write_bytes(conv_model().graph.initializer[0].raw_data)
    refusal(written(tmp_path / "net.onnx", external_model("w.bin", **entries)))
