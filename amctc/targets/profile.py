"""The target profile: what amctc knows about one Ascend chip, as one immutable value.

Figures (cores, memory, blocks) come from the chip's data file. Where no published rule settles the arithmetic, the
profile holds a named *choice* with the rule it belongs to and how well that rule is known:

* ``C`` certain, read in the vendor's source;
* ``D`` vendor documentation only;
* ``I`` inferred.

Rule labels (N1 …) are those of the numerics document.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, get_args, get_type_hints

from amctc.errors import UsageError

Tag = Literal["C", "D", "I"]
Epilogue = Literal["fixpipe", "vdeq_cast", "f16_vector"]

MACS_PER_CYCLE_F16 = 4096
"""Multiply-accumulates of one cube core in one cycle on f16: the 16 × 16 × 16 cube."""


@dataclass(frozen=True)
class Choice:
    """One arithmetic choice as a profile makes it; ``alternatives`` are the values it did not take."""

    name: str
    value: str
    tag: Tag
    rule: str
    alternatives: tuple[str, ...]
    text: str


def _always(profile: Profile) -> bool:
    return True


def _by_multiplier(profile: Profile) -> bool:
    return profile.epilogue != "f16_vector"


def _by_vector(profile: Profile) -> bool:
    return profile.epilogue == "f16_vector"


def _sparse(profile: Profile) -> bool:
    return profile.sparsity_4_2


def _int4(profile: Profile) -> bool:
    return "i4" in profile.storage


def _choice(
    rule: str, tag: Tag, default: str, text: str, applies: Callable[[Profile], bool] = _always
) -> Any:  # a dataclass field, declared with the Literal type of its values
    return field(default=default, metadata={"rule": rule, "tag": tag, "text": text, "applies": applies})


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One Ascend chip: its figures, its blocks, and the arithmetic the interpreter follows.

    Sizes are in bytes, ``ddr_bandwidth`` in bytes per second. ``None`` is "not published": whoever needs the figure
    must refuse, not guess. ``c0`` is the channel block and ``tile`` the (M, K, N) of one cube step, both by storage.
    ``sparsity_4_2`` says whether the cube takes 4:2 weights, ``batch_matmul_int8`` whether an int8 product of two
    computed matrices pays, ``weight_only`` whether integer weights under float data are computed (N21),
    ``row_scales`` whether products of rows quantized as they come are, with a scale per row (N6, N13),
    ``sqrt_mode_squares`` whether AscendQuant in sqrt_mode
    multiplies once by scale · scale instead of twice by scale (N2). ``tags`` holds the chip's own tag of a choice
    where it differs from the general one.

    Every ``Literal`` field from ``quant_mode`` on is a choice; :attr:`choices` lists those the chip can meet.
    """

    name: str
    description: str
    soc_version: str
    isa: str
    epilogue: Epilogue
    storage: tuple[str, ...]
    sparsity_4_2: bool
    c0: Mapping[str, int] = field(hash=False)
    tile: Mapping[str, tuple[int, int, int]] = field(hash=False)
    cube_cores: int | None = None
    vector_cores: int | None = None
    frequency_mhz: int | None = None
    l2_bytes: int | None = None
    l1_bytes: int | None = None
    l0a_bytes: int | None = None
    l0b_bytes: int | None = None
    l0c_bytes: int | None = None
    ub_bytes: int | None = None
    ddr_bandwidth: float | None = None
    ddr_bandwidth_tag: Tag | None = None
    sqrt_mode_squares: bool = False
    batch_matmul_int8: bool = False
    weight_only: bool = False
    row_scales: bool = False
    tags: Mapping[str, Tag] = field(default_factory=dict, hash=False)

    quant_mode: Literal["fp32", "fp16"] = _choice(
        "N2/N3", "I", "fp32", "AscendQuant computes in f32 (N2), or casts its input to f16 first (N3)"
    )
    dynamic_quant: Literal["reciprocal", "threshold", "threshold_f16"] = _choice(
        "N6",
        "I",
        "reciprocal",
        "per-row scale: s = 127/m and 1/s; 310P's m/127 above 1e-12; the same, multiplied in f16",
    )
    accumulate_overflow: Literal["saturate", "wrap"] = _choice("N7", "D", "saturate", "an accumulator outside int32")
    dequant_multiplier: Literal["truncate", "round", "full"] = _choice(
        "N12/N14",
        "C",
        "truncate",
        "the f32 scale in its 1-8-10 form: 13 bits dropped, rounded, or all kept",
        _by_multiplier,
    )
    dequant_overflow: Literal["saturate", "inf"] = _choice(
        "N12", "I", "saturate", "a dequantized value beyond ±65504: the two vendor goldens differ"
    )
    dequant_guard: Literal["shift17", "direct"] = _choice(
        "N15", "D", "shift17", "f16 dequantization as f16(acc/2^17 · scale · 2^17), or f16(acc · scale)", _by_vector
    )
    shift_field: Literal["n", "n_plus_1"] = _choice(
        "N16", "I", "n", "the shift that field N stands for; N is normally 0"
    )
    requant: Literal["int9", "unfused"] = _choice(
        "N17",
        "C",
        "int9",
        "requantization in one step with the int9 clip before the offset, or dequantize then quantize",
    )
    requant_leaky: Literal["slope", "unfused"] = _choice(
        "N17", "I", "slope", "leaky relu in the requantization: M2 = slope · M1, or not fused", _by_multiplier
    )
    weight_only_type: Literal["input", "f32"] = _choice(
        "N21", "I", "input", "type of the dequantized weights of a weight-only matmul"
    )
    index_single: Literal["2,1", "2,0"] = _choice(
        "N22", "D", "2,1", "4:2 indices of a group that keeps only its third weight; two vendor pages differ", _sparse
    )
    average_pool_int8: Literal["requant", "f16"] = _choice(
        "N26",
        "I",
        "requant",
        "int8 AveragePool: int32 sum requantized by scale/(kh·kw), or f16 between dequant and quant",
    )
    max_pool_int8: Literal["int8", "f16"] = _choice("N26", "I", "int8", "type in which a quantized MaxPool compares")
    elementwise: Literal["f16", "f32"] = _choice(
        "N26", "I", "f16", "type of residual Add and other elementwise ops, rounded half to even after each"
    )
    float_island: Literal["f16", "f32"] = _choice(
        "N26", "I", "f16", "type of MatMul and Conv left in float; accumulated in f32, one rounding at the end"
    )
    island_overflow: Literal["inf", "saturate"] = _choice("N26", "I", "inf", "a value of a float island beyond ±65504")
    w4a8_conv: Literal["unpack", "weight_only"] = _choice(
        "N26",
        "I",
        "unpack",
        "conv of int4 weights and int8 activations: unpacked to int8, or weights dequantized",
        _int4,
    )
    grouped_int4: Literal["weight_only", "unpack"] = _choice(
        "N26", "I", "weight_only", "grouped int4 weights: weight-only MatMul, or unpacked to int8", _int4
    )
    int16_activation: Literal["simulate", "refuse"] = _choice(
        "N26", "I", "simulate", "int16 activations, which the chip may not support"
    )

    def __post_init__(self) -> None:
        """Make the tables read-only, for one profile serves the whole process."""
        for name in ("c0", "tile", "tags"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: read-only tables cannot be."""
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled."""
        vars(self).update(state)
        self.__post_init__()

    @property
    def peak_flops_f16(self) -> float | None:
        """Derived f16 peak in operations per second [I]: cores × 4096 MAC × 2 × f; ``None`` if not published."""
        if self.cube_cores is None or self.frequency_mhz is None:
            return None
        return self.cube_cores * MACS_PER_CYCLE_F16 * 2 * self.frequency_mhz * 1e6

    @property
    def peak_ops_i8(self) -> float | None:
        """Derived int8 peak in operations per second [I]: twice the f16 one; ``None`` if not published."""
        return None if self.peak_flops_f16 is None else 2 * self.peak_flops_f16

    @property
    def has_cost_figures(self) -> bool:
        """Whether peaks and bandwidth are known, so that a cost model may run."""
        return self.peak_flops_f16 is not None and self.ddr_bandwidth is not None

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The choices this chip can meet, in rule order; a report lists those with tag D or I that a run used."""
        allowed = choice_values()
        return tuple(
            Choice(
                name=f.name,
                value=getattr(self, f.name),
                tag=self.tags.get(f.name, f.metadata["tag"]),
                rule=f.metadata["rule"],
                alternatives=tuple(v for v in allowed[f.name] if v != getattr(self, f.name)),
                text=f.metadata["text"],
            )
            for f in fields(self)
            if "rule" in f.metadata and f.metadata["applies"](self)
        )

    def choice(self, name: str) -> Choice:
        """The choice called ``name``; raises :class:`UsageError` if this chip has no such choice."""
        for c in self.choices:
            if c.name == name:
                return c
        known = [c.name for c in self.choices]
        if name in choice_values():
            raise UsageError(
                f"choice {name!r} does not arise on {self.name}", where=name, remedy=f"choices: {', '.join(known)}"
            )
        raise UsageError(f"no arithmetic choice {name!r}", where=self.name, remedy=nearest(name, known, "choices"))

    def replace_choice(self, name: str, value: str) -> Profile:
        """This profile with one choice made differently; raises :class:`UsageError` for an unknown name or value."""
        allowed = choice_values()[self.choice(name).name]
        if value not in allowed:
            raise UsageError(
                f"choice {name!r} cannot be {value!r}", where=self.name, remedy=f"allowed: {', '.join(allowed)}"
            )
        changes: dict[str, Any] = {name: value}
        return replace(self, **changes)


def choice_values() -> dict[str, tuple[str, ...]]:
    """Every choice by name with its allowed values, in rule order."""
    hints = get_type_hints(Profile)
    return {f.name: get_args(hints[f.name]) for f in fields(Profile) if "rule" in f.metadata}


def nearest(name: str, known: list[str], noun: str) -> str:
    """The remedy for an unknown ``name``: the nearest known ones, or all of them."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"{noun}: {', '.join(known)}"
