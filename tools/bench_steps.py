#!/usr/bin/env python3
"""What each step of int8 quantization gains, alone and together: one line per variant.

    python -m tools.bench_steps DATA [--models NAME ...] [--variants NAME ...] [--calibration 100] [--test 200]

DATA as in ``tools.bench_accuracy``. Each variant starts from the model as the preset ``balanced`` prepares it, and
``--pipeline TEXT`` adds one of your own. Top-1, agreement with the float model and SQNR are of the QDQ model run by
ONNX Runtime, on samples behind those that calibrate. Seconds are CPU time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import amctc
from amctc.calibrate.samples import Samples
from amctc.ir import Graph
from amctc.pipeline import Context, Pipeline
from amctc.preset import load_preset
from tools.bench_accuracy import MODELS, opened
from tools.bench_low_bits import scores

CALIBRATED, NEAREST, ROUNDED = "observe,place-qdq", "quantize-weights", "round-weights"

VARIANTS = {
    "nearest": f"{CALIBRATED},{NEAREST}",
    "equalized": f"equalize,{CALIBRATED},{NEAREST}",
    "high biases absorbed": f"absorb-high-bias,{CALIBRATED},{NEAREST}",
    "equalized, absorbed": f"equalize,absorb-high-bias,{CALIBRATED},{NEAREST}",
    "rolled back": f"{CALIBRATED},roll-back,{NEAREST}",
    "ranges by layers": f"{CALIBRATED},tune-ranges{{at=layers}},{NEAREST}",
    "ranges by outputs": f"{CALIBRATED},{NEAREST},tune-ranges",
    "rounded": f"{CALIBRATED},{ROUNDED}{{correct-bias=false}}",
    "rounded, biases corrected": f"{CALIBRATED},{ROUNDED}",
    "equalized, rounded, corrected": f"equalize,{CALIBRATED},{ROUNDED}",
    "equalized, rounded": f"equalize,{CALIBRATED},{ROUNDED}{{correct-bias=false}}",
    "equalized, ranges by outputs, rounded, corrected": f"equalize,{CALIBRATED},tune-ranges,{ROUNDED}",
    "equalized, rounded, corrected, ranges by outputs": f"equalize,{CALIBRATED},{ROUNDED},tune-ranges",
    "all": f"equalize,absorb-high-bias,{CALIBRATED},roll-back,{ROUNDED},tune-ranges",
    "all, biases kept": f"equalize,absorb-high-bias,{CALIBRATED},roll-back,{ROUNDED}{{correct-bias=false}},tune-ranges",
}
"""Pipelines from a prepared float model to one with quantized activations and weights."""


def prepared(model: Path, samples: Samples) -> tuple[Graph, Context]:
    """A model as ``balanced`` prepares it, and the context that calibrates it."""
    context = Context(samples=samples)
    return load_preset("balanced").prepare.run(amctc.load(model), context).graph, context


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--pipeline", action="append", default=[], help="one more variant, as text")
    parser.add_argument("--calibration", type=int, default=100)
    parser.add_argument("--test", type=int, default=200)
    given = parser.parse_args()
    variants = {name: VARIANTS[name] for name in given.variants} | {text: text for text in given.pipeline}
    print("| model | steps | top-1 | agreement | SQNR dB | s |\n|---|---|---|---|---|---|")
    for name in given.models:
        model, samples = opened(given.data, name)
        test, reference = samples.limited(given.calibration, given.calibration + given.test), amctc.Session(model)
        graph, context = prepared(model, samples.limited(0, given.calibration))
        print(f"| {name} | float | {100 * (amctc.evaluate(reference, test).top1 or 0):.2f} | | | |", flush=True)
        for variant, text in variants.items():
            start = time.process_time()
            quantized = Pipeline.parse(text).run(graph, context).graph
            seconds = time.process_time() - start
            print(f"| | {variant} | {scores(quantized, reference, test)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
