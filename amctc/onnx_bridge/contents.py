"""Contents that a model file spells in other ways than a dense tensor: Constant nodes, sparse tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, SparseTensorProto, TensorProto

from amctc.data import Data, DeferredData, FileData, deferred
from amctc.errors import InputError, LimitError, printable
from amctc.onnx_bridge.tensors import ExternalFile, elem_of, tensor_data
from amctc.types import Array, ScalarType

SHARED_CLAIMS, FREE_CLAIMS = 4, 64 << 20
"""Tensors of one external file may claim its bytes so many times together, and so many bytes beside: weights are shared
now and then, but a thousand tensors on one MiB are a bomb that goes off where the model is written or run."""

DENSE_LIMIT = 1 << 30
"""Most bytes that a sparse tensor may take once it is dense: a few stored bytes can claim any shape."""


def require_own_bytes(contents: Iterable[Data]) -> None:
    """Raise :class:`LimitError` where tensors claim far more bytes of an external file than it has."""
    claims: Counter[Path] = Counter()
    for data in contents:
        for part in data.inputs if isinstance(data, DeferredData) else (data,):
            if isinstance(part, FileData):
                claims[part.path] += part.nbytes
    for path, claimed in claims.items():
        if claimed > FREE_CLAIMS and claimed > SHARED_CLAIMS * path.stat().st_size + FREE_CLAIMS:
            raise LimitError(f"tensors claim {claimed} bytes of an external file of {path.stat().st_size}",
                             where=printable(path.name), remedy="export the model again")  # fmt: skip


def constant_node(node: NodeProto, external: ExternalFile | None) -> tuple[Data, ScalarType]:
    """Value of a Constant node in any of its forms."""
    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return tensor_data(value, external)
    if attribute.name == "sparse_value":
        return sparse_data(value, external)
    forms = {
        "value_float": TensorProto.FLOAT, "value_floats": TensorProto.FLOAT, "value_int": TensorProto.INT64,
        "value_ints": TensorProto.INT64, "value_string": TensorProto.STRING, "value_strings": TensorProto.STRING,
    }  # fmt: skip
    many = attribute.name.endswith("s")
    items = list(value) if many else [value]
    shape = [len(items)] if many else []
    return tensor_data(onnx.helper.make_tensor("constant", forms[attribute.name], shape, items), None)


def sparse_data(sparse: SparseTensorProto, external: ExternalFile | None) -> tuple[Data, ScalarType]:
    """A sparse tensor as a dense one, made when it is read; ONNX gives both the same meaning.

    Raises :class:`InputError` for indices that do not fit, :class:`LimitError` past :data:`DENSE_LIMIT`.
    """
    where = f"sparse tensor {printable(sparse.values.name)!r}"
    shape = tuple(sparse.dims)
    elem = elem_of(sparse.values.data_type, where)
    if any(d < 0 for d in shape) or elem.name == "string":
        raise InputError(f"no sparse tensor has the form {list(shape)} {elem}", where=where, remedy="store it dense")
    if math.prod(shape) * elem.dtype.itemsize > DENSE_LIMIT:
        raise LimitError(f"{list(shape)} {elem} would take more than {DENSE_LIMIT} bytes when dense", where=where,
                         remedy="compute without the zeros, or store the tensor dense")  # fmt: skip
    values, _ = tensor_data(sparse.values, external)
    flat = _flat_indices(sparse, external, values.shape, where)

    def scattered(stored: Array) -> Array:
        dense = np.zeros(math.prod(shape), elem.dtype)
        dense[flat] = stored
        return dense.reshape(shape)

    return deferred("sparse", scattered, values, shape=shape, dtype=elem.dtype), elem


def _flat_indices(sparse: SparseTensorProto, external: ExternalFile | None, values: tuple[int, ...], at: str) -> Array:
    """Positions of the values in the flattened tensor, given so or by their coordinates."""
    shape = tuple(sparse.dims)
    indices = tensor_data(sparse.indices, external)[0].read()
    if len(values) != 1 or indices.dtype != np.int64 or indices.shape not in (values, (*values, len(shape))):
        raise InputError(f"indices {indices.dtype}{list(indices.shape)} for values {list(values)}", where=at,
                         remedy="the file is damaged")  # fmt: skip
    bounds = np.asarray(shape if indices.ndim == 2 else math.prod(shape), np.int64)
    if ((indices < 0) | (indices >= bounds)).any():
        raise InputError(f"an index lies outside {list(shape)}", where=at, remedy="the file is damaged")
    if indices.ndim == 1:
        return indices
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return indices @ np.asarray(strides, np.int64).reshape(len(shape))
