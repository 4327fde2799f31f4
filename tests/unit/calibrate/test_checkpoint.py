"""Checkpoints: what a run resumes and refuses, and that passes give the same graph however often they were killed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from amctc import pipeline
from amctc.calibrate.checkpoint import Checkpoint
from amctc.calibrate.checkpoint_file import read_records
from amctc.calibrate.work import described_work, graph_digest, samples_digest
from amctc.concurrency import open_executor
from amctc.contract import Contract, Exact
from amctc.errors import InputError, UsageError
from amctc.ir import Graph, GraphInput, Value, apply, const
from amctc.ops import nn
from amctc.pipeline import Context, Pipeline
from amctc.text import print_graph
from amctc.types import F32, Array, TensorType

RNG = np.random.default_rng(4)
WORK = {"model": "a"}
PIPELINE = "equalize,observe{bins=256 moving-average},place-qdq,roll-back{sqnr=90.0},round-weights,quantize-bias"
"""Every pass that gathers: three collections of six batches, four measurements, two layers left in integers."""


class Killed(BaseException):
    """Raised where a process would be killed: nothing may catch it."""


def weights(*shape: int) -> Value:
    return const(RNG.standard_normal(shape).astype(np.float32))


@pytest.fixture(scope="module")
def network() -> Graph:
    x = GraphInput("x", TensorType(("N", 2, 6, 6), F32))
    conv = nn.Conv((1, 1), (1, 1, 1, 1), (1, 1))
    y = apply(nn.Relu(), apply(conv, x, weights(4, 2, 3, 3), weights(4), name="first"), name="r")
    y = apply(conv, y, weights(3, 4, 3, 3), name="second")
    flat = apply(nn.Flatten(), apply(nn.GlobalAveragePool(), y, name="pooled"), name="flat")
    return Graph((x,), (apply(nn.Gemm(), flat, weights(3, 2), weights(2), name="y"),), ("y",))


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Array]]:
    return [{"x": RNG.standard_normal((n, 2, 6, 6)).astype(np.float32)} for n in (3, 1, 2, 3, 3, 1)]


def run(graph: Graph, samples: object, path: Path | None, **options: object) -> str:
    """The quantized graph as text, and the notes."""
    context = Context(samples=samples, **options)  # type: ignore[arg-type]
    if path is not None:
        context.checkpoint = Checkpoint(path, WORK, interval=0.0)
    result = Pipeline.parse(PIPELINE).run(graph, context)
    return print_graph(result.graph) + repr(result.notes)


def killed_after(writes: int, monkeypatch: pytest.MonkeyPatch, attempt: Callable[[], object]) -> bool:
    """Whether ``attempt`` came to its ``writes``-th write; it goes no further then."""
    count, real = 0, Checkpoint.write

    def write(checkpoint: Checkpoint) -> None:
        nonlocal count
        real(checkpoint)
        count += 1
        if count == writes:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", write)
        try:
            attempt()
        except Killed:
            return True
    return False


def test_killed_after_every_step_and_resumed(network, samples, tmp_path, monkeypatch) -> None:
    """Every run is killed at its second write, the first with news: all of them together make one, on any executor."""
    plain, path = run(network, samples, None), tmp_path / "c"
    assert run(network, samples, tmp_path / "whole") == plain

    def killed(attempt: int) -> bool:
        with open_executor(*[("serial", None), ("threads", 3)][attempt % 2]) as executor:
            return killed_after(2, monkeypatch, lambda: run(network, samples, path, executor=executor))

    kills = next(attempt for attempt in range(100) if not killed(attempt))
    records = read_records(path)[1]
    assert [(r.name, r.done) for r in records] == [
        ("equalize", 6), ("observe", 6), ("roll-back", 4), ("round-weights, means", 6), ("round-weights", 2)
    ]  # fmt: skip
    assert all(r.finished for r in records)
    assert kills == 6 + 6 + 4 + 6 + 2 + 5, "a kill after every step, and after the end of every collection"
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert run(network, samples, path) == plain


def test_worker_processes_resume_too(network, samples, tmp_path, monkeypatch) -> None:
    plain, path = run(network, samples, None), tmp_path / "c"
    with open_executor("processes", 2) as executor:
        assert killed_after(12, monkeypatch, lambda: run(network, samples, path, executor=executor))
        assert [(r.name, r.done) for r in read_records(path)[1]] == [("equalize", 6), ("observe", 4)]
        assert run(network, samples, path, executor=executor) == plain


def test_what_was_gathered_is_not_run_again(network, samples, tmp_path) -> None:
    plain, path = run(network, samples, tmp_path / "c"), tmp_path / "c"

    class Unreadable:
        def __iter__(self) -> Iterator[Array]:
            raise AssertionError("nobody needs samples any more")

    assert run(network, Unreadable(), path) == plain


def test_batches_that_were_seen_are_passed_over(network, samples, tmp_path, monkeypatch) -> None:
    plain, path = run(network, samples, None), tmp_path / "c"
    assert killed_after(4, monkeypatch, lambda: run(network, samples, path))
    assert [(r.name, r.done) for r in read_records(path)[1]] == [("equalize", 3)]
    told: list[int] = []
    unlike = [{"x": np.full_like(s["x"], np.nan)} for s in samples[:3]] + samples[3:]
    context = Context(samples=unlike, checkpoint=Checkpoint(path, WORK))
    equalize = Pipeline.parse("equalize")
    expected = print_graph(equalize.run(network, Context(samples=samples)).graph)
    assert print_graph(equalize.run(network, context).graph) == expected
    assert killed_after(7, monkeypatch, lambda: run(network, samples, path))

    def progress(what: str, done: int, total: int) -> None:
        if what == "calibrating":
            told.append(done)

    run(network, samples, path, progress=progress)
    assert told == [6, 9, 12, 13], "two batches of four samples were seen"
    assert run(network, samples, path) == plain


def test_without_a_checkpoint_an_error_leaves_nothing_behind(network, tmp_path) -> None:
    with pytest.raises(UsageError, match="no calibration samples"):
        run(network, [], tmp_path / "c")
    assert read_records(tmp_path / "c")[1] == []
    with pytest.raises(UsageError, match="no calibration samples"):
        run(network, [], tmp_path / "c")


def gather(checkpoint: Checkpoint, steps: int, name: str = "observe") -> list[int]:
    """A pass that adds 1, 2, …: what it starts from and gets to."""
    collection = checkpoint.open(name, ["x: f32"])
    total = int(collection.array("total", (), np.int64)) if collection.done else 0
    seen = [total]
    for i in range(collection.done, steps):
        total += i + 1
        collection.advance(lambda now=total: {"total": np.array(now, np.int64)})
        seen.append(total)
    collection.finish()
    return seen


def test_steps_go_on_behind_the_last(tmp_path) -> None:
    path = tmp_path / "c"
    assert gather(Checkpoint(path, WORK, interval=0), 3) == [0, 1, 3, 6]
    assert gather(Checkpoint(path, WORK), 5) == [6, 10, 15]


def test_writes_keep_to_the_interval(tmp_path, monkeypatch) -> None:
    """The clock advances a second a step and three for each write: writing takes a twentieth of the time at most."""
    now, path, writes = [0.0], tmp_path / "c", list[float]()

    def write(*arguments: object) -> None:
        writes.append(now[0])
        now[0] += 3

    monkeypatch.setattr("amctc.calibrate.checkpoint.time.monotonic", lambda: now[0])
    monkeypatch.setattr("amctc.calibrate.checkpoint.write_records", write)
    checkpoint = Checkpoint(path, WORK, interval=10.0)
    collection = checkpoint.open("observe", [])
    for _ in range(130):
        now[0] += 1
        collection.advance(dict)
    assert writes == [0.0, 63.0, 126.0]
    quick = Checkpoint(path, WORK, interval=0.0).open("observe", [])
    del writes[:]
    quick.advance(dict)
    quick.advance(dict)
    assert len(writes) == 2


def test_the_pass_of_the_documentation_resumes(network, samples, tmp_path, monkeypatch) -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "write-a-pass.md"
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL) if "collection" in b)
    monkeypatch.setattr(pipeline, "_passes", dict(pipeline._passes))
    names = {"dataclass": dataclass, "ClassVar": ClassVar, "Contract": Contract, "Exact": Exact}
    exec(block, {**names, "register": pipeline.register})

    def count() -> str:
        context = Context(samples=samples, checkpoint=Checkpoint(tmp_path / "c", WORK, interval=0.0))
        (note,) = Pipeline.parse("count-samples").run(network, context).notes
        return note.text

    assert killed_after(4, monkeypatch, count)
    assert read_records(tmp_path / "c")[1][0].arrays["total"] == 3 + 1 + 2
    assert [count(), count()] == ["13 samples", "13 samples"]


def test_removed(tmp_path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", WORK)
    assert (tmp_path / "c").exists()
    checkpoint.remove()
    assert not (tmp_path / "c").exists()
    checkpoint.remove()
    (tmp_path / "c").write_text("an output that took the name")
    checkpoint.remove()
    assert (tmp_path / "c").exists()


def test_a_checkpoint_that_cannot_be_replaced_is_refused_at_once(tmp_path) -> None:
    gather(Checkpoint(tmp_path / "c", WORK, interval=0), 1)
    (tmp_path / "link").symlink_to(tmp_path / "c")
    with pytest.raises(UsageError, match="symbolic link"):
        Checkpoint(tmp_path / "link", WORK)


def refusal(call: Callable[[], object], path: Path) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.exit_status == 3
    assert caught.value.where == str(path)
    assert caught.value.remedy == "delete it to start anew, or give another path"
    return caught.value.what


def test_other_work_is_refused(tmp_path) -> None:
    path = tmp_path / "c"
    gather(Checkpoint(path, {"model": "a", "seed": "0"}, interval=0), 2)
    before = path.read_bytes()
    others: list[tuple[Mapping[str, str], str]] = [
        ({"model": "b", "seed": "0"}, "another model"), ({"model": "b", "seed": "1"}, "another model, another seed"),
        ({"model": "a"}, "another kind"), ({"model": "a", "seed": "0", "more": ""}, "another more"),
    ]  # fmt: skip
    for work, finding in others:
        what = refusal(lambda work=work: Checkpoint(path, work), path)
        assert what == f"the checkpoint is of other work: {finding}"
    checkpoint = Checkpoint(path, {"model": "a", "seed": "0"})
    assert "its observe gathered something else" in refusal(lambda: checkpoint.open("observe", ["y: f32"]), path)
    assert "its observe gathered something else" in refusal(lambda: checkpoint.open("equalize", ["x: f32"]), path)
    collection = checkpoint.open("observe", ["x: f32"])
    for name, shape, dtype in (("sum", (), np.int64), ("total", (1,), np.int64), ("total", (), np.float64)):
        assert "lacks what observe gathered" in refusal(
            lambda n=name, s=shape, d=dtype: collection.array(n, s, d), path)  # fmt: skip
    assert path.read_bytes() == before


def test_work_is_told_apart_by_what_it_computes_from(network, samples) -> None:
    def work(graph: Graph = network, feeds: object = samples, **settings: object) -> dict[str, str]:
        return described_work(graph, feeds, {"seed": 0, **settings})  # type: ignore[arg-type]

    assert work() == work()
    other = Graph(network.inputs, network.outputs, ("z",))
    assert {k for k in work() if work()[k] != work(other)[k]} == {"model"}
    assert {k for k in work() if work()[k] != work(feeds=samples[::-1])[k]} == {"set of samples"}
    assert {k for k in work() if work()[k] != work(feeds=None)[k]} == {"set of samples"}
    assert {k for k in work() if work()[k] != work(seed=1)[k]} == {"seed"}


def test_digests_see_every_bit() -> None:
    x = GraphInput("x", TensorType((1, 100), F32))
    large = np.arange(100, dtype=np.float32)  # longer than what an elided print shows

    def graph(array: Array) -> Graph:
        return Graph((x,), (apply(nn.Add(), x, const(array)),), ("y",))

    touched = large.copy()
    touched[57] = np.nextafter(touched[57], np.float32(0))
    assert graph_digest(graph(large)) == graph_digest(graph(large.copy())) != graph_digest(graph(touched))
    whole = [{"a": large, "b": np.array(["x", "y"], object)}]
    assert samples_digest(whole) == samples_digest([dict(reversed(whole[0].items()))])
    others = [
        [{"a": touched, "b": whole[0]["b"]}], [{"a": large, "b": np.array(["x", "z"], object)}],
        [{"a": large.reshape(10, 10), "b": whole[0]["b"]}], [{"a": large.view(np.int32), "b": whole[0]["b"]}],
        [{"a": large}, {"b": whole[0]["b"]}], [{"b": large, "a": whole[0]["b"]}], [*whole, {}], [],
    ]  # fmt: skip
    assert len({samples_digest(w) for w in (whole, *others)}) == len(others) + 1
