"""The 2D normalizing flow: couplings shared by all positions of a whitened feature map.

The couplings' subnetworks see one position at a time (1x1 kernels, as rows of a matrix product); context comes from
the features, which are pooled over their neighbourhood. So training may draw positions freely instead of images,
and the log-determinant belongs to a position, which makes it part of the score map.

Additive couplings (NICE, arXiv 1410.8516) scale all positions alike: what moves away from normal features can only
move away from the latent's origin, so gross defects do not outshine their own interior (arXiv 2510.09452). Affine
ones (Glow, arXiv 1807.03039) are there for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clflow.randomness import seeded

_CLAMP = 2.0  # bound of the log-scale of one affine coupling


class Flow(nn.Module):
    """Invertible map between white features and a standard normal latent; its last layer scales each channel.

    It begins as the identity, up to order, so training begins at the Gaussian that whitened the features.

    Args:
        channels: C, features per position.
        coupling_steps: number of (random permutation, coupling) pairs.
        hidden_ratio: hidden units of a subnetwork, relative to C.
        coupling: additive or affine.
        seed: of the permutations and the initial weights.
    """

    def __init__(self, channels: int, coupling_steps: int, hidden_ratio: float, coupling: str, seed: int):
        import FrEIA.framework as ff  # it takes more than a second, and few who name a flow build one
        import FrEIA.modules as fm

        from clflow.model.permutation import Permutation

        super().__init__()
        hidden = max(1, round(channels * hidden_ratio))

        def subnet(inputs: int, outputs: int) -> nn.Module:
            last = nn.Linear(hidden, outputs)
            nn.init.zeros_(last.weight)  # the flow begins as the identity, up to order (Glow, section 3.3)
            nn.init.zeros_(last.bias)
            return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last)

        with seeded(seed):  # FrEIA seeds NumPy's global generator for its permutations
            self.net = ff.SequenceINN(channels)
            for step in range(coupling_steps):
                self.net.append(Permutation, seed=seed * coupling_steps + step)
                if coupling == "additive":
                    self.net.append(fm.NICECouplingBlock, subnet_constructor=subnet)
                else:
                    self.net.append(fm.GLOWCouplingBlock, subnet_constructor=subnet, clamp=_CLAMP)
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def forward(self, x_nc: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (N, C) and log-determinant of the Jacobian (N,) of N positions."""
        z_nc, logdet = self.net(x_nc)  # additive couplings give one log-determinant for all positions
        logdet = logdet + self.log_scale.sum()
        # Not len(): an exported graph would then fix the number of positions.
        return z_nc * self.log_scale.exp(), logdet.expand(z_nc.shape[0])

    def inverse(self, z_nc: Tensor) -> tuple[Tensor, Tensor]:
        """White features (N, C) of latents, and the log-determinant (N,) of this inverse map."""
        x_nc, logdet = self.net(z_nc / self.log_scale.exp(), rev=True)
        return x_nc, (logdet - self.log_scale.sum()).expand(x_nc.shape[0])


class Flows(nn.Module):
    """Independent flows on the same features, whose scores are averaged to reduce seed noise (deep ensembles, arXiv
    1612.01474)."""

    members: list[Flow]

    def __init__(self, members: Sequence[Flow]):
        super().__init__()
        # A ModuleList does not tell the type of its modules, which the annotation above does.
        self.members = nn.ModuleList(members)  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x_nc: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Latent (N, C) and log-determinant of the Jacobian (N,) of N positions, for each flow."""
        return [flow(x_nc) for flow in self.members]
