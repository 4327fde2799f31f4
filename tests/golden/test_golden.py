"""Pages of text: a graph, a pipeline, the graph it must become.

Each ``*.page`` begins with ``# pipeline: …``; the input graph follows, then ``# ----``, then the output, printed with
large constants elided. ``AMCTC_UPDATE_GOLDEN=1`` writes the outputs anew: read the difference before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amctc.parser import parse_graph
from amctc.pipeline import Pipeline
from amctc.text import print_graph

PAGES = sorted(Path(__file__).parent.glob("*.page"))
RULE = "# ----\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    source, _, expected = text.partition(RULE)
    header, _, graph = source.partition("graph ")
    (pipeline,) = (line.removeprefix("# pipeline: ") for line in header.splitlines() if line.startswith("# pipeline: "))
    result = print_graph(Pipeline.parse(pipeline).run(parse_graph(f"graph {graph}")).graph, elide=True)
    if os.environ.get("AMCTC_UPDATE_GOLDEN"):
        page.write_text(source + RULE + result, encoding="utf-8")
    else:
        assert result == expected


def test_there_are_pages() -> None:
    assert len(PAGES) >= 10
