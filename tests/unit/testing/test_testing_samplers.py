"""Samplers serve what is asked for: free drawing, a fixed operand, a fixed result."""

import math

import numpy as np
import pytest

from amctc.errors import UsageError
from amctc.ops import nn, quant
from amctc.testing import Recipe, SeededSource, Unfit, Wanted, draw_sample, registered_samplers
from amctc.testing.samplers import Slot, free_operands, sampler_of
from amctc.testing.windows import draw_window
from amctc.types import F16, F32, I8, QuantizedType, TensorType

KINDS = [k for k in registered_samplers() if k.op_name.startswith(("nn.", "quant.", "ascend."))]


def drawn(kind, count=200, **wanted):
    """Samples with everything free, and how many could not be drawn in one try."""
    found, failed = [], 0
    for seed in range(count):
        source = SeededSource(seed)
        source.patience = 1
        try:
            found.append(draw_sample(source, kind, Wanted(free_operands(source, kind), **wanted)))
        except Unfit:
            failed += 1
    return found, failed


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.op_name)
def test_construct_instead_of_filtering(kind):
    found, failed = drawn(kind)
    assert failed <= len(found) * 0.02
    assert len({str(sample) for sample, _ in found}) > 20


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.op_name)
def test_a_drawn_result_can_be_asked_for(kind):
    found, _ = drawn(kind, 60)
    served = 0
    for seed, (_, result) in enumerate(found):
        source = SeededSource(seed)
        try:
            _, again = draw_sample(source, kind, Wanted(free_operands(source, kind), result))
        except Unfit:
            continue
        assert again == result
        served += 1
    assert served >= 0.7 * len(found)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.op_name)
def test_a_drawn_operand_can_be_fixed(kind):
    for seed, (sample, _) in enumerate(drawn(kind, 60)[0]):
        source = SeededSource(seed)
        again, _ = draw_sample(source, kind, Wanted(free_operands(source, kind, sample.operands[0])))
        assert again.operands[0] == sample.operands[0]


def kinds_drawn(kind, count=400):
    return [sample.kind for sample, _ in drawn(kind, count)[0]]


def test_convolutions_are_varied():
    found = drawn(nn.Conv, 400)[0]
    kinds = [s.kind for s, _ in found]
    assert any(k.group == s.operands[0].dims[1] > 1 for (s, _), k in zip(found, kinds, strict=True))  # depthwise
    assert any(k.group > 1 and k.group != s.operands[0].dims[1] for (s, _), k in zip(found, kinds, strict=True))
    assert {len(k.strides) for k in kinds} == {1, 2, 3}
    assert any(max(k.dilations) > 1 for k in kinds)
    assert any(max(k.strides) > 1 for k in kinds)
    assert any(k.pads[0] != k.pads[len(k.strides)] for k in kinds)
    assert any(k.activation is not None for k in kinds)
    assert {s.operands[2] is None for s, _ in found} == {True, False}
    assert any(s.operands[0].dims[0] == "N" for s, _ in found)


def test_other_attributes_are_varied():
    transposed = kinds_drawn(nn.ConvTranspose)
    assert any(k.group > 1 for k in transposed)
    assert any(any(k.output_padding) for k in transposed)
    gemms = kinds_drawn(nn.Gemm)
    assert {(k.trans_a, k.trans_b) for k in gemms} == {(a, b) for a in (True, False) for b in (True, False)}
    assert {k.alpha for k in gemms} >= {1.0, 0.0, -1.5}
    clips = kinds_drawn(nn.Clip)
    assert any(k.low > k.high for k in clips)
    assert any(k.low == -math.inf for k in clips)
    assert {k.ceil_mode for k in kinds_drawn(nn.MaxPool)} == {True, False}
    assert {k.count_include_pad for k in kinds_drawn(nn.AveragePool)} == {True, False}
    assert any(s.operands[0].rank > 2 and s.operands[1].rank > 2 for s, _ in drawn(nn.MatMul, 400)[0])
    assert any(0 in k.shape for k in kinds_drawn(nn.Reshape))
    assert any(-1 in k.shape for k in kinds_drawn(nn.Reshape))
    assert any(k.to.axis is not None for k in kinds_drawn(quant.Quantize))


def test_broadcasting_per_channel_and_scalar():
    shapes = {s.operands[1].rank for s, _ in drawn(nn.Mul, 400)[0] if s.operands[0].rank == 4}
    assert shapes == {0, 1, 3, 4}


def test_a_fixed_type_fixes_the_element_type():
    x = TensorType((2, 3), F16)
    sample, result = draw_sample(SeededSource(0), nn.Add, Wanted((x, Slot.FREE)))
    assert sample.operands[1].elem == F16 == result.elem


def test_both_sides_of_a_convolution_fixed():
    x = TensorType(("N", 3, 5, 5), F32)
    for seed in range(50):
        _, result = draw_sample(SeededSource(seed), nn.Conv, Wanted((x, Slot.FREE), x))
        assert result == x


def test_windows_that_cannot_fit():
    with pytest.raises(Unfit):
        draw_window(SeededSource(0), 2, 3, 6)
    with pytest.raises(Unfit, match="numbers"):
        draw_window(SeededSource(0), "H", 3, None)


def test_an_op_kind_without_sampler():
    from amctc.ops import onnx

    with pytest.raises(UsageError, match=r"no sampler for op kind 'onnx.node'.*@amctc.testing.sampler"):
        sampler_of(onnx.Node)


@pytest.mark.parametrize("special", ["", "integers", "zeros", "negative", "tiny", "large", "channel", "edges"])
def test_recipes(special):
    recipe = Recipe(3, 1.0, special)
    first = recipe.array((4, 5), F32)
    np.testing.assert_array_equal(first, recipe.array((4, 5), F32))
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert (recipe.array((4, 5), F32, nonnegative=True) >= 0).all()
    assert np.isfinite(recipe.array((4, 5), F16)).all()


def test_recipes_of_specials():
    assert not Recipe(special="zeros").array((3,), F32).any()
    assert (Recipe(special="negative").array((9,), F32) < 0).all()
    assert np.isnan(Recipe(special="nonfinite").array((99,), F32)).any()
    channel = np.abs(Recipe(5, special="channel").array((4, 100), F32)).mean(axis=1)
    assert sorted(channel)[-1] > 100 * sorted(channel)[-2]


def test_recipes_of_quantized_types_stay_in_range():
    narrow = QuantizedType(I8, F32, (0.5,), (0,), None, -3, 3)
    stored = Recipe(special="large").array((200,), narrow)
    assert stored.dtype == np.int8
    assert (stored.min(), stored.max()) == (-3, 3)
