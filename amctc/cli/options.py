"""Options that several commands share, and what a command does with paths before it starts long work."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from amctc.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from amctc.calibrate.samples import Samples
    from amctc.concurrency import ExecutorKind
    from amctc.ir import Graph
    from amctc.session import Session

F = TypeVar("F", bound=Callable[..., Any])

PREPROCESS_HELP = "How images become the input: imagenet, tf, unit, caffe, raw, or a .toml or .yaml file."
DATA_HELP = (
    "Samples: a folder of images or .bin files, an .npz, .npy or .jsonl file, or file.py:function, which is run."
)
GRAPH_TEXT = ".txt"
EXECUTORS = ("numpy", "onnxruntime", "reference")
"""The names that :mod:`amctc.execution` knows, which a help text must not wait for."""
MAX_TEXT = 1 << 28


@dataclass(frozen=True)
class DataOptions:
    """What the options about samples say."""

    path: str | None
    preprocess: str | None
    labels: str | None
    batch_size: int | None
    input_shape: str | None
    data_types: str | None

    def opened(self, model: Session | Graph, *, limit: int | None = None, preprocess: str | None = None) -> Samples:
        """The samples for a model, the first ``limit``; ``preprocess`` goes before the option."""
        from amctc.api import open_samples_for

        assert self.path is not None
        return open_samples_for(
            model, self.path, preprocess=preprocess or self.preprocess, labels=self.labels, batch_size=self.batch_size,
            limit=limit, input_shape=self.input_shape, data_types=self.data_types,
        )  # fmt: skip


def data_options(function: F) -> F:
    """``--data`` and what says how to read it; the command gets them as ``data``, a :class:`DataOptions`."""
    options = (
        click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Samples run at a time."),
        click.option("--labels", metavar="CSV", help="Columns file and label: the images to use."),
        click.option("--data-types", metavar="TYPES",
                     help="Of .bin files: 'float32', several inputs as 'int64;float32'.  [default: the model's]"),
        click.option("--input-shape", metavar="SHAPES", help="Of .bin files: 'x:1,3,224,224', several inputs as "
                     "'ids:1,128;mask:1,128'.  [default: the model's]"),
        click.option("-p", "--preprocess", metavar="P", help=PREPROCESS_HELP),
        click.option("-d", "--data", "--samples", "path", metavar="PATH", help=DATA_HELP),
    )  # fmt: skip
    return bundled("data", DataOptions, options)(function)


@dataclass(frozen=True)
class RunOptions:
    """What the options about where and how ONNX Runtime computes say."""

    provider: str
    custom_ops: tuple[str, ...]

    def prepare(self) -> None:
        """Load the libraries of custom operators, and refuse a provider that is not there before any work is done."""
        from amctc.onnx_bridge.custom_ops import register_custom_ops
        from amctc.onnx_bridge.sessions import provider_name

        provider_name(self.provider)
        for library in self.custom_ops:
            register_custom_ops(library)


def run_options(function: F) -> F:
    """``--provider`` and ``--custom-ops``; the command gets them as ``runs``, a :class:`RunOptions`."""
    options = (
        click.option("--custom-ops", multiple=True, metavar="LIB",
                     help="A library of custom operators for ONNX Runtime, whose code is run; may be repeated."),
        click.option("--provider", default="cpu", show_default=True, metavar="NAME",
                     help="Where ONNX Runtime computes: cpu, cuda, …"),
    )  # fmt: skip
    return bundled("runs", RunOptions, options)(function)


def held_back_option(function: F) -> F:
    """``--held-back``: the samples to measure on."""
    return click.option("--held-back", type=click.IntRange(min=1), metavar="N", help="Measure on the N samples behind "
                        "those that calibrate.  [default: a quarter of these, taken from them]")(function)  # fmt: skip


@dataclass(frozen=True)
class WorkerOptions:
    """How many batches are run at once, and where."""

    jobs: int | None
    workers: ExecutorKind | None

    def opened(self) -> Executor:
        """The executor, to be used as a context."""
        from amctc.concurrency import open_executor

        return open_executor(self.workers, self.jobs)


def worker_options(function: F) -> F:
    """``--jobs`` and ``--workers``; the command gets them as ``workers``, a :class:`WorkerOptions`."""
    options = (
        click.option("--workers", type=click.Choice(["serial", "threads", "processes"]),
                     help="What runs batches and work on weights; the result is the same.  "
                     "[default: threads if --jobs is more than 1]"),
        click.option("-j", "--jobs", type=click.IntRange(min=1), metavar="N",
                     help="How many batches are calibrated, or parts of weights rounded, at once."),
    )  # fmt: skip
    return bundled("workers", WorkerOptions, options)(function)


def bundled(name: str, kind: type[Any], options: Sequence[Callable[[Any], Any]]) -> Callable[[F], F]:
    """A decorator that adds options and hands their values to the command as one object ``name``."""

    def wrap(function: F) -> F:
        @functools.wraps(function)
        def call(**values: Any) -> Any:
            bundle = kind(**{f.name: values.pop(f.name) for f in dataclasses.fields(kind)})
            return function(**values, **{name: bundle})

        command: Any = call
        for option in options:
            command = option(command)
        wrapped: F = command
        return wrapped

    return wrap


def executor_option(function: F) -> F:
    """``--executor``; an unknown name is refused before any work is done."""
    return click.option("--executor", type=click.Choice(EXECUTORS), default=EXECUTORS[0], show_default=True,
                        help="What computes a deploy model; the bits are the same.")(function)  # fmt: skip


def target_option(help_: str) -> Callable[[F], F]:
    """``--target``; the names are looked up when the command runs."""
    return click.option("-t", "--target", metavar="CHIP", help=help_)


def require_folder(out: str) -> None:
    """Refuse an output folder that cannot be made before any work is done."""
    path = Path(out)
    if os.path.exists(path) and not os.path.isdir(path):
        raise UsageError("the output folder is a file", where=out, remedy="name a folder")
    if not os.path.isdir(path.absolute().parent):
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
