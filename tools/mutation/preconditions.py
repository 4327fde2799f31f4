"""The preconditions of rewrites and passes, found in their source, each under the name it declines with.

Four forms are preconditions, and each has a name because the engine shows it to whoever asks why nothing happened:

- an ``if`` that raises ``NoMatch``, ``UnsupportedError`` or ``LimitError``: the message;
- an ``if`` or a conditional expression that returns a reason, in a function that returns a reason or ``None``: the
  reason (``context.note`` shows it);
- the ``where=`` of an op pattern: its ``wanted=``;
- the other constraints of a pattern: ``uses=``, the number that a constant must be, and that a layer has no fused
  activation.

A condition that is several in one (declining where any holds, accepting where all hold) counts once for each.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from amctc.ops import nn

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "patterns" / "amctc_patterns", ROOT / "passes" / "amctc_passes")
REFUSALS = ("NoMatch", "UnsupportedError", "LimitError")
LAYERS = {"LAYERS", *(f"nn.{kind.__name__}" for kind in (nn.Conv, nn.ConvTranspose, nn.Gemm, nn.MatMul))}
"""Op kinds that can carry an activation, as patterns write them."""


class Edit(NamedTuple):
    """Bytes ``start`` to ``end`` of a source are to read ``text``."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Precondition:
    """One condition: the dotted module and line it stands at, its ``name``, its ``source``, and how to do without."""

    module: str
    line: int
    name: str
    source: str
    edit: Edit

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.name!r}: {' '.join(self.source.split())}"

    def switched_off(self, source: str) -> str:
        """The module's source without the precondition. Names that the condition binds are still bound."""
        encoded, (start, end, text) = source.encode(), self.edit  # the parser counts bytes
        return f"{encoded[:start].decode()}{text}{encoded[end:].decode()}"


