"""A full disk under what is printed, and names that no system takes: one line and a status, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from amctc.cli.options import require_folder
from amctc.cli.run import require_file


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_nowhere_to_print() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "amctc", "targets"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert "no space left for what is printed" in done.stderr


def test_names_that_are_too_long_are_left_to_the_writer(tmp_path: Path) -> None:
    """``Path.exists`` raises for them, and the writer says what is wrong."""
    require_folder(str(tmp_path / ("n" * 300)))
    require_file(str(tmp_path / ("n" * 300 + ".onnx")))
