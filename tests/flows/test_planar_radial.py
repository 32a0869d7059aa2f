"""What 1505.05770 claims of planar and radial flows, asserted."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, optimize
from torch import nn

from gdm_lib.bijections import Chain, Flow, Inverse, StandardNormal
from gdm_lib.data.toy2d import energy_1
from gdm_lib.flows import planar_radial as paper
from gdm_lib.flows.planar_radial import (
    FlowEncoder,
    FlowVAE,
    Planar,
    Radial,
    annealing,
    free_energy,
    monotone_root,
)
from gdm_lib.likelihoods import Bernoulli, IsotropicGaussian
from gdm_lib.protocols import LikelihoodModel
from gdm_lib.vae.vae import Decoder, gaussian_kl
from tests.helpers import seeded


def made(cls, dim=3, context_dim=0, seed=0, scale=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        step = cls(dim, context_dim).double()
        for p in step.parameters():
            p.data = scale * torch.randn_like(p)
    return step


def test_states_the_paper():
    assert paper.ARXIV == "1505.05770"


# -- planar: equations 10 to 12, appendix A.1


def test_planar_is_the_formula_with_the_constrained_u():
    step = made(Planar)
    w, u, b = step.raw.data[0].split((3, 3, 1))
    m = -1 + math.log1p(math.exp(float(w @ u)))
    u_hat = u + (m - w @ u) * w / (w @ w)
    x = torch.randn(5, 3, generator=seeded(), dtype=torch.float64)
    expected = x + u_hat * torch.tanh(x @ w + b)[:, None]
    torch.testing.assert_close(step(x)[0].detach(), expected)
    psi = (1 - torch.tanh(x @ w + b) ** 2)[:, None] * w
    torch.testing.assert_close(step(x)[1].detach(), torch.log((1 + psi @ u_hat).abs()))


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0])
def test_planar_meets_its_constraint_whatever_the_parameters(scale):
    for seed in range(20):
        step = made(Planar, seed=seed, scale=scale)
        w, _, u, slope = step._constrained("x", torch.zeros(1, 3, dtype=torch.float64), None)
        assert (slope > 0).all()
        torch.testing.assert_close(1 + (w * u).sum(1, keepdim=True), slope, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("wu", [-50.0, -800.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planar_at_the_boundary_of_its_constraint(wu, dtype):
    """w'u_hat = -1 to the last digit: the map still rises, flat at one plane only."""
    step = Planar(2).to(dtype)
    step.raw.data = torch.tensor([[1.0, 0.0, wu, 0.5, 0.0]], dtype=dtype)
    grid = torch.linspace(-3, 3, 400, dtype=dtype)
    x = torch.stack([grid, torch.zeros_like(grid)], 1)
    z, logdet = step(x)
    assert torch.isfinite(logdet).all()
    assert (z[:, 0].diff() >= 0).all()
    torch.testing.assert_close(logdet, torch.log(torch.tanh(grid) ** 2), atol=1e-4, rtol=1e-4)
    flat = step(torch.zeros(1, 2, dtype=dtype))[1]
    assert (flat < -40).all()
    assert torch.isfinite(flat).all()
    back, _ = step.inverse(z.detach())
    torch.testing.assert_close(step(back)[0], z, atol=1e-5, rtol=1e-5)


def test_without_the_constraint_two_points_meet():
    """w'u = -3 < -1: the map folds, so no inverse exists; u_hat is what mends it."""
    x = torch.linspace(-3, 3, 2001, dtype=torch.float64)
    assert (x - 3 * torch.tanh(x)).diff().min() < 0
    step = Planar(1).double()
    step.raw.data = torch.tensor([[1.0, -3.0, 0.0]]).double()
    assert (step(x[:, None])[0][:, 0].diff() > 0).all()


