"""The ``nn`` dialect: float network ops that rewrites understand. Others are carried (:mod:`amctc.ops.onnx`)."""

from amctc.ops.activations import Elu, Gelu, HardSigmoid, HardSwish, Mish, PRelu, Sigmoid, Silu, Softplus, Tanh
from amctc.ops.elementary import Abs, Erf, Exp, Neg, Pow, Reciprocal, Sqrt
from amctc.ops.layout import Cast, Concat, Expand, Flatten, Identity, Reshape, Squeeze, Transpose, Unsqueeze
from amctc.ops.linear import (
    Conv,
    ConvTranspose,
    Gemm,
    Layer,
    MatMul,
    result_channel_axis,
    weight_channel_axis,
    weight_input_axis,
)
from amctc.ops.normalization import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, LogSoftmax, Softmax
from amctc.ops.pointwise import Activation, Add, Clip, Div, LeakyRelu, Max, Min, Mul, Relu, Sub
from amctc.ops.pooling import AveragePool, GlobalAveragePool, GlobalMaxPool, MaxPool
from amctc.ops.reductions import ReduceMax, ReduceMean, ReduceSum
from amctc.ops.resize import Resize
from amctc.ops.selection import Gather, Pad, Slice, Split, Where

__all__ = [
    "Abs", "Activation", "Add", "AveragePool", "BatchNorm", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "Div",
    "Elu", "Erf", "Exp", "Expand", "Flatten", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
    "GroupNorm", "HardSigmoid", "HardSwish", "Identity", "InstanceNorm", "Layer", "LayerNorm", "LeakyRelu",
    "LogSoftmax", "MatMul", "Max", "MaxPool", "Min", "Mish", "Mul", "Neg", "PRelu", "Pad", "Pow", "Reciprocal",
    "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Sigmoid", "Silu", "Slice", "Softmax",
    "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where", "result_channel_axis",
    "weight_channel_axis", "weight_input_axis",
]  # fmt: skip
