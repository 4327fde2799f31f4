"""``amctc passes``: what pipelines and graphs are made of."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import typing
from typing import TYPE_CHECKING

import click
from rich.console import Console

from amctc.cli.program import Command
from amctc.errors import UsageError
from amctc.report.table import Column, print_table
from amctc.report.terminal import make_console, print_section

if TYPE_CHECKING:
    from amctc.pipeline import Pass


@click.command(cls=Command, examples=("amctc passes", "amctc passes place-qdq", "amctc passes --ops"))
@click.argument("name", required=False)
@click.option("--ops", is_flag=True, help="List the op kinds of graphs instead.")
def passes(name: str | None, ops: bool) -> None:
    """List the passes, or show one with its options, contract and rewrites.

    NAME is a pass, or with --ops an op kind.
    """

    console = make_console(sys.stdout)
    if ops:
        print_op_kinds(name, console)
    elif name is None:
        print_list(console)
    else:
        print_pass(name, console)


def first_line(doc: str | None) -> str:
    """The first line of a docstring."""
    return (doc or "").strip().split("\n")[0].replace("``", "")


def rest(doc: str | None) -> str:
    """A docstring's paragraphs after the first line, without markup."""
    import inspect

    return inspect.cleandoc(doc or "").partition("\n")[2].strip().replace("``", "")


def print_list(console: Console) -> None:
    """All passes with their first line of documentation and their effect on results."""
    from amctc.pipeline import pass_class, pass_names

    kinds = [pass_class(n) for n in pass_names()]
    columns = [
        Column("pass", [k.name for k in kinds]),
        Column("what it does", [first_line(k.__doc__) for k in kinds], wrap=True),
        Column("effect on results", [effect_word(k) for k in kinds]),
    ]
    print_table(columns, console)
    console.print("\n`amctc passes NAME` shows options, contract and rewrites of a pass.")


def effect_word(kind: type[Pass]) -> str:
    """The kind of effect, in a word."""
    return type(kind.contract.effect).__name__.lower()


def print_pass(name: str, console: Console) -> None:
    """One pass in full."""
    from amctc.pipeline import pass_class

    kind = pass_class(name)
    contract = kind.contract
    console.print(f"{kind.name}: {first_line(kind.__doc__)}")
    if text := rest(kind.__doc__):
        console.print(f"\n{text}")
    console.print()
    facts = (("requires", contract.requires), ("ensures", contract.ensures), ("keeps", contract.keeps))
    lines = [f"effect    {contract.effect}"]
    lines += [f"{word:8}  {', '.join(map(str, found))}" for word, found in facts if found]
    if contract.idempotent:
        lines.append("running it twice changes nothing more")
    print_section("Contract", lines, console)
    print_options(kind, console)
    print_rewrites(kind, console)


def print_options(kind: type[Pass], console: Console) -> None:
    """The options with what they accept and their defaults."""
    from amctc.options import expected
    from amctc.spec import print_value

    fields = dataclasses.fields(kind)
    if not fields:
        console.print("It has no options.")
        return
    hints = typing.get_type_hints(kind)
    required = dataclasses.MISSING
    columns = [
        Column("option", [f.name.replace("_", "-") for f in fields]),
        Column("takes", [expected(hints[f.name]) for f in fields], wrap=True),
        Column("default", ["(required)" if f.default is required else print_value(f.default) for f in fields]),
    ]
    print_table(columns, console)


def print_rewrites(kind: type[Pass], console: Console) -> None:
    """The rewrites it applies to the default target, in the order they are tried."""
    from amctc.cli.rules import rewrites_of
    from amctc.targets import DEFAULT_TARGET, load_profile

    if any(f.default is dataclasses.MISSING for f in dataclasses.fields(kind)):
        return
    rules = rewrites_of(kind(), load_profile(DEFAULT_TARGET))
    if rules:
        columns = [
            Column("rewrite", [r.name for r in rules]),
            Column("what it does", [r.doc for r in rules], wrap=True),
            Column("effect", [str(r.effect) for r in rules], rank=1),
        ]
        console.print()
        print_table(columns, console)


def print_op_kinds(name: str | None, console: Console) -> None:
    """All op kinds, or one with its attributes and constraints."""
    from amctc import ops  # noqa: F401 - fills the registry
    from amctc.schema import format_operands, op_kinds

    kinds = op_kinds()
    if name is not None and name not in kinds:
        near = difflib.get_close_matches(name, kinds, 3, 0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else "`amctc passes --ops` lists them"
        raise UsageError(f"unknown op kind {name!r}", remedy=remedy)
    chosen = list(kinds.values()) if name is None else [kinds[name]]
    columns = [
        Column("op", [k.op_name for k in chosen]),
        Column("operands", [format_operands(k.operand_specs) for k in chosen]),
        Column("meaning", [first_line(k.__doc__) for k in chosen], wrap=True),
        Column("traits", [", ".join(sorted(t.value for t in k.traits)) for k in chosen], rank=1),
    ]
    print_table(columns, console)
    if name is not None:
        (kind,) = chosen
        attributes = ", ".join(f"{f.name}: {f.type}" for f in dataclasses.fields(kind)) or "none"
        facts = (rest(kind.__doc__), f"attributes  {attributes}", f"checks      {first_line(kind.infer.__doc__)}")
        console.print("\n" + "\n".join(filter(None, facts)))
