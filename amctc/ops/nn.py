"""The ``nn`` dialect: float network ops that rewrites understand. Others are carried (:mod:`amctc.ops.onnx`)."""

from amctc.ops.layout import Cast, Concat, Flatten, Identity, Reshape, Transpose
from amctc.ops.linear import (
    Conv,
    ConvTranspose,
    Gemm,
    Layer,
    MatMul,
    result_channel_axis,
    weight_channel_axis,
)
from amctc.ops.pointwise import (
    Activation,
    Add,
    BatchNorm,
    Clip,
    Div,
    LeakyRelu,
    Mul,
    Relu,
    Sigmoid,
    Softmax,
    Sub,
    Tanh,
)
from amctc.ops.pooling import AveragePool, GlobalAveragePool, MaxPool

__all__ = [
    "Activation", "Add", "AveragePool", "BatchNorm", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "Div",
    "Flatten", "Gemm", "GlobalAveragePool", "Identity", "Layer", "LeakyRelu", "MatMul", "MaxPool", "Mul", "Relu",
    "Reshape", "Sigmoid", "Softmax", "Sub", "Tanh", "Transpose", "result_channel_axis", "weight_channel_axis",
]  # fmt: skip
