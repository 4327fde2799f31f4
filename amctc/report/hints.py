"""What to do about a slow model, read from the numbers of its estimate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from amctc.cost import Estimate, OpCost
from amctc.cycles import CUBE_SIDE, CubeWork, ceil_div
from amctc.memory import Memory
from amctc.report.units import bytes_text, share_text
from amctc.targets import Profile

MOST = 4
"""Hints given, those that promise most."""

LARGE_PADDING, LARGE_SHARE, IDLE_CORES = 0.25, 0.2, 0.5
"""What is worth a line: padding of a layer's blocks, share of the time, share of the cores in use."""

LARGEST_BATCH = 64
"""No larger batch is advised."""


class Hint(NamedTuple):
    """Advice, and about how many microseconds it is worth; 0 for what is only good to know."""

    gain_us: float
    text: str


def hints(result: Estimate, memory: Memory | None, profile: Profile, *, float16: Estimate | None = None) -> list[str]:
    """Up to four hints, the most promising first.

    ``float16`` is the estimate of the same model in float16 where ``result`` is that of its int8 form.
    """
    integer = any(op.op_name.startswith("ascend.") for op in result.ops)
    found = [
        *_padding(result, profile, integer), *_memory_bound(result, integer), *_vector_bound(result, profile),
        *_between_layers(result, integer), *_idle_cores(result, profile), *_against_float16(result, float16),
        *_l2(memory, profile),
    ]  # fmt: skip
    return [hint.text for hint in sorted(found, key=lambda hint: -hint.gain_us)[:MOST]]


def _padding(result: Estimate, profile: Profile, integer: bool) -> Iterator[Hint]:
    """The layer that loses most cube time to channels that do not fill their blocks."""
    padded = [(op, op.work) for op in result.ops if op.work is not None and op.work.padding >= LARGE_PADDING]
    if not padded:
        return
    op, work = max(padded, key=lambda entry: (_wasted(entry[0]), entry[1].padding))
    share = share_text(work.padding, 0)
    aside = "" if op.bound == "cube" else f" (its time is set by the {op.bound})"
    block = profile.c0["i8" if integer and op.op_name.startswith("ascend.") else "f16"]
    yield Hint(_wasted(op), f"{op.layer} wastes {share} of the cube on {_channels(work, block)}{aside}")


def _wasted(op: OpCost) -> float:
    """Microseconds that padding costs where the cube sets the time."""
    if op.work is None or op.times_us is None or op.bound != "cube":
        return 0.0
    return op.work.padding * op.times_us["cube"]


def _channels(work: CubeWork, block: int) -> str:
    """Which channels do not fill their blocks, and what would."""
    if work.groups > 1:
        each = "1 channel" if work.inner == 1 else f"{work.inner} channels"
        return f"{work.groups} groups of {each}: fewer, wider groups would use it better"
    inner, outer = (n / (ceil_div(n, b) * b) for n, b in ((work.inner, block), (work.outer, CUBE_SIDE)))
    count, size, side = (work.inner, block, "input") if inner <= outer else (work.outer, CUBE_SIDE, "output")
    nouns = "channel" if count == 1 else "channels"
    return f"{count} {side} {nouns} in blocks of {size}: {ceil_div(count, size) * size} would cost the same"


def _memory_bound(result: Estimate, integer: bool) -> Iterator[Hint]:
    """What to do when memory sets much of the time."""
    ops = [op for op in result.ops if op.bound == "memory" and op.time_us is not None]
    spent, total = sum(op.time_us or 0.0 for op in ops), result.total_us or 0.0
    if not total or spent < LARGE_SHARE * total:
        return
    share = share_text(spent / total, 0)
    if not integer:
        yield Hint(spent / 2, f"memory sets {share} of the time: int8 halves the bytes (amctc compress)")
        return
    moved, weights = sum(op.bytes or 0 for op in ops), sum(op.weight_bytes for op in ops)
    if moved and weights > moved / 2:
        batch = 8 * result.batch
        yield Hint(spent * weights / moved * 7 / 8,
                   f"memory sets {share} of the time and {share_text(weights / moved, 0)} of those bytes are weights: "
                   f"--batch {batch} shares them")  # fmt: skip
        return
    largest = max(ops, key=lambda op: op.time_us or 0.0)
    yield Hint((largest.time_us or 0.0) / 2,
               f"memory sets {share} of the time, most for {largest.layer}, which moves {bytes_text(largest.bytes)}: "
               "fewer channels or positions there pay off first")  # fmt: skip


