"""`amctc` as a user calls it, in this process and in the folder that is current."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from amctc.cli import amctc


def invoke(*words: object) -> Result:
    """What a command line comes to, whatever that is."""
    return CliRunner().invoke(amctc, [str(word) for word in words])


def done(*words: object) -> str:
    """Standard output of a command that succeeds and says nothing on standard error."""
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def refused(status: int, *words: object) -> str:
    """Standard error of a command that fails with one line, or that and the place marked below, and writes nothing."""
    before = sorted(Path().rglob("*"))
    result = invoke(*words)
    assert result.exit_code == status, result.output
    assert sorted(Path().rglob("*")) == before
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0].startswith("amctc: error: ")
    assert [line for line in lines[1:] if not line.startswith("  ")] == []
    assert len(lines) in (1, 3)
    assert "Traceback" not in result.stderr
    return result.stderr
