"""The test suites that come with the onnx package: models, feeds, expected outputs, and how results are compared."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
SUITES = ("node", "pytorch-converted", "pytorch-operator", "simple", "light")

_RTOL, _ATOL = 1e-3, 1e-7
"""Tolerances of suites on disk (``onnx.backend.test.loader``)."""

_BFLOAT16 = 2.0**-6
"""Two units of bfloat16's last place, which the suite's own runner allows."""


@dataclass(frozen=True)
class Case:
    """A model with feeds and expected outputs, in the order of its interface, and the suite's tolerances."""

    suite: str
    name: str
    model: onnx.ModelProto
    data: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float = _RTOL
    atol: float = _ATOL


def cases(suite: str) -> Iterator[Case]:
    """The cases of a suite in name order."""
    return {"node": _node_cases, "light": _light_cases}.get(suite, lambda: _folder_cases(suite))()


def _node_cases() -> Iterator[Case]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite's own formulas divide by zero
        tests = load_model_tests(kind="node")
    for test in sorted(tests, key=lambda t: str(t.name)):
        data = [([_value(v) for v in given], [_value(v) for v in wanted]) for given, wanted in test.data_sets]
        yield Case("node", test.name, test.model, data, test.rtol, test.atol)


def _light_cases() -> Iterator[Case]:
    """Known networks with made-up weights; the suite feeds them rising numbers from 0 to 1."""
    for path in sorted((DATA / "light").glob("*.onnx")):
        model = onnx.load(path)
        weights = {t.name for t in model.graph.initializer}
        fed = [i for i in model.graph.input if i.name not in weights]
        shapes = [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in fed]
        ramps = [(np.arange(np.prod(s)).reshape(s) / np.prod(s)).astype(np.float32) for s in shapes]
        outputs = [path.with_name(f"{path.stem}_output_{i}.pb") for i in range(len(model.graph.output))]
        wanted = [_value(onnx.TensorProto.FromString(file.read_bytes())) for file in outputs]
        yield Case("light", path.stem, model, [(ramps, wanted)])


def _folder_cases(suite: str) -> Iterator[Case]:
    for folder in sorted(p for p in (DATA / suite).iterdir() if (p / "model.onnx").exists()):
        model = onnx.load(folder / "model.onnx")
        data = [
            (_stored(part, "input", model.graph.input), _stored(part, "output", model.graph.output))
            for part in sorted(folder.glob("test_data_set*"))
        ]
        yield Case(suite, folder.name, model, data)


def _stored(folder: Path, side: str, infos: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    forms = {"sequence_type": onnx.SequenceProto, "optional_type": onnx.OptionalProto}
    values = []
    for index in range(len(list(folder.glob(f"{side}_*.pb")))):
        proto = forms.get(infos[index].type.WhichOneof("value"), onnx.TensorProto)()
        proto.ParseFromString((folder / f"{side}_{index}.pb").read_bytes())
        values.append(_value(proto))
    return values


def _value(value: Any) -> Any:
    """A value of a suite as Python holds it: an array, a list of them, or ``None``."""
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic | int | float) else value


def same(a: Any, b: Any) -> bool:
    """Equal types, shapes and bits; NaNs of any payload are equal."""
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return bool(a == b)
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    if a.dtype == object:
        return bool(a.tolist() == b.tolist())
    nan = np.isnan(a) & np.isnan(b) if a.dtype.kind in "fc" else np.zeros(a.shape, bool)
    return np.where(nan, 0, a).astype(a.dtype).tobytes() == np.where(nan, 0, b).astype(b.dtype).tobytes()


def similar(wanted: Any, got: Any, case: Case) -> bool:
    """Equal within the suite's tolerances, as its own runner compares; sequences element by element."""
    if isinstance(wanted, list | tuple):
        fits = isinstance(got, list | tuple) and len(got) == len(wanted)
        return fits and all(similar(w, g, case) for w, g in zip(wanted, got, strict=True))
    if not isinstance(wanted, np.ndarray) or not isinstance(got, np.ndarray):
        return bool(wanted == got)
    if wanted.shape != got.shape:
        return False
    if wanted.dtype.kind in "USO":
        return [str(v) for v in wanted.ravel()] == [str(v) for v in got.ravel()]
    if wanted.dtype.kind == "V":  # types of ml_dtypes, which know no tolerance
        rtol = max(case.rtol, _BFLOAT16) if wanted.dtype.name == "bfloat16" else case.rtol
        return bool(np.allclose(got.astype(np.float32), wanted.astype(np.float32), rtol, case.atol, equal_nan=True))
    exact = wanted.dtype.kind in "biu"
    close = np.array_equal(wanted, got) if exact else np.allclose(got, wanted, case.rtol, case.atol, equal_nan=True)
    return wanted.dtype == got.dtype and bool(close)
