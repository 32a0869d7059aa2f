"""What 1312.6114 claims of the VAE, asserted."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from gdm_lib.likelihoods import Bernoulli, Gaussian, IsotropicGaussian
from gdm_lib.metrics import log_prob_by_quadrature
from gdm_lib.protocols import LikelihoodModel
from gdm_lib.vae import vae as paper
from gdm_lib.vae.vae import (
    VAE,
    gaussian_kl,
    gaussian_log_prob,
    reparameterise,
    sgvb_a,
    sgvb_b,
)


def small_vae(latent_dim: int = 2, **kwargs) -> VAE:
    """Random weights, large enough that the posterior depends on x and differs from q."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = VAE.mlp((6,), latent_dim, hidden=(16,), **kwargs).double()
        for p in model.encoder.parameters():
            nn.init.normal_(p, std=0.3)
        for p in model.decoder.parameters():
            nn.init.normal_(p, std=0.8)
    return model


def bits(n: int = 5) -> torch.Tensor:
    g = torch.Generator().manual_seed(2)
    return torch.bernoulli(torch.full((n, 6), 0.5, dtype=torch.float64), generator=g)


def test_keeps_the_contract():
    model = small_vae()
    assert isinstance(model, LikelihoodModel)
    assert model.bound is True
    assert paper.ARXIV == "1312.6114"


@pytest.mark.parametrize(("mu", "log_var"), [(0.0, 0.0), (1.3, -0.7), (-2.0, 1.1), (0.2, -4.0)])
def test_gaussian_kl_is_the_integral(mu, log_var):
    q = stats.norm(mu, math.exp(log_var / 2))
    integral, _ = integrate.quad(
        lambda z: q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z)), mu - 15, mu + 15, points=[mu]
    )
    got = gaussian_kl(*torch.tensor([mu, log_var], dtype=torch.float64))
    assert float(got) == pytest.approx(integral, abs=1e-8)


def test_gaussian_log_prob_agrees_with_scipy(rng):
    z, mu, log_var = torch.randn(3, 4, 5, generator=rng, dtype=torch.float64)
    expected = stats.norm.logpdf(z, mu, torch.exp(log_var / 2)).sum(-1)
    torch.testing.assert_close(gaussian_log_prob(z, mu, log_var), torch.tensor(expected))


def test_reparameterised_samples_have_the_moments(rng):
    mu, log_var = torch.tensor([[1.0, -2.0]]), torch.tensor([[math.log(0.25), math.log(4.0)]])
    n = 100_000
    z = reparameterise(mu, log_var, torch.randn(n, 1, 2, generator=rng))[:, 0]
    sigma = torch.exp(0.5 * log_var[0])
    assert ((z.mean(0) - mu[0]).abs() < 4 * sigma / math.sqrt(n)).all()
    assert ((z.std(0) / sigma - 1).abs() < 4 / math.sqrt(2 * n)).all()


@pytest.mark.parametrize("estimator", [sgvb_a, sgvb_b])
@pytest.mark.parametrize("samples", [1, 3])
def test_gradient_of_the_loss_against_finite_differences(estimator, samples):
    model = small_vae(estimator=estimator, samples=samples)
    x = bits()

    def loss() -> torch.Tensor:
        return model.loss(x, generator=torch.Generator().manual_seed(3))["loss"]

    loss().backward()
    h = 1e-5
    for name, p in model.named_parameters():
        flat = p.data.view(-1)
        for i in {0, flat.numel() // 2, flat.numel() - 1}:
            kept = float(flat[i])
            flat[i] = kept + h
            up = float(loss().detach())
            flat[i] = kept - h
            down = float(loss().detach())
            flat[i] = kept
            got = float(p.grad.view(-1)[i])
            assert got == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-8), f"{name}[{i}]"


def exact_elbo(model: VAE, x: torch.Tensor) -> torch.Tensor:
    """E_q[log p(x|z)] - KL by Gauss-Hermite quadrature in the two latents."""
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(40))
    weights = weights / weights.sum()
    mu, log_var = model.encode(x)
    total = -gaussian_kl(mu, log_var).sum(-1)
    for (e1, w1), (e2, w2) in itertools.product(zip(nodes, weights, strict=True), repeat=2):
        z = reparameterise(mu, log_var, torch.stack([e1, e2]))
        total = total + w1 * w2 * model.likelihood.log_prob(model.decode(z), x)
    return total


