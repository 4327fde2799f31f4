"""Everything that reads untrusted bytes, on damaged ones: an error of ours or none. ``tools.fuzz`` takes longer."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amctc.errors import AmctcError
from tools.fuzz import targets
from tools.fuzz.targets import TARGETS


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    place = tmp_path_factory.mktemp("fuzz")
    (place / "weights.bin").write_bytes(targets.small_models.EXTERNAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "folder", lambda: place)
        yield


def problem(name: str, data: bytes) -> str:
    """What is wrong with the error that bytes end in; an error of another kind goes through."""
    try:
        TARGETS[name].run(data)
    except AmctcError as error:
        return str(error) if error.exit_status == 1 or not str(error).isprintable() else ""
    return ""


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=settings.default.max_examples // 10)
@given(rng=st.randoms(use_true_random=False), steps=st.integers(1, 4))
def test_damaged_bytes_end_in_an_error_of_ours(name: str, rng: Random, steps: int) -> None:
    target = TARGETS[name]
    data = rng.choice(target.seeds())
    for _ in range(steps):
        data = target.damage(data, rng)
    assert not problem(name, data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_good(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].run(seed)


GRAPH = 'graph "g"(%x: tensor<2x2xf32>) -> ("y" = %1) {{\n  {}\n}}\n'


@pytest.mark.parametrize("op", [
    '%1 = nn.unsqueeze(%x) {axes = [0.5]} : tensor<1x2x2xf32>',
    '%1 = nn.unsqueeze(%x) {axes = ["a"]} : tensor<1x2x2xf32>',
    '%1 = const {data = 5, elem = 6} : tensor<f32>',
    '%1 = nn.transpose(%x) {perm = [' + "9" * 5000 + ', 0]} : tensor<2x2xf32>',
    '%1 = onnx.node(%x) {op_type = "If", domain = "", version = 17, proto = bytes<"0xff">, operand_types = [], '
    'result_types = []} : tensor<f32>',
])  # fmt: skip
def test_graph_texts_that_fuzzing_found(op: str) -> None:
    with pytest.raises(AmctcError):
        TARGETS["graph-text"].run(GRAPH.format(op).encode())


@pytest.mark.parametrize("name", ["profile", "preset", "preprocess-toml"])
def test_toml_that_fuzzing_found(name: str) -> None:
    for text in ("a = " + "9" * 5000, "a = " + "[" * 5000, ".".join("a" * 5000) + " = 1"):
        with pytest.raises(AmctcError, match="TOML"):
            TARGETS[name].run(text.encode())


def test_a_report_that_names_a_model_by_a_long_name() -> None:
    TARGETS["report"].run(b'{"model": "%s"}' % (b"n" * 5000))
