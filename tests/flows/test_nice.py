"""What 1410.8516 claims of NICE, asserted."""

import math

import pytest
import torch
from torch import nn

from gdm_lib.bijections import Dequantise, StandardNormal
from gdm_lib.flows import nice as paper
from gdm_lib.flows.nice import NICE, AdditiveCoupling, DiagonalScale, StandardLogistic, inpaint
from gdm_lib.protocols import LikelihoodModel
from tests.helpers import seeded


def small(shape=(5,), **kwargs) -> NICE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NICE(shape, hidden=(16,), **kwargs).double()
        for p in model.parameters():
            p.data += 0.3 * torch.randn_like(p)
    return model


def test_keeps_the_contract():
    model = small()
    assert isinstance(model, LikelihoodModel)
    assert model.bound is False
    assert paper.ARXIV == "1410.8516"
    assert small((1, 2, 3)).sample(4, generator=seeded()).shape == (4, 1, 2, 3)


def test_the_logdet_is_the_sum_of_the_log_scales_and_nothing_else():
    model = small()
    x = 100 * torch.randn(7, 5, generator=seeded(), dtype=torch.float64)
    _, logdet = model.bijection(x)
    scale = model.bijection.parts[-1]
    assert isinstance(scale, DiagonalScale)
    torch.testing.assert_close(logdet, scale.log_scale.sum().expand(7))


@pytest.mark.parametrize("odd", [False, True])
def test_a_coupling_is_additive_and_keeps_one_half(odd):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        coupling = AdditiveCoupling(6, nn.Linear(3, 3), odd=odd)
    x = torch.randn(4, 6, generator=seeded())
    with torch.no_grad():
        z, logdet = coupling(x)
        shifted, _ = coupling(x + torch.tensor([0.0, 1.0] if not odd else [1.0, 0.0]).repeat(3))
    kept, changed = (
        (slice(1, None, 2), slice(0, None, 2)) if odd else (slice(0, None, 2), slice(1, None, 2))
    )
    assert torch.equal(z[:, kept], x[:, kept])
    torch.testing.assert_close(z[:, changed] - x[:, changed], coupling.net(x[:, kept]).detach())
    # What is added to x_I2 comes through unscaled: affine couplings would fail here.
    torch.testing.assert_close(shifted[:, changed] - z[:, changed], torch.ones(4, 3))
    assert torch.equal(logdet, torch.zeros(4))


def test_three_couplings_are_needed_for_each_dimension_to_act_on_each():
    """Section 3.2 says so: with two, the half that moved last was blind to itself."""

    def jacobian(couplings: int) -> torch.Tensor:
        model = small((4,), couplings=couplings)
        x = torch.randn(1, 4, generator=seeded(), dtype=torch.float64)
        return torch.autograd.functional.jacobian(lambda v: model.bijection(v)[0], x)[0, :, 0]

    off = ~torch.eye(4, dtype=torch.bool)
    assert (jacobian(2)[off] == 0).any()
    assert (jacobian(3)[off] != 0).all()


@pytest.mark.parametrize("prior", [StandardLogistic, StandardNormal])
def test_samples_come_from_the_prior_that_was_trained_on(prior):
    """Their mean log-density equals minus the entropy of what the flow draws."""
    model = small(prior=prior)
    n = 40_000
    x = model.sample(n, generator=seeded())
    with torch.no_grad():
        z, _ = model.bijection(x)
        log_prob = model.log_prob(x)
    entropy_of_prior = {StandardLogistic: 2.0, StandardNormal: 0.5 + 0.5 * math.log(2 * math.pi)}
    entropy = 5 * entropy_of_prior[prior] - float(
        model.bijection.parts[-1].log_scale.detach().sum()
    )
    assert float(-log_prob.mean()) == pytest.approx(entropy, abs=4 * float(log_prob.std()) / n**0.5)
    deviation = {StandardLogistic: math.pi / math.sqrt(3), StandardNormal: 1.0}[prior]
    assert float(z.std()) == pytest.approx(deviation, rel=0.02)


def test_it_learns_a_correlated_density():
    """A shear of two dimensions: the entropy is known, and NICE reaches it."""
    x = torch.randn(4000, 2, generator=seeded())
    x = torch.stack([x[:, 0], 0.5 * x[:, 1] + torch.sin(2 * x[:, 0])], 1)
    entropy = 1 + math.log(2 * math.pi) + math.log(0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NICE((2,), hidden=(32,), prior=StandardNormal)
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for i in range(600):
        optimiser.zero_grad()
        rows = torch.randint(0, 4000, (256,), generator=seeded(i))
        model.loss(x[rows])["loss"].backward()
        optimiser.step()
    with torch.no_grad():
        assert abs(float(model.loss(x)["loss"]) - entropy) < 0.06


def test_inpainting_raises_the_density_and_leaves_what_was_observed():
    model = small((2, 3), prior=StandardNormal, dequantise=Dequantise(17))
    x = torch.rand(4, 2, 3, generator=seeded(), dtype=torch.float64)
    observed = torch.tensor([[True, True, False], [False, True, False]])
    got = inpaint(model, x, observed, steps=30, generator=seeded())
    assert torch.equal(got[:, observed], x[:, observed])
    assert not torch.equal(got, x)
    assert got.min() >= 0
    assert got.max() <= 1
    assert torch.equal(got, inpaint(model, x, observed, steps=30, generator=seeded()))
    assert all(p.grad is None for p in model.parameters())


def test_inpainting_samples_a_conditional_gaussian_mode():
    """Without noise's help: the mode of ``p(x_H | x_O)`` of a Gaussian is its conditional mean."""
    model = NICE((2,), couplings=0, prior=StandardNormal)
    shear = AdditiveCoupling(2, nn.Linear(1, 1))
    shear.net.weight.data.fill_(-0.5)
    shear.net.bias.data.zero_()
    model.bijection.parts.insert(1, shear)
    model.bijection.parts[-1].log_scale.data = torch.tensor([0.0, 2.0])
    x = torch.tensor([[0.8, 0.0]]).expand(400, 2)
    observed = torch.tensor([True, False])
    got = inpaint(
        model, x, observed, steps=300, bounds=(-5, 5), step_size=lambda i: 0.003, generator=seeded()
    )
    assert float(got[:, 1].mean()) == pytest.approx(0.4, abs=0.02)
