"""Find the assignment of least predicted noise whose compiled graph is within the budgets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from amctc.errors import UsageError
from amctc.mixed_precision.assembly import Assignment
from amctc.mixed_precision.costs import Budget, Cost, Resource, cost_of, layer_costs
from amctc.mixed_precision.knapsack import Option, Selection, choose, front
from amctc.mixed_precision.space import INT8, Space

SAME = 1e-9
"""Share by which a cost may exceed a limit: sums of numbers in another order."""

ROUNDS, STARTS, MOST_CHECKS = 8, 3, 100
"""Times that an aim is corrected by what neighbours change in costs; choices that are improved then, and graphs
compiled for each of them."""

WINDOWS = (1, 2)
"""Neighbours raised together: a float layer between two integer ones costs more than one beside another."""

SURROGATES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Shares of the first of two budgets in the one cost that is added up."""


Table = Mapping[Resource, Mapping[str, Mapping[str, float]]]
"""Costs by resource, layer and candidate, up to a constant that all choices share."""


class Limits:
    """Budgets as numbers, and exact costs of assignments against them; ``float16`` is that of all in float16."""

    def __init__(self, space: Space, budgets: Sequence[Budget]) -> None:
        self.resources: list[Resource] = [b.resource for b in budgets]
        if not budgets or len(set(self.resources)) < len(budgets):
            raise UsageError("the budgets are none, or two of one kind",
                             remedy="give one of bytes, one of time, or both")  # fmt: skip
        self._space = space
        self._known: dict[tuple[str, ...], Cost] = {}
        self.float16 = self.cost({})
        self.amounts = {b.resource: b.limit(self.float16) for b in budgets}

    def cost(self, assignment: Assignment) -> Cost:
        """The cost of the compiled graph; layers that are not assigned stay in float."""
        key = tuple(assignment.get(layer, "") for layer in self._space.assembly.layers)
        if key not in self._known:
            self._known[key] = cost_of(self._space.compiled(assignment), self._space.target)
        return self._known[key]

    def ratio(self, cost: Cost) -> float:
        """The largest share of a limit that ``cost`` takes."""
        return max(cost.of(resource) / amount for resource, amount in self.amounts.items())

    def fit(self, cost: Cost) -> bool:
        """Whether all budgets hold."""
        return self.ratio(cost) <= 1 + SAME

    @property
    def checks(self) -> int:
        """Graphs compiled so far."""
        return len(self._known)


