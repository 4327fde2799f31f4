"""Pipeline text: what it parses to, what prints, and where errors point."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import UsageError
from amctc.spec import MAX_NESTING, MAX_TEXT, Option, PassSpec, RepeatSpec, Spec, parse_specs, print_specs, print_value


def one(text: str) -> PassSpec:
    (spec,) = parse_specs(text)
    assert isinstance(spec, PassSpec)
    return spec


def value(text: str) -> Option:
    ((_, found),) = one(f"a{{x={text}}}").options
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("  ", ()),
        ("a", (PassSpec("a"),)),
        (" a ,\n b ", (PassSpec("a"), PassSpec("b"))),
        ("a,", (PassSpec("a"),)),
        ("a{}", (PassSpec("a"),)),
        ("a{x y=2}", (PassSpec("a", (("x", True), ("y", 2))),)),
        ("a{x, y=2,}", (PassSpec("a", (("x", True), ("y", 2))),)),
        ("a{per-channel=false}", (PassSpec("a", (("per-channel", False),)),)),
        ("repeat(a,b)", (RepeatSpec((PassSpec("a"), PassSpec("b"))),)),
        ("repeat()", (RepeatSpec(()),)),
        ("repeat(a,repeat(b)),c", (RepeatSpec((PassSpec("a"), RepeatSpec((PassSpec("b"),)))), PassSpec("c"))),
        ("repeat{x}", (PassSpec("repeat", (("x", True),)),)),
    ],
)
def test_parses(text: str, expected: tuple[Spec, ...]) -> None:
    assert parse_specs(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3), ("-3", -3), ("+3", 3), ("3.", 3.0), (".5", 0.5), ("-1e-3", -0.001), ("1E4", 10000.0),
        ("inf", math.inf), ("-inf", -math.inf), ("true", True), ("false", False), ("none", None),
        ("word", "word"), ("block*/conv?.1", "block*/conv?.1"), ('"two words"', "two words"), ('"3"', "3"),
        ('"\\u00e9\\n"', "é\n"), ("3x3", "3x3"), ("1.2.3", "1.2.3"), ("7*", "7*"), ("1:2", "1:2"), ("5@x", "5@x"),
        ("infinite", "infinite"), ("trueish", "trueish"), ("Größe", "Größe"),
        ("[]", ()), ("[1, two, [3]]", (1, "two", (3,))), ("[1 2]", (1, 2)), ("[1,]", (1,)),
    ],
)  # fmt: skip
def test_values(text: str, expected: Option) -> None:
    assert value(text) == expected
    assert type(value(text)) is type(expected)


def test_columns_are_remembered() -> None:
    text = "first, second{a=1 b=[2]}, repeat(third)"
    _, second, repeat = parse_specs(text)
    assert isinstance(second, PassSpec)
    assert isinstance(repeat, RepeatSpec)
    assert text[second.column :].startswith("second{")
    assert [text[c] for c in second.option_columns] == ["a", "b"]
    assert text[repeat.column :].startswith("repeat(")
    assert text[repeat.body[0].column :] == "third)"


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("a,,b", 3, "expected the name of a pass"),
        ("a b", 3, "expected ',' or the end"),
        (")", 1, "expected ',' or the end"),
        ("9a", 1, "expected the name of a pass"),
        ("a{", 3, "expected an option or '}'"),
        ("a{x=}", 5, "expected a value"),
        ("a{x=[1", 7, "expected a value"),
        ("a{=1}", 3, "expected an option"),
        ("a{x=1 y=2 x=3}", 11, "'x' is given twice"),
        ("repeat(a", 9, "expected ')'"),
        ("repeat(a{x=1)", 13, "expected an option or '}'"),
        ('a{x="open}', 5, "expected a value"),
        ('a{x="\\q"}', 5, "neither a JSON string"),
        ('a{x="a\nb"}', 5, "neither a JSON string"),
        ("a{x=" + "1" * 5000 + "}", 5, "nor a number of usual size"),
        ("a{x=" + "[" * (MAX_NESTING + 1), 5 + MAX_NESTING, "nested too deeply"),
        ("repeat(" * (MAX_NESTING + 1), 7 * (MAX_NESTING + 1) + 1, "nested too deeply"),
    ],
)
def test_errors_point_at_the_column(text: str, column: int, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_specs(text)
    assert message in str(caught.value)
    assert caught.value.where == f"pipeline column {column}"
    shown, caret = (caught.value.detail or "").split("\n")
    assert caret.strip() == "^"
    start = max(0, column - 1 - 60)
    assert shown == text[start : start + 120].replace("\n", " ")
    assert start + len(caret) == column


def test_very_long_text_is_refused() -> None:
    with pytest.raises(UsageError, match="too long"):
        parse_specs("a," * MAX_TEXT)


def test_deepest_nesting_is_read() -> None:
    text = "repeat(" * MAX_NESTING + "a" + ")" * MAX_NESTING
    assert print_specs(parse_specs(text)) == text
    assert value("[" * MAX_NESTING + "]" * MAX_NESTING) is not None


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_\-]{0,8}", fullmatch=True)
VALUES: st.SearchStrategy[Option] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.text("0123456789.+-eEinfa*?:/", max_size=6),
    lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6,
)  # fmt: skip
PASSES = st.builds(
    lambda name, options: PassSpec(name, tuple(options.items())), NAMES, st.dictionaries(NAMES, VALUES, max_size=3)
)
SPECS = st.recursive(
    PASSES, lambda inner: st.lists(inner, max_size=3).map(lambda body: RepeatSpec(tuple(body))), max_leaves=5
)


@given(st.lists(SPECS, max_size=4).map(tuple))
def test_text_round_trip(specs: tuple[Spec, ...]) -> None:
    text = print_specs(specs)
    back = parse_specs(text)
    assert back == specs
    assert print_specs(back) == text


@given(VALUES)
def test_value_round_trip_keeps_the_type(option: Option) -> None:
    back = value(print_value(option))
    assert back == option
    assert repr(back) == repr(option)  # 1, 1.0 and True are equal and not the same


@given(st.text(max_size=40) | st.text('ab{}[]()=," \\1.\n', max_size=40))
def test_any_text_parses_or_is_a_usage_error(text: str) -> None:
    try:
        specs = parse_specs(text)
    except UsageError as error:
        assert "^" in (error.detail or "")  # noqa: PT017
        return
    assert parse_specs(print_specs(specs)) == specs
