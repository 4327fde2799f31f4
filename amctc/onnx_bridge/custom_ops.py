"""Libraries of custom operators for ONNX Runtime: loaded once, for every session of this process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import Path

import onnx
import onnxruntime

from amctc.errors import InputError, UnsupportedError, printable

_UNKNOWN = re.compile(r"(?P<domain>[^\s()]*):(?P<op_type>\w+)\(-?\d+\) is not a registered function/op")
_libraries: list[str] = []


def register_custom_ops(library: str | PathLike[str]) -> None:
    """Let all sessions opened from now on use the operators in a shared library.

    The library is machine code that runs in this process: load only what you would run as a program. Raises
    :class:`InputError` for a file that is missing or that ONNX Runtime cannot load.
    """
    path = str(Path(fspath(library)).absolute())
    if path in _libraries:
        return
    if not os.path.isfile(path):
        raise InputError("no such library of custom operators", where=fspath(library),
                         remedy="name the shared library that ONNX Runtime would load")  # fmt: skip
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(path)
    except Exception as error:  # the runtime's exception types are not stable across versions
        raise InputError(f"ONNX Runtime cannot load this library: {printable(error, 200)}", where=fspath(library),
                         remedy="build it for this machine and this version of ONNX Runtime") from None  # fmt: skip
    _libraries.append(path)


def custom_op_libraries() -> tuple[str, ...]:
    """The libraries registered so far, by absolute path."""
    return tuple(_libraries)


def add_custom_ops(options: onnxruntime.SessionOptions) -> None:
    """Register the libraries with the options of a session to be opened."""
    for path in _libraries:
        options.register_custom_ops_library(path)


def unknown_op(message: str, model: bytes | onnx.ModelProto) -> UnsupportedError | None:
    """The error for a model refused because of an op that ONNX Runtime does not know; ``None`` for other refusals."""
    found = _UNKNOWN.search(message)
    if found is None:
        return None
    domain, op_type = found["domain"], found["op_type"]
    proto = onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model
    nodes = [n.name for n in _nodes(proto.graph.node) if (n.domain or "ai.onnx", n.op_type) == (domain, op_type)]
    more = f" (and {len(nodes) - 1} more)" if len(nodes) > 1 else ""
    return UnsupportedError(
        f"ONNX Runtime does not know the op {domain}:{op_type}, so the model cannot be run in float",
        where=f"node {nodes[0]!r}{more}" if nodes else None,
        remedy="give the library that implements it: --custom-ops LIB.so, or amctc.register_custom_ops; "
        "or replace the node by ops of ONNX",
    )


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    """Nodes and those of their bodies."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g.node)
