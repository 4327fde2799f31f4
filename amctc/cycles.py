"""Multiply-accumulates of a layer, cycles of an op on the cores of a target: the formulas of :mod:`amctc.cost`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from amctc.ir import Op
from amctc.ops import ascend, nn
from amctc.targets import Profile
from amctc.types import Dim, TensorType

CUBE_SIDE = 16
"""Rows (M) and columns (N) of one cube step, whatever the storage (numerics page, Profiles)."""

VECTOR_LANES = 128
"""Elements of one vector instruction: 256 bytes of float16."""

VECTOR_STEPS = 3
"""Cycles per 128 elements in the graph engine's formula: in, compute, out."""

Transposed = nn.ConvTranspose | ascend.ConvTranspose
Convolution = nn.Conv | ascend.Conv | Transposed
Product = nn.Gemm | nn.MatMul | ascend.MatMul | ascend.BatchMatMul | ascend.WeightQuantMatMul


def is_layer(op: Op) -> bool:
    """Whether the op runs on the cube."""
    return isinstance(op.kind, Convolution | Product)


def layer_macs(op: Op) -> int | None:
    """Multiply-accumulates of a convolution or matrix product, float or integer; ``None`` for others and unknown sizes.

    A symbolic first axis counts as a batch of 1. Multiplications with padding count.
    """
    if not is_layer(op):
        return None
    x, w = _operand_types(op)
    if isinstance(op.kind, Transposed):  # every input element meets the weights [O/group, kernel…] of its channel
        return _product(_elements(x), *w.dims[1:])
    if isinstance(op.kind, Convolution):  # every output element sums over weights [C/group, kernel…]
        return _product(_elements(op.results[0].type), *w.dims[1:])
    return _product(_elements(op.results[0].type), _summed(op))


@dataclass(frozen=True)
class CubeWork:
    """What a layer gives the cube: ``tiles`` of output that can be dealt out to cores, ``steps`` cycles for each.

    ``inner`` and ``outer`` channels of a group are counted in blocks; ``padding`` is the share of the blocks' products
    that are with padding: 1 − Cin·Cout / (padded Cin · padded Cout).
    """

    tiles: int
    steps: int
    inner: int
    outer: int
    groups: int
    padding: float

    def cycles(self, cores: int) -> int:
        """Cycles of the core that gets the most tiles."""
        return ceil_div(self.tiles, cores) * self.steps

    def share_of_cores(self, cores: int) -> float:
        """How much of the cores' time is spent on tiles: less than 1 where they do not divide evenly."""
        return self.tiles / (ceil_div(self.tiles, cores) * cores) if self.tiles else 1.0


def cube_work(op: Op, profile: Profile) -> CubeWork | None:
    """The cube's share of a layer; ``None`` for unknown sizes."""
    storage = "i8" if isinstance(op.kind, ascend.Layer) else "f16"
    return (
        _convolution(op, profile.c0[storage])
        if isinstance(op.kind, Convolution)
        else _matrix(op, profile.tile[storage])
    )


def cube_cycles(op: Op, profile: Profile) -> int | None:
    """Cycles of the cube core that gets the most output tiles of a layer; ``None`` for unknown sizes."""
    assert profile.cube_cores is not None
    work = cube_work(op, profile)
    return None if work is None else work.cycles(profile.cube_cores)


def vector_cycles(ops: Sequence[Op], profile: Profile) -> int | None:
    """Cycles of the busiest vector core over ``ops`` run one after the other, by the larger of operands and results."""
    cores = profile.vector_cores or profile.cube_cores
    assert cores is not None
    total = 0
    for op in ops:
        values = [v for v in (*op.operands, *op.results) if v is not None]
        sizes = [s for v in values if (s := _elements(v.type)) is not None]
        if len(sizes) < len(values):
            return None
        total += VECTOR_STEPS * ceil_div(max(sizes, default=0), VECTOR_LANES * cores)
    return total


def anti_quant_cycles(op: Op, profile: Profile) -> int | None:
    """Cycles of the busiest vector core to make the float weights of a weight-only product (N21) [I], else 0."""
    if not isinstance(op.kind, ascend.WeightQuantMatMul):
        return 0
    _, weight = _operand_types(op)
    elements, cores = _elements(weight), profile.vector_cores or profile.cube_cores
    assert cores is not None
    return None if elements is None else VECTOR_STEPS * ceil_div(elements, VECTOR_LANES * cores)


