"""How much a result depends on what is not certain about the chip: one run per other value of each choice (N26)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

import numpy as np

from amctc.calibrate.axes import batch_length
from amctc.errors import UsageError
from amctc.evaluation import sample_rows
from amctc.frontends.onnx_file import load
from amctc.ir import Graph
from amctc.numerics.error import ErrorStatistics
from amctc.report.build import used_choices
from amctc.report.model import ChoiceReport, VariantResult
from amctc.session import Session
from amctc.targets import Profile
from amctc.types import Array

Progress = Callable[[str, int, int], None]

NOT_SIMULATED = frozenset({"w4a8_conv"})
"""Choices that a run may depend on and whose other values no kernel computes."""


def evaluate_variants(
    model: str | PathLike[str] | Graph,
    samples: Iterable[Mapping[str, Array]],
    reference: Session | None = None,
    *,
    target: str | Profile | None = None,
    fusion: bool | None = None,
    progress: Progress = lambda what, done, total: None,
) -> tuple[VariantResult, ...]:
    """Run a deploy model once for each other value of each [D] or [I] choice it depends on, and compare first outputs.

    ``samples`` gives the same batches every time it is iterated over. ``target`` and ``fusion`` as for
    :class:`~amctc.session.Session`. The outputs of one run are held in memory. Raises :class:`UsageError` for a model
    that is no deploy model: its arithmetic has no choices.
    """
    graph = model if isinstance(model, Graph) else load(model)
    default = Session(graph, target=target, fusion=fusion)
    profile = default.target
    if profile is None:
        raise UsageError(f"a {default.kind} model has no variants", where=None if model is graph else str(model),
                         remedy="name a deploy model")  # fmt: skip
    plain = list(_outputs(default, samples, "plain run", progress))
    expected = None if reference is None else list(_outputs(reference, samples, "float model", progress))
    choices = used_choices(default.graph, profile, overflowed=bool(default.overflows))
    results = []
    for choice in choices:
        for value in profile.choice(choice.name).alternatives:
            if choice.name in NOT_SIMULATED:
                results.append(VariantResult(**_named(choice, value), simulated=False))
                continue
            session = Session(graph, target=profile.replace_choice(choice.name, value), fusion=fusion)
            outputs = _outputs(session, samples, f"{choice.name} = {value}", progress)
            results.append(_compared(choice, value, outputs, plain, expected))
    return tuple(results)


def _outputs(
    session: Session, samples: Iterable[Mapping[str, Array]], what: str, progress: Progress
) -> Iterator[Array]:
    """The first output of each batch, one row per sample if it has a batch axis."""
    total = len(samples) if hasattr(samples, "__len__") else 0  # type: ignore[arg-type]
    seen = 0
    for feeds in samples:
        size = batch_length(feeds)
        rows = sample_rows(session.run(feeds)[session.output_names[0]], size)
        seen += size
        progress(what, seen, max(seen, total))
        yield rows


def _compared(
    choice: ChoiceReport, value: str, outputs: Iterable[Array], plain: list[Array], expected: list[Array] | None
) -> VariantResult:
    same = same_class = agreeing = seen = 0
    error = ErrorStatistics()
    for index, (rows, before) in enumerate(zip(outputs, plain, strict=True)):
        seen += len(rows)
        same += int(((rows == before) | (np.isnan(rows) & np.isnan(before))).all(axis=1).sum())
        same_class += int((rows.argmax(1) == before.argmax(1)).sum())
        if expected is not None:
            error = error.updated_where_finite(expected[index], rows)
            agreeing += int((rows.argmax(1) == expected[index].argmax(1)).sum())
    if not seen:
        return VariantResult(**_named(choice, value))
    compared = expected is not None
    return VariantResult(
        **_named(choice, value), same=same / seen, same_class=same_class / seen,
        agreement=agreeing / seen if compared else None, sqnr_db=error.sqnr_db if compared else None,
    )  # fmt: skip


def _named(choice: ChoiceReport, value: str) -> dict[str, Any]:
    return {"choice": choice.name, "value": value, "default": choice.value, "tag": choice.tag, "rule": choice.rule}
