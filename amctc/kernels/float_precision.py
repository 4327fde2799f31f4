"""How the float kernels choose their arithmetic: in the type given, float16 through float32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, cast

import numpy as np
from numpy.typing import NDArray

from amctc.kernels.half_precision import narrow, widen

Array = NDArray[Any]
P = ParamSpec("P")


def rounds_once(kernel: Callable[P, Array]) -> Callable[P, Array]:
    """Decorate a float kernel: IEEE special values are silent, float16 is computed in float32 and rounded once (N26).

    Only positional array arguments are looked at; when one is float16, all float16 ones are widened and the result
    is rounded to float16, half to even, overflow to infinity.
    """

    @functools.wraps(kernel)
    def rounded(*args: P.args, **kwargs: P.kwargs) -> Array:
        with np.errstate(all="ignore"):
            if not any(_is_half(a) for a in args):
                return np.asarray(kernel(*args, **kwargs))
            widened = [widen(np.asarray(a)) if _is_half(a) else a for a in args]
            return narrow(np.asarray(cast(Callable[..., Array], kernel)(*widened, **kwargs)), "inf")

    return rounded


def _is_half(value: object) -> bool:
    return isinstance(value, np.ndarray | np.generic) and value.dtype == np.float16


def gapless(x: Array) -> Array:
    """``x`` when its elements fill memory without gaps in some axis order, else such a copy.

    A strided loop may take another code path of NumPy's transcendental functions than a contiguous one; after this
    the bits of a result do not depend on the layout.
    """
    if x.flags.c_contiguous or (x.ndim > 1 and np.moveaxis(x, 1, -1).flags.c_contiguous):
        return x
    return np.ascontiguousarray(x)
