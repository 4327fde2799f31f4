"""The measurement of mutation scores: its statistics, how it prepares sources, and the review of survivors."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from tools.mutation.__main__ import GOAL, REVIEW, ROOT, listed, undecorated, wilson

ENTRY = re.compile(
    r"^- `(?P<module>[\w.]+)`:(?P<why>[^`]*(?:\n  [^-].*)*)\n  - `(?P<before>.*)`\n  - `(?P<after>.*)`$", re.M
)


def test_the_interval_by_hand() -> None:
    """4 of 5: (0.8 + 3.8416/10 ± 1.96·sqrt(0.16/5 + 3.8416/100)) / (1 + 3.8416/5)."""
    spread = 1.96 * math.sqrt(0.032 + 0.038416)
    assert wilson(4, 5) == pytest.approx(((1.18416 - spread) / 1.76832, (1.18416 + spread) / 1.76832))
    low, high = wilson(150, 150)
    assert high == pytest.approx(1.0)
    assert low > 0.97
    assert wilson(90, 100)[0] < GOAL < 0.9


def test_decorators_become_calls() -> None:
    source = (
        "@a\n@b(1)\ndef f(x):\n    return x\n\n"
        "class C:\n    @property\n    def p(self): return 1\n\n    @staticmethod\n    def s(): return 2\n"
    )
    assert undecorated(source) == (
        "def f(x):\n    return x\nf = a(b(1)(f))\n\n"
        "class C:\n    def p(self): return 1\n    p = property(p)\n\n    @staticmethod\n    def s(): return 2\n"
    )


def test_a_survivor_is_listed_by_every_line_it_changes_in_an_entry_of_its_module() -> None:
    review = "# R\n\n- `p.m`: why.\n  - `a < b`\n  - `a <= b`\n- `p.n`: why.\n  - `a < b`\n  - `a > b`\n"
    assert listed("p.m.x_f__mutmut_1", "-    a < b\n+    a <= b", review)
    assert not listed("p.m.x_f__mutmut_2", "-    a < b\n+    a > b", review)
    assert listed("p.n.xǁCǁf__mutmut_2", "-    a < b\n+    a > b", review)
    assert not listed("p.x_f__mutmut_2", "-    a < b\n+    a > b", review)


def test_the_review_is_of_the_code_as_it_is() -> None:
    entries = list(ENTRY.finditer(REVIEW.read_text("utf-8")))
    assert len(entries) == REVIEW.read_text("utf-8").count("\n- `")
    for entry in entries:
        module, before = entry["module"], entry["before"]
        folder = ROOT / "passes" if module.startswith("amctc_passes") else ROOT
        path = folder / Path(*module.split(".")).with_suffix(".py")
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        assert before in lines, f"{module} no longer says {before}"
        assert entry["after"] != before
        assert entry["why"].strip()
