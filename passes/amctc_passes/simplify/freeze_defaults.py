"""Make constants of inputs that have a default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from amctc.contract import Contract, Exact
from amctc.ir import Graph, Value, const
from amctc.pipeline import Context, Pass, register
from amctc.substitute import substitute

SHOWN = 3
"""Names of frozen inputs in the note; old exporters list every weight as an input."""


@register
@dataclass(frozen=True)
class FreezeDefaults(Pass):
    """Replace each input that has a default by its default.

    Older exporters list every weight as an input too, with its value as the default that a user may overwrite. What may
    be overwritten cannot be quantized, and calibration sees only the default. Exact for all who feed no such input.
    """

    name: ClassVar[str] = "freeze-defaults"
    contract: ClassVar[Contract] = Contract(effect=Exact(), freezes_defaults=True)

    def run(self, graph: Graph, context: Context) -> Graph:
        """The frozen inputs leave the interface; a note names them."""
        frozen: dict[Value, Value] = {
            i: const(i.default, i.type.elem, name=i.name) for i in graph.inputs if i.default is not None
        }
        if not frozen:
            return graph
        names = ", ".join(str(i.name) for i in list(frozen)[:SHOWN])
        more = f" and {len(frozen) - SHOWN} more" if len(frozen) > SHOWN else ""
        context.note(self.name, graph.name, f"inputs with defaults are constants now: {names}{more}")
        fed, outputs = tuple(i for i in graph.inputs if i not in frozen), substitute(graph, frozen).outputs
        return Graph(fed, outputs, graph.output_names, graph.name, graph.metadata, graph.declared)
