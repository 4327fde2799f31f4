"""Small models of the forms that real files have and textbooks do not, each with samples; built with onnx.helper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

F, INT64, INT32, BOOL, STRING = (
    TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING
)  # fmt: skip
SAMPLES = 8
node = helper.make_node
declared = helper.make_tensor_value_info


@dataclass(frozen=True)
class Odd:
    """A model, its samples as batches, how many layers run in int8 and what the report says of the rest.

    The outputs ``picked`` hang on which box has the larger score by a hair, so their numbers cannot be compared.
    """

    model: onnx.ModelProto
    samples: Sequence[dict[str, np.ndarray]]
    int8: int
    notes: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    picked: tuple[str, ...] = ()


MODELS: dict[str, Callable[[], Odd]] = {}


def odd(build: Callable[[], Odd]) -> Callable[[], Odd]:
    """Enter a model under the name of its function."""
    MODELS[build.__name__] = build
    return build


class Draw:
    """Weights and samples of one model, the same in every run."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def weight(self, name: str, *shape: int) -> TensorProto:
        """Scaled for outputs about as large as the inputs."""
        fan_in = max(1, int(np.prod(shape[1:])))
        return tensor(name, (self.rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32))

    def batches(self, **shapes: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
        """Normal numbers, one sample a batch."""
        return [
            {n: self.rng.standard_normal((1, *s)).astype(np.float32) for n, s in shapes.items()} for _ in range(SAMPLES)
        ]


def tensor(name: str, values: Any, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def model(
    nodes: Sequence[NodeProto], inputs: dict[str, Any], outputs: dict[str, Any], initializers: Sequence[TensorProto],
    *, opset: int = 17, ir: int = 8, domains: dict[str, int] | None = None, functions: Sequence[FunctionProto] = (),
) -> onnx.ModelProto:  # fmt: skip
    """Inputs and outputs are name → shape for float32, or (element type, shape)."""
    values = [
        [declared(n, *(t if isinstance(t, tuple) else (F, t))) for n, t in side.items()] for side in (inputs, outputs)
    ]
    graph = helper.make_graph(list(nodes), "odd", values[0], values[1], list(initializers))
    imports = [helper.make_opsetid(d, v) for d, v in {"": opset, **(domains or {})}.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=list(functions))
