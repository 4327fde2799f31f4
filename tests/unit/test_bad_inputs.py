"""A part of ``python -m tools.bad_inputs``: bad files end with a status of 2 to 5, one line, and nothing written."""

from __future__ import annotations

import itertools

import pytest

from tools import bad_bombs, bad_files, bad_inputs, bad_models, bad_samples, small_models
from tools.bad_inputs import Bad

STEP = 31
"""Every so many cases are tried here; ``make nightly`` tries all, and the bombs."""

CHEAP = (*bad_models._bytes(), *bad_models._structure(), *bad_bombs.external_places(), *bad_samples.cases(1),
         *bad_files.cases(1))  # fmt: skip


@pytest.mark.parametrize("first", range(2))
def test_bad_inputs_are_refused_by_the_contract(first: int) -> None:
    tried = list(bad_inputs.run(itertools.islice(CHEAP, first * 15, None, STEP)))
    assert len(tried) > 20
    assert [(o.bad.kind, o.bad.name, o.breaches, o.message) for o in tried if o.breaches] == []


def test_a_breach_is_seen() -> None:
    good = Bad("good", "a model that is fine", ("inspect", "m.onnx"), bad_models.files_of(small_models.old()))
    (outcome,) = bad_inputs.run([good])
    assert outcome.breaches == ("status 0",)
