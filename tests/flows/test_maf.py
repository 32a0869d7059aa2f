"""What 1705.07057 claims of MAF, asserted."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn

from gdm_lib.autoregression import sequential_naive
from gdm_lib.autoregressive.made import MADE, MaskedMLP
from gdm_lib.bijections import OneHot
from gdm_lib.data.toy2d import banana
from gdm_lib.flows import maf as paper
from gdm_lib.flows.iaf import AutoregressiveStep
from gdm_lib.flows.maf import MAF, bounded_scale, exp_scale, maf_mog
from gdm_lib.flows.realnvp import AffineCoupling
from gdm_lib.likelihoods import MixtureOfGaussians
from gdm_lib.protocols import LikelihoodModel
from tests.helpers import seeded, shaken


def loud(module: nn.Module, std: float = 0.2) -> nn.Module:
    return shaken(module, std).double().eval()


def test_keeps_the_contract():
    for model in (MAF(3), maf_mog(3)):
        assert isinstance(model, LikelihoodModel)
        assert model.bound is False
        assert model.eval().sample(4).shape == (4, 3)
    assert isinstance(maf_mog(3).base.likelihood, MixtureOfGaussians)
    assert paper.ARXIV == "1705.07057"


def test_a_layer_is_equations_4_and_5():
    layer = loud(MAF(4, layers=1, hidden=(9,), batch_norm=False)).bijection.parts[0]
    assert isinstance(layer, AutoregressiveStep)
    x = torch.randn(5, 4, generator=seeded(), dtype=torch.float64)
    mu, alpha = layer.net(x).unbind(1)
    u, logdet = layer(x)
    torch.testing.assert_close(u, (x - mu) * (-alpha).exp())
    torch.testing.assert_close(logdet, -alpha.sum(1))


def test_the_scale_is_an_exponential_not_a_softplus():
    """An alpha of -3 and of 3 are reciprocal scales."""
    log_scale, shift = exp_scale(torch.tensor([2.0, 2.0]), torch.tensor([-3.0, 3.0]))
    torch.testing.assert_close(log_scale.exp(), torch.tensor([math.exp(3), math.exp(-3)]))
    torch.testing.assert_close(shift, -2 * log_scale.exp())


def test_a_single_layer_is_a_made_of_gaussian_conditionals():
    """Its density is the product of N(x_i; mu_i, exp(alpha_i)), by scipy."""
    model = loud(MAF(4, layers=1, hidden=(9,), batch_norm=False))
    x = torch.randn(5, 4, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        mu, alpha = model.bijection.parts[0].net(x).unbind(1)
        expected = stats.norm(mu.numpy(), alpha.exp().numpy()).logpdf(x.numpy()).sum(1)
        torch.testing.assert_close(model.log_prob(x), torch.tensor(expected))


def test_jacobian_of_a_layer_is_triangular_in_its_order():
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        model = loud(MAF(4, layers=1, hidden=(40,), order=order, batch_norm=False), 0.5)
        x = torch.randn(1, 4, generator=seeded(), dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda v: model.bijection(v)[0], x)[0, :, 0]  # noqa: B023
        sorted_jacobian = jacobian[order][:, order]
        assert (sorted_jacobian.triu(1) == 0).all()
        assert (sorted_jacobian.diagonal() > 0).all()


def test_layers_reverse_the_order():
    chain = MAF(3, layers=3, order=[1, 2, 0], batch_norm=False).bijection
    orders = [part.net.degrees(0).argsort().tolist() for part in chain.parts]
    assert orders == [[1, 2, 0], [0, 2, 1], [1, 2, 0]]


def test_fast_inverse_equals_the_naive_sampler(monkeypatch):
    model = loud(MAF(32, layers=3, hidden=(64, 64)), 0.02)
    u = torch.randn(20, 32, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        fast, fast_logdet = model.bijection.inverse(u)
        monkeypatch.setattr("gdm_lib.flows.iaf.sequential", sequential_naive)
        naive, naive_logdet = model.bijection.inverse(u)
        torch.testing.assert_close(model.bijection(fast)[0], u, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(fast, naive, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(fast_logdet, naive_logdet, atol=1e-6, rtol=1e-6)


def test_the_slow_inverse_is_taken_only_where_gradients_are_recorded(monkeypatch):
    """The benchmarks have the ratio of the two, and that to peers."""
    model = MAF(8, layers=2, hidden=(16,)).eval()
    u = torch.randn(3, 8, generator=seeded())
    calls = []

    def counted(*args):
        calls.append(1)
        return sequential_naive(*args)

    monkeypatch.setattr("gdm_lib.flows.iaf.sequential_naive", counted)
    with torch.no_grad():
        fast, _ = model.bijection.inverse(u)
    assert calls == []
    slow, _ = model.bijection.inverse(u)
    assert len(calls) == 2
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-6)


def train(model: nn.Module, x: torch.Tensor, steps: int, rate: float, y=None) -> nn.Module:
    optimiser = torch.optim.Adam(model.parameters(), rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    for i in range(steps):
        optimiser.zero_grad()
        rows = torch.randint(0, len(x), (256,), generator=seeded(i))
        model.loss(x[rows], None if y is None else y[rows])["loss"].backward()
        optimiser.step()
        decay.step()
    return model.eval()


def test_figure_1_one_layer_fits_the_banana_in_one_order_only():
    """Five layers fit it in either: the gaps to the exact entropy, in nats."""
    target, gap = banana(), {}
    x, held_out = (
        target.sample(10_000, generator=seeded()),
        target.sample(5000, generator=seeded(1)),
    )
    cases = {
        "x1 first": ([0, 1], 1),
        "x2 first": ([1, 0], 1),
        "deep": ([1, 0], 5),
        "deep, other": ([0, 1], 5),
    }
    for name, (order, layers) in cases.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = MAF(2, layers=layers, hidden=(32,), order=order, batch_norm=False)
        train(model, x, 300, 1e-2)
        with torch.no_grad():
            gap[name] = float(-model.log_prob(held_out).mean()) - float(target.entropy)
    right, wrong = sorted((gap["x1 first"], gap["x2 first"]))
    assert right < 0.05
    assert wrong > 0.15
    assert max(gap["deep"], gap["deep, other"]) < 0.4 * wrong


# -- conditional densities (section 3.4)


def test_conditional_on_labels_it_learns_a_density_for_each():
    means = torch.tensor([[-3.0, 0.0], [0.0, 2.0], [3.0, -1.0]])
    y = torch.arange(3).repeat(1000)
    x = means[y] + 0.5 * torch.randn(3000, 2, generator=seeded())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MAF(2, layers=2, hidden=(16,), context_dim=3, embed=OneHot(3), batch_norm=False)
    train(model, x, 200, 2e-2, y)
    entropy = 1 + math.log(2 * math.pi) + 2 * math.log(0.5)
    with torch.no_grad():
        gap = float(-model.log_prob(x, y).mean()) - entropy
        draws = model.sample(3000, y, generator=seeded(1))
    assert abs(gap) < 0.08
    for k in range(3):
        torch.testing.assert_close(draws[k::3].mean(0), means[k], atol=0.15, rtol=0)


def test_context_acts_on_every_dimension_of_every_layer():
    model = loud(MAF(3, layers=1, hidden=(12,), context_dim=2, activation=nn.Tanh), 0.5)
    x, y = torch.zeros(1, 3).double(), torch.zeros(1, 2).double()
    jacobian = torch.autograd.functional.jacobian(lambda c: model.bijection(x, c)[0], y)[0, :, 0]
    assert (jacobian != 0).all()


# -- mixtures (section 4)


def test_maf_mog_integrates_to_one_and_is_conditional_throughout():
    model = loud(
        maf_mog(2, layers=2, hidden=(12,), components=3, activation=nn.Tanh, context_dim=2)
    )
    assert isinstance(model.base, MADE)
    grid = torch.linspace(-25, 25, 801, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        for y in ([0.0, 1.0], [-0.5, 0.5]):
            context = torch.tensor(y).double().expand(len(x), 2)
            mass = model.log_prob(x, context).exp().sum() * float(grid[1] - grid[0]) ** 2
            assert float(mass) == pytest.approx(1, abs=2e-3)
    some = torch.tensor([[0.0, 1.0], [1.0, -1.0]]).double()
    assert len(model.base.log_prob(x[:2], some).unique()) == 2
    assert model.sample(4, torch.zeros(4, 2).double(), generator=seeded()).shape == (4, 2)


def test_a_coupling_layer_is_an_autoregressive_layer_that_sees_less():
    """Section 3.3: the Jacobian of Real NVP's layer is MAF's with entries forced to zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        coupling = AffineCoupling(4, nn.Linear(2, 4)).double()
    x = torch.randn(1, 4, generator=seeded(), dtype=torch.float64)
    coupled = torch.autograd.functional.jacobian(lambda v: coupling(v)[0], x)[0, :, 0]
    maf = loud(MAF(4, layers=1, hidden=(40,), batch_norm=False), 0.5)
    full = torch.autograd.functional.jacobian(lambda v: maf.bijection(v)[0], x)[0, :, 0]
    assert (full[coupled != 0] != 0).all()
    assert (coupled != 0).sum() < (full != 0).sum()


