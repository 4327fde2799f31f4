"""Models quantized by ONNX Runtime and by NNCF, to be scored as our own are.

Both get the float file and the calibration batches, and write a QDQ file: int8 weights per channel, asymmetric uint8
activations. Their quantizers are simulated by ONNX Runtime op by op, without optimisations: some of its int8 kernels
saturate 16-bit sums on processors without VNNI, which is no fault of the quantizer.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout, suppress
from importlib import metadata, util
from pathlib import Path

import onnx
import onnxruntime
from onnx.version_converter import convert_version
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from amctc.types import Array

OPSET = 13

Batches = Iterable[Mapping[str, Array]]


class Peer:
    """A quantized file in ONNX Runtime, as ``amctc.evaluate`` wants a session: outputs by name."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.output_names = tuple(o.name for o in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for one batch."""
        return dict(zip(self.output_names, self._session.run(list(self.output_names), dict(feeds)), strict=True))


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the runtime has no types
    """Batches in the form in which ONNX Runtime asks for them, one range after the other."""

    def __init__(self, batches: Batches) -> None:
        self._batches = [dict(feeds) for feeds in batches]
        self._left: Iterator[dict[str, Array]] = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with the batches from one to another."""
        self._left = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Array] | None:
        """The next batch."""
        return next(self._left, None)


def by_onnxruntime(method: str) -> Callable[[Path, Batches, Path], None]:
    """Quantization by ONNX Runtime with ranges by ``method``: MinMax, Entropy or Percentile."""

    def quantize(model: Path, batches: Batches, written: Path) -> None:
        logging.disable(logging.WARNING)
        # The quantizer writes beside the model, and prints a line for each batch.
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(None):
            copied, prepared = Path(folder) / "model.onnx", Path(folder) / "prepared.onnx"
            onnx.save(_modern(model), copied)
            quant_pre_process(copied, prepared, skip_symbolic_shape=True)  # that needs sympy
            reader = _Reader(batches)
            for per_channel in (True, False):  # per channel version 1.31 fails on some biases of products
                with suppress(ValueError):
                    quantize_static(
                        prepared, written, reader, quant_format=QuantFormat.QDQ, per_channel=per_channel,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                        calibrate_method=getattr(CalibrationMethod, method),
                        extra_options={"CalibStridedMinMax": 1},  # batch by batch: it would keep all activations
                    )  # fmt: skip
                    return
            raise ValueError("neither per channel nor per tensor")

    return quantize


def by_nncf(model: Path, batches: Batches, written: Path) -> None:
    """Post-training quantization by NNCF as it is called by default: fast bias correction, mixed preset."""
    import nncf

    logging.disable(logging.WARNING)
    rows = [{n: a[i : i + 1] for n, a in feeds.items()} for feeds in batches for i in range(_length(feeds))]
    onnx.save(nncf.quantize(_modern(model), nncf.Dataset(rows), subset_size=len(rows)), written)


def _modern(model: Path) -> onnx.ModelProto:
    """The model in an opset that has scales per channel, which both need."""
    loaded = onnx.load(model)
    version = max(o.version for o in loaded.opset_import if o.domain in ("", "ai.onnx"))
    return loaded if version >= OPSET else convert_version(loaded, OPSET)


def _length(feeds: Mapping[str, Array]) -> int:
    return len(next(iter(feeds.values())))


ONNX_RUNTIME = {f"ONNX Runtime, {method}": by_onnxruntime(method) for method in ("MinMax", "Entropy", "Percentile")}
NNCF = {"NNCF": by_nncf}


def installed(name: str) -> str | None:
    """The version of a package; ``None`` where it is not installed."""
    return metadata.version(name) if util.find_spec(name) is not None else None
