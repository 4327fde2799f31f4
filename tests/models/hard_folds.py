"""Models on which folding of real tools went wrong: one function per defect, named after it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.models.odd_builder import BOOL, INT64, Draw, F, declared, model, node, tensor

Feeds = dict[str, np.ndarray]
Built = tuple[onnx.ModelProto, Feeds]

FLOAT_MODELS: dict[str, Callable[[], Built]] = {}
HALF = TensorProto.FLOAT16


def hard(build: Callable[[], Built]) -> Callable[[], Built]:
    """Enter a model under the name of its function."""
    FLOAT_MODELS[build.__name__] = build
    return build


def image(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def norm(x: str, y: str, name: str, **attributes: object) -> onnx.NodeProto:
    return node("BatchNormalization", [x, *(f"{name}{i}" for i in range(4))], [y], name=name, **attributes)


def statistics(d: Draw, name: str, channels: int, *, gamma: float = -1.5) -> list[TensorProto]:
    """Scale (negative in the first channel), bias, mean and variance of a batch normalisation."""
    scale = np.linspace(gamma, 2.0, channels)
    arrays = (scale, d.rng.standard_normal(channels), d.rng.standard_normal(channels), d.rng.uniform(0.3, 2, channels))
    return [tensor(f"{name}{i}", a) for i, a in enumerate(arrays)]


@hard
def conv_output_is_also_an_output() -> Built:
    """Folding what follows would change it. pytorch#52758, ORT#4110, OnnxSlim#21, OnnxSlim#163."""
    d = Draw(1)
    nodes = [node("Conv", ["x", "w"], ["c"]), norm("c", "y", "bn"), node("Relu", ["c"], ["r"])]
    shape = [1, 4, 5, 5]
    built = model(
        nodes, {"x": shape}, {"y": shape, "c": shape, "r": shape}, [d.weight("w", 4, 4, 1, 1), *statistics(d, "bn", 4)]
    )
    return built, {"x": image(*shape)}


@hard
def batch_norm_in_training_mode() -> Built:
    """It normalises by the batch: no constants to fold. onnxscript 0.7.2 folds it (error 2.2)."""
    d = Draw(2)
    training = node("BatchNormalization", ["c", *(f"bn{i}" for i in range(4))], ["y", "mean", "var"], training_mode=1)
    nodes = [node("Conv", ["x", "w"], ["c"]), training]
    built = model(nodes, {"x": [2, 3, 4, 4]}, {"y": [2, 4, 4, 4]}, [d.weight("w", 4, 3, 1, 1), *statistics(d, "bn", 4)])
    return built, {"x": image(2, 3, 4, 4)}


@hard
def grouped_transposed_convolution_before_batch_norm() -> Built:
    """The weight is [C, O/group, …]: channels of a group lie side by side on axis 1. onnxscript#2867, AIMET#1693."""
    d = Draw(3)
    nodes = [
        node("ConvTranspose", ["x", "w", "b"], ["c"], group=2, strides=[2, 2], output_padding=[1, 0]),
        norm("c", "y", "bn"),
    ]  # fmt: skip
    weights = [d.weight("w", 4, 3, 3, 2), d.weight("b", 6), *statistics(d, "bn", 6)]
    return model(nodes, {"x": [1, 4, 3, 3]}, {"y": None}, weights), {"x": image(1, 4, 3, 3)}


@hard
def transposed_convolution_of_as_many_channels() -> Built:
    """Input and output channels agree in number, so the wrong axis raises nothing. pytorch#180995, MCT#907."""
    d = Draw(4)
    nodes = [node("ConvTranspose", ["x", "w"], ["c"], group=2), norm("c", "y", "bn")]
    weights = [d.weight("w", 4, 2, 3, 3), *statistics(d, "bn", 4)]
    return model(nodes, {"x": [1, 4, 3, 3]}, {"y": None}, weights), {"x": image(1, 4, 3, 3)}


@hard
def gemm_with_beta_before_batch_norm() -> Built:
    """beta counts once. onnxscript#3027."""
    d = Draw(5)
    nodes = [node("Gemm", ["x", "w", "b"], ["c"], alpha=0.5, beta=2.0, transB=1), norm("c", "y", "bn")]
    weights = [d.weight("w", 4, 3), d.weight("b", 4), *statistics(d, "bn", 4)]
    return model(nodes, {"x": [2, 3]}, {"y": [2, 4]}, weights), {"x": image(2, 3)}


@hard
def batch_norm_of_constant_nodes() -> Built:
    """Parameters by Constant nodes, in every form of the attribute. optimizer#133, optimizer#178."""
    d = Draw(6)
    parameters = statistics(d, "bn", 3)
    forms = [node("Constant", [], [p.name], value=p) for p in parameters[:2]]
    forms += [
        node("Constant", [], [p.name], value_floats=onnx.numpy_helper.to_array(p).tolist()) for p in parameters[2:]
    ]
    nodes = [*forms, node("Conv", ["x", "w"], ["c"]), norm("c", "y", "bn")]
    return model(nodes, {"x": [1, 2, 4, 4]}, {"y": None}, [d.weight("w", 3, 2, 3, 3)]), {"x": image(1, 2, 4, 4)}


