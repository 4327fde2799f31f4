"""Samples from folders, array files and Python: what comes out, in which order, and how often."""

import csv
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from amctc.calibrate import samples as module
from amctc.calibrate.preprocess import PRESETS, Preprocess
from amctc.calibrate.samples import InputSpec, from_iterable, open_samples
from amctc.errors import InputError, UnsupportedError, UsageError

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
FLOATS = InputSpec("data", ("N", 4), np.dtype(np.float32))
IMAGE = InputSpec("image", (None, 3, 8, 8), np.dtype(np.float32))
PAIR = (InputSpec("ids", ("N", "T"), np.dtype(np.int64)), InputSpec("mask", ("N", "T"), np.dtype(np.int64)))


def rows(n, *shape, dtype=np.float32):
    return np.arange(n * int(np.prod(shape)), dtype=dtype).reshape(n, *shape)


def joined(samples, name="data"):
    return np.concatenate([batch[name] for batch in samples])


def make_images(folder, names, size=(10, 9), seed=0):
    random = np.random.default_rng(seed)
    for name in names:
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / name)


def write_csv(path, *lines):
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def scorer(name):
    path = SHARED / f"{name}.py"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    pytest.importorskip("onnxruntime")
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


# ------------------------------------------------------------------------------------------------------ arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_input_name(tmp_path, save):
    x = rows(40, 4)
    save(tmp_path / "a.npz", data=x)
    samples = open_samples(tmp_path / "a.npz", [FLOATS])
    assert [len(batch["data"]) for batch in samples] == [16, 16, 8]
    assert len(samples) == 40
    assert samples.labels is None
    assert samples.dropped == 0
    assert "40 samples" in samples.source
    for _ in range(2):
        assert np.array_equal(joined(samples), x)


def test_npz_of_several_inputs_and_labels(tmp_path):
    ids, mask = rows(5, 7, dtype=np.int32), rows(5, 7, dtype=np.int64) % 2
    np.savez(tmp_path / "a.npz", mask=mask, ids=ids, y=np.arange(5, dtype=np.uint8))
    samples = open_samples(tmp_path / "a.npz", PAIR, batch_size=2)
    batches = list(samples)
    assert [batch.keys() for batch in batches] == [{"ids", "mask"}] * 3
    assert batches[0]["ids"].dtype == np.int64
    assert np.array_equal(joined(samples, "ids"), ids)
    assert np.array_equal(joined(samples, "mask"), mask)
    assert samples.labels.tolist() == [0, 1, 2, 3, 4]
    assert samples.labels.dtype == np.int64


def test_an_input_may_be_called_y(tmp_path):
    np.savez(tmp_path / "a.npz", y=rows(3, 4))
    samples = open_samples(tmp_path / "a.npz", [InputSpec("y", (None, 4), np.dtype(np.float32))])
    assert samples.labels is None
    assert len(samples) == 3


def test_npy_and_the_name_x(tmp_path):
    x = rows(5, 4).astype(np.float64)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", x=x)
    for name in ("a.npy", "a.npz"):
        found = joined(open_samples(tmp_path / name, [FLOATS]))
        assert found.dtype == np.float32
        assert np.array_equal(found, x)


@pytest.mark.parametrize("change", [np.asfortranarray, lambda x: x.astype(">f4"), lambda x: x.astype(np.float16)])
def test_other_storage_of_the_same_values(tmp_path, change):
    x = rows(20, 4)
    np.savez_compressed(tmp_path / "a.npz", data=change(x))
    np.save(tmp_path / "a.npy", change(x))
    for name in ("a.npz", "a.npy"):
        samples = open_samples(tmp_path / name, [FLOATS], batch_size=3)
        found = joined(samples.limited(7, 18))
        assert found.dtype == np.float32
        assert np.array_equal(found, x[7:18])


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 10), (4, [4, 4]), (10, [10]), ("N", [3, 3, 3, 1])])
def test_the_batch_the_model_takes(tmp_path, batch, sizes):
    np.savez(tmp_path / "a.npz", data=rows(10, 4), y=np.arange(10))
    spec = InputSpec("data", (batch, 4), np.dtype(np.float32))
    samples = open_samples(tmp_path / "a.npz", [spec], batch_size=3)
    assert [len(b["data"]) for b in samples] == sizes
    assert len(samples) == len(samples.labels) == sum(sizes)
    assert samples.dropped == 10 - sum(sizes)
    assert samples.batch_size == (batch if isinstance(batch, int) else 3)