def module_paths() -> dict[str, Path]:
    """The modules of both packages by dotted name."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts): path
        for package in PACKAGES
        for path in sorted(package.rglob("*.py"))
    }


def preconditions(module: str, source: str) -> list[Precondition]:
    """All preconditions in the source of a module, in order."""
    found = {p.edit: p for p in _Scan(module, source).all()}
    return [found[edit] for edit in sorted(found)]


class _Scan:
    """One pass over the syntax tree of a module."""

    def __init__(self, module: str, source: str) -> None:
        self._module, self._source, self._tree = module, source.encode(), ast.parse(source)
        self._starts = [0, *(i + 1 for i, byte in enumerate(self._source) if byte == ord("\n"))]
        self._functions = {n.name: n for n in self._tree.body if isinstance(n, ast.FunctionDef)}

    def all(self) -> Iterator[Precondition]:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.If):
                if (name := self._refusal(node.body[-1])) is not None:
                    yield from self._terms(node.test, name, declines=True)
            elif isinstance(node, ast.FunctionDef) and _gives_reasons(node):
                yield from self._reasons(node)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id == "op":
                    yield from self._constraints(node)
                elif node.func.id == "number" and node.args:
                    yield self._found(node, f"the number {ast.unparse(node.args[0])}", node.args[0], "")

    def _reasons(self, function: ast.FunctionDef) -> Iterator[Precondition]:
        """Where a function returns a reason: under an ``if``, or on one side of a conditional expression."""
        for node in ast.walk(function):
            if isinstance(node, ast.If) and isinstance(last := node.body[-1], ast.Return):
                if (name := _reason(last.value)) is not None:
                    yield from self._terms(node.test, name, declines=True)
            elif isinstance(node, ast.Return) and isinstance(choice := node.value, ast.IfExp):
                yes, no = _reason(choice.body), _reason(choice.orelse)
                if (yes is None) != (no is None):
                    yield from self._terms(choice.test, yes or no or "", declines=yes is not None)

    def _constraints(self, call: ast.Call) -> Iterator[Precondition]:
        """What a call of ``op`` asks for beside op kinds and operands."""
        kind, given = ast.unparse(call.args[0]), {k.arg: k.value for k in call.keywords}
        if (where := given.get("where")) is not None:
            wanted = given["wanted"]
            name = wanted.value if isinstance(wanted, ast.Constant) else ast.unparse(wanted)
            body = where.body if isinstance(where, ast.Lambda) else where
            yield from self._terms(body, str(name), declines=False)
        if (uses := given.get("uses")) is not None:
            yield self._found(call, f"{kind}: uses={ast.unparse(uses)}", uses, "None")
        if kind in LAYERS and "fused" not in given:
            last = max((*call.args, *call.keywords), key=lambda n: self._span(n)[1])
            end = self._span(last)[1]
            yield Precondition(self._module, call.lineno, f"{kind}: no fused activation", ast.unparse(call),
                               Edit(end, end, ", fused=True"))  # fmt: skip

    def _terms(self, test: ast.expr, name: str, *, declines: bool) -> Iterator[Precondition]:
        """Each condition that declines by itself in ``test``, which is true where the rule declines, or accepts."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            yield from self._terms(test.operand, name, declines=not declines)
        elif isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or if declines else ast.And):
            for value in test.values:
                yield from self._terms(value, name, declines=declines)
        elif isinstance(test, ast.Compare) and len(test.ops) > 1 and not declines:
            yield from self._links(test, name)
        elif (expression := self._predicate(test)) is not None:
            yield from self._terms(expression, name, declines=declines)
        else:
            text = self._text(test)
            yield self._found(test, name, test, f"(({text}) and False)" if declines else f"(({text}) or True)")

    def _links(self, chain: ast.Compare, name: str) -> Iterator[Precondition]:
        """The outer links of ``low <= x <= high``: each bound for itself."""
        ends = [self._text(e) for e in (chain.left, *chain.comparators)]
        links = [ast.unparse(ast.Compare(ast.Name("_"), [op], [ast.Name("_")]))[1:-1] for op in chain.ops]
        parts = [f"(({a}){link}({b}))" for a, link, b in zip(ends, links, ends[1:], strict=False)]
        for index in dict.fromkeys((0, len(parts) - 1)):
            others = " and ".join(p for i, p in enumerate(parts) if i != index)
            span = self._span(chain)
            yield Precondition(self._module, chain.lineno, name, parts[index], Edit(*span, f"({others})"))

    def _predicate(self, test: ast.expr) -> ast.expr | None:
        """What a predicate of this module returns, where ``test`` names or calls one."""
        called = test.func if isinstance(test, ast.Call) else test
        function = self._functions.get(called.id) if isinstance(called, ast.Name) else None
        last = None if function is None else function.body[-1]
        is_predicate = function is not None and function.returns is not None and ast.unparse(function.returns) == "bool"
        return last.value if is_predicate and isinstance(last, ast.Return) else None

    def _refusal(self, statement: ast.stmt) -> str | None:
        """The message of an exception that declines, here or in a function of the module that makes it."""
        raised = statement.exc if isinstance(statement, ast.Raise) else None
        if not isinstance(raised, ast.Call) or not isinstance(raised.func, ast.Name):
            return None
        if raised.func.id in REFUSALS:
            return _spelled(raised.args[0])
        function = self._functions.get(raised.func.id)
        return None if function is None else function.name.strip("_").replace("_", " ")

    def _found(self, at: ast.expr, name: str, replaced: ast.expr, text: str) -> Precondition:
        return Precondition(self._module, at.lineno, name, self._text(at), Edit(*self._span(replaced), text))

    def _span(self, node: ast.expr | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def _text(self, node: ast.expr) -> str:
        start, end = self._span(node)
        return self._source[start:end].decode()


def _gives_reasons(function: ast.FunctionDef) -> bool:
    returns = "" if function.returns is None else ast.unparse(function.returns)
    return re.search(r"\bstr\b", returns) is not None and "|" in returns


def _reason(value: ast.expr | None) -> str | None:
    """The text of a returned reason, which is a sentence; names that functions make up have no spaces."""
    if isinstance(value, ast.IfExp):
        texts = [_reason(value.body), _reason(value.orelse)]
        return None if None in texts else " / ".join(str(t) for t in texts)
    if not isinstance(value, ast.Constant | ast.JoinedStr) or (isinstance(value, ast.Constant) and value.value is None):
        return None
    text = _spelled(value)
    return text if " " in text.strip() else None


def _spelled(value: ast.expr) -> str:
    """A text with … for what is filled in."""
    if isinstance(value, ast.Constant):
        return str(value.value)
    if isinstance(value, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in value.values)
    return ast.unparse(value)
