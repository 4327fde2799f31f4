"""Read ONNX files that nobody vouches for.

Every way in which a file can be bad ends in one line that names the file and, where there is one, the node. Nothing
outside the model's folder is read.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from amctc.errors import AmctcError, InputError, printable
from amctc.files import AnyPath, contained_path, read_bytes
from amctc.frontends.deploy import import_deploy, is_deploy
from amctc.ir import Graph
from amctc.onnx_bridge import import_model
from amctc.onnx_bridge.tensors import ExternalFile

SIZE_LIMIT = (1 << 31) - 1
"""Largest file read, in bytes: a protobuf message cannot be larger. Weights beyond live in external data."""

_REMEDY = "give a complete .onnx file"
_MAGIC = {b"PK\x03\x04": "a zip archive", b"\x89HDF": "an HDF5 file", b"\x1f\x8b": "gzip data", b"%PDF": "a PDF file",
          b"\x80\x02": "a Python pickle", b"\x93NUMPY": "a NumPy array", b"TFL3": "a TFLite model"}  # fmt: skip


def read_model(path: AnyPath) -> onnx.ModelProto:
    """The model in the file ``path``, weights in external files not yet resolved.

    Raises :class:`InputError` for a missing or unreadable file, one that is no regular file, is empty, truncated or
    holds something else than a model with a graph and an output; :class:`LimitError` above 2 GiB.
    """
    data = read_bytes(path, limit=SIZE_LIMIT, kind="model")
    where = os.fspath(path)
    if not data:
        raise InputError("the model file is empty", where=where, remedy=_REMEDY)
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception:  # DecodeError, ValueError or RuntimeError: it depends on the protobuf implementation
        raise InputError(_not_onnx(data), where=where, remedy=_REMEDY) from None
    if not model.HasField("graph"):
        raise InputError(_not_onnx(data), where=where, remedy=_REMEDY)
    if not model.graph.output:
        raise InputError("the model has no outputs", where=where, remedy="export the model again")
    return model


def _not_onnx(data: bytes) -> str:
    """What the bytes look like, for someone who named the wrong file."""
    head = data[:512].lstrip()
    for magic, sort in _MAGIC.items():
        if data.startswith(magic) or data[4:8] == magic:
            return f"not an ONNX model: this is {sort}"
    if head[:1] in (b"{", b"["):
        return "not an ONNX model: this looks like JSON"
    if all(byte >= 0x20 or byte in b"\t\n\r\f" for byte in head):
        return "not an ONNX model: this looks like text"
    return "not an ONNX model, or the end of the file is missing"


def load(path: AnyPath) -> Graph:
    """The graph of an ONNX file, in standard or in deploy form; external data is looked up beside the file.

    Raises :class:`InputError` as :func:`read_model`, for a malformed graph and for external data that does not stay in
    the file's folder; :class:`UnsupportedError` for what amctc cannot do. Errors name the file and the node.
    """
    model = read_model(path)
    name = printable(Path(path).name, 60)  # of a long path the message would keep the wrong end
    try:
        return _graph(model, _beside(Path(path)))
    except AmctcError as error:
        error.where = f"{name}: {error.where}" if error.where else name
        raise
    except MemoryError:
        raise
    except Exception as error:  # a damaged file holds what no code expects: attributes missing or of another type
        finding = f"the model is malformed ({type(error).__name__}: {printable(error, 200)})"
        raise InputError(finding, where=name, remedy="export the model again") from error


def _graph(model: onnx.ModelProto, external: ExternalFile) -> Graph:
    return import_deploy(model, external) if is_deploy(model) else import_model(model, external)


def _beside(path: Path) -> ExternalFile:
    """Resolves names of external data inside the folder of ``path`` and nowhere else."""
    return lambda location: contained_path(path.parent, location)
