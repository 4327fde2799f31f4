"""quant.observe: statistics as attributes, merged where values share a range."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.errors import InputError, TypeConstraintError
from amctc.ir import Graph, GraphInput, apply
from amctc.numerics.histogram import Histogram
from amctc.ops import quant
from amctc.parser import parse_graph
from amctc.text import print_graph
from amctc.types import F32, Array, TensorType

X = GraphInput("x", TensorType((4,), F32))


def seen(*values: float, bins: int = 256, average: tuple[float, ...] = ()) -> quant.Observe:
    return quant.Observe.of(Histogram.empty(bins).updated(np.float32(values)), average)


def test_merging_is_observing_both() -> None:
    first, second = seen(-1, 0.5, 0), seen(3, 0.25)
    assert first.merged(second).histogram == seen(-1, 0.5, 0, 3, 0.25).histogram
    assert first.merged(second) == second.merged(first)


@pytest.mark.parametrize(
    ("first", "second", "hull"),
    [((-1.0, 2.0), (0.0, 3.0), (-1.0, 3.0)), ((0.0, 0.0), (1.0, 2.0), (0.0, 2.0)), ((-1.0, 2.0), (), ()),
     ((), (0.0, 0.0), ())],
)  # fmt: skip
def test_averages_merge_where_both_were_made(
    first: tuple[float, ...], second: tuple[float, ...], hull: tuple[float, ...]
) -> None:
    assert seen(1, average=first).merged(seen(2, average=second)).average == hull


def test_other_bins_do_not_merge() -> None:
    with pytest.raises(InputError, match="256 and 512 bins"):
        seen(1).merged(seen(1, bins=512))


@pytest.mark.parametrize("average", [(1.0,), (2.0, 1.0), (0.0, 1.0, 2.0), (float("nan"), 1.0)])
def test_an_average_has_two_ends(average: tuple[float, ...]) -> None:
    with pytest.raises(TypeConstraintError, match=r"averaged range .*quant\.observe\.C4"):
        apply(seen(1, average=average), X)


def test_text_keeps_the_average() -> None:
    graph = Graph((X,), (apply(seen(1, average=(-0.1, 1e-3)), X),), ("y",))
    kind = parse_graph(print_graph(graph)).ops[0].kind
    assert isinstance(kind, quant.Observe)
    assert kind.average == (-0.1, 1e-3)
    counts: Array = kind.histogram.counts
    assert counts.sum() == 1
