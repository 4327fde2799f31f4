"""nn ops that normalise: by stored statistics, by statistics of the data, to probabilities."""

from __future__ import annotations

from dataclasses import dataclass

from amctc.ops.pointwise import Unary, same_float
from amctc.ops.shapes import broadcast, normalized_axes
from amctc.schema import OpKind, register
from amctc.types import TensorType, dims_agree


@dataclass(frozen=True)
class _AlongAxis(Unary):
    axis: int = -1

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 floating point, C2 the axis exists."""
        (x,) = operands
        assert x is not None
        self.require(-x.rank <= self.axis < x.rank, 2, f"axis {self.axis} of a rank {x.rank} operand")
        return super().infer(x)


@register("nn.softmax", "x")
@dataclass(frozen=True)
class Softmax(_AlongAxis):
    """exp(x) over its sum along one axis (ONNX opset 13 meaning)."""


@register("nn.log_softmax", "x")
@dataclass(frozen=True)
class LogSoftmax(_AlongAxis):
    """The logarithm of softmax along one axis (ONNX opset 13 meaning)."""


def _per_channel(kind: OpKind, x: TensorType, *parameters: TensorType | None) -> None:
    """C3: parameters of shape ``[C]``."""
    for p in parameters:
        assert p is not None
        channels = p.rank == 1 and dims_agree(p.dims[0], x.dims[1])
        kind.require(channels, 3, lambda p=p: f"parameter {p} for {x.dims[1]} channels")  # type: ignore[misc]


@register("nn.batch_norm", "x gamma beta mean var")
@dataclass(frozen=True)
class BatchNorm(OpKind):
    """Inference batch normalisation over axis 1: (x - mean) / sqrt(var + eps) · gamma + beta."""

    eps: float = 1e-5

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 floating point, C2 rank >= 2, C3 parameters of shape ``[C]``."""
        x, *parameters = operands
        same_float(self, 1, *operands)
        assert x is not None
        self.require(x.rank >= 2, 2, f"{x} has no channel axis")
        _per_channel(self, x, *parameters)
        return (x,)


@register("nn.layer_norm", "x scale bias?")
@dataclass(frozen=True)
class LayerNorm(OpKind):
    """(x - mean) / sqrt(variance + eps) · scale + bias over the axes from ``axis`` on (ONNX, opset 17).

    Mean and variance are those of the data; scale and bias broadcast to the normalised axes.
    """

    axis: int = -1
    eps: float = 1e-5

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 floating point, C2 the axis exists, C3 scale and bias broadcast to the normalised axes."""
        x, *parameters = operands
        same_float(self, 1, *operands)
        assert x is not None
        (axis,) = normalized_axes((self.axis,), x.rank, f"{self.op_name}.C2")
        for p in parameters:
            if p is not None:
                joined = broadcast(p.dims, x.dims[axis:], f"{self.op_name}.C3")
                fits = len(joined) == x.rank - axis and all(map(dims_agree, joined, x.dims[axis:]))
                self.require(fits, 3, f"parameter {p} for {x} from axis {axis} on")
        return (x,)


@register("nn.instance_norm", "x scale bias")
@dataclass(frozen=True)
class InstanceNorm(OpKind):
    """Each channel of each sample by its own mean and variance, then · scale + bias (ONNX InstanceNormalization)."""

    eps: float = 1e-5

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 floating point, C2 rank >= 3, C3 parameters of shape ``[C]``."""
        x, *parameters = operands
        same_float(self, 1, *operands)
        assert x is not None
        self.require(x.rank >= 3, 2, f"{x} has no spatial axes")
        _per_channel(self, x, *parameters)
        return (x,)


@register("nn.group_norm", "x scale bias")
@dataclass(frozen=True)
class GroupNorm(OpKind):
    """``groups`` runs of channels by their own mean and variance, then · scale + bias per channel.

    ONNX GroupNormalization, opset 21 (in 18 to 20 the parameters were per group); below it is exported as an instance
    normalisation of the reshaped data.
    """

    groups: int
    eps: float = 1e-5

    def infer(self, *operands: TensorType | None) -> tuple[TensorType, ...]:
        """C1 floating point, C2 rank >= 3, C3 parameters of shape ``[C]``, C4 channels divide into the groups."""
        x, *parameters = operands
        same_float(self, 1, *operands)
        assert x is not None
        self.require(x.rank >= 3, 2, f"{x} has no spatial axes")
        _per_channel(self, x, *parameters)
        channels = x.dims[1]
        self.require(self.groups >= 1 and (not isinstance(channels, int) or channels % self.groups == 0), 4,
                     f"{channels} channels in {self.groups} groups")  # fmt: skip
        return (x,)
