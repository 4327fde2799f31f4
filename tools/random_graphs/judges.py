"""What is wrong with a model that went through passes: other results, another interface, a file that is refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from amctc.ir import Graph
from amctc.types import Array
from tools.random_graphs.cases import Case

Results = Mapping[str, Array]


class Finding(Exception):
    """A ``miscompile`` or a ``break``."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


def compare(who: str, before: Results, after: Results, allowed: Mapping[str, Array]) -> None:
    """Raise a miscompile where a number lies further off than allowed, or is no number any more."""
    for name, old in before.items():
        new = after[name]
        if old.shape != new.shape or old.dtype != new.dtype:
            raise Finding("break", f"{who}: {name} was {old.dtype}{old.shape} and is {new.dtype}{new.shape}")
        with np.errstate(all="ignore"):
            difference = np.abs(old.astype(np.float64) - new.astype(np.float64))
            wrong = _is_a_number(old) & ~((old == new) | (difference <= allowed[name])) & np.isfinite(allowed[name])
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            limit = np.broadcast_to(allowed[name], old.shape)[index]
            raise Finding("miscompile", f"{who}: {name}{list(index)} was {old[index]!r} and is {new[index]!r}; "
                          f"allowed is {limit:.3g}, {int(wrong.sum())} of {wrong.size} elements are wrong")  # fmt: skip


def _is_a_number(array: Array) -> Array:
    """ONNX Runtime pools from the least float on: where there is nothing but minus infinity, that is what it gives."""
    return np.isfinite(array) & (array != np.finfo(array.dtype).min) if array.dtype.kind == "f" else np.ones((), bool)


def check_interface(case: Case, graph: Graph, result: Graph, model: onnx.ModelProto) -> None:
    """The same inputs in the same order but for defaults that were frozen, outputs declared no less; else a break."""
    frozen = {i.name for i in graph.inputs if i.default is not None and i not in result.inputs}
    wanted = [_declared(v) for v in case.model.graph.input if v.name not in frozen]
    constants = {t.name for t in case.model.graph.initializer}
    given = [_declared(v) for v in model.graph.input]
    if [v[0] for v in wanted if v[0] not in constants] != [v[0] for v in given if v[0] not in constants]:
        raise Finding("break", f"inputs were {wanted} and are {given}")
    if not all(v in wanted for v in given):
        raise Finding("break", f"inputs were {wanted} and are {given}")
    for old, new in zip(case.model.graph.output, model.graph.output, strict=True):
        if not _agree(_declared(old), _declared(new)):
            raise Finding("break", f"output was {_declared(old)} and is {_declared(new)}")


Declared = tuple[str, int, tuple[str | int, ...] | None]


def _declared(value: onnx.ValueInfoProto) -> Declared:
    """Name, element type, dimensions (0: not said, or none)."""
    t = value.type.tensor_type
    dims = tuple(d.dim_param or d.dim_value for d in t.shape.dim) if t.HasField("shape") else None
    return value.name, t.elem_type, dims


def _agree(old: Declared, new: Declared) -> bool:
    """Whether a declaration says no less and nothing else."""
    if old[2] is None:
        return old[:2] == new[:2]
    return old[:2] == new[:2] and new[2] is not None and len(old[2]) == len(new[2]) and all(
        a in (b, 0) for a, b in zip(old[2], new[2], strict=True)
    )  # fmt: skip


def is_valid(model: onnx.ModelProto) -> bool:
    """Whether the standard's checker takes a model, types and shapes included."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True
