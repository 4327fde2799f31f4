"""The report on a terminal: it fits, it says what matters, and names from models cannot play tricks."""

from __future__ import annotations

import dataclasses
import io
import math

import pytest
from rich.cells import cell_len

from amctc.report.model import ChoiceReport, CompressionReport, Evaluation, LayerReport, VariantResult
from amctc.report.table import MIN_NAME, Column, fitted, print_table, shortened
from amctc.report.terminal import make_console, print_evaluations, print_report, print_variants, quantized_text
from amctc.report.units import bytes_text, count_text, db_text, macs_text, ratio_text, share_text, time_text

LAYER = LayerReport(
    name="/block1/depthwise/conv/Conv", op_type="conv", action="int8", notes=(), fused=(), bytes_before=2560,
    bytes_after=1344, macs=36864, sqnr_db=36.426, steps_max=2, steps_share=0.02491, edge="requant", time_us=0.006,
)  # fmt: skip
KEPT = dataclasses.replace(
    LAYER, name="head", action="float", notes=("left in float: skipped on request",), sqnr_db=math.inf, steps_max=None,
    steps_share=None, edge="float",
)  # fmt: skip
REPORT = CompressionReport(
    model="m.onnx", target="ascend910b1", pipeline="observe", preprocess=None, samples=32, layers=(LAYER, KEPT),
    float_ops=("add (sum)",), bytes_before=132_901, bytes_after=46_810, output_sqnr_db=37.31, agreement=0.96875,
    overflows=(("head", 3),),
    time_us=0.091, float_time_us=0.113, passes=(("fold-batch-norm", (("fold_batch_norm", 11),)), ("observe", ())),
    choices=(ChoiceReport("quant_mode", "fp32", "I", "N2/N3"), ChoiceReport("overflow", "saturate", "D", "N7")),
    notes=("pool: something else",), atc='atc --model=model_deploy.onnx --input_shape="image:1,1,8,8"' + " x" * 100,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_width(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)


def printed(report, width=None, monkeypatch=None):
    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    print_report(report, make_console(stream))
    return stream.getvalue()


def test_everything_is_said_at_120_columns():
    text = printed(REPORT)
    for part in (
        "/block1/depthwise/conv/Conv", "2 layers, 1 in int8", "2.5 KiB", "1.3 KiB", "36.9 k", "73.7 k", "36.4", "∞",
        "2 (2.49 %)", "requant", "129.8 KiB → 45.7 KiB (35 %)", "37.3 dB", "96.88 % of 32 samples", "0.091 µs",
        "0.113 µs", "73.7 kMACs", "head: 3 accumulators", "fold_batch_norm 11", "pool: something else", "add (sum)",
    ):  # fmt: skip
        assert part in text, part
    assert "\x1b" not in text


def test_layers_left_in_float_say_why_once():
    assert "  head: skipped on request\n" in printed(REPORT)


def test_a_reason_that_many_share_is_said_once():
    many = tuple(dataclasses.replace(KEPT, name=f"conv{i}", notes=("left in float: a convolution",)) for i in range(6))
    text = printed(dataclasses.replace(REPORT, layers=(KEPT, *many)))
    assert "  head: skipped on request\n" in text
    assert "  conv0, conv1, conv2, conv3 and 2 more: a convolution\n" in text
    few = printed(dataclasses.replace(REPORT, layers=many[:4]))
    assert "  conv3: a convolution\n" in few
    weights = dataclasses.replace(LAYER, action="weight-only")
    assert "3 layers, 2 quantized" in printed(dataclasses.replace(REPORT, layers=(LAYER, weights, KEPT)))


def test_weights_of_fewer_bits_are_counted():
    int4, wide = dataclasses.replace(LAYER, weight_bits=4), dataclasses.replace(LAYER, weight_bits=8)
    text = printed(dataclasses.replace(REPORT, layers=(int4, wide, int4, KEPT)))
    assert "4 layers, 3 in int8, 2 with int4 weights" in text
    assert text.count("int8, w4") == 2
    assert quantized_text((int4, wide, KEPT), of=" of 3 layers") == "2 of 3 layers in int8, 1 with int4 weights"
    alone = dataclasses.replace(int4, action="weight-only")
    assert quantized_text((alone, KEPT)) == "1 quantized, 1 with int4 weights"


def test_notes_that_many_share_are_said_once():
    notes = tuple(f"gru{i}: left as it came: GRU is a carried op" for i in range(6))
    text = printed(dataclasses.replace(REPORT, notes=("pool: something else", *notes)))
    assert "  pool: something else\n" in text
    assert "  gru0, gru1, gru2, gru3 and 2 more: left as it came: GRU is a carried op\n" in text


def test_many_ops_between_the_layers_are_counted_by_kind():
    ops = tuple(f"{kind} ({kind}_{i})" for kind in ("add", "mul") for i in range(15))
    text = printed(dataclasses.replace(REPORT, float_ops=(*ops, "If (gate (left))")))
    assert "  add 15, mul 15, If 1 (by name in report.json)\n" in text
    assert "add_0" not in text
    assert "add (add_0), add (add_1)" in printed(dataclasses.replace(REPORT, float_ops=ops[:24]))


def test_no_share_of_samples_without_scores():
    text = printed(dataclasses.replace(REPORT, agreement=None))
    assert "  output  SQNR 37.3 dB against the float model\n" in text


def test_choices_are_a_list_of_footnotes():
    lines = printed(REPORT).splitlines()
    assert "  [I] quant_mode = fp32 (N2/N3)" in lines
    assert "  [D] overflow = saturate (N7)" in lines


def test_the_command_for_the_converter_comes_last_in_one_line():
    assert printed(REPORT).splitlines()[-1] == f"  {REPORT.atc}"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_nothing_is_wider_than_the_terminal(width, monkeypatch):
    long = dataclasses.replace(LAYER, name="/model" * 30)
    lines = printed(dataclasses.replace(REPORT, layers=(LAYER, long)), width, monkeypatch).splitlines()
    assert max(cell_len(line) for line in lines[:-1]) <= width
    assert all(line == line.rstrip() for line in lines[:6])


def test_narrow_terminals_lose_the_least_important_columns(monkeypatch):
    header = printed(REPORT, 80, monkeypatch).splitlines()[0]
    assert all(title in header for title in ("layer", "runs in", "stored", "MACs", "SQNR dB", "est. time"))
    assert "steps off" not in header
    assert "Steps off" not in printed(REPORT, 80, monkeypatch)
    assert "steps off" in printed(REPORT, 120, monkeypatch)


def test_names_cannot_play_tricks():
    evil = dataclasses.replace(LAYER, name="[red]x[/red]\x1b[31m\r\n:smile:")
    text = printed(dataclasses.replace(REPORT, layers=(evil,), notes=("[bold]\x07",), atc="[link=x]\x1b"))
    assert "[red]x[/red]" in text
    assert ":smile:" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_unknown_numbers_are_dashes_or_absent():
    bare = dataclasses.replace(LAYER, macs=None, sqnr_db=None, time_us=None, steps_max=None)
    text = printed(dataclasses.replace(
        REPORT, layers=(bare,), time_us=None, float_time_us=None, output_sqnr_db=None, agreement=None, samples=0,
        choices=(), overflows=(), notes=(), float_ops=(), passes=(), atc="",
    ))  # fmt: skip
    assert "est. time" not in text
    assert "no time estimate for ascend910b1" in text
    for heading in ("Rewrites", "Arithmetic", "Notes", "int32", "float16", "compile"):
        assert heading not in text


def test_a_model_without_layers():
    assert "file" in printed(dataclasses.replace(REPORT, layers=()))


def test_a_terminal_gets_colours(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    print_report(REPORT, make_console(stream))
    assert "\x1b[32mint8" in stream.getvalue()


def test_evaluations_leave_out_empty_columns():
    stream = io.StringIO()
    rows = [("float", Evaluation(600, 1.0, None, None, None)), ("int8", Evaluation(600, 0.998333, None, 0.5, 33.14))]
    print_evaluations(rows, make_console(stream))
    assert stream.getvalue().splitlines()[0].split() == ["model", "samples", "top-1", "agreement", "SQNR", "dB"]
    assert stream.getvalue().splitlines()[3].split() == ["int8", "600", "99.83", "%", "50.00", "%", "33.1"]


def test_columns_shorten_before_they_vanish():
    columns = [Column("name", ["a" * 100], shorten=True), Column("kind", ["b" * 10], rank=1)]
    assert [c.title for c in fitted(columns, 40)] == ["name", "kind"]
    assert fitted(columns, 40)[0].width == 28
    assert [c.title for c in fitted(columns, 20)] == ["name"]
    assert fitted(columns, 5)[0].width == MIN_NAME


def test_wrapped_cells_stay_whole():
    stream = io.StringIO()
    words = " ".join(f"word{i}" for i in range(40))
    print_table([Column("a", ["x"]), Column("b", [words], wrap=True)], make_console(stream))
    assert " ".join(stream.getvalue().split()).endswith(words)
    assert max(map(len, stream.getvalue().splitlines())) <= 120


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("abcdef", 6, "abcdef"), ("abcdefgh", 5, "ab…gh"), ("abcdefgh", 6, "abc…gh"), ("日本語日本語", 7, "日…語")],
)
def test_shortened(text, width, expected):
    assert shortened(text, width) == expected
    assert cell_len(shortened(text, width)) <= width