@hard
def batch_norm_before_a_padded_convolution() -> Built:
    """The padding is zero after the normalisation, not before."""
    d = Draw(7)
    nodes = [norm("x", "n", "bn"), node("Conv", ["n", "w"], ["y"], pads=[1, 1, 1, 1])]
    weights = [d.weight("w", 3, 2, 3, 3), *statistics(d, "bn", 2)]
    return model(nodes, {"x": [1, 2, 4, 4]}, {"y": None}, weights), {"x": image(1, 2, 4, 4)}


@hard
def overridable_initializers() -> Built:
    """A weight that is an input too may be fed. ORT#1324, onnxscript#1944, optimizer#325."""
    d = Draw(8)
    nodes = [node("Conv", ["x", "w"], ["c"]), norm("c", "y", "bn")]
    weights = [d.weight("w", 3, 2, 1, 1), *statistics(d, "bn", 3)]
    inputs = {"x": [1, 2, 4, 4], "w": [3, 2, 1, 1], "bn1": [3]}
    return model(nodes, inputs, {"y": None}, weights), {"x": image(1, 2, 4, 4), "w": image(3, 2, 1, 1, seed=9)}


@hard
def initializers_of_an_old_file() -> Built:
    """Before IR version 4 every initializer was listed as an input."""
    d = Draw(9)
    weights = [d.weight("w", 3, 2, 1, 1), *statistics(d, "bn", 3)]
    inputs = {"x": [1, 2, 4, 4], **{w.name: list(w.dims) for w in weights}}
    nodes = [node("Conv", ["x", "w"], ["c"]), norm("c", "y", "bn")]
    return model(nodes, inputs, {"y": None}, weights, opset=7, ir=3), {"x": image(1, 2, 4, 4)}


@hard
def folding_that_overflows_float16() -> Built:
    """Weight and scale are finite, their product is not. ONNX Runtime, onnxscript and onnxslim give NaN."""
    half = np.float16
    parameters = [np.full(2, 900), np.zeros(2), np.zeros(2), np.ones(2)]
    weights = [
        tensor("w", np.full((2, 2, 1, 1), 200), half),
        *(tensor(f"bn{i}", p, half) for i, p in enumerate(parameters)),
    ]
    nodes = [node("Conv", ["x", "w"], ["c"]), norm("c", "y", "bn")]
    built = model(nodes, {"x": (HALF, [1, 2, 2, 2])}, {"y": (HALF, [1, 2, 2, 2])}, weights)
    return built, {"x": np.full((1, 2, 2, 2), 2.0**-9, half)}


@hard
def constants_along_the_width() -> Built:
    """[W] is no [C, 1, 1], not even where they agree in number. ORT#12498; onnxslim (error 15)."""
    d = Draw(10)
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], group=2), node("Mul", ["c", "wide"], ["m"]),
        node("Add", ["m", "wide"], ["y"]),
    ]  # fmt: skip
    weights = [d.weight("w", 4, 1, 1, 1), d.weight("b", 4), tensor("wide", [1, 2, 3, 4])]
    return model(nodes, {"x": [1, 2, 4, 4]}, {"y": None}, weights), {"x": image(1, 2, 4, 4)}


@hard
def constants_that_raise_the_rank() -> Built:
    """A matrix product plus a constant of a higher rank is no product with a bias."""
    d = Draw(11)
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    weights = [d.weight("w", 3, 4), d.weight("b", 2, 1, 4)]
    return model(nodes, {"x": [2, 3]}, {"y": [2, 2, 4]}, weights), {"x": image(2, 3)}


