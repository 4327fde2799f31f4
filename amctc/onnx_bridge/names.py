"""Unique names for an exported model: hints where they are free, numbered otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from amctc.onnx_bridge.fields import NodeFields


class Names:
    """Hands out each name once. ``reserved`` names are taken from the start."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._taken = set(reserved)
        self._next: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """``hint`` if it is free, else ``hint_1``, ``hint_2``, …"""
        name = hint
        while name in self._taken:
            self._next[hint] = self._next.get(hint, 0) + 1
            name = f"{hint}_{self._next[hint]}"
        self._taken.add(name)
        return name


def node_names(nodes: Sequence[NodeFields]) -> list[str]:
    """The nodes' own names, else ``{op_type}_{index}``, counted per op type in file order (design, decision 11).

    Layers are told apart by them in reports, options and records: a name that is taken gets a number.
    """
    fresh = Names(node.name for node in nodes if node.name).fresh
    counts: dict[str, int] = {}
    names: dict[str, None] = {}
    for node in nodes:
        index = counts.get(node.op_type, 0)
        counts[node.op_type] = index + 1
        own = node.name if node.name not in names else ""
        names[own or fresh(node.name or f"{node.op_type}_{index}")] = None
    return list(names)