def value_bytes(type_: TensorType) -> int | None:
    """Bytes of a value in the target's memory, where floating-point numbers take two at most."""
    bits = min(type_.elem.bits, 16) if type_.is_float else type_.elem.bits
    elements = _elements(type_)
    return None if elements is None else ceil_div(elements * bits, 8)


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def _convolution(op: Op, c0: int) -> CubeWork | None:
    """ceil(Ho·Wo/16)·N1·batch tiles of K1 steps, for every group of channels the cube works on.

    Groups narrower than a block are merged, as the vendor's ``CalculateGroup`` does, into one with zeros off the
    diagonal. A transposed convolution multiplies every input position by all of the kernel, which counts as N [I].
    """
    x, w = _operand_types(op)
    assert isinstance(op.kind, Convolution)
    transposed, groups = isinstance(op.kind, Transposed), op.kind.group
    walked = x if transposed else op.results[0].type
    positions, batch, kernel = _product(*walked.dims[2:]), _batch(walked), _product(*w.dims[2:])
    first, second = w.dims[:2]
    if positions is None or batch is None or kernel is None:
        return None
    if not isinstance(first, int) or not isinstance(second, int):
        return None
    inner, outer = (first // groups, second) if transposed else (second, first // groups)
    if not inner or not outer:
        return CubeWork(0, 0, inner, outer, groups, 0.0)
    merged = min(math.lcm(math.lcm(inner, c0) // inner, math.lcm(outer, CUBE_SIDE) // outer), groups)
    k1, n1 = ceil_div(merged * inner, c0), ceil_div(merged * outer, CUBE_SIDE)
    passes = ceil_div(groups, merged)
    tiles = ceil_div(positions, CUBE_SIDE) * n1 * batch * passes
    padding = 1 - groups * inner * outer / (passes * k1 * c0 * n1 * CUBE_SIDE)
    tiles, steps = (tiles * kernel, k1) if transposed else (tiles, k1 * kernel)
    return CubeWork(tiles, steps, inner, outer, groups, padding)


def _matrix(op: Op, tile: tuple[int, int, int]) -> CubeWork | None:
    """m1·n1·batch tiles of k1 steps. All rows share a constant matrix, so they count as one M."""
    _, w = _operand_types(op)
    result = op.results[0].type
    inner, outputs = _summed(op), _elements(result)
    columns = 1 if w.rank == 1 else result.dims[-1]
    if inner is None or outputs is None or not isinstance(columns, int):
        return None
    if not outputs or not inner:
        return CubeWork(0, 0, inner, columns, 1, 0.0)
    rows = outputs // columns
    per_matrix = rows
    if w.rank > 2:  # every product of a batch has a matrix of its own
        x, _ = _operand_types(op)
        per_matrix = 1 if x.rank == 1 else rows // math.prod(d for d in result.dims[:-2] if isinstance(d, int))
    tiles = rows // per_matrix * ceil_div(per_matrix, tile[0]) * ceil_div(columns, tile[2])
    k1 = ceil_div(inner, tile[1])
    padding = 1 - inner * columns / (k1 * tile[1] * ceil_div(columns, tile[2]) * tile[2])
    return CubeWork(tiles, k1, inner, columns, 1, padding)


def _operand_types(op: Op) -> tuple[TensorType, TensorType]:
    x, w = op.operands[:2]
    assert x is not None
    assert w is not None
    return x.type, w.type


def _summed(op: Op) -> int | None:
    """Length of the sums of a matrix product, from whichever operand knows it."""
    x, w = _operand_types(op)
    kind = op.kind
    left = x.dims[-2 if isinstance(kind, nn.Gemm) and kind.trans_a else -1]
    transposed = isinstance(kind, nn.Gemm | ascend.MatMul | ascend.WeightQuantMatMul) and kind.trans_b
    right = w.dims[0] if w.rank == 1 else w.dims[-1 if transposed else -2]
    return next((d for d in (left, right) if isinstance(d, int)), None)


def _batch(type_: TensorType) -> int | None:
    first = type_.dims[0]
    return 1 if isinstance(first, str) else first


def _elements(type_: TensorType) -> int | None:
    """Number of elements, a symbolic first axis counting as 1."""
    return None if type_.shape is None else _product(*((_batch(type_), *type_.shape[1:]) if type_.shape else ()))


def _product(*sizes: Dim) -> int | None:
    numbers = [s for s in sizes if isinstance(s, int)]
    return math.prod(numbers) if len(numbers) == len(sizes) else None