class Allocation:
    """The choice of a candidate for each layer: of those ``noise`` lists, with the noise each adds to the outputs."""

    def __init__(self, space: Space, limits: Limits, noise: Mapping[str, Mapping[str, float]]) -> None:
        self._space, self._limits, self._noise = space, limits, noise
        self._costs: Table = {r: layer_costs(space, r) for r in limits.resources}

    def predicted(self, assignment: Assignment) -> float:
        """The noise over signal that the outputs should have: noises of layers add up."""
        return math.fsum(own[assignment[layer]] for layer, own in self._noise.items())

    def best(self) -> dict[str, str]:
        """The assignment of least predicted noise that fits; where none does, the one that comes nearest."""
        tables = [self._costs] if self._exact else [self._costs, self._marginal()]
        found = [*self.uniform(), *(a for t in tables for weights in self._weights() for a in self._aimed(t, weights))]
        fitting = [a for a in found if self._fits(a)]
        if not fitting:
            nearest = min(found, key=lambda a: (self._ratio(a), self.predicted(a)))
            fitting = [nearest if self._exact else self._lowered(nearest)]
            if not self._fits(fitting[0]):
                return fitting[0]
        best = sorted(fitting, key=self.predicted)
        return best[0] if self._exact else min(map(self._raised, best[:STARTS]), key=self.predicted)

    @property
    def _exact(self) -> bool:
        """Bytes of layers add up exactly: then the knapsack's optimum is the optimum."""
        return self._limits.resources == ["bytes"]

    def uniform(self) -> list[dict[str, str]]:
        """All layers with one candidate, as far as they have it."""
        names = dict.fromkeys(c for own in self._noise.values() for c in own)
        wholes = [self._space.assembly.uniform(name) for name in names]
        return [{n: w[n] if w[n] in own else min(own, key=own.__getitem__) for n, own in self._noise.items()}
                for w in wholes]  # fmt: skip

    def front(self) -> list[dict[str, str]]:
        """Assignments from the cheapest, by the first budget, to that of least noise."""
        return [self._assignment(s) for s in front(self._items(self._costs, {self._limits.resources[0]: 1.0}))]

    def _fits(self, assignment: Assignment) -> bool:
        return self._limits.fit(self._limits.cost(assignment))

    def _weights(self) -> list[dict[Resource, float]]:
        """The budgets as one: a surrogate constraint for two, with several multipliers."""
        names = self._limits.resources
        if len(names) == 1:
            return [{names[0]: 1.0}]
        return [{names[0]: share, names[1]: 1.0 - share} for share in SURROGATES]

    def _marginal(self) -> Table:
        """What each layer adds to the cost of the graph with all layers in int8, with what its neighbours notice."""
        base = self._space.assembly.uniform(INT8)
        whole = self._limits.cost(base)
        costs = {n: {c: self._limits.cost({**base, n: c}) for c in own} for n, own in self._noise.items()}
        return {r: {n: {c: cost.of(r) - whole.of(r) for c, cost in own.items()} for n, own in costs.items()}
                for r in self._limits.resources}  # fmt: skip

    def _items(self, table: Table, weights: Mapping[Resource, float]) -> list[list[Option]]:
        limits = self._limits.amounts

        def cost(layer: str, candidate: str) -> float:
            return math.fsum(w * table[r][layer][candidate] / limits[r] for r, w in weights.items())

        return [[Option(cost(layer, c), noise) for c, noise in own.items()] for layer, own in self._noise.items()]

    def _assignment(self, selection: Selection) -> dict[str, str]:
        chosen = zip(self._noise.items(), selection.choice, strict=True)
        return {layer: list(own)[i] for (layer, own), i in chosen}

    def _aimed(self, table: Table, weights: Mapping[Resource, float]) -> Iterator[dict[str, str]]:
        """What the knapsack gives, aiming anew by what the last sum of layer costs was off."""
        items, tried, aim = self._items(table, weights), set[tuple[int, ...]](), 1.0
        yield self._assignment(choose(items, -math.inf))
        for _ in range(ROUNDS):
            selection = choose(items, aim)
            if selection.choice in tried:
                return
            tried.add(selection.choice)
            assignment = self._assignment(selection)
            yield assignment
            cost = self._limits.cost(assignment)
            exact = math.fsum(w * cost.of(r) / self._limits.amounts[r] for r, w in weights.items())
            aim = selection.cost + 1.0 - exact

    def _ratio(self, assignment: Assignment) -> float:
        return self._limits.ratio(self._limits.cost(assignment))

    def _lowered(self, start: dict[str, str]) -> dict[str, str]:
        """``start`` with layers changed one by one to whatever brings the compiled graph nearer to the limits."""
        best, last = start, self._limits.checks + MOST_CHECKS
        for layer, own in self._noise.items():
            for candidate in own:
                changed = {**best, layer: candidate}
                if self._fits(best) or self._limits.checks >= last:
                    return best
                if self._ratio(changed) < self._ratio(best):
                    best = changed
        return best

    def _raised(self, start: dict[str, str]) -> dict[str, str]:
        """``start`` with the noisiest layers raised to a candidate of less noise wherever the compiled graph fits."""
        best, names, last = start, list(self._noise), self._limits.checks + MOST_CHECKS
        for size in WINDOWS:
            windows = [names[i : i + size] for i in range(len(names) - size + 1)]
            for window in sorted(windows, key=lambda w: -math.fsum(self._noise[n][start[n]] for n in w)):
                for raised in self._above(best, window):
                    if self._limits.checks >= last:
                        return best
                    if self._fits(raised):
                        best = raised
                        break
        return best

    def _above(self, assignment: dict[str, str], window: Sequence[str]) -> Iterator[dict[str, str]]:
        """``assignment`` with every layer of ``window`` raised as far as it goes, then by one step."""
        better = {n: sorted((c for c in self._noise[n] if self._noise[n][c] < self._noise[n][assignment[n]]),
                            key=self._noise[n].__getitem__) for n in window}  # fmt: skip
        if all(better.values()):
            for pick in dict.fromkeys((0, -1)):
                raised = {n: own[pick] for n, own in better.items()}
                yield {**assignment, **raised}
