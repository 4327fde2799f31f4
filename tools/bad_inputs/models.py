"""Models that must be refused: cut, of another format, damaged by structure or at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from onnx import ModelProto, TensorProto, helper

from tools import small_models
from tools.bad_inputs.__main__ import Bad
from tools.damage import STRINGS, damaged_bytes, damaged_model

MODEL, DATA = "m.onnx", "s.npz"
INSPECT = ("inspect", MODEL)
COMPRESS = ("compress", MODEL, "-d", DATA, "-o", "out")
RANDOM_CASES = 120

Damage = Callable[[ModelProto], object]
node, info, F = helper.make_node, helper.make_tensor_value_info, TensorProto.FLOAT


def cases(seed: int) -> Iterator[Bad]:
    """All of them; ``seed`` chooses the random damage."""
    yield from _bytes()
    yield from _structure()
    yield from _random(seed)


def files_of(model: ModelProto | bytes, **more: bytes) -> dict[str, bytes]:
    """A model with samples and the external data that small models read, and more files."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return {MODEL: data, DATA: small_models.samples(), "weights.bin": small_models.EXTERNAL, **more}


def _bytes() -> Iterator[Bad]:
    whole = small_models.convolutions().SerializeToString()
    for cut in range(0, len(whole) - 1, len(whole) // 40):
        yield Bad("cut", f"at {cut}", INSPECT, files_of(whole[:cut]))
    others = {"text": b"hello\n", "json": b"{}", "zip": b"PK\x03\x04" + bytes(40), "hdf5": b"\x89HDF\r\n\x1a\n",
        "zeros": bytes(99),
              "ones": b"\xff" * 99, "pickle": b"\x80\x02]q\x00.", "tflite": b"\x1c\0\0\0TFL3",
              "gzip": b"\x1f\x8b\x08\0",
              "groups": b"\x0b" * 99, "deep": b"\x3a\x7f" * 4000, "long": b"\x3a\xff\xff\xff\xff\x07"}  # fmt: skip
    for name, data in others.items():
        yield Bad("not onnx", name, COMPRESS, files_of(data))
    nested = b""
    for _ in range(1000):  # an If in an If in an If, by hand: no library writes it
        nested = _field(
            7, _field(1, _field(4, b"If") + _field(5, _field(1, b"g") + b"\xa0\x01\x05" + _field(6, nested[2:])))
        )
        if len(nested) > 1 << 22:
            break
    yield Bad("not onnx", "nested 1000 deep", INSPECT, files_of(nested + b"\x08\x08"))


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes in protobuf's encoding."""
    length, size = b"", len(data)
    while True:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
        if not size:
            return bytes([number << 3 | 2]) + length + data


# ------------------------------------------------------------------------------------------------- by structure


def _named(change: Callable[[ModelProto, str], object]) -> Iterator[tuple[str, Damage]]:
    for index, text in enumerate(STRINGS[1:8]):
        yield f"{change.__name__.strip('_')} {index}", lambda m, text=text: change(m, text)


def _unknown_input(model: ModelProto, name: str) -> None:
    model.graph.node[-1].input[0] = f"{name}?"


def _unknown_op(model: ModelProto, name: str) -> None:
    model.graph.node[0].op_type = name


def _unknown_output(model: ModelProto, name: str) -> None:
    model.graph.output[0].name = f"{name}!"


def _bad_opset(version: int) -> Damage:
    def change(model: ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def _weight(change: Callable[[TensorProto], object]) -> Damage:
    def damage(model: ModelProto) -> None:
        change(model.graph.initializer[0])

    return damage


STRUCTURE: dict[str, Damage] = {
    "no graph": lambda m: m.ClearField("graph"),
    "no outputs": lambda m: m.graph.ClearField("output"),
    "no inputs": lambda m: m.graph.ClearField("input"),
    "no opset": lambda m: m.ClearField("opset_import"),
    "no nodes": lambda m: m.graph.ClearField("node"),
    "first node gone": lambda m: m.graph.node.pop(0),
    "last node gone": lambda m: m.graph.node.pop(),
    "first node twice": lambda m: m.graph.node.add().CopyFrom(m.graph.node[0]),
    "input twice": lambda m: m.graph.input.add().CopyFrom(m.graph.input[0]),
    "weight twice": lambda m: m.graph.initializer.add().CopyFrom(m.graph.initializer[0]),
    "weights gone": lambda m: m.graph.ClearField("initializer"),
    "a cycle": lambda m: m.graph.node[0].input.__setitem__(0, m.graph.node[-1].output[0]),
    "input without type": lambda m: m.graph.input[0].ClearField("type"),
    "input of type 99": lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99),
    "opset 0": _bad_opset(0), "opset -1": _bad_opset(-1), "opset 999": _bad_opset(999),
    "opset 2^62": _bad_opset(1 << 62),
    "weight of type 0": _weight(lambda t: setattr(t, "data_type", 0)),
    "weight of type 99": _weight(lambda t: setattr(t, "data_type", 99)),
    "weight of strings": _weight(lambda t: setattr(t, "data_type", TensorProto.STRING)),
    "weight cut": _weight(lambda t: setattr(t, "raw_data", t.raw_data[:-1])),
    "weight too long": _weight(lambda t: setattr(t, "raw_data", t.raw_data + b"12345678")),
    "weight empty": _weight(lambda t: t.ClearField("raw_data")),
    "weight of 2^62": _weight(lambda t: t.dims.append(1 << 62)),
    "weight of 2^40 x 2^40": _weight(lambda t: t.dims.extend([1 << 40, 1 << 40])),
    "weight negative": _weight(lambda t: t.dims.append(-1)),
    "weight without name": _weight(lambda t: t.ClearField("name")),
    **dict(_named(_unknown_input)), **dict(_named(_unknown_output)), **dict(_named(_unknown_op)),
}  # fmt: skip
"""What is done to every small model."""

SOMETIMES_FINE = ("weight twice", "no inputs", "opset 0", "weight without name", "unknown_op", "input without type",
                  "weight empty", "no nodes", "first node gone", "last node gone", "weights gone")  # fmt: skip
"""Damage that some models survive: a model may have a Constant node first, or an op that anything can stand for."""


def _structure() -> Iterator[Bad]:
    for model_name, build in small_models.MODELS.items():
        for name, damage in STRUCTURE.items():
            model = build()
            try:
                damage(model)
                data = model.SerializeToString()
            except IndexError:
                continue
            elsewhere = model_name == "external" and name.startswith("weight")  # contents are in another file
            fine = elsewhere or name.startswith(SOMETIMES_FINE)
            yield Bad("structure", f"{model_name}: {name}", INSPECT, files_of(data), may_pass=fine)


def _random(seed: int) -> Iterator[Bad]:
    """Damage without a plan, run as far as it goes."""
    models = [
        (n, b) for n, b in small_models.MODELS.items() if n in ("convolutions", "shapes", "branches", "quantized")
    ]
    for number in range(RANDOM_CASES):
        rng = random.Random(seed * 1000 + number)
        name, build = models[number % len(models)]
        data = damaged_model(build(), rng, 1 + number % 3).SerializeToString()
        data = damaged_bytes(data, rng) if number % 4 == 3 else data
        yield Bad("damaged", f"{name} {number}", COMPRESS, files_of(data), may_pass=True)
