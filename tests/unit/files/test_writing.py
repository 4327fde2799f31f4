"""Writing is all or nothing."""

import os
import stat
from pathlib import Path

import pytest

from amctc.errors import AmctcError, InputError, LimitError, UsageError
from amctc.files import atomic_write_bytes, atomic_write_text, atomic_writer, leftovers, output_folder, writing


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def write_and_fail(path, error):
    with atomic_writer(path) as file:
        file.write(b"half")
        raise error


def write_set(path, names, error=None):
    with output_folder(path) as folder:
        for name in names:
            folder.write_bytes(name, b"new " + name.encode())
        if error is not None:
            raise error


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


# ------------------------------------------------------------------------------------------------ atomic_write


def test_atomic_write_makes_and_replaces(tmp_path):
    target = tmp_path / "a"
    atomic_write_bytes(target, b"one")
    assert stat.S_IMODE(target.stat().st_mode) & 0o111 == 0
    target.chmod(0o600)
    atomic_write_text(target, "zwei ü")
    assert target.read_text("utf-8") == "zwei ü"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert tree(tmp_path).keys() == {"a"}


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), FileNotFoundError(2, "other file")])
def test_a_failure_while_writing_leaves_all_as_it_was(tmp_path, error):
    (tmp_path / "a").write_bytes(b"old")
    for name in ("a", "new"):
        with pytest.raises(type(error)) as seen:
            write_and_fail(tmp_path / name, error)
        assert seen.value is error
    assert tree(tmp_path) == {"a": b"old"}


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LimitError) as error:
        atomic_write_bytes(tmp_path / "a", b"data")
    assert "no space" in one_line(error)
    assert tree(tmp_path) == {}


def test_a_failing_rename_leaves_all_as_it_was(tmp_path, monkeypatch):
    def fail(source, target):
        raise PermissionError(13, "denied")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UsageError):
        atomic_write_bytes(tmp_path / "a", b"new")
    assert tree(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize("name", ["none/a", "file/a", ".", "", "dir", "link", "dangling", "fifo", "x" * 300, "a\0"])
def test_targets_that_cannot_be_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"f")
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UsageError) as error:
        atomic_write_bytes(name, b"new")
    one_line(error)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "file").read_bytes() == b"f"


def test_a_device_is_never_replaced():
    with pytest.raises(UsageError, match="device"):
        atomic_write_bytes("/dev/null", b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    atomic_write_bytes(tmp_path / ("n" * 255), b"x")
    assert [len(name) for name in os.listdir(tmp_path)] == [255]


# ----------------------------------------------------------------------------------------------- output_folder


def test_a_set_of_files_appears_together(tmp_path):
    out = tmp_path / "out"
    with output_folder(out) as folder:
        folder.write_text("a.txt", "A")
        folder.write_bytes("b.bin", b"B")
        folder.write_bytes("b.bin", b"BB")
        folder.staged("c").write_bytes(b"C")
        folder.staged("never written")
        assert [p.name for p in out.iterdir()] == [folder.staging.name]
        assert folder.names == ("a.txt", "b.bin", "c", "never written")
    assert tree(out) == {"a.txt": b"A", "b.bin": b"BB", "c": b"C"}


def test_other_files_of_the_folder_stay(tmp_path):
    (tmp_path / "a").write_bytes(b"old a")
    (tmp_path / "keep").write_bytes(b"keep")
    (tmp_path / "a").chmod(0o640)
    with output_folder(tmp_path) as folder:
        folder.write_bytes("a", b"new a")
        assert (tmp_path / "a").read_bytes() == b"old a"
    assert tree(tmp_path) == {"a": b"new a", "keep": b"keep"}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), InputError("bad")])
def test_a_failure_in_the_block_leaves_nothing(tmp_path, error):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_bytes(b"old")
    for name in ("old", "new"):
        with pytest.raises(type(error)):
            write_set(tmp_path / name, "ab", error)
    assert tree(tmp_path) == {"old": None, "old/a": b"old"}