def test_every_parameter_learns():
    for model in (MAF(4, layers=3, hidden=(30, 30)), maf_mog(4, layers=2, hidden=(30,))):
        model.loss(torch.randn(64, 4, generator=seeded()))["loss"].backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name


# -- a bounded scale


def heavy(n: int) -> torch.Tensor:
    """A table with tails: most points near 0, a few far out."""
    x = torch.randn(n, 3, generator=seeded())
    return x / x.roll(1, 1).abs().clamp_min(1e-4)


def test_bounded_scale_is_the_papers_near_zero_and_bounded_far_from_it():
    mu, alpha = torch.ones(5), torch.tensor([-1e9, -1e-3, 0.0, 1e-3, 1e9])
    log_scale, shift = bounded_scale(mu, alpha)
    torch.testing.assert_close(log_scale[1:4], exp_scale(mu, alpha)[0][1:4])
    torch.testing.assert_close(log_scale[[0, 4]], torch.tensor([3.0, -3.0]))
    torch.testing.assert_close(shift, -mu * log_scale.exp())


@pytest.mark.parametrize("model", [MAF, maf_mog])
@pytest.mark.parametrize("direct", [False, True])
def test_with_a_bounded_scale_and_direct_connections_the_inverse_undoes_the_flow(model, direct):
    flow = loud(
        model(5, layers=3, hidden=(9,), direct=direct, update=bounded_scale, context_dim=2), 0.5
    )
    nets = [m for m in flow.modules() if isinstance(m, MaskedMLP)]
    assert all((net.direct is not None) == direct for net in nets)
    x = torch.randn(4, 5, generator=seeded()).double()
    y = torch.randn(4, 2, generator=seeded(1)).double()
    z = flow.encode(x, y)
    with torch.no_grad():
        torch.testing.assert_close(flow.decode(z, y), x)
    torch.testing.assert_close(flow.decode(z, y), x)
    for i in range(4):
        rows = torch.autograd.functional.jacobian(
            lambda v, i=i: flow.encode(v[None], y[i : i + 1])[0], x[i]
        )
        logdet = flow.bijection(x[i : i + 1], y[i : i + 1])[1]
        torch.testing.assert_close(torch.linalg.slogdet(rows).logabsdet, logdet[0])


def test_a_bounded_scale_trains_where_the_papers_is_lost():
    """The advice of the docstring: it works on a table where clipping gradients doesn't."""

    def lost(**options: Any) -> bool:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = MAF(3, layers=5, hidden=(32,), batch_norm=False, **options)
        x, optimizer = heavy(512), torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            loss = model.loss(x)["loss"]
            if not loss.isfinite():
                return True
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return False

    assert lost()
    assert not lost(update=bounded_scale)


def test_an_order_that_is_none_is_refused_by_name():
    with pytest.raises(ValueError, match=r"order must be a permutation of 0..2, got \[0, 1\]"):
        MAF(3, order=[0, 1])
