"""absorb-high-bias and tune-ranges, killed at every second write of their checkpoint, end as if never killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amctc.calibrate.checkpoint import Checkpoint
from amctc.calibrate.checkpoint_file import read_records
from amctc.ir import Graph, GraphInput, apply, const
from amctc.ops import nn
from amctc.pipeline import Context, Pipeline
from amctc.text import print_graph
from amctc.types import F32, Array, TensorType

RNG = np.random.default_rng(8)
PIPELINE = "absorb-high-bias,observe{bins=256},place-qdq,tune-ranges,tune-ranges{at=layers}"


class Killed(BaseException):
    """Raised where a process would be killed."""


def network() -> Graph:
    """A bias above all that the layer makes; and a clip at 2 of what is below 2 but for one in 36."""
    x, u = (GraphInput(name, TensorType(("n", 2, 6, 6), F32)) for name in "xu")
    plain, clipped = (nn.Conv((1, 1), (0,) * 4, (1, 1), 1, a) for a in (nn.Relu(), nn.Clip(0.0, 2.0)))
    first = const(RNG.uniform(-1, 1, (3, 2, 1, 1)).astype(np.float32))
    y = apply(plain, x, first, const(np.float32([90, 9, 0])), name="first")
    y = apply(plain, y, const(RNG.uniform(-1, 1, (2, 3, 1, 1)).astype(np.float32)), name="second")
    z = apply(clipped, u, const(2 * np.eye(2, dtype=np.float32)[:, :, None, None]), name="third")
    return Graph((x, u), (y, z), ("y", "z"))


def batches() -> list[dict[str, Array]]:
    found = [{n: RNG.uniform(0, 1, (rows, 2, 6, 6)).astype(np.float32) for n in "xu"} for rows in (3, 1, 2, 3, 3, 4)]
    for feeds in found:
        feeds["u"][:, :, 0, 0] = 8
    return found


def test_killed_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, samples, path = network(), batches(), tmp_path / "c"

    def run(checkpoint: Checkpoint | None) -> str:
        result = Pipeline.parse(PIPELINE).run(graph, Context(samples=samples, checkpoint=checkpoint))
        return print_graph(result.graph) + repr(result.notes)

    plain, writes, write = run(None), 0, Checkpoint.write
    assert "absorb-high-bias" in plain
    assert "tune-ranges" in plain

    def killing(checkpoint: Checkpoint) -> None:
        nonlocal writes
        write(checkpoint)
        writes += 1
        if writes == 2:
            raise Killed

    monkeypatch.setattr(Checkpoint, "write", killing)
    kills, resumed = 0, None
    while resumed is None:
        writes = 0
        try:
            resumed = run(Checkpoint(path, {"model": "a"}, interval=0.0))
        except Killed:
            kills += 1
            assert kills < 100
    assert resumed == plain
    steps = {(r.name, r.done) for r in read_records(path)[1]}
    assert {("absorb-high-bias", 6), ("observe", 6)} <= steps
    assert sum(done for name, done in steps if name == "tune-ranges") >= 2
    assert kills >= sum(done for _, done in steps)