@pytest.mark.parametrize("estimator", [sgvb_a, sgvb_b])
def test_both_estimators_are_unbiased(estimator, rng):
    model, x = small_vae(), bits()
    with torch.no_grad():
        exact = exact_elbo(model, x)
        draws = torch.stack(
            [model.log_prob(x, samples=100, estimator=estimator, generator=rng) for _ in range(400)]
        )
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() < 4 * error).all()
    assert (error < 0.05).all(), "the test could not see a bias"


def test_estimators_agree_in_expectation_but_differ_per_draw(rng):
    mu, log_var = torch.randn(2, 4, 3, generator=rng)
    z = reparameterise(mu, log_var, torch.randn(2, 4, 3, generator=rng))
    log_px_z = torch.randn(2, 4, generator=rng)
    assert not torch.allclose(
        sgvb_a(log_px_z, z, mu, log_var), sgvb_b(log_px_z, z, mu, log_var), atol=1e-3
    )


def test_elbo_is_below_log_p_and_importance_sampling_closes_the_gap(rng):
    model, x = small_vae(), bits(8)
    log_p = log_prob_by_quadrature(model.decode, model.likelihood, x, latent_dim=2)
    with torch.no_grad():
        elbo = exact_elbo(model, x)
    assert (elbo < log_p).all()
    assert (log_p - elbo).mean() > 0.05, "a gap that a test can see"

    few = torch.stack([model.importance_log_prob(x, 5, generator=rng) for _ in range(400)]).mean(0)
    many = model.importance_log_prob(x, 200_000, chunk=20_000, generator=rng)
    assert (elbo.mean() < few.mean()) & (few.mean() < log_p.mean())
    torch.testing.assert_close(many, log_p, atol=0.02, rtol=0)


def test_probabilities_of_all_images_sum_to_one():
    model = small_vae()
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64)
    log_p = log_prob_by_quadrature(model.decode, model.likelihood, every, latent_dim=2)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-7)


def test_samples_follow_the_model(rng):
    model = small_vae()
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64)
    p = log_prob_by_quadrature(model.decode, model.likelihood, every, latent_dim=2).exp()
    n = 40_000
    code = (model.sample(n, generator=rng) @ (2.0 ** torch.arange(5, -1, -1).double())).long()
    counts = torch.bincount(code, minlength=64).double()
    chi2 = float(((counts - n * p) ** 2 / (n * p)).sum())
    assert chi2 < stats.chi2(63).ppf(0.9999)


