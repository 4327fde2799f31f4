"""Write graphs as ONNX files: the deploy form for a graph lowered to the target, standard ONNX for every other."""

from __future__ import annotations

import onnx

from amctc.backends.deploy import export_deploy
from amctc.errors import LimitError
from amctc.files import AnyPath, atomic_write_bytes
from amctc.ir import Graph
from amctc.onnx_bridge import export_model
from amctc.ops import ascend


def is_lowered(graph: Graph) -> bool:
    """True when the graph holds ops of the target, so that only the deploy form can express it."""
    return any(isinstance(op.kind, ascend.KINDS) for op in graph.ops)


def exported(graph: Graph) -> onnx.ModelProto:
    """The ONNX model of a graph in the form that fits it; :class:`UnsupportedError` for an op without one."""
    return export_deploy(graph) if is_lowered(graph) else export_model(graph)


def model_bytes(graph: Graph) -> bytes:
    """The ONNX file of ``graph``; the same graph gives the same bytes.

    Raises :class:`UnsupportedError` for an op without a form in the file, :class:`LimitError` past 2 GiB.
    """
    model = exported(graph)
    try:
        return bytes(model.SerializeToString(deterministic=True))
    except Exception as error:  # EncodeError or ValueError, by implementation; the size is all that can be wrong
        remedy = "external data is not written yet"
        raise LimitError("the model does not fit one ONNX file of 2 GiB", remedy=remedy) from error


def save(graph: Graph, path: AnyPath) -> None:
    """Write ``graph`` to ``path``, wholly or not at all; errors as :func:`model_bytes` and of
    :func:`amctc.files.atomic_writer`."""
    atomic_write_bytes(path, model_bytes(graph))
