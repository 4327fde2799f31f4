"""Element types, quantized types T1 to T7, shapes, and their text form."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import TypeConstraintError
from amctc.parser import parse_type
from amctc.types import (
    BF16,
    F16,
    F32,
    I4,
    I8,
    I32,
    SCALAR_TYPES,
    STRING,
    U4,
    U8,
    Dim,
    QuantizedType,
    ScalarType,
    TensorType,
    dims_agree,
    format_dim,
    merge_dims,
    merge_types,
    scalar_of,
    shapes_agree,
)

dims: st.SearchStrategy[Dim] = st.none() | st.integers(0, 10**12) | st.text(min_size=1, max_size=6)
scalars = st.sampled_from(list(SCALAR_TYPES.values()))
scales = st.floats(2.0**-149, float(np.finfo(np.float32).max), width=32)


@st.composite
def quantized_types(draw: st.DrawFn, length: int | None = None, axis: int | None = None) -> QuantizedType:
    storage = draw(st.sampled_from([t for t in SCALAR_TYPES.values() if t.is_integer]))
    expressed = draw(st.sampled_from([t for t in SCALAR_TYPES.values() if t.is_float]))
    least, most = storage.integer_range
    low = draw(st.integers(least, most - 1))
    high = draw(st.integers(low + 1, most))
    n = 1 if length is None else length
    zeros = draw(st.lists(st.integers(low, high), min_size=n, max_size=n))
    given_scales = draw(st.lists(scales, min_size=n, max_size=n))
    return QuantizedType(storage, expressed, tuple(given_scales), tuple(zeros), axis, low, high)


@st.composite
def tensor_types(draw: st.DrawFn) -> TensorType:
    shape = draw(st.none() | st.lists(dims, max_size=4).map(tuple))
    if shape and draw(st.booleans()):
        axis = draw(st.integers(0, len(shape) - 1))
        elem = draw(quantized_types(length=draw(st.integers(0, 3)), axis=axis))
        return TensorType((*shape[:axis], len(elem.scales), *shape[axis + 1 :]), elem)
    return TensorType(shape, draw(scalars | quantized_types()))


# ---------------------------------------------------------------------------------------------------- scalars


@pytest.mark.parametrize(
    ("name", "bits", "low", "high"),
    [("i4", 4, -8, 7), ("u4", 4, 0, 15), ("i8", 8, -128, 127), ("u8", 8, 0, 255), ("i16", 16, -32768, 32767),
     ("i64", 64, -(2**63), 2**63 - 1)],
)  # fmt: skip
def test_integer_ranges(name: str, bits: int, low: int, high: int) -> None:
    assert SCALAR_TYPES[name].bits == bits
    assert SCALAR_TYPES[name].integer_range == (low, high)


def test_kinds_of_scalars() -> None:
    floats = {n for n, t in SCALAR_TYPES.items() if t.is_float}
    assert floats == {
        "f16", "f32", "f64", "bf16", "f8e4m3fn", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz", "f8e8m0", "f4e2m1",
    }  # fmt: skip
    integers = {n for n, t in SCALAR_TYPES.items() if t.is_integer}
    assert integers == {"i2", "i4", "i8", "i16", "i32", "i64", "u2", "u4", "u8", "u16", "u32", "u64"}


@pytest.mark.parametrize("name", ["f8e4m3fn", "f8e5m2", "bool", "i8"])
def test_one_byte_elements(name: str) -> None:
    assert (SCALAR_TYPES[name].bits, SCALAR_TYPES[name].dtype.itemsize) == (8, 1)


def test_scalar_of_a_dtype() -> None:
    assert scalar_of(np.dtype(ml_dtypes.bfloat16)) is BF16
    assert scalar_of(np.float16) is F16
    assert scalar_of(np.int8) is I8  # never the unpacked i4
    assert scalar_of(np.uint8) is U8
    assert scalar_of(np.array(["a"]).dtype) is STRING
    with pytest.raises(TypeConstraintError, match="no tensor element type for NumPy datetime64"):
        scalar_of(np.dtype("datetime64[s]"))


# ---------------------------------------------------------------------------------------------------- T1 … T7


def quantized(**changes: object) -> QuantizedType:
    fields: dict[str, object] = {
        "storage": I8, "expressed": F32, "scales": (0.5,), "zero_points": (0,), "axis": None, "low": -128, "high": 127,
    }  # fmt: skip
    return QuantizedType(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("T2", {"scales": (0.0,)}),
        ("T2", {"scales": (-0.5,)}),
        ("T2", {"scales": (float("inf"),)}),
        ("T2", {"scales": (float("nan"),)}),
        ("T2", {"scales": (0.1,)}),  # not a float32
        ("T2", {"scales": (1e39,)}),  # overflows float32
        ("T3", {"zero_points": ()}),
        ("T3", {"scales": (0.5, 0.5), "zero_points": (0, 0)}),  # two scales without an axis
        ("T3", {"scales": (0.5, 0.5), "axis": 0}),
        ("T5", {"low": -129}),
        ("T5", {"high": 128}),
        ("T5", {"low": 5, "high": 5}),
        ("T6", {"zero_points": (-128,), "low": -127}),
        ("T7", {"storage": F32}),
        ("T7", {"expressed": I32}),
        ("T7", {"storage": SCALAR_TYPES["bool"]}),
        ("T9", {"block": 2}),  # without an axis
        ("T9", {"block": -1, "axis": 0}),
    ],
)
def test_a_quantized_type_out_of_bounds(rule: str, changes: dict[str, object]) -> None:
    with pytest.raises(TypeConstraintError) as raised:
        quantized(**changes)
    assert raised.value.rule == rule


def blocked(count: int, axis: int, block: int) -> QuantizedType:
    return quantized(scales=(0.5,) * count, zero_points=(3,) * count, axis=axis, block=block)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("shape", "axis", "block", "parameters"),
    [((4, 3), 0, 2, (2, 3)), ((5, 3), 0, 2, (3, 3)), ((3, 5), 1, 8, (3, 1)), ((2, 4, 3), 1, 4, (2, 1, 3))],
)
def test_blocks_have_a_scale_each(shape: tuple[int, ...], axis: int, block: int, parameters: tuple[int, ...]) -> None:
    count = int(np.prod(parameters))
    value = TensorType(shape, blocked(count, axis, block))
    assert value.elem.parameter_shape(shape) == parameters  # type: ignore[union-attr]
    assert parse_type(str(value)) == value
    assert f":{axis}:{block}, " in str(value)
    with pytest.raises(TypeConstraintError) as raised:
        TensorType(shape, blocked(count + 1, axis, block))
    assert raised.value.rule == "T4"


def test_parameters_without_blocks() -> None:
    assert quantized().parameter_shape((4, 3)) == ()
    assert quantized(scales=(1.0,) * 3, zero_points=(0,) * 3, axis=1).parameter_shape((4, 3)) == (3,)


def test_blocks_of_an_unknown_size_are_not_counted() -> None:
    TensorType(("K", 3), blocked(7, 0, 2))


@pytest.mark.parametrize("dim", [-1, "", 2.0, True, np.int64(3)])
def test_what_is_no_dimension(dim: object) -> None:
    with pytest.raises(TypeConstraintError) as raised:
        TensorType((dim,), F32)  # type: ignore[arg-type]
    assert raised.value.rule == "T1"


@pytest.mark.parametrize(("shape", "axis"), [((3,), 1), ((3,), -1), ((), 0), ((4, 2), 0)])
def test_the_axis_must_have_a_slice_per_scale(shape: tuple[int, ...], axis: int) -> None:
    elem = quantized(scales=(0.5, 0.5, 0.5), zero_points=(0, 0, 0), axis=axis)
    with pytest.raises(TypeConstraintError) as raised:
        TensorType(shape, elem)
    assert raised.value.rule == "T4"


def test_the_axis_may_be_symbolic() -> None:
    assert TensorType(("C", 2), QuantizedType.per_axis([0.5, 1.0, 2.0], 0)).dims == ("C", 2)


def test_the_message_names_the_bad_scale() -> None:
    with pytest.raises(TypeConstraintError, match=r"scale 0\.1 is not finite, positive and exact in float32 \[T2\]"):
        quantized(scales=(0.5, 0.1), zero_points=(0, 0), axis=0)


def test_constructors_take_the_full_range() -> None:
    assert QuantizedType.per_tensor(0.25, 7, U8) == quantized(
        storage=U8, scales=(0.25,), zero_points=(7,), low=0, high=255
    )
    per_axis = QuantizedType.per_axis(np.array([0.5, 0.25], np.float32), 1, I4, F16)
    assert (per_axis.low, per_axis.high, per_axis.zero_points) == (-8, 7, (0, 0))
    assert per_axis.scale_array.dtype == np.float32
    assert per_axis.dtype == np.int8  # int4 is held unpacked
    assert per_axis.bits == 4


# ---------------------------------------------------------------------------------------------------- tensors


def test_what_a_tensor_type_says() -> None:
    t = TensorType((2, "N", None), QuantizedType.per_tensor(0.5))
    assert (t.rank, t.is_static, t.num_elements, t.scalar, t.is_float) == (3, False, None, F32, False)
    assert TensorType((2, 3), F32).num_elements == 6
    assert TensorType((), F32).num_elements == 1
    assert t.with_elem(I32) == TensorType((2, "N", None), I32)


def test_an_unknown_rank_is_not_guessed() -> None:
    unranked = TensorType(None, F32)
    assert (unranked.is_static, unranked.num_elements) == (False, None)
    with pytest.raises(TypeConstraintError, match="the rank of this value is unknown"):
        _ = unranked.dims


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (TensorType((), F32), "tensor<f32>"),
        (TensorType(None, I4), "tensor<*xi4>"),
        (TensorType(("N", None, 3), BF16), 'tensor<"N"x?x3xbf16>'),
        (TensorType(('a "b" \\ x', 2), U4), 'tensor<"a \\"b\\" \\\\ x"x2xu4>'),
        (TensorType(("批",), STRING), 'tensor<"\\u6279"xstring>'),
        (TensorType((4,), QuantizedType.per_tensor(0.5)), "tensor<4xquant<i8:f32, {0.5}>>"),
        (TensorType((2, 4), quantized(scales=(0.5, 2.0**-149), zero_points=(3, 0), axis=0, low=-127)),
         "tensor<2x4xquant<i8[-127:127]:f32:0, {0.5:3, 1e-45}>>"),
        (TensorType((0,), quantized(scales=(), zero_points=(), axis=0)), "tensor<0xquant<i8:f32:0, {}>>"),
    ],
)  # fmt: skip
def test_text_of_a_type(type_: TensorType, text: str) -> None:
    assert str(type_) == text
    assert parse_type(text) == type_


@given(tensor_types())
def test_the_text_of_a_type_parses_back(type_: TensorType) -> None:
    assert parse_type(str(type_)) == type_


def test_format_dim_quotes_symbols_only() -> None:
    assert [format_dim(d) for d in (3, None, "3", "?")] == ["3", "?", '"3"', '"?"']


# ---------------------------------------------------------------------------------------------------- merging


def test_dimensions_agree_unless_two_numbers_differ() -> None:
    assert dims_agree(3, 3)
    assert dims_agree(3, "N")
    assert dims_agree("N", "M")
    assert dims_agree(None, 0)
    assert not dims_agree(3, 4)


def test_shapes_agree_in_rank() -> None:
    assert shapes_agree(None, (1, 2))
    assert shapes_agree((1, "N"), (1, 7))
    assert not shapes_agree((1,), (1, 1))


@given(dims, dims, dims)
def test_merging_prefers_numbers_then_symbols(a: Dim, b: Dim, c: Dim) -> None:
    def weight(d: Dim) -> int:
        return 0 if d is None else 1 if isinstance(d, str) else 2

    assert merge_dims(a, a) == a
    assert weight(merge_dims(a, b)) == max(weight(a), weight(b))
    assert merge_dims(a, b) in (a, b)
    assert weight(merge_dims(merge_dims(a, b), c)) == weight(merge_dims(a, merge_dims(b, c)))


def test_of_two_symbols_the_first_stays() -> None:
    assert (merge_dims("N", "M"), merge_dims("M", "N")) == ("N", "M")


def test_merging_types() -> None:
    a, b = TensorType((None, 4), F32), TensorType(("N", None), F32)
    assert merge_types(a, b) == TensorType(("N", 4), F32)
    assert merge_types(a, TensorType(None, F32)) == a
    assert merge_types(TensorType(None, F32), a) == a


@pytest.mark.parametrize("other", [TensorType((2,), F32), TensorType((3, 3), F32), TensorType((2, 3), F16)])
def test_contradicting_types(other: TensorType) -> None:
    with pytest.raises(TypeConstraintError, match="contradict each other"):
        merge_types(TensorType((2, 3), F32), other)


def test_scalar_types_print_their_name() -> None:
    assert str(ScalarType("f32", 32)) == "f32"
