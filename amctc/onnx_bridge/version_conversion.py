"""ONNX's own converter between opsets, one node at a time, each form of a node once.

The converter needs milliseconds to set itself up. A model of thousands of nodes has few that differ in more than names.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from onnx import ModelProto, version_converter

from amctc.onnx_bridge.names import Names
from amctc.onnx_bridge.subgraphs import bodies

KNOWN_FORMS = 4096
"""Conversions remembered; a form takes about a kilobyte."""


def converted(model: ModelProto, target: int) -> ModelProto | None:
    """``model``, which holds a single node, at opset ``target``; ``None`` where the converter refuses it.

    Names are kept; of a node without bodies, the conversion may be that of an equal node of other names.
    """
    (node,) = model.graph.node
    if any(True for _ in bodies(node)):
        return _parsed(_convert.__wrapped__(model.SerializeToString(deterministic=True), target))
    short = {name: f"v{i}" for i, name in enumerate(dict.fromkeys([*node.input, *node.output])) if name}
    form = ModelProto()
    form.CopyFrom(model)
    form.graph.node[0].name = ""
    _rename(form, short)
    newer = _parsed(_convert(form.SerializeToString(deterministic=True), target))
    if newer is not None:
        fresh = Names(short).fresh  # what the converter made up must not be called as anything of the model's
        made = [o for part in newer.graph.node for o in part.output] + [t.name for t in newer.graph.initializer]
        _rename(newer, {name: fresh(name) for name in made} | {new: old for old, new in short.items()})
    return newer


@functools.lru_cache(KNOWN_FORMS)
def _convert(model: bytes, target: int) -> bytes | None:
    try:
        return bytes(version_converter.convert_version(ModelProto.FromString(model), target).SerializeToString())
    except Exception:  # the C++ converter raises bare exceptions for ops it does not know
        return None


def _parsed(model: bytes | None) -> ModelProto | None:
    return None if model is None else ModelProto.FromString(model)


def _rename(model: ModelProto, names: Mapping[str, str]) -> None:
    """Rename values of a model without bodies, in place."""
    for part in model.graph.node:
        for field in (part.input, part.output):
            field[:] = [names.get(n, n) for n in field]
    for side in (model.graph.input, model.graph.output, model.graph.initializer, model.graph.value_info):
        for entry in side:
            entry.name = names.get(entry.name, entry.name)