def test_planar_without_a_direction_is_a_translation():
    step = Planar(2).double()
    step.raw.data = torch.tensor([[0.0, 0.0, 1.5, -2.0, 0.7]]).double()
    x = torch.randn(4, 2, generator=seeded(), dtype=torch.float64)
    z, logdet = step(x)
    torch.testing.assert_close(
        z - x, torch.tensor([[1.5, -2.0]]).double().expand(4, 2) * math.tanh(0.7)
    )
    torch.testing.assert_close(logdet, torch.zeros(4).double())
    (z.sum() + logdet.sum()).backward()
    assert torch.isfinite(step.raw.grad).all()


@pytest.mark.parametrize("slope", [1e-12, 1e-3, 0.5, 1.0, 3.0, 1e3, 1e8])
@pytest.mark.parametrize("r", [0.0, 1e-9, -0.3, 2.0, -1e3, 1e9])
def test_monotone_root_agrees_with_brent(slope, r):
    c = slope - 1

    def f(v: float) -> float:
        return v + c * math.tanh(v) - r

    edge = abs(c) + 1
    expected = optimize.brentq(f, r - edge, r + edge, xtol=1e-14, rtol=1e-14)
    got = monotone_root(*torch.tensor([[[slope]], [[r]]], dtype=torch.float64))
    if slope > 1e-6:
        assert float(got) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert abs(f(float(got))) <= 1e-13 * (abs(r) + abs(float(got)) + 1)


def test_monotone_root_differentiates_as_the_implicit_function():
    slope = torch.tensor([0.2, 1.0, 5.0, 0.9]).double().requires_grad_()
    r = torch.tensor([0.3, -2.0, 4.0, 0.0]).double().requires_grad_()
    assert torch.autograd.gradcheck(monotone_root, (slope, r))


def test_planar_inverse_takes_few_steps(monkeypatch):
    """The bracket alone would need some 50: this is Newton's method."""
    calls = []
    tanh = torch.tanh
    monkeypatch.setattr(torch, "tanh", lambda v: calls.append(1) or tanh(v))
    r = torch.linspace(-50, 50, 10_001, dtype=torch.float64)[:, None]
    for slope in (0.05, 0.5, 2.0, 50.0):
        calls.clear()
        monotone_root(torch.tensor([[slope]]).double(), r)
        assert len(calls) < 25


# -- radial: equation 14, appendix A.2


def test_radial_is_the_formula_with_the_constrained_beta():
    step = made(Radial)
    z0, alpha, beta = step.raw.data[0].split((3, 1, 1))
    alpha = F.softplus(alpha)
    beta_hat = -alpha + torch.log1p(beta.exp())
    x = torch.randn(5, 3, generator=seeded(), dtype=torch.float64)
    r = (x - z0).norm(dim=1)
    h = 1 / (alpha + r)
    z, logdet = step(x)
    torch.testing.assert_close(z.detach(), x + (beta_hat * h)[:, None] * (x - z0))
    expected = (1 + beta_hat * h) ** 2 * (1 + beta_hat * h - beta_hat * r * h**2)
    torch.testing.assert_close(logdet.detach(), expected.log())
    assert float(beta_hat) > -float(alpha)


