"""Options that several commands share, and what a command does with paths before it starts long work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from amctc.errors import UsageError

if TYPE_CHECKING:
    from amctc.ir import Graph

F = TypeVar("F", bound=Callable[..., Any])

PREPROCESS_HELP = "How images become the input: imagenet, tf, unit, caffe, raw, or a .toml or .yaml file."
GRAPH_TEXT = ".txt"
MAX_TEXT = 1 << 30


def data_options(*, required: bool) -> Callable[[F], F]:
    """``--data``, ``--preprocess``, ``--labels`` and ``--batch-size``."""

    def wrap(function: F) -> F:
        for option in (
            click.option("--batch-size", type=click.IntRange(min=1), metavar="N",
                         help="Samples run at a time."),
            click.option("--labels", metavar="CSV", help="Lines of file name and class: the images to use."),
            click.option("-p", "--preprocess", metavar="P", help=PREPROCESS_HELP),
            click.option("-d", "--data", required=required, metavar="PATH",
                         help="Samples: a folder of images, an .npz or an .npy file."),
        ):  # fmt: skip
            function = option(function)
        return function

    return wrap


def target_option(help_: str) -> Callable[[F], F]:
    """``--target``; the names are looked up when the command runs."""
    return click.option("-t", "--target", metavar="CHIP", help=help_)


def require_folder(out: str) -> None:
    """Refuse an output folder that cannot be made before any work is done."""
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise UsageError("the output folder is a file", where=out, remedy="name a folder")
    if not path.absolute().parent.is_dir():
        raise UsageError("the folder to write to does not exist", where=out, remedy="create it first")


def read_graph(path: str) -> Graph:
    """The graph in an ONNX file, or in a ``.txt`` file of graph text as ``run -o`` writes it."""
    if Path(path).suffix != GRAPH_TEXT:
        from amctc.api import load

        return load(path)
    from amctc import ops  # noqa: F401 - the parser knows the op kinds that are registered
    from amctc.files import read_bytes
    from amctc.parser import parse_graph

    return parse_graph(read_bytes(path, limit=MAX_TEXT, kind="graph text").decode("utf-8", "replace"))
