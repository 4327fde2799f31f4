"""Every op kind that has a sampler, on drawn instances; and every kind of ours has a sampler."""

import pytest

from amctc.kernels.ascend_table import ascend_table
from amctc.ops import ascend
from amctc.schema import OpKind, op_kinds
from amctc.targets import load_profile, profile_names
from amctc.testing import check_op, has_sampler

OURS = ("nn.", "quant.", "ascend.")
FLOAT = [kind for name, kind in op_kinds().items() if has_sampler(kind) and name.startswith(("nn.", "quant."))]


@pytest.mark.parametrize("kind", FLOAT, ids=lambda k: k.op_name)
def test_op(kind: type[OpKind]):
    check_op(kind)


@pytest.mark.parametrize("target", profile_names())
@pytest.mark.parametrize("kind", ascend.KINDS, ids=lambda k: k.op_name)
def test_integer_op(kind: type[OpKind], target: str):
    check_op(kind, kernels=ascend_table(load_profile(target)), examples=30)


@pytest.mark.parametrize("name", [n for n in op_kinds() if n.startswith(OURS)])
def test_every_op_has_a_sampler(name: str):
    assert has_sampler(op_kinds()[name])


def test_every_integer_op_is_listed():
    assert {k.op_name for k in ascend.KINDS} == {n for n in op_kinds() if n.startswith("ascend.")}
