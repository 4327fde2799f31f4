"""Cases of the layers: sums of integer products, offsets, padding, accumulators outside int32 (N7, N8, N26).

The formulas add up, for every output position, the taps that meet an element: in int64, where nothing here overflows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from amctc.errors import LimitError
from amctc.ops import ascend, nn
from amctc.schema import OpKind
from amctc.targets import Profile
from amctc.types import Array
from tools.integer_oracles.cases import (
    Comparison,
    Generator,
    Given,
    Row,
    any_profile,
    int4_or_int8,
    integers,
    run_op,
)

LEAST, MOST = -(2**31), 2**31 - 1
REFUSED = np.array([-1], np.int8)
"""In place of accumulators, which are int32: the layer was refused, or ought to be."""


def settled(sums: Array, profile: Profile) -> Array:
    """N7: finished sums outside int32 saturate, or are taken modulo 2^32."""
    if profile.accumulate_overflow == "wrap":
        return ((sums - LEAST) % 2**32 + LEAST).astype(np.int32)
    return np.clip(sums, LEAST, MOST).astype(np.int32)


def accumulated(
    kind: OpKind, operands: Sequence[Given | None], profile: Profile, exact: Array, folded: Array
) -> Comparison:
    """An op against its exact sums, the overflows it reports among them; refused where bias′ leaves int32 (N8)."""
    shapes = ", ".join("no bias" if o is None else f"{list(o.array.shape)}" for o in operands)
    what = f"{kind} of {shapes} on {profile.name} {profile.accumulate_overflow}"
    fits = not ((folded < LEAST) | (folded > MOST)).any()
    reported: list[int] = []
    try:
        acc = run_op(kind, operands, profile, lambda layer, count: reported.append(count))
    except LimitError:
        return Comparison(REFUSED, settled(exact, profile) if fits else REFUSED, what)
    overflows = int(np.count_nonzero((exact < LEAST) | (exact > MOST)))
    if fits and sum(reported) != overflows:
        return Comparison(np.array([sum(reported)]), np.array([overflows]), f"overflows reported of {what}")
    return Comparison(acc, settled(exact, profile) if fits else REFUSED, what)


def biases(rng: Generator, count: int) -> Given | None:
    """No bias, one of ordinary size, or one next to the ends of int32."""
    form = rng.integers(4)
    if form == 0:
        return None
    values = rng.integers(-(2**20), 2**20, count) if form < 3 else rng.choice([LEAST, MOST], count)
    return Given((values + rng.integers(-2000, 2000, count)).clip(LEAST, MOST).astype(np.int32), True)


class Window:
    """A drawn window: strides, pads, dilations and kernel of 1 to 3 spatial axes that fit the data."""

    def __init__(self, rng: Generator, *, dilated: bool = True) -> None:
        self.rank = int(rng.choice([1, 2, 2, 2, 3]))
        self.kernel, self.strides = (tuple(rng.integers(1, 4, self.rank).tolist()) for _ in range(2))
        self.dilations = tuple(rng.integers(1, 3, self.rank).tolist()) if dilated else (1,) * self.rank
        self.pads = tuple(rng.integers(0, 3, 2 * self.rank).tolist()) if rng.random() < 0.7 else (0,) * 2 * self.rank
        self.sizes = tuple(int(e + rng.integers(0, 4)) for e in self.extents)

    @property
    def extents(self) -> tuple[int, ...]:
        """How far the kernel reaches along each axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def out(self) -> tuple[int, ...]:
        """Output positions along each axis."""
        padded = (n + b + e for n, b, e in zip(self.sizes, self.pads, self.pads[self.rank :], strict=False))
        return tuple((n - e) // s + 1 for n, e, s in zip(padded, self.extents, self.strides, strict=True))

    def meetings(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """(output position, kernel position, input position) of every product with a real element."""
        for position in itertools.product(*map(range, self.out())):
            for tap in itertools.product(*map(range, self.kernel)):
                steps = zip(position, self.strides, tap, self.dilations, self.pads, strict=False)
                met = tuple(p * s + t * d - b for p, s, t, d, b in steps)
                if all(0 <= i < n for i, n in zip(met, self.sizes, strict=True)):
                    yield position, tap, met


def drawn_groups(rng: Generator) -> tuple[int, int, int]:
    """Groups, input channels and output channels of each: dense, depthwise and in between."""
    form = rng.integers(4)
    if form == 0:
        return 1, int(rng.integers(1, 7)), int(rng.integers(1, 7))
    if form == 1:
        return int(rng.integers(2, 7)), 1, int(rng.integers(1, 3))
    return int(rng.integers(2, 5)), int(rng.integers(1, 4)), int(rng.integers(1, 4))


def convolved(x: Array, weight: Array, window: Window, group: int, offset: int) -> Array:
    """Σ w · (x − offset), each output position the sum of the taps that meet an element."""
    outputs, per_group = len(weight) // group, weight.shape[1]
    sums = np.zeros((len(x), len(weight), *window.out()), np.int64)
    for position, tap, met in window.meetings():
        real = x[(slice(None), slice(None), *met)].astype(np.int64) - offset
        for g in range(group):
            made = slice(g * outputs, (g + 1) * outputs)
            taken = weight[(made, slice(None), *tap)].astype(np.int64)
            sums[(slice(None), made, *position)] += real[:, g * per_group : (g + 1) * per_group] @ taken.T
    return sums


def spread(x: Array, weight: Array, strides: Sequence[int], full: Sequence[int], group: int, offset: int) -> Array:
    """Σ w · (x − offset), each input added to the output positions it meets, nothing cropped."""
    per_group, outputs = len(weight) // group, weight.shape[1]
    sums = np.zeros((len(x), group * outputs, *full), np.int64)
    for met, tap in itertools.product(np.ndindex(*x.shape[2:]), np.ndindex(*weight.shape[2:])):
        position = tuple(i * s + t for i, s, t in zip(met, strides, tap, strict=True))
        real = x[(slice(None), slice(None), *met)].astype(np.int64) - offset
        for g in range(group):
            channels = slice(g * per_group, (g + 1) * per_group)
            taken = weight[(channels, slice(None), *tap)].astype(np.int64)
            sums[(slice(None), slice(g * outputs, (g + 1) * outputs), *position)] += real[:, channels] @ taken
    return sums


def convolution(rng: Generator) -> Comparison:
    """Σ w · (x − offset_x) + b: groups, dilations, uneven pads, 1 to 3 axes, either weight type."""
    profile, window = any_profile(rng, "accumulate_overflow"), Window(rng)
    group, per_group, outputs = drawn_groups(rng)
    offset = int(rng.choice([0, -128, 127, rng.integers(-128, 128)]))
    x = integers(rng, (int(rng.integers(1, 3)), group * per_group, *window.sizes))
    weight, bias = int4_or_int8(rng, (group * outputs, per_group, *window.kernel)), biases(rng, group * outputs)
    added = np.zeros(group * outputs, np.int64) if bias is None else bias.array.astype(np.int64)
    sums = convolved(x, weight.array, window, group, offset)
    sums += added.reshape(-1, *(1,) * window.rank)
    kind = ascend.Conv(window.strides, window.pads, window.dilations, group, offset)
    folded = added - offset * weight.array.astype(np.int64).reshape(group * outputs, -1).sum(axis=1)
    return accumulated(kind, [Given(x), weight, bias], profile, sums, folded)


LARGE = (
    # group, channels of a group, outputs of a group, kernel, sizes
    (1, 300, 3, (3, 3), (5, 6)),  # sums beyond 2^24, where float32 stops being exact
    (1, 1500, 2, (1, 1), (4, 4)),
    (1, 70, 2, (5, 5), (7, 6)),
    (3, 1, 1, (40, 40), (42, 41)),  # the same, depthwise
    (2, 1, 2, (1, 1200), (1, 1203)),
    (64, 1, 1, (3, 3), (90, 90)),  # several blocks of rows, of patches, of groups
    (1, 64, 16, (3, 3), (60, 61)),
    (8, 4, 4, (3, 3), (80, 70)),
    (33, 3, 2, (3, 3), (20, 20)),
)


def large_convolution(rng: Generator) -> Comparison:
    """Convolutions of many terms, or of many positions, whose sums the kernels take in parts."""
    profile = any_profile(rng, "accumulate_overflow")
    group, per_group, outputs, kernel, sizes = LARGE[int(rng.integers(len(LARGE)))]
    strides, offset = tuple(rng.integers(1, 3, 2).tolist()), int(rng.integers(-128, 128))
    pads = tuple(rng.integers(0, 2, 4).tolist())
    x, weight = integers(rng, (2, group * per_group, *sizes)), integers(rng, (group * outputs, per_group, *kernel))
    bias = biases(rng, group * outputs)
    around = ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3]))
    padded = np.pad(x.astype(np.int64) - offset, around)  # what padding adds is 0 (N8)
    met = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))[:, :, :: strides[0], :: strides[1]]
    parts = [
        np.tensordot(met[:, g * per_group : (g + 1) * per_group],
                     weight[g * outputs : (g + 1) * outputs].astype(np.int64), ((1, 4, 5), (1, 2, 3)))
        for g in range(group)
    ]  # fmt: skip
    added = np.zeros(len(weight), np.int64) if bias is None else bias.array.astype(np.int64)
    sums = np.moveaxis(np.concatenate(parts, axis=-1) + added, -1, 1)
    kind = ascend.Conv(strides, pads, (1, 1), group, offset)
    folded = added - offset * weight.astype(np.int64).reshape(len(weight), -1).sum(axis=1)
    return accumulated(kind, [Given(x), Given(weight, True), bias], profile, sums, folded)