def test_importance_weights_do_not_underflow():
    """log p(x) of some -5,000 nats, where exp would give zero."""
    model = VAE.mlp((4000,), 2, hidden=(4,), likelihood=IsotropicGaussian(0.5, learn=False))
    x = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)) * 1.5
    got = model.importance_log_prob(x, 20, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(got).all()
    assert (got < -5000).all()


def test_importance_estimate_is_the_mean_weight_over_all_chunks():
    model, x = small_vae(), bits()
    got = model.importance_log_prob(x, 50, chunk=20, generator=torch.Generator().manual_seed(5))
    g, log_weights = torch.Generator().manual_seed(5), []
    with torch.no_grad():
        for size in (20, 20, 10):
            log_px_z, z, mu, log_var = model._draw(x, size, g)
            q = stats.norm(mu.numpy(), torch.exp(log_var / 2).numpy()).logpdf(z.numpy()).sum(-1)
            p = stats.norm.logpdf(z.numpy()).sum(-1)
            log_weights.append(log_px_z + torch.tensor(p - q))
    expected = torch.cat(log_weights).exp().mean(0).log()
    torch.testing.assert_close(got, expected)


def test_linear_vae_attains_the_exact_posterior():
    """With a linear decoder and the pPCA posterior as q, ELBO = log p(x): the bound is tight."""
    g = torch.Generator().manual_seed(4)
    weight = torch.linalg.qr(torch.randn(5, 2, generator=g, dtype=torch.float64))[0]
    weight = weight * torch.tensor([2.0, 0.7])  # orthogonal columns: a diagonal posterior
    s2 = 0.3
    precision = 1 + (weight**2).sum(0) / s2

    class Posterior(nn.Module):
        def forward(self, x):
            mu = x @ weight / s2 / precision
            return mu, -precision.log().expand_as(mu)

    decoder = nn.Linear(2, 5, bias=False).double()
    decoder.weight.data = weight
    likelihood = IsotropicGaussian(math.sqrt(s2), learn=False).double()
    model = VAE(Posterior(), decoder, likelihood, data_shape=(5,), latent_dim=2)
    x = torch.randn(7, 5, generator=g, dtype=torch.float64)
    cov = weight @ weight.T + s2 * torch.eye(5)
    exact = torch.tensor(stats.multivariate_normal(cov=cov.numpy()).logpdf(x.numpy()))
    # estimator A has zero variance here: log p(x,z) - log q(z|x) is constant in z
    with torch.no_grad():
        value = model.log_prob(x, estimator=sgvb_a, generator=g)
    torch.testing.assert_close(value, exact, atol=1e-6, rtol=0)


def test_log_prob_is_the_bound_whatever_training_maximises():
    def other(log_px_z, z, mu, log_var):
        return sgvb_b(log_px_z, z, mu, log_var) - 7

    x = bits()
    values = [
        small_vae(estimator=estimator).log_prob(x, generator=torch.Generator().manual_seed(0))
        for estimator in (sgvb_b, other)
    ]
    assert torch.equal(*values)
    losses = [
        small_vae(estimator=e).loss(x, generator=torch.Generator().manual_seed(0))["loss"]
        for e in (sgvb_b, other)
    ]
    torch.testing.assert_close(losses[1] - losses[0], torch.tensor(7.0).double())


def test_loss_terms_add_up_and_are_per_item():
    model, x = small_vae(), bits(4)
    one = model.loss(x, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one["loss"].detach(), one["distortion"] + one["rate"])
    assert one["loss"].requires_grad
    assert not one["rate"].requires_grad


def test_same_generator_same_numbers_and_global_rng_untouched():
    model, x = small_vae(), bits()
    state = torch.random.get_rng_state()
    a = model.loss(x, generator=torch.Generator().manual_seed(0))["loss"]
    b = model.loss(x, generator=torch.Generator().manual_seed(0))["loss"]
    s = [model.sample(3, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(a, b)
    assert torch.equal(*s)
    assert torch.equal(state, torch.random.get_rng_state())


def test_every_parameter_gets_a_gradient():
    for likelihood in (Bernoulli(), Gaussian(), IsotropicGaussian()):
        model = VAE.mlp((1, 4, 4), 3, hidden=(8, 7), likelihood=likelihood)
        x = torch.bernoulli(torch.full((6, 1, 4, 4), 0.5))
        model.loss(x)["loss"].backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name


def test_shapes_of_images_and_of_a_two_layer_network():
    model = VAE.mlp((1, 4, 4), 3, hidden=(8, 7), likelihood=Gaussian())
    assert model.sample(5).shape == (5, 1, 4, 4)
    assert model.decode_mean(torch.zeros(2, 3)).shape == (2, 1, 4, 4)
    assert model.decoder.net[0].out_features == 7
    assert model.encoder.net[0].out_features == 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(torch.zeros(6)), r"x must be a batch of shape \(B, 6\), got \(6,\)"),
        (lambda m: m.loss(torch.zeros(2, 5)), r"x must be a batch of shape \(B, 6\)"),
        (lambda m: m.log_prob(torch.zeros(2, 6, dtype=torch.long)), "x must be floating point"),
        (lambda m: m.loss(torch.full((2, 6), 0.5).double()), "x must hold only 0 and 1"),
        (
            lambda m: m.decode(torch.zeros(2, 3)),
            r"z must be a batch of shape \(B, 2\), got \(2, 3\)",
        ),
        (lambda m: m.sample(2, torch.zeros(2)), "y must be None"),
        (lambda m: m.loss(bits(), torch.zeros(5)), "y must be None"),
        (lambda m: m.importance_log_prob(bits(), 0), "samples must be at least 1, got 0"),
        (lambda m: VAE.mlp((6,), 2, samples=0), "samples must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(small_vae())