@pytest.mark.parametrize("beta", [-60.0, -800.0])
def test_radial_at_the_boundary_of_its_constraint(beta):
    """beta_hat = -alpha: the neighbourhood of z0 is pressed into a point, but never folded."""
    step = Radial(2)
    step.raw.data = torch.tensor([[0.0, 0.0, 1.0, beta]])
    r = torch.linspace(0, 5, 200)
    z, logdet = step(torch.stack([r, torch.zeros_like(r)], 1))
    assert torch.isfinite(logdet).all()
    assert (z[:, 0].diff() > 0).all()
    back, _ = step.inverse(z.detach())
    torch.testing.assert_close(back[:, 0], r, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("distance", [0.0, 1e-20, 1e-6, 1.0, 1e6, 1e15])
def test_radial_inverse_in_closed_form_at_every_distance(distance):
    for seed in range(5):
        step = made(Radial, seed=seed)
        direction = torch.tensor([[0.6, 0.0, 0.8]]).double()
        x = step.raw.data[:, :3] + distance * direction
        z, logdet = step(x)
        back, minus = step.inverse(z)
        torch.testing.assert_close(back, x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(minus, -logdet, rtol=1e-9, atol=1e-9)
        z.sum().backward()
        assert torch.isfinite(step.raw.grad).all()


def test_radial_inverse_adds_numbers_of_one_sign():
    """A strong expansion: the other form of the root would lose eight of sixteen digits."""
    step = Radial(2).double()
    step.raw.data = torch.tensor([[0.0, 0.0, -5.0, 1e7]]).double()
    x = torch.tensor([[6e-4, 8e-4], [0.3, 0.4]]).double()
    back, _ = step.inverse(step(x)[0])
    torch.testing.assert_close(back, x, rtol=1e-13, atol=0)


# -- equations 13, 15 and 20


def test_density_of_a_chain_integrates_to_one_without_the_inverse():
    """Equation 13 by its own direction: the volume under q_K, in one dimension."""
    chain = Chain(*(made(cls, 1, seed=s) for s, cls in enumerate([Planar, Radial, Planar])))
    z0 = torch.linspace(-9, 9, 20_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        z, logdet = chain(z0)
        q = (StandardNormal((1,)).log_prob(z0) - logdet).exp()
    assert integrate.trapezoid(q.numpy(), z[:, 0].numpy()) == pytest.approx(1, abs=1e-5)


def test_free_energy_is_a_divergence_from_a_normalised_target():
    """Between two Gaussians, by the closed form; with beta, by the entropy."""
    flow = Flow(Inverse(Chain()), StandardNormal((2,)))
    mean, log_var = torch.tensor([1.0, -0.5]), torch.tensor([0.3, -0.2])

    def log_target(z):
        return torch.distributions.Normal(mean, (log_var / 2).exp()).log_prob(z).sum(1)

    n = 200_000
    got = free_energy(flow, log_target, n, generator=seeded())
    back_mean, back_log_var = -mean * (-log_var / 2).exp(), -log_var
    assert float(got) == pytest.approx(float(gaussian_kl(back_mean, back_log_var).sum()), abs=0.02)
    half = free_energy(flow, log_target, n, beta=0.5, generator=seeded())
    entropy = 1 + math.log(2 * math.pi)
    assert float(half) == pytest.approx((float(got) - entropy) / 2, abs=0.02)


def test_annealing_is_that_of_section_6():
    assert [annealing(t) for t in (0, 5_000, 20_000)] == [0.01, 0.51, 1.0]


def test_more_planar_steps_come_closer_to_the_paper_s_first_energy():
    """Figure 3 in kind, with the true KL: 8 steps beat 2, and both beat the Gaussian."""
    target, divergence = energy_1(), {}
    for steps in (0, 2, 8):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            flow = Flow(Inverse(Chain(*(Planar(2) for _ in range(steps)))), StandardNormal((2,)))
        if steps:
            optimiser = torch.optim.Adam(flow.parameters(), 0.02)
            for i in range(400):
                optimiser.zero_grad()
                beta = min(1, 0.01 + i / 200)
                value = free_energy(flow, target.log_prob, 128, beta=beta, generator=seeded(i))
                value.backward()
                optimiser.step()
        with torch.no_grad():
            divergence[steps] = float(
                free_energy(flow, target.log_prob, 20_000, generator=seeded())
            )
    assert 0 < divergence[8] < divergence[2] < divergence[0]
    assert divergence[8] < 0.5 * divergence[2]


# -- section 4.2: the amortised posterior


def small(context_dim=4, likelihood=None) -> FlowVAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        likelihood = Bernoulli() if likelihood is None else likelihood
        model = FlowVAE(
            FlowEncoder((1, 2, 3), 2, context_dim, (8,)),
            Chain(*(Planar(2, context_dim) for _ in range(2))),
            Decoder(2, likelihood.params_shape((1, 2, 3)), (8,)),
            likelihood,
            latent_dim=2,
        )
        for p in model.parameters():
            p.data += 0.3 * torch.randn_like(p)
    return model.double()


def bits(n=5):
    return torch.bernoulli(torch.full((n, 1, 2, 3), 0.5).double(), generator=seeded(2))


def test_flow_vae_keeps_the_contract():
    model, x = small(), bits()
    assert isinstance(model, LikelihoodModel)
    assert model.bound is True
    assert model.sample(3, generator=seeded()).shape == (3, 1, 2, 3)
    terms = model.loss(x, generator=seeded())
    torch.testing.assert_close(terms["loss"].detach(), terms["distortion"] + terms["rate"])
    torch.testing.assert_close(terms["loss"], -model.log_prob(x, generator=seeded()).mean())
    terms["loss"].backward()
    for name, p in model.named_parameters():
        assert p.grad.abs().sum() > 0, name
    for call in (model.loss, model.log_prob):
        with pytest.raises(ValueError, match="y must be None"):
            call(x, torch.zeros(5))


def test_flow_posterior_is_the_density_of_its_samples():
    """``q_K`` from the path of its own samples equals ``q_K`` by the inverse."""
    model, x = small(), bits()
    with torch.no_grad():
        z, log_q = model.posterior(x, 3, generator=seeded())
        mu, log_var, context = model.encoder(x)
        for i in range(3):
            z0, logdet = model.flow.inverse(z[i], context)
            q0 = torch.distributions.Normal(mu, (log_var / 2).exp()).log_prob(z0).sum(1)
            torch.testing.assert_close(log_q[i], q0 + logdet)


def test_flow_elbo_lies_below_log_p_by_quadrature():
    model, x = small(), bits()
    # q must be wide for importance weights of small variance.
    model.encoder.net[-1].bias.data[2:4] = 1.5
    for p in model.flow.parameters():
        p.data *= 0.5
    grid = torch.linspace(-7, 7, 141, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        prior = StandardNormal((2,)).log_prob(z) + 2 * math.log(float(grid[1] - grid[0]))
        params = model.decoder(z)
        exact = torch.stack(
            [
                (model.likelihood.log_prob(params, item.expand(len(z), 1, 2, 3)) + prior).logsumexp(
                    0
                )
                for item in x
            ]
        )
        draws = torch.stack([model.log_prob(x, samples=50, generator=seeded(i)) for i in range(40)])
        tight = model.importance_log_prob(x, 20_000, chunk=5_000, generator=seeded())
    error = draws.std(0) / math.sqrt(len(draws))
    assert (draws.mean(0) < exact + 4 * error).all()
    assert (exact - draws.mean(0)).mean() > 0.02
    torch.testing.assert_close(tight, exact, atol=0.02, rtol=0)


def test_annealed_loss_weighs_the_joint():
    model, x = small(likelihood=IsotropicGaussian(0.5)), bits()
    full, half, none = (model.loss(x, beta=b, generator=seeded())["loss"] for b in (1.0, 0.5, 0.0))
    torch.testing.assert_close(half, (full + none) / 2)
    torch.testing.assert_close(none, model.posterior(x, generator=seeded())[1].mean())


def test_a_flow_without_context_serves_as_posterior():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FlowVAE(
            FlowEncoder((6,), 2, 0, (8,)),
            Planar(2),
            Decoder(2, (6,), (8,)),
            Bernoulli(),
            latent_dim=2,
        )
    x = torch.bernoulli(torch.full((4, 6), 0.5), generator=seeded())
    assert torch.isfinite(model.loss(x, generator=seeded())["loss"])
    assert isinstance(model.flow, nn.Module)
