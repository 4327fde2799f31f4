"""``check_rewrite`` accepts right rewrites and refuses wrong ones: each mutant is a mistake seen in a real tool."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from amctc.contract import Changes, Exact, Lossy, Rounding
from amctc.ir import GraphInput, Value, apply, const
from amctc.kernels.ascend_table import ascend_table
from amctc.ops import ascend, nn, quant
from amctc.pattern import Match, NoMatch, any_value, op, weight
from amctc.rewrite import Rewrite, rewrite
from amctc.targets import load_profile
from amctc.testing import Sample, check_rewrite
from amctc.types import F16, F32

x, y, w, b = any_value(name="x"), any_value(name="y"), weight(name="w"), weight(optional=True, name="b")
gamma, beta, mean, var = weight(), weight(), weight(), weight()
c, d = weight(name="c"), weight(name="d")
no_activation = {"where": lambda k: k.activation is None, "wanted": "no fused activation"}
conv = op(nn.Conv, x, w, b, uses=1, **no_activation)
bn = op(nn.BatchNorm, conv, gamma, beta, mean, var)
transposed = op(nn.ConvTranspose, x, w, b, uses=1, **no_activation)
bn_transposed = op(nn.BatchNorm, transposed, gamma, beta, mean, var)
relu = op(nn.Relu, x)
inner_clip = op(nn.Clip, x)
clips = op(nn.Clip, inner_clip)
inner_transpose = op(nn.Transpose, x)
transposes = op(nn.Transpose, inner_transpose)


def scale_of(m: Match, batch_norm=bn, eps=None):
    with np.errstate(all="ignore"):
        return m[gamma] / np.sqrt(m[var].astype(np.float64) + (m[batch_norm].eps if eps is None else eps))


def narrowed(*arrays):
    with np.errstate(all="ignore"):
        found = [np.asarray(a).astype(np.float32) for a in arrays]
    if not all(np.isfinite(a).all() for a in found):
        raise NoMatch("a folded constant overflows")
    return found


def folded(m: Match, scale, axis: int = 0, bias=None, *, layer=conv) -> Value:
    shape = [1] * m[w].ndim
    shape[axis] = -1
    bias = (0.0 if m[b] is None else m[b]) if bias is None else bias
    new_w, new_b = narrowed(m[w] * scale.reshape(shape), (bias - m[mean].astype(np.float64)) * scale + m[beta])
    return apply(m[layer], m.value(x), const(new_w), const(new_b))


@rewrite(bn, effect=Rounding(2))
def fold_batch_norm(m: Match) -> Value:
    """batch_norm(conv(x)) is a conv with scaled weights."""
    return folded(m, scale_of(m))


@rewrite(bn_transposed, effect=Rounding(2))
def fold_transposed(m: Match) -> Value:
    """batch_norm(conv_transpose(x)) scales axis 1 group by group."""
    group, per_group = m[transposed].group, m[w].shape[1]
    scale = scale_of(m, bn_transposed)
    inputs = m[w].shape[0] // group
    rows = np.repeat(scale.reshape(group, per_group), inputs, axis=0)
    bias = 0.0 if m[b] is None else m[b]
    new_w = m[w] * rows.reshape(*rows.shape, *(1,) * (m[w].ndim - 2))
    new_w, new_b = narrowed(new_w, (bias - m[mean].astype(np.float64)) * scale + m[beta])
    return apply(m[transposed], m.value(x), const(new_w), const(new_b))


@rewrite(clips, effect=Exact())
def merge_clips(m: Match) -> Value:
    """A clip of a clip is one clip; bounds of the inner one are clipped by the outer one."""
    a, z = m[inner_clip], m[clips]
    if a.low > a.high or z.low > z.high:
        raise NoMatch("crossing bounds")
    low, high = (min(max(v, z.low), z.high) for v in (a.low, a.high))
    return apply(nn.Clip(low, high), m.value(x))


@rewrite(transposes, effect=Exact())
def merge_transposes(m: Match) -> Value:
    """Two transpositions are one."""
    first, second = m[inner_transpose].permutation, m[transposes].permutation
    return apply(nn.Transpose(tuple(first[i] for i in second)), m.value(x))


inner_mul = op(nn.Mul, x, c, uses=1)
muls = op(nn.Mul, inner_mul, d)


@rewrite(muls, effect=Rounding(1.1))
def merge_muls(m: Match) -> Value:
    """(x · c) · d is x · (c · d); both operand orders of both."""
    (product,) = narrowed(m[c].astype(np.float64) * m[d])
    return apply(nn.Mul(), m.value(x), const(product))


residual = op(
    nn.Conv, x, w, b, uses=1, wanted="one group, no stride, no activation",
    where=lambda k: k.group == 1 and set(k.strides) == {1} and not any(k.pads) and k.activation is None,
)  # fmt: skip
total = op(nn.Add, residual, x)


@rewrite(total, effect=Rounding(2))
def fold_residual(m: Match) -> Value:
    """conv(x) + x is a 1x1 conv with the identity added, where it keeps its shape."""
    kind = m[residual]
    if set(m[w].shape[2:]) != {1} or m.value(x).type != m.value(residual).type:
        raise NoMatch("not a 1x1 conv that keeps its shape")
    eye = np.eye(m[w].shape[0]).reshape(m[w].shape)
    (new_w,) = narrowed(m[w] + eye)
    rest = [] if m[b] is None else [m.value(b)]
    return apply(kind, m.value(x), const(new_w), *rest)


dequantize = op(quant.Dequantize, x)
requantized = op(quant.Quantize, dequantize)


@rewrite(requantized, effect=Exact())
def drop_requantize(m: Match) -> Value:
    """quantize(dequantize(q)) is q where both agree."""
    q = m.value(x)
    if q.type.elem != m[requantized].to:
        raise NoMatch("other quantizer")
    return q


dequantized = op(ascend.Dequant, x, c, where=lambda k: not k.relu, wanted="no activation yet", uses=1)
activated = op(nn.Relu, dequantized)


@rewrite(activated, effect=Exact())
def fuse_relu(m: Match) -> Value:
    """The accumulator's relu is the float one, as scales are positive."""
    return apply(replace(m[dequantized], relu=True), *m.values(x, c))


