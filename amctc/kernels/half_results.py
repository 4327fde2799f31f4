"""How a step gives its float16 results: as such, or to those that read it while it is in the cache.

Float16 is what the chip computes in, not what this machine does: every conversion to it and back costs more than the
arithmetic between. A result that only joined steps read is held as float32 that float16 can hold, and quantizers among
its readers take it before it leaves the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from amctc.kernels.half_precision import Float32, Overflow, narrow_tile, round_tile
from amctc.kernels.tiles import Array


class TileReader(NamedTuple):
    """What reads a tile of float16 numbers held as float32: ``fill(tile, out)``, which overwrites the tile."""

    dtype: DTypeLike
    fill: Callable[[Float32, Array], object]


@dataclass(frozen=True)
class HalfResult:
    """What becomes of a tile that is to be rounded to float16: ``fill(tile, *outs)``, an out for each of ``dtypes``.

    Without ``joined`` it is stored as float16. Otherwise it is rounded and stays float32, zeros as +0: the outs are the
    numbers themselves if ``held``, and what each of ``readers`` makes of them. So none may read it that tells -0 from
    +0, which a quantizer does not, nor a sum with what is no -0.
    """

    overflow: Overflow
    joined: bool = False
    held: bool = False
    readers: tuple[TileReader, ...] = ()

    @property
    def dtypes(self) -> tuple[DTypeLike, ...]:
        """Element types of the outs."""
        if not self.joined:
            return (np.float16,)
        return (*((np.float32,) if self.held else ()), *(reader.dtype for reader in self.readers))

    def fill(self, tile: Float32, outs: Sequence[Array], *, subnormal: bool = True) -> None:
        """``tile`` is overwritten; ``subnormal`` as for :func:`~amctc.kernels.half_precision.round_tile`."""
        if not self.joined:
            narrow_tile(tile, outs[0], self.overflow)
            return
        round_tile(tile, self.overflow, subnormal=subnormal)
        if self.held:
            outs[0][...] = tile
        last = len(self.readers) - 1
        for number, (reader, out) in enumerate(zip(self.readers, outs[self.held :], strict=True)):
            reader.fill(tile if number == last else tile.copy(), out)
