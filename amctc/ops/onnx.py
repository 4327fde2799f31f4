"""The ``onnx`` dialect: nodes carried as they came, opaque to patterns, executed by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from amctc.data import Data
from amctc.errors import UnsupportedError
from amctc.schema import OpKind, register
from amctc.types import TensorType

Types = tuple[TensorType | None, ...]
TypeInference = Callable[["Node", Types, Sequence[Data | None]], tuple[TensorType, ...]]

_inference: list[TypeInference] = []


def use_type_inference(function: TypeInference) -> None:
    """Name the function that infers carried ops' types: ONNX shape inference lives a floor above (onnx_bridge)."""
    _inference[:] = [function]


@register("onnx.node", "*xs?")
@dataclass(frozen=True)
class Node(OpKind):
    """A node of the model file: ``proto`` holds its attributes (a serialized NodeProto without names).

    ``result_types`` are what the importer found out; they stand as long as the operands keep ``operand_types``.
    """

    op_type: str
    domain: str
    version: int
    proto: bytes
    operand_types: tuple[TensorType | None, ...]
    result_types: tuple[TensorType, ...]

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """The imported types; on operands of other types, inferred again by ONNX or refused."""
        return self.infer_with([None] * len(operands), *operands)

    def infer_with(self, constants: Sequence[Data | None], *operands: TensorType | None) -> tuple[TensorType, ...]:
        """As :meth:`infer`; shapes and axes among the constants are taken into account."""
        if _trim(operands) == _trim(self.operand_types):
            return self.result_types
        if not _inference:
            raise UnsupportedError(
                f"no type inference for carried op {self.op_type}", remedy="import amctc.onnx_bridge"
            )
        return _inference[0](self, operands, constants)

    def inferred(self, operands: tuple[TensorType | None, ...]) -> tuple[TensorType, ...]:
        """:meth:`infer`; a node may be large, so it is not remembered."""
        return self.infer(*operands)

    def rebound(self, operands: tuple[TensorType | None, ...], results: tuple[TensorType, ...]) -> Node:
        """Remember the types it was built with, so that they need not be inferred again."""
        if _trim(operands) == _trim(self.operand_types):
            return self
        return replace(self, operand_types=operands, result_types=results)


def _trim(types: tuple[TensorType | None, ...]) -> tuple[TensorType | None, ...]:
    while types and types[-1] is None:
        types = types[:-1]
    return types
