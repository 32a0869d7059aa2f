"""Ground truths are checked against independent implementations."""

import math
import time

import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA

from gdm_lib import pretrained
from gdm_lib.data import glyphs
from gdm_lib.likelihoods import Bernoulli, IsotropicGaussian
from gdm_lib.metrics import (
    ImageClassifier,
    active_units,
    bits_per_dim,
    dependence,
    kl_estimate,
    least_seconds,
    log_prob_by_quadrature,
    ppca_log_likelihood,
    standard_error,
)


def test_bits_per_dim_of_a_uniform_byte_image():
    log_prob = torch.full((2,), -math.log(256) * 3 * 4 * 4)
    torch.testing.assert_close(bits_per_dim(log_prob, (3, 4, 4)), torch.full((2,), 8.0))


def test_the_standard_error_is_scipys():
    values = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert standard_error(values) == pytest.approx(stats.sem(values.numpy()), rel=1e-12)


@pytest.mark.parametrize(
    "values", [torch.zeros(1), torch.zeros(2, 2), torch.zeros(3, dtype=torch.long)]
)
def test_what_has_no_standard_error_is_refused(values):
    with pytest.raises(ValueError, match=r"values must be two or more real numbers, \(N,\), got"):
        standard_error(values)


class Normal(torch.nn.Module):
    def __init__(self, mean: float, std: float = 1.0) -> None:
        super().__init__()
        self.mean, self.std = torch.nn.Parameter(torch.tensor([mean, 0.0])), std

    def log_prob(self, x):
        return torch.distributions.Normal(self.mean, self.std).log_prob(x).sum(1)


def test_the_divergence_of_two_normals(rng):
    """KL = |difference of the means|^2 / 2 where both have unit variance; of itself, exactly 0."""
    x = torch.randn(20_000, 2, generator=rng)
    found, error = kl_estimate(Normal(0.0), Normal(1.5), x)
    assert abs(found - 1.5**2 / 2) < 4 * error
    assert error == pytest.approx(1.5 / math.sqrt(20_000), rel=0.03)  # std of 1.5 x
    assert kl_estimate(Normal(0.5), Normal(0.5), x) == (0.0, 0.0)


def test_a_density_of_another_shape_is_named(rng):
    class Each(Normal):
        def log_prob(self, x):
            return super().log_prob(x)[:, None]

    with pytest.raises(ValueError, match=r"each of 9 items, got \(9,\) of truth and \(9, 1\) of"):
        kl_estimate(Normal(0.0), Each(0.0), torch.randn(9, 2, generator=rng))


