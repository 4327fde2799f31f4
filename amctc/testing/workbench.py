"""A workbench: graph inputs, constants and ops made while a random graph is put together."""

from __future__ import annotations

from collections.abc import Sequence

from amctc.data import ArrayData
from amctc.ir import Constant, Graph, GraphInput, Origin, Result, Value, build, const, with_operands
from amctc.ops import nn
from amctc.schema import OpKind
from amctc.testing.arrays import draw_recipe, filled
from amctc.testing.samplers import Sample, Wanted, draw_sample, free_operands
from amctc.testing.source import Source, Unfit
from amctc.types import TensorType

CONTEXT: tuple[type[OpKind], ...] = (
    nn.Relu, nn.Add, nn.Conv, nn.Mul, nn.Clip, nn.MaxPool, nn.AveragePool, nn.Sigmoid, nn.Transpose, nn.Concat,
    nn.BatchNorm, nn.Gemm, nn.MatMul, nn.Softmax, nn.Identity, nn.LeakyRelu, nn.Tanh, nn.Sub, nn.Flatten, nn.Reshape,
    nn.GlobalAveragePool, nn.ConvTranspose, nn.Split, nn.Slice, nn.Pad, nn.Gather, nn.ReduceMean, nn.HardSwish,
    nn.Relu, nn.Clip, nn.Sigmoid,
)  # fmt: skip
"""Op kinds put around an instance, those that rules ask about twice. All continuous; division is left out because
zeros would make most graphs NaN."""


class Workbench:
    """Makes values. What it hands out is reached by no graph until :meth:`graph` names outputs."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.inputs: list[GraphInput] = []
        self._constants: list[Result] = []
        self._ops = 0

    def input(self, type_: TensorType, default: Value | None = None) -> GraphInput:
        """A new graph input; ``default`` is a constant that it starts from."""
        kind = default.producer.kind if default is not None and default.producer is not None else None
        data = kind.data if isinstance(kind, Constant) else None
        self.inputs.append(GraphInput(f"x{len(self.inputs)}", type_, data))
        return self.inputs[-1]

    def constant(self, type_: TensorType, *, nonnegative: bool = False, index_of: int | None = None) -> Result:
        """A constant, sometimes one that exists already; symbols in ``type_`` raise :class:`Unfit`.

        With ``index_of`` it holds indices of an axis of so many elements, counted from either end.
        """
        if not type_.is_static:
            raise Unfit(f"{type_} is no type of a constant")
        if index_of is not None:
            return const(ArrayData(filled(type_, draw_recipe(self.source)) % (2 * index_of) - index_of), type_.elem)
        alike = [c for c in self._constants if c.type == type_]
        if alike and not nonnegative and self.source.flip(0.15):
            return self.source.choice(alike)
        array = filled(type_, draw_recipe(self.source), nonnegative=nonnegative)
        self._constants.append(const(ArrayData(array), type_.elem))
        return self._constants[-1]

    def value(self, type_: TensorType, constant: float = 0.05) -> Value:
        """A value of this type: a constant with probability ``constant``, else an input or an op on inputs."""
        if type_.is_static and self.source.flip(constant):
            return self.constant(type_)
        alike = [i for i in self.inputs if i.type == type_]
        if alike and self.source.flip(0.1):
            return self.source.choice(alike)
        if self.source.flip(0.25):
            try:
                return self._computed(type_)
            except Unfit:
                pass  # no op gives this type: an input does
        return self.input(type_, self.constant(type_) if type_.is_static and self.source.flip(0.05) else None)

    def _computed(self, type_: TensorType) -> Value:
        kind = self.source.choice(CONTEXT)
        wanted = Wanted(free_operands(self.source, kind), type_)
        sample, _ = draw_sample(self.source, kind, wanted)
        return self.supplied(sample, ())

    def supplied(self, sample: Sample, given: Sequence[Value]) -> Result:
        """The op of a sample on ``given`` first operands, inputs for another first one, constants for the rest."""
        operands: list[Value | None] = [*given]
        indices = dict(sample.indices)
        for index, type_ in enumerate(sample.operands[len(given) :], len(given)):
            if type_ is None:
                operands.append(None)
            elif index in indices:
                operands.append(self.constant(type_, index_of=indices[index]))
            elif index == 0:
                operands.append(self.input(type_))
            elif index in sample.constants or (type_.is_static and self.source.flip(0.9)):
                operands.append(self.constant(type_, nonnegative=index in sample.nonnegative))
            else:
                operands.append(self.input(type_))
        return self.apply(sample.kind, *operands)

    def apply(self, kind: OpKind, *operands: Value | None) -> Result:
        """The first result of the op, which has an origin of its own."""
        self._ops += 1
        onnx_type = type(kind).__name__
        return build(kind, *operands, origins=(Origin(f"{onnx_type.lower()}_{self._ops}", onnx_type),)).results[0]

    def follow(self, value: Value, kinds: Sequence[type[OpKind]] = CONTEXT) -> Value:
        """An op that reads ``value``, of one of ``kinds`` where one fits; else an identity."""
        kind = self.source.choice(kinds)
        slots = free_operands(self.source, kind, value.type)
        try:
            sample, _ = draw_sample(self.source, kind, Wanted(slots))
            return self.supplied(sample, (value,))
        except Unfit:
            return self.apply(nn.Identity(), value)

    def graph(self, outputs: Sequence[Value]) -> Graph:
        """The graph of these outputs; inputs made for values that were dropped stay as unread inputs."""
        return Graph(tuple(self.inputs), tuple(outputs), tuple(f"y{i}" for i in range(len(outputs))))


def transplant(value: Value, leaves: dict[Value, Value]) -> Value:
    """``value`` computed from other leaves of the same types; ``leaves`` is filled with everything rebuilt."""
    stack = [value]
    while stack:
        top = stack[-1]
        if top in leaves or top.producer is None:
            leaves.setdefault(top, top)
            stack.pop()
            continue
        op = top.producer
        missing = [o for o in op.operands if o is not None and o not in leaves]
        if missing:
            stack.extend(missing)
            continue
        operands = tuple(None if o is None else leaves[o] for o in op.operands)
        same = all(a is b for a, b in zip(operands, op.operands, strict=True))
        leaves.update(zip(op.results, (op if same else with_operands(op, operands)).results, strict=True))
    return leaves[value]
