"""Each likelihood is normalised, agrees with scipy, samples from itself, and refuses bad input."""

import itertools
import math
from decimal import Decimal, localcontext

import pytest
import torch
from scipy import stats
from torch import Tensor

from gdm_lib.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Gaussian,
    IsotropicGaussian,
    MixtureOfGaussians,
    Softmax,
)
from gdm_lib.nn import mlp
from gdm_lib.protocols import Likelihood
from tests.helpers import normal, seeded

ALL = [Bernoulli(), Gaussian(), IsotropicGaussian(0.7), Categorical(5), MixtureOfGaussians(3)]


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
        (lambda: mlp((3, 0, 2)), r"sizes\[1\] must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- mixtures of Gaussians


def test_mixture_density_agrees_with_scipy_and_its_samples_with_it():
    likelihood = MixtureOfGaussians(3)
    params = torch.randn(1, 9, 1, generator=seeded(3), dtype=torch.float64)
    logits, mean, alpha = params[0, :, 0].chunk(3)
    weight = torch.softmax(logits, 0).numpy()
    parts = stats.norm(mean.numpy(), alpha.exp().numpy())
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    expected = torch.tensor((weight * parts.pdf(x.numpy())).sum(1)).log()
    torch.testing.assert_close(likelihood.log_prob(params.expand(9, -1, -1), x), expected)
    draws = likelihood.sample(params.expand(20_000, -1, -1), generator=seeded())[:, 0].numpy()
    test = stats.kstest(draws, lambda v: (weight * parts.cdf(v[:, None])).sum(1))
    assert test.pvalue > 1e-4
    error = draws.std() / math.sqrt(len(draws))
    assert float(likelihood.mean(params)) == pytest.approx(draws.mean(), abs=4 * error)
    with pytest.raises(ValueError, match=r"params must have shape \(2, 9, 1\)"):
        likelihood.log_prob(params.expand(3, -1, -1), x[:2])
    with pytest.raises(ValueError, match="components must be at least 1"):
        MixtureOfGaussians(0)


def test_a_mixture_of_one_is_a_gaussian_conditional():
    likelihood = MixtureOfGaussians(1)
    params = torch.randn(5, 3, 4, generator=seeded(), dtype=torch.float64)
    x = torch.randn(5, 4, generator=seeded(1), dtype=torch.float64)
    expected = stats.norm(params[:, 1].numpy(), params[:, 2].exp().numpy()).logpdf(x.numpy()).sum(1)
    torch.testing.assert_close(likelihood.log_prob(params, x), torch.tensor(expected))


# -- discretised mixtures of logistics, and the softmax, of whole pixels (1701.05517)


def levels(*shape: int, count: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(count, shape, generator=seeded(seed))


def every(places: int, count: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(count), repeat=places)))


