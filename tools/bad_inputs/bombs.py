"""Models that ask for much, and models whose external data leads elsewhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tools import small_models
from tools.bad_inputs.__main__ import Bad
from tools.bad_inputs.models import COMPRESS, INSPECT, files_of

node, info, F = helper.make_node, helper.make_tensor_value_info, TensorProto.FLOAT


def cases() -> Iterator[Bad]:
    """All of them."""
    yield from _bombs()
    yield from external_places()
    yield from _external()


# -------------------------------------------------------------------------------------------------------- bombs


def net(nodes: Sequence[NodeProto], weights: dict[str, np.ndarray], shape: Sequence[int | str] = ("N", 2, 6, 6),
         functions: Sequence[onnx.FunctionProto] = (), output: str = "y") -> ModelProto:  # fmt: skip
    """A model from ``x`` to ``output``; no types are given for what is computed."""
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(
        list(nodes), "bomb", [info("x", F, list(shape))], [onnx.ValueInfoProto(name=output)], tensors
    )
    domains = [helper.make_opsetid("", 17), *([helper.make_opsetid("own", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=domains, ir_version=8, functions=list(functions))


def _functions(count: int, calls: int, recursive: bool = False) -> ModelProto:
    ids = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made = []
    for level in range(count):
        inner = f"F{level + 1}" if level + 1 < count else ("F0" if recursive else "Relu")
        domain = "own" if inner != "Relu" else ""
        names = ["a", *(f"t{i}" for i in range(calls - 1)), "b"]
        body = [node(inner, [names[i]], [names[i + 1]], domain=domain) for i in range(calls)]
        made.append(helper.make_function("own", f"F{level}", ["a"], ["b"], body, ids))
    return net([node("F0", ["x"], ["y"], domain="own")], {}, functions=made)


def _doubling(op: str, times: int) -> ModelProto:
    nodes = [
        node(op, [f"t{i}", f"t{i}"], [f"t{i + 1}"], **({"axis": 0} if op == "Concat" else {})) for i in range(times)
    ]
    nodes = [node("Shape", ["x"], ["t0"]), *nodes, node("ConstantOfShape", [f"t{times}"], ["y"])]
    return net(nodes, {})


def _huge(name: str, nodes: Sequence[NodeProto], weights: dict[str, np.ndarray]) -> tuple[str, ModelProto]:
    """A huge tensor ``big`` from few bytes, of which the model adds one element to its input."""
    after = [
        node("ReduceMax", ["big"], ["top"], keepdims=0),
        node("Cast", ["top"], ["c"], to=F),
        node("Add", ["x", "c"], ["y"]),
    ]
    return name, net([*nodes, *after], weights)


def _bombs() -> Iterator[Bad]:
    i64 = np.int64
    models = dict([
        ("12 functions, 10 calls each", _functions(12, 10)), ("60 functions, 2 calls each", _functions(60, 2)),
        ("recursive functions", _functions(3, 1, recursive=True)),
        ("40 times Concat(t, t)", _doubling("Concat", 40)), ("40 times Add(t, t)", _doubling("Add", 40)),
        ("40 times Mul(t, t)", _doubling("Mul", 40)),
        _huge("ConstantOfShape", [node("ConstantOfShape", ["s"], ["big"])], {"s": np.array([1 << 17, 1 << 17], i64)}),
        _huge("Expand", [node("Expand", ["one", "s"], ["big"])], {"one": np.ones(1, np.float32),
            "s": np.array([1 << 34], i64)}),
        _huge("Tile", [node("Tile", ["one", "s"], ["big"])], {"one": np.ones(1, np.float32), "s": np.array([1 << 34],
            i64)}),
        _huge("Range", [node("Range", ["a", "b", "c0"], ["big"])], {"a": np.array(0, i64), "b": np.array(1 << 36, i64),
            "c0": np.array(1, i64)}),
        _huge("Pad", [node("Pad", ["one", "s"], ["big"])], {"one": np.ones(1, np.float32), "s": np.array([1 << 34, 0],
            i64)}),
        _huge("OneHot", [node("OneHot", ["i", "d", "v"], ["big"])],
              {"i": np.zeros(1024, i64), "d": np.array(1 << 24, i64), "v": np.array([0, 1], np.float32)}),
        _huge("EyeLike", [node("ConstantOfShape", ["s"], ["e"]), node("EyeLike", ["e"], ["big"])],
            {"s": np.array([1 << 17, 1 << 17], i64)}),
        _huge("Resize", [node("Resize", ["one", "", "f"], ["big"])], {"one": np.ones((1, 1, 1, 1), np.float32),
            "f": np.array([1, 1, 1 << 17, 1 << 17], np.float32)}),
        ("Add to 2^40 elements", net([node("Add", ["x", "w"], ["y"])], {"w": np.ones(1, np.float32)}, [1 << 40])),
        ("Cast of 2^62 elements", net([node("Cast", ["x"], ["y"], to=7)], {}, [1 << 62])),
        ("a computed length", net([node("Shape", ["x"], ["s"]), node("Mul", ["s", "k"], ["l"]), node("Expand", ["one",
            "l"], ["e"]),
                                    node("Add", ["e", "one"], ["y"])], {"k": np.array([1 << 40], i64), "one": np.ones(1,
                                        np.float32)}, [4])),
        ("outer product", net([node("Reshape", ["x", "c0"], ["c"]), node("Reshape", ["x", "r0"], ["r"]), node("MatMul",
            ["c", "r"], ["y"])],
                               {"c0": np.array([-1, 1], i64), "r0": np.array([1, -1], i64)}, ["N", 1 << 18])),
        ("Conv with pads of 2^40", net([node("Conv", ["x", "w"], ["y"], pads=[1 << 40] * 4)], {"w": np.ones((1, 2, 1,
            1), np.float32)})),
        ("AveragePool of 2^31", net([node("AveragePool", ["x"], ["y"], kernel_shape=[1 << 31] * 2,
            pads=[1 << 31] * 4)], {})),
        ("an endless Loop", _loop()), ("Einsum without end", net([node("Einsum", ["x"], ["y"],
            equation="...." * 5000)], {})),
        ("perm of 2^20 axes", net([node("Transpose", ["x"], ["y"], perm=list(range(1 << 20)))], {})),
        ("rank 10000", net([node("Relu", ["x"], ["y"])], {}, [1] * 10000)),
    ])  # fmt: skip
    for name, model in models.items():
        for command in (INSPECT, COMPRESS):
            # To look at a model that would explode harms nobody, and squares of even numbers wrap around to 0.
            passes = command is INSPECT or name.startswith("40 times Mul")
            yield Bad("bomb", f"{name}, {command[0]}", command, files_of(model), may_pass=passes)
    sparse = small_models.sequences()
    sparse.graph.sparse_initializer[0].dims[:] = [1 << 40]
    yield Bad("bomb", "a sparse tensor of 2^40", INSPECT, files_of(sparse))
    yield Bad("bomb", "100 000 nodes in a cycle", INSPECT, files_of(net(
        [node("Relu", [f"v{i}"], [f"v{(i + 1) % 100_000}"]) for i in range(100_000)], {}, output="v0")))  # fmt: skip


def _loop() -> ModelProto:
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["s", "s"], ["t"])], "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("s", F, None)],
        [info("on", TensorProto.BOOL, []), info("t", F, None)],
    )  # fmt: skip
    return net([node("Loop", ["", "true", "x"], ["y"], body=body)], {"true": np.array(True)})


# ------------------------------------------------------------------------------------------------ external data


def external_places() -> Iterator[Bad]:
    """External data in places, and at offsets, where it must not be."""
    places = {
        "missing": "none.bin", "parent": "../weights.bin", "hidden parent": "a/../../weights.bin",
        "absolute": "/etc/passwd",
        "zero": "/dev/zero", "a folder": ".", "empty": "", "a folder inside": "sub", "a NUL": "w\0.bin",
        "long": "n" * 5000,
        "address of memory": "*/_ORT_MEM_ADDR_/*", "a link": "link.bin", "a link to a folder": "up/weights.bin",
        "a hard link": "hard.bin", "a FIFO": "fifo", "a socket": "socket", "a dangling link": "dangling",
        "control": "\x1b[31m.bin",
    }  # fmt: skip
    for name, place in places.items():
        yield Bad("external", name, INSPECT, files_of(small_models.external(place)), _special_files)
    entries = {
        "offset past the end": ("offset", "1"), "offset 2^63": ("offset", str(1 << 63)), "offset negative": ("offset",
        "-1"),
        "offset no number": ("offset", "x"), "offset of 5000 digits": ("offset", "9" * 5000), "length 2^64": ("length",
        str(1 << 64)),
        "length negative": ("length", "-96"), "length 0": ("length", "0"), "length short": ("length", "95"),
        "wrapping": ("offset", str((1 << 64) - 8)),
    }  # fmt: skip
    for name, (key, value) in entries.items():
        model = small_models.external()
        for entry in model.graph.initializer[0].external_data:
            entry.value = value if entry.key == key else entry.value
        yield Bad("external", name, INSPECT, files_of(model))
    yield Bad("external", "keys of Python", INSPECT, files_of(_keyed("__class__")), may_pass=True)


def _external() -> Iterator[Bad]:
    for name, command in (("3000 tensors on one file, compress", COMPRESS), ("3000 tensors on one file", INSPECT)):
        yield Bad("external", name, command, files_of(overlapping(3000), **{"big.bin": bytes(1 << 20)}),
                  may_pass=command is INSPECT)  # fmt: skip


def _keyed(key: str) -> ModelProto:
    model = small_models.external()
    model.graph.initializer[0].external_data.add(key=key, value="x")
    return model


def overlapping(count: int) -> ModelProto:
    """A chain of additions of tensors that all are the same 1 MiB of a file."""
    nodes = [node("Add", [f"v{i}" if i else "x", f"w{i}"], [f"v{i + 1}"]) for i in range(count)]
    model = net(nodes, {}, ["N", 2, 6, 6], output=f"v{count}")
    for index in range(count):
        tensor = model.graph.initializer.add(name=f"w{index}", data_type=F, dims=[1 << 18, 1, 1, 1],
                                             data_location=TensorProto.EXTERNAL)  # fmt: skip
        for key, value in (("location", "big.bin"), ("offset", "0"), ("length", str(1 << 20))):
            tensor.external_data.add(key=key, value=value)
    return model


def _special_files(folder: Path) -> None:
    """What external data may lead to: links, a FIFO, a socket, a folder; one level up a file that is not to be read."""
    (folder.parent / "weights.bin").write_bytes(small_models.EXTERNAL)
    (folder / "sub").mkdir()
    (folder / "link.bin").symlink_to("weights.bin")
    (folder / "up").symlink_to("..")
    (folder / "dangling").symlink_to("nowhere")
    os.link(folder / "weights.bin", folder / "hard.bin")
    os.mkfifo(folder / "fifo")
    make_socket(folder / "socket")


def make_socket(path: Path) -> None:
    """A socket that nobody listens to any more."""
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)
