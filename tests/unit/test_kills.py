"""A part of ``python -m tools.kills``: writers are killed, and fail, at every step, and race; nothing is ever torn."""

from __future__ import annotations

import random
from pathlib import Path

from tools.kills import __main__ as kills


def test_no_output_is_torn(tmp_path: Path) -> None:
    tally = kills.run(tmp_path, rounds=2, rng=random.Random(1), cases=("pair",))
    assert tally.problems == []
    assert tally.kills >= 30
    assert tally.failures >= 60


def test_torn_files_and_mixed_sets_are_seen(tmp_path: Path) -> None:
    versions = [{"a": b"old", "b": b"old"}, {"a": b"new", "b": b"new"}]
    case = kills.Case("case", tmp_path / "out", (lambda: None, lambda: None), versions)
    case.prepare()
    assert not case.problem()
    (case.out / "a").write_bytes(b"new")
    assert case.problem() == "files of two versions"
    (case.out / "b").unlink()
    assert not case.problem()
    (case.out / "a").write_bytes(b"ne")
    assert case.problem() == "a is torn"