@pytest.mark.parametrize("levels_", [2, 3, 256])
@pytest.mark.parametrize("loudness", [1, 30])
def test_probabilities_of_all_levels_sum_to_one(levels_, loudness):
    mixture = DiscretizedLogisticMixture(levels_, 10)
    params = loudness * normal(50, 30)
    log_p = torch.stack([mixture.log_prob(params, x.expand(50, 1)) for x in every(1, levels_)])
    torch.testing.assert_close(log_p.logsumexp(0), torch.zeros(50).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("channels", [2, 3])
def test_probabilities_of_all_colours_sum_to_one(channels):
    mixture = DiscretizedLogisticMixture(4, 3, channels)
    params = 2 * normal(7, *mixture.params_shape((channels,)))
    log_p = torch.stack([mixture.log_prob(params, c.expand(7, -1)) for c in every(channels, 4)])
    torch.testing.assert_close(log_p.logsumexp(0), torch.zeros(7).double(), atol=1e-12, rtol=0)


def test_has_ten_parameters_a_component_for_three_colours_and_three_for_one():
    assert DiscretizedLogisticMixture(256, 10, 3).params_shape((3, 32, 32)) == (100, 32, 32)
    assert DiscretizedLogisticMixture(256, 5).params_shape((1, 8, 8)) == (15, 8, 8)


def equation_2(level: int, mean: float, log_scale: float, count: int) -> Decimal:
    """Difference of two sigmoids, in units of levels as the paper writes it, to the digits that
    the caller has set."""
    scale = Decimal(log_scale).exp() * (count - 1) / 2
    centre = (Decimal(mean) + 1) * (count - 1) / 2

    def below(edge: Decimal) -> Decimal:
        return 1 / (1 + ((centre - edge) / scale).exp())

    half = Decimal("0.5")
    upper = Decimal(1) if level == count - 1 else below(level + half)
    lower = Decimal(0) if level == 0 else below(level - half)
    return upper - lower


def mixture_params(means: list[float], log_scales: list[float], logits: list[float]) -> Tensor:
    """Parameters of one grey pixel, ``(1, 3 K)``, the smooth floor of the scales undone."""
    raw = [math.log(math.expm1(s + 7)) - 7 for s in log_scales]
    return torch.tensor([[*logits, *means, *raw]], dtype=torch.float64)


@pytest.mark.parametrize("count", [2, 5, 256])
def test_equation_2_in_sixty_digits(count):
    means, log_scales, logits = [-0.7, 0.1, 1.3], [-3.0, -1.0, 0.5], [0.3, -0.4, 1.0]
    params = mixture_params(means, log_scales, logits)
    weights = torch.softmax(torch.tensor(logits, dtype=torch.float64), 0).tolist()
    mixture = DiscretizedLogisticMixture(count, 3)
    for level in {0, 1, count // 2, count - 2, count - 1}:
        with localcontext(prec=60):
            each = [equation_2(level, m, s, count) for m, s in zip(means, log_scales, strict=True)]
            mass = sum(Decimal(w) * p for w, p in zip(weights, each, strict=True))
            expected = float(mass.ln())
        got = mixture.log_prob(params, torch.tensor([[level]])).item()
        assert got == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("mean", [-1.0, 0.99, 1.5])
def test_the_tails_are_exact_where_a_difference_of_sigmoids_is_zero(mean):
    mixture = DiscretizedLogisticMixture(256, 1)
    params = mixture_params([mean], [-5.0], [0.0])
    for level in (3, 128, 250):
        with localcontext(prec=400):
            expected = float(equation_2(level, mean, -5.0, 256).ln())
        got = mixture.log_prob(params, torch.tensor([[level]])).item()
        assert got == pytest.approx(expected, rel=1e-11)


def test_colours_depend_on_those_before_as_in_equation_3():
    """A product of three grey pixels whose means are shifted by hand, in their order."""
    count, params = 8, normal(1, 10)
    mixture, grey = DiscretizedLogisticMixture(count, 1, 3), DiscretizedLogisticMixture(count, 1)
    _, r, g, b, *raw, alpha, beta, gamma = params[0]
    for x in ([0, 7, 3], [5, 2, 0], [7, 7, 7]):
        red, green, _ = (2 * v / (count - 1) - 1 for v in x)
        means = [
            r,
            g + torch.tanh(alpha) * red,
            b + torch.tanh(beta) * red + torch.tanh(gamma) * green,
        ]
        expected = sum(
            grey.log_prob(torch.stack([torch.zeros_like(m), m, s])[None], torch.tensor([[v]]))
            for m, s, v in zip(means, raw, x, strict=True)
        )
        torch.testing.assert_close(mixture.log_prob(params, torch.tensor([x])), expected)


def test_components_are_shared_by_the_colours_of_a_pixel():
    """A mixture of two whole pixels is not the product of three mixtures."""
    mixture, single = DiscretizedLogisticMixture(6, 2, 3), DiscretizedLogisticMixture(6, 1, 3)
    params = normal(1, 20)
    first, second = params.view(1, 10, 2).unbind(2)
    weights = torch.log_softmax(params[:, :2], 1)
    x = torch.tensor([[1, 4, 2]])
    each = torch.stack([single.log_prob(first, x), single.log_prob(second, x)], 1)
    torch.testing.assert_close(mixture.log_prob(params, x), (weights + each).logsumexp(1))


@pytest.mark.parametrize(("count", "channels"), [(2, 1), (256, 1), (5, 3)])
def test_gradients_are_those_of_finite_differences(count, channels):
    mixture = DiscretizedLogisticMixture(count, 3, channels)
    params = normal(6, *mixture.params_shape((channels,))).requires_grad_()
    x = levels(6, channels, count=count)
    x[0], x[1] = 0, count - 1
    assert torch.autograd.gradcheck(lambda p: mixture.log_prob(p, x), params)


@pytest.mark.parametrize("count", [2, 256])
@pytest.mark.parametrize("raw", [-50.0, -7.0, 0.0, 3.0])
def test_gradients_live_in_the_far_tails_in_single_precision(count, raw):
    mixture = DiscretizedLogisticMixture(count, 1)
    for mean, level in itertools.product((-1e4, -3.0, 3.0, 1e4), {0, 1, count // 2, count - 1}):
        params = torch.tensor([[0.0, mean, raw]], requires_grad=True)
        log_p = mixture.log_prob(params, torch.tensor([[level]]))
        log_p.backward()
        assert torch.isfinite(log_p).all()
        assert params.grad is not None
        assert torch.isfinite(params.grad).all()
        at_home = (mean < 0 and level == 0) or (mean > 0 and level == count - 1)
        if not at_home:  # there the mass is 1, and nothing is left to gain
            assert params.grad[0, 1].item() * (2 * level / (count - 1) - 1 - mean) > 0


def test_scales_have_a_floor():
    mixture = DiscretizedLogisticMixture(256, 1)
    x = torch.tensor([[128]])
    low, lower = (mixture.log_prob(torch.tensor([[0.0, 0.2, s]]), x) for s in (-100.0, -1e6))
    torch.testing.assert_close(low, lower)
    floor = mixture_params([0.2], [-6.9999], [0.0])
    assert low.item() == pytest.approx(mixture.log_prob(floor, x).item(), rel=1e-3)


@pytest.mark.parametrize(
    "likelihood",
    [
        DiscretizedLogisticMixture(9, 2),
        DiscretizedLogisticMixture(3, 1),
        DiscretizedLogisticMixture(4, 3, 3),
        Softmax(9),
        Softmax(4, 3),
    ],
)
@pytest.mark.parametrize("at", [(), (2, 3)])
def test_samples_follow_the_probabilities(likelihood, at):
    channels, count = likelihood.channels, likelihood.levels
    params = normal(*likelihood.params_shape((channels,)), seed=2)
    everything = every(channels, count)
    repeated = params.expand(len(everything), -1)
    expected = likelihood.log_prob(repeated, everything).exp()
    n = 12_000
    spread = params.view(1, -1, *(1 for _ in at)).expand(n // math.prod(at), -1, *at)
    drawn = likelihood.sample(spread, generator=seeded(5))
    assert drawn.dtype == torch.int64
    assert drawn.shape == (n // math.prod(at), channels, *at)
    places = torch.tensor([count**c for c in reversed(range(channels))])
    codes = (drawn.movedim(1, -1) * places).sum(-1).flatten()
    counts = torch.bincount(codes, minlength=len(everything)).double()
    often = n * expected > 5
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    wanted = n * torch.cat([expected[often], expected[~often].sum()[None]])
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert stats.chisquare(observed.numpy(), wanted.numpy()).pvalue > 1e-3


def test_samples_can_be_repeated():
    mixture, params = DiscretizedLogisticMixture(256, 4, 3), normal(100, 40)
    one, same, other = (mixture.sample(params, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "likelihood",
    [
        DiscretizedLogisticMixture(256, 10),
        DiscretizedLogisticMixture(5, 2, 2),
        DiscretizedLogisticMixture(4, 3, 3),
        Softmax(7),
        Softmax(3, 3),
    ],
)
def test_mean_is_the_sum_over_all_levels(likelihood):
    everything = every(likelihood.channels, likelihood.levels)
    params = 2 * normal(3, *likelihood.params_shape((likelihood.channels,)))
    p = torch.stack([likelihood.log_prob(params, x.expand(3, -1)).exp() for x in everything])
    expected = torch.einsum("lb,lc->bc", p, everything.double())
    torch.testing.assert_close(likelihood.mean(params), expected)
    image = params[..., None, None].expand(-1, -1, 2, 5)
    spread = expected[..., None, None].expand(-1, -1, 2, 5)
    torch.testing.assert_close(likelihood.mean(image), spread)


def test_softmax_of_a_grey_pixel_is_the_categorical():
    params, x = normal(4, 9, 2, 3), levels(4, 1, 2, 3, count=9)
    expected = Categorical(9).log_prob(params, x[:, 0])
    torch.testing.assert_close(Softmax(9).log_prob(params, x), expected)


@pytest.mark.parametrize("kind", [DiscretizedLogisticMixture, Softmax])
def test_what_no_pixel_can_be_is_refused_by_name(kind):
    likelihood = kind(4)
    assert isinstance(likelihood, Likelihood)
    params = torch.zeros(2, *likelihood.params_shape((1, 3, 3)))
    x = levels(2, 1, 3, 3)
    for bad, told in [
        (x + 4, "x must hold levels 0 to 3, got 4 to"),
        (x - 4, "x must hold levels 0 to 3, got -4"),
        (x.float(), "x must hold int64 levels"),
        (x.expand(-1, 3, -1, -1), "data_shape must start with 1 channels, got .3, 3, 3."),
        (x[:, :, 1:], "params must have shape"),
    ]:
        with pytest.raises(ValueError, match=told):
            likelihood.log_prob(params, bad)
    with pytest.raises(ValueError, match="levels must be at least 2"):
        kind(1)


# -- networks


def test_mlp_has_no_activation_behind_the_last_layer():
    assert [type(m).__name__ for m in mlp((3, 4, 5, 2))] == [
        "Linear",
        "Tanh",
        "Linear",
        "Tanh",
        "Linear",
    ]
