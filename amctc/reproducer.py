"""Write down two graphs that should agree and do not, with the inputs they disagree on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from amctc.files import atomic_write_bytes, atomic_write_text
from amctc.testing.violations import Evidence
from amctc.text import print_graph

STEM = "miscompile"


def write_reproducer(folder: Path, evidence: Evidence) -> list[Path]:
    """``miscompile.before.txt`` and ``.after.txt`` (graph text) and ``.npz`` (inputs by name) in ``folder``.

    ``amctc run "" miscompile.before.txt --print`` shows a graph; files of an earlier failure are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{STEM}.{name}" for name in ("before.txt", "after.txt", "npz")]
    atomic_write_text(paths[0], print_graph(evidence.before))
    atomic_write_text(paths[1], print_graph(evidence.after))
    packed = io.BytesIO()
    np.savez(packed, **dict(evidence.feeds))  # type: ignore[arg-type]
    atomic_write_bytes(paths[2], packed.getvalue())
    return paths
