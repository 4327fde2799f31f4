"""Translation validation and bisection: right passes pass, a wrong one is named, cut out and written down."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from amctc.api import save
from amctc.bisection import Bisection
from amctc.contract import Changes, Contract, Exact, Rounding
from amctc.errors import MiscompileError
from amctc.interp import evaluate
from amctc.ir import Graph, GraphInput, Op, Origin, Value, apply, const
from amctc.kernels.tables import ORACLE
from amctc.ops import nn
from amctc.parser import parse_graph
from amctc.pattern import Match, any_value, op, weight
from amctc.pipeline import Context, Pass, PatternPass, Pipeline, register
from amctc.rewrite import Rewrite, rewrite
from amctc.substitute import convert
from amctc.types import F32, I64, TensorType
from amctc.validate import Validation
from tests.command_line import invoke

x, w = any_value(), weight()
product = op(nn.Mul, x, w)
relu = op(nn.Relu, x)


@rewrite(product, effect=Rounding(2))
def negate_twice(m: Match) -> Value:
    """x · w is -(x · -w), and wrongly so where w is 3."""
    if (m[w] < 0).any():
        return m.value(product)
    size = np.float32(4) if (m[w] == 3).all() else m[w]
    return apply(nn.Neg(), apply(nn.Mul(), m[x], const(np.full(m[w].shape, -size, np.float32))))


@rewrite(relu, effect=Exact())
def relu_as_clip(m: Match) -> Value:
    """relu(x) is clip(x, 0, 1000): wrong above."""
    return apply(nn.Clip(0.0, 1000.0), m[x])


@register
@dataclass(frozen=True)
class NegateTwice(PatternPass):
    """Wrong at one factor."""

    name: ClassVar[str] = "test-negate-twice"
    contract: ClassVar[Contract] = Contract(effect=Rounding(2))

    def rewrites(self) -> tuple[Rewrite, ...]:
        return (negate_twice,)


@register
@dataclass(frozen=True)
class ReluAsClip(PatternPass):
    """Wrong on large numbers, which few models compute."""

    name: ClassVar[str] = "test-relu-as-clip"
    contract: ClassVar[Contract] = Contract(effect=Exact())

    def rewrites(self) -> tuple[Rewrite, ...]:
        return (relu_as_clip,)


@register
@dataclass(frozen=True)
class DropTanh(Pass):
    """Drops tanh without a rewrite, and says that this is exact."""

    name: ClassVar[str] = "test-drop-tanh"
    contract: ClassVar[Contract] = Contract(effect=Exact())

    def run(self, graph: Graph, context: Context) -> Graph:
        def dropped(op: Op, operands: tuple[Value | None, ...]) -> tuple[Value, ...] | None:
            (first, *_) = (*operands, None)
            return (apply(nn.Identity(), first),) if isinstance(op.kind, nn.Tanh) else None

        return convert(graph, dropped)


@register
@dataclass(frozen=True)
class Blur(DropTanh):
    """The same, admitted."""

    name: ClassVar[str] = "test-blur"
    contract: ClassVar[Contract] = Contract(effect=Changes("test"))


first, second = weight(), weight()
inner = op(nn.Add, x, first, uses=1)
sums = op(nn.Add, inner, second)


@rewrite(sums, effect=Rounding(2, algebraic=True))
def forget_second(m: Match) -> Value:
    """(x + c) + d is no x + c, which shows only where d is not lost beside c."""
    return apply(nn.Add(), m[x], m.value(first))


@rewrite(sums, effect=Rounding(2, algebraic=True))
def merge_sums(m: Match) -> Value:
    """(x + c) + d is x + (c + d)."""
    return apply(nn.Add(), m[x], const(m[first] + m[second]))


@register
@dataclass(frozen=True)
class MergeSums(PatternPass):
    """Two sums to one, rightly or wrongly."""

    right: bool = True

    name: ClassVar[str] = "test-merge-sums"
    contract: ClassVar[Contract] = Contract(effect=Rounding(2))

    def rewrites(self) -> tuple[Rewrite, ...]:
        return (merge_sums if self.right else forget_second,)


def chain(*factors: float, middle: nn.Relu | nn.Tanh | None = None) -> Graph:
    """A product with each factor, in order, with ``middle`` after the first."""
    start = GraphInput("x", TensorType(("N", 2), F32))
    y: Value = start
    for i, factor in enumerate(factors):
        y = apply(
            nn.Mul(), y, const(np.full((1, 2), factor, np.float32)), name=f"m{i}", origins=(Origin(f"mul{i}", "Mul"),)
        )
        if middle is not None and i == 0:
            y = apply(middle, y, name="middle", origins=(Origin("act", "Relu"),))
    return Graph((start,), (y,), ("y",))


def disagree(folder: Path) -> bool:
    """Whether the reproducer in a folder shows what it claims, read back from its files."""
    before, after = (parse_graph((folder / f"miscompile.{n}.txt").read_text()) for n in ("before", "after"))
    with np.load(folder / "miscompile.npz") as arrays:
        feeds = dict(arrays)
    first, second = (evaluate(g, feeds, ORACLE) for g in (before, after))
    assert before.output_names == after.output_names
    return not all(np.array_equal(first[n], second[n], equal_nan=True) for n in first)


def test_right_passes_are_compared(tmp_path: Path) -> None:
    validation = Validation(tmp_path)
    Pipeline.parse("test-negate-twice").run(chain(2, 5, 7), Context(validate=validation))
    assert validation.compared == 4  # three applications and the outputs
    assert "4 comparisons" in str(validation)
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_application_is_named_and_written_down(tmp_path: Path) -> None:
    with pytest.raises(MiscompileError) as caught:
        Pipeline.parse("test-negate-twice").run(chain(2, 5, 3, 7), Context(validate=Validation(tmp_path)))
    assert caught.value.exit_status == 1
    assert caught.value.where == "pass test-negate-twice, rewrite negate_twice at mul2"
    assert "miscompile.before.txt" in (caught.value.remedy or "")
    before = parse_graph((tmp_path / "miscompile.before.txt").read_text())
    assert [op.kind.op_name for op in before.ops] == ["const", "nn.mul"]  # the one product, not the four
    assert disagree(tmp_path)


def test_edge_inputs_find_what_samples_do_not_reach(tmp_path: Path) -> None:
    graph = chain(2, middle=nn.Relu())
    samples = [{"x": np.ones((2, 2), np.float32)}]
    Pipeline.parse("test-relu-as-clip").run(graph, Context(samples=samples, validate=Bisection(tmp_path)))
    with pytest.raises(MiscompileError, match="relu_as_clip at act"):
        Pipeline.parse("test-relu-as-clip").run(graph, Context(samples=samples, validate=Validation(tmp_path)))
    assert disagree(tmp_path)


def shifted(*shifts: float) -> Graph:
    """A sum with each shift, in order."""
    start = GraphInput("x", TensorType(("N", 2), F32))
    y: Value = start
    for i, shift in enumerate(shifts):
        origins = (Origin(f"add{i}", "Add"),)
        y = apply(nn.Add(), y, const(np.full((1, 2), shift, np.float32)), name=f"a{i}", origins=origins)
    return Graph((start,), (y,), ("y",))


def test_algebraic_applications_are_proved(tmp_path: Path) -> None:
    validation = Validation(tmp_path)
    Pipeline.parse("test-merge-sums").run(shifted(1, 1e-12), Context(validate=validation))
    assert validation.proved == 1
    assert str(validation).endswith("all within the contracts; proved on exact rationals: 1 instances")


def test_an_error_that_every_tolerance_hides_is_found_by_proof(tmp_path: Path) -> None:
    """10^-12 beside 1: both programs give the same floats on this model, and the rewrite is wrong all the same."""
    graph, wrong = shifted(1, 1e-12), Pipeline.parse("test-merge-sums{right=false}")
    Pipeline.parse(str(wrong)).run(graph, Context(validate=Bisection(tmp_path)))
    with pytest.raises(MiscompileError, match=r"equal in exact arithmetic.*on powers of two") as caught:
        wrong.run(graph, Context(validate=Validation(tmp_path)))
    assert caught.value.where == "pass test-merge-sums, rewrite forget_second at add1"
    assert disagree(tmp_path)


def test_a_layer_of_a_million_weights_is_proved_in_small(tmp_path: Path) -> None:
    data, matrix = GraphInput("x", TensorType((1, 1 << 20), F32)), const(np.ones((1 << 20, 1), np.float32))
    graph = Graph((data,), (apply(nn.Gemm(alpha=2.0), data, matrix),), ("y",))
    context = Context(validate=(validation := Validation(tmp_path)))
    Pipeline.parse("fold-gemm-factors").run(graph, context)
    assert validation.proved == 1
    assert not context.notes


@pytest.mark.parametrize("look", [Validation, Bisection])
def test_a_pass_without_rewrites_is_cut_at_named_values(tmp_path: Path, look: type) -> None:
    graph = chain(2, 5, 7, middle=nn.Tanh())
    with pytest.raises(MiscompileError, match="pass test-drop-tanh"):
        Pipeline.parse("test-drop-tanh").run(graph, Context(validate=look(tmp_path)))
    before = parse_graph((tmp_path / "miscompile.before.txt").read_text())
    assert [op.kind.op_name for op in before.ops] == ["nn.tanh"]
    assert disagree(tmp_path)


def test_what_changes_results_on_purpose_keeps_its_interface() -> None:
    validation = Validation()
    Pipeline.parse("test-blur").run(chain(2, middle=nn.Tanh()), Context(validate=validation))
    assert validation.compared == 1


def test_a_pass_without_kernels_is_noted_not_failed(tmp_path: Path) -> None:
    context = Context(validate=Bisection(tmp_path), samples=[])
    Pipeline.parse("test-blur").run(chain(2, middle=nn.Tanh()), context)
    assert [n.text for n in context.notes] == ["not compared: changes results: test"]


@pytest.mark.parametrize(("look", "said"), [(Validation, "validated: 2"), (Bisection, "none of 0 .*; 2 could not")])
def test_drawn_inputs_that_do_not_suit_are_noted_not_blamed(tmp_path: Path, look: type, said: str) -> None:
    """Drawn indices lie outside an axis of three, which hides the outputs; cuts before it are still compared."""
    table, index = GraphInput("t", TensorType((3, 4), F32)), GraphInput("i", TensorType((2,), I64))
    chosen = apply(nn.Gather(0), apply(nn.Identity(), table), apply(nn.Identity(), index))
    graph, context = Graph((table, index), (chosen,), ("y",)), Context(validate=look(tmp_path))
    Pipeline.parse("drop-identity").run(graph, context)
    assert re.search(said, str(context.validate))
    (note,) = context.notes
    assert "not compared: " in note.text
    assert note.text.endswith("of an axis of 3 elements (samples may help)")
    context = Context(validate=look(tmp_path), samples=[{"t": np.ones((3, 4), np.float32), "i": np.array([0, 2])}])
    Pipeline.parse("drop-identity").run(graph, context)
    assert not context.notes


@pytest.mark.parametrize("position", [0, 3, 6])
def test_bisection_finds_the_application(tmp_path: Path, position: int) -> None:
    factors = [2.0] * 7
    factors[position] = 3.0
    with pytest.raises(MiscompileError) as caught:
        Pipeline.parse("test-negate-twice").run(chain(*factors), Context(validate=Bisection(tmp_path)))
    place = f"application {position + 1} (number {position + 1} of its 7), rewrite negate_twice at mul{position}"
    assert caught.value.where == f"pass test-negate-twice, {place}"
    assert disagree(tmp_path)


def test_bisection_names_the_first_of_two(tmp_path: Path) -> None:
    with pytest.raises(MiscompileError, match="at mul1"):
        Pipeline.parse("test-negate-twice").run(chain(2, 3, 2, 3, 2), Context(validate=Bisection(tmp_path)))


def test_bisection_counts_over_passes(tmp_path: Path) -> None:
    graph = chain(2, 2, middle=nn.Relu())
    looking = Bisection(tmp_path)
    Pipeline.parse("fold-affine,drop-identity,fuse-activation").run(graph, Context(validate=looking))
    assert f"none of {looking.applications} " in str(looking)


# -------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(chain(2, 3, 2), tmp_path / "model.onnx")
    return tmp_path


@pytest.mark.parametrize("option", ["--validate", "--bisect"])
def test_command_line_ends_with_status_1(here: Path, option: str) -> None:
    result = invoke("run", "test-negate-twice", "model.onnx", option, "-o", "out.onnx")
    assert result.exit_code == 1
    assert "rewrite negate_twice at mul1" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (here / "out.onnx").exists()
    assert disagree(here)


@pytest.mark.parametrize(("option", "said"), [("--validate", "validated: 1"), ("--bisect", "none of 0")])
def test_command_line_says_what_was_compared(here: Path, option: str, said: str) -> None:
    save(chain(2, middle=nn.Relu()), here / "model.onnx")
    result = invoke("run", "test-blur,fold-constants,drop-identity", "model.onnx", option)
    assert result.exit_code == 0, result.output
    assert said in result.stdout or "validated" in said


def test_compress_validates_its_passes(here: Path) -> None:
    np.savez(here / "cal.npz", x=np.ones((4, 2), np.float32))
    result = invoke("compress", "model.onnx", "-d", "cal.npz", "-o", "out", "--validate")
    assert result.exit_code == 0, result.output
    assert "validated: " in result.stdout
    assert not list((here / "out").glob("miscompile*"))


def test_one_way_to_look_at_a_time(here: Path) -> None:
    result = invoke("run", "drop-identity", "model.onnx", "--validate", "--bisect")
    assert result.exit_code == 2
    assert "choose one" in result.stderr
