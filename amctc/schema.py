"""Op kinds: what an op means, declared once — attributes, operands, traits, type inference.

An op kind is a frozen dataclass whose fields are the attributes; :func:`register` enters it in the registry from which
the parser, the verifier, the documentation and the derived tests are made.
"""

from __future__ import annotations

import difflib
import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from amctc.data import Data
from amctc.errors import InputError
from amctc.types import Message, ScalarType, TensorType, require


class Trait(enum.Enum):
    """Properties of an op kind that passes and the matcher rely on."""

    COMMUTATIVE = "commutative"
    """The first two operands can be exchanged."""
    ELEMENTWISE = "elementwise"
    """Each result element depends on the operands' elements at the same (broadcast) position only."""
    LINEAR_LAYER = "linear-layer"
    """Operands are (data, weight, optional bias): what quantization calls a layer."""
    MONOTONIC = "monotonic"
    """Increasing in its operand and made of selections, so it commutes with a per-tensor quantizer."""
    IDENTITY = "identity"
    """The result equals the first operand."""


@dataclass(frozen=True, slots=True)
class OperandSpec:
    """One operand of an op kind: its name, whether it may be absent, whether it repeats."""

    name: str
    optional: bool = False
    variadic: bool = False


@dataclass(frozen=True)
class OpKind:
    """What an op does: a registered class with its attributes as fields. Subclasses are frozen dataclasses."""

    op_name: ClassVar[str] = ""
    operand_specs: ClassVar[tuple[OperandSpec, ...]] = ()
    traits: ClassVar[frozenset[Trait]] = frozenset()

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """Types of the results; raises :class:`TypeConstraintError` where a constraint C… is broken.

        ``None`` stands for an absent optional operand.
        """
        raise NotImplementedError(type(self).__name__)

    def infer_with(self, constants: Sequence[Data | None], *operands: TensorType | None) -> tuple[TensorType, ...]:
        """:meth:`infer`, with the contents of constant operands: for kinds whose shapes depend on values."""
        return self.inferred(operands)

    def inferred(self, operands: tuple[TensorType | None, ...]) -> tuple[TensorType, ...]:
        """What :meth:`infer` says, remembered for plain types: graphs repeat themselves. The types are shared then."""
        known = _inferred(self, operands) if operands and _plain(operands) else None
        return self.infer(*operands) if known is None else known

    def rebound(self, operands: tuple[TensorType | None, ...], results: tuple[TensorType, ...]) -> OpKind:
        """The kind to build with, once its types are known; only carried ops remember types."""
        return self

    def check_arity(self, operands: tuple[TensorType | None, ...]) -> None:
        """Constraint C0: operands come in the declared number, and only optional ones are absent."""
        specs = self.operand_specs
        if len(operands) == len(specs) and None not in operands:
            return  # the usual case, and this is asked for every op built
        variadic = bool(specs) and specs[-1].variadic
        fixed = specs[:-1] if variadic else specs
        least = sum(not s.optional for s in fixed)
        fits = len(operands) >= least and (variadic or len(operands) <= len(specs))
        require(fits, f"{self.op_name}.C0",
                lambda: f"{self.op_name} takes ({format_operands(specs)}), got {len(operands)}")  # fmt: skip
        for spec, operand in zip(fixed, operands, strict=False):
            require(operand is not None or spec.optional, f"{self.op_name}.C0", f"operand {spec.name!r} is missing")
        if variadic:
            require(all(t is not None for t in operands[len(fixed):]) or specs[-1].optional, f"{self.op_name}.C0",
                    f"an operand of {specs[-1].name!r} is missing")  # fmt: skip

    def require(self, condition: bool, number: int, message: Message) -> None:
        """Constraint C``number`` of this op kind."""
        if not condition:
            require(False, f"{self.op_name}.C{number}", message)


def _plain(types: tuple[TensorType | None, ...]) -> bool:
    return all(t is None or type(t.elem) is ScalarType for t in types)


@functools.lru_cache(4096)
def _inferred(kind: OpKind, operands: tuple[TensorType | None, ...]) -> tuple[TensorType, ...] | None:
    """Inference is a function of the attributes and the operands' types; an error is raised anew each time.

    ``None`` where a result is not plain: a quantizer's result has its very element type, not an equal one of another.
    """
    types = kind.infer(*operands)
    return types if _plain(types) else None


def format_operands(specs: tuple[OperandSpec, ...]) -> str:
    """The operand list in the notation of :func:`register`."""
    return ", ".join(("*" if s.variadic else "") + s.name + ("?" if s.optional else "") for s in specs)


_KINDS: dict[str, type[OpKind]] = {}
K = TypeVar("K", bound=type[OpKind])


def register(op_name: str, operands: str = "", *traits: Trait) -> Callable[[K], K]:
    """Class decorator that enters an op kind in the registry.

    ``operands`` names them in order, ``b?`` is optional, ``*xs`` repeats: ``register("nn.conv", "x w b?")``.
    """

    def enter(kind: K) -> K:
        old = _KINDS.get(op_name, kind)
        if (old.__module__, old.__qualname__) != (kind.__module__, kind.__qualname__):
            raise ValueError(f"op kind {op_name!r} is registered twice")
        kind.op_name = op_name
        kind.operand_specs = tuple(
            OperandSpec(word.strip("*?"), word.endswith("?"), word.startswith("*")) for word in operands.split()
        )
        kind.traits = frozenset(traits)
        _KINDS[op_name] = kind
        return kind

    return enter


def op_kinds() -> Mapping[str, type[OpKind]]:
    """All registered op kinds by name, in name order."""
    return dict(sorted(_KINDS.items()))


def op_kind(op_name: str) -> type[OpKind]:
    """The op kind of that name; :class:`InputError` with the nearest names if there is none."""
    try:
        return _KINDS[op_name]
    except KeyError:
        near = ", ".join(difflib.get_close_matches(op_name, _KINDS, 3))
        remedy = f"did you mean {near}?" if near else "see `amctc passes --ops`"
        raise InputError(f"unknown op {op_name!r}", remedy=remedy) from None
