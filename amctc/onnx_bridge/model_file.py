"""Models as files: one, or one with a second beside it that holds the contents of the large tensors."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import onnx

from amctc.errors import LimitError
from amctc.ir import Graph
from amctc.onnx_bridge.storage import DATA_SUFFIX, ExternalData, TensorStore, contents_size, inline

Exporter = Callable[[Graph, TensorStore], onnx.ModelProto]
"""Makes the model of a graph; the contents of its tensors go where the second argument puts them."""

Opener = Callable[[str], AbstractContextManager[BinaryIO]]
"""Opens a file of that name for writing."""


def serialized(model: onnx.ModelProto) -> bytes:
    """The bytes of a model file, the same for the same model; :class:`LimitError` past 2 GiB."""
    try:
        return bytes(model.SerializeToString(deterministic=True))
    except Exception as error:  # EncodeError or ValueError, by implementation; the size is all that can be wrong
        raise LimitError("the model does not fit one ONNX file of 2 GiB",
                         remedy="save it with external data") from error  # fmt: skip


def write_model(graph: Graph, opened: Opener, name: str, export: Exporter, *, external_above: int) -> int:
    """Write ``graph`` to the file ``name``, past ``external_above`` bytes of contents with external data beside it.

    Gives the number of bytes written. The model comes last: while it is missing, nobody reads its data.
    """
    if contents_size(graph) <= external_above:
        return _write(opened, name, serialized(export(graph, inline)))
    location = name + DATA_SUFFIX
    with opened(location) as file:
        store = ExternalData(file, location)
        model = export(graph, store)
    return _write(opened, name, serialized(model)) + store.size


def written_size(graph: Graph, name: str, export: Exporter, *, external_above: int) -> int:
    """Bytes that :func:`write_model` would write. Large contents are not read for it."""
    if contents_size(graph) <= external_above:
        return len(serialized(export(graph, inline)))
    store = ExternalData(None, name + DATA_SUFFIX)
    return len(serialized(export(graph, store))) + store.size


@contextmanager
def temporary_model(graph: Graph, export: Exporter) -> Iterator[Path]:
    """A file that holds ``graph``, its contents beside it, while the block lasts; :class:`LimitError` without room."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(TemporaryDirectory(prefix="amctc-model-"))
            path = Path(folder) / "model.onnx"
            write_model(graph, lambda name: path.with_name(name).open("xb"), path.name, export, external_above=0)
        except OSError as error:
            raise LimitError(f"the model for ONNX Runtime cannot be written: {error.strerror}",
                             where=tempfile.tempdir or "the temporary folder",
                             remedy="free space there, or set TMPDIR to another folder") from None  # fmt: skip
        yield path


def _write(opened: Opener, name: str, data: bytes) -> int:
    with opened(name) as file:
        return file.write(data)
