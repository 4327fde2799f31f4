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
from amctc.onnx_bridge.model_stream import LateContents, ModelStream, serialized
from amctc.onnx_bridge.storage import DATA_SUFFIX, ExternalData, TensorStore, contents_size

Exporter = Callable[[Graph, TensorStore], onnx.ModelProto]
"""Makes the model of a graph; the contents of its tensors go where the second argument puts them."""

Opener = Callable[[str], AbstractContextManager[BinaryIO]]
"""Opens a file of that name for writing."""


def write_model(graph: Graph, opened: Opener, name: str, export: Exporter, *, external_above: int) -> int:
    """Write ``graph`` to the file ``name``, past ``external_above`` bytes of contents with external data beside it.

    Gives the number of bytes written. The model comes last: while it is missing, nobody reads its data. Either way
    large tensors pass through memory one by one. Raises :class:`LimitError` for one file past 2 GiB.
    """
    if contents_size(graph) <= external_above:
        stream = _stream(graph, export)
        with opened(name) as file:
            file.writelines(stream)  # in a loop the variable would hold a tensor while the next one is read
        return stream.size
    location = name + DATA_SUFFIX
    with opened(location) as file:
        store = ExternalData(file, location)
        model = export(graph, store)
    return _write(opened, name, serialized(model)) + store.size


def written_size(graph: Graph, name: str, export: Exporter, *, external_above: int) -> int:
    """Bytes that :func:`write_model` would write. Large contents are not read for it."""
    if contents_size(graph) <= external_above:
        return _stream(graph, export).size
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


def _stream(graph: Graph, export: Exporter) -> ModelStream:
    contents = LateContents()
    return ModelStream(export(graph, contents), contents)


def _write(opened: Opener, name: str, data: bytes) -> int:
    with opened(name) as file:
        return file.write(data)