@given(st.data())
def test_slices_are_those_of_the_array(data):
    n = data.draw(st.integers(1, 30))
    batch = data.draw(st.sampled_from([None, 1, 2, 3]))
    x, y = rows(n, 4), np.arange(n)
    spec = InputSpec("data", (batch, 4), np.dtype(np.float32))
    cuts = data.draw(st.lists(st.integers(1, n), max_size=4))
    parts = np.split(np.arange(n), sorted(set(cuts)))
    sources = [
        from_iterable({"data": x, "y": y}, [spec], batch_size=5),
        from_iterable(({"data": x[p], "y": y[p]} for p in parts if len(p)), [spec], batch_size=5),
    ]
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.none() | st.integers(start, n + 3))
    inner = data.draw(st.integers(0, 5))
    for whole in sources:
        samples = whole.limited(start, stop).limited(inner)
        kept = x[start:stop][inner:]
        kept = kept[: len(kept) - len(kept) % (batch or 1)]
        assert len(samples) == len(kept)
        assert samples.labels.tolist() == y[start:stop][inner:][: len(kept)].tolist()
        if len(kept):
            assert np.array_equal(joined(samples), kept)
            assert all(len(b["data"]) == (batch or 5) for b in list(samples)[:-1])
        else:
            with pytest.raises(InputError):
                next(iter(samples))


def test_limits(tmp_path):
    np.savez(tmp_path / "a.npz", data=rows(10, 4))
    assert len(open_samples(tmp_path / "a.npz", [FLOATS], limit=3)) == 3
    assert len(open_samples(tmp_path / "a.npz", [FLOATS], limit=99)) == 10
    for wrong in ({"limit": 0}, {"batch_size": 0}):
        with pytest.raises(UsageError):
            open_samples(tmp_path / "a.npz", [FLOATS], **wrong)
    with pytest.raises(UsageError):
        open_samples(tmp_path / "a.npz", [FLOATS]).limited(3, 2)
    with pytest.raises(InputError, match="8 at a time"):
        open_samples(tmp_path / "a.npz", [InputSpec("data", (8, 4), np.dtype("f4"))], limit=7)


def test_interleaved_passes_do_not_disturb_each_other(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", data=rows(10, 4))
    samples = open_samples(tmp_path / "a.npz", [FLOATS], batch_size=2)
    for a, b in zip(samples, samples.limited(0), strict=True):
        assert np.array_equal(a["data"], b["data"])


def test_memory_is_bounded_by_the_batch(tmp_path):
    import tracemalloc

    np.savez_compressed(tmp_path / "a.npz", data=np.zeros((4096, 64, 64), np.float32))  # 64 MiB
    spec = InputSpec("data", (None, 64, 64), np.dtype(np.float32))
    samples = open_samples(tmp_path / "a.npz", [spec], batch_size=16)
    tracemalloc.start()
    count = sum(len(batch["data"]) for batch in samples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4096
    assert peak < 4 << 20


# ---------------------------------------------------------------------------------------------- labelled images


def test_the_labelled_form(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(6))
    samples = open_samples(tmp_path / "a.npz", [IMAGE], preprocess=PRESETS["imagenet"])
    assert samples.labels.tolist() == list(range(6))
    assert np.array_equal(joined(samples, "image"), PRESETS["imagenet"].apply(x, IMAGE.shape, np.float32))
    with pytest.raises(UsageError, match="nothing says how to normalise") as error:
        open_samples(tmp_path / "a.npz", [IMAGE])
    assert "caffe" in str(error.value)


def test_floats_need_no_preprocessing_and_get_none(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3, 8, 8), np.float32))
    assert len(open_samples(tmp_path / "a.npz", [IMAGE])) == 2
    with pytest.raises(UsageError, match="leave out the preprocessing"):
        open_samples(tmp_path / "a.npz", [IMAGE], preprocess=PRESETS["unit"])


def test_a_model_that_takes_uint8_gets_it(tmp_path):
    x = rows(2, 8, 8, 3, dtype=np.uint8)
    np.save(tmp_path / "a.npy", x)
    spec = InputSpec("image", (None, 8, 8, 3), np.dtype(np.uint8))
    for preprocess in (None, PRESETS["raw"]):
        found = joined(open_samples(tmp_path / "a.npy", [spec], preprocess=preprocess), "image")
        assert found.dtype == np.uint8
        assert np.array_equal(found, x)


