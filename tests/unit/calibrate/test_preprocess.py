"""Presets, preprocess files and their arithmetic, bit for bit against the independent scorers."""

import contextlib
import importlib.util
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from amctc.calibrate.geometry import image_input
from amctc.calibrate.preprocess import PRESETS, Preprocess
from amctc.errors import AmctcError, InputError, LimitError, UnsupportedError, UsageError

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
FASHION = Preprocess(divisor=255.0, mean=(0.2860,), std=(0.3530,))


def scorer(name):
    path = SHARED / f"{name}.py"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    pytest.importorskip("onnxruntime")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(n=2, h=8, w=8, c=3, seed=0):
    shape = (n, h, w, c) if c else (n, h, w)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ------------------------------------------------------------------------------------------------- the formula


def test_the_presets_are_these_formulas():
    x = images()
    f = x.astype(np.float32)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    expected = {
        "imagenet": (f / 255 - mean) / std,
        "tf": f / 127.5 - 1,
        "unit": f / 255,
        "caffe": f[..., ::-1] - np.float32([104, 117, 123]),
        "raw": f,
    }
    assert expected.keys() == PRESETS.keys()
    for name, y in expected.items():
        found = PRESETS[name].apply(x, (None, 8, 8, 3), np.float32)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        assert found.tobytes() == np.ascontiguousarray(y).tobytes(), name
        assert np.array_equal(PRESETS[name].apply(x, ("N", 3, 8, 8), np.float32), y.transpose(0, 3, 1, 2))


@given(
    st.sampled_from([1.0, 127.5, 255.0]),
    st.lists(st.floats(-300, 300, width=32), min_size=3, max_size=3),
    st.lists(st.floats(0.0078125, 300, width=32), min_size=3, max_size=3),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_statistics_follow_the_formula_in_float32(divisor, mean, std, bgr, seed):
    p = Preprocess(divisor=divisor, mean=tuple(mean), std=tuple(std), channel_order="bgr" if bgr else "rgb")
    x = images(1, 2, 3, seed=seed)
    f = x.astype(np.float32)[..., ::-1] if bgr else x.astype(np.float32)
    expected = (f / np.float32(divisor) - np.float32(mean)) / np.float32(std)
    assert np.array_equal(p.apply(x, (1, 2, 3, 3), np.float32), expected)


@pytest.mark.parametrize("size", [224, 192, 96, 299])
def test_image_files_as_eval_imagenet_has_them(size):
    reference = scorer("eval_imagenet")
    names = sorted((SHARED / "imagenet").glob("*.jpg"))[:60:12]
    assert names
    wanted = image_input((None, 3, size, size))
    for name, path in itertools.product(PRESETS, names):
        pixels = np.asarray(PRESETS[name].frame(Image.open(path).convert("RGB"), (size, size)))[None]
        expected = reference.normalise(reference.load(path, size)[None], name, False).transpose(0, 3, 1, 2)
        found = PRESETS[name].to_input(pixels, wanted, np.dtype(np.float32))
        assert found.tobytes() == np.ascontiguousarray(expected).tobytes(), (name, path)


@pytest.mark.parametrize(("width", "height"), [(17, 9), (9, 17), (1, 1), (500, 333), (256, 256), (63, 1000)])
def test_odd_sizes_as_eval_imagenet_has_them(tmp_path, width, height):
    reference = scorer("eval_imagenet")
    Image.fromarray(images(1, height, width)[0]).save(tmp_path / "a.png")
    found = PRESETS["raw"].frame(Image.open(tmp_path / "a.png"), (32, 32))
    assert np.array_equal(np.asarray(found, np.float32), reference.load(tmp_path / "a.png", 32))


@pytest.mark.parametrize("shape", [[None, 1, 28, 28], [1, 28, 28, 1], ["N", "C", "H", "W"]])
@pytest.mark.parametrize(
    ("norm", "ours"), [("unit", "unit"), ("raw", "raw"), ("pm1", "tf"), ("fashion", FASHION)], ids=str
)
def test_grey_arrays_as_eval_extra_has_them(shape, norm, ours):
    reference = scorer("eval_extra")
    x = np.load(SHARED / "data" / "fashion_test.npz")["x"][:20]
    expected = reference.prepare(x, SimpleNamespace(shape=shape, type="tensor(float)"), norm)
    found = (PRESETS[ours] if isinstance(ours, str) else ours).apply(x, shape, np.float32)
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [[None, 3, 32, 32], [1, 32, 32, 3], ["N", "C", "H", "W"]])
@pytest.mark.parametrize("norm", ["imagenet", "unit", "raw"])
def test_colour_arrays_as_eval_extra_has_them(shape, norm):
    reference = scorer("eval_extra")
    x = np.load(SHARED / "data" / "cifar10_test_jpeg.npz")["x"][:20]
    expected = reference.prepare(x, SimpleNamespace(shape=shape, type="tensor(float)"), norm)
    assert PRESETS[norm].apply(x, shape, np.float32).tobytes() == expected.tobytes()


