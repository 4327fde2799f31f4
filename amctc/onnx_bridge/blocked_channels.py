"""Sessions for readers to whom the order of a value's elements says nothing, such as histograms.

On a CPU, ONNX Runtime's convolutions work on channels in blocks (NCHWc, Georganas et al. 2018), and a value that is an
output is copied into the order of the model first. Where every layer's input is an output that is a quarter of the run.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import NamedTemporaryFile

import onnx
import onnxruntime
from onnx import GraphProto, NodeProto

from amctc.errors import UnsupportedError
from amctc.onnx_bridge.model_stream import serialized
from amctc.onnx_bridge.sessions import open_session
from amctc.onnx_bridge.subgraphs import captured_names

COPIES = 4
"""How often the contents of a model are in memory while it is optimised, written, read and opened again."""

_TO_MODEL_ORDER = ("com.microsoft.nchwc", "ReorderOutput")
_BLOCK = 16  # channels in a block at the most; a value whose last block is not full holds elements that are nobody's


def open_unordered_session(model: bytes | Path, *, provider: str = "cpu") -> onnxruntime.InferenceSession:
    """As :func:`open_session`, but elements of an output may come in any order, as long as they are the same ones.

    The model is optimised, the nodes that only bring an output into its order are taken out, and it is opened as it is.
    """
    try:
        # Beside the model, because what is written names the model's external data by their place beside it.
        beside = model.parent if isinstance(model, Path) else None
        with NamedTemporaryFile(prefix="amctc-optimised-", suffix=".onnx", dir=beside) as file:
            path = Path(file.name)
            session = open_session(model, provider=provider, optimised_to=path)
            optimised = onnx.load(path)
        channels = _left_in_blocks(optimised.graph)
        if not channels:
            return session
        unordered = open_session(serialized(optimised), optimise=False, provider=provider)
    except (UnsupportedError, OSError):  # a folder without room is no reason to fail
        return open_session(model, provider=provider)
    full = {o.name: o.shape[1] for o in unordered.get_outputs() if o.name in channels} == channels
    return unordered if full else session


def _left_in_blocks(graph: GraphProto) -> dict[str, int]:
    """Let outputs that nothing else reads be what their reordering read, in place; gives the channels of each."""
    readers = Counter(name for node in graph.node for name in (*node.input, *captured_names(node)))
    outputs = {output.name: output for output in graph.output}
    found: dict[str, NodeProto] = {}
    for node in graph.node:
        name = node.output[0]
        only_written = (node.domain, node.op_type) == _TO_MODEL_ORDER and name in outputs and not readers[name]
        if only_written and _channels(node) % _BLOCK == 0 and node.input[0] not in {*outputs, *found}:
            found[node.input[0]] = node
    for node in found.values():
        graph.node.remove(node)
        outputs[node.output[0]].type.tensor_type.ClearField("shape")
    renamed = {blocked: node.output[0] for blocked, node in found.items()}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    return {node.output[0]: _channels(node) for node in found.values()}


def _channels(node: NodeProto) -> int:
    return next(int(a.i) for a in node.attribute if a.name == "channels")
