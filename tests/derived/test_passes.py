"""Every registered pass keeps its contract, on small networks and on drawn graphs.

Nothing here names a pass: the passes come from the registry, the graphs each of them accepts are found by trying the
stages of the default pipeline, and what to check comes from the contract.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from amctc.errors import InputError, UnsupportedError, UsageError
from amctc.interp import evaluate
from amctc.ir import Graph
from amctc.kernels.ascend_table import ascend_table
from amctc.onnx_bridge.runtime import CARRIED, FloatSession
from amctc.options import option_values
from amctc.pipeline import Context, Pass, Pipeline, Repeat, pass_class, pass_names
from amctc.preset import load_preset
from amctc.session import COMPILE_FUSED
from amctc.spec import PassSpec, print_specs
from amctc.targets import DEFAULT_TARGET, load_profile
from amctc.testing import check_pass, check_pipeline, graphs
from amctc.testing.checks import default_examples
from amctc.testing.pass_checks import examine_pass, samples_for
from amctc.testing.properties import check_interface as check_output_types
from amctc.text import print_graph
from amctc.types import Array

Samples = list[dict[str, Array]]
PASSES = pass_names()
RUNNABLE = [name for name in PASSES if all(map(find_spec, pass_class(name).packages))]
"""Without those whose extra is not installed."""


@cache
def made(name: str) -> Pass:
    """The pass with its default options."""
    (item,) = Pipeline.parse(name).passes
    assert isinstance(item, Pass)
    return item


@cache
def stages() -> tuple[Pass, ...]:
    """The passes of the default preset, then those that run when its result is loaded."""
    passes = (*Pipeline.parse(str(load_preset("balanced"))).passes, *Pipeline.parse(COMPILE_FUSED).passes)
    return tuple(p for item in passes for p in once(item))


def once(item: Pass | Repeat) -> Sequence[Pass]:
    """The passes of one round: what is repeated for a fixpoint does most of its work in the first."""
    return [p for inner in item.body for p in once(inner)] if isinstance(item, Repeat) else [item]


def run(item: Pass, graph: Graph, samples: Samples) -> Graph:
    return Pipeline((item,)).run(graph, Context(samples=samples)).graph


def all_stages(graph: Graph, samples: Samples) -> list[Graph]:
    """The graph before each stage, and at the end."""
    found = [graph]
    for item in stages():
        found.append(run(item, found[-1], samples))
    return found


_staged: dict[str, list[Graph]] = {}


def network_stages(network: Graph, samples: Samples) -> list[Graph]:
    """The stages of a network, made once: graphs do not change."""
    if network.name not in _staged:
        _staged[network.name] = all_stages(network, samples)
    return _staged[network.name]


def accepted(item: Pass, staged: Sequence[Graph]) -> list[Graph]:
    """The graphs that meet what a pass requires."""
    return [g for g in staged if all(f.violation(g) is None for f in item.contract.requires)]


@pytest.mark.parametrize("name", RUNNABLE)
def test_contract_on_networks(name: str, network: Graph, samples: Samples) -> None:
    graphs_taken = accepted(made(name), network_stages(network, samples))
    assert graphs_taken, "no stage of the default pipeline gives a graph this pass takes"
    for graph in {print_graph(g): g for g in graphs_taken}.values():
        examine_pass(made(name), graph, samples)


@pytest.mark.parametrize("name", [n for n in PASSES if made(n).contract.requires])
def test_what_is_required_is_checked(name: str, network: Graph, samples: Samples) -> None:
    item, staged = made(name), network_stages(network, samples)
    refused = [g for g in staged if g not in accepted(item, staged)]
    assert refused, "every stage meets the requirements: they say nothing"
    for graph in refused:
        with pytest.raises(UsageError, match=f"pass {name}: the graph is not") as caught:
            run(item, graph, samples)
        assert caught.value.remedy


@pytest.mark.parametrize("name", PASSES)
def test_pass_is_documented(name: str) -> None:
    kind = pass_class(name)
    assert kind.name == name
    first = (kind.__doc__ or "").strip().split("\n")[0]
    assert first.endswith((".", ":", ","))
    assert not first.startswith(f"{kind.__name__}(")  # what dataclasses write when there is no docstring


# ----------------------------------------------------------------------------------------------------- drawn graphs


@pytest.mark.parametrize("name", RUNNABLE)
def test_contract_on_drawn_graphs(name: str) -> None:
    """Every pass finds something to do, in 50 graphs where time is no matter (``AMCTC_PROFILE=nightly``)."""
    changes = min(50, max(5, default_examples() // 12))
    check_pass(made(name), examples=max(10, default_examples() // 3), minimum_changes=changes, hash_seeds=False)


SCHEMES = {
    "a step per row": 'place-qdq{dynamic=["*"]},quantize-weights,quantize-bias,legalize,to-ascend,demote-float',
    "some weights only": 'observe,place-qdq{skip=["*"]},quantize-weights{weight-only=["*"]},legalize,to-ascend',
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_other_schemes_on_drawn_graphs(scheme: str) -> None:
    """What options ask for that no preset does: every pass behind them meets what they leave."""
    check_pipeline(SCHEMES[scheme], examples=max(20, default_examples() // 4), minimum_changes=5, hash_seeds=False)


def test_the_default_preset_on_drawn_graphs() -> None:
    """Every pass of it, each on what those before it made, and the same bytes under other hash seeds."""
    report = check_pipeline(str(load_preset("balanced")), examples=max(10, default_examples() // 4), minimum_changes=5)
    assert report.firings


@given(graphs(max_ops=6))
@settings(max_examples=max(10, settings().max_examples // 2))
def test_drawn_graphs_pass_the_whole_pipeline(graph: Graph) -> None:
    samples = samples_for(graph)
    with np.errstate(all="ignore"):
        try:
            FloatSession(graph).run(samples[0])
        except UnsupportedError:  # window padding as large as the kernel, output padding as large as the stride
            reject()
        try:
            staged = all_stages(graph, samples)
        except InputError as error:  # drawn weights overflow in calibration
            if "NaN, an infinity" not in str(error):
                raise
            reject()
        outputs = evaluate(staged[-1], samples[0], {**ascend_table(load_profile(DEFAULT_TARGET)), **CARRIED})
    frozen = {i for i in graph.inputs if i.default is not None}
    for before, after in pairwise(staged):
        check_output_types(before, after, frozen - set(after.inputs))
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        assert outputs[name].dtype == value.type.elem.dtype
        assert outputs[name].ndim == value.type.rank


# ------------------------------------------------------------------------------------------------------ text of passes


def options_of(name: str) -> st.SearchStrategy[PassSpec]:
    """The pass with drawn options: what its fields accept."""
    kind = pass_class(name)
    hints = typing.get_type_hints(kind)
    fields = [f.name for f in dataclasses.fields(kind)]
    given_ = st.fixed_dictionaries({}, optional={f: value_of(hints[f]) for f in fields})
    return given_.map(lambda d: PassSpec(name, tuple((k.replace("_", "-"), v) for k, v in d.items())))


def value_of(hint: typing.Any) -> st.SearchStrategy[typing.Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(value_of(arguments[0]), max_size=3).map(tuple)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(value_of, arguments))
    plain = {
        types.NoneType: st.none(),
        bool: st.booleans(), str: st.text(max_size=6), float: st.floats(allow_nan=False),
        int: st.sampled_from((0, 1, 4, 8, 16, 256, 4096)) | st.integers(),
    }  # fmt: skip
    return plain[hint]


@pytest.mark.parametrize("name", PASSES)
@given(st.data())
def test_text_round_trip(name: str, data: st.DataObject) -> None:
    text = print_specs((data.draw(options_of(name)),))
    try:
        pipeline = Pipeline.parse(text)
    except UsageError as error:  # a value that the pass itself refuses, marked in the text
        assert "^" in (error.detail or "")  # noqa: PT017
        return
    assert Pipeline.parse(str(pipeline)) == pipeline
    assert str(Pipeline.parse(str(pipeline))) == str(pipeline)


@pytest.mark.parametrize("name", PASSES)
def test_defaults_are_not_printed(name: str) -> None:
    item = made(name)
    assert all(f.default is not dataclasses.MISSING for f in dataclasses.fields(item)), "an option without a default"
    assert option_values(item) == ()
    assert str(Pipeline((item,))) == name


@pytest.mark.parametrize("name", PASSES)
def test_unknown_option_is_marked(name: str) -> None:
    text = f"drop-identity, {name}{{no-such-option=1}}"
    with pytest.raises(UsageError, match="no option 'no-such-option'") as caught:
        Pipeline.parse(text)
    column = text.index("no-such-option")
    assert caught.value.where == f"pipeline column {column + 1}"
    shown, caret = (caught.value.detail or "").split("\n")
    assert shown[caret.index("^") :].startswith("no-such-option")


@pytest.mark.parametrize("name", [n for n in PASSES if dataclasses.fields(pass_class(n))])
def test_wrong_value_lists_the_options(name: str) -> None:
    for field in dataclasses.fields(pass_class(name)):
        option = field.name.replace("_", "-")
        with pytest.raises(UsageError) as caught:
            Pipeline.parse(f"{name}{{{option}=[[x]]}}")
        assert f"option {option!r} of {name!r} wants" in str(caught.value)
        assert all(
            f.name.replace("_", "-") in (caught.value.remedy or "") for f in dataclasses.fields(pass_class(name))
        )
