"""Reading refuses what is not a plain bounded file, and names that lead out of a folder."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.errors import InputError, LimitError
from amctc.files import contained_path, open_contained, open_regular, read_bytes


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


# ------------------------------------------------------------------------------------------------- read_bytes


def test_read_bytes_of_a_file_and_of_a_link_the_user_names(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    (tmp_path / "b").symlink_to("a")
    assert read_bytes(tmp_path / "a", limit=5, kind="model") == b"hello"
    assert read_bytes(str(tmp_path / "b"), limit=5, kind="model") == b"hello"


def test_read_bytes_over_the_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    with pytest.raises(LimitError) as error:
        read_bytes(tmp_path / "a", limit=4, kind="model")
    assert "model holds 5 bytes" in one_line(error)
    assert error.value.exit_status == 5


def test_a_sparse_file_of_a_terabyte_is_refused_before_reading(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LimitError):
        read_bytes(tmp_path / "a", limit=1 << 20, kind="model")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_a_file_that_states_no_size_is_read_whole_and_bounded():
    assert b"Name:" in read_bytes("/proc/self/status", limit=1 << 16, kind="file")
    with pytest.raises(LimitError):
        read_bytes("/proc/self/status", limit=10, kind="file")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda p: p.mkdir(), "a folder"),
        (os.mkfifo, "a FIFO"),
        (lambda p: p.symlink_to("/dev/zero"), "a device"),
        (lambda p: None, "no such model"),
        (lambda p: p.symlink_to("nowhere"), "no such model"),
        (lambda p: p.symlink_to(p.name), "cannot be read"),
    ],
)
def test_what_is_no_plain_file_is_refused_without_hanging(tmp_path, make, word):
    make(tmp_path / "a")
    with pytest.raises(InputError) as error:
        read_bytes(tmp_path / "a", limit=1 << 20, kind="model")
    assert word in one_line(error)
    assert error.value.remedy


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "file/below"])
def test_impossible_names_are_input_errors(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError):
        read_bytes(f"{tmp_path}/{name}", limit=10, kind="model")


def test_a_fifo_put_in_place_after_the_first_check_does_not_hang(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x")
    plain = os.stat(tmp_path / "a")
    (tmp_path / "a").unlink()
    os.mkfifo(tmp_path / "a")
    monkeypatch.setattr(os, "stat", lambda *a, **k: plain)
    with pytest.raises(InputError, match="FIFO"):
        read_bytes(tmp_path / "a", limit=10, kind="model")


def test_open_regular_is_seekable_and_closed_afterwards(tmp_path):
    (tmp_path / "a").write_bytes(b"0123")
    with open_regular(tmp_path / "a", limit=4) as file:
        file.seek(2)
        assert file.read() == b"23"
    assert file.closed


# ---------------------------------------------------------------------------------------------- contained_path


def test_contained_path_accepts_plain_files_in_and_below_the_folder(tmp_path):
    (tmp_path / "m" / "sub").mkdir(parents=True)
    (tmp_path / "m" / "sub" / "w.bin").write_bytes(b"w")
    (tmp_path / "link").symlink_to("m")
    assert contained_path(tmp_path / "m", "./sub/w.bin", kind="weights") == tmp_path / "m" / "sub" / "w.bin"
    with open_contained(tmp_path / "link", "sub//w.bin") as file:  # the folder itself is the user's to name
        assert file.read() == b"w"


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "../secret", "sub/../../secret", "a/..", "..", "w\0"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    (tmp_path / "m").mkdir()
    (tmp_path / "secret").write_text("s")
    with pytest.raises(InputError) as error:
        contained_path(tmp_path / "m", name, kind="weights")
    assert "inside the folder" in one_line(error)


def hostile(folder):
    (folder / "m").mkdir()
    (folder / "out").mkdir()
    (folder / "out" / "secret").write_text("s")
    (folder / "m" / "direct").symlink_to("../out/secret")
    (folder / "m" / "parent").symlink_to("../out")
    (folder / "m" / "inner").symlink_to("plain")
    (folder / "m" / "plain").write_text("p")
    os.link(folder / "out" / "secret", folder / "m" / "hard")
    os.mkfifo(folder / "m" / "fifo")
    (folder / "m" / "dir").mkdir()
    return folder / "m"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("direct", "symbolic link"),
        ("parent/secret", "symbolic link"),
        ("inner", "symbolic link"),
        ("hard", "hard links"),
        ("fifo", "FIFO"),
        ("dir", "a folder"),
        ("missing", "no such"),
        ("plain/x", "cannot be read"),
    ],
)
def test_links_and_odd_files_in_the_folder_are_refused(tmp_path, name, word):
    with pytest.raises(InputError) as error:
        contained_path(hostile(tmp_path), name, kind="external data file")
    assert word in one_line(error)


def test_contained_files_leave_no_descriptor_open(tmp_path):
    folder = hostile(tmp_path)
    before = len(os.listdir("/dev/fd"))
    for name in ("direct", "parent/secret", "hard", "fifo", "dir", "missing", "plain/x", "plain"):
        try:
            contained_path(folder, name)
        except InputError:
            continue
    assert len(os.listdir("/dev/fd")) == before


def test_open_contained_limit_and_missing_folder(tmp_path):
    folder = hostile(tmp_path)
    with pytest.raises(LimitError), open_contained(folder, "plain", limit=0):
        pass
    with pytest.raises(InputError, match="no such folder"):
        contained_path(tmp_path / "none", "plain")


@given(st.text(alphabet="./ab\0", max_size=12))
def test_no_name_reaches_a_file_outside(tmp_path_factory, name):
    base = tmp_path_factory.getbasetemp() / "contained"
    folder = base / "m"
    if not base.exists():
        (folder / "a").mkdir(parents=True)
        (folder / "b").write_text("in")
        (folder / "a" / "b").write_text("in")
        (base / "b").write_text("out")
    try:
        with open_contained(folder, name) as file:
            assert file.read() == b"in"
    except InputError:
        pass
