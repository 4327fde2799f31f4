"""Tolerance from the graph itself: how large the terms were that a rounding error is relative to.

An error of a few units in the last place is relative to the size of the summands, not of the sum: where a
convolution cancels to zero its rounding error does not. So the *magnitude* of a value is what its graph computes
when every constant, every input and every sum takes absolute values. A rewrite of effect ``Rounding(units)`` may move
an element by ``units · 2^-23 · magnitude``.

Each op kind carries error its own way; a discontinuous one (quantization) ends the comparison. Where an op has a pole,
the magnitudes of its operands are not enough: :class:`MagnitudePlan` gives it their values too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amctc.errors import UnsupportedError
from amctc.interp import Kernel, KernelFactory, KernelTable, Plan
from amctc.ir import Graph, Op, Value
from amctc.kernels.tables import FLOAT, ORACLE
from amctc.ops import ascend, nn, quant
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
        least = _least(getattr(op.kind, "activation", None))
        if not least:
            return lambda *arrays: kernel(*(None if a is None else np.abs(a) for a in arrays))
        return lambda *arrays: np.maximum(kernel(*(None if a is None else np.abs(a) for a in arrays)), least)

    return bind


def _least(kind: OpKind | None) -> float:
    """How large the result of a clip is however small its operand: a bound on the far side of zero."""
    return max(kind.low, -kind.high, 0.0) if isinstance(kind, nn.Clip) else 0.0


def _positive(op: Op) -> Op:
    """Gemm's factors count by their size."""
    if not isinstance(op.kind, nn.Gemm) or (op.kind.alpha >= 0 and op.kind.beta >= 0):
        return op
    kind = nn.Gemm(abs(op.kind.alpha), abs(op.kind.beta), op.kind.trans_a, op.kind.trans_b)
    return Op(kind, op.operands, tuple(r.type for r in op.results), (None,), op.origins)


def _moved(factory: KernelFactory) -> KernelFactory:
    """Ops that choose elements or turn their sign: the size of the result, by indices and conditions as they are."""

    def bind(op: Op, constants: Sequence[Array | None]) -> Kernel:
        kernel = factory(op, constants)

        def run(*arrays: Array) -> Array | tuple[Array, ...]:
            chosen = kernel(*arrays)
            return tuple(map(np.abs, chosen)) if isinstance(chosen, tuple) else np.abs(chosen)

        return run

    return bind


def _pass_through(op: Op, constants: Sequence[Array | None]) -> Kernel:
    slope, least = max(1.0, abs(getattr(op.kind, "alpha", 1.0))), _least(op.kind)
    return lambda x: np.maximum(np.abs(x) * slope, least)


def _batch_norm(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.BatchNorm)

    def run(x: Array, gamma: Array, beta: Array, mean: Array, var: Array) -> Array:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        scale = np.abs(gamma / np.sqrt(var + kind.eps)).reshape(shape)
        return np.asarray((np.abs(x) + np.abs(mean).reshape(shape)) * scale + np.abs(beta).reshape(shape))

    return run


def _normalised(op: Op, constants: Sequence[Array | None]) -> Kernel:
    """Normalisation by statistics of the data: the deviation that is divided by may be as small as √eps."""
    k = op.kind
    assert isinstance(k, nn.LayerNorm | nn.InstanceNorm | nn.GroupNorm)

    def run(x: Array, scale: Array, bias: Array | None = None) -> Array:
        per_channel = () if isinstance(k, nn.LayerNorm) else (1,) * (x.ndim - 2)
        first = k.axis % x.ndim if isinstance(k, nn.LayerNorm) else 1 if isinstance(k, nn.GroupNorm) else 2
        axes = tuple(range(first, x.ndim))
        terms = (np.abs(x) + np.abs(x).max(axis=axes, keepdims=True, initial=0.0)) / np.sqrt(k.eps)
        sized = [np.abs(p).reshape(*p.shape, *per_channel) for p in (scale, bias) if p is not None]
        return np.asarray(terms * sized[0] + (sized[1] if len(sized) > 1 else 0.0))

    return run


def _bounded(op: Op, constants: Sequence[Array | None]) -> Kernel:
    """Sigmoid, tanh, softmax, erf: at most 1, and their slopes are at most 2/√π."""
    return lambda x: np.abs(x) * 1.2 + 1.0


def _gated(op: Op, constants: Sequence[Array | None]) -> Kernel:
    """x times a gate in [0, 1]: slopes of at most 1.5 (hard swish), terms not larger than x."""
    return lambda x: np.abs(x) * 1.5


def _hard_sigmoid(op: Op, constants: Sequence[Array | None]) -> Kernel:
    kind = op.kind
    assert isinstance(kind, nn.HardSigmoid)
    return lambda x: np.abs(x) * abs(kind.alpha) + abs(kind.beta)


