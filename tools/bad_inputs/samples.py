"""Samples and labels that must be refused: arrays, archives, raw files, images, token sequences, CSV."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tools import small_models
from tools.bad_inputs.__main__ import Bad
from tools.damage import damaged_archive, zipped

MODEL = "m.onnx"
RANDOM_CASES = 24
X = np.zeros((2, 2, 6, 6), np.float32)


def cases(seed: int) -> Iterator[Bad]:
    """All of them; ``seed`` chooses the random damage."""
    yield from _arrays(seed)
    yield from _images()
    yield from _sequences()
    yield from _labels()


def with_model(**more: bytes) -> dict[str, bytes]:
    """A good model and good samples, and more files."""
    return {MODEL: small_models.convolutions().SerializeToString(), "s.npz": small_models.samples(), **more}


def compress(data: str, *more: str) -> tuple[str, ...]:
    """The command line for these samples."""
    return ("compress", MODEL, "-d", data, "-o", "out", *more)


def _npy(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def _header(text: str, version: int = 1, body: bytes = b"") -> bytes:
    """An ``.npy`` with this text for a header."""
    data = text.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(data)) + data + body


def _described(shape: str, *, fortran: bool = False) -> str:
    """The text of a header for float32."""
    return f"{{'descr': '<f4', 'fortran_order': {fortran}, 'shape': {shape}, }}"


def _arrays(seed: int) -> Iterator[Bad]:
    good = _npy(X)
    headers = {
        "of 2^62": _described(f"({1 << 62}, 2, 6, 6)"),
        "of 2^40 x 2^40": _described(f"({1 << 40}, {1 << 40})"),
        "negative": _described("(-1, 2, 6, 6)"),
        "fortran, huge": _described(f"({1 << 40}, 2, 6, 6)", fortran=True),
        "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
        "code": "__import__('os').system('touch hacked')",
        "nested": "(" * 5000, "a record": "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }",
        "strings": "{'descr': '<U9', 'fortran_order': False, 'shape': (2,), }", "not ASCII": "\x1b[31m\n",
        "type of 2^31 bytes": "{'descr': '|V2147483647', 'fortran_order': False, 'shape': (0,), }",
        "no shape": "{'descr': '<f4', 'fortran_order': False, }", "digits": "{'shape': (%s,)}" % ("9" * 5000),
    }  # fmt: skip
    files = {name: _header(text) for name, text in headers.items()}
    files |= {
        "empty": b"", "cut header": good[:20], "cut data": good[:-1], "version 9": _header("{}",
        1)[:6] + b"\x09\x00" + bytes(99),
        "a header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "NaN": _npy(X * np.nan),
        "infinity": _npy(X + np.inf),
        "pickled": _npy(np.array([{}], object), allow_pickle=True), "other shape": _npy(np.zeros((2, 3), np.float32)),
        "no samples": _npy(X[:0]), "complex": _npy(X.astype(np.complex64)), "strings inside": _npy(np.array(["a",
        "b"])),
        "a scalar": _npy(np.float32(1)), "dates": _npy(np.zeros(2, "datetime64[s]")), "text": b"not an array",
    }  # fmt: skip
    for name, data in files.items():
        yield Bad("npy", name, compress("s.npy"), with_model(**{"s.npy": data}))
        yield Bad("npz", name, compress("t.npz"), with_model(**{"t.npz": zipped([("x.npy", data)])}))
    bomb = _header(_described(f"({1 << 20}, 2, 6, 6)")) + bytes(1 << 26)
    archives = {
        "empty": b"", "no zip": b"PK" + bytes(50), "no members": zipped([]), "not an array": zipped([("x.txt", b"hi")]),
        "twice": zipped([("x.npy", good), ("x.npy", good)]), "too many": zipped([(f"a{i}.npy",
        b"") for i in range(2000)]),
        "escaping": zipped([("../x.npy", good)]), "control": zipped([("\x1b[31m\n.npy", good)]),
        "another array": zipped([("x.npy", good), ("z.npy", good)]), "bzip2": zipped([("x.npy", good)], [12]),
        "lzma": zipped([("x.npy", good)], [14]), "a bomb": zipped([("x.npy", bomb)], [8]), "cut": zipped([("x.npy",
        good)])[:-9],
        "bad checksum": zipped([("x.npy", good)]).replace(good[-64:], good[-65:-1], 1).replace(bytes(64), b"\1" * 64,
        1),
        "labels of floats": zipped([("x.npy", good), ("y.npy", _npy(np.zeros(2)))]),
        "labels of another length": zipped([("x.npy", good), ("y.npy", _npy(np.zeros(3, np.int64)))]),
    }  # fmt: skip
    for name, data in archives.items():
        yield Bad("npz", name, compress("t.npz"), with_model(**{"t.npz": data}), may_pass=name == "bad checksum")
    for number in range(RANDOM_CASES):
        data = damaged_archive(small_models.samples(), random.Random(seed * 100 + number))
        yield Bad("npz", f"damaged {number}", compress("t.npz"), with_model(**{"t.npz": data}), may_pass=True)
    raw = {"empty": (b"", ()), "odd size": (bytes(289), ()), "a wrong shape": (bytes(288), ("--input-shape",
        "x:1,2,6,7")),
           "a huge shape": (bytes(288), ("--input-shape", f"x:-1,2,6,{1 << 62}")), "no shape": (bytes(288),
           ("--input-shape", "x")),
           "digits": (bytes(288), ("--input-shape", "x:" + "9" * 5000)), "a type": (bytes(288), ("--data-types",
           "object")),
           "NaN": (b"\xff" * 288, ())}  # fmt: skip
    for name, (data, options) in raw.items():
        yield Bad("raw", name, compress("s.bin", *options), with_model(**{"s.bin": data}))


def _png(width: int, height: int, data: bytes = b"", extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def _images() -> Iterator[Bad]:
    text = zlib.compress(bytes(1 << 27))
    body = b"a\0\0" + text
    inflated = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    canvas = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\xfe\x3f\0" * 2
    files = {
        "empty.png": b"", "text.jpg": b"hello", "cut.png": _png(8, 8)[:40], "no data.png": _png(8, 8),
        "bomb.png": _png(60000, 60000),
        "huge.png": _png((1 << 31) - 1, (1 << 31) - 1), "inflated.png": _png(8, 8, extra=inflated), "zero.png": _png(0,
        0),
        "canvas.webp": canvas, "huge.ppm": b"P6 99999 99999 255\n", "digits.ppm": b"P6 " + b"9" * 5000,
        "huge.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 99999, 99999, 1, 24, 0, 0, 0, 0, 0, 0),
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n", "tiff.png": b"II*\0" + bytes(40), "gif.png": b"GIF89a" + bytes(40),
        "jpeg.jpg": b"\xff\xd8\xff\xe0" + bytes(30), "endless.jpg": b"\xff\xd8" + b"\xff\xfe\xff\xff" * 20000,
    }  # fmt: skip
    model = small_models.convolutions_of_images().SerializeToString()
    for name, data in files.items():
        yield Bad("image", name, compress("images", "-p", "unit"), {MODEL: model, f"images/{name}": data})
    good = _png(8, 8, bytes(8 * 25))
    yield Bad("image", "no preprocessing", compress("images"), {MODEL: model, "images/a.png": good})
    yield Bad("image", "a link out", compress("images", "-p", "unit"), {MODEL: model}, _dangling_images)
    yield Bad("image", "no images", compress("images", "-p", "unit"), {MODEL: model, "images/readme": b""})


def _dangling_images(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "images" / "a.png").symlink_to("/dev/zero")
    (folder / "images" / "b.png").symlink_to("nowhere")


def _sequences() -> Iterator[Bad]:
    texts = {
        "empty": b"", "blank": b"\n\n\n", "no JSON": b"ids: 1", "a number": b"1", "a string": b'"x"', "null": b"null",
        "nested": b"[" * 100000,
        "nested closed": b"[" * 900 + b"]" * 900, "ragged": b'{"ids": [[1, 2], [3]]}', "of text": b'{"ids": ["a"]}',
        "huge": b'{"ids": [1e999]}',
        "2^70": b'{"ids": [%d]}' % (1 << 70), "digits": b'{"ids": [%s]}' % (b"9" * 5000),
        "another input": b'{"idz": [1]}', "no numbers": b'{"ids": []}',
        "other ranks": b'{"ids": [1]}\n{"ids": [[1]]}', "floats": b'{"ids": [1.5]}', "not UTF-8": b'{"ids\xff": [1]}',
        "control": b'{"\x1b[31m": [1]}',
        "padding": b'{"ids": [' + b"1," * (1 << 20) + b"1]}\n" + b'{"ids": [1]}\n' * 20000,
        "newlines": b"\n" * (1 << 25),
        "lists": b'{"ids": [' + b"[]," * (1 << 22) + b"[]]}", "out of range": b'{"ids": [99]}',
    }  # fmt: skip
    model = small_models.token_model().SerializeToString()
    for name, data in texts.items():
        yield Bad("jsonl", name, compress("s.jsonl"), {MODEL: model, "s.jsonl": data})


def _labels() -> Iterator[Bad]:
    texts = {
        "empty": b"", "no header": b"0,1\n", "negative": b"label\n-1\n1\n1\n1\n", "text": b"label\na\nb\nc\nd\n",
        "too few": b"label\n1\n",
        "too many": b"label\n" + b"1\n" * 9, "twice": b"index,label\n0,1\n0,1\n1,1\n2,1\n",
        "out of range": b"index,label\n9,1\n", "NUL": b"label\n\x001\n",
        "not UTF-8": b"label\n\xff\n", "a quote": b'label\n"1\n', "digits": b"label\n" + b"9" * 5000,
        "columns": b"index,label\n0\n",
        "a field of 1 MiB": b"label\n" + b"a" * (1 << 20), "control": b"\x1b[31m,x\n1,1\n",
    }  # fmt: skip
    for name, data in texts.items():
        yield Bad("labels", name, ("eval", MODEL, "-d", "s.npz", "--labels", "l.csv"), with_model(**{"l.csv": data}))