class TestDependence:
    def test_it_is_the_jacobian(self, rng):
        net = torch.nn.Sequential(
            torch.nn.Conv2d(2, 3, 3, stride=2), torch.nn.Tanh(), torch.nn.Conv2d(3, 4, 2)
        ).double()
        x = torch.rand(2, 2, 9, 7, dtype=torch.float64, generator=rng)
        found = dependence(net, x)
        mix = torch.randn(4, generator=torch.Generator().manual_seed(0)).double()
        expected = sum(
            torch.einsum(
                "p,pijchw->ijchw",
                mix,
                torch.autograd.functional.jacobian(net, one[None])[0, :, :, :, 0],
            )
            .abs()
            .sum(2)
            for one in x
        )
        torch.testing.assert_close(found, expected.flatten(0, 1), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(dependence(net, x, at=[5, 1]), found[[5, 1]])

    def test_a_kernel_is_the_receptive_field(self):
        net = torch.nn.Conv1d(1, 1, 3, padding=4, dilation=4, bias=False).double()
        seen = dependence(net, torch.ones(1, 1, 12).double()) > 0
        assert [row.nonzero().flatten().tolist() for row in seen[[0, 6]]] == [[0, 4], [2, 6, 10]]

    def test_neither_items_nor_channels_cancel(self):
        def function(x):
            first = x[:, :1] - x[:, 1:]
            return torch.cat([first, -first], 1) * torch.tensor([1.0, -1.0])[:, None, None]

        assert (dependence(function, torch.ones(2, 2, 3)) > 0).equal(torch.eye(3).bool())

    def test_a_relu_that_is_shut_at_one_item_is_open_at_another(self):
        x = torch.tensor([[[-1.0, 1.0]], [[1.0, -1.0]]])
        assert (dependence(torch.relu, x).diagonal() > 0).all()
        assert (dependence(torch.relu, x[:1]).diagonal() > 0).tolist() == [False, True]

    def test_nothing_else_is_touched(self):
        net, x = torch.nn.Conv1d(1, 2, 3), torch.ones(1, 1, 9)
        before = torch.random.get_rng_state()
        with torch.no_grad():
            dependence(net, x)
        assert torch.random.get_rng_state().equal(before)
        assert net.weight.grad is None
        assert not x.requires_grad

    @pytest.mark.parametrize(
        ("function", "x", "at", "said"),
        [
            (torch.relu, torch.zeros(3, 4), None, r"x must be real numbers \(N, C, \*S\), got"),
            (torch.relu, torch.zeros(1, 1, 4).long(), None, "x must be real .* of torch.int64"),
            (lambda x: x.sum(), torch.zeros(2, 1, 4), None, r"with N = 2, got \(\)"),
            (torch.zeros_like, torch.zeros(1, 1, 4), None, "got a constant"),
            (torch.relu, torch.zeros(1, 1, 4), [4], r"at must be places from 0 to 3, got \[4\]"),
            (torch.relu, torch.zeros(1, 1, 4), [], r"at must be places from 0 to 3, got \[\]"),
        ],
    )
    def test_bad_input_is_named(self, function, x, at, said):
        with pytest.raises(ValueError, match=said):
            dependence(function, x, at)


def test_the_least_of_several_times():
    pauses = iter([0.05, 0.0, 0.05])
    spent = least_seconds(lambda: time.sleep(next(pauses)))
    assert 0 < spent < 0.05
    assert next(pauses, None) is None
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        least_seconds(lambda: None, 0)


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


# -- the judge


def test_a_classifier_takes_grey_for_equal_colours_and_cuts_off_what_no_picture_shows():
    torch.manual_seed(0)
    judge = ImageClassifier(5, size=16)
    judge.loss(torch.rand(32, 3, 16, 16), torch.arange(32) % 5)  # moves the batch norms
    grey = torch.rand(7, 1, 16, 16)
    told = judge.read(grey)
    assert told.shape == (7, 5)
    torch.testing.assert_close(told.sum(1), torch.ones(7))
    assert torch.equal(told, judge.read(grey.repeat(1, 3, 1, 1)))
    outside = grey + torch.where(grey > 0.5, 1.0, -1.0)
    assert torch.equal(judge.read(outside), judge.read(outside.clamp(0, 1)))
    assert not torch.equal(judge.read(outside), told)


def test_a_classifier_reads_an_image_alike_in_any_company_and_mode():
    torch.manual_seed(0)
    judge, x = ImageClassifier(3, size=8), torch.rand(6, 3, 8, 8)
    judge.loss(x, torch.arange(6) % 3)
    alone = torch.cat([judge.read(row[None]) for row in x])
    before = {name: value.clone() for name, value in judge.state_dict().items()}
    assert judge.training
    torch.testing.assert_close(judge.read(x), alone)
    torch.testing.assert_close(judge.eval().read(x), alone)
    assert all(torch.equal(value, before[name]) for name, value in judge.state_dict().items())


def test_a_classifiers_loss_is_the_cross_entropy_of_its_probabilities():
    torch.manual_seed(0)
    judge, x, y = ImageClassifier(4, size=8).eval(), torch.rand(9, 1, 8, 8), torch.arange(9) % 4
    p = judge.read(x)
    losses = judge.loss(x, y)
    torch.testing.assert_close(losses["loss"].detach(), -p[torch.arange(9), y].log().mean())
    assert float(losses["error"]) == pytest.approx(float((p.argmax(1) != y).float().mean()))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ImageClassifier(1), "classes must be at least 2, got 1"),
        (lambda: ImageClassifier(3, size=20), "size must be a multiple of 8"),
        (lambda: ImageClassifier(3).read(torch.rand(2, 2, 32, 32)), r"x must .*\(B, 3, 32, 32\)"),
        (lambda: ImageClassifier(3).read(torch.rand(2, 1, 28, 28)), r"x must .*\(B, 1, 32, 32\)"),
    ],
)
def test_a_classifier_refuses_what_it_cannot_read(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("preset", [glyphs.LARGE_GLYPHS, glyphs.COLOUR_LARGE_GLYPHS])
def test_the_books_judge_reads_letters_that_it_has_not_seen(preset):
    test = glyphs.load(0, 200, seed=7, **preset).test
    p = pretrained.load("metrics/letters").read(test.x)
    assert (p.argmax(1) == test.y).float().mean() >= 0.99
    assert pretrained.build("metrics/letters").classes == len(preset["characters"])