def transposed_convolution(rng: Generator) -> Comparison:
    """Each input spread over the outputs it meets; output padding, groups, uneven pads."""
    profile, window = any_profile(rng, "accumulate_overflow"), Window(rng, dilated=False)
    group, per_group, outputs = drawn_groups(rng)
    offset = int(rng.choice([0, -128, 127, rng.integers(-128, 128)]))
    sizes = tuple(rng.integers(1, 5, window.rank).tolist())
    extra = tuple(int(rng.integers(0, s)) for s in window.strides)
    full = [s * (n - 1) + k + e for n, s, k, e in zip(sizes, window.strides, window.kernel, extra, strict=True)]
    pads = [min(p, (n - 1) // 2) for p, n in zip(window.pads, full * 2, strict=True)]
    x = integers(rng, (int(rng.integers(1, 3)), group * per_group, *sizes))
    weight, bias = int4_or_int8(rng, (group * per_group, outputs, *window.kernel)), biases(rng, group * outputs)
    sums = spread(x, weight.array, window.strides, full, group, offset)
    added = np.zeros(group * outputs, np.int64) if bias is None else bias.array.astype(np.int64)
    kept = tuple(slice(b, n - e) for b, e, n in zip(pads, pads[window.rank :], full, strict=False))
    sums = sums[(slice(None), slice(None), *kept)] + added.reshape(-1, *(1,) * window.rank)
    kind = ascend.ConvTranspose(window.strides, tuple(pads), window.dilations, group, extra, offset)
    per_output = weight.array.astype(np.int64).reshape(group, per_group, outputs, -1).sum(axis=(1, 3)).reshape(-1)
    return accumulated(kind, [Given(x), weight, bias], profile, sums, added - offset * per_output)


def matrix_product(rng: Generator) -> Comparison:
    """x (…, K) by a constant matrix, transposed or not; K up to where float32 sums stop being exact and beyond."""
    profile = any_profile(rng, "accumulate_overflow")
    depth, columns = int(rng.choice([1, 3, 8, 33, 300, 1100, 2200])), int(rng.integers(1, 20))
    offset, transposed = int(rng.choice([0, -128, 127, rng.integers(-128, 128)])), bool(rng.random() < 0.5)
    leading = tuple(rng.integers(1, 4, rng.integers(0, 4)).tolist())
    x, bias = integers(rng, (*leading, depth)), biases(rng, columns)
    weight = int4_or_int8(rng, (columns, depth) if transposed else (depth, columns))
    matrix = (weight.array.T if transposed else weight.array).astype(np.int64)
    added = np.zeros(columns, np.int64) if bias is None else bias.array.astype(np.int64)
    sums = (x.astype(np.int64) - offset) @ matrix + added
    kind = ascend.MatMul(transposed, offset)
    return accumulated(kind, [Given(x), weight, bias], profile, sums, added - offset * matrix.sum(axis=0))


def computed_product(rng: Generator) -> Comparison:
    """The product of two computed operands, leading axes broadcast, K in several chunks."""
    profile = any_profile(rng, "accumulate_overflow")
    rows, depth, columns = (
        int(rng.integers(1, 6)),
        int(rng.choice([1, 7, 64, 1024, 1025, 2500])),
        int(rng.integers(1, 6)),
    )
    leading = tuple(rng.integers(1, 4, rng.integers(0, 3)).tolist())
    left = tuple(n if rng.random() < 0.6 else 1 for n in leading)
    right = tuple(n if k == 1 or rng.random() < 0.6 else 1 for n, k in zip(leading, left, strict=True))
    right = right[int(rng.integers(0, len(right) + 1)) :] if set(right) == {1} else right
    x, w, bias = integers(rng, (*left, rows, depth)), integers(rng, (*right, depth, columns)), biases(rng, columns)
    sums = np.matmul(x.astype(np.int64), w.astype(np.int64))
    added = np.zeros(1, np.int64) if bias is None else bias.array.astype(np.int64)
    operands = [Given(x), Given(w), bias]
    return accumulated(ascend.BatchMatMul(), operands, profile, sums + added, np.zeros(1, np.int64))


def sum_pool(rng: Generator) -> Comparison:
    """The accumulator of AveragePool: Σ (x − offset_x), padding counted as offset_x (N26)."""
    profile, window = any_profile(rng), Window(rng, dilated=False)
    pads = tuple(min(p, k - 1) for p, k in zip(window.pads, window.kernel * 2, strict=True))
    window.pads = pads
    offset, x = int(rng.integers(-128, 128)), integers(rng, (2, int(rng.integers(1, 4)), *window.sizes))
    sums = np.zeros((*x.shape[:2], *window.out()), np.int64)
    for position, _, met in window.meetings():
        sums[(slice(None), slice(None), *position)] += x[(slice(None), slice(None), *met)].astype(np.int64) - offset
    kind = ascend.SumPool(window.strides, pads, window.dilations, window.kernel, offset)
    return Comparison(run_op(kind, [Given(x)], profile), sums.astype(np.int32), f"{kind} of {list(x.shape)}")


def max_pool(rng: Generator) -> Comparison:
    """MaxPool compares the stored integers; padding is below all of them (N26)."""
    profile, window = any_profile(rng), Window(rng)
    window.pads = tuple(min(p, k - 1) for p, k in zip(window.pads, window.kernel * 2, strict=True))
    x = integers(rng, (2, int(rng.integers(1, 4)), *window.sizes))
    found = np.full((*x.shape[:2], *window.out()), -128, np.int8)
    for position, _, met in window.meetings():
        at = (slice(None), slice(None), *position)
        found[at] = np.where(
            x[(slice(None), slice(None), *met)] > found[at], x[(slice(None), slice(None), *met)], found[at]
        )
    kind = nn.MaxPool(window.strides, window.pads, window.dilations, window.kernel)
    return Comparison(run_op(kind, [Given(x)], profile), found, f"{kind} of {list(x.shape)}")


ROWS = (
    Row("N7 N8", "integer convolution", convolution, 2.0),
    Row("N7 N8", "integer convolution of many terms", large_convolution, 0.05),
    Row("N7 N8", "integer transposed convolution", transposed_convolution),
    Row("N4 N7 N8", "integer matrix product", matrix_product),
    Row("N7", "product of two computed matrices", computed_product),
    Row("N26", "sum of int8 AveragePool", sum_pool, 0.5),
    Row("N26", "int8 MaxPool", max_pool, 0.5),
)
