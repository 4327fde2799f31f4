"""A model file as a stream of bytes: contents are read, written and let go tensor by tensor, inside one file too.

A message made whole holds every weight, and once more as bytes. But a message in bytes is the concatenation of its
fields, and a field that is a message or bytes is a tag, a length and what it holds (Protocol Buffers, *Encoding*): what
comes before and after the weights can be made apart from them. The bytes are those of the message made whole, whose
fields stand in the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, TensorProto

from amctc.data import Data
from amctc.errors import LimitError
from amctc.onnx_bridge.storage import inline, storage_of
from amctc.onnx_bridge.tensors import elem_code, stored_bytes, tensor_bytes
from amctc.types import Elem, ScalarType

LARGE = 1 << 16
"""Contents up to this many bytes stay in the message: there may be many, and each piece of the stream costs time."""

_LARGEST_MESSAGE = (1 << 31) - 1
_LENGTH_DELIMITED = 2  # the wire type of messages and bytes
_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


class LateContents:
    """A :data:`~amctc.onnx_bridge.storage.TensorStore` that leaves large contents out of the model, to be streamed."""

    def __init__(self) -> None:
        self.left_out: dict[str, tuple[Data, ScalarType]] = {}

    def __call__(self, name: str, data: Data, elem: Elem) -> TensorProto:
        """The initializer: whole if it is small or of strings, else its name, shape and type."""
        storage = storage_of(elem)
        if storage.name == "string" or stored_bytes(data.size, storage) <= LARGE:
            return inline(name, data, elem)
        self.left_out[name] = data, storage
        return TensorProto(name=name, dims=data.shape, data_type=elem_code(elem))

    def length(self, tensor: TensorProto) -> int:
        """Bytes of contents that were left out of ``tensor``."""
        if tensor.name not in self.left_out:
            return 0
        data, storage = self.left_out[tensor.name]
        return stored_bytes(data.size, storage)

    def read(self, tensor: TensorProto) -> memoryview:
        """The bytes that were left out of ``tensor``."""
        data, storage = self.left_out[tensor.name]
        contents = tensor_bytes(data.read(), storage)
        assert contents.nbytes == self.length(tensor), tensor.name
        return contents.data


class ModelStream:
    """The file of ``model``, made with the store ``contents``: its ``size`` in bytes, and the bytes piece by piece.

    Raises :class:`LimitError` past 2 GiB.
    """

    def __init__(self, model: ModelProto, contents: LateContents) -> None:
        self._contents = contents
        if not contents.left_out:
            self._before, self._tensors, self._after = serialized(model), [], b""
            self.size = len(self._before)
            return
        self._tensors = [(t, _serialized(t)) for t in model.graph.initializer]
        before, after = _around(model.graph, _INITIALIZER)
        inside = len(before) + sum(self._entry_size(t, head) for t, head in self._tensors) + len(after)
        (first, last), start = _around(model, _GRAPH), _start(_GRAPH, inside)
        self._before, self._after = first + start + before, after + last
        self.size = len(first) + len(start) + inside + len(last)
        if self.size > _LARGEST_MESSAGE:
            raise too_large()

    def __iter__(self) -> Iterator[bytes | memoryview]:
        yield self._before
        for tensor, head in self._tensors:
            length = self._contents.length(tensor)
            raw = _start(_RAW_DATA, length) if length else b""
            yield _start(_INITIALIZER, len(head) + len(raw) + length) + head + raw
            if length:
                yield self._contents.read(tensor)
        yield self._after

    def _entry_size(self, tensor: TensorProto, head: bytes) -> int:
        length = self._contents.length(tensor)
        size = len(head) + (len(_start(_RAW_DATA, length)) + length if length else 0)
        return len(_start(_INITIALIZER, size)) + size


def serialized(model: ModelProto) -> bytes:
    """The bytes of a model file, the same for the same model; :class:`LimitError` past 2 GiB."""
    try:
        return _serialized(model)
    except Exception as error:  # EncodeError or ValueError, by implementation; the size is all that can be wrong
        raise too_large() from error


def too_large() -> LimitError:
    """The error of a model whose file would exceed 2 GiB."""
    return LimitError("the model does not fit one ONNX file of 2 GiB", remedy="save it with external data")


def _around(message: ModelProto | GraphProto, number: int) -> tuple[bytes, bytes]:
    """The bytes of ``message`` before and after its field ``number``."""
    before, after = type(message)(), type(message)()
    for field, value in message.ListFields():
        side = before if field.number < number else after
        if field.number == number:
            continue
        if hasattr(value, "append"):
            getattr(side, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(side, field.name).CopyFrom(value)
        else:
            setattr(side, field.name, value)
    return _serialized(before), _serialized(after)


def _serialized(message: ModelProto | GraphProto | TensorProto) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def _start(field: int, length: int) -> bytes:
    """The tag of a field of bytes, and their number: two base-128 varints, low bits first."""
    out = bytearray()
    for number in (field << 3 | _LENGTH_DELIMITED, length):
        while number >= 128:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    return bytes(out)
