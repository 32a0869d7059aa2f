"""The objectives against closed forms on distributions with a few points, and the game's base."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from gdm_lib.adversarial import (
    Adversarial,
    Objective,
    hinge,
    non_saturating,
    saturating,
    truncated_normal,
    wasserstein,
)
from gdm_lib.protocols import AdversarialModel
from tests.helpers import seeded

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)  # of the data, on three points
Q = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)  # of the generator
ONE = torch.ones(1, dtype=torch.float64)


def expected_loss(objective: Objective, scores: Tensor) -> Tensor:
    """Of a discriminator with these scores on the three points, exactly: every loss is a mean of
    something of the real scores and a mean of something of the made ones."""
    both = objective.discriminator
    zero = both(0 * ONE, 0 * ONE) / 2
    real = torch.stack([both(s * ONE, 0 * ONE) - zero for s in scores])
    made = torch.stack([both(0 * ONE, s * ONE) - zero for s in scores])
    return (P * real).sum() + (Q * made).sum()


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


# Objectives


@pytest.mark.parametrize("objective", [saturating, non_saturating])
def test_at_the_optimal_discriminator_the_loss_is_the_jensen_shannon_divergence(objective) -> None:
    scores = (P / Q).log().requires_grad_()  # D* = p / (p + q), as a logit (proposition 1)
    loss = expected_loss(objective, scores)
    m = (P + Q) / 2
    js = (kl(P, m) + kl(Q, m)) / 2
    torch.testing.assert_close(-loss, 2 * js - 2 * math.log(2) * ONE[0])  # theorem 1
    (slope,) = torch.autograd.grad(loss, scores)
    assert slope.abs().max() < 1e-12


def test_the_generators_two_losses_differ_where_the_discriminator_is_sure() -> None:
    f = torch.tensor([-20.0], dtype=torch.float64, requires_grad=True)
    (weak,) = torch.autograd.grad(saturating.generator(f), f)
    (strong,) = torch.autograd.grad(non_saturating.generator(f), f)
    torch.testing.assert_close(weak, -torch.sigmoid(f.detach()))  # vanishes
    torch.testing.assert_close(strong, -torch.sigmoid(-f.detach()))  # does not
    # log(1 - D) and -log D, without a logarithm of 0
    for score in (-800.0, -3.0, 0.0, 3.0, 800.0):
        s = torch.tensor([score], dtype=torch.float64)
        assert saturating.generator(s).isfinite()
        assert non_saturating.generator(s).isfinite()
        if abs(score) < 10:
            d = 1 / (1 + math.exp(-score))
            assert saturating.generator(s).item() == pytest.approx(math.log(1 - d))
            assert non_saturating.generator(s).item() == pytest.approx(-math.log(d))


def test_the_critic_of_wasserstein_finds_the_earth_movers_distance() -> None:
    # On points 0, 1, 2 of a line the best 1-Lipschitz critic is known: the slope is the sign of
    # what must be carried across each gap.
    carried = (P - Q).cumsum(0)[:-1]
    critic = torch.cat([torch.zeros(1, dtype=torch.float64), -carried.sign()]).cumsum(0)
    distance = stats.wasserstein_distance([0, 1, 2], [0, 1, 2], P.numpy(), Q.numpy())
    assert -expected_loss(wasserstein, critic).item() == pytest.approx(distance)
    assert wasserstein.generator(torch.tensor([3.0, -1.0])).item() == -1.0


def test_the_hinge_is_the_margin_and_its_optimum_the_total_variation() -> None:
    # Its best discriminator says 1 where the data are likelier and -1 elsewhere.
    best = torch.where(P > Q, 1.0, -1.0).double()
    total_variation = (P - Q).abs().sum() / 2
    torch.testing.assert_close(expected_loss(hinge, best), 2 - 2 * total_variation)
    for other in (0.5 * best, 2 * best, -best, best + 0.3):
        assert expected_loss(hinge, other) > expected_loss(hinge, best)
    r, f = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert hinge.discriminator(r, f).item() == pytest.approx(0.25 + 0.5)


# Latents


def test_truncated_latents_are_drawn_again_and_not_clipped() -> None:
    z = truncated_normal((100_000,), 0.7, generator=seeded())
    assert z.abs().max() <= 0.7
    assert stats.kstest(z.double().numpy(), stats.truncnorm(-0.7, 0.7).cdf).pvalue > 0.01
    clipped = torch.randn(100_000, generator=seeded()).clamp(-0.7, 0.7)
    assert stats.kstest(clipped.double().numpy(), stats.truncnorm(-0.7, 0.7).cdf).pvalue < 1e-9
    whole = truncated_normal((100_000,), None, generator=seeded())
    assert torch.equal(whole, torch.randn(100_000, generator=seeded()))
    far = truncated_normal((1000,), 40.0, generator=seeded())
    assert far.isfinite().all()
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"truncation must be positive.*got {bad}"):
            truncated_normal((2,), bad)


# The game


class Conditional(nn.Module):
    """Says what it was called with."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.Linear(inputs, outputs)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if y is not None:
            self.seen.append(y)
        return self.net(x)


