"""Which layers stand at the ends of a network."""

from __future__ import annotations

import numpy as np

from amctc.calibrate.ends import first_layers, last_layers
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const, layer_name
from amctc.ops import nn
from amctc.types import F32, TensorType


def test_the_ends_of_a_network() -> None:
    """Two inputs that join, a trunk, two heads, and a layer on its own, which is both."""

    def layer(x: Value, name: str) -> Value:
        return apply(nn.MatMul(), x, const(np.ones((4, 4), np.float32)), origins=(Origin(name, "MatMul"),))

    a, b, c = (GraphInput(n, TensorType((2, 4), F32)) for n in "abc")
    trunk = layer(apply(nn.Relu(), apply(nn.Add(), layer(a, "first a"), layer(b, "first b"))), "trunk")
    outputs = (layer(trunk, "head 1"), layer(apply(nn.Relu(), trunk), "head 2"), layer(c, "alone"))
    graph = Graph((a, b, c), outputs, ("x", "y", "z"))
    first, last = (sorted(map(layer_name, f(graph))) for f in (first_layers, last_layers))
    assert first == ["alone", "first a", "first b"]
    assert last == ["alone", "head 1", "head 2"]
    bare = Graph((a,), (apply(nn.Relu(), a),), ("x",))
    assert first_layers(bare) == last_layers(bare) == []
