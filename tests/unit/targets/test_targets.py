"""Target profiles: the page's figures by hand, the data files, the choices, and what is refused."""

from __future__ import annotations

import copy
import pickle
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import amctc.targets
from amctc.errors import InputError, LimitError, UsageError
from amctc.targets import DEFAULT_TARGET, Profile, choice_values, load_profile, profile_names, read_profile

DATA = Path(amctc.targets.__file__).parent
MIB = 1024 * 1024

# name, isa, cube, vector, MHz, L2 MiB, f16 and int8 peak in tera-operations as the page prints them, 4:2, epilogue
PAGE = [
    ("ascend310", "v100", 2, 0, 680, 8, "11.1", "22.3", False, "f16_vector"),
    ("ascend310b1", "v300", 1, 1, 1224, 4, "10.0", "20.1", True, "fixpipe"),
    ("ascend310p1", "v200", 10, 8, 1060, 16, "86.8", "173.7", False, "vdeq_cast"),
    ("ascend310p3", "v200", 8, 7, 1060, 16, "69.5", "138.9", False, "vdeq_cast"),
    ("ascend910a", "v100", 32, None, 1000, 32, "262", "524", False, "f16_vector"),
    ("ascend910b1", "v220", 24, 48, 1850, 192, "364", "727", True, "fixpipe"),
]


def test_what_pays_and_what_is_offered() -> None:
    """Section Layers: two computed sides on A2 and 310B; weight-only on A2 and 310P; a scale per row on A2 (N13)."""
    profiles = [load_profile(name) for name in profile_names()]
    assert {p.name for p in profiles if p.batch_matmul_int8} == {"ascend310b1", "ascend910b1"}
    assert {p.name for p in profiles if p.weight_only} == {"ascend310p1", "ascend310p3", "ascend910b1"}
    assert {p.name for p in profiles if p.row_scales} == {"ascend910b1"}


def as_printed(peak: float | None, page: str) -> str:
    assert peak is not None
    return f"{peak / 1e12:.{1 if '.' in page else 0}f}"


@pytest.mark.parametrize("row", PAGE, ids=lambda row: row[0])
def test_figures_are_those_of_the_page(row: tuple[str, str, int, int | None, int, int, str, str, bool, str]) -> None:
    name, isa, cube, vector, mhz, l2, f16, i8, sparse, epilogue = row
    p = load_profile(name)
    assert (p.name, p.isa, p.cube_cores, p.vector_cores, p.frequency_mhz) == (name, isa, cube, vector, mhz)
    assert p.l2_bytes == l2 * MIB
    assert (p.sparsity_4_2, p.epilogue) == (sparse, epilogue)
    assert (as_printed(p.peak_flops_f16, f16), as_printed(p.peak_ops_i8, i8)) == (f16, i8)
    assert p.has_cost_figures


def test_peak_of_910b1_by_hand() -> None:
    # 24 cores × 4096 MAC × 2 operations × 1.85 GHz
    assert load_profile("ascend910b1").peak_flops_f16 == 363_724_800_000_000
    assert load_profile("ascend910b1").peak_ops_i8 == 727_449_600_000_000


@pytest.mark.parametrize(
    ("name", "bandwidth", "tag"),
    [
        ("ascend310", 51e9, "D"),
        ("ascend310b1", 20.8e9, "I"),
        ("ascend310p1", 204e9, "D"),
        ("ascend310p3", 204e9, "D"),
        ("ascend910a", 1.2e12, "D"),
        ("ascend910b1", 1.6e12, "D"),
    ],
)
def test_bandwidth(name: str, bandwidth: float, tag: str) -> None:
    assert (load_profile(name).ddr_bandwidth, load_profile(name).ddr_bandwidth_tag) == (bandwidth, tag)


def test_what_is_not_published_of_950_is_none() -> None:
    p = load_profile("ascend950")
    assert (p.isa, p.epilogue, p.sparsity_4_2, p.quant_mode) == ("arch35", "fixpipe", False, "fp32")
    assert p.peak_flops_f16 is p.peak_ops_i8 is p.ddr_bandwidth is p.cube_cores is p.l2_bytes is p.ub_bytes is None
    assert not p.has_cost_figures


def test_seven_chips_are_shipped() -> None:
    assert profile_names() == tuple(sorted([*(row[0] for row in PAGE), "ascend950"]))
    assert DEFAULT_TARGET in profile_names()


