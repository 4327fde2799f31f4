"""How much memory of the chip a graph needs: its weights, and the activations that are alive at the same time.

An op and the epilogue charged to it (:func:`amctc.cost.grouped`) are one step; what they hand on stays inside the
cores. In each step its inputs, its outputs and everything a later step still reads are alive; graph inputs from the
start to their last reader, graph outputs to the end. Reshapes share their operand's memory. Steps run in the graph's
order, no op works in place, and what the runtime and its workspaces take is not counted. Floating-point values take
two bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from amctc.cost import FREE, grouped, is_constant, kept_inside, with_batch
from amctc.cycles import value_bytes
from amctc.ir import Constant, Graph, Op, Value, layer_name
from amctc.targets import Profile


@dataclass(frozen=True)
class Memory:
    """Bytes on the chip at the fullest moment: ``weights`` and ``activations``, the latter at op ``layer``."""

    weights: int
    activations: int
    layer: str

    @property
    def peak(self) -> int:
        """Both together."""
        return self.weights + self.activations


def peak_memory(graph: Graph, profile: Profile, *, batch: int = 1) -> Memory | None:
    """The memory a graph needs on a chip for a batch; ``None`` where the size of some value is not known."""
    graph = with_batch(graph, batch)
    steps = _steps(graph, profile)
    weights = {o for reads, _, _ in steps for o in reads if is_constant(o)}
    last: dict[Value, int] = {}
    for index, (reads, writes, _) in enumerate(steps):
        last.update(dict.fromkeys((*reads, *writes), index))
    last.update({_owner(value): len(steps) for value in graph.outputs})
    sizes = {value: value_bytes(value.type) for value in {*last, *weights}}
    if None in sizes.values():
        return None
    known = {value: size for value, size in sizes.items() if size is not None}
    alive: set[Value] = {value for value in graph.inputs if value in last}
    fullest, where = sum(known[v] for v in alive), ""
    for index, (_, writes, op) in enumerate(steps):
        alive.update(writes)
        here = sum(known[v] for v in alive)
        if here > fullest or not where:
            fullest, where = max(here, fullest), layer_name(op)
        alive = {v for v in alive if last[v] > index}
    return Memory(sum(known[w] for w in weights), fullest, where)


def _steps(graph: Graph, profile: Profile) -> list[tuple[list[Value], list[Value], Op]]:
    """What each step reads and writes, as owners of memory; accumulators that stay inside left out."""
    found = []
    for op, epilogues in grouped(graph, profile).items():
        ops = (op, *epilogues)
        inside = kept_inside(op, epilogues)
        reads = [_owner(o) for each in ops for o in each.operands if o is not None and o not in inside]
        writes: list[Value] = [r for each in ops for r in each.results if r not in inside]
        found.append((reads, writes, op))
    return found


def _owner(value: Value) -> Value:
    """The value whose memory this one shares: reshapes and identities move nothing."""
    while value.producer is not None and isinstance(value.producer.kind, FREE):
        if isinstance(value.producer.kind, Constant) or value.producer.operands[0] is None:
            break
        value = value.producer.operands[0]
    return value
