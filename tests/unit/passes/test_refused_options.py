"""What passes refuse: options, word for word, and the last values they take; layers and providers not to be found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from amctc.errors import UsageError
from amctc.ir import Graph, GraphInput, Origin, Value, apply, const
from amctc.ops import nn
from amctc.pipeline import Context, Pipeline
from amctc.types import F32, TensorType
from amctc_passes.balance.equalize import Equalize
from amctc_passes.compress.mask_n_of_m import MaskNOfM
from amctc_passes.compress.mask_weights import MaskWeights
from amctc_passes.compress.plans import Criterion
from amctc_passes.compress.split_low_rank import SplitLowRank
from amctc_passes.lower.legalize import Legalize
from amctc_passes.quantize.place_qdq import PlaceQdq
from amctc_passes.quantize.roll_back import RollBack
from amctc_passes.ranges.observe import Observe
from amctc_passes.weights.quantize_weights import QuantizeWeights
from amctc_passes.weights.quantize_weights_only import QuantizeWeightsOnly
from amctc_passes.weights.round_weights import RoundWeights

REFUSED: tuple[tuple[Callable[[], object], str], ...] = (
    (lambda: MaskWeights(sparsity=1.0), "sparsity=1.0 is not at least 0 and below 1"),
    (lambda: MaskWeights(sparsity=-0.1), "sparsity=-0.1 is not at least 0 and below 1"),
    (lambda: MaskNOfM(n=0), "n=0 is not at least 1 and below m=4"),
    (lambda: MaskNOfM(n=4), "n=4 is not at least 1 and below m=4"),
    (lambda: Criterion(rank=1, energy=0.5), "rank and energy each decide the rank: give one of them"),
    (lambda: Criterion(ratio=0.5, evbmf=True), "ratio and evbmf each decide the rank: give one of them"),
    (lambda: Criterion(rank=0), "rank=0 is not at least 1"),
    (lambda: Criterion(energy=0.0), "energy=0.0 is not above 0 and at most 1"),
    (lambda: Criterion(energy=1.5), "energy=1.5 is not above 0 and at most 1"),
    (lambda: Criterion(ratio=0.0), "ratio=0.0 is not between 0 and 1"),
    (lambda: Criterion(ratio=1.0), "ratio=1.0 is not between 0 and 1"),
    (lambda: Criterion(multiple=0), "multiple=0 is not at least 1"),
    (lambda: SplitLowRank(rank=0), "rank=0 is not at least 1"),
    (lambda: SplitLowRank(evbmf=True, method="pointwise"),
     "evbmf splits kernels into k×1 and 1×k, not method=pointwise"),
    (lambda: Equalize(strength=0.0), "strength=0.0 is not above 0 and at most 1"),
    (lambda: Equalize(strength=1.5), "strength=1.5 is not above 0 and at most 1"),
    (lambda: Observe(bins=128), "bins=128 is no power of two of at least 256"),
    (lambda: Observe(bins=384), "bins=384 is no power of two of at least 256"),
    (lambda: Observe(rate=0.0), "a moving average moves by a rate in (0, 1], not 0.0"),
    (lambda: Observe(percentile=50.0), "a percentile is in (50, 100], not 50.0"),
    (lambda: PlaceQdq(bits=12), "bits=12: activations are stored in 4, 8, 16 bits"),
    (lambda: PlaceQdq(percentile=50.0), "percentile=50.0 is not above 50 and at most 100"),
    (lambda: PlaceQdq(percentile=100.5), "percentile=100.5 is not above 50 and at most 100"),
    (lambda: QuantizeWeights(bits=5), "bits=5: weights are stored in 4 or 8 bits"),
    (lambda: QuantizeWeightsOnly(bits=16), "bits=16: weights are stored in 4 or 8 bits"),
    (lambda: QuantizeWeightsOnly(group=-32), "group=-32 is no multiple of 32"),
    (lambda: QuantizeWeightsOnly(group=33), "group=33 is no multiple of 32"),
    (lambda: RollBack(budget=-0.5), "budget=-0.5 is no share"),
    (lambda: RollBack(budget=1.5), "budget=1.5 is no share"),
    (lambda: RollBack(samples=0), "samples=0 is not positive"),
    (lambda: RoundWeights(bits=2), "bits=2: weights are stored in 4 or 8 bits"),
    (lambda: RoundWeights(damping=0.0), "damping=0.0 is not above 0 and at most 1"),
    (lambda: RoundWeights(damping=1.5), "damping=1.5 is not above 0 and at most 1"),
    (lambda: RoundWeights(columns=0), "columns=0 is below 1"),
)  # fmt: skip


@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refused_options_are_named_with_their_bounds(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        build()
    assert str(caught.value) == message


def test_the_bounds_themselves_are_taken() -> None:
    MaskWeights(sparsity=0.0)
    MaskNOfM(n=1, m=2)
    MaskNOfM(n=3)
    for options in ({"rank": 1}, {"energy": 1.0}, {"ratio": 0.999}, {"evbmf": True}, {"multiple": 1}):
        Criterion(**options)
    SplitLowRank(evbmf=True, method="auto")
    SplitLowRank(method="pointwise")
    Equalize(strength=1.0)
    Observe(bins=256, rate=1.0, percentile=100.0)
    PlaceQdq(bits=16, percentile=100.0)
    QuantizeWeights(bits=4)
    QuantizeWeightsOnly(bits=4, group=32)
    RollBack(budget=0.0, samples=1)
    RollBack(budget=1.0)
    RoundWeights(bits=4, damping=1.0, columns=1)


def test_legalize_knows_its_target_before_it_runs() -> None:
    Legalize(target="ascend310")
    with pytest.raises(UsageError, match="ascend999"):
        Legalize(target="ascend999")


X = GraphInput("x", TensorType((1, 2), F32))


def network() -> Graph:
    """Layers a and b, unquantized."""
    y: Value = X
    for name in ("a", "b"):
        weight = const(np.float32([[1, 2], [3, 5]]), name=f"{name}.weight")
        y = apply(nn.MatMul(), y, weight, name=f"{name}.out", origins=(Origin(name, "MatMul"),))
    return Graph((X,), (y,), ("y",))


PATTERNS = (
    ("mask-weights{layers=c*}", "layers"), ("mask-weights{skip=c*}", "skip"), ("mask-n-of-m{layers=c*}", "layers"),
    ("split-low-rank{rank=1 skip=c*}", "skip"), ("place-qdq{skip=c*}", "skip"),
    ('place-qdq{override=["c*{symmetric}"]}', "override"), ("quantize-weights{int4=c*}", "int4"),
    ("quantize-weights-only{skip=c*}", "skip"), ("round-weights{int4=c*}", "int4"),
)  # fmt: skip


@pytest.mark.parametrize(("text", "option"), PATTERNS)
def test_a_pattern_that_matches_no_layer_is_refused_under_its_option(text: str, option: str) -> None:
    samples = [{"x": np.float32([[1, -2]])}]
    before = "observe," if text.startswith("place-qdq") else "observe,place-qdq," if "round" in text else ""
    with pytest.raises(UsageError) as caught:
        Pipeline.parse(before + text).run(network(), Context(samples=samples))
    assert f"{option} 'c*' matches no layer" in str(caught.value)
    assert caught.value.remedy == "there are, for example, a, b"


@pytest.mark.parametrize(
    "text", ["observe", "equalize", "observe,place-qdq,roll-back", "observe,place-qdq,round-weights"]
)
def test_passes_that_run_the_network_do_so_on_the_provider_asked_for(text: str) -> None:
    samples = [{"x": np.float32([[1, -2]])}]
    *before, last = text.split(",")
    graph = Pipeline.parse(",".join(before)).run(network(), Context(samples=samples)).graph if before else network()
    with pytest.raises(UsageError, match="no provider 'abacus'"):
        Pipeline.parse(last).run(graph, Context(samples=samples, provider="abacus"))