def _elu(op: Op, constants: Sequence[Array | None]) -> Kernel:
    """exp(x) - 1 has terms of 1."""
    kind = op.kind
    assert isinstance(kind, nn.Elu)
    return lambda x: max(1.0, abs(kind.alpha)) * (np.abs(x) + 1.0)


def _exp(op: Op, constants: Sequence[Array | None]) -> Kernel:
    """An absolute error of x is a relative one of exp(x)."""
    return lambda x: np.asarray(np.exp(np.abs(x)) * (1.0 + np.abs(x)))


def _log_softmax(op: Op, constants: Sequence[Array | None]) -> Kernel:
    """x less the largest x and the logarithm of a sum of at most as many ones as there are elements."""
    kind = op.kind
    assert isinstance(kind, nn.LogSoftmax)

    def run(x: Array) -> Array:
        largest = np.abs(x).max(axis=kind.axis, keepdims=True, initial=0.0)
        return np.asarray(np.abs(x) + largest + np.log(max(x.shape[kind.axis], 1)) + 1.0)

    return run


def _larger(op: Op, constants: Sequence[Array | None]) -> Kernel:
    """One of the last two operands is chosen; which one may depend on an error."""

    def run(*arrays: Array) -> Array:
        sizes = np.maximum(np.abs(arrays[-2]), np.abs(arrays[-1]))
        return np.broadcast_to(sizes, np.broadcast_shapes(*(a.shape for a in arrays)))

    return run


# ---------------------------------------------------------------------------------------------------------------- poles


@dataclass(frozen=True)
class Singular:
    """An op with a pole: ``rule`` gets its kind, the values of its operands, and their magnitudes.

    As a kernel factory it knows magnitudes alone and takes operands to be as large, which no sum that cancels is;
    :class:`MagnitudePlan` binds it to values.
    """

    rule: Callable[[OpKind, Sequence[Array], Sequence[Array]], Array]

    def __call__(self, op: Op, constants: Sequence[Array | None]) -> Kernel:
        """A kernel that is given magnitudes for values."""
        return lambda *sizes: self.rule(op.kind, [np.abs(s) for s in sizes], [np.abs(s) for s in sizes])

    def knowing(self, values: Mapping[Value, Array]) -> KernelFactory:
        """A factory of kernels that look up the values of their operands when they run."""

        def bind(op: Op, constants: Sequence[Array | None]) -> Kernel:
            operands = [o for o in op.operands if o is not None]
            return lambda *sizes: self.rule(op.kind, [np.abs(values[o]) for o in operands], [np.abs(s) for s in sizes])

        return bind


def _undetermined(value: Array, size: Array, bound: Array) -> Array:
    """``bound``, infinite where one unit of rounding in an operand reaches across the pole at zero."""
    return np.where(EPSILON * size > value, np.inf, bound)


def _quotient(kind: OpKind, values: Sequence[Array], sizes: Sequence[Array]) -> Array:
    """|a / b| carries A / |b| + |a|·B / b², with A and B the magnitudes of a and b.

    Let computing a and b have moved them by α and β, |α| ≤ η·A and |β| ≤ η·B where η is so many units of 2^-23. Then

        (a + α)/(b + β) - a/b = (α·b - a·β) / (b·(b + β)),

    at most η·(A/|b| + |a|·B/b²) / (1 - |β/b|). The divisor is what is not of first order: no less than a half while β
    is no more than half of b. The quotient's own rounding is relative to |a/b| ≤ A/|b|. B is a size that the
    computation of b passed through, not that of b: more than 1 for sigmoid(-6), where B·|b| is far above b².
    """
    (a, b), (size_a, size_b) = values, sizes
    return _undetermined(b, size_b, size_a / b + a * size_b / b**2)


def _power(exponent: float, value: Array, size: Array) -> Array:
    """|x|^p carries |x|^p + |p|·X·|x|^(p - 1), X being the magnitude of x: its own rounding, and the slope times X.

    From p = 1 on slopes grow with |x| ≤ X, and p·X^p bounds both. Below, they have a pole at zero.
    """
    if exponent >= 1 or exponent == 0:
        return np.asarray(max(1.0, exponent) * size**exponent)
    sloped = value**exponent + abs(exponent) * size * value ** (exponent - 1)
    return _undetermined(value, size, np.where(size == 0, value**exponent, sloped))


def _pow(kind: OpKind, values: Sequence[Array], sizes: Sequence[Array]) -> Array:
    assert isinstance(kind, nn.Pow)
    return _power(kind.exponent, values[0], sizes[0])


