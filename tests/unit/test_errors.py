"""Errors read as one safe line and carry their exit status."""

from __future__ import annotations

import pytest

from amctc.errors import (
    MAX_MESSAGE,
    AmctcError,
    InputError,
    LimitError,
    TypeConstraintError,
    UnsupportedError,
    UsageError,
    VerificationError,
    printable,
)


def test_all_parts_in_one_line() -> None:
    error = InputError("a scale of 0", where="conv1", rule="T2", remedy="calibrate again", detail="two\nlines")
    assert str(error) == "conv1: a scale of 0 [T2]; calibrate again"
    assert error.detail == "two\nlines"


def test_what_alone() -> None:
    assert str(UsageError("unknown pass 'x'")) == "unknown pass 'x'"


def test_control_characters_do_not_reach_the_terminal() -> None:
    error = InputError("bad\nname \x1b[31mred", where="conv\x07")
    assert (
        str(error) == "conv\N{REPLACEMENT CHARACTER}: bad\N{REPLACEMENT CHARACTER}name \N{REPLACEMENT CHARACTER}[31mred"
    )


def test_lone_surrogates_are_replaced() -> None:
    assert printable("a\udc80b") == "a\N{REPLACEMENT CHARACTER}b"


def test_accents_and_ideographs_stay() -> None:
    assert printable("卷积层 é") == "卷积层 é"


def test_truncation() -> None:
    assert printable("abcdef", 4) == "abc…"
    assert printable("abcd", 4) == "abcd"
    message = str(InputError("w" * 2000, where="p" * 500))
    assert len(message) == MAX_MESSAGE
    assert message.startswith("p" * 119 + "…: www")
    assert message.endswith("w…")


def test_located_fills_only_an_empty_place() -> None:
    error = InputError("x")
    assert error.located("conv1") is error
    assert str(error.located("conv2")) == "conv1: x"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (AmctcError, 1), (UsageError, 2), (InputError, 3), (TypeConstraintError, 3), (VerificationError, 3),
        (UnsupportedError, 4), (LimitError, 5),
    ],
)  # fmt: skip
def test_exit_statuses(kind: type[AmctcError], status: int) -> None:
    assert kind.exit_status == status
