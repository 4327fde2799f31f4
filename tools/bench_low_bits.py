#!/usr/bin/env python3
"""What each step towards weights of few bits gains, alone and together: one line per variant.

    python -m tools.bench_low_bits DATA [--models NAME ...] [--variants NAME ...] [--calibration 100] [--test 400]
    python -m tools.bench_low_bits DATA --weight-only --models vit_fashion

DATA as in ``tools.bench_accuracy``. Preparation, balancing and ranges are those of the preset ``balanced`` and are done
once; then each variant rounds the same graph. With ``--weight-only`` there are neither balancing nor ranges. Top-1,
agreement with the float model and SQNR are of the QDQ model run by ONNX Runtime, on samples behind those that
calibrate. Seconds are CPU time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import amctc
from amctc.calibrate.samples import Samples
from amctc.ir import Graph
from amctc.pipeline import Context, Pipeline
from amctc.preset import load_preset
from tools.bench_accuracy import MODELS, opened

VARIANTS = {
    "8 bits": "round-weights",
    "nearest": "quantize-weights{bits=4}",
    "GPTQ": "round-weights{bits=4 sweeps=0 scales=1 compensate=false}",
    "GPTQ, descent": "round-weights{bits=4 scales=1 compensate=false}",
    "GPTQ, descent, scales": "round-weights{bits=4 compensate=false}",
    "GPTQ, descent, compensation": "round-weights{bits=4 scales=1}",
    "all three": "round-weights{bits=4}",
    "all three, biases kept": "round-weights{bits=4 correct-bias=false}",
    "all three, ends in 8 bits": "round-weights{bits=4 ends-int8}",
    "AdaRound": "round-weights{bits=4 method=adaround scales=1 compensate=false}",
    "AdaRound, compensation": "round-weights{bits=4 method=adaround scales=1}",
}
"""How weights are quantized behind int8 activations."""

WEIGHT_ONLY = {
    f"{bits} bits{f', groups of {group}' if group else ''}, {method}":
        f"quantize-weights-only{{bits={bits} group={group} method={method}}}"
    for bits, group in ((8, 0), (4, 32), (4, 0)) for method in ("nearest", "gptq", "awq", "best")
}  # fmt: skip
"""How weights are quantized behind float activations."""


def quantized_until_weights(
    model: Path, samples: Samples, balance: str | None, *, weight_only: bool
) -> tuple[Graph, Context]:
    """The graph of a model with its quantizers placed, and the context that calibrated it."""
    context, preset = Context(samples=samples), load_preset("balanced")
    graph = preset.prepare.run(amctc.load(model), context).graph
    if weight_only:
        return graph, context
    graph = (preset.balance if balance is None else Pipeline.parse(balance)).run(graph, context).graph
    return Pipeline.parse("observe,place-qdq{bits=8 method=mse}").run(graph, context).graph, context


def scores(graph: Graph, reference: amctc.Session, test: Samples) -> str:
    """Top-1, agreement and SQNR of a QDQ graph, as cells of a table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        amctc.save(graph, path)
        found = amctc.evaluate(amctc.Session(path), test, reference)
    return f"{100 * (found.top1 or 0):.2f} | {100 * (found.agreement or 0):.2f} % | {found.sqnr_db or 0:.1f}"


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--variants", nargs="+", help="all, if not given")
    parser.add_argument("--balance", help="a pipeline in place of the preset's stage, as 'equalize{strength=0.3}'")
    parser.add_argument("--weight-only", action="store_true")
    parser.add_argument("--calibration", type=int, default=100)
    parser.add_argument("--test", type=int, default=400)
    given = parser.parse_args()
    variants = WEIGHT_ONLY if given.weight_only else VARIANTS
    if unknown := set(given.variants or ()) - set(variants):
        parser.error(f"unknown variants {sorted(unknown)}: there are {list(variants)}")
    print("| model | weights | top-1 | agreement | SQNR dB | s |\n|---|---|---|---|---|---|")
    for name in given.models:
        model, samples = opened(given.data, name)
        test, reference = samples.limited(given.calibration, given.calibration + given.test), amctc.Session(model)
        graph, context = quantized_until_weights(model, samples.limited(0, given.calibration), given.balance,
                                                 weight_only=given.weight_only)  # fmt: skip
        print(f"| {name} | float | {100 * (amctc.evaluate(reference, test).top1 or 0):.2f} | | | |", flush=True)
        for variant in given.variants or variants:
            start = time.process_time()
            rounded = Pipeline.parse(variants[variant]).run(graph, context).graph
            seconds = time.process_time() - start
            print(f"| | {variant} | {scores(rounded, reference, test)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