@pytest.mark.parametrize("at", range(6))
def test_a_failure_at_any_rename_restores_every_old_file(tmp_path, monkeypatch, at):
    """Two renames move old files away, four bring new ones."""
    (tmp_path / "a").write_bytes(b"old a")
    (tmp_path / "c").write_bytes(b"old c")
    real, calls = os.replace, []

    def fail(source, target):
        calls.append(target)
        if len(calls) == at + 1:
            raise OSError(5, "I/O error")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(AmctcError):
        write_set(tmp_path, "abcd")
    assert tree(tmp_path) == {"a": b"old a", "c": b"old c"}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0"])
def test_names_in_an_output_folder_are_plain(tmp_path, name):
    with pytest.raises(UsageError), output_folder(tmp_path / "out") as folder:
        folder.write_bytes(name, b"x")
    assert tree(tmp_path) == {}


def test_a_target_that_is_a_link_or_folder_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"f")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dir").mkdir()
    for name in ("link", "dir"):
        with pytest.raises(UsageError):
            write_set(tmp_path, ["fine", name])
    assert tree(tmp_path) == {"file": b"f", "link": b"f", "dir": None}


@pytest.mark.parametrize("name", ["none/out", "file", "file/out", "a\0"])
def test_folders_that_cannot_be_made(tmp_path, name):
    (tmp_path / "file").write_bytes(b"f")
    with pytest.raises(UsageError) as error, output_folder(Path(f"{tmp_path}/{name}")):
        pass
    one_line(error)
    assert tree(tmp_path) == {"file": b"f"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="permission"):
        atomic_write_bytes(tmp_path / "a", b"x")


# ---------------------------------------------------------------------------------------------------- leftovers


def test_the_next_writer_removes_what_killed_ones_left(tmp_path):
    """The dead hold no locks; what is alive, and what only looks alike, stays."""
    (tmp_path / f".amctc-{'0' * 16}.tmp").write_bytes(b"half")
    (tmp_path / f".amctc-{'1' * 16}").mkdir()
    (tmp_path / f".amctc-{'1' * 16}" / "a").write_bytes(b"half")
    (tmp_path / ".amctc-notes").write_bytes(b"mine")
    (tmp_path / f".amctc-{'2' * 16}.tmp").symlink_to(".amctc-notes")
    with output_folder(tmp_path) as living:
        atomic_write_bytes(tmp_path / "b", b"b")
        assert living.staging.is_dir()
        living.write_bytes("a", b"a")
    assert tree(tmp_path) == {"a": b"a", "b": b"b", ".amctc-notes": b"mine", f".amctc-{'2' * 16}.tmp": b"mine"}


def test_a_folder_that_a_stranger_locks_is_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "_TRIES", 2)
    with leftovers.locked(tmp_path) as exclusive:
        assert exclusive
        atomic_write_bytes(tmp_path / "a", b"a")
    assert tree(tmp_path) == {"a": b"a"}


def test_old_files_go_before_new_ones_come(tmp_path, monkeypatch):
    """A kill between two renames must not leave an old model beside new weights: they may well fit."""
    write_set(tmp_path, ["m.data", "m"])
    real, seen = os.replace, []

    def watched(source, target):
        real(source, target)
        seen.append({p.name for p in tmp_path.iterdir() if p.is_file()})

    monkeypatch.setattr(os, "replace", watched)
    write_set(tmp_path, ["m.data", "m"])
    assert seen == [{"m.data"}, set(), {"m.data"}, {"m.data", "m"}]


@pytest.mark.parametrize("name", ["a", "set"])
def test_a_disk_that_fails_while_bytes_are_written(tmp_path, monkeypatch, name):
    """Not only a full one; and whatever the caller reads meanwhile is not blamed on the output."""

    def fail(self, data):
        with writing.naming_errors(self._target):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(writing._OutputFile, "write", fail)
    with pytest.raises(UsageError, match="Input/output error"):
        atomic_write_bytes(tmp_path / "a", b"x") if name == "a" else write_set(tmp_path, ["a", "b"])
    assert tree(tmp_path) == {}
