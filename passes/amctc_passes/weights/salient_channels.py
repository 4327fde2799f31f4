"""Scale the inputs of matrix products so that the weights that matter most are rounded best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from amctc.calibrate.frontier import watched
from amctc.ir import Graph, Op, Value, layer_name
from amctc.numerics.parted_gram import PartedGram
from amctc.numerics.weight_only_search import BlockScheme, channel_magnitudes, salience_factors, scaled_loss
from amctc.pipeline import Context
from amctc.types import Array
from amctc_passes.balance.channels import ChannelClasses, channel_classes, contracted
from amctc_passes.balance.rescaled import Factors, rescaled_graph
from amctc_passes.quantize.held_back import SplitGram
from amctc_passes.weights.calibrated_weights import weight_matrix
from amctc_passes.weights.layer_inputs import contraction_of

Numbers = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

ALPHAS = tuple(i / 10 for i in range(1, 11))

_OUTPUTS = 512  # of a layer that choose, evenly spread; all of them judge
_POSITIONS = 64  # of a sample that count, evenly spread
_MEMORY = 1 << 29  # bytes of Gram matrices kept at a time


def scaled_inputs(graph: Graph, schemes: Mapping[Op, BlockScheme], context: Context, source: str) -> Graph:
    """``graph`` with factors on the inputs of the layers of ``schemes``: in real numbers the same function.

    Activation-aware scaling (Lin et al. 2023, AWQ, section 3.2): the weights of an input are multiplied by its
    magnitude to the power α, and what produces it is divided, which is a layer or the scale of a normalisation
    (:func:`~.channels.channel_classes`). Layers that share inputs share α, the one with the least error of their
    outputs. It stands only if no layer's output is worse for it on the samples held back; ``source`` notes it.
    """
    found = channel_classes(graph)
    for ceiling in found.ceilings:  # what is clipped may not grow
        found.pin(ceiling.value)
    search = _Search(found, schemes)
    factors = np.ones(found.count)
    for groups in _fitting(search.groups()):
        grams = _grams(graph, [op for group in groups for op in group], context, source)
        for group in groups:
            alpha = search.alpha(group, grams)
            names = ", ".join(map(layer_name, group))
            if alpha:
                numbers, chosen = search.factors(group, grams, alpha)
                factors[numbers] = 1.0 / chosen
                context.note(source, layer_name(group[0]), f"inputs scaled by their magnitude to the power {alpha} "
                             f"(AWQ), read by {names}")  # fmt: skip
    return rescaled_graph(graph, found, factors[search.classes]) if (factors != 1.0).any() else graph


class _Search:
    """Which α is best for the inputs of layers that share them."""

    def __init__(self, found: ChannelClasses, schemes: Mapping[Op, BlockScheme]) -> None:
        self._found, self._schemes = found, schemes
        self.classes = found.classes()
        self._pinned = np.zeros(found.count, bool)
        self._pinned[found.pinned()] = True

    def groups(self) -> list[list[Op]]:
        """The layers that can be helped, those together that share inputs."""
        groups: list[tuple[set[int], list[Op]]] = []
        for op in self._schemes:
            own = set(self._numbers(op)[~self._pinned[self._numbers(op)]].tolist())
            touching = [g for g in groups if g[0] & own]
            if own:
                merged = own.union(*(g[0] for g in touching)), [*(o for g in touching for o in g[1]), op]
                groups = [g for g in groups if g not in touching] + [merged]
        return [ops for _, ops in groups]

    def alpha(self, group: Sequence[Op], grams: Mapping[Value, SplitGram]) -> float:
        """The best power; 0 where none is better on the samples that choose and worse for no layer on the others."""
        if not all(grams[_data(op)].held_rows for op in group):
            return 0.0
        weights = {op: weight_matrix(op) for op in group}
        some = {op: w[:: -(-len(w) // _OUTPUTS) or 1] for op, w in weights.items()}
        choosing, judging = ({op: g(grams[_data(op)]) for op in group} for g in
                             (SplitGram.to_choose, SplitGram.to_judge))  # fmt: skip
        losses = {a: sum(self._losses(some, grams, a, choosing).values()) for a in (0.0, *ALPHAS)}
        best = min(losses, key=losses.__getitem__)
        before, after = (self._losses(weights, grams, a, judging) for a in (0.0, best))
        return best if all(after[op] <= before[op] for op in group) else 0.0

    def factors(self, group: Sequence[Op], grams: Mapping[Value, SplitGram], alpha: float) -> tuple[Numbers, Factors]:
        """The classes that the inputs of ``group`` belong to and what their weights are multiplied by."""
        total, count = np.zeros(self._found.count), np.zeros(self._found.count)
        for op in group:
            numbers = self._numbers(op)
            np.add.at(total, numbers, channel_magnitudes(grams[_data(op)].to_choose()))
            np.add.at(count, numbers, 1.0)
        numbers = np.flatnonzero((count > 0) & ~self._pinned)
        return numbers, salience_factors(total[numbers] / count[numbers], alpha)

    def _losses(
        self, weights: Mapping[Op, Float64Array], grams: Mapping[Value, SplitGram], alpha: float,
        by: Mapping[Op, PartedGram],
    ) -> dict[Op, float]:  # fmt: skip
        every = np.ones(self._found.count)
        numbers, chosen = self.factors(list(weights), grams, alpha)
        every[numbers] = chosen
        return {op: scaled_loss(w, by[op], self._schemes[op], every[self._numbers(op)]) for op, w in weights.items()}

    def _numbers(self, op: Op) -> Numbers:
        channels = contracted(self._found, op)
        return np.zeros(0, np.int64) if channels is None else self.classes[channels.numbers]


def _fitting(groups: Sequence[list[Op]]) -> Iterator[list[list[Op]]]:
    """Runs of groups whose Gram matrices fit into memory together; a group is not divided."""
    run: list[list[Op]] = []
    used = 0
    for group in groups:
        size = sum(16 * contraction_of(op).length ** 2 for op in {_data(op): op for op in group}.values())
        if run and used + size > _MEMORY:
            yield run
            run, used = [], 0
        run.append(group)
        used += size
    if run:
        yield run


def _grams(graph: Graph, ops: Sequence[Op], context: Context, source: str) -> dict[Value, SplitGram]:
    """What the layers read in the float network."""
    grams = {_data(op): SplitGram(contraction_of(op).length) for op in ops}
    seen = dict.fromkeys(grams, 0)
    for arrays in watched(graph, list(grams), context.calibration(source), context.provider):
        for value, array in arrays.items():
            rows, samples = _spread_rows(np.atleast_2d(array))
            grams[value].add(rows, samples + seen[value])
            seen[value] += len(np.atleast_2d(array))
    return grams


def _spread_rows(x: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Rows [n, K] of ``x`` [N, …, K], and the sample of each."""
    rows = x.reshape(len(x), -1, x.shape[-1])
    picked = rows[:, :: -(-max(1, rows.shape[1]) // _POSITIONS)]
    return picked.reshape(-1, x.shape[-1]), np.arange(len(x)).repeat(picked.shape[1])


def _data(op: Op) -> Value:
    value = op.operands[0]
    assert value is not None
    return value
