"""Products of integers, as segments for ONNX Runtime have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from amctc.ir import Value

Array = np.ndarray[Any, Any]

ONE = np.float32(1)


@dataclass(frozen=True, eq=False)
class Product:
    """A convolution (``weight`` ``[O, I/group, kh, kw]``) or matrix product (``[K, N]``) of a segment.

    ``x`` are its data, ``offset_x`` the int8 that means 0, ``bias`` its int32 bias without the fold of N8.
    """

    x: Value
    weight: Array
    bias: Array
    offset_x: int
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    group: int = 1

    @property
    def is_conv(self) -> bool:
        """Whether it slides over two spatial axes."""
        return self.weight.ndim == 4

    @property
    def outputs(self) -> int:
        """Output channels."""
        return int(self.weight.shape[0] if self.is_conv else self.weight.shape[1])

    @property
    def columns(self) -> Array:
        """The weight as the matrix that patches are multiplied with: kernel positions outermost, channels inside."""
        if not self.is_conv:
            return self.weight
        return self.weight.transpose(2, 3, 1, 0).reshape(-1, self.outputs)
