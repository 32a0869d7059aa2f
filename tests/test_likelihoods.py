"""Each likelihood is normalised, agrees with scipy, samples from itself, and refuses bad input."""

import itertools
import math

import pytest
import torch
from scipy import stats

from gdm_lib.likelihoods import Bernoulli, Categorical, Gaussian, IsotropicGaussian
from gdm_lib.nn import mlp
from gdm_lib.protocols import Likelihood


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


ALL = [Bernoulli(), Gaussian(), IsotropicGaussian(0.7), Categorical(5)]


def data_for(likelihood, shape, rng) -> torch.Tensor:
    if isinstance(likelihood, Categorical):
        return torch.randint(0, likelihood.levels, shape, generator=rng)
    x = torch.randn(shape, generator=rng)
    return (x > 0).float() if isinstance(likelihood, Bernoulli) else x


@pytest.mark.parametrize("likelihood", ALL, ids=lambda m: type(m).__name__)
def test_shapes_of_vectors_and_images(likelihood, rng):
    assert isinstance(likelihood, Likelihood)
    for shape in [(4, 3), (4, 2, 3, 5)]:
        params = torch.randn((4, *likelihood.params_shape(shape[1:])), generator=rng)
        x = data_for(likelihood, shape, rng)
        assert likelihood.log_prob(params, x).shape == (4,)
        assert likelihood.mean(params).shape == shape
        assert likelihood.sample(params, generator=rng).shape == shape


@pytest.mark.parametrize("likelihood", ALL, ids=lambda m: type(m).__name__)
def test_log_prob_of_an_item_is_the_sum_over_its_dimensions(likelihood, rng):
    params = torch.randn((3, *likelihood.params_shape((4,))), generator=rng)
    x = data_for(likelihood, (3, 4), rng)
    parts = sum(likelihood.log_prob(params[..., i : i + 1], x[:, i : i + 1]) for i in range(4))
    torch.testing.assert_close(likelihood.log_prob(params, x), parts)


@pytest.mark.parametrize(("likelihood", "levels"), [(Bernoulli(), 2), (Categorical(3), 3)])
def test_discrete_probabilities_sum_to_one(likelihood, levels, rng):
    every = torch.tensor(list(itertools.product(range(levels), repeat=3)))
    params = torch.randn((1, *likelihood.params_shape((3,))), generator=rng).double()
    x = every.double() if levels == 2 else every
    total = likelihood.log_prob(params.expand(len(every), *params.shape[1:]), x).exp().sum()
    assert float(total.detach()) == pytest.approx(1, abs=1e-12)


def test_gaussians_agree_with_scipy(rng):
    params, x = torch.randn(5, 2, 3, generator=rng), torch.randn(5, 3, generator=rng)
    scale = torch.exp(0.5 * params[:, 1])
    expected = stats.norm.logpdf(x, params[:, 0], scale).sum(1)
    got = Gaussian(min_log_var=-40.0).log_prob(params, x)
    torch.testing.assert_close(got.double(), torch.tensor(expected), atol=1e-5, rtol=1e-5)

    got = IsotropicGaussian(0.7).log_prob(params[:, 0], x).detach()
    expected = stats.norm.logpdf(x, params[:, 0], 0.7).sum(1)
    torch.testing.assert_close(got.double(), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_gaussian_variance_has_a_floor_with_a_live_gradient():
    likelihood = Gaussian(min_log_var=-4.0)
    params = torch.tensor([[[0.0], [-12.0]]], requires_grad=True)
    log_p = likelihood.log_prob(params, torch.zeros(1, 1))
    log_p.sum().backward()
    assert float(log_p.detach()) <= stats.norm.logpdf(0, 0, math.exp(-2)) + 1e-6
    assert abs(float(params.grad[0, 1, 0])) > 1e-5


@pytest.mark.parametrize("likelihood", ALL, ids=lambda m: type(m).__name__)
def test_samples_have_the_mean(likelihood, rng):
    n = 20_000
    params = torch.randn((1, *likelihood.params_shape((3,))), generator=rng)
    draws = likelihood.sample(params.expand(n, *params.shape[1:]), generator=rng).detach().float()
    error = draws.std(0) / math.sqrt(n)
    assert ((draws.mean(0) - likelihood.mean(params)[0]).abs() < 4 * error).all()


def test_gaussian_samples_have_the_spread(rng):
    params = torch.tensor([[[0.5], [math.log(0.09)]]]).expand(20_000, 2, 1)
    assert float(Gaussian().sample(params, generator=rng).std()) == pytest.approx(0.3, rel=0.02)
    draws = IsotropicGaussian(0.3).sample(torch.zeros(20_000, 1), generator=rng)
    assert float(draws.detach().std()) == pytest.approx(0.3, rel=0.02)


def test_isotropic_scale_is_learned_or_fixed():
    assert [n for n, _ in IsotropicGaussian(0.5).named_parameters()] == ["log_scale"]
    fixed = IsotropicGaussian(0.5, learn=False)
    assert not list(fixed.parameters())
    assert "log_scale" in fixed.state_dict()


def test_extreme_logits_stay_finite():
    x = torch.tensor([[0.0, 1.0]])
    assert Bernoulli().log_prob(torch.tensor([[1e4, -1e4]]), x) == pytest.approx(-2e4)
    levels = torch.tensor([[0]])
    logits = torch.tensor([[[-1e4], [1e4]]])
    assert Categorical(2).log_prob(logits, levels) == pytest.approx(-2e4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Bernoulli().log_prob(torch.zeros(2, 3), torch.zeros(2, 4)), "params must have"),
        (
            lambda: Bernoulli().log_prob(torch.zeros(1, 2), torch.tensor([[0.2, 1.0]])),
            "only 0 and 1 .* 0.2 to 1; binarise",
        ),
        (lambda: Gaussian().log_prob(torch.zeros(2, 3), torch.zeros(2, 3)), r"shape \(2, 2, 3\)"),
        (lambda: IsotropicGaussian(0.0), "scale must be positive, got 0.0"),
        (lambda: Categorical(1), "levels must be at least 2, got 1"),
        (lambda: Categorical(3).log_prob(torch.zeros(1, 3, 2), torch.zeros(1, 2)), "int64 levels"),
        (
            lambda: Categorical(3).log_prob(torch.zeros(1, 3, 1), torch.tensor([[3]])),
            "levels 0 to 2, got 3 to 3",
        ),
        (lambda: mlp((3,)), "at least two positive widths"),
        (lambda: mlp((3, 0, 2)), "at least two positive widths"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_mlp_has_no_activation_behind_the_last_layer():
    assert [type(m).__name__ for m in mlp((3, 4, 5, 2))] == [
        "Linear",
        "Tanh",
        "Linear",
        "Tanh",
        "Linear",
    ]
