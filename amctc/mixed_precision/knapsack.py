"""Choose one option for each item so that the losses add up to least while the costs stay within a budget.

The multiple-choice knapsack (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11). The options on the
lower convex hull of each item, taken in the order of loss saved per cost added, give the front of the Lagrangian
relaxation; branch and bound with the multiplier found there closes the gap to the exact optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

MOST_NODES = 200_000
"""Choices that branch and bound looks at, about a second; then the best so far stands."""


class Option(NamedTuple):
    """What an item costs and loses with one choice."""

    cost: float
    loss: float


Items = Sequence[Sequence[Option]]
Choice = tuple[int, ...]


class Selection(NamedTuple):
    """One option by index for each item. ``optimal``: none of no more than ``cost`` loses less."""

    choice: Choice
    cost: float
    loss: float
    optimal: bool = False


class _Step(NamedTuple):
    slope: float
    item: int
    option: int


def selection(items: Items, choice: Choice, *, optimal: bool = False) -> Selection:
    """The selection of these options."""
    taken = [options[i] for options, i in zip(items, choice, strict=True)]
    return Selection(choice, sum(o.cost for o in taken), sum(o.loss for o in taken), optimal)


def cheapest(options: Sequence[Option]) -> int:
    """The option of least cost; of several that of least loss."""
    return min(range(len(options)), key=lambda i: options[i])


def hull(options: Sequence[Option]) -> list[int]:
    """The options on the lower convex hull, costs rising, losses falling ever less per cost."""
    found: list[int] = []
    for i in sorted(range(len(options)), key=lambda i: (*options[i], i)):
        if found and options[i].loss >= options[found[-1]].loss:
            continue
        while len(found) > 1 and _slope(options, found[-1], i) <= _slope(options, found[-2], found[-1]):
            found.pop()
        found.append(i)
    return found


def _slope(options: Sequence[Option], a: int, b: int) -> float:
    """Loss added per cost added, never positive on a hull."""
    rise = options[b].loss - options[a].loss
    run = options[b].cost - options[a].cost
    return rise / run if run else -float("inf")


def front(items: Items) -> list[Selection]:
    """The selections that some price on cost makes best, from the cheapest to that of least loss."""
    choice = [cheapest(options) for options in items]
    found = [selection(items, tuple(choice))]
    for step in _steps(items):
        choice[step.item] = step.option
        found.append(selection(items, tuple(choice)))
    return found


def _steps(items: Items) -> list[_Step]:
    """Moves along the hulls, those that save most per cost first."""
    steps = []
    for number, options in enumerate(items):
        path = hull(options)
        steps += [_Step(_slope(options, a, b), number, b) for a, b in pairwise(path)]
    return sorted(steps, key=lambda step: (step.slope, step.item))


def choose(items: Items, budget: float, *, nodes: int = MOST_NODES) -> Selection:
    """The selection of least loss that costs at most ``budget``; the cheapest one where none is within it.

    Of several that lose as little the first found stands, so the result depends on nothing but the arguments.
    ``optimal`` is false where ``nodes`` were not enough to prove it.
    """
    choice = [cheapest(options) for options in items]
    start = selection(items, tuple(choice))
    if start.cost > budget:
        return start._replace(optimal=True)
    best, price = start, 0.0
    for step in _steps(items):
        old, choice[step.item] = choice[step.item], step.option
        tried = selection(items, tuple(choice))
        if tried.cost <= budget:
            best = tried if tried.loss < best.loss else best
        else:
            choice[step.item] = old
            price = price or -step.slope
    return _Search(items, budget, price, nodes).best(best)


@dataclass
class _Node:
    """A choice for the first items, and what is still to be tried at the next one."""

    cost: float
    loss: float
    untried: list[int]


class _Search:
    """Depth first, items whose options differ most in price first, the best priced option of each first."""

    def __init__(self, items: Items, budget: float, price: float, nodes: int) -> None:
        self._items, self._budget, self._price, self._nodes = items, budget, price, nodes
        priced = [sorted(o.loss + price * o.cost for o in options) for options in items]
        gaps = [p[1] - p[0] if len(p) > 1 else float("inf") for p in priced]
        self._order = sorted(range(len(items)), key=lambda i: -gaps[i])
        self._rest = [(0.0, 0.0)]  # from the end: least price and least cost of the items that are still open
        for i in reversed(self._order):
            least = min(o.cost for o in items[i])
            self._rest.append((self._rest[-1][0] + priced[i][0], self._rest[-1][1] + least))
        self._rest.reverse()

    def best(self, incumbent: Selection) -> Selection:
        """The best of ``incumbent`` and all that are better."""
        path: list[int] = []
        stack, left = [_Node(0.0, 0.0, self._ordered(0))], self._nodes
        while stack and left:
            node, depth = stack[-1], len(stack) - 1
            if depth == len(self._order):
                taken_by = dict(zip(self._order, path, strict=True))
                found = selection(self._items, tuple(taken_by[i] for i in range(len(path))))
                if found.cost <= self._budget and found.loss < incumbent.loss:
                    incumbent = found
            if not node.untried:
                stack.pop()
                del path[-1:]
                continue
            left -= 1
            option = node.untried.pop()
            taken = self._items[self._order[depth]][option]
            cost, loss = node.cost + taken.cost, node.loss + taken.loss
            if self._promising(depth + 1, cost, loss, incumbent):
                path.append(option)
                stack.append(_Node(cost, loss, self._ordered(depth + 1)))
        return incumbent._replace(optimal=not stack)

    def _ordered(self, depth: int) -> list[int]:
        """The options of the item at ``depth``, the best priced last."""
        if depth == len(self._order):
            return []
        options = self._items[self._order[depth]]
        return sorted(range(len(options)), key=lambda i: (-options[i].loss - self._price * options[i].cost, -i))

    def _promising(self, depth: int, cost: float, loss: float, incumbent: Selection) -> bool:
        """Whether what is open may still fit, and by its Lagrangian bound may lose less than the best so far."""
        priced, least = self._rest[depth]
        if cost + least > self._budget:
            return False
        return loss + priced + self._price * (cost - self._budget) < incumbent.loss
