"""What a sample is: a slice along the batch axis all inputs share, or, where they share none, all that one run is fed.

Recurrent and streaming models take a state whose batch axis comes second, or a scalar such as a sampling rate; then no
axis can be cut into samples. Their inputs get an axis of runs in front, of which every batch is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from amctc.calibrate.inputs import InputSpec


def with_sample_axis(inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """The inputs with samples along their first axis: as they are, or behind an axis of runs of size 1."""
    inputs = tuple(inputs)
    if all(spec.run for spec in inputs) or share_batch_axis(inputs):
        return inputs
    return tuple(replace(spec, shape=(1, *spec.shape), run=True) for spec in inputs)


def share_batch_axis(inputs: Sequence[InputSpec]) -> bool:
    """Whether the first axis of every input can be the batch.

    It cannot for a scalar, where a fixed size and another first axis differ (but for 1, the size of what is not
    batched), where the symbol of one input's first axis is another axis elsewhere, or where first axes differ and
    another symbol is in all inputs.
    """
    if any(not spec.shape for spec in inputs):
        return False
    first = {spec.shape[0] for spec in inputs if spec.shape[0] is not None}
    if len(first) > 1 and any(map(_fixed, first)):
        return False
    if len(first) < 2:
        return True
    symbols = [{d for d in spec.shape if isinstance(d, str)} for spec in inputs]
    inner = {d for spec in inputs for d in spec.shape[1:] if isinstance(d, str)}
    return not (first & inner) and not set.intersection(*symbols) - first


def _fixed(size: int | str | None) -> bool:
    """A size that is no batch of one."""
    return isinstance(size, int) and size > 1


def batch_length(feeds: Mapping[str, NDArray[Any]]) -> int:
    """The samples of a batch: the length all first axes have, 1 where they differ because it is one run."""
    lengths = {array.shape[:1] for array in feeds.values()}
    (shared,) = lengths if len(lengths) == 1 else [()]
    return shared[0] if shared else 1
