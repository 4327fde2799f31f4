"""Tolerance from the graph itself: how large the terms were that a rounding error is relative to.

An error of a few units in the last place is relative to the size of the summands, not of the sum: where a
convolution cancels to zero its rounding error does not. So the *magnitude* of a value is what its graph computes
when every constant, every input and every sum takes absolute values. A rewrite of effect ``Rounding(units)`` may move
an element by ``units · 2^-23 · magnitude``.

Each op kind carries error its own way; a discontinuous one (quantization) ends the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from amctc.errors import UnsupportedError
from amctc.interp import Kernel, KernelFactory, KernelTable
from amctc.ir import Op
from amctc.kernels.tables import FLOAT
from amctc.ops import nn, quant
from amctc.schema import OpKind
from amctc.types import Array

EPSILON = 2.0**-23
"""Spacing of float32 at 1: one unit, because constants of a rewritten graph are rounded to float32."""


def tolerance(units: float, magnitude: Array) -> Array:
    """Largest difference allowed per element."""
    return np.asarray(units * EPSILON * magnitude)


def _unactivated(op: Op) -> Op:
    """The op without its fused activation: activations never enlarge an error (Lipschitz 1)."""
    if getattr(op.kind, "activation", None) is None:
        return op
    from dataclasses import replace

    kind = replace(op.kind, activation=None)  # type: ignore[call-arg]
    return Op(kind, op.operands, tuple(r.type for r in op.results), (None,) * len(op.results), op.origins)


def _absolute(factory: KernelFactory) -> KernelFactory:
    """Ops made of sums and products of their operands: run them on absolute values."""

    def bind(op: Op, constants: Sequence[Array | None]) -> Kernel:
        kernel = factory(_positive(_unactivated(op)), [None if c is None else np.abs(c) for c in constants])
        return lambda *arrays: kernel(*(None if a is None else np.abs(a) for a in arrays))

    return bind


def _positive(op: Op) -> Op:
    """Gemm's factors count by their size."""
    if not isinstance(op.kind, nn.Gemm) or (op.kind.alpha >= 0 and op.kind.beta >= 0):
        return op
    kind = nn.Gemm(abs(op.kind.alpha), abs(op.kind.beta), op.kind.trans_a, op.kind.trans_b)
    return Op(kind, op.operands, tuple(r.type for r in op.results), (None,), op.origins)


def _pass_through(op: Op, constants: Sequence[Array | None]) -> Kernel:
    slope = max(1.0, abs(getattr(op.kind, "alpha", 1.0)))
    return lambda x: np.abs(x) * slope


def _batch_norm(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.BatchNorm)

    def run(x: Array, gamma: Array, beta: Array, mean: Array, var: Array) -> Array:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        scale = np.abs(gamma / np.sqrt(var + kind.eps)).reshape(shape)
        return np.asarray((np.abs(x) + np.abs(mean).reshape(shape)) * scale + np.abs(beta).reshape(shape))

    return run


def _bounded(op: Op, constants: Sequence[Array | None]) -> Kernel:
    """Sigmoid, tanh, softmax: at most 1, and their slopes are at most 1."""
    return lambda x: np.abs(x) + 1.0


def _quotient(a: Array, b: Array) -> Array:
    return np.asarray(np.abs(a) / np.abs(b))


def _discontinuous(op: Op, constants: Sequence[Array | None]) -> Kernel:
    raise UnsupportedError(f"{op.kind.op_name} is discontinuous: a tolerance cannot cross it")


_ABSOLUTE: tuple[type[OpKind], ...] = (
    nn.Conv, nn.ConvTranspose, nn.Gemm, nn.MatMul, nn.Add, nn.Mul, nn.MaxPool, nn.AveragePool, nn.GlobalAveragePool,
    nn.Concat, nn.Flatten, nn.Reshape, nn.Transpose, nn.Identity, nn.Cast, quant.Observe,
)  # fmt: skip

_add: Callable[[Array, Array], Array] = lambda a, b: np.asarray(np.abs(a) + np.abs(b))  # noqa: E731

MAGNITUDE: KernelTable = {
    **{kind: _absolute(FLOAT[kind]) for kind in _ABSOLUTE},
    nn.Relu: _pass_through, nn.LeakyRelu: _pass_through, nn.Clip: _pass_through,
    nn.Sub: lambda op, constants: _add,
    nn.Div: lambda op, constants: _quotient,
    nn.BatchNorm: _batch_norm,
    nn.Sigmoid: _bounded, nn.Tanh: _bounded, nn.Softmax: _bounded,
    quant.Quantize: _discontinuous, quant.Dequantize: _discontinuous,
}  # fmt: skip
"""How each op kind carries error; evaluated on absolute values in float64."""
