"""Reports as JSON text: deterministic, and readable by any parser."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any


def json_text(value: Any) -> str:
    """Reports, or lists of them, as JSON; infinities as strings, keys in field order, the same bytes for the same run.

    A field that is ``None`` and whose metadata say ``optional`` is left out.
    """
    return json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if dataclasses.is_dataclass(value):
        kept = [f for f in dataclasses.fields(value) if not f.metadata.get("optional") or getattr(value, f.name)]
        return {f.name: _plain(getattr(value, f.name)) for f in kept}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
