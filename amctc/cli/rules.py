"""Rewrites by name: those of the passes in a pipeline, and the installed ones."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator

from amctc.errors import UsageError
from amctc.pipeline import Pass, Repeat, installed
from amctc.rewrite import Rewrite
from amctc.targets import Profile


def rewrites_of(item: Pass, target: Profile) -> tuple[Rewrite, ...]:
    """The rewrites a pass applies on ``target``; none for a pass that is not made of rewrites."""
    method = getattr(item, "rewrites", None)
    if method is None:
        return ()
    found: tuple[Rewrite, ...] = method(target) if inspect.signature(method).parameters else method()
    return found


def flattened(items: Iterable[Pass | Repeat]) -> Iterator[Pass]:
    """The passes of a pipeline in order, those in repetitions once."""
    for item in items:
        if isinstance(item, Pass):
            yield item
        else:
            yield from flattened(item.body)


def rule_named(name: str, passes: Iterable[Pass], target: Profile) -> tuple[Rewrite, Pass | None]:
    """The rewrite of that name and the first of ``passes`` that applies it; :class:`UsageError` with the nearest."""
    known: dict[str, tuple[Rewrite, Pass | None]] = {}
    for item in passes:
        for rule in rewrites_of(item, target):
            known.setdefault(rule.name, (rule, item))
    if name in known:
        return known[name]
    entries = installed("amctc.rewrites")
    if name not in entries:
        near = difflib.get_close_matches(name.replace("-", "_"), {*known, *entries}, 3, 0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else "`amctc passes NAME` lists the rewrites of a pass"
        raise UsageError(f"unknown rewrite {name!r}", remedy=remedy)
    rule = entries[name].load()
    if not isinstance(rule, Rewrite):
        raise UsageError(f"{name!r} is registered as a rewrite and is none")
    return rule, None
