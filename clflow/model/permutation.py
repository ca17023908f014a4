"""The permutation of channels between couplings."""

from __future__ import annotations

import FrEIA.modules as fm
from torch import Tensor


class Permutation(fm.PermuteRandom):
    """FrEIA's random permutation, with `index_select` in place of advanced indexing, a fifth of the time on a CPU."""

    def forward(self, x: tuple[Tensor], rev: bool = False, jac: bool = True) -> tuple[list[Tensor], float]:
        """Rows (N, C) with permuted columns, or permuted back; the log-determinant is zero."""
        columns = self.perm_inv if rev else self.perm
        assert isinstance(columns, Tensor), "FrEIA has made a parameter of it"
        return [x[0].index_select(1, columns)], 0.0