def game(objective: Objective = non_saturating) -> Adversarial:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return Adversarial(generator, nn.Linear(2, 1), 3, objective=objective)


def test_it_keeps_the_contract() -> None:
    assert isinstance(game(), AdversarialModel)


@pytest.mark.parametrize("objective", [saturating, non_saturating, wasserstein, hinge])
def test_losses_are_the_objectives_of_the_scores_and_reach_their_own_side_only(objective) -> None:
    model = game(objective)
    real = torch.randn(8, 2, generator=seeded())
    torch.manual_seed(1)
    terms = model.discriminator_loss(real)
    torch.manual_seed(1)
    made = model.generator(torch.randn(8, 3))
    scores = model.discriminator(real).flatten(), model.discriminator(made).flatten()
    torch.testing.assert_close(terms["loss"], objective.discriminator(*scores))
    assert terms["real"] == scores[0].mean()
    assert terms["made"] == scores[1].mean()
    terms["loss"].backward()
    assert all(p.grad is None for p in model.generator.parameters())
    model.zero_grad()
    torch.manual_seed(1)
    terms = model.generator_loss(8)
    torch.testing.assert_close(terms["loss"], objective.generator(scores[1]))
    terms["loss"].backward()
    assert all(p.grad is not None for p in model.generator.parameters())


def test_made_items_have_the_labels_of_the_real_ones() -> None:
    model = Adversarial(Conditional(3, 2), Conditional(2, 1), 3)
    y = torch.tensor([4, 5])
    model.discriminator_loss(torch.zeros(2, 2), y)
    model.generator_loss(2, y)
    seen = model.generator.seen + model.discriminator.seen
    assert len(seen) == 5
    assert all(torch.equal(labels, y) for labels in seen)


def test_samples_repeat_in_eval_mode_and_the_modes_are_given_back() -> None:
    model = game()
    model.generator[1].running_mean.fill_(3.0)
    model.train()
    model.discriminator.eval()
    before = model.generator[1].running_mean.clone()
    x = model.sample(5, generator=seeded(3))
    assert torch.equal(x, model.sample(5, generator=seeded(3)))
    assert torch.equal(x, model.decode(torch.randn(5, 3, generator=seeded(3))))
    assert torch.equal(before, model.generator[1].running_mean)
    assert model.generator.training
    assert not model.discriminator.training
    assert not x.requires_grad
    assert model.sample(0).shape == (0, 2)
    narrow = model.latent(1000, truncation=0.1, generator=seeded())
    assert narrow.shape == (1000, 3)
    assert narrow.abs().max() <= 0.1


def test_latents_have_the_generators_dtype() -> None:
    assert game().double().sample(2).dtype == torch.float64


def test_bad_input_is_named() -> None:
    model = game()
    with pytest.raises(ValueError, match=r"z must have shape \(n, 3\), got \(2, 4\)"):
        model.decode(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"discriminator must give one score .* got \(2, 5\)"):
        Adversarial(model.generator, nn.Linear(2, 5), 3).score(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="latent_dim must be at least 1, got 0"):
        Adversarial(model.generator, model.discriminator, 0)