# --------------------------------------------------------------------------------------------- layout and size


@pytest.mark.parametrize(
    ("shape", "channels", "layout", "found"),
    [
        ((None, 3, 8, 8), 3, "auto", ("nchw", 3, 8, 8)),
        ((None, 8, 8, 3), 3, "auto", ("nhwc", 3, 8, 8)),
        ((None, 8, 8, 1), 1, "auto", ("nhwc", 1, 8, 8)),
        ((None, 1, 8, 8), None, "auto", ("nchw", 1, 8, 8)),
        ((None, None, None, None), None, "auto", ("nchw", 3, None, None)),
        ((None, None, None, None), 3, "nhwc", ("nhwc", 3, None, None)),
        ((1, 3, 8, 3), 3, "auto", ("nchw", 3, 8, 3)),
        ((1, 3, 8, 3), 3, "nhwc", ("nhwc", 3, 3, 8)),
        (("N", 28, 28), 1, "auto", ("nhw", 1, 28, 28)),
    ],
)
def test_layouts(shape, channels, layout, found):
    wanted = image_input(shape, layout, channels)
    assert (wanted.layout, wanted.channels, wanted.height, wanted.width) == found


def test_grey_images_for_an_input_without_channels():
    x = images(c=0)
    assert np.array_equal(PRESETS["raw"].apply(x, ("N", 8, 8), np.float32), x.astype(np.float32))


def test_types_of_the_model():
    x = images()
    assert PRESETS["raw"].apply(x, (1, 3, 8, 8), np.uint8).dtype == np.uint8
    assert PRESETS["unit"].apply(x, (1, 3, 8, 8), np.float16).dtype == np.float16
    for dtype in (np.int8, np.bool_):
        with pytest.raises(InputError, match="cannot hold"):
            PRESETS["raw"].apply(x, (1, 3, 8, 8), dtype)
    with pytest.raises(InputError, match="cannot hold"):
        PRESETS["imagenet"].apply(x, (1, 3, 8, 8), np.uint8)


def test_colour_statistics_on_grey_images_are_refused():
    for name in ("imagenet", "caffe"):
        with pytest.raises(InputError, match="3 values per pixel") as error:
            PRESETS[name].apply(images(c=0), (1, 1, 8, 8), np.float32)
        assert "unit" in str(error.value)


@pytest.mark.parametrize(
    ("x", "shape", "error"),
    [
        (images(), (1, 1, 8, 8), InputError),
        (images(c=0), (1, 3, 8, 8), InputError),
        (images(c=4), (1, 4, 8, 8), InputError),
        (images().transpose(0, 3, 1, 2), (1, 3, 8, 8), InputError),
        (images(), (1, 3, 8, 9), InputError),
        (images(), (1, 192), UnsupportedError),
        (images(), (1, 12, 8, 8), InputError),
    ],
)
def test_images_that_do_not_fit_are_refused(x, shape, error):
    with pytest.raises(error) as seen:
        PRESETS["unit"].apply(x, shape, np.float32)
    assert seen.value.remedy


