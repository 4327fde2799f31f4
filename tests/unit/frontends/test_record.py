"""Reading quantization records: the vendor's own, other spellings of the text format, limits, hostile text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amctc.errors import AmctcError, InputError, LimitError
from amctc.frontends import protobuf_text
from amctc.frontends.protobuf_text import Scalar, parse_text
from amctc.frontends.record import parse_record, read_record
from amctc.records import LayerRecord, PruneNode, Record, format_layers

GOLDEN = Path(__file__).resolve().parents[3].parent / "shared" / "golden"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden vectors are not here")


def records() -> list[str]:
    """The record texts of every end-to-end vector."""
    texts = []
    for path in sorted(GOLDEN.glob("e2e_*.npz")):
        with np.load(path) as file:
            texts += [str(file["out_record"])] if "out_record" in file.files else []
    return texts


def entry(value: str, key: str = '"conv1"') -> str:
    return f"record {{ key: {key} value {{ {value} }} }}"


@golden
def test_the_vendors_records_are_read_and_printed_as_they_were() -> None:
    texts = [(text, parse_record(text)) for text in records()]
    layered = [(text, record) for text, record in texts if record.layers]
    assert len(layered) >= 18
    for text, record in layered:
        assert format_layers(record.layers).strip() == text.strip()
        assert not any(layer.unknown for layer in record.layers)


@golden
def test_the_vendors_pruning_groups_and_masks_are_read() -> None:
    groups = [group for text in records() for group in parse_record(text).prune]
    channels = next(g for g in groups if g.producers)
    assert channels.producers[0]["type"] in (("Conv",), ("Gemm",), ("MatMul",))
    assert channels.producers[0]["end"] > channels.producers[0]["begin"]
    masks = next(g for g in groups if g.selective).selective[0]
    assert len(masks["selective_mask"]) * 64 == np.prod(masks["mask_shape"])


def test_every_spelling_of_the_text_format_gives_the_same_record() -> None:
    plain = parse_record(
        entry("scale_d: 0.5 offset_d: -3 scale_w: 0.25 scale_w: 2 offset_w: 0 offset_w: 0 skip_fusion: true")
    )
    other = parse_record(
        "# a comment\nrecord: <key: 'con' \"v\\061\"; value: {scale_d: 5e-1f, offset_d: -3.0, scale_w: [0.25, 2],\n"
        "offset_w: [0, 0], skip_fusion: True,};> ,"
    )
    assert plain == other
    wanted = LayerRecord("conv1", 0.5, -3, (0.25, 2.0), (0, 0), skip_fusion=True)
    assert plain == Record((wanted,))
    assert plain.layer("conv1") == wanted
    assert plain.layer("conv2") is None


def test_scales_are_float32_and_survive_printing() -> None:
    scales = tuple(map(float, np.random.default_rng(0).uniform(1e-9, 1e3, 200).astype(np.float32)))
    layer = LayerRecord('层"1"\n', scales[0], 7, scales, (0,) * 200, (), scales[:0], True, None, "INT8", "INT4")
    assert parse_record(format_layers([layer])).layers == (layer,)


def test_unknown_fields_are_passed_over_and_named() -> None:
    text = entry('scale_d: 1 cluster { x: [1, 2] y < z: "s" > } [amct.ext]: 3 future: -inf')
    (layer,) = parse_record(f"{text} other {{}}").layers
    assert layer.unknown == ("cluster", "[amct.ext]", "future")
    assert layer.scale_d == 1.0


def test_caches_and_pruning_are_read() -> None:
    text = """record { key: "k" kv_cache_value { scale: 0.5 scale: 1 offset: -128 offset: 127 } }
    prune_record { producer { name: "a" attr { name: "begin" type: INT i: 0 } attr { name: "f" floats: [0.5, 1] } }
                   consumer { name: "b" attr { name: "type" type: STRING s: "Conv" } } }"""
    record = parse_record(text)
    assert record.kv_caches[0].offset == (-128, 127)
    assert record.prune[0].producers == (PruneNode("a", (("begin", (0,)), ("f", (0.5, 1.0)))),)
    assert record.prune[0].consumers[0]["type"] == ("Conv",)
    assert record.prune[0].consumers[0]["absent"] == ()


@pytest.mark.parametrize(
    "value",
    [
        "scale_d: 0", "scale_d: -1", "scale_d: nan", "scale_d: inf", "scale_d: 1e-17", "scale_d: 5e15", "scale_d: 1e60",
        "offset_d: 128", "offset_d: -129", 'act_type: "INT16" offset_d: 32768', "scale_w: 1 offset_w: 1",
        "scale_w: 1 offset_w: 0 offset_w: 0", "shift_bit: 17", "shift_bit: 0 shift_bit: 3", "shift_bit: -1",
        "tensor_balance_factor: 1e-8", "tensor_balance_factor: 1e8",
    ],
)  # fmt: skip
def test_limits_are_enforced_with_line_and_layer(value: str) -> None:
    with pytest.raises(InputError, match=r"^line 2: record of 'conv1': .*\[N25\]"):
        parse_record("\n" + entry(value))


def test_int16_offsets_and_extreme_scales_are_allowed() -> None:
    (layer,) = parse_record(entry('act_type: "INT16" offset_d: -32768 scale_d: 2.2204460492503131e-16')).layers
    assert layer.offset_d == -32768
    parse_record(entry("shift_bit: [0, 0] scale_w: 4.5e15"))


@pytest.mark.parametrize(
    "text",
    [
        "record", "record {", "record { key: }", "record }", 'record { key: "a', "record { key: 'a\n' }", "record: 3",
        entry("scale_d: x"), entry('scale_d: "1"'), entry("offset_d: 1.5"), entry("offset_d: " + "9" * 5000),
        entry("scale_w: [1 2]"), entry("scale_w: [1"), entry("scale_d: { }"), entry("skip_fusion: 2"),
        "record { value { } }", 'record { key: "a" key: "b" }', "@", entry("") + entry(""), '{"record": 1}',
        "just words", 'record { key: "\\377" }', "a: 1",
    ],
)  # fmt: skip
def test_malformed_text_is_refused_with_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_record(text)
    assert "\n" not in str(caught.value)


def test_errors_of_a_file_name_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "record.txt"
    path.write_text(entry("scale_d: 0.5"))
    assert read_record(path).layers[0].scale_d == 0.5
    path.write_text("\n\nrecord: 3")
    with pytest.raises(InputError, match=r"^record\.txt: line 3: "):
        read_record(path)
    path.write_bytes(b"record { \xff }")
    with pytest.raises(InputError, match="UTF-8"):
        read_record(path)
    with pytest.raises(InputError, match="no such record"):
        read_record(tmp_path / "none.txt")


def test_text_is_bounded_in_size_values_and_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="deeper"):
        parse_text("a {" * 100_000)
    monkeypatch.setattr(protobuf_text, "FIELD_LIMIT", 1000)
    for text in ("a: 1 " * 1001, f"a: [{'1, ' * 1001}]"):
        with pytest.raises(LimitError):
            parse_text(text)
    monkeypatch.setattr(protobuf_text, "SIZE_LIMIT", 100)
    with pytest.raises(LimitError):
        parse_text(" " * 101)


def test_a_record_cut_anywhere_ends_in_one_line_or_reads() -> None:
    layer = LayerRecord("a\tb", 0.5, 1, (1.0,) * 4, (0,) * 4, act_type="INT8")
    text = format_layers([layer]) * 1 + format_layers([LayerRecord("c", 0.25)])
    for length in range(len(text)):
        try:
            parse_record(text[:length])
        except AmctcError as error:
            assert "line" in str(error)  # noqa: PT017 - both outcomes are right


def test_escapes_are_bytes_of_utf8() -> None:
    (field,) = parse_text(r"""a: '\346\227\245\x41\n\'' "\"\t" """)
    assert field.value == Scalar("日A\n'\"\t", quoted=True)
