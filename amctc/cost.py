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
bytes: it stays in L0C. The fixpipe does this work on the way out; on other chips the vector unit does, beside the cube.
Reshapes are free. Launching an op, microseconds on a real chip, is not counted: an estimate is a lower bound, far below
the truth for small networks, and serves best as a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Literal

from amctc.analysis import uses
from amctc.cycles import cube_cycles, is_layer, layer_macs, value_bytes, vector_cycles
from amctc.errors import AmctcError, UnsupportedError
from amctc.ir import Constant, Graph, GraphInput, Op, Value, layer_name
from amctc.ops import ascend, nn, quant
from amctc.substitute import substitute
from amctc.targets import Profile
from amctc.types import TensorType

__all__ = ["Bound", "Estimate", "OpCost", "estimate", "layer_macs", "one_sample"]

Bound = Literal["cube", "vector", "memory"]

FREE = (Constant, nn.Identity, nn.Reshape, nn.Flatten, quant.Observe)
"""Ops that move and compute nothing on the target."""


@dataclass(frozen=True)
class OpCost:
    """One op with its epilogue. Cycles are of the busiest core; ``None`` stands for a size that is not known.

    ``bound`` says what sets the time: the cube, the vector unit, or the memory.
    """

    layer: str
    op_name: str
    macs: int | None
    cube_cycles: int | None
    vector_cycles: int | None
    bytes: int | None
    time_us: float | None
    bound: Bound | None


@dataclass(frozen=True)
class Estimate:
    """The costs of a graph for one sample. ``total_us`` is ``None`` as soon as the time of one op is."""

    target: str
    ops: tuple[OpCost, ...]
    total_us: float | None

    @property
    def layers_us(self) -> dict[str, float | None]:
        """Microseconds by layer name: the sum over the ops that descend from the layer."""
        found: dict[str, float | None] = {}
        for op in self.ops:
            so_far = found.get(op.layer, 0.0)
            found[op.layer] = None if so_far is None or op.time_us is None else so_far + op.time_us
        return found


def estimate(graph: Graph, profile: Profile) -> Estimate:
    """The cost on ``profile`` of a lowered graph, or of a float graph run in float16.

    A first axis of an input that is no number counts as a batch of 1. Floating-point values count two bytes, as the
    compiler converts them at the interface. Give a float graph after ``fold-batch-norm`` and ``fuse-activation``: the
    target's compiler folds those too. Raises :class:`UnsupportedError` for a profile without published figures.
    """
    if not profile.has_cost_figures:
        raise UnsupportedError(
            f"no time estimate for {profile.name}: its cores, clock and bandwidth are not published",
            remedy="estimate for another target",
        )
    graph = one_sample(graph)
    groups = _groups(graph)
    accumulators = {op.results[0] for op, epilogues in groups.items() if epilogues}
    costs = tuple(_op_cost(op, epilogues, accumulators, profile) for op, epilogues in groups.items())
    times = [c.time_us for c in costs]
    return Estimate(profile.name, costs, None if None in times else math.fsum(t for t in times if t is not None))


def one_sample(graph: Graph) -> Graph:
    """The graph for a batch of 1 where first axes of inputs are no numbers; unchanged where types do not follow."""
    single: dict[Value, Value] = {}
    for value in graph.inputs:
        shape = value.type.shape
        if shape and not isinstance(shape[0], int):
            single[value] = GraphInput(value.name, TensorType((1, *shape[1:]), value.type.elem), value.default)
    if not single:
        return graph
    inputs = tuple(i for v in graph.inputs if isinstance(i := single.get(v, v), GraphInput))
    try:
        outputs = substitute(graph, single).outputs
    except AmctcError:  # a carried op that ONNX cannot infer anew: sizes stay unknown
        return graph
    return Graph(inputs, outputs, graph.output_names, graph.name, graph.metadata)


def _groups(graph: Graph) -> dict[Op, tuple[Op, ...]]:
    """Every op that costs something, with the epilogues charged to it if they alone read its accumulator."""
    readers = uses(graph)
    groups: dict[Op, tuple[Op, ...]] = {}
    charged: set[Op] = set()
    for op in graph.ops:
        if isinstance(op.kind, FREE) or op in charged:
            continue
        groups[op] = ()
        if isinstance(op.kind, ascend.Conv | ascend.MatMul):
            read_by = [u.op for u in readers.get(op.results[0], ())]
            epilogues = [o for o in read_by if o is not None and isinstance(o.kind, ascend.Dequant | ascend.Requant)]
            if len(epilogues) == len(read_by):
                groups[op] = tuple(epilogues)
                charged.update(epilogues)
    return groups


def _op_cost(op: Op, epilogues: tuple[Op, ...], accumulators: Set[Value], profile: Profile) -> OpCost:
    cube = cube_cycles(op, profile) if is_layer(op) else 0
    on_vector = () if profile.epilogue == "fixpipe" else epilogues
    vector = vector_cycles(on_vector if is_layer(op) else (op,), profile)
    moved = _bytes((op, *epilogues), accumulators)
    time, bound = _time(cube, vector, moved, profile)
    return OpCost(layer_name(op), op.kind.op_name, layer_macs(op), cube, vector, moved, time, bound)


def _bytes(ops: tuple[Op, ...], accumulators: Set[Value]) -> int | None:
    """Bytes of all values the ops read and write, each once, accumulators left out."""
    values = dict.fromkeys(v for op in ops for v in (*op.operands, *op.results) if v is not None)
    sizes = [value_bytes(v.type) for v in values if v not in accumulators]
    return None if None in sizes else sum(s for s in sizes if s is not None)


def _time(
    cube: int | None, vector: int | None, moved: int | None, profile: Profile
) -> tuple[float | None, Bound | None]:
    """Microseconds, and what sets them; of equals the unit before the memory."""
    assert profile.frequency_mhz is not None
    assert profile.ddr_bandwidth is not None
    if cube is None or vector is None or moved is None:
        return None, None
    times: Mapping[Bound, float] = {
        "cube": cube / profile.frequency_mhz,
        "vector": vector / profile.frequency_mhz,
        "memory": moved / profile.ddr_bandwidth * 1e6,
    }
    bound = max(times, key=lambda unit: times[unit])
    return times[bound], bound
