"""Damage done to files on purpose: to messages of ONNX models by their structure, to texts by tokens, to bytes.

Every function takes a ``random.Random``, so a seed tells what was done and Hypothesis can shrink it.
"""

from __future__ import annotations

import io
import random
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import onnx

INTEGERS = (0, 1, -1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 999, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, -(1 << 31),
            1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, -(1 << 63))  # fmt: skip
"""Sizes, codes and versions at the edges of what programs take."""

FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 3.4e38, float("inf"), float("-inf"), float("nan"))
STRINGS = ("", "x", "\x1b[31mred\x1b[0m", "two\nlines", "../../etc/passwd", "/etc/passwd", "\N{OGHAM SPACE MARK}é",
           "\u202e\u2066", "%s{}\\", "n" * 5000, "ai.onnx", "Relu", "If", "Constant", "NOTSET", "-1", "0",
           "18446744073709551616", "*/_ORT_MEM_ADDR_/*")  # fmt: skip
"""Names with control characters, of great length, of other things, and numbers as text."""

_TOKEN = re.compile(rb"[A-Za-z_]+|[-+]?[0-9.]+|\s+|.", re.DOTALL)

Message = Any
"""A protobuf message: the classes are made at run time."""


def damaged_model(model: onnx.ModelProto, rng: random.Random, times: int = 1) -> onnx.ModelProto:
    """A copy of ``model`` with ``times`` fields changed, added, dropped, doubled or swapped."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(times):
        _damage_message(copy, rng)
    return copy


def _messages(root: Message) -> Iterator[Message]:
    stack = [root]
    while stack:
        message = stack.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                stack.extend(value if _repeated(field) else [value])


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _damage_message(root: Message, rng: random.Random) -> None:
    messages = list(_messages(root))
    message = rng.choice(messages)
    present = [field for field, _ in message.ListFields()]
    field = rng.choice(present if present and rng.random() < 0.8 else message.DESCRIPTOR.fields)
    if rng.random() < 0.1:
        message.ClearField(field.name)
    elif _repeated(field):
        _damage_list(getattr(message, field.name), field, messages, rng)
    elif field.message_type is not None:
        _graft(getattr(message, field.name), messages, rng)
    else:
        setattr(message, field.name, _scalar(field, getattr(message, field.name), messages, rng))


def _damage_list(values: Any, field: Any, messages: Sequence[Message], rng: random.Random) -> None:
    """Drop, double, move or change one entry."""
    action = rng.choice(("drop", "double", "swap", "change", "add"))
    at = rng.randrange(len(values)) if values else None
    if field.message_type is not None:
        if action in ("drop", "swap") and at is not None:
            moved = type(values[at])()
            moved.CopyFrom(values[at])
            del values[at]
            if action == "swap":
                values.insert(rng.randrange(len(values) + 1), moved)
        elif action == "double" and at is not None:
            values.add().CopyFrom(values[at])
        else:
            _graft(values.add() if at is None or action == "add" else values[at], messages, rng)
        return
    entries = list(values)
    if action == "drop" and at is not None:
        del entries[at]
    elif action == "double" and at is not None:
        entries.insert(at, entries[at])
    elif action == "swap" and at is not None:
        other = rng.randrange(len(entries))
        entries[at], entries[other] = entries[other], entries[at]
    elif action == "change" and at is not None:
        entries[at] = _scalar(field, entries[at], messages, rng)
    else:
        entries.append(_scalar(field, _zero(field), messages, rng))
    del values[:]
    values.extend(entries)


def _graft(target: Message, messages: Sequence[Message], rng: random.Random) -> None:
    """Make ``target`` a copy of another message of its type in the model; an empty one where there is none."""
    others = [m for m in messages if type(m) is type(target) and m is not target]
    copy = type(target)()
    if others and rng.random() < 0.8:
        copy.CopyFrom(rng.choice(others))
    target.CopyFrom(copy)


def _zero(field: Any) -> Any:
    return {field.TYPE_BYTES: b"", field.TYPE_STRING: "", field.TYPE_FLOAT: 0.0, field.TYPE_DOUBLE: 0.0}.get(
        field.type, 0
    )


def _scalar(field: Any, old: Any, messages: Sequence[Message], rng: random.Random) -> Any:
    if field.enum_type is not None:
        return rng.choice([v.number for v in field.enum_type.values])
    if field.type == field.TYPE_BYTES:
        return damaged_bytes(old, rng)
    if field.type == field.TYPE_STRING:  # read back as bytes where it is no UTF-8
        return rng.choice([rng.choice(STRINGS), rng.choice(_names(messages) or ["x"])])
    if isinstance(old, float):
        return rng.choice(FLOATS)
    value = rng.choice([*INTEGERS, old + 1, old - 1, -old])
    narrow = field.type in (field.TYPE_INT32, field.TYPE_SINT32)
    low, high = (-(1 << 31), (1 << 31) - 1) if narrow else (-(1 << 63), (1 << 63) - 1)
    if field.type in (field.TYPE_UINT64, field.TYPE_UINT32):
        low, high = 0, (1 << 32) - 1
    return min(max(value, low), high)


def _names(messages: Sequence[Message]) -> list[str]:
    return [str(n) for m in messages if isinstance(m, onnx.NodeProto) for n in (*m.input, *m.output, m.op_type)]


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Cut off, doubled, with bits flipped, with bytes set, dropped or put in."""
    action = rng.choice(("cut", "double", "flip", "set", "drop", "insert", "edges"))
    if not data or action == "insert":
        at = rng.randrange(len(data) + 1)
        return data[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9))) + data[at:]
    at = rng.randrange(len(data))
    if action == "cut":
        return data[:at]
    if action == "double":
        return data + data[at:]
    if action == "drop":
        return data[:at] + data[at + rng.randrange(1, 9) :]
    if action == "edges":
        word = rng.choice(INTEGERS).to_bytes(8, "little", signed=True)[: rng.choice((1, 2, 4, 8))]
        return data[:at] + word + data[at + len(word) :]
    new = data[at] ^ (1 << rng.randrange(8)) if action == "flip" else rng.randrange(256)
    return data[:at] + bytes([new]) + data[at + 1 :]


