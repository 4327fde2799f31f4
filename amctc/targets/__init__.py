"""Target profiles: one immutable description per Ascend chip, each read from the TOML file beside this module.

>>> from amctc.targets import load_profile
>>> load_profile("ascend910b1").epilogue
'fixpipe'
"""

from __future__ import annotations

import functools
from pathlib import Path

from amctc.errors import UsageError
from amctc.targets.data_file import read_profile
from amctc.targets.profile import Choice, Profile, choice_values, nearest

__all__ = ["DEFAULT_TARGET", "Choice", "Profile", "choice_values", "load_profile", "profile_names", "read_profile"]

DEFAULT_TARGET = "ascend910b1"
"""The target whose rules are known best."""

_FOLDER = Path(__file__).parent


def profile_names() -> tuple[str, ...]:
    """The names of the shipped profiles, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_profile(name: str) -> Profile:
    """The shipped profile ``name``; case does not matter, so the ``atc`` spelling ``Ascend910B1`` works too.

    Its file is read once in a process, and all callers get the same profile: no part of one can be changed. Raises
    :class:`UsageError` with the nearest names for one that is not shipped. For a file of your own use
    :func:`read_profile`, which reads it anew each time.
    """
    known = profile_names()
    if name.lower() not in known:
        raise UsageError(f"unknown target {name!r}", remedy=nearest(name.lower(), [*known], "targets"))
    return _read_once(_FOLDER / f"{name.lower()}.toml")


_read_once = functools.cache(read_profile)
