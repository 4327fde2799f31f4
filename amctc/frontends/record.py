"""Read AMCT quantization records (N25) in protobuf text format, by field name, from any tool of the family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from amctc.errors import AmctcError, InputError, printable
from amctc.files import AnyPath, read_bytes
from amctc.frontends.protobuf_text import SIZE_LIMIT, Field, Message, Scalar, parse_text
from amctc.records import KvCacheRecord, LayerRecord, PruneNode, PruneRecord, Record

_KNOWN = frozenset({
    "scale_d", "offset_d", "scale_w", "offset_w", "shift_bit", "tensor_balance_factor", "skip_fusion", "dst_type",
    "act_type", "wts_type",
})  # fmt: skip
_TRUTH = {"true": True, "True": True, "t": True, "1": True, "false": False, "False": False, "f": False, "0": False}


def read_record(path: AnyPath) -> Record:
    """The record in the file ``path``; errors as :func:`parse_record`, naming the file, and of reading it."""
    data = read_bytes(path, limit=SIZE_LIMIT, kind="record")
    name = printable(Path(path).name, 60)
    try:
        return parse_record(data.decode())
    except UnicodeDecodeError:
        raise InputError("the record is not UTF-8 text", where=name, remedy="give the record.txt of a tool") from None
    except AmctcError as error:
        error.where = f"{name}: {error.where}" if error.where else name
        raise


def parse_record(text: str) -> Record:
    """The record that ``text`` holds. Fields nobody knows are passed over and named in the layer's ``unknown``.

    Raises :class:`InputError` with the line for malformed text, a value of the wrong sort, a limit of N25 broken or a
    layer given twice; :class:`LimitError` for a text above 64 MiB.
    """
    layers: list[LayerRecord] = []
    caches: list[KvCacheRecord] = []
    prune: list[PruneRecord] = []
    fields = parse_text(text)
    for field in fields:
        if field.name == "record":
            _entry(field, layers, caches)
        elif field.name == "prune_record":
            inner = _message(field)
            groups = (_named(inner, name) for name in ("producer", "consumer", "selective_prune"))
            prune.append(PruneRecord(*(tuple(map(_prune_node, group)) for group in groups)))
    if fields and not (layers or caches or prune):
        raise InputError("no record inside", where="line 1", remedy="give the record.txt of a quantization tool")
    return Record(tuple(layers), tuple(caches), tuple(prune))


def _entry(field: Field, layers: list[LayerRecord], caches: list[KvCacheRecord]) -> None:
    """One ``record``: a key with a layer's value, a cache's value, or both."""
    inner = _message(field)
    keys = _named(inner, "key")
    if len(keys) != 1:
        raise InputError(f"a record with {len(keys)} keys", where=f"line {field.line}", remedy="give it one")
    name = _string(keys[0])
    try:
        layers.extend(_layer(name, _message(value)) for value in _named(inner, "value"))
        for value in _named(inner, "kv_cache_value"):
            cache = _message(value)
            offsets = tuple(map(_whole, _named(cache, "offset")))
            caches.append(KvCacheRecord(name, tuple(map(_real, _named(cache, "scale"))), offsets))
    except AmctcError as error:
        if error.where and not error.where.startswith("line"):
            error.where = f"line {field.line}: {error.where}"
        raise


def _layer(name: str, message: Message) -> LayerRecord:
    def last(field_name: str) -> Field | None:  # protobuf: the last of a field that does not repeat counts
        return next(reversed(_named(message, field_name)), None)

    scale_d, offset_d, skip = last("scale_d"), last("offset_d"), last("skip_fusion")
    types = {n: f for n in ("dst_type", "act_type", "wts_type") if (f := last(n)) is not None}
    return LayerRecord(
        name,
        scale_d=None if scale_d is None else _real(scale_d),
        offset_d=0 if offset_d is None else _whole(offset_d),
        scale_w=tuple(map(_real, _named(message, "scale_w"))),
        offset_w=tuple(map(_whole, _named(message, "offset_w"))),
        shift_bit=tuple(map(_whole, _named(message, "shift_bit"))),
        tensor_balance_factor=tuple(map(_real, _named(message, "tensor_balance_factor"))),
        skip_fusion=skip is not None and _truth(skip),
        unknown=tuple(dict.fromkeys(f.name for f in message if f.name not in _KNOWN)),
        **{n: _string(f) for n, f in types.items()},
    )


def _prune_node(field: Field) -> PruneNode:
    """``name`` and ``attr`` entries, whose values stand in fields called after their sort: i, ints, f, s, …"""
    inner = _message(field)
    attributes: list[tuple[str, tuple[int | float | str, ...]]] = []
    for attribute in _named(inner, "attr"):
        parts = _message(attribute)
        values = tuple(_SORTS[f.name](f) for f in parts if f.name in _SORTS)
        attributes.append(("".join(_string(f) for f in _named(parts, "name")), values))
    return PruneNode("".join(_string(f) for f in _named(inner, "name")), tuple(attributes))


def _named(message: Message, name: str) -> list[Field]:
    return [field for field in message if field.name == name]


def _message(field: Field) -> Message:
    if isinstance(field.value, Scalar):
        raise _wrong(field, "{ … }")
    return field.value


def _scalar(field: Field, quoted: bool, wanted: str) -> str:
    if not isinstance(field.value, Scalar) or field.value.quoted is not quoted:
        raise _wrong(field, wanted)
    return field.value.text


def _string(field: Field) -> str:
    """A string; an enum word is taken as one, some tools print types so."""
    if isinstance(field.value, Scalar) and not field.value.quoted:
        return field.value.text
    return _scalar(field, True, "a string")


def _real(field: Field) -> float:
    """A float32."""
    text = _scalar(field, False, "a number")
    try:
        with np.errstate(over="ignore"):
            return float(np.float32(float(text.rstrip("fF") if text.lower() not in ("inf", "-inf") else text)))
    except ValueError:
        raise _wrong(field, "a number") from None


def _whole(field: Field) -> int:
    text = _scalar(field, False, "a whole number")
    try:
        return int(text, 0) if len(text) <= 24 else int("")
    except ValueError:
        pass
    real = _real(field)
    if not real.is_integer():
        raise _wrong(field, "a whole number")
    return int(real)


def _truth(field: Field) -> bool:
    text = _scalar(field, False, "true or false")
    if text not in _TRUTH:
        raise _wrong(field, "true or false")
    return _TRUTH[text]


def _wrong(field: Field, wanted: str) -> InputError:
    found = repr(field.value.text) if isinstance(field.value, Scalar) else "a message"
    return InputError(f"{field.name} is {found}", where=f"line {field.line}", remedy=f"it must be {wanted}")


_SORTS: Mapping[str, Callable[[Field], int | float | str]] = {
    "i": _whole, "ints": _whole, "f": _real, "floats": _real, "s": _string, "strings": _string,
}  # fmt: skip
