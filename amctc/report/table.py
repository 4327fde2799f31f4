"""Tables that fit a terminal: less important columns are left out, then long names shortened; nothing wraps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from amctc.errors import printable

GAP = 2
"""Spaces between columns."""

MIN_NAME = 12
"""A shortened name keeps so many cells."""

STYLES = {"int8": "green", "float": "yellow", "C": "green", "D": "yellow", "I": "red"}
"""Colours of words that say how well something went."""


@dataclass(frozen=True)
class Column:
    """A column of plain text.

    Where there is no room, columns of the highest ``rank`` go first (0 stays), then cells of ``shorten`` columns lose
    their middle. ``footer`` stands below the last row.
    """

    title: str
    cells: Sequence[str]
    right: bool = False
    rank: int = 0
    shorten: bool = False
    footer: str = ""

    @property
    def width(self) -> int:
        """Cells the widest entry takes on a terminal."""
        return max(cell_len(text) for text in (self.title, self.footer, *self.cells))


def fitted(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit into ``width``; names come out printable, and shortened where they must be."""
    kept = [replace(c, cells=[printable(cell, 1000) for cell in c.cells]) for c in columns]
    while _width(kept) > width and any(c.rank for c in kept):
        last = max(kept, key=lambda c: c.rank)
        kept.remove(last)
    while (excess := _width(kept) - width) > 0:
        widest = max((c for c in kept if c.shorten), key=lambda c: c.width, default=None)
        if widest is None or widest.width <= MIN_NAME:
            return kept
        room = max(MIN_NAME, widest.width - excess)
        cells = [shortened(cell, room) for cell in widest.cells]
        kept[kept.index(widest)] = replace(widest, cells=cells, footer=shortened(widest.footer, room))
    return kept


def _width(columns: Sequence[Column]) -> int:
    return sum(c.width for c in columns) + GAP * (len(columns) - 1)


def shortened(text: str, width: int) -> str:
    """``text`` in ``width`` cells: an ellipsis replaces its middle, since layer names differ at both ends."""
    if cell_len(text) <= width:
        return text
    tail = (width - 1) // 2
    head = width - 1 - tail
    while cell_len(text[:head]) + cell_len(text[-tail:]) >= width and head > 1:  # wide characters
        head, tail = head - 1, max(1, tail - 1)
    return f"{text[:head]}…{text[-tail:]}"


def table(columns: Sequence[Column], width: int, *, title: str | None = None) -> Table:
    """A rich table of the columns that fit. All text is taken literally: no markup, no emoji codes."""
    chosen = fitted(columns, width)
    made = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), title=title,
        title_justify="left", title_style="bold", show_footer=any(c.footer for c in chosen), footer_style="bold",
    )  # fmt: skip
    for c in chosen:
        justify = "right" if c.right else "left"
        made.add_column(Text(c.title), Text(c.footer), justify=justify, no_wrap=True, min_width=c.width)  # type: ignore[arg-type]
    for row in zip(*(c.cells for c in chosen), strict=True):
        made.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
    return made
