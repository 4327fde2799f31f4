"""Integer ops as one ONNX model for ONNX Runtime's fast kernels: how values are held, and the session that runs it.

Those kernels want uint8 activations and channels last. So inside a segment an int8 value is held as uint8, 128 more; a
float16 value as float32 that holds float16 numbers; and whatever has four axes with its channels last. The arrays that
go in and come out are those of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from amctc.ir import Value
from amctc.onnx_bridge.sessions import open_session
from amctc.types import F16, I8, I32, TensorType

Array = np.ndarray[Any, Any]

RUNTIME_DOMAIN, BLOCKED_DOMAIN = "com.microsoft", "com.microsoft.nchwc"
OPSET, RUNTIME_OPSET = 17, 1
UNSIGNED = 128
"""What is added to an int8 to hold it as uint8."""

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def channels_are_last(type_: TensorType) -> bool:
    """Whether a segment holds values of this type with their channels last."""
    return type_.rank == 4


class SegmentWriter:
    """Collects the nodes and constants of one segment; every method that adds a node returns its result's name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._names: dict[Value, str] = {}

    def name(self, value: Value) -> str:
        """The tensor that holds ``value``."""
        if value not in self._names:
            self._names[value] = f"value{len(self._names)}"
        return self._names[value]

    def constant(self, value: Array | np.generic) -> str:
        """A new constant."""
        name = f"constant{len(self._constants)}"
        array = np.asarray(value)
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def node(self, op_type: str, *inputs: str, domain: str = "", result: str = "", **attributes: Any) -> str:
        """A node with one result, called ``result`` or afresh."""
        result = result or f"step{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, inputs, [result], domain=domain, **attributes))
        return result

    def rounded_to_half(self, x: str, result: str = "") -> str:
        """float32 rounded to float16, half to even, and held as float32 again."""
        return self.node("Cast", self.node("Cast", x, to=TensorProto.FLOAT16), to=TensorProto.FLOAT, result=result)

    def model(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> bytes:
        """The serialized model from ``inputs`` to ``outputs``."""
        graph = helper.make_graph(
            self._nodes, "segment", [self._info(v) for v in inputs], [self._info(v) for v in outputs], self._constants
        )
        domains = {node.domain for node in self._nodes if node.domain}
        opsets = [helper.make_opsetid(domain, RUNTIME_OPSET) for domain in sorted(domains)]
        opsets.append(helper.make_opsetid("", OPSET))
        made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
        return made

    def _info(self, value: Value) -> onnx.ValueInfoProto:
        dims = value.type.dims
        if channels_are_last(value.type):
            dims = tuple(dims[axis] for axis in TO_LAST)
        elem = value.type.elem
        held = TensorProto.UINT8 if elem == I8 else TensorProto.INT32 if elem == I32 else TensorProto.FLOAT
        return helper.make_tensor_value_info(self.name(value), held, [d if isinstance(d, int) else None for d in dims])


class Segment:
    """A kernel that computes the ``outputs`` of a written segment from its ``inputs`` in ONNX Runtime, on one thread.

    Called with one array per input; gives one per output.
    """

    def __init__(self, writer: SegmentWriter, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._names = [writer.name(v) for v in self._inputs]
        self._fetched = [writer.name(v) for v in self._outputs]
        self._session = open_session(writer.model(inputs, outputs), optimise=False, threads=1)

    def __str__(self) -> str:
        return "ONNX Runtime"

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """The arrays of the outputs."""
        feeds = {n: held(a, v.type) for n, v, a in zip(self._names, self._inputs, arrays, strict=True)}
        results = self._session.run(self._fetched, feeds)
        return tuple(released(a, v.type) for a, v in zip(results, self._outputs, strict=True))


def held(array: Array, type_: TensorType) -> Array:
    """An array of the graph as a segment holds it."""
    if channels_are_last(type_):
        array = array.transpose(TO_LAST)
    if type_.elem == I8:
        return np.ascontiguousarray(array).view(np.uint8) ^ np.uint8(UNSIGNED)
    return np.ascontiguousarray(array, dtype=np.float32)


def released(array: Array, type_: TensorType) -> Array:
    """An array that a segment computed, as the graph has it; the inverse of :func:`held`."""
    if type_.elem == I8:
        array ^= np.uint8(UNSIGNED)
        array = array.view(np.int8)
    elif type_.elem == F16:
        array = array.astype(np.float16)
    return array.transpose(TO_FIRST) if channels_are_last(type_) else array
