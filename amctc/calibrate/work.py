"""What a run works on, by digests: two runs with the same one compute the same."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata

import numpy as np

from amctc.data import ArrayData, Data
from amctc.ir import Graph
from amctc.schema import OpKind
from amctc.text import print_graph
from amctc.types import Array

SOFTWARE = ("amctc", "numpy", "onnxruntime", "onnxruntime-gpu")
"""Packages whose versions results may depend on."""

Progress = Callable[[str, int, int], None]


def described_work(
    graph: Graph,
    samples: Iterable[Mapping[str, Array]] | None,
    settings: Mapping[str, object],
    progress: Progress = lambda what, done, total: None,
) -> dict[str, str]:
    """Digests of the model, of the samples as they are fed, of each of ``settings`` (by its text), and of the software.

    The samples are read once: what they hold counts, in which order and batches, not what their files are called.
    """
    versions = [f"{name} {version}" for name in SOFTWARE if (version := _version(name))]
    return {
        "model": graph_digest(graph),
        "set of samples": "none" if samples is None else samples_digest(samples, progress),
        **{key: _digest(str(value)) for key, value in settings.items()},
        "version of amctc or of what computes": _digest(repr(versions)),
    }


def graph_digest(graph: Graph) -> str:
    """SHA-256 of a graph: its text, and the contents of its constants."""
    state = hashlib.sha256(print_graph(graph, elide=True).encode("utf-8", "surrogateescape"))
    for value in (*(i.default for i in graph.inputs), *(op.kind for op in graph.ops)):
        for data in _constants(value):
            state.update(data.digest().encode())
    return state.hexdigest()


def _constants(attribute: object) -> Iterator[Data]:
    """The data in an attribute, at any depth."""
    if isinstance(attribute, Data):
        yield attribute
    elif isinstance(attribute, tuple | list):
        for item in attribute:
            yield from _constants(item)
    elif isinstance(attribute, OpKind):
        for field in dataclasses.fields(attribute):
            yield from _constants(getattr(attribute, field.name))


def samples_digest(samples: Iterable[Mapping[str, Array]], progress: Progress = lambda what, done, total: None) -> str:
    """SHA-256 of batches in their order: names, types, shapes and contents of the arrays."""
    state = hashlib.sha256()
    for done, feeds in enumerate(samples, 1):
        for name in sorted(feeds):
            state.update(f"{len(name)} {name} {ArrayData(np.asarray(feeds[name])).digest()}\n".encode())
        state.update(b"\n")
        progress("identifying samples", done, done)
    return state.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
