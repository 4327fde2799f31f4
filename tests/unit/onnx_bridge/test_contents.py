"""Contents that a file spells in its own way: sparse tensors, elements narrower than a byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from amctc.errors import AmctcError, InputError, LimitError
from amctc.frontends.onnx_file import load
from amctc.ir import constant_data
from amctc.onnx_bridge import contents, export_model, import_model
from amctc.onnx_bridge.tensors import tensor_bytes, unpacked
from amctc.types import SCALAR_TYPES
from tests.unit.onnx_bridge.round_trips import round_trip, run_model

VALUES, FLAT, DENSE = np.float32([1.5, -2.0]), np.int64([1, 5]), np.float32([[0, 1.5, 0], [0, 0, -2.0]])


def sparse(values: Any = VALUES, indices: Any = FLAT, dims: Any = (2, 3)) -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(
        numpy_helper.from_array(values, "w"), numpy_helper.from_array(np.asarray(indices), "i"), list(dims)
    )


def adding(tensor: onnx.SparseTensorProto, *, as_node: bool) -> onnx.ModelProto:
    """x + w, the sparse tensor an initializer or the value of a Constant node."""
    nodes = [helper.make_node("Add", ["x", "w"], ["y"], "add")]
    if as_node:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], "here", sparse_value=tensor))
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xy")
    graph = helper.make_graph(nodes, "net", [x], [y], sparse_initializer=[] if as_node else [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("as_node", [True, False])
@pytest.mark.parametrize("indices", [FLAT, [[0, 1], [1, 2]]], ids=["flat", "coordinates"])
def test_a_sparse_tensor_is_its_dense_form(indices: Any, as_node: bool) -> None:
    model = adding(sparse(indices=indices), as_node=as_node)
    feeds = {"x": np.float32([[1, 1, 1], [1, 1, 1]])}
    graph = import_model(model)
    data = constant_data(graph.outputs[0].producer.operands[1])
    np.testing.assert_array_equal(data.read(), DENSE)
    exported = export_model(graph)
    assert not exported.graph.sparse_initializer
    np.testing.assert_array_equal(run_model(model, feeds)["y"], run_model(exported, feeds)["y"])


@pytest.mark.parametrize(
    ("values", "indices", "dims"),
    [
        (VALUES, [1, 6], (2, 3)), (VALUES, [-1, 2], (2, 3)), (VALUES, [[0, 1], [2, 0]], (2, 3)),
        (VALUES, [1], (2, 3)), (VALUES, [[0], [1]], (2, 3)), (VALUES, np.int32([1, 5]), (2, 3)),
        (VALUES, FLAT, (2, -3)), (VALUES.reshape(1, 2), FLAT, (2, 3)), (np.array(["a", "b"], object), FLAT, (2, 3)),
        (VALUES, FLAT, (0, 3)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_node", [True, False])
def test_a_damaged_sparse_tensor_is_refused_by_name(values: Any, indices: Any, dims: Any, as_node: bool) -> None:
    with pytest.raises(AmctcError, match="'w'" if not as_node else "'here'|'w'"):
        import_model(adding(sparse(values, indices, dims), as_node=as_node))


def test_a_sparse_tensor_that_claims_a_huge_shape_is_refused_before_memory_is_taken() -> None:
    for dims in ((1 << 20, 1 << 20), (1 << 62, 1 << 62)):
        with pytest.raises(LimitError, match="dense"):
            import_model(adding(sparse(dims=dims), as_node=False))


def test_the_bound_of_dense_forms_counts_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "DENSE_LIMIT", 24)
    import_model(adding(sparse(), as_node=False))
    monkeypatch.setattr(contents, "DENSE_LIMIT", 23)
    with pytest.raises(LimitError):
        import_model(adding(sparse(), as_node=False))


def test_a_sparse_initializer_and_a_dense_one_of_one_name_are_refused() -> None:
    model = adding(sparse(), as_node=False)
    model.graph.initializer.append(numpy_helper.from_array(DENSE, "w"))
    with pytest.raises(AmctcError, match="'w' is given twice"):
        import_model(model)


NARROW = [SCALAR_TYPES[n] for n in ("i2", "u2", "i4", "u4", "f4e2m1")]


@given(st.data())
def test_narrow_elements_are_packed_low_bits_first(data: st.DataObject) -> None:
    """Against the packing of the onnx package, for odd counts too."""
    storage = data.draw(st.sampled_from(NARROW))
    codes = data.draw(st.lists(st.integers(0, (1 << storage.bits) - 1), max_size=9))
    if storage.name == "f4e2m1":
        array, theirs = np.uint8(codes).view(ml_dtypes.float4_e2m1fn), ml_dtypes.float4_e2m1fn
    else:
        low = storage.integer_range[0]
        array = (np.int64(codes) + low).astype(storage.dtype)
        theirs = getattr(ml_dtypes, f"{'u' if storage.name[0] == 'u' else ''}int{storage.bits}")
    packed = tensor_bytes(array, storage)
    assert packed.tobytes() == numpy_helper.from_array(array.astype(theirs)).raw_data
    np.testing.assert_array_equal(unpacked(packed, array.shape, storage).view(np.uint8), array.view(np.uint8))


@pytest.mark.parametrize("name", ["INT2", "UINT2", "INT4", "UINT4", "FLOAT4E2M1", "FLOAT8E8M0", "BFLOAT16"])
def test_constants_of_narrow_types_keep_their_bits(name: str) -> None:
    code = getattr(TensorProto, name)
    numbers = [1.0, 2.0, 0.5, 4.0, 1.0] if "FLOAT" in name else [1, 0, 1, 1, 0]
    tensor = helper.make_tensor("w", code, [5], np.asarray(numbers).astype(helper.tensor_dtype_to_np_dtype(code)))
    y = helper.make_tensor_value_info("y", code, [5])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "net", [], [y], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    (kept,) = export_model(import_model(model)).graph.initializer
    assert (kept.data_type, list(kept.dims)) == (code, [5])
    assert numpy_helper.to_array(kept).tobytes() == numpy_helper.to_array(tensor).tobytes()


def test_an_empty_sparse_tensor_is_all_zeros() -> None:
    model = adding(sparse(np.float32([]), np.zeros((0, 2), np.int64)), as_node=False)
    _, _, outputs = round_trip_dense(model, {"x": DENSE})
    np.testing.assert_array_equal(outputs["y"], DENSE)


def round_trip_dense(model: onnx.ModelProto, feeds: dict[str, Any]) -> Any:
    """A round trip of what the sparse model means: ONNX Runtime reads no empty sparse tensors."""
    return round_trip(export_model(import_model(model)), feeds)


def with_external_values(place: str) -> onnx.ModelProto:
    """A model whose sparse tensor has its two values in the file ``v.bin``."""
    stored = TensorProto(name="w", dims=[2], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    stored.external_data.add(key="location", value="v.bin")
    tensor = onnx.SparseTensorProto(values=stored, indices=numpy_helper.from_array(FLAT, "i"), dims=[2, 3])
    if place in ("initializer", "node"):
        return adding(tensor, as_node=place == "node")
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3] x, bool c) => (float[2,3] y) {
        y = If <then_branch = t () => (float[2,3] u) { u = Add(x, w) },
                else_branch = e () => (float[2,3] v) { v = Neg(x) }> (c) }""")
    body = model.graph.node[0].attribute[0].g
    if place == "body":
        body.sparse_initializer.append(tensor)
    else:
        body.node.insert(0, helper.make_node("Constant", [], ["w"], "inner", sparse_value=tensor))
    return model


@pytest.mark.parametrize("place", ["initializer", "node", "body", "node in a body"])
def test_external_values_of_sparse_tensors_are_read_from_the_folder_only(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also inside bodies, which ONNX Runtime would otherwise read from wherever it runs."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "v.bin").write_bytes(VALUES.tobytes())
    model = with_external_values(place)
    (tmp_path / "m" / "net.onnx").write_bytes(model.SerializeToString())
    exported = export_model(load(tmp_path / "m" / "net.onnx")).SerializeToString()
    assert b"v.bin" not in exported
    monkeypatch.chdir(tmp_path / "m")
    (tmp_path / "v.bin").write_bytes(VALUES.tobytes())
    (tmp_path / "m" / "net.onnx").write_bytes(model.SerializeToString().replace(b"v.bin", b"../v."))
    with pytest.raises(InputError, match="inside the folder"):
        load("net.onnx")