RIGHT = [fold_batch_norm, fold_transposed, merge_clips, merge_transposes, merge_muls, drop_requantize]


@pytest.mark.parametrize("rule", RIGHT, ids=lambda r: r.name)
def test_accepts(rule):
    report = check_rewrite(rule)
    assert report.compared == report.firings >= 50
    assert set(report.perturbations) >= {"none", "shared weights"}
    assert str(report).startswith(rule.name)
    assert "\n" not in str(report)


def test_residual_connections_can_be_drawn():
    report = check_rewrite(fold_residual)
    assert report.firings >= 50


def test_integer_ops():
    report = check_rewrite(fuse_relu, kernels=ascend_table(load_profile("ascend910b1")))
    assert report.compared >= 50

    @rewrite(dequantized, effect=Exact())
    def always_relu(m: Match) -> Value:
        """Relu where there was none."""
        return apply(replace(m[dequantized], relu=True), *m.values(x, c))

    with pytest.raises(AssertionError, match="property 'same results' fails"):
        check_rewrite(always_relu, kernels=ascend_table(load_profile("ascend910b1")))


def test_float16():
    @rewrite(bn, effect=Rounding(2))
    def fold_half(m: Match) -> Value:
        """The fold in the weight's own type."""
        if m[w].dtype == np.float32:
            return folded(m, scale_of(m))
        scale = scale_of(m)
        bias = (0.0 if m[b] is None else m[b]) - m[mean].astype(np.float64)
        with np.errstate(all="ignore"):
            new_w = (m[w] * scale.reshape(-1, *(1,) * (m[w].ndim - 1))).astype(np.float16)
            new_b = (bias * scale + m[beta]).astype(np.float16)
        if not (np.isfinite(new_w).all() and np.isfinite(new_b).all()):
            raise NoMatch("overflow")
        return apply(m[conv], m.value(x), const(new_w), const(new_b))

    assert check_rewrite(fold_half, elems=(F32, F16)).firings >= 50


@pytest.mark.parametrize(("steps", "right"), [(0.5, True), (3.0, False)])
def test_lossy_effects_are_counted_in_steps(steps, right):
    same = op(nn.Identity, x)
    stored = op(quant.Quantize, same, where=lambda k: k.to.axis is None, wanted="one scale")

    @rewrite(stored, effect=Lossy(1))
    def shift(m: Match) -> Value:
        """Adds some steps before quantizing."""
        moved = np.asarray(m[stored].to.scales[0] * steps, np.float32)
        return apply(m[stored], apply(nn.Add(), m.value(x), const(moved)))

    if right:
        report = check_rewrite(shift)
        assert report.compared == report.firings >= 50
    else:
        with pytest.raises(AssertionError, match=r"property 'same results' fails.*allowed is 1 \(lossy, 1 quantizer"):
            check_rewrite(shift)


def test_changes_are_noted_not_compared():
    @rewrite(relu, effect=Changes("a test"))
    def drop_relu(m: Match) -> Value:
        """Relu does nothing."""
        return m.value(x)

    report = check_rewrite(drop_relu)
    assert report.firings >= 50
    assert report.compared == 0


