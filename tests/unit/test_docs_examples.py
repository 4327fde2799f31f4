"""The Python examples of the pages for authors run as they stand, in the order of the page."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from amctc import pipeline

DOCS = Path(__file__).resolve().parents[2] / "docs"
AFTER = {"write-a-pass.md": ["write-a-rewrite.md"]}
"""A page whose examples go on from those of others."""


def examples(page: str) -> str:
    """All Python blocks of a page as one program."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("page", ["prove-a-rewrite.md", "write-a-rewrite.md", "write-a-pass.md", "search.md"])
def test_examples_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(pipeline, "_passes", dict(pipeline._passes))
    source = "\n".join(examples(p) for p in (*AFTER.get(page, []), page))
    script = tmp_path / "example.py"
    script.write_text(source)
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    if page == "prove-a-rewrite.md":
        assert "property 'same results' fails" in printed
        assert "drop_relu (exact): " in printed
        assert "merge-relus (exact): " in printed
