"""amctc: a compiler for model compression that targets Huawei Ascend NPUs.

The names here are the stable surface; they are imported when first used, so that ``import amctc`` is cheap.
The decorator that makes a rewrite is ``amctc.rewrite.rewrite``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from amctc import testing
    from amctc.api import Compression, compress, evaluate, load, open_samples_for, save
    from amctc.backends.exchange import to_graphsurgeon, to_networkx
    from amctc.calibrate.selection import Selection, select_samples
    from amctc.compensation import compensate
    from amctc.concurrency import open_executor
    from amctc.contract import Changes, Contract, Exact, Fact, Lossy, Rounding
    from amctc.errors import AmctcError
    from amctc.frontends.graphsurgeon import from_graphsurgeon
    from amctc.ir import Graph, Op, Value, apply, const
    from amctc.mixed_precision.budget_search import search
    from amctc.mixed_precision.costs import Budget
    from amctc.mixed_precision.goal import Goal
    from amctc.mixed_precision.goal_search import compress_to_goal
    from amctc.mixed_precision.sensitivities import sensitivity
    from amctc.onnx_bridge.custom_ops import register_custom_ops
    from amctc.ops import ascend, nn, onnx, quant
    from amctc.parser import parse_graph
    from amctc.pattern import Match, NoMatch, any_value, either, number, op, weight
    from amctc.pipeline import Context, Pass, PatternPass, Pipeline, register
    from amctc.rewrite import Rewrite, apply_rewrites, explain
    from amctc.session import Session
    from amctc.text import print_graph

_HOME = {
    "amctc.api": ("Compression", "compress", "evaluate", "load", "open_samples_for", "save"),
    "amctc.backends.exchange": ("to_graphsurgeon", "to_networkx"),
    "amctc.calibrate.selection": ("Selection", "select_samples"),
    "amctc.compensation": ("compensate",),
    "amctc.contract": ("Changes", "Contract", "Exact", "Fact", "Lossy", "Rounding"),
    "amctc.errors": ("AmctcError",),
    "amctc.concurrency": ("open_executor",),
    "amctc.frontends.graphsurgeon": ("from_graphsurgeon",),
    "amctc.ir": ("Graph", "Op", "Value", "apply", "const"),
    "amctc.mixed_precision.budget_search": ("search",),
    "amctc.mixed_precision.costs": ("Budget",),
    "amctc.mixed_precision.goal": ("Goal",),
    "amctc.mixed_precision.goal_search": ("compress_to_goal",),
    "amctc.mixed_precision.sensitivities": ("sensitivity",),
    "amctc.onnx_bridge.custom_ops": ("register_custom_ops",),
    "amctc.parser": ("parse_graph",),
    "amctc.pattern": ("Match", "NoMatch", "any_value", "either", "number", "op", "weight"),
    "amctc.pipeline": ("Context", "Pass", "PatternPass", "Pipeline", "register"),
    "amctc.rewrite": ("Rewrite", "apply_rewrites", "explain"),
    "amctc.session": ("Session",),
    "amctc.text": ("print_graph",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
_DIALECTS = ("ascend", "nn", "onnx", "quant")

__all__ = [
    "AmctcError", "Budget", "Changes", "Compression", "Context", "Contract", "Exact", "Fact", "Goal", "Graph",
    "Lossy", "Match", "NoMatch", "Op", "Pass", "PatternPass", "Pipeline", "Rewrite", "Rounding", "Selection", "Session",
    "Value",
    "any_value", "apply", "apply_rewrites", "ascend", "compensate", "compress", "compress_to_goal", "const",
    "either", "evaluate", "explain", "from_graphsurgeon", "load", "nn", "number", "onnx", "op", "open_executor",
    "open_samples_for", "parse_graph", "print_graph", "quant", "register", "register_custom_ops", "save", "search",
    "select_samples", "sensitivity", "testing", "to_graphsurgeon", "to_networkx", "weight",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    elif name in _DIALECTS:
        value = importlib.import_module(f"amctc.ops.{name}")
    elif name == "testing":
        value = importlib.import_module("amctc.testing")
    else:
        raise AttributeError(f"module 'amctc' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
