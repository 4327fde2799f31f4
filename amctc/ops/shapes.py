"""Shape inference shared by the dialects: broadcasting, sliding windows, reshaping with symbolic dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from amctc.errors import TypeConstraintError
from amctc.types import Dim, Shape, TensorType, merge_dims, require


def broadcast(a: Shape, b: Shape, rule: str) -> Shape:
    """NumPy broadcasting of two shapes; a symbol against 1 stays, against another symbol becomes unknown."""
    rank = max(len(a), len(b))
    padded_a, padded_b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    return tuple(_broadcast_dim(x, y, rule) for x, y in zip(padded_a, padded_b, strict=True))


def _broadcast_dim(a: Dim, b: Dim, rule: str) -> Dim:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        raise TypeConstraintError(f"dimensions {a} and {b} do not broadcast", rule=rule)
    # One is a number above 1: the other can only be that or 1. Two different symbols: either may be 1.
    return merge_dims(a, b) if isinstance(a, int) or isinstance(b, int) else None


def window_output(
    size: Dim, kernel: int, stride: int, pad_begin: int, pad_end: int, dilation: int, ceil_mode: bool = False
) -> Dim:
    """Positions of a sliding window along one axis (ONNX Conv and pooling, opset 17; ceil_mode: MaxPool)."""
    extent = dilation * (kernel - 1) + 1
    if not isinstance(size, int):
        keeps = stride == 1 and pad_begin + pad_end == extent - 1
        return size if keeps else None
    room = size + pad_begin + pad_end - extent
    if room < 0:
        return -1
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    # A window that would start in the end padding is dropped (ONNX MaxPool, note on ceil_mode).
    return count - 1 if (count - 1) * stride >= size + pad_begin else count


def window_shape(
    spatial: Shape,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    rule: str,
    ceil_mode: bool = False,
) -> Shape:
    """Spatial shape after a sliding window; constraint ``rule`` is broken when the window does not fit."""
    n = len(spatial)
    out = tuple(
        window_output(spatial[i], kernel[i], strides[i], pads[i], pads[n + i], dilations[i], ceil_mode)
        for i in range(n)
    )
    require(all(not isinstance(d, int) or d >= 0 for d in out), rule,
            lambda: f"a window of {list(kernel)} does not fit {list(spatial)} padded by {list(pads)}")  # fmt: skip
    return out


def transposed_output(
    size: Dim, kernel: int, stride: int, pad_begin: int, pad_end: int, dilation: int, extra: int
) -> Dim:
    """Positions after a transposed convolution along one axis (ONNX ConvTranspose)."""
    if not isinstance(size, int):
        return None
    return stride * (size - 1) + extra + dilation * (kernel - 1) + 1 - pad_begin - pad_end


def reshaped(source: Shape, target: tuple[int, ...], allow_zero: bool, rule: str) -> Shape:
    """Result of ONNX Reshape with a known target: 0 copies the input's dimension, one -1 is inferred."""
    result: list[Dim] = []
    for i, d in enumerate(target):
        if d == 0 and not allow_zero:
            require(i < len(source), rule, f"target {list(target)} copies dimension {i} of a rank {len(source)} input")
            result.append(source[i])
        else:
            result.append(d)
    require(target.count(-1) <= 1 and all(d >= -1 for d in target), rule, f"{list(target)} is no reshape target")
    if -1 in target:
        result[target.index(-1)] = _inferred_dim(source, result, target.index(-1), target, rule)
    elif all(isinstance(d, int) for d in result) and all(isinstance(d, int) for d in source):
        require(_product(result) == _product(source), rule, f"cannot reshape {list(source)} to {list(target)}")
    return tuple(result)


def _inferred_dim(source: Shape, result: list[Dim], at: int, target: tuple[int, ...], rule: str) -> Dim:
    """The dimension that makes the products equal: symbols on both sides cancel, one left over is the answer."""
    left = list(source)
    known = 1
    for i, d in enumerate(result):
        if i == at:
            continue
        if isinstance(d, int):
            known *= d
        elif d in left:
            left.remove(d)
        else:
            return None
    symbols = [d for d in left if not isinstance(d, int)]
    total = _product([d for d in left if isinstance(d, int)])
    if len(symbols) > 1 or None in symbols:
        return None
    if symbols:
        return symbols[0] if total == known else None
    require(known != 0 and total % known == 0, rule, f"cannot reshape {list(source)} to {list(target)}")
    return total // known


def _product(dims: Sequence[Dim]) -> int:
    result = 1
    for d in dims:
        result *= d if isinstance(d, int) else 1
    return result


def concatenated(types: Sequence[TensorType], axis: int, rule: str) -> Shape:
    """Shape of tensors joined along ``axis`` (non-negative)."""
    first = types[0].dims
    merged = list(first)
    for t in types[1:]:
        require(t.rank == len(first), rule, f"ranks {len(first)} and {t.rank} cannot be concatenated")
        for i, d in enumerate(t.dims):
            if i != axis:
                require(not (isinstance(d, int) and isinstance(merged[i], int)) or d == merged[i], rule,
                        f"{types[0]} and {t} differ outside axis {axis}")  # fmt: skip
                merged[i] = merge_dims(merged[i], d)
    sizes = [t.dims[axis] for t in types]
    merged[axis] = sizes[0] if len(sizes) == 1 else None
    if len(sizes) > 1 and all(isinstance(s, int) for s in sizes):
        merged[axis] = sum(s for s in sizes if isinstance(s, int))
    return tuple(merged)


def normalized_axes(axes: Sequence[int], rank: int, rule: str) -> tuple[int, ...]:
    """``axes`` counted from the front; constraint ``rule`` is broken by one out of range or met twice."""
    require(all(-rank <= a < rank for a in axes), rule, f"axes {list(axes)} of a rank {rank} tensor")
    found = tuple(a % rank for a in axes)
    require(len(set(found)) == len(found), rule, f"axes {list(axes)} name one twice")
    return found


def slice_range(size: int, start: int, end: int, step: int) -> range:
    """Positions that ONNX Slice takes from an axis of ``size`` elements, in order.

    Unlike Python a backward slice starts at element 0 at the least: ``start`` is clamped to the elements that exist.
    """
    start, end = start + size if start < 0 else start, end + size if end < 0 else end
    if size == 0:
        return range(0)
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


FAR = (1 << 31) - 1
"""Positions from here on mean "to the end" in files: no axis is longer."""


def sliced_dim(size: Dim, start: int, end: int, step: int) -> Dim:
    """How many elements a slice takes; a symbol stays where all are taken, forwards or backwards."""
    if isinstance(size, int):
        return len(slice_range(size, start, end, step))
    forwards = step == 1 and start == 0 and end >= FAR
    backwards = step == -1 and (start == -1 or start >= FAR) and end <= -FAR
    return size if forwards or backwards else None
