"""CL-Flow's losses (arXiv 2311.06794), reconstructed: the paper names the terms, not their exact form.

All take positions as rows. The push on anomalies is bounded in all terms: a cosine ends at zero, a hinge at its
margin, and a smoothed cross-entropy has a finite optimum. An unbounded push on the likelihood diverges.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_FAR = 10.0


def negative_log_likelihood(z_nc: Tensor, logdet_n: Tensor) -> Tensor:
    """Negative log-likelihood (N,) under a standard normal latent, in nats per dimension, up to a constant."""
    return (0.5 * z_nc.pow(2).sum(dim=1) - logdet_n) / z_nc.shape[1]


def hardest_mean(nll_n: Tensor, fraction: float) -> Tensor:
    """Mean over the least likely fraction of positions, at least one.

    An image is scored by its least likely positions, so these are what must not be unlikely in normal ones. This is a
    conditional value at risk; EfficientAD (arXiv 2303.14535) mines hard features for the same reason.
    """
    return nll_n.topk(max(1, round(fraction * len(nll_n)))).values.mean()


def box_contrast(normal_pkc: Tensor, anomalous_pkc: Tensor) -> Tensor:
    """Contrast of P pairs, with cosine similarity F over latents of K positions of each surrogate box.

    The mean latents of the normal originals attract each other, and within a pair the box of the synthetic
    anomaly repels the same box of its original until the two are orthogonal.
    """
    normal, anomalous = normal_pkc.mean(dim=1), anomalous_pkc.mean(dim=1)
    attract = 1 - F.cosine_similarity(normal, normal.mean(dim=0, keepdim=True), dim=1)
    repel = F.cosine_similarity(normal, anomalous, dim=1).clamp(min=0)
    return attract.mean() + repel.mean()


def likelihood_margin(normal_n: Tensor, anomalous_m: Tensor, boundary_quantile: float, margin: float) -> Tensor:
    """Hinge that makes anomalies unlikely: up to boundary + margin of the negative log-likelihood, no further.

    The boundary is a high quantile of the batch's normal positions. This is the push of BGAD (arXiv 2207.01463);
    the pull on normal positions is the likelihood itself.
    """
    boundary = torch.quantile(normal_n.detach(), boundary_quantile)
    return F.relu(boundary + margin - anomalous_m).mean()


def proxy_classification(
    normal_n: Tensor, anomalous_m: Tensor, smoothing: float, boundary_quantile: float, temperature: float
) -> Tensor:
    """Label-smoothed cross-entropy of normal against synthetic anomalous positions, classified by their likelihood.

    The logit is the negative log-likelihood's distance to a boundary, a high quantile of the batch's normal positions
    (as in BGAD, arXiv 2207.01463), so no classifier is added. Smoothing by tau puts the optimal logit of anomalies at
    log((2 - tau) / tau): they are pushed to a bounded distance and no further. It is one-sided, for the smoothed
    target of normal positions would make the most normal ones less likely. Both classes weigh the same.
    """
    boundary = torch.quantile(normal_n.detach(), boundary_quantile)
    losses = []
    for scores, target in ((normal_n, 0.0), (anomalous_m, 1 - smoothing / 2)):
        # Positions that are far out already are left alone; pulling them back would outweigh all others.
        logits = ((scores - boundary) / temperature).clamp(-_FAR, _FAR)
        losses.append(F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target)))
    return (losses[0] + losses[1]) / 2
