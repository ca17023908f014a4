"""The permutation of channels between couplings."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from FrEIA.modules.base import InvertibleModule
from torch import Tensor


class Unshuffle(InvertibleModule):
    """Even channels first, then the odd ones: the perfect unshuffle, which no seed determines.

    With one before each coupling, the k-th coupling sets channels apart by the k-th binary digit of their number. So
    each halves the whitened directions evenly, from the least variance to the most, and those that are near each other
    are soon set apart; random permutations do so only on average.
    """

    order: Tensor
    back: Tensor

    def __init__(self, dims_in: Iterable[tuple[int]]):
        super().__init__(dims_in)
        channels = torch.arange(self.dims_in[0][0])
        order = torch.cat([channels[0::2], channels[1::2]])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    # The log-determinant is a number, which FrEIA adds as well as it does tensors, and accelerators need not start.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x_or_z: tuple[Tensor], c: None = None, rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor], float]:
        """Rows (N, C) with unshuffled columns, or shuffled back; the log-determinant is zero."""
        # Not advanced indexing, which takes five times as long on a CPU.
        return (x_or_z[0].index_select(1, self.back if rev else self.order),), 0.0

    def output_dims(self, input_dims: list[tuple[int]]) -> list[tuple[int]]:
        """Those of the input."""
        return input_dims