@pytest.mark.parametrize(
    ("file", "shape", "norm", "ours"),
    [
        ("mnist_test", (1, 1, 28, 28), "unit", PRESETS["unit"]),
        ("fashion_test", ("N", 1, 28, 28), "fashion", Preprocess(divisor=255.0, mean=(0.2860,), std=(0.3530,))),
        ("cifar10_test_jpeg", ("N", 3, 32, 32), "imagenet", PRESETS["imagenet"]),
    ],
)
def test_shared_arrays_as_eval_extra_has_them(file, shape, norm, ours):
    reference, path = scorer("eval_extra"), SHARED / "data" / f"{file}.npz"
    spec = InputSpec("in", shape, np.dtype(np.float32))
    samples = open_samples(path, [spec], preprocess=ours, batch_size=100, limit=300)
    raw = np.load(path)
    expected = reference.prepare(raw["x"][:300], SimpleNamespace(shape=list(shape), type="tensor(float)"), norm)
    assert joined(samples, "in").tobytes() == expected.tobytes()
    assert np.array_equal(samples.labels, raw["y"][:300])


def test_shared_image_folder_as_eval_imagenet_has_it():
    reference, folder = scorer("eval_imagenet"), SHARED / "imagenet"
    with open(folder / "labels.csv", newline="") as file:
        listed = [(row["file"], int(row["label"])) for row in csv.DictReader(file)][:20]
    for shape, size in ((("N", 3, 224, 224), 224), ((1, 160, 160, 3), 160), ((None, 3, None, None), 224)):
        spec = InputSpec("in", shape, np.dtype(np.float32))
        samples = open_samples(folder, [spec], preprocess=PRESETS["caffe"], limit=20)
        x = reference.normalise(np.stack([reference.load(folder / f, size) for f, _ in listed]), "caffe", True)
        expected = x if shape[-1] == 3 else x.transpose(0, 3, 1, 2)
        assert joined(samples, "in").tobytes() == np.ascontiguousarray(expected).tobytes()
        assert samples.labels.tolist() == [label for _, label in listed]


# ------------------------------------------------------------------------------------------------------ folders


def test_a_folder_in_the_order_of_names(tmp_path):
    make_images(tmp_path, ["b.png", "a.JPEG", "c.bmp", ".hidden.png"])
    (tmp_path / "notes.txt").write_text("x")
    samples = open_samples(tmp_path, [IMAGE], preprocess=PRESETS["raw"], batch_size=2)
    assert len(samples) == 3
    assert samples.labels is None
    found = joined(samples, "image")
    assert found.shape == (3, 3, 8, 8)
    for k, name in enumerate(["a.JPEG", "b.png", "c.bmp"]):
        image = PRESETS["raw"].frame(Image.open(tmp_path / name).convert("RGB"), (8, 8))
        assert np.array_equal(found[k], np.asarray(image, np.float32).transpose(2, 0, 1))


