"""ONNX' reference evaluator, with known defects of it mended by name, so that every other disagreement counts.

A defect is an op of the evaluator that departs from its own text in the standard. The op here is that op with the
departure taken out and nothing else, and notes when it was needed. Version 1.23.2 of onnx has them all.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_conv_transpose import ConvTranspose as GivenConvTranspose
from onnx.reference.ops.op_loop import Loop as GivenLoop
from onnx.reference.ops.op_max_pool import MaxPool as GivenMaxPool

from amctc.types import Array


class Loop(GivenLoop):  # type: ignore[misc]
    """The standard: a condition that is absent is true. The evaluator tests ``None`` and runs no iteration."""

    defect: ClassVar[str] = "Loop without a condition never runs"

    def _run(self, M: Any, cond: Any, *args: Any, **others: Any) -> Any:
        return super()._run(M, _needed(self, np.array(True)) if cond is None else cond, *args, **others)


class ConvTranspose(GivenConvTranspose):  # type: ignore[misc]
    """The standard: W is [C, M/group, …], B is [M]. The evaluator cuts W by M and gives all groups the first of B."""

    defect: ClassVar[str] = "ConvTranspose takes the wrong weight or bias for a group"

    def _run(self, X: Array, W: Array, B: Array | None = None, group: int | None = None, **others: Any) -> Any:
        if group is None or group == 1:
            return super()._run(X, W, B, group=1, **others)
        _needed(self)
        biases = [None] * group if B is None else np.split(B, group)
        parts = zip(np.split(X, group, axis=1), np.split(W, group), biases, strict=True)
        return (
            np.concatenate([super(ConvTranspose, self)._run(x, w, b, group=1, **others)[0] for x, w, b in parts], 1),
        )


class MaxPool(GivenMaxPool):  # type: ignore[misc]
    """The standard: pads are all begins, then all ends. Where strides and dilations are 1, the evaluator takes the
    begin and the end of each axis in turn, and but for two axes none: its other loop is right."""

    defect: ClassVar[str] = "MaxPool of stride 1 takes its pads in another order"

    def _run(self, x: Array, **attributes: Any) -> Any:
        if not any(attributes["pads"] or ()) or attributes["auto_pad"] not in (None, "NOTSET"):
            return super()._run(x, **attributes)
        return self._max_pool(_needed(self, x), **attributes)


MENDED = (Loop, ConvTranspose, MaxPool)

_seen: set[str] = set()


def _needed(op: Any, given: Any = None) -> Any:
    _seen.add(op.defect)
    return given


def by_reference(
    model: onnx.ModelProto, names: Sequence[str], feeds: Mapping[str, Array], *, mended: bool
) -> tuple[dict[str, Array], Sequence[str]]:
    """Outputs by name, and the defects that were in the way; raises anything where the evaluator lacks something."""
    _seen.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session: Any = ReferenceEvaluator(model, new_ops=list(MENDED) if mended else None)
        outputs = session.run(list(names), dict(feeds))
    return dict(zip(names, outputs, strict=True)), sorted(_seen)