def test_a_stated_size_resizes_arrays_and_only_then():
    x = images(h=12, w=16)
    assert PRESETS["unit"].apply(x, (None, 3, None, None), np.float32).shape == (2, 3, 12, 16)
    assert Preprocess(resize=8).apply(x, (None, 3, 8, 8), np.float32).shape == (2, 3, 8, 8)
    assert Preprocess(crop=(4, 6)).apply(x, (None, 3, None, None), np.float32).shape == (2, 3, 4, 6)
    assert Preprocess(resize=6).apply(x, (None, 3, None, None), np.float32).shape == (2, 3, 6, 8)
    assert Preprocess(crop="none").apply(x, (None, 8, 8, 3), np.float32).shape == (2, 8, 8, 3)
    assert Preprocess(resize=8).apply(images(c=0), (None, 1, 4, 4), np.float32).shape == (2, 1, 4, 4)
    cropped = Preprocess(crop=4).apply(x, (None, 3, 4, 4), np.float32)
    assert np.array_equal(cropped, x[:, 4:8, 6:10].transpose(0, 3, 1, 2).astype(np.float32))


def test_sizes_that_cannot_be():
    with pytest.raises(InputError, match="does not fit"):
        Preprocess(crop=64).frame(Image.new("RGB", (10, 10)), None)
    with pytest.raises(LimitError, match="pixels"):
        Preprocess(resize=16384).frame(Image.new("L", (1, 5000)), (8, 8))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 1))
def test_every_image_gets_the_size_wanted(width, height, tall, wide, fraction):
    for p in (
        Preprocess(crop_fraction=fraction),
        Preprocess(resize=40, crop_fraction=fraction),
        Preprocess(crop="none"),
    ):
        assert p.frame(Image.new("L", (width, height)), (tall, wide)).size == (wide, tall)


# ------------------------------------------------------------------------------------------------------- files


def parse(tmp_path, text, name="p.yaml"):
    (tmp_path / name).write_text(text, "utf-8")
    return Preprocess.parse(tmp_path / name)


def test_parse_presets_and_equivalent_files(tmp_path):
    assert Preprocess.parse("tf") is PRESETS["tf"]
    yaml = "mean: [0.485, 0.456, 0.406]\nstd: [0.229, 0.224, 0.225]\nname: imagenet\n"
    toml = 'mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\nname = "imagenet"\ndivisor = 255\n'
    assert parse(tmp_path, yaml) == PRESETS["imagenet"] == parse(tmp_path, toml, "q.TOML")
    caffe = parse(tmp_path, "mean: [104, 117, 123]\nchannel_order: bgr\nname: caffe", "c.yml")
    assert caffe == PRESETS["caffe"]


def test_every_key_of_a_file(tmp_path):
    text = (
        "resize: 256\ncrop: [224, 192]\ncrop_fraction: 0.9\ninterpolation: bicubic\ndivisor: 127.5\nmean: 1\nstd: 2\n"
        "channel_order: bgr\nlayout: nhwc\n"
    )
    found = parse(tmp_path, text, "mine.yaml")
    assert found.model_dump() == {
        "name": "mine",
        "resize": 256,
        "crop": (224, 192),
        "crop_fraction": 0.9,
        "interpolation": "bicubic",
        "divisor": 127.5,
        "mean": (1.0,),
        "std": (2.0,),
        "channel_order": "bgr",
        "layout": "nhwc",
    }
    assert hash(found) == hash(parse(tmp_path, text, "mine.yaml"))