def test_labels_beside_and_elsewhere(tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    make_images(folder, ["a.png", "b.png", "sub/c.png"])
    write_csv(folder / "labels.csv", "file,label,name", "b.png,7,x", 'a.png, 3 ,"y, z"')
    samples = open_samples(folder, [IMAGE], preprocess=PRESETS["unit"])
    assert samples.labels.tolist() == [7, 3]
    other = write_csv(tmp_path / "mine.csv", "\ufefflabel,file", "1,sub/c.png")
    assert open_samples(folder, [IMAGE], preprocess=PRESETS["unit"], labels=other).labels.tolist() == [1]
    first = open_samples(folder, [IMAGE], preprocess=PRESETS["unit"], labels=other)
    assert joined(first, "image").shape == (1, 3, 8, 8)


def test_grey_models_get_grey_images(tmp_path):
    make_images(tmp_path, ["a.png"])
    spec = InputSpec("image", (1, 1, 8, 8), np.dtype(np.float32))
    assert joined(open_samples(tmp_path, [spec], preprocess=PRESETS["unit"]), "image").shape == (1, 1, 8, 8)
    with pytest.raises(InputError, match="values per pixel"):
        open_samples(tmp_path, [spec], preprocess=PRESETS["imagenet"])


def test_geometry_from_a_file_applies_to_folders(tmp_path):
    make_images(tmp_path, ["a.png"], size=(40, 30))
    spec = InputSpec("image", (None, 3, None, None), np.dtype(np.float16))
    found = joined(open_samples(tmp_path, [spec], preprocess=Preprocess(resize=20, crop=16)), "image")
    assert found.shape == (1, 3, 16, 16)
    assert found.dtype == np.float16
    resized = joined(open_samples(tmp_path, [spec], preprocess=Preprocess(resize=256)), "image")
    assert resized.shape == (1, 3, 224, 224)


def test_exif_orientation_is_not_applied(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    p = Preprocess(crop="none")
    assert np.array_equal(joined(open_samples(tmp_path, [IMAGE], preprocess=p), "image")[0], pixels.transpose(2, 0, 1))


# ------------------------------------------------------------------------------------------------- from_iterable


def test_generators_are_read_once_and_again(tmp_path):
    reads = []

    def batches():
        for k in range(5):
            reads.append(k)
            yield {"data": rows(3, 4) + k}

    samples = from_iterable(batches(), [FLOATS], batch_size=4)
    assert not reads
    first, second = list(samples), list(samples)
    assert reads == list(range(5))
    assert [len(b["data"]) for b in first] == [4, 4, 4, 3]
    assert all(np.array_equal(a["data"], b["data"]) for a, b in zip(first, second, strict=True))
    assert np.array_equal(joined(samples), np.concatenate([rows(3, 4) + k for k in range(5)]))


def test_an_endless_generator_with_a_limit():
    def endless():
        while True:
            yield rows(4, 4)

    samples = from_iterable(endless(), [FLOATS], limit=10, labels=range(1000))
    assert len(samples) == 10
    assert samples.labels.tolist() == list(range(10))


@pytest.mark.parametrize(
    "given_", [rows(5, 4), {"data": rows(5, 4)}, {"x": rows(5, 4).tolist()}, [rows(2, 4), rows(3, 4)]]
)
def test_forms_of_samples(given_):
    samples = from_iterable(given_, [FLOATS], labels=[1, 2, 3, 4, 5])
    assert len(samples) == 5
    assert samples.labels.tolist() == [1, 2, 3, 4, 5]
    assert samples.source
    for batch in samples:
        batch["data"][:] = 0  # the caller's arrays and later passes are not touched
    assert joined(samples).any()


def test_batches_of_different_lengths_stay_apart():
    batches = [
        {"ids": rows(n, t, dtype=np.int64), "mask": rows(n, t, dtype=np.int64)} for n, t in [(3, 5), (2, 5), (4, 7)]
    ]
    samples = from_iterable(batches, PAIR, batch_size=4)
    assert [b["ids"].shape for b in samples] == [(4, 5), (1, 5), (4, 7)]
    fixed = [InputSpec(spec.name, (2, "T"), spec.dtype) for spec in PAIR]
    with pytest.raises(InputError, match="different shapes"):
        list(from_iterable(batches, fixed))


def test_uint8_images_from_python():
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    expected = PRESETS["tf"].apply(x, IMAGE.shape, np.float32)
    for given_ in (x, [x[:1], x[1:]]):
        assert np.array_equal(joined(from_iterable(given_, [IMAGE], preprocess=PRESETS["tf"]), "image"), expected)


@pytest.mark.parametrize(
    ("given_", "word"),
    [
        ([], "no samples"),
        ([{"data": rows(2, 4), "z": rows(2, 4)}], "'z'"),
        ([{"other": rows(2, 4)}], "'data'"),
        ([(rows(2, 4), [1, 2])], "tuple"),
        ([[[1.0, 2.0], [1.0]]], "not made of arrays"),
        ([rows(2, 5)], "wants [N,4], got [2,5]"),
        ([rows(2, 4), rows(2, 4) * np.nan], "sample 2"),
        ([None], "got []"),
        ([{"data": rows(2, 4), "y": [1, 2]}, rows(2, 4)], "2 labels for 4"),
        ([{"data": rows(2, 4), "y": [1, 2, 3]}], "3 labels for 2"),
        ([{"data": rows(2, 4), "y": [0.5, 1]}], "whole numbers"),
        ([rows(0, 4)], "no samples"),
    ],
)
def test_bad_batches(given_, word):
    samples = from_iterable(given_, [FLOATS])
    for _ in range(2):  # a failed pass must not look like a short one afterwards
        with pytest.raises(InputError) as error:
            list(samples)
        assert word in str(error.value)


def test_errors_of_the_generator_itself_pass_and_stay():
    def broken():
        yield rows(2, 4)
        raise ZeroDivisionError

    samples = from_iterable(broken(), [FLOATS])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            len(samples)


def test_misuse_of_from_iterable():
    with pytest.raises(UsageError, match="open_samples"):
        from_iterable("a.npz", [FLOATS])
    with pytest.raises(InputError, match="3 labels for 5"):
        from_iterable(rows(5, 4), [FLOATS], labels=[1, 2, 3])
    with pytest.raises(InputError, match="7 labels for 5"):
        len(from_iterable([rows(5, 4)], [FLOATS], labels=range(7)))
    with pytest.raises(InputError, match="whole numbers"):
        from_iterable(rows(5, 4), [FLOATS], labels=[[0.5]])
    with pytest.raises(UsageError):
        from_iterable(rows(5, 4), [FLOATS], limit=0)


def test_models_that_take_no_such_samples():
    with pytest.raises(UnsupportedError, match="no inputs"):
        from_iterable([], [])


def test_the_public_names():
    assert set(module.__all__) >= {"InputSpec", "Samples", "open_samples", "from_iterable"}
