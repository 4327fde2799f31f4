"""``check_op`` on op kinds of one's own: right ones pass, each kind of mistake is named."""

from dataclasses import dataclass

import numpy as np
import pytest

from amctc.contract import Rounding
from amctc.ir import Value, apply
from amctc.kernels.tables import ORACLE
from amctc.magnitude import MAGNITUDE
from amctc.ops import nn
from amctc.pattern import Match, any_value, op
from amctc.rewrite import rewrite
from amctc.schema import OpKind, register
from amctc.testing import Sample, Source, Wanted, check_op, check_rewrite, draw_type, sampler
from amctc.testing.checks import default_examples


class _Swish(OpKind):
    def infer(self, *operands):
        return (operands[0],)


@register("testing.swish", "x")
@dataclass(frozen=True)
class Swish(_Swish):
    """x · sigmoid(beta · x)."""

    beta: float = 1.0


@register("testing.odd", "x")
@dataclass(frozen=True)
class Odd(_Swish):
    """An op whose attribute does not print the way it parses."""

    steps: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", (*self.steps, 1.0))


def swish(x, beta):
    with np.errstate(all="ignore"):
        return x / (1 + np.exp(-beta * x))


@sampler(Swish, Odd)
def sample_swish(source: Source, wanted: Wanted) -> Sample:
    """Slopes of one and a half."""
    x = wanted.operand(0) or wanted.result or draw_type(source, wanted.elem)
    return Sample(Swish(source.choice((1.0, 0.5))), (x,))


KERNELS = {**ORACLE, Swish: lambda op, constants: lambda x: swish(x, op.kind.beta)}
SIZES = {**MAGNITUDE, Swish: lambda op, constants: lambda x: np.abs(x) * 2}


def test_an_op_of_your_own():
    check_op(Swish, kernels=KERNELS, magnitude=SIZES)
    check_op("testing.swish", kernels=KERNELS, magnitude=SIZES, examples=5)


def test_a_rewrite_to_an_op_of_your_own():
    x = any_value()
    product = op(nn.Mul, x, op(nn.Sigmoid, x))

    @rewrite(product, effect=Rounding(4))
    def make_swish(m: Match) -> Value:
        """x · sigmoid(x) is swish."""
        return apply(Swish(), m.value(x))

    @rewrite(product, effect=Rounding(4))
    def make_wrong_swish(m: Match) -> Value:
        """With another slope."""
        return apply(Swish(0.5), m.value(x))

    assert check_rewrite(make_swish, kernels=KERNELS, magnitude=SIZES).compared >= 50
    with pytest.raises(AssertionError, match="property 'same results' fails"):
        check_rewrite(make_wrong_swish, kernels=KERNELS, magnitude=SIZES)
    with pytest.raises(AssertionError, match=r"property 'evaluates' fails: no entry for testing.swish in kernels"):
        check_rewrite(make_swish)


def shaped(x):
    return swish(x, 1.0).reshape(-1)


def narrowed(x):
    return swish(x, 1.0).astype(np.float16)


@pytest.mark.parametrize(
    ("kernels", "magnitude", "finding"),
    [
        (ORACLE, SIZES, "property 'declared' fails: testing.swish has no kernel"),
        (KERNELS, MAGNITUDE, "property 'declared' fails: testing.swish has no magnitude"),
        ({**ORACLE, Swish: lambda op, c: shaped}, SIZES, "property 'evaluates' fails: the result has shape"),
        ({**ORACLE, Swish: lambda op, c: narrowed}, SIZES, "property 'evaluates' fails: the result holds float16"),
        (KERNELS, {**MAGNITUDE, Swish: lambda op, c: np.negative}, "property 'magnitude' fails"),
    ],
)
def test_mistakes_are_named(kernels, magnitude, finding):
    with pytest.raises(AssertionError, match=finding):
        check_op(Swish, kernels=kernels, magnitude=magnitude)


def test_attributes_that_do_not_round_trip():
    def sample_odd(source: Source, wanted: Wanted) -> Sample:
        return Sample(Odd(), (draw_type(source, wanted.elem),))

    sampler(Odd)(sample_odd)
    tables = {"kernels": {**ORACLE, Odd: KERNELS[Swish]}, "magnitude": {**MAGNITUDE, Odd: SIZES[Swish]}}
    with pytest.raises(AssertionError, match=r"property 'prints and parses' fails(.|\n)*repeat with: check_op"):
        check_op(Odd, **tables)


def test_the_environment_sets_the_number_of_examples(monkeypatch):
    monkeypatch.setenv("AMCTC_EXAMPLES", "7")
    assert default_examples() == 7
    monkeypatch.delenv("AMCTC_EXAMPLES")
    assert default_examples() == 100
