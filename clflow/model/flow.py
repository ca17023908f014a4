"""The 2D normalizing flow: affine couplings (Glow, arXiv 1807.03039) shared by all positions of a feature map.

The couplings' subnetworks see one position at a time (1x1 kernels, as rows of a matrix product); context comes from
the features, which are pooled over their neighbourhood. So training may draw positions freely instead of images,
and the log-determinant belongs to a position, which makes it part of the score map.
"""

from __future__ import annotations

import FrEIA.framework as ff
import FrEIA.modules as fm
import numpy as np
import torch
from torch import Tensor, nn


class Flow(nn.Module):
    """Invertible map between features and a standard normal latent; its first layer standardises each channel.

    Args:
        channels: C, features per position.
        coupling_steps: number of (random permutation, coupling) pairs.
        hidden_ratio: hidden units of a subnetwork, relative to C.
        clamp: bound of the log-scale of one coupling.
        seed: of the permutations and the initial weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, coupling_steps: int, hidden_ratio: float, clamp: float, seed: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        hidden = max(1, round(channels * hidden_ratio))

        def subnet(inputs: int, outputs: int) -> nn.Module:
            last = nn.Linear(hidden, outputs)
            nn.init.zeros_(last.weight)  # the flow begins as the identity, up to order (Glow, section 3.3)
            nn.init.zeros_(last.bias)
            return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last)

        numpy_state = np.random.get_state()  # FrEIA seeds NumPy's global generator for its permutations
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = ff.SequenceINN(channels)
            for step in range(coupling_steps):
                self.net.append(fm.PermuteRandom, seed=seed * coupling_steps + step)
                self.net.append(fm.GLOWCouplingBlock, subnet_constructor=subnet, clamp=clamp)
        np.random.set_state(numpy_state)

    def standardise(self, mean_c: Tensor, std_c: Tensor) -> None:
        """Set the first layer to the normal training features' mean and standard deviation, both (C,)."""
        self.mean.copy_(mean_c)
        self.std.copy_(std_c)

    def forward(self, x_nc: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (N, C) and log-determinant of the Jacobian (N,) of N positions."""
        z_nc, logdet_n = self.net((x_nc - self.mean) / self.std)
        return z_nc, logdet_n - self.std.log().sum()

    def inverse(self, z_nc: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, C) of latents, and the log-determinant (N,) of this inverse map."""
        x_nc, logdet_n = self.net(z_nc, rev=True)
        return x_nc * self.std + self.mean, logdet_n + self.std.log().sum()

    def parameter_count(self) -> int:
        """Trainable parameters: what the method adds to the backbone."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
