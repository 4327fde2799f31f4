"""Tables that fit a terminal: less important columns are left out, then long names shortened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from amctc.errors import printable

GAP = 2
"""Spaces between columns."""

MIN_NAME = 12
"""A shortened name keeps so many cells."""

NAME_SHARE = 0.4
"""A longer name than this share of the line is shortened before a column is left out."""


@dataclass(frozen=True)
class Column:
    """A column of plain text.

    Where there is no room, columns of the highest ``rank`` go first (0 stays), then cells of ``shorten`` columns lose
    their middle, and cells of ``wrap`` columns go on in the next line. ``footer`` stands below the last row.
    ``styles`` colour the cells, if there is one for each.
    """

    title: str
    cells: Sequence[str]
    right: bool = False
    rank: int = 0
    shorten: bool = False
    wrap: bool = False
    footer: str = ""
    styles: Sequence[str] = ()

    @property
    def width(self) -> int:
        """Cells the widest entry takes on a terminal."""
        return max(cell_len(text) for text in (self.title, self.footer, *self.cells))


def fitted(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit into ``width``; names come out printable, and shortened where they must be."""
    kept = [replace(c, cells=[printable(cell, 1000) for cell in c.cells]) for c in columns]
    comfortable = max(MIN_NAME, int(width * NAME_SHARE))
    while _width(kept, comfortable) > width and any(c.rank for c in kept):
        kept.remove(max(kept, key=lambda c: c.rank))
    if any(c.wrap for c in kept):
        return kept
    while (excess := _width(kept) - width) > 0:
        widest = max((c for c in kept if c.shorten), key=lambda c: c.width, default=None)
        if widest is None or widest.width <= MIN_NAME:
            return kept
        room = max(MIN_NAME, widest.width - excess)
        cells = [shortened(cell, room) for cell in widest.cells]
        kept[kept.index(widest)] = replace(widest, cells=cells, footer=shortened(widest.footer, room))
    return kept


def _width(columns: Sequence[Column], longest_name: int | None = None) -> int:
    """Cells a row takes, names counted up to ``longest_name``."""
    widths = [min(c.width, longest_name) if longest_name and (c.shorten or c.wrap) else c.width for c in columns]
    return sum(widths) + GAP * (len(columns) - 1)


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
        box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), title=title,
        title_justify="left", title_style="bold", show_footer=any(c.footer for c in chosen), footer_style="bold",
    )  # fmt: skip
    for c in chosen:
        justify: Literal["left", "right"] = "right" if c.right else "left"
        made.add_column(Text(c.title), Text(c.footer), justify=justify, no_wrap=not c.wrap,
                        min_width=MIN_NAME if c.wrap else c.width)  # fmt: skip
    for row in range(len(chosen[0].cells)):
        made.add_row(*(Text(c.cells[row], c.styles[row] if c.styles else "") for c in chosen))
    return made


def print_table(columns: Sequence[Column], console: Console) -> None:
    """A table as wide as the console at most; in a file, lines do not end in spaces."""
    if console.is_terminal:
        console.print(table(columns, console.width))
        return
    with console.capture() as captured:
        console.print(table(columns, console.width))
    console.file.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