def mutant(pattern, effect=None):
    def enter(function):
        return rewrite(pattern, effect=effect)(function)

    return enter


@mutant(bn)
def forgets_the_bias(m):
    return folded(m, scale_of(m), bias=0.0)


@mutant(bn_transposed)
def scales_the_wrong_axis(m):
    if m[w].shape[0] != scale_of(m, bn_transposed).size or m[transposed].group != 1:
        raise NoMatch("shapes would not fit")
    return folded(m, scale_of(m, bn_transposed), axis=0, layer=transposed)


@mutant(bn_transposed)
def ignores_the_group(m):
    scale = scale_of(m, bn_transposed)
    per_group = m[w].shape[1]
    new_w = m[w] * scale[:per_group].reshape(1, -1, *(1,) * (m[w].ndim - 2))
    bias = 0.0 if m[b] is None else m[b]
    new_w, new_b = narrowed(new_w, (bias - m[mean].astype(np.float64)) * scale + m[beta])
    return apply(m[transposed], m.value(x), const(new_w), const(new_b))


@mutant(bn)
def ignores_eps(m):
    return folded(m, scale_of(m, eps=0.0))


@mutant(bn)
def takes_gamma_as_positive(m):
    return folded(m, np.abs(scale_of(m)))


shared_conv = op(nn.Conv, x, w, b, **no_activation)
shared_bn = op(nn.BatchNorm, shared_conv, gamma, beta, mean, var)


@mutant(shared_bn)
def duplicates_a_shared_layer(m):
    return folded(m, scale_of(m, shared_bn), layer=shared_conv)


activated_conv = op(nn.Conv, x, w, b, uses=1, fused=True)
activated_bn = op(nn.BatchNorm, activated_conv, gamma, beta, mean, var)


@mutant(activated_bn)
def overlooks_the_fused_activation(m):
    return folded(m, scale_of(m, activated_bn), layer=activated_conv)


@mutant(bn)
def folds_in_half_precision(m):
    with np.errstate(all="ignore"):
        return folded(m, scale_of(m).astype(np.float16).astype(np.float64))


@mutant(bn)
def crashes_without_a_bias(m):
    return folded(m, scale_of(m), bias=m[b].astype(np.float64))


relu_of_conv = op(nn.Relu, conv)


to_half = op(nn.Cast, x, where=lambda k: k.to == F16, wanted="a cast to float16")
to_single = op(nn.Cast, to_half, where=lambda k: k.to == F32, wanted="a cast to float32")


@mutant(to_single)
def drops_a_narrowing_cast(m):
    if m.value(x).type.elem != F32:
        raise NoMatch("not float32 before")
    return m.value(x)


unary_product = op(nn.Mul, x, y)


@mutant(unary_product, Rounding(1))
def folds_the_default_of_an_input(m):
    if not isinstance(m.value(y), GraphInput) or m.value(y).default is None:
        raise NoMatch("no default")
    return apply(nn.Mul(), const(m.value(y).default), m.value(x))


@mutant(relu_of_conv, Exact())
def removes_the_relu(m):
    return m.value(conv)


@mutant(clips, Exact())
def intersects_disjoint_clips(m):
    a, z = m[inner_clip], m[clips]
    return apply(nn.Clip(max(a.low, z.low), min(a.high, z.high)), m.value(x))


@mutant(transposes, Exact())
def composes_in_the_wrong_order(m):
    first, second = m[inner_transpose].permutation, m[transposes].permutation
    return apply(nn.Transpose(tuple(second[i] for i in first)), m.value(x))


@mutant(relu, Exact())
def rebuilds_its_own_pattern(m):
    return apply(nn.Relu(), m.value(x))


@mutant(relu, Exact())
def gives_another_element_type(m):
    return apply(nn.Cast(F16), m.value(x))


@mutant(bn)
def overflows(m):
    with np.errstate(all="ignore"):
        scale = scale_of(m).astype(np.float16).astype(np.float32)
        new_w = (m[w] * scale.reshape(-1, *(1,) * (m[w].ndim - 1))).astype(np.float32)
        new_b = (((0 if m[b] is None else m[b]) - m[mean]) * scale + m[beta]).astype(np.float32)
    return apply(m[conv], m.value(x), const(new_w), const(new_b))


@mutant(bn)
def never_fires(m):
    raise NoMatch("not today")


@mutant(relu, Exact())
def mutates_its_match(m):
    producer = m.value(relu).producer
    producer.kind = nn.LeakyRelu()
    return m.value(x)


counter = itertools.count()
sigmoid = op(nn.Sigmoid, x)