def _vector_bound(result: Estimate, profile: Profile) -> Iterator[Hint]:
    """Layers that wait for the vector unit to dequantize their accumulators."""
    ops = [op for op in result.ops if op.bound == "vector" and op.work is not None and op.times_us is not None]
    spent, total = sum(op.time_us or 0.0 for op in ops), result.total_us or 0.0
    if not total or spent < LARGE_SHARE * total or profile.epilogue == "fixpipe":
        return
    idle = sum(op.times_us["vector"] - max(op.times_us["cube"], op.times_us["memory"]) for op in ops if op.times_us)
    layers, share = "1 layer" if len(ops) == 1 else f"{len(ops)} layers", share_text(spent / total, 0)
    yield Hint(idle, f"{layers} with {share} of the time wait for the vector unit to dequantize: "
                     "a chip with a fixpipe does that on the way out")  # fmt: skip


def _between_layers(result: Estimate, integer: bool) -> Iterator[Hint]:
    """The ops that are no layers, where they take much of the time."""
    ops = [op for op in result.ops if op.work is None and op.time_us is not None]
    spent, total = sum(op.time_us or 0.0 for op in ops), result.total_us or 0.0
    if not total or spent < LARGE_SHARE * total:
        return
    kinds: dict[str, float] = {}
    for op in ops:
        kinds[op.op_name] = kinds.get(op.op_name, 0.0) + (op.time_us or 0.0)
    most = max(kinds, key=lambda name: kinds[name])
    advice = "keep more of the layers around them in int8" if integer else "fuse what can be fused into the layers"
    share, name = share_text(spent / total, 0), most.removeprefix("nn.")
    yield Hint(kinds[most], f"{len(ops)} ops between the layers take {share} of the time, most of it {name}: {advice}")


def _idle_cores(result: Estimate, profile: Profile) -> Iterator[Hint]:
    """Layers with fewer tiles than cores, and the batch that would fill them."""
    cores = profile.cube_cores or 1
    bound = [(op, op.work) for op in result.ops if op.work is not None and op.work.tiles and op.bound == "cube"]
    idle = [(op, work) for op, work in bound if work.share_of_cores(cores) <= IDLE_CORES]
    if not idle:
        return
    gain = sum((1 - work.share_of_cores(cores)) * (op.time_us or 0.0) for op, work in idle)
    op, work = max(idle, key=lambda entry: entry[0].time_us or 0.0)
    batch = min(LARGEST_BATCH, result.batch * ceil_div(cores, work.tiles))
    layers = "1 layer keeps" if len(idle) == 1 else f"{len(idle)} layers keep"
    yield Hint(gain, f"{layers} less than half of the {cores} cube cores busy, {op.layer} {work.tiles} of them: "
                     f"--batch {batch} fills them")  # fmt: skip


def _against_float16(result: Estimate, float16: Estimate | None) -> Iterator[Hint]:
    if float16 is None or not float16.total_us or not result.total_us:
        return
    ratio = result.total_us / float16.total_us
    if ratio >= 1:
        yield Hint(result.total_us - float16.total_us,
                   f"int8 takes {share_text(ratio, 0)} of the time of float16 here: what lies between the layers eats "
                   "the gain")  # fmt: skip
    else:
        yield Hint(0.0, f"int8 takes {share_text(ratio, 0)} of the time of float16")


def _l2(memory: Memory | None, profile: Profile) -> Iterator[Hint]:
    """Whether values may stay in L2 between ops, which the estimate does not assume."""
    if memory is None or not profile.l2_bytes:
        return
    l2 = bytes_text(profile.l2_bytes)
    if memory.peak <= profile.l2_bytes:
        held = bytes_text(memory.peak)
        yield Hint(0.0, f"weights and activations ({held}) fit into the L2 of {l2}: memory times are upper limits")
    elif memory.activations > profile.l2_bytes:
        held = bytes_text(memory.activations)
        yield Hint(0.0, f"activations reach {held} at {memory.layer}, more than the L2 of {l2}: memory counts in full")
