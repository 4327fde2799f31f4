"""How a layer is to be split: the rank of every way there is, and which way is best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from amctc.concurrency import in_order
from amctc.errors import InputError
from amctc.ir import Op, constant_data
from amctc.numerics.low_rank import rank_by_energy, rank_by_ratio, relative_error
from amctc.numerics.rank_estimate import SplitMode, split_mode, split_rank
from amctc.numerics.threads import single_threaded_blas
from amctc.ops import nn
from amctc.types import Array
from amctc_passes.compress.selection import weight_obstacle
from amctc_passes.compress.splits import Method, Split, obstacle, splits

DEFAULT_RATIO = 0.5


class Plan(NamedTuple):
    """A way to split a layer, the rank, and the share of the weight's norm that is lost."""

    split: Split
    rank: int
    error: float

    @property
    def cost(self) -> float:
        """Multiply-accumulates per position of the result."""
        return self.rank * self.split.per_rank


@dataclass(frozen=True)
class Criterion:
    """What decides the rank: at most one of ``rank``, ``energy``, ``ratio`` and ``evbmf``; a ratio of 0.5 if none does.

    Ranks that follow from energy (rounded up) and ratio (down) are multiples of ``multiple``, or full.
    """

    rank: int | None = None
    energy: float | None = None
    ratio: float | None = None
    evbmf: bool = False
    multiple: int = 16

    def __post_init__(self) -> None:
        options = {"rank": self.rank, "energy": self.energy, "ratio": self.ratio, "evbmf": self.evbmf or None}
        given = [n for n, v in options.items() if v is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each decide the rank: give one of them")
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank={self.rank} is not at least 1")
        if self.energy is not None and not 0.0 < self.energy <= 1.0:
            raise ValueError(f"energy={self.energy} is not above 0 and at most 1")
        if self.ratio is not None and not 0.0 < self.ratio < 1.0:
            raise ValueError(f"ratio={self.ratio} is not between 0 and 1")
        if self.multiple < 1:
            raise ValueError(f"multiple={self.multiple} is not at least 1")

    def plans(self, ops: Sequence[Op], method: Method, executor: Executor) -> Iterator[Plan | str]:
        """For each layer the best way to split it, or why it stays whole; ``executor`` finds singular values.

        Of the ways that save multiply-accumulates the one of least error, by energy the cheapest.
        """
        ways = [self._ways(op, method) for op in ops]
        weights = ((constant_data(o.operands[1]), w) for o, w in zip(ops, ways, strict=True) if not isinstance(w, str))
        arrays = ((data.read(), tuple(w)) for data, w in weights if data is not None)
        found = in_order(executor, _singular, arrays)
        for op, way in zip(ops, ways, strict=True):
            yield way if isinstance(way, str) else self._best(op, way, next(found))

    def _best(self, op: Op, ways: list[Split], singular: list[NDArray[np.float64]] | str) -> Plan | str:
        """The best of some ways, of which the singular values are known, or why there are none."""
        if isinstance(singular, str):
            return singular
        try:
            plans = [self._ranked(way, op, values) for way, values in zip(ways, singular, strict=True)]
        except InputError as error:
            return error.what
        if not (found := [p for p in plans if p.rank]):
            return f"no rank that is a multiple of {self.multiple} costs so little"
        if not (saving := [p for p in found if p.cost < p.split.full]):
            cheapest = min(found, key=lambda p: p.cost)
            share = cheapest.cost / cheapest.split.full
            return f"rank {cheapest.rank} would take {share:.0%} of its multiply-accumulates"
        return min(saving, key=self._order)

    def _order(self, plan: Plan) -> tuple[float, float]:
        error = round(plan.error, 9)  # two orientations of a symmetric kernel differ by the rounding of the SVD
        return (error, plan.cost) if self.energy is None else (plan.cost, error)

    def _ways(self, op: Op, method: Method) -> list[Split] | str:
        """The ways to split a layer, or why there are none."""
        reason, data = weight_obstacle(op) or obstacle(op), constant_data(op.operands[1])
        if reason is not None or data is None:
            return reason or ""
        if data.dtype.kind != "f":
            return f"NumPy has no singular values of {data.dtype.name}"
        ways = list(splits(op, "spatial" if self.evbmf else method))
        if not self.evbmf:
            return ways or "a kernel needs two extents above 1 for a spatial split"
        kind, w = op.kind, op.operands[1]
        assert w is not None
        if w.type.rank != 4:
            return "the existing tool splits 2-d convolutions only"
        assert isinstance(kind, nn.Conv)  # a product with a stack of matrices does not split at all
        outputs, inputs, height, width = _sizes(op)
        (down, across), (tall, wide) = kind.strides, kind.dilations
        mode = split_mode(inputs, outputs, (height, width), strides=(down, across), dilations=(tall, wide))
        if mode is SplitMode.UNCHANGED:
            return "the existing tool splits no convolution of this form"
        return [w for w in ways if w.form == ("vertical" if mode.vertical_first else "horizontal")]

    def _ranked(self, way: Split, op: Op, singular: NDArray[np.float64]) -> Plan:
        if self.evbmf:
            outputs, inputs, height, width = _sizes(op)
            rank = split_rank(singular, inputs, outputs, (height, width))
        elif self.rank is not None:
            rank = min(self.rank, way.most)
        elif self.energy is not None:
            least = rank_by_energy(singular, self.energy)
            rank = min(-(-least // self.multiple) * self.multiple, way.most)
        else:
            ratio = DEFAULT_RATIO if self.ratio is None else self.ratio
            rank = rank_by_ratio(ratio, way.full, way.per_rank, way.most, multiple=self.multiple)
        return Plan(way, rank, relative_error(singular, rank))


def _singular(work: tuple[Array, tuple[Split, ...]]) -> list[NDArray[np.float64]] | str:
    """The singular values of a weight for each way to split it, or why it has none."""
    weight, ways = work
    try:
        with single_threaded_blas():  # so that ranks near a limit do not depend on the number of cores
            return [way.singular(weight) for way in ways]
    except InputError as error:
        return error.what


def _sizes(op: Op) -> tuple[int, ...]:
    """The dimensions of a constant weight."""
    data = constant_data(op.operands[1])
    assert data is not None
    return data.shape
