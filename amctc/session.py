"""Run a model: float and QDQ graphs in ONNX Runtime, deploy models bit for bit as the target would."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

from amctc.calibrate.samples import InputSpec
from amctc.errors import UsageError
from amctc.execution import DEFAULT_EXECUTOR, plan_for, require_executor
from amctc.frontends.onnx_file import load
from amctc.interp import Plan, fed
from amctc.ir import Graph
from amctc.onnx_bridge.deploy_form import TARGET_KEY as TARGET_KEY
from amctc.onnx_bridge.lookups import quantizes_at_run_time
from amctc.onnx_bridge.runtime import FloatSession
from amctc.onnx_bridge.value_sizes import require_sizes
from amctc.ops import ascend, quant
from amctc.pipeline import Context, Pipeline
from amctc.targets import Profile, load_profile
from amctc.types import Array

FUSION_KEY = "amctc.fusion"
"""Metadata of a deploy file: whether its chip's compiler will fuse it (N18)."""

COMPILE = "recompose,demote-float,pack-constants"
COMPILE_FUSED = f"fuse-requant,{COMPILE}"
"""What the target's graph compiler does to a deploy file before it runs (N18, N19, N26).

The file holds the formula of a function that its opset lacks: found again, it rounds to float16 once, as before it was
written.
"""


class Session:
    """A model ready to run.

    ``model`` is a path or a graph. A deploy model is compiled as its target would (``fusion=False`` leaves out the
    fusions) and run by the integer interpreter; ``target`` is read from the file's metadata unless given. Float and
    QDQ models run in ONNX Runtime on ``provider``. ``executor`` says what computes a deploy model, one of
    :data:`amctc.execution.EXECUTORS`; the bits are the same. Raises :class:`UsageError` for a deploy file of which
    nobody says the target, and for an unknown executor. ``overflows`` counts accumulators outside int32 per layer over
    all runs (N7).
    """

    def __init__(
        self, model: str | PathLike[str] | Graph, *, target: str | Profile | None = None, fusion: bool | None = None,
        provider: str = "cpu", executor: str = DEFAULT_EXECUTOR,
    ) -> None:  # fmt: skip
        require_executor(executor)
        graph = model if isinstance(model, Graph) else load(model)
        self.kind = graph_kind(graph)
        self.target: Profile | None = None
        self.overflows: dict[str, int] = {}
        self.inputs = input_specs(graph)
        self.output_names = graph.output_names
        if self.kind == "deploy":
            metadata = dict(graph.metadata)
            self.target = _profile(target or metadata.get(TARGET_KEY), model)
            fused = fusion if fusion is not None else metadata.get(FUSION_KEY, "on") != "off"
            self.graph = compiled(graph, self.target, fusion=fused)
            require_sizes(self.graph)
            self._run: Plan | FloatSession = plan_for(self.graph, self.target, executor, on_overflow=self._overflowed)
        else:
            self.graph = graph
            self._run = FloatSession(graph, optimise=self.kind == "float", provider=provider)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for one batch of inputs by name; :class:`InputError` for inputs that do not fit."""
        return self._run.run({value.name: array for value, array in fed(self.graph, feeds).items()})

    @property
    def plan(self) -> Plan | None:
        """The steps that a deploy model is run in; ``None`` for a model that ONNX Runtime runs."""
        return self._run if isinstance(self._run, Plan) else None

    def _overflowed(self, layer: str, count: int) -> None:
        self.overflows[layer] = self.overflows.get(layer, 0) + count


def graph_kind(graph: Graph) -> str:
    """``deploy`` for a graph made for a target, ``qdq`` for one with quantizers of its data, else ``float``.

    The file says its target also where no layer is left in integers: what it computes in float is float16 there.
    """
    if TARGET_KEY in dict(graph.metadata) or any(isinstance(op.kind, ascend.KINDS) for op in graph.ops):
        return "deploy"
    if not any(isinstance(op.kind, quant.Quantize | quant.Dequantize) for op in graph.ops):
        return "float"
    return "float" if quantizes_at_run_time(graph) else "qdq"


def input_specs(graph: Graph) -> tuple[InputSpec, ...]:
    """What the samples for a graph must look like; inputs with a default need none, those without a rank have none."""
    fed = (v for v in graph.inputs if v.default is None and v.type.shape is not None)
    return tuple(InputSpec(v.name, v.type.dims, v.type.elem.dtype) for v in fed)


def compiled(graph: Graph, target: Profile, *, fusion: bool = True) -> Graph:
    """A deploy graph after the target's graph compiler."""
    pipeline = Pipeline.parse(COMPILE_FUSED if fusion else COMPILE)
    return pipeline.run(graph, Context(target=target)).graph


def _profile(target: str | Profile | None, model: object) -> Profile:
    if isinstance(target, Profile):
        return target
    if not target:
        where = str(model) if isinstance(model, str | PathLike) else None
        raise UsageError("the deploy model does not say its target", where=where,
                         remedy='name it: Session(model, target="ascend910b1"), or --target')  # fmt: skip
    return load_profile(target)
