"""The flow's contract: invertible, and the log-determinant is that of the Jacobian."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clflow.model.flow import Flow


def make(channels: int, steps: int, coupling: str, seed: int) -> Flow:
    flow = Flow(channels, steps, hidden_ratio=2.0, coupling=coupling, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # an untrained flow is the identity, which would prove little
        for parameter in flow.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return flow


flows = given(
    channels=st.integers(2, 9),
    steps=st.integers(1, 4),
    coupling=st.sampled_from(["additive", "affine"]),
    seed=st.integers(0, 2**16),
)


@flows
@settings(max_examples=25, deadline=None)
def test_inverse_undoes_forward(channels: int, steps: int, coupling: str, seed: int):
    flow = make(channels, steps, coupling, seed)
    x = torch.randn(5, channels, dtype=torch.float64)
    z, logdet = flow(x)
    back, inverse_logdet = flow.inverse(z)
    torch.testing.assert_close(back, x, atol=1e-8, rtol=0)
    torch.testing.assert_close(inverse_logdet, -logdet, atol=1e-8, rtol=0)


@flows
@settings(max_examples=25, deadline=None)
def test_logdet_is_that_of_the_jacobian(channels: int, steps: int, coupling: str, seed: int):
    flow = make(channels, steps, coupling, seed)
    x = torch.randn(3, channels, dtype=torch.float64)
    _, logdet = flow(x)
    for row, value in zip(x, logdet, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda r: flow(r[None])[0][0], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, value, atol=1e-8, rtol=0)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_seed_determines_the_flow_and_global_generators_are_left_alone(seed: int):
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.rand(1), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    first, second = make(6, 2, "additive", seed), make(6, 2, "additive", seed)
    assert (torch.rand(1), np.random.rand()) == before
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    other = make(6, 2, "additive", seed + 1)
    assert any(not torch.equal(v, other.state_dict()[k]) for k, v in first.state_dict().items())


def test_untrained_flow_is_the_identity_up_to_order():
    x = torch.randn(50, 6)
    z, logdet = Flow(6, 3, hidden_ratio=1.0, coupling="additive", seed=0)(x)
    torch.testing.assert_close(z.sort(dim=1).values, x.sort(dim=1).values)
    assert (logdet == 0).all()


def test_additive_couplings_scale_all_positions_alike():
    for coupling, alike in (("additive", True), ("affine", False)):
        _, logdet = make(6, 3, coupling, 0)(torch.randn(50, 6, dtype=torch.float64) * 10)
        assert (logdet.std() < 1e-9) == alike


def test_positions_do_not_see_each_other():
    flow = make(6, 3, "additive", 0)
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(flow(x)[0][2:], flow(x[2:])[0])
