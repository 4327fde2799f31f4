"""``amctc inspect``: what is in a model."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from amctc.cli.options import GRAPH_TEXT, read_graph
from amctc.cli.program import Command
from amctc.errors import printable
from amctc.report.table import Column, print_table
from amctc.report.terminal import make_console, print_section
from amctc.report.units import bytes_text, count_text, macs_text

if TYPE_CHECKING:
    from amctc.data import Data
    from amctc.ir import Graph, Op, Value
    from amctc.types import TensorType

MAX_ROWS = 40
"""Layers listed without ``--full``."""


@click.command(cls=Command, examples=("amctc inspect model.onnx", "amctc inspect out/model_deploy.onnx --text | less"))
@click.argument("model")
@click.option("--text", is_flag=True, help="Print the graph as text, constants left out, and nothing else.")
@click.option("--full", is_flag=True, help="List every op and all metadata.")
def inspect(model: str, text: bool, full: bool) -> None:
    """Show inputs, outputs, ops and layers of a model.

    MODEL is an ONNX file, float, QDQ or deploy, or a .txt file of graph text.
    """
    graph = read_graph(model)
    if text:
        from amctc.text import print_graph

        click.echo(print_graph(graph, elide=True), nl=False)
        return

    console = make_console(sys.stdout)
    print_heading(model, graph, console)
    print_interface(graph, console)
    print_kinds(graph, console)
    print_ops(graph, full, console)
    print_metadata(graph, full, console)


def print_heading(model: str, graph: Graph, console: Console) -> None:
    """Kind of model, versions, size."""
    from amctc.session import graph_kind

    facts = [f"{graph_kind(graph)} model"]
    if Path(model).suffix != GRAPH_TEXT:
        from amctc.frontends.onnx_file import read_model

        proto = read_model(model)
        facts.append("opset " + ", ".join(f"{o.domain} {o.version}".strip() for o in proto.opset_import))
        if proto.producer_name:
            facts.append(f"made by {proto.producer_name} {proto.producer_version}".rstrip())
        facts.append(bytes_text(Path(model).stat().st_size))
    facts.append(f"{count_text(sum(parameters(op) for op in layers(graph)))} parameters in layers")
    facts.append(f"{macs_text(total_macs(graph))} per sample")
    console.print(f"{printable(Path(model).name)}: {', '.join(map(printable, facts))}")


def layers(graph: Graph) -> list[Op]:
    """The ops with a weight, float or integer."""
    from amctc.cycles import is_layer

    return [op for op in graph.ops if is_layer(op)]


def total_macs(graph: Graph) -> int | None:
    """Multiply-accumulates of all layers for one sample; ``None`` where a size is not known."""
    from amctc.cost import layer_macs, one_sample

    macs = [layer_macs(op) for op in layers(one_sample(graph))]
    return None if None in macs else sum(m for m in macs if m is not None)


def parameters(op: Op) -> int:
    """Elements of an op's constant operands, quantized ones included."""
    return sum(d.size for o in op.operands[1:] if (d := _constant(o)) is not None)


def _constant(value: Value | None) -> Data | None:
    from amctc.ir import constant_data
    from amctc.ops import quant

    op = None if value is None else value.producer
    return constant_data(op.operands[0] if op is not None and isinstance(op.kind, quant.Dequantize) else value)


def type_text(type_: TensorType) -> str:
    """``f32 [N, 1, 8, 8]``; a ``?`` for what is not known."""
    from amctc.types import QuantizedType

    elem = f"{type_.elem.storage} quantized" if isinstance(type_.elem, QuantizedType) else str(type_.elem)
    if type_.shape is None:
        return f"{elem} of unknown rank"
    return f"{elem} [{', '.join(map(_dim, type_.shape))}]"


def print_interface(graph: Graph, console: Console) -> None:
    """Inputs and outputs with their types."""

    outputs = list(zip(graph.output_names, graph.outputs, strict=True))
    rows = [("input", i.name, i.type, i.default is not None) for i in graph.inputs]
    rows += [("output", name, value.type, False) for name, value in outputs]
    columns = [
        Column("", [kind for kind, *_ in rows]),
        Column("name", [name for _, name, *_ in rows], shorten=True),
        Column("type", [type_text(t) + (", has a default" if default else "") for _, _, t, default in rows]),
    ]
    console.print()
    print_table(columns, console)


def op_text(op: Op) -> str:
    """The op kind without dialect ``nn``; the op type of a carried op."""
    from amctc.ops.onnx import Node

    return op.kind.op_type if isinstance(op.kind, Node) else op.kind.op_name.removeprefix("nn.")


def print_kinds(graph: Graph, console: Console) -> None:
    """How many ops of each kind; those that amctc only carries apart."""
    from amctc.ops.onnx import Node

    ops = [op for op in graph.ops if op.kind.op_name != "const"]
    carried = [op for op in ops if isinstance(op.kind, Node)]
    modelled = [op for op in ops if not isinstance(op.kind, Node)]
    console.print()
    print_section(f"{len(modelled)} ops that passes understand", _histogram(modelled), console)
    print_section(f"{len(carried)} ops carried as they came, run in float", _histogram(carried), console)


def _histogram(ops: Sequence[Op]) -> list[str]:
    counts = Counter(map(op_text, ops)).most_common()
    return [", ".join(f"{name} {count}" for name, count in counts)] if counts else []


def print_ops(graph: Graph, full: bool, console: Console) -> None:
    """The layers, or with ``full`` every op that is no constant."""
    from amctc.cost import layer_macs
    from amctc.ir import layer_name

    listed = [op for op in graph.ops if op.kind.op_name != "const"] if full else layers(graph)
    ops = listed if full else listed[:MAX_ROWS]
    weights = [op.operand(1) if op in set(layers(graph)) else None for op in ops]
    total = count_text(sum(map(parameters, listed)))
    columns = [
        Column("op" if full else "layer", [layer_name(op) for op in ops], shorten=True, footer=f"{len(listed)} in all"),
        Column("kind", [op_text(op) for op in ops]),
        Column("weight", ["" if w is None else "×".join(map(_dim, w.type.dims)) for w in weights], rank=2),
        Column("parameters", [count_text(parameters(op) or None) for op in ops], True, 1, footer=total),
        Column("MACs", [count_text(layer_macs(op)) for op in ops], True, footer=count_text(total_macs(graph))),
    ]
    if full:
        columns.append(Column("result", [", ".join(type_text(r.type) for r in op.results) for op in ops], rank=3))
    if ops:
        print_table(columns, console)
    if len(ops) < len(listed):
        console.print(f"{len(listed) - len(ops)} more; --full lists them.")


def _dim(size: int | str | None) -> str:
    return "?" if size is None else str(size)


def print_metadata(graph: Graph, full: bool, console: Console) -> None:
    """Metadata entries; long values cut unless ``full``."""

    if graph.metadata:
        console.print()
    limit = 1000 if full else 70
    print_section("Metadata", [f"{printable(k)} = {printable(v, limit)}" for k, v in graph.metadata], console)
