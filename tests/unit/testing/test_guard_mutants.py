"""The tool that switches off preconditions finds every form of them, and a few fixed ones are noticed by a test."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

from tools.mutation.guards import distances, reachable, unit_tests
from tools.mutation.preconditions import ROOT, module_paths, preconditions

SOURCE = dedent('''
    def _small(kind):
        """No predicate: nothing says that it returns a bool."""
        return kind.size < 3

    def _plain(kind: K) -> bool:
        return not kind.odd and kind.size < 3

    layer = op(LAYERS, x, uses=1)
    halved = op(nn.Mul, number(0.5), x, where=_plain, wanted="plain")

    def fold(m):
        if (a := m[x]) is None or not 0 < a.size <= 8:
            raise NoMatch(f"size {a}")
        if a.odd:
            raise KeyError("no precondition")

    def obstacle(op) -> str | None:
        if op.grouped:
            return "a grouped convolution"
        if op.wide and op.deep:
            return None
        return None if op.even else "odd size"

    def name(op) -> str | None:
        return None if op is None else f"{op}.quant"

    def lowered(op):
        if op.tall:
            remedy = "cut it"
            raise UnsupportedError("too tall", remedy=remedy)
''').lstrip()

FOUND = {
    ("'plain'", "kind.odd"): "((kind.odd) and False)",
    ("'plain'", "kind.size < 3"): "((kind.size < 3) or True)",
    ("'LAYERS: uses=1'", "op(LAYERS, x, uses=1)"): "op(LAYERS, x, uses=None)",
    ("'LAYERS: no fused activation'", "op(LAYERS, x, uses=1)"): "op(LAYERS, x, uses=1, fused=True)",
    ("'the number 0.5'", "number(0.5)"): "number()",
    ("'size …'", "(a := m[x]) is None"): "if (((a := m[x]) is None) and False) or not",
    ("'size …'", "((0) < (a.size))"): "or not (((a.size) <= (8))):",
    ("'size …'", "((a.size) <= (8))"): "or not (((0) < (a.size))):",
    ("'a grouped convolution'", "op.grouped"): "if ((op.grouped) and False):",
    ("'odd size'", "op.even"): "return None if ((op.even) or True) else",
    ("'too tall'", "op.tall"): "if ((op.tall) and False):",
}


def test_every_form_is_found_and_can_be_switched_off() -> None:
    found = {(repr(p.name), p.source): p for p in preconditions("m", SOURCE)}
    assert set(found) == set(FOUND)
    for key, precondition in found.items():
        mutant = precondition.switched_off(SOURCE)
        assert FOUND[key] in mutant
        assert FOUND[key] not in SOURCE
        compile(mutant, "mutant", "exec")


def test_tests_are_chosen_by_what_can_reach_a_module() -> None:
    assert distances("amctc_patterns.layers")["amctc_patterns.batch_norm"] == 1
    assert distances("amctc_patterns.layers")["amctc_passes.fuse.fold_batch_norm"] == 2
    assert reachable("amctc.rewrites", "amctc_patterns.moves") == ["merge_reshapes", "merge_transposes"]
    assert unit_tests("amctc_patterns.pads")[0] == "tests/unit/passes/test_fold_pad.py"


def test_the_packages_have_preconditions_of_every_form() -> None:
    found = [str(p) for name, path in module_paths().items() for p in preconditions(name, path.read_text("utf-8"))]
    assert len(found) == len(set(found)) > 200
    for text in (
        "'axes move'",
        "uses=1",
        "no fused activation",
        "the number 3.0",
        "'relu6'",
        "'a grouped convolution'",
    ):
        assert any(text in line for line in found)


A_FEW = ("'axes move'", "amctc_patterns.activation", "amctc_passes.lower.pack_constants")


def test_a_few_preconditions_are_needed() -> None:
    """A reason, two constraints of a pattern, a refusal; ``python -m tools.mutation.guards`` tries all there are."""
    words = [word for text in A_FEW for word in ("--only", text)]
    done = subprocess.run([sys.executable, "-m", "tools.mutation.guards", *words], cwd=ROOT, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 preconditions killed" in done.stdout
    assert "SURVIVED" not in done.stdout
