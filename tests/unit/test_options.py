"""Pass options: from values of a pipeline text to dataclass fields, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from amctc.options import converted, describe_options, expected, option_values


@dataclass(frozen=True)
class Sample:
    count: int = 1
    ratio: float = 0.5
    flag: bool = False
    word: str = ""
    method: Literal["mse", "min-max"] = "mse"
    bits: Literal[4, 8] = 8
    names: tuple[str, ...] = ()
    limit: int | None = None
    both: float | str = 0.0


@dataclass(frozen=True)
class Needy:
    must_have: int


@pytest.mark.parametrize(
    ("field", "value", "result"),
    [
        ("count", 3, 3),
        ("ratio", 3, 3.0), ("ratio", 0.25, 0.25),
        ("flag", True, True),
        ("word", "x", "x"), ("word", 3, "3"), ("word", 0.5, "0.5"),
        ("method", "min-max", "min-max"), ("bits", 4, 4),
        ("names", (), ()), ("names", ("a", "b"), ("a", "b")), ("names", "a", ("a",)), ("names", (1,), ("1",)),
        ("limit", None, None), ("limit", 2, 2),
        ("both", 2, 2.0), ("both", "x", "x"),
    ],
)  # fmt: skip
def test_converts(field: str, value: Any, result: Any) -> None:
    found = converted(Sample, field, value)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", 1.0, "wants an integer, not 1.0"),
        ("count", True, "wants an integer, not true"),
        ("count", "many", "wants an integer, not many"),
        ("ratio", True, "wants a number, not true"),
        ("ratio", "half", "wants a number, not half"),
        ("flag", 1, "wants true or false, not 1"),
        ("word", True, "wants a word, not true"),
        ("word", None, "wants a word, not none"),
        ("method", "max", "wants mse or min-max, not max"),
        ("bits", 5, "wants 4 or 8, not 5"),
        ("names", (("a",),), "wants a word, not [a]"),
        ("limit", "x", "wants an integer or none, not x"),
    ],
)
def test_refuses(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        converted(Sample, field, value)
    assert str(caught.value) == message


def test_only_what_differs_is_printed() -> None:
    assert option_values(Sample()) == ()
    assert option_values(Sample(count=2, names=("a",))) == (("count", 2), ("names", ("a",)))
    assert option_values(Needy(0)) == (("must-have", 0),)


def test_description_lists_everything() -> None:
    text = describe_options(Sample)
    assert "count (an integer, default 1)" in text
    assert "method (mse or min-max, default mse)" in text
    assert "names (a list of words, default [])" in text
    assert "limit (an integer or none, default none)" in text
    assert describe_options(Needy) == "options: must-have (an integer)"


def test_unknown_hints_are_named() -> None:
    assert expected(bytes) == "<class 'bytes'>"
