"""What a graph costs on a target: multiply-accumulates, cycles, bytes, microseconds.

The formulas are those of the vendor's graph engine (numerics page, Profiles) [C], spread over the cores [I]:

* convolution: ``ceil(Ho·Wo/16) · N1 · batch`` output tiles of ``K1`` cycles each, ``K1 = ceil(Cin/C0)·kh·kw``,
  ``N1 = ceil(Cout/16)``; matrix product: ``m1 · n1 · batch`` tiles of ``k1`` cycles. Tiles do not depend on each other,
  so they are dealt out to the cube cores, and the core with ``ceil(tiles/cores)`` of them sets the time. The sum over K
  of one tile stays on one core.
* everything else: ``3 · numel / 128`` vector cycles, dealt out to the vector cores in blocks of 128 elements. A chip
  without vector cores of its own has a vector unit in each cube core.
* ``time = max(max(cube, vector) / f, bytes / bandwidth)``. The bytes of an op are those of its weights, inputs and
  outputs: nothing is taken to stay in L2 between ops.

A dequantization or requantization is charged to the layer whose accumulator it reads, and that accumulator costs no
bytes: it stays in L0C. The fixpipe does this work on the way out; on other chips the vector unit does, beside the cube,
and goes on to the activation and the quantizer where nothing else reads what lies between. So does arithmetic, residual
additions foremost, everywhere (``TbeEltwiseQuant`` of the vendor's fusion switches [D]; an activation alone [I]).
int8 AveragePool is taken to run on the vector unit, everywhere, with all of that in its buffer [I]. The weight of a
weight-only product (N21) is read as integers and made float on the vector unit [I]; the product is one of float16.
The epilogue with a scale per row (N13) runs on the vector unit on every chip, beside the cube [I], and so does
DynamicQuant (N6), an op of its own.
Reshapes are free. Launching an op, microseconds on a real chip, is not counted: an estimate is a lower bound, far below
the truth for small networks, and serves best as a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from amctc.analysis import Use, uses
from amctc.cycles import CubeWork, anti_quant_cycles, cube_work, is_layer, layer_macs, value_bytes, vector_cycles
from amctc.errors import AmctcError, UnsupportedError
from amctc.ir import Constant, Graph, GraphInput, Op, Value, layer_name
from amctc.ops import ascend, nn, quant
from amctc.substitute import substitute
from amctc.targets import Profile
from amctc.types import TensorType

__all__ = [
    "FREE",
    "Bound",
    "Estimate",
    "OpCost",
    "estimate",
    "grouped",
    "kept_inside",
    "layer_macs",
    "one_sample",
    "with_batch",
]

Bound = Literal["cube", "vector", "memory"]

FREE = (Constant, nn.Identity, nn.Reshape, nn.Flatten, nn.Squeeze, nn.Unsqueeze, quant.Observe)
"""Ops that move and compute nothing on the target."""

EPILOGUES = ascend.Dequant | ascend.Requant | ascend.DequantRows
"""What takes an accumulator on."""

ARITHMETIC = nn.Add | nn.Sub | nn.Mul | nn.Div
"""Element-wise ops whose result the vector unit takes on to an activation and a quantizer."""


@dataclass(frozen=True)
class OpCost:
    """One op with its epilogue. Cycles are of the busiest core; ``None`` stands for a size that is not known.

    ``times_us`` are those of each unit, in case it were alone; ``bound`` names the one that sets the time. ``work`` is
    what a layer gives the cube. ``weight_bytes`` are the part of ``bytes`` that no batch changes.
    """

    layer: str
    op_name: str
    macs: int | None
    cube_cycles: int | None
    vector_cycles: int | None
    bytes: int | None
    time_us: float | None
    bound: Bound | None
    times_us: Mapping[Bound, float] | None = None
    work: CubeWork | None = None
    weight_bytes: int = 0


@dataclass(frozen=True)
class Estimate:
    """The costs of a graph for one batch. ``total_us`` is ``None`` as soon as the time of one op is."""

    target: str
    ops: tuple[OpCost, ...]
    total_us: float | None
    batch: int = 1

    @property
    def bound_us(self) -> dict[Bound, float]:
        """Microseconds of the ops that each unit sets the time of, the largest first."""
        found: dict[Bound, float] = {"cube": 0.0, "vector": 0.0, "memory": 0.0}
        for op in self.ops:
            if op.bound is not None and op.time_us is not None:
                found[op.bound] += op.time_us
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def layers_us(self) -> dict[str, float | None]:
        """Microseconds by layer name: the sum over the ops that descend from the layer."""
        found: dict[str, float | None] = {}
        for op in self.ops:
            so_far = found.get(op.layer, 0.0)
            found[op.layer] = None if so_far is None or op.time_us is None else so_far + op.time_us
        return found


def estimate(graph: Graph, profile: Profile, *, batch: int = 1) -> Estimate:
    """The cost on ``profile`` of a lowered graph, or of a float graph run in float16.

    A first axis of an input that is no number counts as ``batch``; see :func:`with_batch`. Floating-point values count
    two bytes, as the compiler converts them at the interface. Give a float graph after ``fold-batch-norm`` and
    ``fuse-activation``: the target's compiler folds those too. Raises :class:`UnsupportedError` for a profile without
    published figures.
    """
    if not profile.has_cost_figures:
        raise UnsupportedError(
            f"no time estimate for {profile.name}: its cores, clock and bandwidth are not published",
            remedy="estimate for another target",
        )
    graph = with_batch(graph, batch)
    groups = grouped(graph, profile)
    accumulators = {v for op, epilogues in groups.items() for v in kept_inside(op, epilogues)}
    costs = tuple(_op_cost(op, epilogues, accumulators, profile) for op, epilogues in groups.items())
    times = [c.time_us for c in costs]
    return Estimate(profile.name, costs, None if None in times else math.fsum(t for t in times if t is not None),
                    batch)  # fmt: skip


def one_sample(graph: Graph) -> Graph:
    """The graph for a batch of 1 where first axes of inputs are no numbers; unchanged where types do not follow."""
    return with_batch(graph, 1)


def with_batch(graph: Graph, batch: int) -> Graph:
    """The graph for ``batch`` samples where first axes of inputs are no numbers.

    For a batch of 1 the graph comes back as it is where types do not follow (a carried op that ONNX cannot infer anew).
    Raises :class:`UnsupportedError` for another batch where they do not, and where the model itself fixes one.
    """
    chosen: dict[Value, Value] = {}
    for value in graph.inputs:
        shape = value.type.shape
        if shape and not isinstance(shape[0], int):
            chosen[value] = GraphInput(value.name, TensorType((batch, *shape[1:]), value.type.elem), value.default)
        elif shape and value.default is None and batch != 1 and shape[0] != batch:
            raise UnsupportedError(f"the model takes batches of {shape[0]} only, not of {batch}", where=value.name,
                                   remedy="leave the batch out, or export a model with a free first axis")  # fmt: skip
    if not chosen:
        return graph
    inputs = tuple(i for v in graph.inputs if isinstance(i := chosen.get(v, v), GraphInput))
    try:
        outputs = substitute(graph, chosen).outputs
    except AmctcError as error:
        if batch == 1:
            return graph
        raise UnsupportedError(f"the model's sizes do not follow a batch of {batch}: {error}",
                               remedy="estimate for one sample") from error  # fmt: skip
    return Graph(inputs, outputs, graph.output_names, graph.name, graph.metadata)


def grouped(graph: Graph, profile: Profile) -> dict[Op, tuple[Op, ...]]:
    """Every op that costs something, with what is charged to it.

    That is: the epilogues if they alone read its accumulator; where a vector unit dequantizes, also the activation and
    the quantizer that follow in its buffer; those that follow arithmetic, a residual addition foremost.
    """
    readers = uses(graph)
    groups: dict[Op, tuple[Op, ...]] = {}
    charged: set[Op] = set()
    for op in graph.ops:
        if isinstance(op.kind, FREE) or op in charged:
            continue
        groups[op] = ()
        if isinstance(op.kind, ascend.Layer | ascend.SumPool):
            read_by = [u.op for u in readers.get(op.results[0], ())]
            epilogues = [o for o in read_by if o is not None and isinstance(o.kind, EPILOGUES)]
            if len(epilogues) == len(read_by):
                on_vector = profile.epilogue != "fixpipe" or isinstance(op.kind, ascend.SumPool)
                if len(epilogues) == 1 and on_vector:
                    epilogues += _quantized_after(epilogues[0], readers)
                groups[op] = tuple(epilogues)
                charged.update(epilogues)
        elif isinstance(op.kind, ARITHMETIC):
            groups[op] = tuple(_in_buffer_after(op, readers))
            charged.update(groups[op])
    return groups


def _in_buffer_after(op: Op, readers: Mapping[Value, Sequence[Use]]) -> list[Op]:
    """The activation and the quantizer, either or both, that alone read the result of ``op``."""
    chain: list[Op] = []
    for wanted in (nn.Activation, ascend.Quant):
        read_by = readers.get((chain[-1] if chain else op).results[0], ())
        after = read_by[0].op if len(read_by) == 1 else None
        if after is not None and isinstance(after.kind, wanted):
            chain.append(after)
    return chain


def _quantized_after(op: Op, readers: Mapping[Value, Sequence[Use]]) -> list[Op]:
    """The quantizer that alone reads the result of ``op``, with the activation between them."""
    chain: list[Op] = []
    while True:
        read_by = readers.get(op.results[0], ())
        after = read_by[0].op if len(read_by) == 1 else None
        if after is None or not isinstance(after.kind, ascend.Quant | nn.Relu | nn.LeakyRelu | nn.Clip):
            return []
        chain.append(after)
        if isinstance(after.kind, ascend.Quant):
            return chain
        op = after


def kept_inside(op: Op, epilogues: tuple[Op, ...]) -> set[Value]:
    """What one op of a group hands to the next without going through memory."""
    read = {o for epilogue in epilogues for o in epilogue.operands}
    return {r for each in (op, *epilogues) for r in each.results if r in read}


def _op_cost(op: Op, epilogues: tuple[Op, ...], accumulators: Set[Value], profile: Profile) -> OpCost:
    assert profile.cube_cores is not None
    layer = is_layer(op)
    work = cube_work(op, profile) if layer else None
    cube = 0 if not layer else None if work is None else work.cycles(profile.cube_cores)
    fixpipe = profile.epilogue == "fixpipe"
    on_vector = [e for e in epilogues if not fixpipe or isinstance(e.kind, ascend.DequantRows)]
    vector = _sum(vector_cycles(on_vector if layer else (op, *epilogues), profile), anti_quant_cycles(op, profile))
    moved = _bytes((op, *epilogues), accumulators)
    times = _times(cube, vector, moved, profile)
    bound, time = (None, None) if times is None else max(times.items(), key=lambda entry: entry[1])
    constants = {o for each in (op, *epilogues) for o in each.operands if o is not None and is_constant(o)}
    weights = sum(value_bytes(o.type) or 0 for o in constants)
    return OpCost(layer_name(op), op.kind.op_name, layer_macs(op), cube, vector, moved, time, bound, times, work,
                  weights)  # fmt: skip


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def is_constant(value: Value) -> bool:
    """Whether a value is a constant."""
    return value.producer is not None and isinstance(value.producer.kind, Constant)


def _bytes(ops: tuple[Op, ...], accumulators: Set[Value]) -> int | None:
    """Bytes of all values the ops read and write, each once, accumulators left out."""
    values = dict.fromkeys(v for op in ops for v in (*op.operands, *op.results) if v is not None)
    sizes = [value_bytes(v.type) for v in values if v not in accumulators]
    return None if None in sizes else sum(s for s in sizes if s is not None)


def _times(cube: int | None, vector: int | None, moved: int | None, profile: Profile) -> Mapping[Bound, float] | None:
    """Microseconds of each unit; of equals the unit before the memory sets the time."""
    assert profile.frequency_mhz is not None
    assert profile.ddr_bandwidth is not None
    if cube is None or vector is None or moved is None:
        return None
    return {
        "cube": cube / profile.frequency_mhz,
        "vector": vector / profile.frequency_mhz,
        "memory": moved / profile.ddr_bandwidth * 1e6,
    }
