"""Which choices a run depends on, that the passes honour each, and what `evaluate_variants` counts."""

from __future__ import annotations

import numpy as np
import pytest

import amctc
from amctc.api import evaluate_variants
from amctc.errors import UsageError
from amctc.examples import calibration_path, model_path
from amctc.examples import test_path as samples_path
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.numerics.fixed_point import pack_dequant
from amctc.ops import ascend, nn
from amctc.pipeline import Context, Pipeline
from amctc.report.build import used_choices
from amctc.session import Session, compiled
from amctc.targets import Profile, load_profile
from amctc.types import F16, F32, I8, I32, Elem, TensorType

A2, A310 = load_profile("ascend910b1"), load_profile("ascend310")


@pytest.fixture(scope="module")
def deploys() -> dict[str, Graph]:
    """The shipped example for a chip of each epilogue."""
    graph = amctc.load(model_path())
    samples = amctc.open_samples_for(graph, calibration_path(), preprocess="unit", limit=32)
    targets = ("ascend910b1", "ascend310p3", "ascend310")
    return {t: amctc.compress(graph, samples, target=t, compare_samples=2).deploy_graph for t in targets}


def images(graph: Graph, count: int) -> amctc.api.Samples:
    return amctc.open_samples_for(graph, samples_path(), preprocess="unit", limit=count)


@pytest.mark.parametrize("target", ["ascend910b1", "ascend310p3", "ascend310"])
def test_each_other_value_of_each_choice_is_run(deploys: dict[str, Graph], target: str) -> None:
    deploy, profile = deploys[target], load_profile(target)
    samples = images(deploy, 40)
    reference = Session(model_path())
    results = evaluate_variants(deploy, samples, reference)
    session = Session(deploy)
    used = used_choices(session.graph, profile)
    expected = [(c.name, v) for c in used for v in profile.choice(c.name).alternatives]
    assert [(r.choice, r.value) for r in results] == expected
    plain = amctc.evaluate(session, samples, reference)
    for r in results:
        other = Session(deploy, target=profile.replace_choice(r.choice, r.value))
        scores = amctc.evaluate(other, samples, reference)
        assert r.simulated
        assert r.default == profile.choice(r.choice).value
        assert (r.agreement, r.sqnr_db) == (scores.agreement, pytest.approx(scores.sqnr_db))
        assert r.same is not None
        assert r.same_class is not None
        assert 0 <= r.same <= r.same_class <= 1
        assert (r.same == 1) <= (scores.sqnr_db == plain.sqnr_db)
    by_name = {r.choice: r for r in results}
    assert by_name["quant_mode"].same != 1
    assert ("dequant_guard" in by_name) == (target == "ascend310")
    assert by_name["max_pool_int8"].same == 1


def test_without_a_reference_only_the_plain_run_is_compared_with(deploys: dict[str, Graph]) -> None:
    deploy = deploys["ascend910b1"]
    results = evaluate_variants(deploy, images(deploy, 8), target="ascend310p3", fusion=False)
    assert results
    assert {(r.agreement, r.sqnr_db) for r in results} == {(None, None)}
    assert all(r.same_class is not None for r in results)


def test_a_model_without_target_arithmetic_has_no_variants() -> None:
    with pytest.raises(UsageError, match="a float model has no variants"):
        evaluate_variants(model_path(), [])


# ------------------------------------------------------------------------------- choices that the compiler follows


def given(*shape: int, elem: Elem = I32) -> GraphInput:
    return GraphInput("x", TensorType(shape, elem))


def lowered(*kinds: object, field: int = 0) -> Graph:
    """The ops one after the other on a dequantized accumulator."""
    x = given(1, 4)
    y: Value = apply(ascend.Dequant(1), x, const(pack_dequant(np.full(1, 0.01, np.float32), field)))
    for kind in kinds:
        y = apply(kind, y)  # type: ignore[call-overload]
    return Graph((x,), (y,), ("y",))


def names(graph: Graph, profile: Profile = A2) -> set[str]:
    return {c.name for c in used_choices(compiled(graph, profile), profile)}


def test_a_requantization_counts_whether_it_is_made_or_not() -> None:
    graph = lowered(nn.Relu(), ascend.Quant(10.0, 0))
    assert "requant" in names(graph, load_profile("ascend310p3"))
    assert "requant" in names(graph, A310)
    assert "requant" not in names(graph)  # certain there
    assert "requant" not in names(lowered(nn.Relu()), A310)


