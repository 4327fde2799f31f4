"""The graph engine: a long chain of blocks loaded, folded, fused and written, and how that grows."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

from amctc.api import load, save
from amctc.pipeline import Context, Pipeline
from tools.bench.clock import cpu_seconds, in_fresh_process, peak_bytes
from tools.bench.networks import block_chain
from tools.bench.rows import Row

PIPELINE = "fold-batch-norm,fuse-activation"
NODES_PER_BLOCK = 3


def chain_seconds(blocks: int) -> dict[str, float]:
    """CPU seconds of each stage on a chain of ``blocks`` blocks, how many rewrites fired, and the peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.onnx"
        onnx.save(block_chain(blocks), path)
        graph, loaded = cpu_seconds(lambda: load(path))
        context, pipeline = Context(), Pipeline.parse(PIPELINE)
        result, rewritten = cpu_seconds(lambda: pipeline.run(graph, context))
        _, saved = cpu_seconds(lambda: save(result.graph, Path(folder) / "out.onnx"))
    return {"load": loaded, "rewrite": rewritten, "export": saved, "rewrites": sum(context.log.counts().values()),
            "nodes": blocks * NODES_PER_BLOCK, "peak": peak_bytes()}  # fmt: skip


def chain_rows(sizes: tuple[int, ...], repeats: int) -> Iterator[Row]:
    """Chains of about ``sizes`` nodes, each in a process of its own, of ``repeats`` the fastest."""
    found = [
        min((in_fresh_process(chain_seconds, size // NODES_PER_BLOCK) for _ in range(repeats)), key=total)
        for size in sizes
    ]
    first, last = found[0], found[-1]
    stages = ", ".join(f"{stage} {last[stage]:.2f}" for stage in ("load", "rewrite", "export"))
    whole = sizes[-1] >= 100_000
    what = f"chain of conv+bn+relu, {last['nodes']:.0f} nodes: load, fold, fuse, export"
    yield Row(what, total(last), "s", 4.0 if whole else None, how=stages)
    exponent = math.log(total(last) / total(first)) / math.log(last["nodes"] / first["nodes"])
    yield Row("the same: exponent of its growth", exponent, "", 1.10 if whole else None,
              how=", ".join(f"{f['nodes']:.0f}: {total(f):.2f} s" for f in found))  # fmt: skip
    yield Row("the same: rewrites per second", last["rewrites"] / last["rewrite"], "/s", 20_000, at_least=True,
              how=f"{last['rewrites']:.0f} in `{PIPELINE}`, types inferred, contracts checked")  # fmt: skip


def total(found: dict[str, float]) -> float:
    """Load to export, CPU seconds."""
    return found["load"] + found["rewrite"] + found["export"]