@pytest.mark.parametrize(
    ("text", "divisor"),
    [
        ("mean: 0.5\nstd: 0.5", 255),
        ("mean: 127.5\nstd: 127.5", 1),
        ("mean: 0\nstd: 255", 1),
        ("mean: [104, 117, 123]", 1),
        ("divisor: 1", 1),
    ],
)
def test_the_divisor_follows_from_the_statistics(tmp_path, text, divisor):
    assert parse(tmp_path, text).divisor == divisor


@pytest.mark.parametrize("text", ["resize: 256", "mean: 0\nstd: 1", "mean: [0.485, 0.456, 0.406]", "{}"])
def test_an_open_scale_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="leave open") as error:
        parse(tmp_path, text)
    assert "divisor = 255" in str(error.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("meen: 1", "unknown key 'meen'"),
        ("crop: '224'", "crop:"),
        ("crop: [1, 2, 3]", "crop:"),
        ("resize: yes", "resize:"),
        ("resize: -1", "resize:"),
        ("resize: 1000000", "resize:"),
        ("divisor: 0.00392", "give 255, not 1/255"),
        ("mean: [1, 2]", "one per channel"),
        ("mean: [yes]", "mean:"),
        ("mean: .nan", "mean:"),
        ("mean: []", "mean:"),
        ("mean: [1, 2, 3, 4]", "mean:"),
        ("std: 0", "positive"),
        ("std: .inf", "std:"),
        ("layout: nwhc", "layout:"),
        ("channel_order: brg", "channel_order:"),
        ("interpolation: area", "interpolation:"),
        ("crop_fraction: 0", "crop_fraction:"),
        ("mean: " + "9" * 4000, "mean:"),
        ("mean: " + "9" * 4500, "line is longer"),
        ("- 1", "not a table"),
        ("", "not a table"),
        ("1: 2", "not a table"),
        ("a: [1", "line 2"),
        ("a: 1\na: 2", "given twice"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: !!python/object/apply:os.system [id]", "constructor"),
        ("a: \x01", "not YAML"),
        ("[" * 3000, "nested too deeply"),
        ("\n".join(f"{'? ' * 1}[{i}]\n: 1" for i in range(3)), "unhashable"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, text, word):
    with pytest.raises(InputError) as error:
        parse(tmp_path, text + ("\n" if text.startswith("a: [1") else ""))
    line = str(error.value)
    assert word in line
    assert "\n" not in line
    assert "p.yaml" in line


def test_the_billion_laughs(tmp_path):
    lines = ['a0: &a0 ["lol"]'] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(InputError, match="aliases"):
        parse(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("text", ["mean = ", "mean = 1\nmean = 2", "a = " + "[" * 4000, "\x00", "mean = 2020-99-99"])
def test_bad_toml_is_one_clear_line(tmp_path, text):
    with pytest.raises(InputError, match="TOML"):
        parse(tmp_path, text, "p.toml")


def test_files_that_are_not_text_or_too_large(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError):
        Preprocess.parse(tmp_path / "a.yaml")
    (tmp_path / "b.toml").write_bytes(b"#" * (1 << 17))
    with pytest.raises(LimitError):
        Preprocess.parse(tmp_path / "b.toml")
    with pytest.raises(InputError, match="no such preprocess file"):
        Preprocess.parse(tmp_path / "missing.yaml")


def test_unknown_names_get_the_nearest_and_all():
    with pytest.raises(UsageError) as error:
        Preprocess.parse("imagnet")
    assert "did you mean imagenet" in str(error.value)
    assert "caffe" in str(error.value)
    for text in ("", "zzz", "p.json", "a\0b"):
        with pytest.raises(UsageError):
            Preprocess.parse(text)


@given(st.text(max_size=60))
def test_no_file_content_escapes_the_error_tree(tmp_path_factory, text):
    for suffix in ("yaml", "toml"):
        path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
        path.write_text(text, "utf-8", errors="surrogatepass")
        with contextlib.suppress(AmctcError):
            Preprocess.parse(path)