def test_leaky_relu_is_fused_or_not() -> None:
    graph = lowered(nn.LeakyRelu(0.1), ascend.Quant(10.0, 0))
    assert "requant_leaky" in names(graph)
    unfused = A2.replace_choice("requant_leaky", "unfused")
    kinds = [op.kind.op_name for op in compiled(graph, unfused).ops]
    assert "ascend.requant" not in kinds
    assert "nn.leaky_relu" in kinds
    assert "requant_leaky" in names(graph, unfused)
    assert any(isinstance(op.kind, ascend.Requant) for op in compiled(graph, A2).ops)
    relu = lowered(nn.Relu(), ascend.Quant(10.0, 0))
    assert any(isinstance(op.kind, ascend.Requant) for op in compiled(relu, unfused).ops)


def test_shift_overflow_and_int4_are_listed_when_they_occur() -> None:
    assert "shift_field" in names(lowered(field=2))
    assert "shift_field" not in names(lowered())
    graph = compiled(lowered(), A2)
    assert "accumulate_overflow" in {c.name for c in used_choices(graph, A2, overflowed=True)}
    assert "accumulate_overflow" not in names(lowered())
    from amctc.types import I4

    x = given(1, 2, 3, 3, elem=I8)
    acc = apply(ascend.Conv((1, 1), (0,) * 4, (1, 1)), x, const(np.ones((2, 2, 1, 1), np.int8), I4))
    int4 = Graph((x,), (acc,), ("y",))
    assert "w4a8_conv" in {c.name for c in used_choices(int4, A2)}
    (result,) = evaluate_variants(int4, [{"x": np.ones((1, 2, 3, 3), np.int8)}], target=A2)
    assert (result.choice, result.value, result.simulated, result.same) == ("w4a8_conv", "weight_only", False, None)


def demoted(graph: Graph, **choices: str) -> dict[str, Elem]:
    """Element types by op name after the compiler."""
    profile = A2
    for name, value in choices.items():
        profile = profile.replace_choice(name, value)
    context = Context(target=profile)
    once = Pipeline.parse("demote-float").run(graph, context).graph
    assert Pipeline.parse("demote-float").run(once, context).graph is once
    assert [v.type for v in once.outputs] == [v.type for v in graph.outputs]
    return {op.kind.op_name: op.results[0].type.elem for op in once.ops if op.kind.op_name.startswith("nn.")}


def island() -> Graph:
    x = given(1, 4)
    a = apply(ascend.Dequant(1), x, const(np.float32([0.01])))
    product = apply(nn.MatMul(), apply(nn.Sigmoid(), a), const(np.eye(4, dtype=np.float32)))
    moved = apply(nn.Transpose((1, 0)), apply(nn.Add(), product, const(np.float32([0.3]))))
    return Graph((x,), (apply(nn.Softmax(0), moved),), ("y",))


@pytest.mark.parametrize(
    ("elementwise", "others", "pointwise", "product", "moved"),
    [("f16", "f16", F16, F16, F16), ("f32", "f16", F32, F16, F32), ("f16", "f32", F16, F32, F16),
     ("f32", "f32", F32, F32, F32)],
)  # fmt: skip
def test_elementwise_ops_and_other_islands_choose_apart(
    elementwise: str, others: str, pointwise: Elem, product: Elem, moved: Elem
) -> None:
    types = demoted(island(), elementwise=elementwise, float_island=others)
    assert (types["nn.sigmoid"], types["nn.add"]) == (pointwise, pointwise)
    assert (types["nn.matmul"], types["nn.softmax"]) == (product, product)
    assert types["nn.transpose"] == moved


def test_types_of_islands_change_the_numbers() -> None:
    feeds = {"x": np.int32([[100, -50, 33, 7]])}
    found = set()
    for elementwise in ("f16", "f32"):
        for others in ("f16", "f32"):
            profile = A2.replace_choice("elementwise", elementwise).replace_choice("float_island", others)
            y = Session(island(), target=profile).run(feeds)["y"]
            assert y.dtype == np.float32
            found.add(y.tobytes())
    assert len(found) == 4
