"""The 2D normalizing flow: couplings shared by all positions of a feature map.

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
_SHRINKAGE = 0.1  # added to every variance of the standardised features before they are whitened


class Flow(nn.Module):
    """Invertible map between features and a standard normal latent.

    Its first layer whitens the features and is no parameter: it is computed from the normal training features, so that
    training begins at the Gaussian that fits them. The last one scales each channel.

    Args:
        channels: C, features per position.
        coupling_steps: number of (random permutation, coupling) pairs.
        hidden_ratio: hidden units of a subnetwork, relative to C.
        coupling: additive or affine.
        seed: of the permutations and the initial weights.
    """

    mean: Tensor
    whitening: Tensor
    whitening_logdet: Tensor

    def __init__(self, channels: int, coupling_steps: int, hidden_ratio: float, coupling: str, seed: int):
        import FrEIA.framework as ff  # it takes more than a second, and few who name a flow build one
        import FrEIA.modules as fm

        from clflow.model.permutation import Permutation

        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("whitening", torch.eye(channels))
        self.register_buffer("whitening_logdet", torch.zeros(()))
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

    def whiten(self, mean_c: Tensor, covariance_cc: Tensor) -> None:
        """Set the first layer by the normal training features' mean (C,) and covariance (C, C), double precision.

        Channels are standardised first, so that the shrinkage of the covariance weighs all of them alike.
        """
        std = covariance_cc.diagonal().sqrt()
        # A channel that hardly ever changes in normal images must not outweigh all others as soon as it does.
        std = std.clamp(min=0.1 * std.median())
        variance, axes = torch.linalg.eigh(covariance_cc / std[:, None] / std)
        variance = variance.clamp(min=0) + _SHRINKAGE
        self.mean.copy_(mean_c)
        self.whitening.copy_(axes / variance.sqrt() / std[:, None])
        self.whitening_logdet.copy_(-std.log().sum() - 0.5 * variance.log().sum())

    def forward(self, x_nc: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (N, C) and log-determinant of the Jacobian (N,) of N positions."""
        with torch.autocast(x_nc.device.type, enabled=False):  # low precision is for the subnetworks alone
            white_nc = (x_nc - self.mean) @ self.whitening
        z_nc, logdet = self.net(white_nc)  # additive couplings give one log-determinant for all positions
        logdet = logdet + self.log_scale.sum() + self.whitening_logdet
        # Not len(): an exported graph would then fix the number of positions.
        return z_nc * self.log_scale.exp(), logdet.expand(z_nc.shape[0])

    def inverse(self, z_nc: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, C) of latents, and the log-determinant (N,) of this inverse map."""
        white_nc, logdet = self.net(z_nc / self.log_scale.exp(), rev=True)
        x_nc = torch.linalg.solve(self.whitening, white_nc, left=False) + self.mean
        return x_nc, (logdet - self.log_scale.sum() - self.whitening_logdet).expand(x_nc.shape[0])


class Flows(nn.Module):
    """Flows of the same features that know nothing of each other, whose scores are averaged (deep ensembles, arXiv
    1612.01474): where a training ends is chance for a good part, and the mean has less of it."""

    members: list[Flow]

    def __init__(self, members: Sequence[Flow]):
        super().__init__()
        # A ModuleList does not tell the type of its modules, which the annotation above does.
        self.members = nn.ModuleList(members)  # pyright: ignore[reportAttributeAccessIssue]

    def whiten(self, mean_c: Tensor, covariance_cc: Tensor) -> None:
        """See `Flow.whiten`."""
        for flow in self.members:
            flow.whiten(mean_c, covariance_cc)

    def forward(self, x_nc: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each flow, latent (N, C) and log-determinant of the Jacobian (N,) of N positions."""
        return [flow(x_nc) for flow in self.members]
