"""A part of ``python -m tools.bad_inputs``: bad files end with a status of 2 to 5, one line, and nothing written."""

from __future__ import annotations

import itertools

import pytest

from tools import small_models
from tools.bad_inputs import __main__ as bad_inputs
from tools.bad_inputs import bombs, files, models, samples
from tools.bad_inputs.__main__ import Bad

STEP = 31
"""Every so many cases are tried here; ``make nightly`` tries all, and the bombs."""

CHEAP = (*models._bytes(), *models._structure(), *bombs.external_places(), *samples.cases(1),
         *files.cases(1))  # fmt: skip


@pytest.mark.parametrize("first", range(2))
def test_bad_inputs_are_refused_by_the_contract(first: int) -> None:
    tried = list(bad_inputs.run(itertools.islice(CHEAP, first * 15, None, STEP)))
    assert len(tried) > 20
    assert [(o.bad.kind, o.bad.name, o.breaches, o.message) for o in tried if o.breaches] == []


def test_a_breach_is_seen() -> None:
    good = Bad("good", "a model that is fine", ("inspect", "m.onnx"), models.files_of(small_models.old()))
    (outcome,) = bad_inputs.run([good])
    assert outcome.breaches == ("status 0",)
