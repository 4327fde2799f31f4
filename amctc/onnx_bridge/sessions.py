"""Sessions of ONNX Runtime on models as they are: how they are opened, and what the runtime may refuse."""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnxruntime

from amctc.errors import UnsupportedError, UsageError, printable
from amctc.onnx_bridge.custom_ops import add_custom_ops, unknown_op

_FATAL = 4
_PROVIDER = "ExecutionProvider"
_CPU = f"CPU{_PROVIDER}"


def open_session(
    model: bytes | Path, *, optimise: bool = True, threads: int = 1, provider: str = "cpu", packed: bool = True,
    optimised_to: Path | None = None,
) -> onnxruntime.InferenceSession:  # fmt: skip
    """A session on serialized model bytes or a model file; what ``provider`` does not compute runs on the CPU.

    ``packed`` weights are copied into the form that its kernels are fastest with; others stay in the file, mapped.
    What it makes of the model is written to the file ``optimised_to``.
    Raises :class:`UnsupportedError` when the runtime refuses the model, :class:`UsageError` for a provider it lacks.
    """
    providers = list(dict.fromkeys((provider_name(provider), _CPU)))
    try:
        session = _started(model, optimise, threads, providers, packed, optimised_to)
    except Exception as error:  # the runtime's exception types are not stable across versions
        if (unknown := unknown_op(str(error), model.read_bytes() if isinstance(model, Path) else model)) is not None:
            raise unknown from None
        raise UnsupportedError(f"ONNX Runtime refuses the model: {printable(error, 300)}") from error
    if providers[0] not in session.get_providers():  # the runtime falls back to the CPU without an error
        raise UnsupportedError(f"ONNX Runtime cannot start its provider {provider!r} on this machine",
                               remedy="install its driver and libraries, or use --provider cpu")  # fmt: skip
    return session


def _started(
    model: bytes | Path, optimise: bool, threads: int, providers: list[str], packed: bool, optimised_to: Path | None
) -> onnxruntime.InferenceSession:
    """A session; without optimisation where that is what fails: some fusions lose a value that is an output."""
    options = onnxruntime.SessionOptions()
    add_custom_ops(options)
    options.log_severity_level = _FATAL
    options.enable_cpu_mem_arena = False  # it grows in powers of two, and a session never gives it back
    options.intra_op_num_threads = threads
    if optimised_to is not None:
        options.optimized_model_filepath = str(optimised_to)
    if not packed:
        options.add_session_config_entry("session.disable_prepacking", "1")
        # The level above lays weights out in blocks, in memory.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if optimise:
        with contextlib.suppress(Exception):
            return onnxruntime.InferenceSession(model, options, providers=providers)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Nodes in the order of the file. By default all that read no input come first: every weight is dequantized at once.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    return onnxruntime.InferenceSession(model, options, providers=providers)


def provider_name(provider: str) -> str:
    """ONNX Runtime's name of a provider written ``cpu``, ``cuda``, …; :class:`UsageError` lists those it has."""
    available: list[str] = onnxruntime.get_available_providers()
    there = {name.removesuffix(_PROVIDER).lower(): name for name in available}
    if provider.lower() not in there:
        raise UsageError(f"ONNX Runtime has no provider {provider!r} here", remedy=f"it has {', '.join(there)}")
    return there[provider.lower()]
