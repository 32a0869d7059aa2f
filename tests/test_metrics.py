"""Ground truths are checked against independent implementations."""

import math

import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA

from gdm_lib.likelihoods import Bernoulli, IsotropicGaussian
from gdm_lib.metrics import (
    active_units,
    bits_per_dim,
    log_prob_by_quadrature,
    ppca_log_likelihood,
)


def test_bits_per_dim_of_a_uniform_byte_image():
    log_prob = torch.full((2,), -math.log(256) * 3 * 4 * 4)
    torch.testing.assert_close(bits_per_dim(log_prob, (3, 4, 4)), torch.full((2,), 8.0))


def test_active_units_counts_what_varies(rng):
    mu = torch.randn(1000, 3, generator=rng) * torch.tensor([1.0, 0.05, 0.2])
    assert active_units(mu).tolist() == [True, False, True]
    assert active_units(mu, threshold=1e-4).all()
    with pytest.raises(ValueError, match=r"mu must have shape \(N, D\) with N >= 2, got \(1, 3\)"):
        active_units(mu[:1])


def test_ppca_agrees_with_scikit_learn_and_with_the_gaussian_it_names(rng):
    x = torch.randn(4000, 6, generator=rng).double() @ torch.randn(6, 6, generator=rng).double()
    for q in (0, 2, 5):
        value, s2 = ppca_log_likelihood(x, q)
        if q:  # scikit-learn divides by N - 1, a difference of second order in 1/N
            assert value == pytest.approx(PCA(q).fit(x.numpy()).score(x.numpy()), abs=1e-5)
        cov = torch.cov(x.T, correction=0)
        vals, vecs = torch.linalg.eigh(cov)
        model_cov = vecs @ torch.diag(torch.where(torch.arange(6) < 6 - q, s2, vals)) @ vecs.T
        gaussian = stats.multivariate_normal(x.mean(0).numpy(), model_cov.numpy())
        assert value == pytest.approx(gaussian.logpdf(x.numpy()).mean(), abs=1e-9)


def test_ppca_refuses_what_has_no_maximum(rng):
    flat = torch.randn(50, 2, generator=rng) @ torch.randn(2, 5, generator=rng)
    with pytest.raises(ValueError, match="unbounded; take a smaller latent_dim"):
        ppca_log_likelihood(flat, 2)
    with pytest.raises(ValueError, match=r"latent_dim must be in \[0, D - 1\]"):
        ppca_log_likelihood(flat, 5)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_quadrature_of_a_linear_gaussian_model_is_its_closed_form(latent_dim, rng):
    weight = torch.randn(3, latent_dim, generator=rng, dtype=torch.float64)
    x = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    cov = weight @ weight.T + 0.25 * torch.eye(3)
    exact = torch.tensor(stats.multivariate_normal(cov=cov.numpy()).logpdf(x.numpy()))
    got = log_prob_by_quadrature(
        lambda z: z @ weight.T,
        IsotropicGaussian(0.5).double(),
        x,
        latent_dim=latent_dim,
        radius=8,
        chunk=10,
    )
    # the scale is held as the single-precision log of 0.5
    torch.testing.assert_close(got, exact, atol=1e-7, rtol=0)


def test_quadrature_of_images_does_not_mix_items_up(rng):
    x = (torch.rand(3, 1, 2, 2, generator=rng) > 0.5).double()
    logits = torch.randn(1, 2, 2, generator=rng, dtype=torch.float64)
    got = log_prob_by_quadrature(
        lambda z: logits.expand(len(z), 1, 2, 2), Bernoulli(), x, latent_dim=1
    )
    expected = Bernoulli().log_prob(logits.expand(3, 1, 2, 2), x)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="latent_dim must be 1 or 2, got 3"):
        log_prob_by_quadrature(lambda z: z, Bernoulli(), x, latent_dim=3)