@pytest.mark.parametrize("name", profile_names())
def test_each_file_loads(name: str) -> None:
    p = load_profile(name)
    assert p.name == name == p.soc_version.lower()
    assert p == load_profile(p.soc_version)
    assert hash(p) == hash(load_profile(name))
    assert pickle.loads(pickle.dumps(p)) == p == copy.deepcopy(p)
    assert hash(pickle.loads(pickle.dumps(p))) == hash(p)
    blocks = {"f16": 16, "i8": 32, "i4": 64}
    assert p.c0 == {s: blocks[s] for s in p.storage}
    assert p.tile == {s: (16, blocks[s], 16) for s in p.storage}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("ascend310", "fp16"),
        ("ascend910a", "fp16"),
        ("ascend310p1", "fp16"),
        ("ascend310p3", "fp16"),
        ("ascend910b1", "fp32"),
        ("ascend950", "fp32"),
    ],
)
def test_quant_mode_is_that_of_the_page(name: str, mode: str) -> None:
    assert load_profile(name).quant_mode == mode


def test_int4_only_where_the_cube_lists_it() -> None:
    assert {n for n in profile_names() if "i4" in load_profile(n).storage} == {
        "ascend310b1",
        "ascend310p1",
        "ascend310p3",
        "ascend910b1",
    }


def test_defaults_are_those_of_the_page() -> None:
    p = load_profile("ascend910b1")
    assert {c.name: (c.value, c.tag, c.rule) for c in p.choices} == {
        "quant_mode": ("fp32", "I", "N2/N3"),
        "dynamic_quant": ("reciprocal", "C", "N6"),
        "accumulate_overflow": ("saturate", "D", "N7"),
        "dequant_multiplier": ("truncate", "C", "N12/N14"),
        "dequant_overflow": ("saturate", "I", "N12"),
        "shift_field": ("n", "I", "N16"),
        "requant": ("int9", "C", "N17"),
        "requant_leaky": ("slope", "I", "N17"),
        "weight_only_type": ("input", "I", "N21"),
        "index_single": ("2,1", "D", "N22"),
        "average_pool_int8": ("requant", "I", "N26"),
        "max_pool_int8": ("int8", "I", "N26"),
        "elementwise": ("f16", "I", "N26"),
        "float_island": ("f16", "I", "N26"),
        "island_overflow": ("inf", "I", "N26"),
        "w4a8_conv": ("unpack", "I", "N26"),
        "grouped_int4": ("weight_only", "I", "N26"),
        "int16_activation": ("simulate", "I", "N26"),
    }


def test_310p_marks_its_epilogue_as_inferred() -> None:
    p = load_profile("ascend310p3")
    assert {p.choice(n).tag for n in ("quant_mode", "dequant_multiplier", "requant", "dynamic_quant")} == {"I"}


def test_choices_follow_what_the_chip_has() -> None:
    names = {n: {c.name for c in load_profile(n).choices} for n in profile_names()}
    assert {n for n in names if "dequant_guard" in names[n]} == {"ascend310", "ascend910a"}
    assert {n for n in names if "dequant_multiplier" not in names[n]} == {"ascend310", "ascend910a"}
    assert {n for n in names if "index_single" in names[n]} == {"ascend310b1", "ascend910b1"}
    assert "w4a8_conv" not in names["ascend950"]


@pytest.mark.parametrize("name", profile_names())
def test_every_choice_is_documented_and_can_be_made_otherwise(name: str) -> None:
    p = load_profile(name)
    for c in p.choices:
        assert c.rule.startswith("N")
        assert c.tag in "CDI"
        assert c.text
        assert c.alternatives
        assert {c.value, *c.alternatives} == {*choice_values()[c.name]}
        for other in c.alternatives:
            q = p.replace_choice(c.name, other)
            assert q != p
            assert getattr(q, c.name) == q.choice(c.name).value == other
            assert q.choice(c.name).tag == c.tag
            assert q.replace_choice(c.name, c.value) == p


def test_replace_choice_refuses_what_does_not_exist() -> None:
    p = load_profile("ascend910b1")
    with pytest.raises(UsageError, match="did you mean dequant_overflow"):
        p.replace_choice("dequant_overflw", "inf")
    with pytest.raises(UsageError, match="allowed: saturate, inf"):
        p.replace_choice("dequant_overflow", "nan")
    with pytest.raises(UsageError, match="does not arise on ascend910b1"):
        p.replace_choice("dequant_guard", "direct")
    with pytest.raises(UsageError):
        p.replace_choice("name", "x")


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean ascend910b1"):
        load_profile("ascend910b")
    with pytest.raises(UsageError, match=r"targets: ascend310, .*ascend950"):
        load_profile("tpu")
    with pytest.raises(UsageError):
        load_profile("../targets/ascend310")


