"""``compress --checkpoint``: killed and resumed to the same bytes, refused where it is not of this work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from amctc import compress, examples, load, open_samples_for
from amctc.calibrate.checkpoint import Checkpoint
from amctc.calibrate.checkpoint_file import read_records
from amctc.cli import amctc
from amctc.errors import InputError
from tests.command_line import invoke

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["-n", "12", "--batch-size", "5", "-p", "unit", "--set", "roll-back.sqnr=90.0"]


class Killed(BaseException):
    """Raised where a process would end."""


def command(out: Path, *more: str, data: str | None = None) -> list[str]:
    samples = data or str(examples.calibration_path())
    return ["compress", str(examples.model_path()), "-d", samples, *OPTIONS, "-o", str(out), *more]


def checkpointed(folder: Path, *more: str) -> list[str]:
    return command(folder / "out", "--checkpoint", str(folder / "c"), "--checkpoint-interval", "0", *more)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def kill_at(write: int, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command line that ends behind a write of its checkpoint."""
    count, real = 0, Checkpoint.write

    def counted(checkpoint: Checkpoint) -> None:
        nonlocal count
        real(checkpoint)
        count += 1
        if count == write:
            raise Killed

    monkeypatch.setattr(Checkpoint, "write", counted)
    with pytest.raises(Killed):
        CliRunner().invoke(amctc, arguments, catch_exceptions=False)
    monkeypatch.setattr(Checkpoint, "write", real)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is written without a checkpoint."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert invoke(*command(out)).exit_code == 0
    return files(out)


def test_another_process_goes_on_to_the_same_bytes(whole, tmp_path, monkeypatch) -> None:
    kill_at(9, checkpointed(tmp_path), monkeypatch)
    assert [(r.name, r.done) for r in read_records(tmp_path / "c")[1]] == [
        ("equalize", 3), ("observe", 3)]  # fmt: skip
    kill_at(5, checkpointed(tmp_path, "--jobs", "2"), monkeypatch)
    assert not (tmp_path / "out").exists()
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-m", "amctc", *checkpointed(tmp_path)], env=environment, check=False)
    assert done.returncode == 0
    assert files(tmp_path / "out") == whole
    assert not (tmp_path / "c").exists(), "the work is done"


def test_processes_killed_for_good(tmp_path: Path) -> None:
    """The nightly tool, briefly: SIGKILL while checkpoints are written and in between."""
    line = [sys.executable, "-m", "tools.kills.resume", "--count", "3", "--seed", "3"]
    done = subprocess.run(line, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" 0 findings")
    assert int(done.stdout.splitlines()[-1].split()[0]) >= 3


def refused(arguments: list[str], path: Path) -> str:
    """The one line that a run ends with; it leaves the file alone and writes nothing."""
    before = path.read_bytes()
    result = invoke(*arguments)
    assert result.exit_code == 3
    assert path.read_bytes() == before
    assert not (path.parent / "out").exists()
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"amctc: error: {path}: ")
    return line


def test_checkpoints_of_other_work_are_refused(tmp_path, monkeypatch) -> None:
    path = tmp_path / "c"
    kill_at(5, checkpointed(tmp_path), monkeypatch)
    remedy = "; delete it to start anew, or give another path"
    for option, difference in (
        (["--seed", "1"], "another seed"), (["-n", "11"], "another set of samples"),
        (["-p", "tf"], "another set of samples"), (["--batch-size", "4"], "another set of samples"),
        (["--method", "ifmr"], "another pipeline"), (["-t", "ascend310p3"], "another target"),
    ):  # fmt: skip
        line = refused(checkpointed(tmp_path, *option), path)
        assert line.endswith(f": the checkpoint is of other work: {difference}{remedy}")
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert "the checkpoint is damaged: its digest is not that of its content; delete it" in refused(
        checkpointed(tmp_path), path)  # fmt: skip
    path.write_bytes(examples.model_path().read_bytes())
    assert refused(checkpointed(tmp_path), path).endswith("this file is no checkpoint; give another path")


def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path) -> None:
    result = invoke(*command(tmp_path / "out", "--checkpoint", str(tmp_path / "missing" / "c")))
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_error_leaves_the_checkpoint(tmp_path) -> None:
    """A folder of outputs that cannot be written shows late: calibration is not lost."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "record.txt").mkdir()
    assert invoke(*checkpointed(tmp_path)).exit_code == 2
    assert all(r.finished for r in read_records(tmp_path / "c")[1])
    (tmp_path / "out" / "record.txt").rmdir()
    assert invoke(*checkpointed(tmp_path)).exit_code == 0
    assert not (tmp_path / "c").exists()


def test_samples_from_python_are_told_apart_by_content(tmp_path, monkeypatch) -> None:
    graph = load(examples.model_path())
    arrays = [b["image"] for b in open_samples_for(graph, examples.calibration_path(), preprocess="unit", limit=20)]

    def batches(scale: float) -> Iterator[dict[str, np.ndarray]]:
        yield from ({"image": a * np.float32(scale)} for a in arrays)

    def killed(*arguments: object, **options: object) -> None:
        raise Killed

    kept = {"checkpoint": tmp_path / "c", "checkpoint_interval": 0.0, "preset": "fast"}
    with monkeypatch.context() as patch:
        patch.setattr("amctc.api.compare", killed)
        with pytest.raises(Killed):
            compress(graph, batches(1.0), **kept)
    with pytest.raises(InputError, match="of other work: another set of samples"):
        compress(graph, batches(0.5), **kept)
    resumed = compress(graph, batches(1.0), out=tmp_path / "resumed", **kept)
    compress(graph, batches(1.0), out=tmp_path / "whole", preset="fast")
    assert files(tmp_path / "resumed") == files(tmp_path / "whole")
    assert resumed.report.layers