@pytest.mark.parametrize(
    ("call", "value", "expected"),
    [
        (bytes_text, 0, "0 B"), (bytes_text, 1023, "1023 B"), (bytes_text, 1536, "1.5 KiB"),
        (bytes_text, 1024**2 - 1, "1.0 MiB"), (bytes_text, 5 * 1024**3, "5.0 GiB"), (bytes_text, None, "–"),
        (count_text, 999, "999"), (count_text, 999_960, "1.0 M"), (count_text, 18432, "18.4 k"),
        (count_text, None, "–"), (macs_text, 1_500_000, "1.5 MMACs"), (macs_text, 12, "12 MACs"),
        (macs_text, None, "–"),
        (db_text, 37.31, "37.3"), (db_text, math.inf, "∞"), (db_text, -math.inf, "-∞"), (db_text, None, "–"),
        (share_text, 1.0, "100.00 %"), (share_text, 0.999999, ">99.99 %"), (share_text, 1e-9, "<0.01 %"),
        (share_text, 0.0, "0.00 %"), (share_text, None, "–"), (time_text, 0.091, "0.091 µs"),
        (time_text, 0.0, "0.000 µs"),
        (time_text, 12.345, "12.3 µs"), (time_text, 123.4, "123 µs"), (time_text, 12345.0, "12.3 ms"),
        (time_text, 2e6, "2.00 s"), (time_text, None, "–"),
    ],
)  # fmt: skip
def test_units(call, value, expected):
    assert call(value) == expected


def test_ratio():
    assert ratio_text(200, 50) == "25 %"
    assert ratio_text(0, 50) == ""


def variants(*rows):
    stream = io.StringIO()
    print_variants(rows, make_console(stream))
    return stream.getvalue()


def test_variants_side_by_side():
    text = variants(
        VariantResult("quant_mode", "fp16", "fp32", "I", "N2/N3", True, 0.5, 1.0, 0.9999999, 31.25),
        VariantResult("w4a8_conv", "weight_only", "unpack", "I", "N26", False),
    )
    row = next(line for line in text.splitlines() if line.startswith("quant_mode")).split()
    assert row == ["quant_mode", "[I]", "N2/N3", "fp32", "fp16", "50.00", "%", "100.00", "%", ">99.99", "%", "31.2"]
    assert "Not simulated: w4a8_conv = weight_only." in text
    assert "agreement" not in variants(VariantResult("a", "b", "c", "D", "N1", True, 1.0, 1.0))
    assert variants() == "This run depends on no arithmetic that is uncertain.\n"
