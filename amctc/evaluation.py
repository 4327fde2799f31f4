"""Score a model: as a classifier, or by a function of the user's own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np

from amctc.calibrate.axes import batch_length
from amctc.calibrate.samples import Samples
from amctc.concurrency import in_order, open_executor
from amctc.errors import InputError, UsageError
from amctc.numerics.error import ErrorStatistics
from amctc.numerics.threads import single_threaded_blas
from amctc.report.model import Evaluation
from amctc.session import Session
from amctc.types import Array

Progress = Callable[[str, int, int], None]

Evaluator = Callable[..., Any]
"""Scores a model by one number: called with the :class:`Session`, and with the samples if it takes two arguments."""


OWN = "score the model by a function of your own: evaluator, or --evaluator"


def evaluate(
    session: Session,
    samples: Samples | None = None,
    reference: Session | None = None,
    *,
    evaluator: Evaluator | None = None,
    progress: Progress = lambda what, done, total: None,
    jobs: int = 1,
) -> Evaluation:
    """The score of ``evaluator``, or without one that of a classifier, on the first output.

    A classifier's: top-1 and top-5 against the samples' labels, agreement and SQNR against a reference model. Shares
    are of samples; a row's classes are all its elements. Agreement is the share of equal largest elements. ``jobs``
    batches are run at a time, each in a thread with matrix products of one; the result is the same. Raises
    :class:`UsageError` without samples where they are needed, :class:`InputError` when an evaluator gives no number.
    """
    if evaluator is not None:
        return _scored(session, samples, evaluator)
    if samples is None:
        raise UsageError("there are no samples to evaluate on", remedy="give samples, or an evaluator that has its own")
    return _classified(session, samples, reference, progress, jobs)


def _scored(session: Session, samples: Samples | None, evaluator: Evaluator) -> Evaluation:
    name = str(getattr(evaluator, "__name__", type(evaluator).__name__))
    wants_samples = takes_samples(evaluator)
    if wants_samples and samples is None:
        raise UsageError(f"the evaluator {name!r} takes samples", remedy="give them (--data)")
    score = evaluator(session, samples) if wants_samples else evaluator(session)
    if isinstance(score, np.ndarray) and score.ndim == 0:
        score = score[()]
    if isinstance(score, bool | np.bool_) or not isinstance(score, Real):
        raise InputError(f"the evaluator {name!r} gave {type(score).__name__}, not a number",
                         remedy="return one number")  # fmt: skip
    if not math.isfinite(score):
        raise InputError(f"the evaluator {name!r} gave {score}", remedy="look at what it computes from the outputs")
    counted = 0 if samples is None or not wants_samples else len(samples)
    return Evaluation(counted, None, None, None, None, metric=name, score=float(score))


def takes_samples(evaluator: Evaluator) -> bool:
    """Whether a second argument can be given."""
    try:
        inspect.signature(evaluator).bind(None, None)
    except (TypeError, ValueError):  # ValueError: written in C, without a signature
        return False
    return True


def _classified(
    session: Session, samples: Samples, reference: Session | None, progress: Progress, jobs: int
) -> Evaluation:  # fmt: skip
    hits1 = hits5 = agreeing = seen = rows = classes = 0
    error = ErrorStatistics()
    labels = samples.labels
    for size, scores, expected in _rows(session, samples, reference, jobs):
        if labels is not None:
            if len(scores) != size:
                raise UsageError("the first output has no row per sample, so labels cannot score it", remedy=OWN)
            wanted = labels[seen : seen + len(scores), None]
            order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
            hits1 += int((order[:, :1] == wanted).sum())
            hits5 += int((order == wanted).any(axis=1).sum())
        if expected is not None:
            error = error.updated_where_finite(expected, scores)
            agreeing += int((expected.argmax(1) == scores.argmax(1)).sum())
        seen, rows, classes = seen + size, rows + len(scores), scores.shape[1]
        progress("evaluating", seen, len(samples))
    return Evaluation(
        samples=seen, top1=hits1 / seen if labels is not None else None,
        top5=hits5 / seen if labels is not None and classes > 5 else None,
        agreement=agreeing / rows if reference is not None else None,
        sqnr_db=error.sqnr_db if reference is not None else None,
    )  # fmt: skip


def _rows(
    session: Session, samples: Samples, reference: Session | None, jobs: int
) -> Iterator[tuple[int, Array, Array | None]]:
    """Of each batch its size, the rows of scores, and those of the reference."""

    def run(feeds: Mapping[str, Array]) -> tuple[int, Array, Array | None]:
        size = batch_length(feeds)
        rows = [sample_rows(s.run(feeds)[s.output_names[0]], size) for s in (session, reference) if s is not None]
        return size, rows[0], rows[1] if len(rows) > 1 else None

    with open_executor("threads" if jobs > 1 else "serial", jobs) as pool, single_threaded_blas():
        yield from in_order(pool, run, samples)


def sample_rows(output: object, size: int) -> Array:
    """One row of scores per sample of a batch of ``size``, float64; one in all for an output without batch axis.

    Raises :class:`UsageError` for an output that holds no numbers.
    """
    if not isinstance(output, np.ndarray) or output.dtype.kind not in "biuf":
        raise UsageError("the first output holds no numbers, so it is no classifier's", remedy=OWN)
    rows = size if output.shape[:1] == (size,) else 1
    return output.astype(np.float64).reshape(rows, -1)
