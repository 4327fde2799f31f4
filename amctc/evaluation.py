"""Score a model: as a classifier, or by a function of the user's own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    return evaluate_all((session,), samples, reference, progress=progress, jobs=jobs)[0]


def evaluate_all(
    sessions: Sequence[Session],
    samples: Samples,
    reference: Session | None = None,
    *,
    progress: Progress = lambda what, done, total: None,
    jobs: int = 1,
) -> tuple[Evaluation, ...]:
    """What :func:`evaluate` says of each of some classifiers, from one pass over the samples.

    Every model runs once for each batch, the reference too, though all are compared with it.
    """
    labels, scored = samples.labels, [_Score() for _ in sessions]
    seen = 0
    for size, outputs in _outputs(sessions, samples, reference, jobs):
        wanted = None if labels is None else labels[seen : seen + size]
        for session, score in zip(sessions, scored, strict=True):
            score.add(size, outputs[session], wanted, None if reference is None else outputs[reference])
        seen += size
        progress("evaluating", seen, len(samples))
    return tuple(score.evaluation() for score in scored)


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


@dataclass
class _Score:
    """What is counted of a classifier; hits and agreement are ``None`` without labels and without a reference."""

    samples: int = 0
    rows: int = 0
    classes: int = 0
    hits1: int | None = None
    hits5: int | None = None
    agreeing: int | None = None
    error: ErrorStatistics = field(default_factory=ErrorStatistics)

    def add(self, size: int, scores: Array, labels: Array | None, expected: Array | None) -> None:
        """Count a batch of ``size`` samples: rows of scores, their labels, and the rows of the reference."""
        if labels is not None:
            if len(scores) != size:
                raise UsageError("the first output has no row per sample, so labels cannot score it", remedy=OWN)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
            self.hits1 = (self.hits1 or 0) + int((order[:, :1] == labels[:, None]).sum())
            self.hits5 = (self.hits5 or 0) + int((order == labels[:, None]).any(axis=1).sum())
        if expected is not None:
            self.error = self.error.updated_where_finite(expected, scores)
            self.agreeing = (self.agreeing or 0) + int((expected.argmax(1) == scores.argmax(1)).sum())
        self.samples, self.rows, self.classes = self.samples + size, self.rows + len(scores), scores.shape[1]

    def evaluation(self) -> Evaluation:
        """Of all that was counted."""
        return Evaluation(
            samples=self.samples, top1=None if self.hits1 is None else self.hits1 / self.samples,
            top5=None if self.hits5 is None or self.classes <= 5 else self.hits5 / self.samples,
            agreement=None if self.agreeing is None else self.agreeing / self.rows,
            sqnr_db=None if self.agreeing is None else self.error.sqnr_db,
        )  # fmt: skip


def _outputs(
    sessions: Sequence[Session], samples: Samples, reference: Session | None, jobs: int
) -> Iterator[tuple[int, dict[Session, Array]]]:
    """Of each batch its size, and the rows of scores of each session and of the reference."""
    models = dict.fromkeys(sessions if reference is None else (*sessions, reference))

    def run(feeds: Mapping[str, Array]) -> tuple[int, dict[Session, Array]]:
        size = batch_length(feeds)
        return size, {s: sample_rows(s.run(feeds)[s.output_names[0]], size) for s in models}

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