@mutant(op(nn.Identity, sigmoid), Exact())
def counts_its_calls(m):
    return apply(nn.Sigmoid(), m.value(x), name=f"call{next(counter)}")


difference = op(nn.Sub, x, y)


@mutant(op(nn.Identity, difference), Exact())
def swaps_a_difference(m):
    return apply(nn.Sub(), m.value(y), m.value(x))


@mutant(muls, Exact())
def calls_rounding_exact(m):
    return apply(nn.Mul(), m.value(x), const(narrowed(m[c] * m[d])[0]))


gemm = op(nn.Gemm, x, w, b, uses=1, **no_activation)
scaled = op(nn.Mul, gemm, c)


@mutant(scaled)
def ignores_the_gemm_bias(m):
    if m[c].size != 1:
        raise NoMatch("not a scalar")
    kind = m[gemm]
    rest = [] if m[b] is None else [m.value(b)]
    if m[c].ndim > 2:
        raise NoMatch("raises the rank")
    return apply(replace(kind, alpha=kind.alpha * float(m[c].reshape(()))), *m.values(x, w), *rest)


average = op(nn.AveragePool, x)


@mutant(average)
def pools_maxima(m):
    k = m[average]
    return apply(nn.MaxPool(k.strides, k.pads, k.dilations, k.kernel, k.ceil_mode), m.value(x))


sums = op(nn.Add, op(nn.Relu, x), y)


@mutant(sums, Exact())
def reads_past_its_match(m):
    beyond = m.value(x).producer
    return apply(nn.Add(), apply(nn.Relu(), m.value(x)), m.value(x)) if beyond is None else m.value(y)


WRONG = {
    forgets_the_bias: "same results", scales_the_wrong_axis: "same results", ignores_the_group: "same results|runs",
    ignores_eps: "same results", takes_gamma_as_positive: "same results", duplicates_a_shared_layer: "no layer twice",
    overlooks_the_fused_activation: "same results", folds_in_half_precision: "same results",
    drops_a_narrowing_cast: "same results", folds_the_default_of_an_input: "same results",
    crashes_without_a_bias: "runs", removes_the_relu: "same results", intersects_disjoint_clips: "same results",
    composes_in_the_wrong_order: "same results|builds well-typed ops", rebuilds_its_own_pattern: "terminates",
    gives_another_element_type: "builds well-typed ops", overflows: "same results", never_fires: "not vacuous",
    mutates_its_match: "arguments unchanged", counts_its_calls: "deterministic", swaps_a_difference: "same results",
    calls_rounding_exact: "same results", ignores_the_gemm_bias: "same results", pools_maxima: "same results",
    reads_past_its_match: "same results|builds well-typed ops|terminates",
}  # fmt: skip


@pytest.mark.parametrize("rule", WRONG, ids=lambda r: r.name)
def test_refuses(rule: Rewrite):
    with pytest.raises(AssertionError, match=rf"property '({WRONG[rule]})' fails") as caught:
        check_rewrite(rule)
    message = str(caught.value)
    assert message.startswith(f"{rule.name} (")
    assert f"repeat with: check_rewrite({rule.name}, seed=0" in message
    if "not vacuous" not in message:
        assert 'graph "graph"(' in message
        assert len(message.splitlines()) < 40


def test_a_failure_names_element_and_tolerance():
    with pytest.raises(AssertionError, match=r"element \[.*\] was .* and is .*: they differ by .*, allowed is"):
        check_rewrite(forgets_the_bias)


def test_a_failure_repeats():
    with pytest.raises(AssertionError) as first:
        check_rewrite(removes_the_relu)
    with pytest.raises(AssertionError) as second:
        check_rewrite(removes_the_relu)
    assert str(first.value) == str(second.value)


def test_a_vacuous_rule_says_why_it_declined():
    with pytest.raises(AssertionError, match=r"fired 0 times on .* graphs.*not today.*samplers="):
        check_rewrite(never_fires, examples=10)


def test_samplers_serve_narrow_patterns():
    narrow = op(nn.Clip, x, where=lambda k: k.high == 7.125, wanted="a bound no sampler draws")

    @rewrite(narrow, effect=Exact())
    def open_clip(m: Match) -> Value:
        """A test."""
        return apply(nn.Clip(m[narrow].low, 7.125 - 1e-3), m.value(x))

    def sample(source, wanted):
        type_ = wanted.operand(0) or wanted.result or F32
        if type_ is F32:
            from amctc.testing import draw_type

            type_ = draw_type(source, F32)
        return Sample(nn.Clip(0.0, 7.125), (type_,))

    with pytest.raises(AssertionError, match="same results"):
        check_rewrite(open_clip, samplers={narrow: sample})