def written(folder: Path, old: str, new: str) -> Path:
    text = (DATA / "ascend910b1.toml").read_text("utf-8")
    assert old in text
    path = folder / "mine.toml"
    path.write_text(text.replace(old, new), "utf-8")
    return path


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    p = read_profile(written(tmp_path, 'name = "ascend910b1"', 'name = "mine"'))
    assert p.name == "mine"
    assert isinstance(p, Profile)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cube_cores = 24", "cube_coers = 24", r"unknown key 'cube_coers'; did you mean cube_cores"),
        ("cube_cores = 24", 'cube_cores = "24"', r"mine.toml: cube_cores: must be a whole number"),
        ("cube_cores = 24", "cube_cores = true", r"cube_cores: must be a whole number"),
        ("cube_cores = 24", "cube_cores = 0", r"cube_cores: must be a whole number above zero"),
        ("sparsity_4_2 = true", "sparsity_4_2 = 1", r"sparsity_4_2: must be true or false"),
        ("weight_only = true", "weight_only = 1", r"weight_only: must be true or false"),
        ('isa = "v220"', "", r"missing key 'isa'"),
        ('epilogue = "fixpipe"', 'epilogue = "fix"', r"epilogue: must be one of fixpipe, vdeq_cast, f16_vector"),
        ('["i8", "i4", "f16"]', '["i8", "i8"]', r"storage: must be a list of distinct types"),
        ('["i8", "i4", "f16"]', '[["i8"]]', r"storage: must be a list of distinct types"),
        ("i4 = 64\n", "", r"c0 must give exactly the types of storage"),
        ("i8 = [16, 32, 16]", "i8 = [16, 32]", r"tile: must be a table of \[M, K, N\]"),
        ("ddr_bandwidth = 1.6e12", "ddr_bandwidth = nan", r"ddr_bandwidth: must be a positive number"),
        ('ddr_bandwidth_tag = "D"', "", r"come together"),
        ('quant_mode = { value = "fp32", tag = "I" }', "", r"missing choice 'quant_mode'"),
        ('value = "fp32", tag = "I"', 'value = "fp64", tag = "I"', r"must be one of fp32, fp16"),
        ('value = "fp32", tag = "I"', 'value = "fp32", tag = "X"', r"must be one of C, D, I"),
        ('{ value = "fp32", tag = "I" }', '"fp32"', r"a choice is"),
        ("requant = {", "requnt = {", r"did you mean requant"),
        ("requant = {", 'dequant_guard = { value = "direct", tag = "I" }\nrequant = {', r"does not arise on the chip"),
        ("[choices]", "[choices", r"not TOML"),
    ],
)
def test_a_malformed_file_is_refused_with_its_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_profile(written(tmp_path, old, new))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such target profile"):
        read_profile(tmp_path / "none.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * (2 * MIB))
    with pytest.raises(LimitError, match="allowed"):
        read_profile(tmp_path / "big.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not TOML"):
        read_profile(tmp_path / "bytes.toml")


@pytest.mark.parametrize("path", sorted(DATA.glob("*.toml")), ids=lambda p: p.stem)
def test_every_bandwidth_has_its_source_beside_it(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    if "ddr_bandwidth" in tomllib.loads("\n".join(lines)):
        at = next(i for i, line in enumerate(lines) if line.startswith("ddr_bandwidth ="))
        assert lines[at - 1].startswith("#")


@pytest.mark.parametrize("table", ["c0", "tile", "tags"])
@pytest.mark.parametrize("made", [lambda p: p, copy.deepcopy, lambda p: p.replace_choice("quant_mode", "fp16")])
def test_a_shared_profile_cannot_be_changed(table: str, made: Callable[[Profile], Profile]) -> None:
    """Every caller gets the same one, so no caller may change it, nor a copy that was pickled or replaced."""
    assert load_profile(DEFAULT_TARGET) is load_profile("Ascend910B1")
    entries: Any = getattr(made(load_profile(DEFAULT_TARGET)), table)
    with pytest.raises(TypeError, match="does not support item assignment"):
        entries["i8"] = 1


def test_a_profile_of_a_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    text = (DATA / f"{DEFAULT_TARGET}.toml").read_text()
    found = []
    for name in ("one", "two"):
        path.write_text(text.replace(f'name = "{DEFAULT_TARGET}"', f'name = "{name}"'))
        found.append(read_profile(path).name)
    assert found == ["one", "two"]
