"""What a figure depends on: the processor, the BLAS library with its configuration, versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import threadpoolctl

PACKAGES = ("numpy", "onnx", "onnxruntime", "scipy")
BLAS_VARIABLES = ("OPENBLAS_", "OMP_", "MKL_", "GOTO_", "BLIS_")


def machine_lines() -> list[str]:
    """One line per fact, for people."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return [
        f"processor: {_processor()}, {os.cpu_count()} logical cores, load {os.getloadavg()[0]:.1f} when started",
        f"software: Python {platform.python_version()}, {versions}",
        *(f"BLAS: {_described(info)}" for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"),
        f"BLAS settings: {_settings() or 'none in the environment'}; one thread while measuring",
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text("utf-8").splitlines() if "model name" in line] \
        if info.exists() else []  # fmt: skip
    return names[0] if names else platform.processor() or platform.machine()


def _described(info: dict[str, object]) -> str:
    library = Path(str(info.get("filepath", ""))).name.split("-")[0]
    return f"{info.get('internal_api')} {info.get('version')}, kernels for {info.get('architecture')} ({library})"


def _settings() -> str:
    return ", ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(BLAS_VARIABLES))