def damaged_text(data: bytes, rng: random.Random) -> bytes:
    """A text with one token dropped, doubled, moved or replaced by one of the text's own or an odd one."""
    tokens = _TOKEN.findall(data)
    if not tokens:
        return rng.choice(STRINGS).encode()
    at = rng.randrange(len(tokens))
    action = rng.choice(("drop", "double", "swap", "own", "odd", "repeat"))
    if action == "drop":
        del tokens[at]
    elif action == "double":
        tokens.insert(at, tokens[at])
    elif action == "swap":
        other = rng.randrange(len(tokens))
        tokens[at], tokens[other] = tokens[other], tokens[at]
    elif action == "own":
        tokens[at] = rng.choice(tokens)
    elif action == "repeat":
        tokens[at] *= rng.choice((10, 100, 5000))
    else:
        odd = (*STRINGS, *map(str, INTEGERS), *map(str, FLOATS), "0x", "1e999", "9" * 5000, "null", "true", "none")
        tokens[at] = rng.choice(odd).encode()
    return b"".join(tokens)


def damaged_archive(data: bytes, rng: random.Random) -> bytes:
    """A zip archive one of whose members is damaged, or dropped or there twice, or compressed in another way."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    compression = [zipfile.ZIP_STORED] * len(members)
    at = rng.randrange(len(members))
    name, content = members[at]
    action = rng.choice(("head", "content", "name", "drop", "double", "method"))
    if action == "head":
        members[at] = (name, damaged_text(content[:128], rng) + content[128:])
    elif action == "content":
        members[at] = (name, damaged_bytes(content, rng))
    elif action == "name":
        members[at] = (rng.choice(STRINGS) or "y.npy", content)
    elif action == "drop":
        del members[at], compression[at]
    elif action == "double":
        members.append(rng.choice(members))
        compression.append(zipfile.ZIP_DEFLATED)
    else:
        compression[at] = rng.choice(methods)
    return zipped(members, compression)


def zipped(members: Sequence[tuple[str, bytes]], compression: Sequence[int] | None = None) -> bytes:
    """An archive of members ``(name, content)``, which may have one name."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")  # zipfile's remark on a name that is there twice
        for index, (name, content) in enumerate(members):
            info = zipfile.ZipInfo(name or "empty")
            info.compress_type = compression[index] if compression else zipfile.ZIP_STORED
            archive.writestr(info, content)
    return buffer.getvalue()