def _discontinuous(op: Op, constants: Sequence[Array | None]) -> Kernel:
    raise UnsupportedError(f"{op.kind.op_name} is discontinuous: a tolerance cannot cross it")


_ABSOLUTE: tuple[type[OpKind], ...] = (
    nn.Conv, nn.ConvTranspose, nn.Gemm, nn.MatMul, nn.Add, nn.Mul, nn.MaxPool, nn.AveragePool, nn.GlobalAveragePool,
    nn.Concat, nn.Flatten, nn.Reshape, nn.Transpose, nn.Identity, nn.Cast, quant.Observe, nn.GlobalMaxPool,
    nn.ReduceMean, nn.ReduceSum, nn.ReduceMax, nn.Abs,
)  # fmt: skip

_MOVED: tuple[type[OpKind], ...] = (
    nn.Split, nn.Slice, nn.Gather, nn.Pad, nn.Squeeze, nn.Unsqueeze, nn.Expand, nn.Resize, nn.Neg,
)  # fmt: skip

_add: Callable[[Array, Array], Array] = lambda a, b: np.asarray(np.abs(a) + np.abs(b))  # noqa: E731
_prelu: Callable[[Array, Array], Array] = lambda x, slope: np.abs(x) * np.maximum(1.0, np.abs(slope))  # noqa: E731

MAGNITUDE: KernelTable = {
    **{kind: _absolute(FLOAT[kind]) for kind in _ABSOLUTE},
    **{kind: _moved(FLOAT[kind]) for kind in _MOVED},
    **dict.fromkeys((nn.Relu, nn.LeakyRelu, nn.Clip), _pass_through),
    **dict.fromkeys((nn.Sigmoid, nn.Tanh, nn.Softmax, nn.Erf), _bounded),
    **dict.fromkeys((nn.HardSwish, nn.Gelu, nn.Silu, nn.Mish), _gated),
    **dict.fromkeys((nn.Where, nn.Min, nn.Max), _larger),
    **dict.fromkeys((nn.LayerNorm, nn.InstanceNorm, nn.GroupNorm), _normalised),
    nn.Sub: lambda op, constants: _add,
    nn.Div: Singular(_quotient),
    nn.Pow: Singular(_pow),
    nn.Reciprocal: Singular(lambda kind, values, sizes: _power(-1.0, values[0], sizes[0])),
    nn.Sqrt: Singular(lambda kind, values, sizes: _power(0.5, values[0], sizes[0])),
    nn.PRelu: lambda op, constants: _prelu,
    nn.Softplus: lambda op, constants: lambda x: np.abs(x) + 1.0,  # max(x, 0) and a logarithm of at most ln 2
    nn.BatchNorm: _batch_norm, nn.HardSigmoid: _hard_sigmoid, nn.Elu: _elu, nn.Exp: _exp,
    nn.LogSoftmax: _log_softmax,
    **dict.fromkeys((quant.Quantize, quant.Dequantize, quant.FakeQuantizeRows, *ascend.KINDS), _discontinuous),
}  # fmt: skip
"""How each op kind carries error; evaluated on absolute values in float64."""


class MagnitudePlan:
    """A graph bound to a table of magnitudes, ready to run any number of times, always in float64.

    What leads to an op with a pole is evaluated by ``kernels`` as well. ``keep`` names further values for
    :meth:`run_values`. Raises :class:`UnsupportedError` for an op that neither table knows, or that is discontinuous.
    """

    def __init__(
        self, graph: Graph, table: KernelTable = MAGNITUDE, *, kernels: KernelTable = ORACLE, keep: Sequence[Value] = ()
    ) -> None:
        self._values: dict[Value, Array] = {}
        singular = {kind: entry for kind, entry in table.items() if isinstance(entry, Singular)}
        bound = {kind: entry.knowing(self._values) for kind, entry in singular.items()}
        self._plan = Plan(graph, {**table, **bound}, float_type=np.float64, keep=keep)
        read = [o for op in graph.ops if type(op.kind) in singular for o in op.operands if o is not None]
        needed = graph.with_outputs(tuple(read), tuple(map(str, range(len(read)))))
        self._operands = Plan(needed, kernels, float_type=np.float64) if read else None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Magnitudes of the outputs by interface name."""
        values = self.run_values(feeds)
        return dict(zip(self._plan.graph.output_names, map(values.__getitem__, self._plan.graph.outputs), strict=True))

    def run_values(self, feeds: Mapping[str, Array]) -> dict[Value, Array]:
        """Magnitudes of the outputs and of the kept values."""
        if self._operands is not None:
            self._values.update(self._operands.run_values(feeds))
        try:
            return self._plan.run_values(feeds)
        finally:
            self._values.clear()
