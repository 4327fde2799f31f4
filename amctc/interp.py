"""The evaluator: runs a graph over tables of kernels. It knows no op; the tables say how each kind is computed.

A *kernel factory* turns an op and its constant operands into a function of the operand arrays. Work that depends on
constants only (packing weights, folding biases) is done once, when the plan is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from amctc.aside import LARGE, SetAside
from amctc.data import Data
from amctc.errors import AmctcError, InputError, UnsupportedError
from amctc.ir import Constant, Graph, GraphInput, Op, Value, layer_name
from amctc.numerics.threads import single_threaded_blas
from amctc.schema import OpKind
from amctc.types import STRING, Array, OpaqueType, Shape, TensorType, dims_agree, format_dim

Kernel: TypeAlias = Callable[..., Array | tuple[Array, ...]]
"""Computes an op: called with one array per operand, ``None`` for an absent one."""

KernelFactory: TypeAlias = Callable[[Op, Sequence[Array | None]], Kernel]
"""Binds a kernel: gets the op and, per operand, its array if it is constant, else ``None``."""

KernelTable: TypeAlias = Mapping[type[OpKind], KernelFactory]


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """One call of a kernel: it gets the arrays of ``operands`` and gives those of ``results``.

    Most compute one op. A step of several computes them together; what lies between them is not kept. ``stored`` names
    results whose arrays have another element type than their values, as those who read them know.
    """

    ops: tuple[Op, ...]
    operands: tuple[Value | None, ...]
    results: tuple[Value, ...]
    kernel: Kernel
    stored: Mapping[Value, np.dtype[Any]] = field(default_factory=dict)

    @property
    def layer(self) -> str:
        """The layer it computes, or the last of several."""
        return layer_name(self.ops[-1])


Grouping: TypeAlias = Callable[[Sequence[Op], Mapping[Value, Array], Collection[Value]], Iterable[Op | Step]]
"""Decides which ops are computed together: gets the ops in order, the arrays of the constants among them and the values
that must be kept, and gives steps, and ops to be bound alone, in an order that can be run."""


class Plan:
    """A graph bound to kernels, ready to run any number of times.

    ``keep`` names further values whose arrays :meth:`run_values` returns. ``float_type`` computes every float32
    constant and operand in another precision (the float64 oracle). ``grouping`` computes some ops together. With
    ``aside`` constants that it keeps elsewhere are not held: steps that read them are bound anew in each run.
    """

    def __init__(
        self,
        graph: Graph,
        table: KernelTable,
        *,
        keep: Sequence[Value] = (),
        float_type: type[np.floating[Any]] | None = None,
        grouping: Grouping | None = None,
        aside: SetAside | None = None,
    ) -> None:
        self.graph, self._float_type = graph, float_type
        roots = (*graph.outputs, *keep)
        ops = graph.ops if not keep else graph.with_outputs(roots, tuple(map(str, range(len(roots))))).ops
        self._keep = frozenset(roots)
        constants = {op.result: op.kind.data for op in ops if isinstance(op.kind, Constant)}
        self._aside: dict[Value, Data] = {}
        if aside is not None:
            large = [v for v, data in constants.items() if data.nbytes > LARGE and v not in self._keep]
            self._aside = {v: aside.data(constants.pop(v)) for v in large}
        self._constants: dict[Value, Array] = {v: self._precise(data.read()) for v, data in constants.items()}
        computed: Iterable[Op | Step] = [op for op in ops if not isinstance(op.kind, Constant)]
        if grouping is not None:
            computed = grouping([op for op in computed if isinstance(op, Op)], self._constants, self._keep)
        self.steps = tuple(step if isinstance(step, Step) else self._bound(step, table) for step in computed)
        self._last_use = {o: i for i, step in enumerate(self.steps) for o in step.operands if o is not None}

    @property
    def kept(self) -> frozenset[Value]:
        """The values that are held to the end of a run: outputs, and those asked to be kept."""
        return self._keep

    @property
    def last_use(self) -> Mapping[Value, int]:
        """For each value that a step reads, the last such step by number."""
        return self._last_use

    @property
    def constant_bytes(self) -> int:
        """Bytes of the constants that the plan holds."""
        return sum(array.nbytes for array in self._constants.values())

    def _precise(self, array: Array) -> Array:
        return array.astype(self._float_type) if self._float_type and array.dtype == np.float32 else array

    def _bound(self, op: Op, table: KernelTable) -> Step:
        factory = table.get(type(op.kind))
        if factory is None:
            raise UnsupportedError(f"no kernel for {op.kind.op_name}", where=layer_name(op))
        constants = [None if o is None else self._constants.get(o) for o in op.operands]
        if any(o in self._aside for o in op.operands):
            return self._bound_late(op, factory, constants)
        try:
            kernel = factory(op, constants)
        except AmctcError as error:
            raise error.located(layer_name(op)) from None
        return Step((op,), op.operands, op.results, kernel)

    def _bound_late(self, op: Op, factory: KernelFactory, constants: Sequence[Array | None]) -> Step:
        """A step that reads what is set aside when it runs, and lets go of it and of what the kernel made of it."""
        aside = [None if o is None else self._aside.get(o) for o in op.operands]

        def kernel(*arrays: Array | None) -> Array | tuple[Array, ...]:
            read = [None if data is None else self._precise(data.read()) for data in aside]
            bound = factory(op, [c if r is None else r for r, c in zip(read, constants, strict=True)])
            return bound(*(a if r is None else r for r, a in zip(read, arrays, strict=True)))

        given = tuple(None if o in self._aside else o for o in op.operands)
        return Step((op,), given, op.results, kernel)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by interface name for one batch of inputs by name."""
        values = self.run_values(feeds)
        return {n: values[v] for n, v in zip(self.graph.output_names, self.graph.outputs, strict=True)}

    def run_values(self, feeds: Mapping[str, Array]) -> dict[Value, Array]:
        """Arrays of the outputs and of the kept values; everything else is let go after its last use."""
        given = fed(self.graph, feeds, self._float_type)
        arrays: dict[Value, Array] = {**self._constants, **{v: self._precise(a) for v, a in given.items()}}
        with single_threaded_blas():
            for index, step in enumerate(self.steps):
                self._run_step(index, step, arrays)
        return {value: arrays[value] for value in self._keep}

    def _run_step(self, index: int, step: Step, arrays: dict[Value, Array]) -> None:
        try:
            results = step.kernel(*(None if o is None else arrays[o] for o in step.operands))
        except AmctcError as error:
            raise error.located(step.layer) from None
        arrays.update(zip(step.results, results if isinstance(results, tuple) else (results,), strict=True))
        for value in (*step.operands, *step.results):
            if value is not None and self._last_use.get(value, -1) <= index and value not in self._keep:
                arrays.pop(value, None)


