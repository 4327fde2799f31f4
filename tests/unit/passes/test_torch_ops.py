"""Every op that has a form in PyTorch gives there what it gives in the evaluator, on drawn instances."""

from __future__ import annotations

import numpy as np
import pytest

from amctc.interp import Plan
from amctc.ir import Constant, Graph
from amctc.kernels.tables import ORACLE
from amctc.magnitude import MAGNITUDE
from amctc.ops import quant
from amctc.testing.arrays import Recipe, feed
from amctc.testing.strategies import op_graphs
from amctc.testing.violations import explore

torch = pytest.importorskip("torch", reason="the extra 'reconstruct' is not installed")
from amctc_passes.reconstruct.torch_ops import TRANSLATIONS, computed, tensor, untranslated  # noqa: E402

KINDS = [kind for kind in TRANSLATIONS if kind not in (Constant, quant.Quantize, quant.Dequantize)]
EPSILON = 2.0**-23


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_op_agrees_with_its_kernel(kind: type) -> None:
    """In float32 sums of K terms differ from exact ones by K roundings of their magnitude."""
    compared = 0

    def examine(graph: Graph) -> None:
        nonlocal compared
        if untranslated(graph.ops) is not None:
            return
        feeds = feed(graph.inputs, Recipe(5), {"N": 2})
        with np.errstate(all="ignore"):
            (exact,) = Plan(graph, ORACLE, float_type=np.float64).run(feeds).values()
            (magnitude,) = Plan(graph, MAGNITUDE, float_type=np.float64).run(feeds).values()
        known = {value: tensor(feeds[value.name]) for value in graph.inputs}
        with torch.no_grad():
            found = computed(graph.ops, known, {})[graph.outputs[0]].numpy()
        terms = max((d for o in graph.ops for v in o.operands if v is not None for d in _sizes(v)), default=1)
        assert found.shape == exact.shape
        compared += exact.size
        usable = np.isfinite(exact) & np.isfinite(magnitude) & (np.abs(exact) < 1e30)
        bound = (terms + 8) ** 2 * EPSILON * np.maximum(np.abs(magnitude), np.abs(exact)) + 1e-30
        assert (np.abs(found[usable] - exact[usable]) <= bound[usable]).all()

    explore(op_graphs(kind), examine, examples=15, seed=0)
    assert compared


def _sizes(value: object) -> list[int]:
    return [d for d in value.type.dims if isinstance(d, int)]  # type: ignore[attr-defined]
