"""What is fuzzed: each reader of untrusted bytes as a function of the bytes, with seeds and a way to damage them.

A target may raise :class:`AmctcError` and nothing else. Models are used as well as loaded: printed, exported, loaded
again.
"""

from __future__ import annotations

import functools
import io
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from tools import small_models
from tools.damage import damaged_archive, damaged_bytes, damaged_model, damaged_text

SLOW_BATCHES = 4
"""Batches read of one input."""


@dataclass(frozen=True)
class Target:
    """``run`` gets bytes; ``seeds`` makes valid ones; ``damage`` spoils one, by its structure where it has one."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    damage: Callable[[bytes, random.Random], bytes]


@functools.cache
def folder() -> Path:
    """A folder of this process."""
    made = Path(tempfile.mkdtemp(prefix="amctc-fuzz-"))
    (made / "weights.bin").write_bytes(small_models.EXTERNAL)
    return made


def _file(name: str, data: bytes) -> Path:
    path = folder() / name
    path.write_bytes(data)
    return path


def load_model(data: bytes) -> None:
    """Load, print, write and load again."""
    from amctc.backends.onnx_file import model_bytes
    from amctc.frontends.onnx_file import load
    from amctc.text import print_graph

    graph = load(_file("m.onnx", data))
    print_graph(graph, elide=True)
    load(_file("again.onnx", model_bytes(graph)))


def prepare_model(data: bytes) -> None:
    """Load and run the float passes of the default preset; what ONNX Runtime is asked runs too."""
    from amctc.frontends.onnx_file import load
    from amctc.pipeline import Context
    from amctc.preset import load_preset

    load_preset("balanced").prepare.run(load(_file("m.onnx", data)), Context())


def read_samples(name: str, build: Callable[[], onnx.ModelProto], data: bytes) -> None:
    """Open and read samples for a model."""
    from amctc.calibrate.preprocess import Preprocess
    from amctc.calibrate.samples import open_samples
    from amctc.onnx_bridge import import_model
    from amctc.session import input_specs

    inputs = input_specs(import_model(build()))
    image = name.endswith((".png", ".jpg", ".bmp", ".webp", ".ppm"))
    path = _file(name, data) if not image else _image_folder(name, data)
    preprocess = Preprocess.parse("unit") if image else None
    labels = folder() / "labels-of-arrays.csv" if name.endswith(".csv") else None
    if labels is not None:
        labels.write_bytes(data)
        path = _file("fixed.npz", small_models.samples())
    for index, _ in enumerate(open_samples(path, inputs, preprocess=preprocess, labels=labels, limit=64)):
        if index >= SLOW_BATCHES:
            return


def _image_folder(name: str, data: bytes) -> Path:
    place = folder() / "images"
    place.mkdir(exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    (place / name).write_bytes(data)
    return place


def _preset(data: bytes) -> None:
    from amctc.preset import load_preset

    load_preset(str(_file("p.toml", data)))


def _profile(data: bytes) -> None:
    from amctc.targets import read_profile

    read_profile(_file("t.toml", data))


def _preprocess(suffix: str, data: bytes) -> None:
    from amctc.calibrate.preprocess import Preprocess

    Preprocess.parse(str(_file(f"pre{suffix}", data)))


def _record(data: bytes) -> None:
    from amctc.frontends.record import read_record
    from amctc.records import format_layers

    format_layers(read_record(_file("record.txt", data)).layers)


def _pipeline(data: bytes) -> None:
    from amctc.pipeline import Pipeline

    text = data.decode("utf-8", "replace")
    assert Pipeline.parse(str(Pipeline.parse(text))) == Pipeline.parse(text)


def _graph_text(data: bytes) -> None:
    import amctc.onnx_bridge  # noqa: F401 - carried ops have their types inferred there
    from amctc.cli.options import read_graph
    from amctc.text import print_graph

    print_graph(read_graph(str(_file("g.txt", data))))


def _report(data: bytes) -> None:
    from amctc.cli.evaluate import located

    place = folder() / "out"
    place.mkdir(exist_ok=True)
    (place / "report.json").write_bytes(data)
    (place / "model_deploy.onnx").touch()
    located(str(place))


# ---------------------------------------------------------------------------------------------------- the seeds


def models() -> list[bytes]:
    """The small models, serialized."""
    return [build().SerializeToString(deterministic=True) for build in small_models.MODELS.values()]


def float_models() -> list[bytes]:
    """Those without quantizers, serialized."""
    builders = (build for name, build in small_models.MODELS.items() if name != "quantized")
    return [build().SerializeToString(deterministic=True) for build in builders]


@functools.cache
def _compressed() -> dict[str, bytes]:
    """What ``compress`` writes for a small model."""
    from amctc.api import FILES, compress

    out, samples = folder() / "compressed", _file("s.npz", small_models.samples())
    out.mkdir()
    model = _file("small.onnx", small_models.convolutions().SerializeToString())
    compress(str(model), _opened(samples), path=model, out=out)
    return {key: (out / name).read_bytes() for key, name in FILES.items()}


def _opened(path: Path) -> object:
    from amctc.calibrate.samples import open_samples
    from amctc.onnx_bridge import import_model
    from amctc.session import input_specs

    return open_samples(path, input_specs(import_model(small_models.convolutions())))


def _texts() -> list[bytes]:
    from amctc.onnx_bridge import import_model
    from amctc.text import print_graph

    kept = [b() for n, b in small_models.MODELS.items() if n != "external"]
    return [print_graph(import_model(m)).encode() for m in kept]


def _npy() -> list[bytes]:
    buffers = [io.BytesIO() for _ in range(3)]
    x = np.arange(72, dtype=np.float32).reshape(1, 2, 6, 6)
    for buffer, array in zip(buffers, (x, np.asfortranarray(x), x.astype(np.float64)), strict=True):
        np.save(buffer, array)
    return [b.getvalue() for b in buffers]


def _images(suffix: str) -> list[bytes]:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    buffers = [io.BytesIO() for _ in range(2)]
    for buffer, image in zip(buffers, (Image.fromarray(pixels), Image.fromarray(pixels).convert("L")), strict=True):
        image.save(buffer, {"jpg": "JPEG", "ppm": "PPM"}.get(suffix, suffix.upper()))
    return [b.getvalue() for b in buffers]


def _shipped(package: str) -> list[bytes]:
    return [f.read_bytes() for f in resources.files(package).iterdir() if f.name.endswith(".toml")]


PIPELINES = (b"fold-batch-norm,repeat(drop-identity,dedup),place-qdq{bits=8 symmetric skip=[a, \"b*\"]}",
             b"observe{tensor=[a] bins=512},quantize-weights{bits=4},legalize")  # fmt: skip

YAML = b"layout: nchw\nresize: 8\ncrop: 8\ndivisor: 255\nmean: [0.1, 0.2, 0.3]\nstd: [1.0, 1.0, 1.0]\n"
TOML = b'layout = "nchw"\nresize = 8\ncrop = 8\ndivisor = 255\nmean = [0.1, 0.2, 0.3]\nstd = [1.0, 1.0, 1.0]\n'


def _damaged_model(data: bytes, rng: random.Random) -> bytes:
    """Damage by structure, or of the bytes where they are no model (or one in eight times)."""
    if rng.random() < 0.125:
        return damaged_bytes(data, rng)
    try:
        model = onnx.ModelProto.FromString(data)
        return damaged_model(model, rng, rng.choice((1, 1, 2, 3))).SerializeToString()
    except Exception:  # no model any more, or one with names that can be read and not written
        return damaged_bytes(data, rng)


def _damaged_archive(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return damaged_bytes(data, rng)
    try:
        return damaged_archive(data, rng)
    except Exception:  # no archive any more
        return damaged_bytes(data, rng)


def _samples_target(name: str, build: Callable[[], onnx.ModelProto], seeds: Callable[[], list[bytes]],
                    damage: Callable[[bytes, random.Random], bytes]) -> Target:  # fmt: skip
    return Target(functools.partial(read_samples, name, build), seeds, damage)


TARGETS: dict[str, Target] = {
    "model": Target(load_model, models, _damaged_model),
    "prepare": Target(prepare_model, float_models, _damaged_model),
    "deploy": Target(load_model, lambda: [_compressed()["deploy"], _compressed()["fakequant"]], _damaged_model),
    "npz": _samples_target("s.npz", small_models.convolutions, lambda: [small_models.samples()], _damaged_archive),
    "npy": _samples_target("s.npy", small_models.convolutions, _npy, damaged_text),
    "raw": _samples_target("s.bin", small_models.convolutions, lambda: [bytes(288 * 3)], damaged_bytes),
    "jsonl": _samples_target("s.jsonl", small_models.token_model, lambda: [small_models.tokens()], damaged_text),
    "labels": _samples_target(
        "l.csv", small_models.convolutions, lambda: [b"index,label\n0,1\n1,0\n2,1\n3,0\n", b"label\n1\n0\n1\n2\n"],
        damaged_text,
    ),
    **{f"image-{s}": _samples_target(f"i.{s}", small_models.convolutions_of_images,
                                     functools.partial(_images, s), damaged_bytes)
       for s in ("png", "jpg", "bmp", "webp", "ppm")},
    "preset": Target(_preset, lambda: _shipped("amctc_passes.presets"), damaged_text),
    "profile": Target(_profile, lambda: _shipped("amctc.targets"), damaged_text),
    "preprocess-yaml": Target(functools.partial(_preprocess, ".yaml"), lambda: [YAML], damaged_text),
    "preprocess-toml": Target(functools.partial(_preprocess, ".toml"), lambda: [TOML], damaged_text),
    "record": Target(_record, lambda: [_compressed()["record"]], damaged_text),
    "pipeline": Target(_pipeline, lambda: list(PIPELINES), damaged_text),
    "graph-text": Target(_graph_text, _texts, damaged_text),
    "report": Target(_report, lambda: [_compressed()["report"]], damaged_text),
}  # fmt: skip
"""By name."""
