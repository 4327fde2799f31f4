"""For people who hold an ONNX GraphSurgeon graph: it comes in like a model file, without the file."""

from __future__ import annotations

import onnx_graphsurgeon

from amctc.errors import InputError, printable
from amctc.ir import Graph
from amctc.onnx_bridge import import_model


def from_graphsurgeon(graph: onnx_graphsurgeon.Graph) -> Graph:
    """Our graph of a ``gs.Graph``; the argument is not changed. Errors as for a model file."""
    try:
        model = onnx_graphsurgeon.export_onnx(graph.copy(), do_type_check=False)
    except Exception as error:  # GraphSurgeon raises whatever its tensors make it raise
        raise InputError(
            f"GraphSurgeon cannot export the graph: {printable(error)}", remedy="check its tensors"
        ) from error
    return import_model(model)
