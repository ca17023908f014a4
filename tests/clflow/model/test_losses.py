"""What each loss attracts and repels, and that no push is unbounded."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from clflow.model.losses import (
    box_contrast,
    hardest_mean,
    likelihood_margin,
    negative_log_likelihood,
    proxy_classification,
)


def test_first_loss_is_the_gaussian_likelihood_per_dimension():
    z, logdet = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(torch.zeros(5).double(), torch.eye(5).double())
    expected = -(normal.log_prob(z) + logdet) / 5
    constant = 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(negative_log_likelihood(z, logdet), expected - constant)


def test_hardest_are_the_least_likely_share_of_positions():
    unlikely = torch.tensor([3.0, -1.0, 0.0, 10.0, 2.0, 1.0, 4.0, -3.0, 5.0, -1.0], requires_grad=True)
    assert hardest_mean(unlikely, 0.2).item() == pytest.approx(7.5)
    assert hardest_mean(unlikely, 0.01).item() == pytest.approx(10)
    hardest_mean(unlikely, 0.2).backward()
    assert unlikely.grad is not None
    expected = torch.zeros(10)
    expected[[3, 8]] = 0.5
    torch.testing.assert_close(unlikely.grad, expected)


@given(
    scores=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=50),
    fractions=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
)
def test_hardest_lie_between_the_mean_and_the_most_unlikely(scores: list[float], fractions: tuple[float, float]):
    unlikely = torch.tensor(scores, dtype=torch.float64)
    less, more = (hardest_mean(unlikely, fraction).item() for fraction in sorted(fractions, reverse=True))
    assert unlikely.mean().item() - 1e-9 <= less <= more + 1e-9
    assert more <= unlikely.max().item() + 1e-9


def test_contrast_is_zero_for_agreeing_normals_and_orthogonal_anomalies():
    normal = torch.tensor([1.0, 0.0]).expand(3, 4, 2)
    anomalous = torch.tensor([0.0, 1.0]).expand(3, 4, 2)
    assert box_contrast(normal, anomalous).item() == pytest.approx(0, abs=1e-6)
    assert box_contrast(normal, normal).item() == pytest.approx(1, abs=1e-6)
    assert box_contrast(normal, -normal).item() == pytest.approx(0, abs=1e-6)  # no reward beyond orthogonal


def test_contrast_does_not_reward_length():
    normal, anomalous = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    torch.testing.assert_close(box_contrast(normal, anomalous), box_contrast(normal, 100 * anomalous))


def test_proxy_pushes_anomalies_out_to_a_finite_distance_only():
    smoothing, temperature = 0.1, 0.25
    normal = torch.linspace(0, 1, 101)
    boundary = 0.9
    optimum = boundary + temperature * math.log((2 - smoothing) / smoothing)

    def loss_and_slope(score: float) -> tuple[float, float]:
        anomalous = torch.tensor([score], requires_grad=True)
        loss = proxy_classification(normal, anomalous, smoothing, boundary, temperature)
        loss.backward()
        assert anomalous.grad is not None
        return loss.item(), anomalous.grad.item()

    assert loss_and_slope(boundary)[1] < 0
    assert loss_and_slope(optimum)[1] == pytest.approx(0, abs=1e-5)
    assert loss_and_slope(optimum + 1)[1] > 0
    assert loss_and_slope(optimum + 100)[1] == 0


def test_proxy_is_cross_entropy_of_two_classes_smoothed_for_anomalies_only():
    normal, anomalous = torch.randn(50), torch.randn(20) + 2
    boundary = torch.quantile(normal, 0.98)
    logits = torch.cat([normal, anomalous]) - boundary
    two = torch.stack([-logits / 2, logits / 2], dim=1)
    labels = torch.tensor([0] * 50 + [1] * 20)
    normal_loss = F.cross_entropy(two[:50], labels[:50])
    anomalous_loss = F.cross_entropy(two[50:], labels[50:], label_smoothing=0.2)
    expected = (normal_loss + anomalous_loss) / 2
    torch.testing.assert_close(proxy_classification(normal, anomalous, 0.2, 0.98, 1.0), expected)


def test_margin_pushes_anomalies_beyond_the_boundary_and_no_further():
    normal = torch.linspace(0, 1, 101)
    anomalous = torch.tensor([0.5, 1.3, 1.5, 40.0], requires_grad=True)
    loss = likelihood_margin(normal, anomalous, 0.9, margin=0.5)
    loss.backward()
    assert loss.item() == pytest.approx((0.9 + 0.1) / 4)
    assert anomalous.grad is not None and anomalous.grad.tolist() == [-0.25, -0.25, 0.0, 0.0]
