"""Damaged, malicious and mistaken sample files end in one clear line, without hanging, unpickling or filling memory."""

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from amctc.calibrate import arrays, inputs, labels, tokens
from amctc.calibrate.labels import array_labels, file_labels
from amctc.calibrate.preprocess import PRESETS, Preprocess
from amctc.calibrate.samples import InputSpec, from_iterable, open_samples
from amctc.errors import AmctcError, InputError, LimitError, UsageError
from amctc.files import scratch

F4 = np.dtype(np.float32)
DATA = InputSpec("data", ("N", 4), F4)
IDS = InputSpec("ids", ("N", "T"), np.dtype(np.int64))
IMAGE = InputSpec("image", (None, 3, 8, 8), F4)


def refused(path, word, specs=(DATA,), error=InputError, **options):
    with pytest.raises(error) as seen:
        for _ in open_samples(path, specs, **options):
            pass
    line = str(seen.value)
    assert "\n" not in line
    assert word in line
    assert os.path.basename(str(path)) in line
    return line


class Trap:
    """Unpickling this would leave a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def header(shape, dtype="<f4"):
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


# ------------------------------------------------------------------------------------------------- array files


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickles_are_not_loaded(tmp_path, name):
    trap = np.array([Trap(tmp_path / "mark")], dtype=object)
    (np.save if name.endswith("npy") else np.savez)(
        tmp_path / name, **{"arr": trap} if name.endswith("npy") else {"data": trap}
    )
    assert "save plain arrays" in refused(tmp_path / name, "unpickled")
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    refused(tmp_path / name, "cannot be read")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("shape", [(10**12, 4), (10**6, 10**6, 10**6), (2**63, 2**63), (-1, 4), (5, 4)])
def test_headers_that_claim_more_than_there_is(tmp_path, shape):
    (tmp_path / "a.npy").write_bytes(header(shape) + bytes(64))
    zipped(tmp_path / "a.npz", [("data.npy", header(shape) + bytes(64))])
    for name in ("a.npy", "a.npz"):
        refused(tmp_path / name, "claims the shape")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65535,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"{",
        b"\x93NUMPY\x03\x00\x10\x00\x00\x00{}              ",
        b"\x93NUMPY\x09\x00",
        b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 16,
        b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10000,
        b"\x93NUMPY\x01\x00\x10\x27" + b"-" * 9999 + b"1",
        b"\x93NUMPY\x01\x00\x10\x00__import__('os')",
        b"\x93NUMPY\x01\x00\x80\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1.5,)}".ljust(128),
        b"\x93NUMPY\x01\x00\x80\x00" + b"{'descr': '<f4'}".ljust(128),
        b"\x93NUMPY\x01\x00\x80\x00" + b"{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,)}".ljust(128),
    ],
)
def test_damaged_headers(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    zipped(tmp_path / "a.npz", [("data.npy", data)])
    for name in ("a.npy", "a.npz"):
        refused(tmp_path / name, "cannot be read")


def test_a_long_header_in_a_zip_bomb_is_not_inflated(tmp_path):
    bomb = b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 28) + bytes(1 << 28)
    zipped(tmp_path / "a.npz", [("data.npy", bomb)])
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
    refused(tmp_path / "a.npz", "too long")


@pytest.mark.parametrize("keep", [0, 3, 10, 100, -1, -30])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_npz(tmp_path, keep, save):
    save(tmp_path / "a.npz", data=np.random.default_rng(0).random((64, 4), np.float32))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:keep])
    refused(tmp_path / "a.npz", "cannot be read")


def test_changed_bytes_are_found_by_the_end_of_the_pass(tmp_path):
    np.savez(tmp_path / "a.npz", data=np.ones((64, 4), np.float32))
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    at = whole.index(np.ones(4, np.float32).tobytes())
    whole[at] ^= 1
    (tmp_path / "a.npz").write_bytes(whole)
    refused(tmp_path / "a.npz", "cannot be read")


@given(st.integers(0, 2000), st.integers(0, 255), st.booleans())
def test_no_changed_byte_escapes_the_error_tree(tmp_path_factory, position, value, compressed):
    path = tmp_path_factory.getbasetemp() / "mutated.npz"
    (np.savez_compressed if compressed else np.savez)(
        path, data=np.linspace(0, 1, 256, dtype=np.float32).reshape(64, 4)
    )
    whole = bytearray(path.read_bytes())
    whole[position % len(whole)] = value
    path.write_bytes(whole)
    try:
        for _ in open_samples(path, [DATA]):
            pass
    except AmctcError as error:
        text = str(error)
    else:
        text = ""
    assert "\n" not in text


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ([("readme.txt", b"hi")], "is no array"),
        ([("data.npy", header((0, 4))), ("data.npy", header((0, 4)))], "there twice"),
        ([("data.npy", header((0, 4)))], "no samples"),
        ([("data.npy", header((), "<f4") + bytes(4))], "got []"),
        ([("data.npy", header((1, 4), "|S4") + bytes(16))], "values of type"),
        ([("data.npy", header((1, 4), [("a", "<f4")]) + bytes(16))], "values of type"),
        ([(f"a{k}.npy", header((1,)) + bytes(4)) for k in range(1001)], "more than 1000"),
        ([], "no array for input 'data'"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_odd_members(tmp_path, members, word):
    refused(zipped(tmp_path / "a.npz", members), word)


def test_encrypted_and_oddly_compressed_members(tmp_path):
    zipped(tmp_path / "a.npz", [("data.npy", header((1, 4)) + bytes(16))], zipfile.ZIP_LZMA)
    refused(tmp_path / "a.npz", "does not use")
    whole = bytearray(zipped(tmp_path / "b.npz", [("data.npy", header((1, 4)) + bytes(16))]).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(mark) + offset] |= 1
    (tmp_path / "b.npz").write_bytes(whole)
    refused(tmp_path / "b.npz", "cannot be read")


def test_large_fortran_arrays_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_COLUMN_MAJOR", 100)
    np.savez(tmp_path / "a.npz", data=np.zeros((64, 4), np.float32, order="F"))
    refused(tmp_path / "a.npz", "Fortran", error=LimitError)


def test_a_file_that_changes_between_passes(tmp_path):
    np.savez(tmp_path / "a.npz", data=np.zeros((8, 4), np.float32))
    samples = open_samples(tmp_path / "a.npz", [DATA])
    np.savez(tmp_path / "a.npz", data=np.zeros((4, 4), np.float32))
    with pytest.raises(InputError, match="changed"):
        list(samples)


def test_batches_have_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "MAX_BATCH_BYTES", 100)
    np.savez(tmp_path / "a.npz", data=np.zeros((64, 4), np.float32))
    refused(tmp_path / "a.npz", "a batch may take 100", error=LimitError)
    with pytest.raises(LimitError):
        list(from_iterable([np.zeros((4, 4), np.float32)] * 2, [DATA]))


def test_the_spool_has_a_bound(monkeypatch):
    monkeypatch.setattr(scratch, "MAX_BYTES", 100)
    with pytest.raises(LimitError, match="limit their number"):
        list(from_iterable((np.zeros((4, 4), np.float32) for _ in range(9)), [DATA]))


# ------------------------------------------------------------------------------------------- what does not fit


PAIR = (InputSpec("a", ("N", "T"), np.dtype(np.int32)), InputSpec("b", ("N", "T"), F4))
GOOD = {"a": np.zeros((3, 5), np.int64), "b": np.zeros((3, 5), np.float32)}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"b": None}, "no array for input 'b'"),
        ({"c": np.zeros(3)}, "arrays that are no input: 'c'"),
        ({"b": np.zeros((3, 5, 1), np.float32)}, "input 'b' wants [N,T], got [3,5,1]"),
        ({"b": np.zeros((3, 5), np.int64)}, "input 'b' wants float32, got int64"),
        ({"a": np.zeros((3, 5), np.float32)}, "input 'a' wants int32, got float32"),
        ({"a": np.zeros((3, 5), bool)}, "input 'a' wants int32, got bool"),
        ({"a": np.full((3, 5), 2**40)}, "input 'a' has a value outside int32 in sample 0"),
        ({"b": np.zeros((3, 6), np.float32)}, "dimension 'T' is 5 in input 'a' and 6 in input 'b'"),
        ({"b": np.zeros((4, 5), np.float32)}, "different numbers of samples: 'a' 3, 'b' 4"),
        ({"b": np.zeros((3, 0), np.float32), "a": np.zeros((3, 0), np.int64)}, "no samples"),
        ({"b": np.float32([[0] * 5, [0, 0, np.nan, 0, 0], [0] * 5])}, "input 'b' has NaN or infinity in sample 1"),
        ({"b": np.float32([[0] * 5, [0] * 5, [-np.inf] * 5])}, "sample 2"),
        ({"b": np.full((3, 5), 1e300)}, "too large for float32 in sample 0"),
        ({"b": np.zeros((3, 5), complex)}, "values of type"),
        ({"y": np.zeros(2, int)}, "2 labels for 3"),
        ({"y": np.zeros(3)}, "not a list of whole numbers"),
        ({"y": np.zeros((3, 10), int)}, "not a list of whole numbers"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, change, word):
    np.savez(tmp_path / "a.npz", **{k: v for k, v in (GOOD | change).items() if v is not None})
    refused(tmp_path / "a.npz", word, PAIR)


def test_the_sample_at_fault_is_counted_from_the_start_of_the_file(tmp_path):
    x = np.zeros((100, 4), np.float32)
    x[77, 2] = np.nan
    np.savez_compressed(tmp_path / "a.npz", data=x)
    samples = open_samples(tmp_path / "a.npz", [DATA], batch_size=7).limited(50, 90)
    with pytest.raises(InputError, match="sample 77"):
        list(samples)


def test_paths_that_are_no_samples(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    os.mkfifo(tmp_path / "fifo.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    (tmp_path / "dir.npz").mkdir()
    refused(tmp_path / "a.txt", "samples are")
    refused(tmp_path / "none.npz", "no such")
    refused(tmp_path / "none", "no such")
    refused(tmp_path / "fifo.npz", "a FIFO")
    refused(tmp_path / "zero.npz", "a device")
    refused(tmp_path / "dir.npz", "no images", [IMAGE], preprocess=PRESETS["raw"])


# ------------------------------------------------------------------------------------------------------- folders


def image_folder(path, names=("a.png", "b.png")):
    path.mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path / name)
    return path


def test_a_folder_needs_a_preprocessing(tmp_path):
    line = refused(image_folder(tmp_path / "d"), "needs a preprocessing", [IMAGE], UsageError)
    for name in PRESETS:
        assert name in line


def test_a_folder_without_images_or_for_two_inputs(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.gif").write_bytes(b"GIF89a")
    refused(tmp_path / "d", "no images", [IMAGE], preprocess=PRESETS["raw"])
    refused(tmp_path / "d", "feeds one input", PAIR, UsageError, preprocess=PRESETS["raw"])


def png_claiming(width, height):
    def chunk(kind, data):
        import zlib

        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"x\x9c") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8193, 8192), (10**5, 10**5), (1, 2**27)])
def test_decompression_bombs(tmp_path, size):
    image_folder(tmp_path)
    (tmp_path / "b.png").write_bytes(png_claiming(*size))
    with pytest.raises(LimitError, match="pixels") as error:
        list(open_samples(tmp_path, [IMAGE], preprocess=PRESETS["raw"]))
    assert "b.png" in str(error.value)


def make_eps(path):
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(b"not an image"),
        lambda p: p.write_bytes(p.read_bytes()[:60]),
        lambda p: p.write_bytes(p.read_bytes()[:-60]),
        lambda p: (Image.effect_noise((99, 99), 9).save(p, "JPEG"), p.write_bytes(p.read_bytes()[:2000])),
        lambda p: p.write_bytes(png_claiming(9, 9)),
        make_eps,
        lambda p: (p.unlink(), os.mkfifo(p)),
        lambda p: (p.unlink(), p.symlink_to("/dev/zero")),
        lambda p: (p.unlink(), p.mkdir()),
        lambda p: Image.fromarray(np.zeros((9, 9), np.uint16)).save(p),
    ],
)
def test_damaged_images_are_named(tmp_path, damage):
    damage(image_folder(tmp_path) / "b.png")
    with pytest.raises(InputError) as error:
        list(open_samples(tmp_path, [IMAGE], preprocess=PRESETS["raw"]))
    assert "b.png" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes_are_read_without_a_warning(tmp_path, mode):
    Image.new("RGBA", (9, 9), (250, 100, 50, 128)).convert(mode).save(tmp_path / "a.png", transparency=None)
    assert len(list(open_samples(tmp_path, [IMAGE], preprocess=PRESETS["raw"]))) == 1


def test_palettes_with_transparency_are_read_without_a_warning(tmp_path):
    image = Image.new("P", (9, 9))
    image.putpalette(range(48))
    image.save(tmp_path / "a.png", transparency=bytes(range(16)))
    assert len(list(open_samples(tmp_path, [IMAGE], preprocess=PRESETS["raw"]))) == 1


def test_a_crop_that_does_not_fit_names_the_image(tmp_path):
    image_folder(tmp_path)
    with pytest.raises(InputError, match=r"a\.png.*does not fit"):
        list(open_samples(tmp_path, [IMAGE], preprocess=Preprocess(crop=32)))


# -------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no column 'file'"),
        ("name,label\na.png,1\n", "no column 'file'"),
        ("file;label\na.png;1\n", "no column 'file'"),
        ("file,label\n", "no rows"),
        ("file,label\na.png\n", "line 2"),
        ("file,label\na.png,cat\n", "line 2"),
        ("file,label\na.png,-1\n", "line 2"),
        ("file,label\na.png,1\n\nb.png,1.0\n", "line 4"),
        ("file,label\na.png,99999999999\n", "line 2"),
        ("file,label\na.png,1\na.png,1\n", "second time"),
        ("file,label\n/etc/passwd,1\n", "not inside"),
        ("file,label\n../d/a.png,1\n", "not inside"),
        ("file,label\nmissing.png,1\n", "'missing.png' is not in"),
        ("file,label\n,1\n", "not inside"),
        ('file,label\n"a.png,1\n', "not CSV"),
        ("file,label\na.png,١\n", "line 2"),
    ],
)
def test_bad_label_files(tmp_path, text, word):
    folder = image_folder(tmp_path / "d")
    (tmp_path / "mine.csv").write_text(text, "utf-8")
    with pytest.raises(InputError) as error:
        open_samples(folder, [IMAGE], preprocess=PRESETS["raw"], labels=tmp_path / "mine.csv")
    assert word in str(error.value)
    assert "mine.csv" in str(error.value)


def test_label_files_that_are_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"file,label\n\xff,1\n")
    with pytest.raises(InputError, match="UTF-8"):
        file_labels(tmp_path / "a.csv")
    with pytest.raises(InputError, match="no such labels file"):
        file_labels(tmp_path / "b.csv")


@pytest.mark.parametrize(
    "text", ["3\n1\n2\n", "label\n3\n1\n2\n", "index,label\n1,1\n0,3\n2,2\n", "label,index\r\n3,0\r\n1,1\r\n2,2"]
)
def test_labels_of_arrays(tmp_path, text):
    (tmp_path / "l.csv").write_text(text)
    np.savez(tmp_path / "a.npz", data=np.zeros((3, 4), np.float32), y=[9, 9, 9])
    assert open_samples(tmp_path / "a.npz", [DATA], labels=tmp_path / "l.csv").labels.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no column 'label'"),
        ("1\n2\n", "2 labels for 3"),
        ("1\n2\n3\n4\n", "4 labels for 3"),
        ("1\nx\n3\n", "line 2"),
        ("index,label\n0,1\n0,2\n1,3\n", "labelled already"),
        ("index,label\n0,1\n1,2\n3,3\n", "not there"),
        ("file,label\na,1\n", "no column 'index'"),
        ("index,label\n0\n", "line 2"),
    ],
)
def test_bad_labels_of_arrays(tmp_path, text, word):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(InputError) as error:
        array_labels(tmp_path / "l.csv", 3)
    assert word in str(error.value)


# --------------------------------------------------------------------------------- small files that ask for much


def test_one_long_sequence_does_not_pad_all_others(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"[" + b"1," * (1 << 17) + b"1]\n" + b"[1]\n" * 1000)
    refused(tmp_path / "a.jsonl", "padded to 131073 numbers", specs=(IDS,), error=LimitError)


@pytest.mark.parametrize(("name", "bound", "data"), [
    ("MAX_LINE", 100, b"[" + b"1," * 99 + b"1]"), ("MAX_BYTES", 100, b"[1]\n" * 99),
])  # fmt: skip
def test_token_files_have_bounds(tmp_path, monkeypatch, name, bound, data):
    monkeypatch.setattr(tokens, name, bound)
    (tmp_path / "a.jsonl").write_bytes(data)
    refused(tmp_path / "a.jsonl", "100", specs=(IDS,), error=LimitError)


def test_labels_have_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "MAX_ROWS", 10)
    (tmp_path / "l.csv").write_bytes(b"label\n" + b"1\n" * 20)
    with pytest.raises(LimitError, match="more than 10 rows"):
        array_labels(tmp_path / "l.csv", 20)


def test_the_list_of_an_archive_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_DIRECTORY", 100)
    np.savez(tmp_path / "a.npz", **{f"a{i}": np.zeros(1) for i in range(9)})
    refused(tmp_path / "a.npz", "lists its arrays in more than 100 bytes")
