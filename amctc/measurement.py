"""How far a model is from its float model, on samples that calibrated nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.special import log_softmax

from amctc.calibrate.axes import batch_length
from amctc.calibrate.samples import Samples
from amctc.errors import UsageError
from amctc.evaluation import Evaluator, evaluate, sample_rows
from amctc.ir import Graph
from amctc.numerics.error import ErrorStatistics
from amctc.outputs import with_scores
from amctc.session import Session
from amctc.targets import Profile
from amctc.types import Array

Metric = Literal["sqnr", "mse", "cosine", "kl", "score"]
METRICS: tuple[Metric, ...] = get_args(Metric)

EXECUTOR = "onnxruntime"
"""What computes integer models in trials: the bits of every executor are the same, and this is the fastest."""


@dataclass(frozen=True)
class Measurement:
    """A model against its float model, over the floating-point outputs, in front of a final softmax.

    ``noise`` is the energy of the difference over that of the signal, ``mse`` its mean square, ``kl`` the mean
    Kullback-Leibler divergence in nats of softmax outputs, float before model; each the mean over the outputs. Shares
    are of samples and of the first output: ``agreement`` has the same largest element, ``top1`` is right by the labels.
    ``score`` is the user's evaluator's. ``by_sample`` tells which samples the noise is of: its mean is ``noise``.
    """

    noise: float
    mse: float
    cosine: float
    kl: float
    agreement: float | None
    top1: float | None = None
    score: float | None = None
    by_sample: tuple[float, ...] = ()

    @property
    def sqnr_db(self) -> float:
        """Signal over noise."""
        return decibels(self.noise)

    def loss(self, metric: Metric, clean: Measurement) -> float:
        """How much is lost by ``metric``: the more the worse; of a score, how far it fell from that of ``clean``."""
        if metric == "score":
            if self.score is None or clean.score is None:
                raise UsageError("there is no score", remedy="give an evaluator")
            return clean.score - self.score
        return {"sqnr": self.noise, "mse": self.mse, "cosine": 1.0 - self.cosine, "kl": self.kl}[metric]


def decibels(noise: float) -> float:
    """Signal over noise in dB, of noise over signal."""
    return math.inf if noise == 0 else -math.inf if math.isinf(noise) else -10 * math.log10(noise)


class Reference:
    """Outputs of the float model over ``samples``, kept to be compared with.

    ``evaluator`` scores models beside. ``target`` is that of the deploy graphs.
    """

    def __init__(
        self, graph: Graph, samples: Samples, target: Profile, *, evaluator: Evaluator | None = None,
        provider: str = "cpu",
    ) -> None:  # fmt: skip
        samples.require_batch()
        self._samples, self._target, self._evaluator, self._provider = samples, target, evaluator, provider
        session = Session(with_scores(graph), provider=provider)
        self._outputs = [n for n, o in zip(graph.output_names, graph.outputs, strict=True) if o.type.is_float]
        if not self._outputs:
            raise UsageError("no output holds floating-point numbers, so nothing tells how near it is",
                             remedy="name such an output when the model is exported")  # fmt: skip
        self._expected = [{n: session.run(feeds)[n] for n in self._outputs} for feeds in samples]
        self.clean = self._measured(lambda: iter(self._expected), Session(graph, provider=provider))

    @property
    def samples(self) -> Samples:
        """What is measured on."""
        return self._samples

    def measure(self, graph: Graph) -> Measurement:
        """A QDQ graph in ONNX Runtime, a deploy graph by its integers."""
        scores = self._session(with_scores(graph))
        whole = scores if self._evaluator is None else self._session(graph)
        return self._measured(lambda: (scores.run(feeds) for feeds in self._samples), whole)

    def _session(self, graph: Graph) -> Session:
        return Session(graph, target=self._target, provider=self._provider, executor=EXECUTOR)

    def _measured(self, outputs: Callable[[], Iterator[dict[str, Array]]], session: Session) -> Measurement:
        errors = {n: ErrorStatistics() for n in self._outputs}
        divergence, counts = dict.fromkeys(self._outputs, 0.0), _Counts()
        labels, seen = self._samples.labels, 0
        energies: dict[str, list[Array]] = {n: [] for n in self._outputs}
        for feeds, expected, actual in zip(self._samples, self._expected, outputs(), strict=True):
            size = batch_length(feeds)
            for name in self._outputs:
                a, b = expected[name], actual[name]
                if a.shape == b.shape:  # a number of detections says nothing about noise
                    errors[name] = errors[name].updated_where_finite(a, b)
                    divergence[name] += _divergence(sample_rows(a, size), sample_rows(b, size))
                energies[name].append(_noise_energies(a, b, size))
            first = (expected[self._outputs[0]], actual[self._outputs[0]])
            counts.add(*first, size, None if labels is None else labels[seen : seen + size])
            seen += size
        by_sample = [np.concatenate(energies[n]) * seen / (e.signal_energy or 1.0) for n, e in errors.items()]
        score = None
        if self._evaluator is not None:
            score = evaluate(session, self._samples, evaluator=self._evaluator).score
        return Measurement(
            noise=_mean(e.noise_energy / e.signal_energy if e.signal_energy else math.inf if e.noise_energy else 0.0
                        for e in errors.values()),
            mse=_mean(e.mse for e in errors.values()), cosine=_mean(e.cosine for e in errors.values()),
            kl=_mean(d / seen for d in divergence.values()),
            agreement=counts.agreement, top1=counts.top1, score=score,
            by_sample=tuple(np.mean(by_sample, axis=0).tolist()),
        )  # fmt: skip


@dataclass
class _Counts:
    """Rows of scores, one axis of them per sample, whose largest element is the same, or right."""

    rows: int = 0
    agreeing: int = 0
    labelled: int = 0
    right: int = 0

    def add(self, expected: Array, actual: Array, size: int, labels: Array | None) -> None:
        axes = expected.shape[1:] if expected.shape[:1] == (size,) else expected.shape
        if expected.shape != actual.shape or not 0 < math.prod(axes) == max(axes, default=1):
            return
        expected, actual = sample_rows(expected, size), sample_rows(actual, size)
        best = actual.argmax(1)
        self.rows += len(best)
        self.agreeing += int((expected.argmax(1) == best).sum())
        if labels is not None and len(labels) == len(best):
            self.labelled += len(best)
            self.right += int((labels == best).sum())

    @property
    def agreement(self) -> float | None:
        return self.agreeing / self.rows if self.rows else None

    @property
    def top1(self) -> float | None:
        return self.right / self.labelled if self.labelled else None


def _divergence(expected: Array, actual: Array) -> float:
    """Σ p·(log p − log q) over rows, p and q softmax of the scores; infinite for scores that are not finite."""
    if not np.isfinite(expected).all():
        return 0.0
    if not np.isfinite(actual).all():
        return math.inf
    p, q = log_softmax(expected, axis=1), log_softmax(actual, axis=1)
    return float((np.exp(p) * (p - q)).sum())


def _noise_energies(expected: Array, actual: Array, size: int) -> Array:
    """Σ (a - b)² for each of ``size`` samples, where a is finite; shared by all where there is no row for each."""
    if expected.shape != actual.shape:
        return np.zeros(size)
    rows = sample_rows(expected, size)
    finite = np.isfinite(rows)
    with np.errstate(invalid="ignore"):
        found = np.square(sample_rows(actual, size) - rows, where=finite, out=np.zeros(rows.shape)).sum(axis=1)
    found = np.where(np.isnan(found), math.inf, found)
    return np.asarray(found if len(found) == size else np.full(size, found.sum() / size))


def _mean(numbers: Iterator[float]) -> float:
    found = list(numbers)
    return sum(found) / len(found)


def held_back(samples: Samples, behind: int | None = None) -> tuple[Samples, Samples]:
    """``samples`` in two parts: what calibrates, and what is held back to measure on.

    Held back are the last ``behind`` samples, by default a quarter. Raises :class:`UsageError` where one part would be
    empty.
    """
    total, unit = len(samples), samples.smallest_batch
    count = -(-total // 4 // unit) * unit if behind is None else behind
    count = max(unit, count)
    if total - count < unit:
        raise UsageError(f"{total} samples are too few: {count} of them are held back to measure on",
                         remedy="give more samples, or hold back fewer")  # fmt: skip
    return samples.limited(0, total - count), samples.limited(total - count)
