"""Every op kind that has a sampler, on drawn instances; and every float kind has a sampler."""

import pytest

from amctc.schema import OpKind, op_kinds
from amctc.testing import check_op, has_sampler

DRAWN = [kind for name, kind in op_kinds().items() if has_sampler(kind) and name.startswith(("nn.", "quant."))]


@pytest.mark.parametrize("kind", DRAWN, ids=lambda k: k.op_name)
def test_op(kind: type[OpKind]):
    check_op(kind)


@pytest.mark.parametrize("name", [n for n in op_kinds() if n.startswith(("nn.", "quant."))])
def test_every_float_op_has_a_sampler(name: str):
    assert has_sampler(op_kinds()[name])
