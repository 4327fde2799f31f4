"""Defects of real tools, one test each: right in float and after quantization, or clearly refused.

What other files hold is not repeated: bodies and strings, sparse and shared weights, functions (``test_odd_models``),
opsets 7 to 21 (``unit/onnx_bridge/test_old_opsets``, ``test_opsets_upgrade``), sparse initializers and forms of
Constant (``test_importer_initializers``, ``test_contents``), more than 2 GiB (``test_storage``), rounding and
saturation (``unit/kernels``), accumulators past int32 (``test_kernels_integer_epilogue``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import amctc
from amctc.errors import AmctcError
from amctc.onnx_bridge import import_model
from amctc.preset import load_preset
from amctc.testing import SeededSource
from tests.models import hard_forms  # noqa: F401 - it enters its models
from tests.models.hard_folds import FLOAT_MODELS
from tests.models.hard_layers import LAYERS, REFUSED
from tests.models.test_odd_models import IN_INTEGERS, outputs, sqnr
from tools.random_graphs.__main__ import Tally, examine
from tools.random_graphs.cases import Case
from tools.random_graphs.forms import without_node_names

LEAST_DB = 30.0
"""An int8 layer keeps its noise about 35 dB below its signal; these models have one or two."""


@pytest.mark.parametrize("name", FLOAT_MODELS)
def test_float(name: str) -> None:
    """Imported, prepared for quantization and exported it computes the same, as ONNX Runtime says of both files."""
    built, feeds = FLOAT_MODELS[name]()
    tally = Tally()
    examine(Case(name, import_model(built), built, feeds, SeededSource(0)), load_preset("balanced").prepare, tally)
    assert tally.compared, tally.not_run


@pytest.mark.parametrize("name", LAYERS)
def test_quantized(name: str, tmp_path: Path) -> None:
    """The integer run is near the float model, in each of its outputs, and so is the file with quantizers."""
    odd, source = LAYERS[name](), tmp_path / "model.onnx"
    onnx.save(odd.model, source)
    result = amctc.compress(source, odd.samples, out=tmp_path / "out", options=IN_INTEGERS)
    assert sum(layer.action == "int8" for layer in result.report.layers) == odd.int8, result.report.layers
    assert not result.report.overflows
    onnx.save(without_node_names(odd.model), tmp_path / "plain.onnx")
    expected = [outputs(tmp_path / "plain.onnx", feeds) for feeds in odd.samples]
    session = amctc.Session(result.files["deploy"])
    for run in (session.run, lambda feeds: outputs(result.files["fakequant"], feeds)):
        actual = [run(feeds) for feeds in odd.samples]
        for output in expected[0]:
            old, new = (np.stack([batch[output] for batch in side]) for side in (expected, actual))
            assert sqnr(old, new) >= LEAST_DB, output


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    """An error of ours that names what is wrong and says what to do; nothing is written."""
    (odd, named), source = REFUSED[name](), tmp_path / "model.onnx"
    source.write_bytes(odd.model.SerializeToString())
    with pytest.raises(AmctcError) as caught:
        amctc.compress(source, odd.samples, out=tmp_path / "out")
    assert named in str(caught.value)
    assert caught.value.where
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()