@hard
def zeros_before_a_max_pool() -> Built:
    """A max pool pads with minus infinity: zeros win over negative numbers. ONNX Runtime, onnxoptimizer (2.6)."""
    pads = tensor("pads", [0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    nodes = [node("Pad", ["x", "pads"], ["p"]), node("MaxPool", ["p"], ["y"], kernel_shape=[2, 2])]
    return model(nodes, {"x": [1, 2, 3, 3]}, {"y": None}, [pads]), {"x": -np.abs(image(1, 2, 3, 3))}


@hard
def pads_as_large_as_the_kernel() -> Built:
    """A pool with such pads is loaded by nothing. ONNX Runtime and onnxoptimizer write one."""
    pads = tensor("pads", [0, 0, 2, 0, 0, 0, 0, 2], np.int64)
    average = node("AveragePool", ["p"], ["y"], kernel_shape=[2, 2], count_include_pad=1)
    dilated = node("MaxPool", ["q"], ["z"], kernel_shape=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1])
    low = tensor("low", -np.inf)
    nodes = [node("Pad", ["x", "pads"], ["p"]), average, node("Pad", ["x", "pads", "low"], ["q"]), dilated]
    return model(nodes, {"x": [1, 2, 3, 3]}, {"y": None, "z": None}, [pads, low]), {"x": image(1, 2, 3, 3)}


@hard
def pads_that_are_no_padding() -> Built:
    """By a value, by reflection, of channels, cropping, or read twice. OnnxSlim#21, OnnxSlim#53."""
    d = Draw(12)
    around, channel, crop = [0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0, 0], [0, 0, -1, 0, 0, 0, 0, 1]
    nodes = [
        node("Pad", ["x", "around", "one"], ["p0"]), node("Conv", ["p0", "w"], ["y0"]),
        node("Pad", ["x", "around"], ["p1"], mode="reflect"), node("Conv", ["p1", "w"], ["y1"]),
        node("Pad", ["x", "channel"], ["p2"]), node("Conv", ["p2", "w3"], ["y2"]),
        node("Pad", ["x", "crop"], ["p3"]), node("Conv", ["p3", "w"], ["y3"]),
        node("Pad", ["x", "around"], ["p4"]), node("Conv", ["p4", "w"], ["y4"]), node("Relu", ["p4"], ["y5"]),
    ]  # fmt: skip
    weights = [
        d.weight("w", 3, 2, 2, 2), d.weight("w3", 3, 3, 2, 2), tensor("one", 1.0),
        *(tensor(n, p, np.int64) for n, p in (("around", around), ("channel", channel), ("crop", crop))),
    ]  # fmt: skip
    return model(nodes, {"x": [1, 2, 4, 4]}, {f"y{i}": None for i in range(6)}, weights), {"x": image(1, 2, 4, 4)}


@hard
def clips_that_cross() -> Built:
    """Disjoint ranges leave one number, and max below min gives max. onnxscript's default rules (error 1 to 2)."""
    bounds = {"a": 2.0, "b": 3.0, "c": -1.0, "d": 1.0, "e": -2.0}
    nodes = [
        node("Clip", ["x", "a", "b"], ["p"]), node("Clip", ["p", "c", "d"], ["y0"]),
        node("Clip", ["x", "d", "c"], ["y1"]), node("Clip", ["x", "e", "c"], ["q"]), node("Relu", ["q"], ["y2"]),
        node("Relu", ["x"], ["r"]), node("Clip", ["r", "e", "c"], ["y3"]),
    ]  # fmt: skip
    outputs = {f"y{i}": [2, 8] for i in range(4)}
    return model(nodes, {"x": [2, 8]}, outputs, [tensor(n, b) for n, b in bounds.items()]), {"x": 3 * image(2, 8)}


@hard
def clip_bounds_that_are_fed() -> Built:
    """A bound that is an input counts. ONNX Runtime's quantizer drops it (-13.7 dB)."""
    d = Draw(13)
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Clip", ["c", "zero", "top"], ["y"])]
    weights = [d.weight("w", 3, 2, 1, 1), tensor("zero", 0.0)]
    built = model(nodes, {"x": [1, 2, 4, 4], "top": []}, {"y": [1, 3, 4, 4]}, weights)
    return built, {"x": image(1, 2, 4, 4), "top": np.asarray(0.25, np.float32)}


@hard
def bodies_that_capture() -> Built:
    """What only the body of an If or Loop reads is read. ORT#729, ORT#8825, onnxsim#463, onnxscript#2810."""
    d = Draw(14)

    def body(name: str, op_type: str, *reads: str) -> onnx.GraphProto:
        inner = node(op_type, list(reads), [f"{name}/y"])
        return helper.make_graph([inner], name, [], [declared(f"{name}/y", F, None)])

    loop = helper.make_graph(
        [node("Add", ["state", "c"], ["next"]), node("Identity", ["on"], ["still"])], "loop",
        [declared("i", INT64, []), declared("on", BOOL, []), declared("state", F, None)],
        [declared("still", BOOL, []), declared("next", F, None)],
    )  # fmt: skip
    nodes = [
        node("Conv", ["x", "w"], ["c"]), norm("c", "n", "bn"),
        node("If", ["which"], ["y"], then_branch=body("then", "Mul", "c", "w"), else_branch=body("else", "Relu", "n")),
        node("Loop", ["count", "", "n"], ["z"], body=loop),
    ]  # fmt: skip
    weights = [d.weight("w", 2, 2, 1, 1), *statistics(d, "bn", 2), tensor("count", 3, np.int64)]
    built = model(nodes, {"x": [1, 2, 1, 1], "which": (BOOL, [])}, {"y": (F, None), "z": (F, None)}, weights)
    return built, {"x": image(1, 2, 1, 1), "which": np.asarray(True)}
