"""Quantization records (N25): what calibration found per layer, as AMCT tools exchange it. Limits are checked here.

Field numbers differ between tools, so records travel as text, by field name. Scales are float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from amctc.errors import InputError

SMALLEST_SCALE, LARGEST_SCALE = 2.0**-52, 2.0**52  # N25: 2.2e-16 and 4.5e15, float64 epsilon and its reciprocal
SMALLEST_FACTOR, LARGEST_FACTOR = 2.0**-23, 2.0**23  # N25: float32 epsilon and its reciprocal
_OFFSETS = {"INT16": (-32768, 32767)}
_INT8 = (-128, 127)


@dataclass(frozen=True)
class LayerRecord:
    """One layer: data quantized as round(x / scale_d) + offset_d, weights as round(w / scale_w), per channel or tensor.

    ``scale_d`` is ``None`` and ``scale_w`` empty where the record says nothing of them. ``unknown`` names the fields of
    other tools that were passed over. Raises :class:`InputError` (N25) for a value out of its limits.
    """

    name: str
    scale_d: float | None = None
    offset_d: int = 0
    scale_w: tuple[float, ...] = ()
    offset_w: tuple[int, ...] = ()
    shift_bit: tuple[int, ...] = ()
    tensor_balance_factor: tuple[float, ...] = ()
    skip_fusion: bool = False
    dst_type: str | None = None
    act_type: str | None = None
    wts_type: str | None = None
    unknown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"record of {self.name!r}"
        _check_scales("scale_d", () if self.scale_d is None else (self.scale_d,), where)
        _check_scales("scale_w", self.scale_w, where)
        _check_offsets("offset_d", (self.offset_d,), _OFFSETS.get(self.act_type or self.dst_type or "", _INT8), where)
        _check_offsets("offset_w", self.offset_w, (0, 0), where)
        _check(len(self.offset_w) in (0, len(self.scale_w)), "as many offset_w as scale_w", where)
        shifts = self.shift_bit
        _check(not any(shifts) or all(1 <= s <= 16 for s in shifts), "shift_bit all 0, or all in 1 … 16", where)
        factors = self.tensor_balance_factor
        _check(
            all(SMALLEST_FACTOR <= f <= LARGEST_FACTOR for f in factors), "tensor_balance_factor in 2^-23 … 2^23", where
        )


@dataclass(frozen=True)
class KvCacheRecord:
    """Scales and offsets of a layer's output as it is kept in a key-value cache, per tensor or per channel."""

    name: str
    scale: tuple[float, ...]
    offset: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        where = f"record of {self.name!r}"
        _check_scales("scale", self.scale, where)
        _check_offsets("offset", self.offset, _INT8, where)
        _check(len(self.offset) in (0, len(self.scale)), "as many offsets as scales", where)


@dataclass(frozen=True)
class PruneNode:
    """A node of a pruning group with its attributes (``begin``, ``end``, ``prune_index``, ``selective_mask``, …)."""

    name: str
    attributes: tuple[tuple[str, tuple[int | float | str, ...]], ...] = ()

    def __getitem__(self, attribute: str) -> tuple[int | float | str, ...]:
        """The values of an attribute, none where it is absent."""
        return dict(self.attributes).get(attribute, ())


@dataclass(frozen=True)
class PruneRecord:
    """A pruning group: whose output channels go, whose input channels follow; or the 4:2 masks of single nodes."""

    producers: tuple[PruneNode, ...] = ()
    consumers: tuple[PruneNode, ...] = ()
    selective: tuple[PruneNode, ...] = ()


@dataclass(frozen=True)
class Record:
    """The contents of a record file. No two layers have one name (:class:`InputError`)."""

    layers: tuple[LayerRecord, ...] = ()
    kv_caches: tuple[KvCacheRecord, ...] = ()
    prune: tuple[PruneRecord, ...] = ()

    def __post_init__(self) -> None:
        for entries in (self.layers, self.kv_caches):
            seen: set[str] = set()
            for entry in entries:
                if entry.name in seen:
                    raise InputError(f"two records of {entry.name!r}", rule="N25", remedy="keep one")
                seen.add(entry.name)

    def layer(self, name: str) -> LayerRecord | None:
        """The record of a layer, ``None`` if there is none."""
        return next((entry for entry in self.layers if entry.name == name), None)


def format_layers(layers: Iterable[LayerRecord]) -> str:
    """Layer records in protobuf text format, as AMCT prints them; float32 values survive the round trip."""
    lines: list[str] = []
    for layer in layers:
        lines += ["record {", f"  key: {quoted(layer.name)}", "  value {"]
        lines += [f"    {line}" for line in _fields(layer)]
        lines += ["  }", "}"]
    return "".join(f"{line}\n" for line in lines)


def _fields(layer: LayerRecord) -> Iterator[str]:
    """In the order of the field numbers, which is the order in which protobuf prints."""
    if layer.scale_d is not None:
        yield f"scale_d: {_float(layer.scale_d)}"
        yield f"offset_d: {layer.offset_d}"
    yield from (f"scale_w: {_float(v)}" for v in layer.scale_w)
    yield from (f"offset_w: {v}" for v in layer.offset_w)
    yield from (f"shift_bit: {v}" for v in layer.shift_bit)
    yield from (f"tensor_balance_factor: {_float(v)}" for v in layer.tensor_balance_factor)
    if layer.skip_fusion:
        yield "skip_fusion: true"
    for name in ("dst_type", "act_type", "wts_type"):
        if getattr(layer, name) is not None:
            yield f"{name}: {quoted(getattr(layer, name))}"


def quoted(text: str) -> str:
    """A protobuf text string: everything but printable ASCII as octal bytes."""
    escaped = (
        chr(b) if 0x20 <= b < 0x7F and b not in b'"\\' else f"\\{b:03o}" for b in text.encode("utf-8", "replace")
    )
    return f'"{"".join(escaped)}"'


def _float(value: float) -> str:
    return str(np.float32(value))


def _check(condition: bool, what: str, where: str) -> None:
    if not condition:
        raise InputError(f"a record needs {what}", where=where, rule="N25", remedy="calibrate this layer again")


def _check_scales(name: str, scales: tuple[float, ...], where: str) -> None:
    for scale in scales:
        fits = math.isfinite(scale) and SMALLEST_SCALE <= scale <= LARGEST_SCALE
        _check(fits, f"{name} in 2.2e-16 … 4.5e15, not {scale}", where)


def _check_offsets(name: str, offsets: tuple[int, ...], limits: tuple[int, int], where: str) -> None:
    low, high = limits
    for offset in offsets:
        _check(low <= offset <= high, f"{name} in {low} … {high}, not {offset}", where)
