"""Whitening: what it makes of the features it was fitted to, its log-determinant, and how it is stored."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clflow.model.whitening import GlobalWhitening, LayoutWhitening

H, W, K = 4, 5, 6


def images(count: int, seed: int = 0) -> Tensor:
    """Features (N, h, w, K), each position with a mean and a covariance of its own, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(K) + 0.3 * torch.randn(H, W, K, K, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(count, H, W, K, generator=generator)
    return ((noise[..., None, :] @ mixing).squeeze(-2) + torch.arange(W)[:, None]).double()


def fitted(shrinkage: float, features: Tensor, at_once: int = 16) -> LayoutWhitening:
    def chunks() -> Iterator[Tensor]:
        return iter(features.float().split(at_once))

    layout = LayoutWhitening(H, W, K, shrinkage)
    layout.fit(chunks, len(features))
    return layout


def expected(shrinkage: float, features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (h, w, K) and covariance (h, w, K, K) of each position, by the definition, one position at a time."""

    def over_window(values: Tensor) -> Tensor:
        means = torch.empty_like(values)
        for row in range(H):
            for column in range(W):
                window = values[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                means[row, column] = window.mean(dim=(0, 1))
        return means

    mean = over_window(features.mean(dim=0))
    centred = features - mean
    own = torch.einsum("nhwi,nhwj->hwij", centred, centred) / len(features)
    covariance = 0.5 * own + 0.5 * over_window(own)
    shrinkage = min(1, shrinkage * max(1, K / len(features)) ** 1.5)
    return mean, (1 - shrinkage) * covariance + shrinkage * torch.eye(K, dtype=torch.float64)


@given(shrinkage=st.floats(0.05, 1), count=st.integers(1, 40), seed=st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_each_position_is_whitened_by_its_own_shrunk_gaussian(shrinkage: float, count: int, seed: int):
    """Squared length and log-determinant are those of the Gaussian, for images that it was not fitted to."""
    features, others = images(count, seed), images(3, seed + 1)
    layout = fitted(shrinkage, features)
    mean, covariance = expected(shrinkage, features)
    white = layout(others.float()).double()
    gaussian = torch.distributions.MultivariateNormal(mean, covariance)
    density = -0.5 * white.square().sum(-1) + layout.logdet.double()
    constant = -0.5 * K * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
    torch.testing.assert_close(density + constant, gaussian.log_prob(others), rtol=5e-3, atol=5e-2)


def test_positions_and_images_do_not_see_each_other():
    layout, features = fitted(0.1, images(30)), images(4, 1).float()
    changed = features.clone()
    changed[1, 2, 3] += 5
    differs = (layout(changed) != layout(features)).any(dim=-1)
    assert differs.nonzero().tolist() == [[1, 2, 3]]


def test_chunks_do_not_matter():
    features = images(30)
    one, few = fitted(0.1, features, at_once=30), fitted(0.1, features, at_once=7)
    torch.testing.assert_close(one(features.float()), few(features.float()), rtol=1e-2, atol=1e-3)


def test_full_shrinkage_leaves_the_mean_alone():
    features = images(30)
    layout = fitted(1.0, features)
    torch.testing.assert_close(layout(features.float()), (features - layout.mean).float(), rtol=1e-3, atol=1e-3)
    assert (layout.logdet == 0).all()


def test_it_is_stored_in_half_precision_and_computes_the_same_when_it_is_read():
    layout, features = fitted(0.1, images(30)), images(2, 1).float()
    state = layout.state_dict()
    assert state["top"].dtype == state["bottom"].dtype == torch.float16
    again = LayoutWhitening(H, W, K, 0.1)
    again.load_state_dict(state)
    assert torch.equal(again(features), layout(features))
    assert again.top.dtype == torch.float32


@pytest.mark.parametrize("kept", [6, 4])
def test_global_whitening_keeps_what_varies_most(kept: int):
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7) + 5
    x[:, 1] += x[:, 0]
    whitening = GlobalWhitening(6, kept)
    whitening.fit(x.mean(dim=0).double(), x.T.cov().double())
    covariance = whitening(x).T.cov()
    assert covariance.shape == (kept, kept)
    assert (covariance - covariance.diagonal().diag()).abs().max() < 1e-3
    assert covariance.diagonal().min() > 0.5 and covariance.diagonal().max() < 1.01  # shrunk, so never above one
    all_axes = GlobalWhitening(6, 6)
    all_axes.fit(x.mean(dim=0).double(), x.T.cov().double())
    torch.testing.assert_close(whitening(x), all_axes(x)[:, 6 - kept :])
