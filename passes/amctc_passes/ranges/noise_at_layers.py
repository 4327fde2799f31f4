"""The noise that quantized tensors make in what the layers that read them give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from amctc.calibrate.contraction import Contraction
from amctc.calibrate.frontier import watched
from amctc.files.scratch import ScratchFile
from amctc.ir import Graph, Op, constant_data
from amctc.kernels.tables import activation_kernel
from amctc.numerics.linear import dequantize_linear, quantize_linear
from amctc.ops import nn, quant
from amctc.pipeline import Context
from amctc.types import Array, QuantizedType
from amctc_passes.facts import quantized_type, stored_under
from amctc_passes.quantize.held_back import held
from amctc_passes.quantize.layers import is_constant
from amctc_passes.ranges.quantized_tensors import QuantizedTensor
from amctc_passes.ranges.range_noise import Float64Array, Noise, energy, first_samples, mean_share
from amctc_passes.weights.layer_inputs import contraction_of


class NoiseAtLayers:
    """The error of the layers that read a tensor, behind their fused activations: what these cut off costs nothing.

    Measured on ``windows`` windows of each of the first ``samples``, which are gathered in one run of the float network
    ``reference`` and wait on disk. Tensors that anything else reads are not worth searching: nothing is known of them.
    """

    def __init__(
        self, reference: Graph, tensors: Sequence[QuantizedTensor], context: Context, source: str, samples: int,
        windows: int,
    ) -> None:  # fmt: skip
        readers = {p.op: p.value for t in tensors if _by_layers(t) for p in t.points}
        self._windows = {op: _Windows(contraction_of(op)) for op in readers}
        values, first = list(dict.fromkeys(readers.values())), 0
        batches = first_samples(context.calibration(source), samples) if values else ()
        for arrays in watched(reference, values, batches, context.provider) if values else ():
            rows = {value: np.atleast_2d(array) for value, array in arrays.items()}
            for op, value in readers.items():
                self._windows[op].add(rows[value], first, context.seed, windows)
            first += max(map(len, rows.values()))

    def worth_searching(self, tensors: Sequence[QuantizedTensor]) -> Sequence[QuantizedTensor]:
        """Tensors that layers of constant weight alone read, in topological order."""
        return [t for t in tensors if _by_layers(t)]

    def alone(self, tensor: QuantizedTensor, elem: QuantizedType) -> Noise:
        """The mean over the layers that read ``tensor``."""
        return mean_share([self._energies(p.op, elem) for p in tensor.points])

    def in_place(self, tensor: QuantizedTensor, types: Mapping[QuantizedTensor, QuantizedType]) -> Noise:
        """The same: other tensors do not meet in these layers."""
        return self.alone(tensor, types[tensor])

    def _energies(self, op: Op, elem: QuantizedType) -> Float64Array:
        """Energies (of the error, in all) of the samples that choose and of those held back [2, 2]."""
        windows, total = self._windows[op], np.zeros((2, 2))
        bias = constant_data(op.operand(2))
        assert isinstance(op.kind, nn.Layer)
        matrix = windows.contraction.matrix(_weight(op))
        offset = np.zeros((), matrix.dtype) if bias is None else _per_output(bias.read(), matrix.shape)
        activate = activation_kernel(op.kind.activation)
        for back, columns in windows:
            exact = activate(matrix @ columns + offset)
            rounded = activate(matrix @ _rounded(columns, elem) + offset)
            total[int(back)] += energy(rounded - exact), energy(exact)
        return total


class _Windows:
    """Columns [G, K, n] that a layer read, batch by batch, apart for samples held back."""

    def __init__(self, contraction: Contraction) -> None:
        self.contraction = contraction
        self._file = ScratchFile("layer inputs")
        self._kept: list[tuple[bool, tuple[int, tuple[int, ...], np.dtype[np.generic]]]] = []

    def add(self, x: Array, first: int, seed: int, windows: int) -> None:
        """Draw ``windows`` windows of each row of ``x``, of samples from number ``first`` on."""
        positions = self.contraction.positions(x)
        drawn = np.array([
            np.random.default_rng((seed, first + i)).permutation(positions)[:windows] for i in range(len(x))
        ], np.int64).reshape(len(x), min(windows, positions))  # fmt: skip
        back = held(first + np.arange(len(x)))
        for rows in filter(np.any, (back, ~back)):
            columns = self.contraction.columns(x[rows], drawn[rows])
            self._kept.append((rows is back, (self._file.append(columns), columns.shape, columns.dtype)))

    def __iter__(self) -> Iterator[tuple[bool, Array]]:
        return ((back, self._file.read(*place)) for back, place in self._kept)


def _by_layers(tensor: QuantizedTensor) -> bool:
    """True where all that reads the tensor are layers of constant weight, through their data."""
    return all(p.position == 0 and isinstance(p.op.kind, nn.Layer) and is_constant(p.op, 1) for p in tensor.points)


def _weight(op: Op) -> Array:
    """The numbers of a constant weight, rounded or not."""
    value = op.operands[1]
    data = constant_data(value)
    if data is None:
        stored = constant_data(stored_under(value))
        assert stored is not None
        data = quant.dequantized(stored, quantized_type(value))
    return data.read()


def _per_output(bias: Array, shape: tuple[int, ...]) -> Array:
    """A bias as [G, O/G, 1]; the first row of a Gemm bias stands for all."""
    row = bias.reshape(-1, bias.shape[-1])[0] if bias.ndim else bias
    return np.broadcast_to(row, (shape[0] * shape[1],)).reshape(*shape[:2], 1)


def _rounded(x: Array, elem: QuantizedType) -> Array:
    scale, zero = np.float32(elem.scales[0]), elem.zero_points[0]
    stored = quantize_linear(x, scale, zero, low=elem.low, high=elem.high, dtype=elem.storage.dtype)
    return dequantize_linear(stored, scale, zero)
