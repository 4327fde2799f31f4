"""Property tests for op kinds and rewrites, yours included, drawn from their definitions.

::

    from amctc.testing import check_rewrite
    print(check_rewrite(fold_batch_norm))      # AssertionError with a small graph when a property fails

An op kind of your own takes part once a :func:`sampler` says how to draw it.
"""

# Importing these registers the samplers of the nn, quant and ascend dialects.
from amctc.testing import (  # noqa: F401
    ascend_samplers,
    layout_samplers,
    linear_samplers,
    normalization_samplers,
    pointwise_samplers,
    reduction_samplers,
    selection_samplers,
)
from amctc.testing.arrays import Recipe
from amctc.testing.checks import Report, check_rewrite
from amctc.testing.instances import PERTURBATIONS, Instance, draw_instance, instances
from amctc.testing.op_checks import check_op
from amctc.testing.pass_checks import PassReport, check_pass, check_pipeline
from amctc.testing.random_graphs import random_graph
from amctc.testing.samplers import (
    Sample,
    Sampler,
    Slot,
    Wanted,
    draw_sample,
    draw_type,
    has_sampler,
    registered_samplers,
    sampler,
)
from amctc.testing.source import HypothesisSource, SeededSource, Source, Unfit
from amctc.testing.strategies import arrays, graphs, op_graphs, ops, types
from amctc.testing.violations import Violation

__all__ = [
    "PERTURBATIONS", "HypothesisSource", "Instance", "PassReport", "Recipe", "Report", "Sample", "Sampler",
    "SeededSource", "Slot", "Source", "Unfit", "Violation", "Wanted", "arrays", "check_op", "check_pass",
    "check_pipeline", "check_rewrite", "draw_instance", "draw_sample", "draw_type", "graphs", "has_sampler",
    "instances", "op_graphs", "ops", "random_graph", "registered_samplers", "sampler", "types",
]  # fmt: skip