def fed(
    graph: Graph, feeds: Mapping[str, Array], float_type: type[np.floating[Any]] | None = None
) -> dict[GraphInput, Array]:
    """An array for every input of ``graph``, checked against its type; defaults where nothing is fed.

    Raises :class:`InputError` for an input that is missing, unknown, or of another type or shape.
    """
    found: dict[GraphInput, Array] = {}
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        if value.name in feeds:
            found[value] = checked(feeds[value.name], value.type, value.name, sizes, float_type)
        elif value.default is not None:
            found[value] = checked(value.default.read(), value.type, value.name, sizes)
        else:
            raise InputError(f"input {value.name!r} is missing", remedy=f"feed {value.type}")
    unknown = [n for n in feeds if n not in {i.name for i in graph.inputs}]
    if unknown:
        known = ", ".join(i.name for i in graph.inputs)
        remedy = f"its inputs are {known}" if known else "it has no inputs"
        raise InputError(f"the model has no input {unknown[0]!r}", remedy=remedy)
    return found


def checked(
    array: Array,
    type_: TensorType,
    name: str,
    sizes: dict[str, int],
    float_type: type[np.floating[Any]] | None = None,
) -> Array:
    """``array``, in the type's element type, if it fits the input ``type_``.

    ``sizes`` collects what the symbols stand for across inputs. Floats of any precision are converted, except those
    that are of ``float_type`` already. What is no dense tensor is passed on as it is.
    """
    if isinstance(type_.elem, OpaqueType):
        return array
    array = np.asarray(array)
    if type_.elem is STRING and array.dtype.kind == "U":
        array = array.astype(object)
    if array.dtype != type_.elem.dtype and not (type_.is_float and array.dtype.kind == "f"):
        raise InputError(f"input {name!r} holds {array.dtype}, the model wants {type_.elem}", remedy="convert it")
    if type_.shape is not None:
        _check_shape(array, type_.shape, name, sizes)
    keep = array.dtype == type_.elem.dtype or (float_type is not None and array.dtype == float_type)
    return array if keep else array.astype(type_.elem.dtype)


def _check_shape(array: Array, shape: Shape, name: str, sizes: dict[str, int]) -> None:
    if len(shape) != array.ndim or not all(map(dims_agree, shape, array.shape)):
        wanted = "[" + ", ".join(map(format_dim, shape)) + "]"
        raise InputError(f"input {name!r} has shape {list(array.shape)}, the model wants {wanted}")
    for symbol, size in zip(shape, array.shape, strict=True):
        if isinstance(symbol, str) and sizes.setdefault(symbol, size) != size:
            raise InputError(f"dimension {symbol!r} is {sizes[symbol]} elsewhere and {size} in input {name!r}")


def evaluate(
    graph: Graph, feeds: Mapping[str, Array], table: KernelTable, *, float_type: type[np.floating[Any]] | None = None
) -> dict[str, Array]:
    """Run a graph once."""
    return Plan(graph, table, float_type=float_type).run(feeds)
