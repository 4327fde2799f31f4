"""Ops that only move elements take integers and per-tensor quantized elements; scales per channel are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import TypeConstraintError
from amctc.kernels.tables import ORACLE
from amctc.ops import nn
from amctc.schema import OpKind
from amctc.testing import SeededSource, Unfit, draw_sample
from amctc.testing.op_checks import check_evaluation
from amctc.testing.samplers import Wanted, free_operands
from amctc.testing.workbench import Workbench
from amctc.types import BOOL, F32, I8, I64, U8, Elem, QuantizedType, TensorType

MOVES = [nn.Concat, nn.Expand, nn.Flatten, nn.Gather, nn.GlobalMaxPool, nn.Identity, nn.Pad, nn.Reshape, nn.Resize,
         nn.Slice, nn.Split, nn.Squeeze, nn.Transpose, nn.Unsqueeze, nn.Where]  # fmt: skip
ELEMS = [I8, I64, QuantizedType.per_tensor(0.5, 3), QuantizedType.per_tensor(0.25, 128, U8)]


@pytest.mark.parametrize("kind", MOVES, ids=lambda k: k.op_name)
@pytest.mark.parametrize("elem", ELEMS, ids=str)
@given(seed=st.integers(0, 9999))
def test_elements_are_kept(kind: type[OpKind], elem: Elem, seed: int) -> None:
    source = SeededSource(seed)
    try:
        sample, result = draw_sample(source, kind, Wanted(free_operands(source, kind), None, elem))
    except Unfit:
        return
    assert result.elem == elem
    bench = Workbench(source)
    check_evaluation(bench.graph(bench.supplied(sample, ()).op.results), ORACLE)


@pytest.mark.parametrize(
    "kind",
    [nn.Split(0, (1, 1)), nn.Slice((0,), (1,), (0,), (1,)), nn.Unsqueeze((0,)), nn.Expand((2, 3)),
     nn.Pad((0,) * 4, "edge"), nn.Resize((1,), (5,)), nn.Gather(0)],
    ids=lambda k: k.op_name,
)  # fmt: skip
def test_scales_per_channel_are_refused(kind: OpKind) -> None:
    x = TensorType((2, 3), QuantizedType.per_axis([0.5, 0.25], 0))
    operands = (x, TensorType((1,), I64)) if isinstance(kind, nn.Gather) else (x,)
    with pytest.raises(TypeConstraintError, match="per-channel scales") as broken:
        kind.infer(*operands)
    assert broken.value.rule == f"{kind.op_name}.C4"


@pytest.mark.parametrize(
    ("kind", "operands", "rule"),
    [
        (nn.Pad((1, 0)), (TensorType((2,), ELEMS[2]),), "nn.pad.C1"),  # it would have to follow the zero point
        (nn.Pad((1, 0), value=0.5), (TensorType((2,), I8),), "nn.pad.C1"),
        (nn.Pad((1, 0), value=200.0), (TensorType((2,), I8),), "nn.pad.C1"),
        (nn.Pad((2, 0), "reflect"), (TensorType((2,), F32),), "nn.pad.C3"),
        (nn.Pad((-3, 0)), (TensorType((2,), F32),), "nn.pad.C3"),
        (nn.Pad((1,)), (TensorType((2,), F32),), "nn.pad.C2"),
        (nn.Resize((0,), (4,), mode="linear"), (TensorType((2,), I8),), "nn.resize.C1"),
        (nn.Resize((0,), (4,), (2.0,)), (TensorType((2,), F32),), "nn.resize.C3"),
        (nn.Resize((0,), (), (float("nan"),)), (TensorType((2,), F32),), "nn.resize.C3"),
        (nn.Split(0, (1, 2)), (TensorType((2,), F32),), "nn.split.C3"),
        (nn.Slice((0,), (1,), (0,), (0,)), (TensorType((2,), F32),), "nn.slice.C3"),
        (nn.Slice((0, 0), (1, 1), (0, -1), (1, 1)), (TensorType((2,), F32),), "nn.slice.C2"),
        (nn.Squeeze((0,)), (TensorType((2,), F32),), "nn.squeeze.C3"),
        (nn.Unsqueeze((3,)), (TensorType((2,), F32),), "nn.unsqueeze.C2"),
        (nn.Expand((3,)), (TensorType((2,), F32),), "nn.expand.C2"),
        (nn.Gather(1), (TensorType((2,), F32), TensorType((), I64)), "nn.gather.C2"),
        (nn.Gather(0), (TensorType((2,), F32), TensorType((), I8)), "nn.gather.C5"),
        (nn.Where(), (TensorType((2,), I8), TensorType((2,), F32), TensorType((2,), F32)), "nn.where.C5"),
        (nn.Where(), (TensorType((2,), BOOL), TensorType((2,), F32), TensorType((2,), I8)), "nn.where.C4"),
        (nn.PRelu(), (TensorType((2,), F32), TensorType((3, 2), F32)), "nn.prelu.C3"),
        (nn.ReduceMean(()), (TensorType((2,), F32),), "nn.reduce_mean.C2"),
        (nn.GroupNorm(2), (TensorType((1, 3, 2), F32), *[TensorType((3,), F32)] * 2), "nn.group_norm.C4"),
        (nn.LayerNorm(-1), (TensorType((2, 3), F32), TensorType((2, 3), F32)), "nn.layer_norm.C3"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(kind: OpKind, operands: tuple[TensorType, ...], rule: str) -> None:
    with pytest.raises(TypeConstraintError) as broken:
        kind.infer(*operands)
    assert broken.value.rule == rule


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nn.Slice((0,), (2**63 - 1,), (0,), (1,)), ("N", 4)),
        (nn.Slice((-1,), (-(2**63),), (0,), (-1,)), ("N", 4)),
        (nn.Slice((1,), (2**63 - 1,), (0,), (1,)), (None, 4)),
        (nn.Slice((1,), (3,), (1,), (1,)), ("N", 2)),
        (nn.Split(1, (1, 3)), ("N", 1)),
        (nn.Pad((0, 1, 0, 2)), ("N", 7)),
        (nn.Pad((1, 0, 0, 0)), (None, 4)),
        (nn.Resize((0,), (5,)), (5, 4)),
        (nn.Resize((0, 1), (), (2.0, 2.0)), (None, 8)),
        (nn.Expand((3, 1, 4)), (3, "N", 4)),
        (nn.ReduceMean((0,), False), (4,)),
        (nn.Unsqueeze((0, -1)), (1, "N", 4, 1)),
        (nn.Squeeze((0,)), (4,)),
    ],
)
def test_symbolic_dimensions(kind: OpKind, shape: tuple[int | str | None, ...]) -> None:
    assert kind.infer(TensorType(("N", 4), F32))[0].shape == shape
