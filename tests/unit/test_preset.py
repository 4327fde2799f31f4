"""Presets: pipelines in stages from installed names and TOML files, with options changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from amctc.errors import InputError, UsageError
from amctc.pipeline import Pass, Pipeline, Repeat
from amctc.preset import MAX_BYTES, load_preset, preset_names

STAGES = 'prepare = "drop-identity"\nquantize = "observe,place-qdq"\nlower = "legalize"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(f'description = "a test"\n{STAGES}')
    return path


def place_qdq(pipeline: Pipeline) -> Pass:
    (found,) = (p for p in pipeline.passes if isinstance(p, Pass) and p.name == "place-qdq")
    return found


def test_default_is_installed() -> None:
    assert "balanced" in preset_names()
    preset = load_preset("balanced")
    assert preset.name == "balanced"
    assert preset.description
    assert all(s.passes for s in preset.stages)


@pytest.mark.parametrize("name", preset_names())
def test_installed_presets_read_back(name: str) -> None:
    preset = load_preset(name)
    joined = Pipeline(tuple(p for stage in preset.stages for p in stage.passes))
    assert Pipeline.parse(str(preset)) == joined


def test_a_file(file: Path) -> None:
    preset = load_preset(str(file))
    assert (preset.name, preset.description) == ("mine", "a test")
    assert str(preset) == "drop-identity,observe,place-qdq,legalize"


def test_adopt_takes_the_place_of_the_first_two(tmp_path: Path, file: Path) -> None:
    assert str(load_preset(str(file)).adopting()) == "legalize"
    path = tmp_path / "adopts.toml"
    path.write_text(STAGES + 'adopt = "drop-identity,quantize-bias"\n')
    assert str(load_preset(str(path)).adopting()) == "drop-identity,quantize-bias,legalize"
    for name in preset_names():
        adopted = load_preset(name).adopting()
        assert "observe" not in str(adopted)
        assert "place-qdq" not in str(adopted)


def test_an_empty_stage(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text('prepare = ""\nquantize = "observe"\nlower = " "\n')
    preset = load_preset(str(path))
    assert str(preset) == "observe"
    assert preset.description == ""


def test_a_preset_extends_another(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "further.toml"
    path.write_text(f'extends = "{file}"\nquantize = "observe{{bins=512}}"\n')
    assert str(load_preset(str(path))) == "drop-identity,observe{bins=512},legalize"
    assert load_preset(str(path)).description == ""
    assert str(load_preset("weight-only").prepare) == str(load_preset("balanced").prepare)


def test_presets_that_extend_each_other(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(f'extends = "{second}"\n')
    second.write_text(f'extends = "{first}"\n')
    with pytest.raises(InputError, match="extends itself"):
        load_preset(str(first))
    first.write_text('extends = "balnced"\n')
    with pytest.raises(UsageError, match="unknown preset 'balnced'"):
        load_preset(str(first))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prepare = ", "not TOML"),
        ("\xff", "not TOML"),
        ('prepare = ""\nquantize = ""\n', "'lower' is missing or no text"),
        ('prepare = 3\nquantize = ""\nlower = ""\n', "'prepare' is missing or no text"),
        (STAGES + 'extra = ""\n', "unknown key 'extra'"),
        (STAGES + "adopt = 3\n", "'adopt' is missing or no text"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message) as caught:
        load_preset(str(path))
    assert caught.value.where == str(path)


def test_unknown_pass_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(STAGES.replace("legalize", "legalise"))
    with pytest.raises(UsageError, match=r"unknown pass 'legalise'.*did you mean legalize"):
        load_preset(str(path))


def test_too_large_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    path.write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(Exception, match="large") as caught:
        load_preset(str(path))
    assert type(caught.value).__module__ == "amctc.errors"
    with pytest.raises(InputError):
        load_preset(str(tmp_path / "nothing.toml"))


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown preset 'balnced'.*balanced"):
        load_preset("balnced")


def test_options_of_passes_are_changed(file: Path) -> None:
    preset = load_preset(str(file))
    changed = preset.with_options({"place-qdq": {"method": "min-max", "skip": ["conv*"], "percentile": 99}})
    assert str(changed.quantize) == "observe,place-qdq{method=min-max percentile=99.0 skip=[conv*]}"
    assert changed.prepare == preset.prepare
    assert str(preset.quantize) == "observe,place-qdq", "the preset itself stays"


def test_options_reach_into_repeat(tmp_path: Path) -> None:
    path = tmp_path / "again.toml"
    path.write_text(STAGES.replace("observe,place-qdq", "repeat(observe{bins=512})"))
    (repeat,) = load_preset(str(path)).with_options({"observe": {"bins": 1024}}).quantize.passes
    assert isinstance(repeat, Repeat)
    assert str(Pipeline((repeat,))) == "repeat(observe{bins=1024})"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to-ascend": {}}, "preset 'mine' does not run pass 'to-ascend'"),
        ({"place-qdq": {"bit": 4}}, "has no option 'bit'"),
        ({"place-qdq": {"name": "x"}}, "has no option 'name'"),
        ({"place-qdq": {"contract": None}}, "has no option 'contract'"),
        ({"place-qdq": {"bits": "many"}}, "option 'bits' of 'place-qdq' wants an integer, not many"),
        ({"place-qdq": {"bits": 5}}, "pass 'place-qdq': bits=5"),
    ],
)
def test_bad_options(file: Path, options: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_preset(str(file)).with_options(options)
    assert message in str(caught.value)


def test_option_names_take_both_spellings(file: Path) -> None:
    file.write_text(STAGES.replace("legalize", "quantize-weights"))
    preset = load_preset(str(file))
    for key in ("per-channel", "per_channel"):
        lower = preset.with_options({"quantize-weights": {key: False}}).lower
        assert str(lower) == "quantize-weights{per-channel=false}"
