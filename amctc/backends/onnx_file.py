"""Write graphs as ONNX files: the deploy form for a graph lowered to the target, standard ONNX for every other."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import onnx

from amctc.backends.deploy import export_deploy
from amctc.collector import collector_paused
from amctc.errors import UsageError
from amctc.files import AnyPath, OutputFolder, atomic_writer, output_folder
from amctc.ir import Graph
from amctc.onnx_bridge import export_model
from amctc.onnx_bridge.model_file import write_model, written_size
from amctc.onnx_bridge.model_stream import serialized
from amctc.onnx_bridge.storage import EXTERNAL_ABOVE, TensorStore, contents_size, inline, require_other_file
from amctc.ops import ascend


def is_lowered(graph: Graph) -> bool:
    """True when the graph holds ops of the target, so that only the deploy form can express it."""
    return any(isinstance(op.kind, ascend.KINDS) for op in graph.ops)


def exported(graph: Graph, store: TensorStore = inline) -> onnx.ModelProto:
    """The ONNX model of a graph in the form that fits it; :class:`UnsupportedError` for an op without one."""
    return export_deploy(graph, store=store) if is_lowered(graph) else export_model(graph, store=store)


def model_bytes(graph: Graph) -> bytes:
    """The ONNX file of ``graph``, its weights inside; the same graph gives the same bytes.

    Raises :class:`UnsupportedError` for an op without a form in the file, :class:`LimitError` past 2 GiB.
    """
    return serialized(exported(graph))


@collector_paused()
def save(graph: Graph, path: AnyPath, *, external_data_threshold: int = EXTERNAL_ABOVE) -> None:
    """Write ``graph`` to ``path``, wholly or not at all.

    A graph with more than ``external_data_threshold`` bytes of weights is written as two files: ``m.onnx`` and, tensor
    by tensor, ``m.onnx.data``. Errors as :func:`model_bytes` and of :func:`amctc.files.atomic_writer`;
    :class:`UsageError` for a file that the graph's own weights are read from.
    """
    target = Path(path)
    if contents_size(graph) <= external_data_threshold:
        require_other_file(graph, target)
        write_model(graph, lambda _: atomic_writer(path), target.name, exported, external_above=external_data_threshold)
        return
    if not os.path.isdir(target.parent):
        raise UsageError("the folder to write to does not exist", where=str(path), remedy="create it first")
    with output_folder(target.parent) as output:
        save_into(output, target.name, graph, external_data_threshold=external_data_threshold)


def save_into(
    output: OutputFolder, name: str, graph: Graph, *, external_data_threshold: int = EXTERNAL_ABOVE
) -> int:  # fmt: skip
    """Write ``graph`` among the files of ``output``, as :func:`save` does; gives the number of bytes."""

    def opened(part: str) -> AbstractContextManager[BinaryIO]:
        require_other_file(graph, output.path / part)
        return output.writer(part)

    return write_model(graph, opened, name, exported, external_above=external_data_threshold)


def saved_size(graph: Graph, name: str, *, external_data_threshold: int = EXTERNAL_ABOVE) -> int:
    """Bytes that :func:`save_into` would write."""
    return written_size(graph, name, exported, external_above=external_data_threshold)
