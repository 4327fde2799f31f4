"""ONNX shape inference that carries the contents of shapes, kept from taking all memory.

ONNX calls this data propagation. Its C++ code makes a message for each element of any one-dimensional operand of an Add
or a Cast, be it of 2^40 elements, and a ``Concat(s, s)`` doubles what it carries. Neither can be told from the file in
general, because sizes are computed from sizes; so a model that may do this is looked at in a child process with bounds.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import warnings
from pathlib import Path

import onnx
from onnx import TensorProto, shape_inference

from amctc.onnx_bridge.subgraphs import inner_nodes, tensors_of

CARRIED_ELEMENTS = 1 << 16
"""Most elements of a shape whose contents are carried through the model's ops. Memory and time grow with them."""

CHILD_BYTES, CHILD_SECONDS = 1 << 30, 8
"""What inference may take in the child beyond what this process has; 100 000 nodes take 2 s."""

_DATA_OPS = {"Add", "Cast", "Concat", "Gather", "Identity", "Mul", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze"}
"""Ops through which ONNX carries the contents of shapes."""


def with_types(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """``skeleton``, a model without large weights, with what ONNX infers about its values.

    Contents of shapes are carried where something is not known without them. Raises what the C++ code raises.
    """
    found = _inferred(skeleton, data_prop=False)
    if _all_known(found) or not is_cheap(skeleton):
        return found
    if _bounded(found):
        return _inferred(skeleton, data_prop=True)
    return _inferred_in_child(skeleton) or found


def _inferred(model: onnx.ModelProto, *, data_prop: bool) -> onnx.ModelProto:
    return shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=data_prop)


def _inner_types(found: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    return {i.name: i.type for i in (*found.graph.value_info, *found.graph.output)}


def _results(model: onnx.ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in node.output if name]


def _all_known(found: onnx.ModelProto) -> bool:
    """Whether no size is missing: each is a number or a symbol of the model's inputs."""
    types = _inner_types(found)
    if any(True for node in found.graph.node for _ in inner_nodes(node)):
        return False
    given = {d.dim_param for i in found.graph.input for d in i.type.tensor_type.shape.dim}

    def known(type_: onnx.TypeProto | None) -> bool:
        if type_ is None or not type_.tensor_type.HasField("shape"):
            return False
        return all(d.HasField("dim_value") or d.dim_param in given for d in type_.tensor_type.shape.dim)

    return all(known(types.get(name)) for name in _results(found))


def _bounded(found: onnx.ModelProto) -> bool:
    """Whether no value can turn out to be one-dimensional and long, by what is known before contents are carried."""
    types = _inner_types(found) | {i.name: i.type for i in found.graph.input}
    for name in (*_results(found), *(i.name for i in found.graph.input)):
        type_ = types.get(name)
        if type_ is None or not type_.tensor_type.HasField("shape"):
            return False
        dims = type_.tensor_type.shape.dim
        if len(dims) == 1 and not (dims[0].HasField("dim_value") and dims[0].dim_value <= CARRIED_ELEMENTS):
            return False
    return not any(True for node in found.graph.node for _ in inner_nodes(node))


def is_cheap(model: onnx.ModelProto) -> bool:
    """Whether the contents of shapes, carried through the model, stay small: a ``Concat(s, s)`` doubles them."""
    infos = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    rank = max((len(i.type.tensor_type.shape.dim) for i in infos), default=0)
    largest = max(rank, 16)
    integers = (TensorProto.INT64, TensorProto.INT32)
    sizes = {t.name: math.prod(t.dims) for t in model.graph.initializer if t.data_type in integers}
    for outer in model.graph.node:
        for node in (*inner_nodes(outer), outer):
            if node.op_type == "Constant":
                size = max(1, sum(math.prod(t.dims) for t in tensors_of(node)), *(len(a.ints) for a in node.attribute))
            elif node.op_type == "Shape":
                size = largest
            elif node.op_type == "Concat":
                size = sum(sizes.get(n, 0) for n in node.input)
            elif node.op_type in _DATA_OPS:
                size = max((sizes.get(n, 0) for n in node.input), default=0)
            else:
                continue
            largest = max(largest, size)
            sizes.update((n, size) for n in node.output)
    return largest <= CARRIED_ELEMENTS


def _inferred_in_child(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with its types, inferred in a fork of this process; ``None`` where that took too much, or crashed.

    The child runs ONNX's C++ code and nothing else, so it needs no lock that another thread may have held.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forks beside threads, see above
        child = os.fork()
    if not child:
        _serve(model, writing)
    os.close(writing)
    try:
        with open(reading, "rb") as answer:
            data = answer.read()
    finally:
        _, status = os.waitpid(child, 0)
    return onnx.ModelProto.FromString(data) if status == 0 and data else None


def _serve(model: onnx.ModelProto, descriptor: int) -> None:
    """Infer, answer and end; in the child, which must not return to the code of its parent."""
    status = 1
    with contextlib.suppress(BaseException):
        _limit()
        data = memoryview(_inferred(model, data_prop=True).SerializeToString())
        while data:
            data = data[os.write(descriptor, data) :]
        status = 0
    os._exit(status)


def _limit() -> None:
    """Bound time and, where the system says how much is in use, memory."""
    resource.setrlimit(resource.RLIMIT_CPU, (CHILD_SECONDS, CHILD_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = used + CHILD_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
