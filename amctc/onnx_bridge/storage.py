"""Where the contents of an exported model's tensors go: into the model, or into a file of their own beside it.

A protobuf message holds less than 2 GiB, and a model with its weights inside is in memory as a whole while it is
written. External data is written tensor by tensor: a deferred constant is evaluated, written and let go, so memory is
bounded by the largest tensor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from onnx import TensorProto

from amctc.data import Data, DeferredData, FileData
from amctc.errors import UsageError
from amctc.ir import Constant, Graph
from amctc.onnx_bridge.tensors import elem_code, stored_bytes, tensor_bytes, tensor_proto
from amctc.types import Elem, QuantizedType, ScalarType

TensorStore = Callable[[str, Data, Elem], TensorProto]
"""Makes the initializer of a name, contents and element type, and puts the contents where they belong."""

PROTOBUF_LIMIT = (1 << 31) - (1 << 20)
"""A protobuf message holds less than 2 GiB."""

EXTERNAL_ABOVE = PROTOBUF_LIMIT - (64 << 20)
"""Bytes of contents above which a model is written with external data; nodes and names need some room as well."""

SMALL = 1024
"""Contents up to this size stay in the model: shape inference and people want to see them (onnx has the same bound)."""

ALIGNMENT = 4096
"""Tensors start at multiples of a memory page, so that runtimes can map them."""

DATA_SUFFIX = ".data"
"""The external data of ``m.onnx`` is in ``m.onnx.data``."""


def inline(name: str, data: Data, elem: Elem) -> TensorProto:
    """The initializer with its contents inside."""
    return tensor_proto(name, data.read(), elem)


class ExternalData:
    """A :data:`TensorStore` that writes contents to ``file``, which the model calls ``location``.

    Without a file nothing is read or written: :attr:`size` then says how large the file would be.
    """

    def __init__(self, file: BinaryIO | None, location: str) -> None:
        self._file, self._location, self.size = file, location, 0

    def __call__(self, name: str, data: Data, elem: Elem) -> TensorProto:
        """The initializer that says where in the file its contents are; small ones and strings have them inside."""
        storage = storage_of(elem)
        length = stored_bytes(data.size, storage)
        if storage.name == "string" or length <= SMALL:
            return inline(name, data, elem)
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        if self._file is not None:
            self._file.seek(offset)
            self._file.write(tensor_bytes(data.read(), storage).data)
        self.size = offset + length
        tensor = TensorProto(name=name, dims=data.shape, data_type=elem_code(elem),
                             data_location=TensorProto.EXTERNAL)  # fmt: skip
        for key, value in (("location", self._location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def storage_of(elem: Elem) -> ScalarType:
    """The type that is stored: of a quantized one that of its integers."""
    return elem.storage if isinstance(elem, QuantizedType) else elem


def _contents(graph: Graph) -> Iterator[tuple[Data, Elem]]:
    """What a file of the graph must hold: constants, and defaults of inputs."""
    yield from ((i.default, i.type.elem) for i in graph.inputs if i.default is not None)
    yield from ((op.kind.data, op.kind.elem) for op in graph.ops if isinstance(op.kind, Constant))


def contents_size(graph: Graph) -> int:
    """Bytes of all constants as a file stores them; strings count eight bytes each."""
    return sum(stored_bytes(data.size, storage_of(elem)) for data, elem in _contents(graph))


def require_other_file(graph: Graph, target: Path) -> None:
    """Raise :class:`UsageError` if ``target`` is a file that constants of the graph are still read from."""
    if not os.path.exists(target):
        return
    seen: set[int] = set()
    stack = [data for data, _ in _contents(graph)]
    while stack:
        data = stack.pop()
        if id(data) in seen:
            continue
        seen.add(id(data))
        if isinstance(data, DeferredData):
            stack.extend(data.inputs)
        elif isinstance(data, FileData) and os.path.exists(data.path) and data.path.samefile(target):
            raise UsageError("the graph's weights are read from this file while it would be written",
                             where=str(target), remedy="save under another name")  # fmt: skip
