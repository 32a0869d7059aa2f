"""What 1606.04934 claims of inverse autoregressive flow, asserted."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gdm_lib.autoregression import sequential, sequential_naive
from gdm_lib.autoregressive.made import MaskedMLP
from gdm_lib.bijections import Chain, Flow, Inverse, StandardNormal
from gdm_lib.flows import iaf as paper
from gdm_lib.flows.iaf import IAF, AutoregressiveStep, gated, iaf_chain, shift_and_scale
from gdm_lib.flows.maf import MAF, exp_scale
from gdm_lib.flows.planar_radial import FlowEncoder, FlowVAE
from gdm_lib.likelihoods import Bernoulli
from gdm_lib.protocols import LikelihoodModel
from gdm_lib.vae.vae import Decoder
from tests.helpers import seeded, shaken


def test_keeps_the_contract():
    model = IAF(3)
    assert isinstance(model, LikelihoodModel)
    assert model.bound is False
    assert paper.ARXIV == "1606.04934"
    assert model.sample(4).shape == (4, 3)


def test_gated_step_is_algorithm_1():
    step = shaken(AutoregressiveStep(MaskedMLP(4, (9,), 2, context_dim=2)), 0.5).double()
    z = torch.randn(5, 4, generator=seeded(), dtype=torch.float64)
    h = torch.randn(5, 2, generator=seeded(1), dtype=torch.float64)
    m, s = step.net(z, h).unbind(1)
    sigma = torch.sigmoid(s)
    got, logdet = step(z, h)
    torch.testing.assert_close(got, sigma * z + (1 - sigma) * m)
    torch.testing.assert_close(logdet, sigma.log().sum(1))


def test_gated_update_is_stable_where_the_textbook_form_is_not():
    """At s = -200 in float32 sigma is 0 and its log -inf; at 40, 1 - sigma is 0 too early."""
    s = torch.tensor([-200.0, 40.0, 0.0])
    m = torch.tensor([1.0, 1e12, 2.0])
    log_scale, shift = gated(m, s)
    torch.testing.assert_close(log_scale[0], torch.tensor(-200.0))
    torch.testing.assert_close(shift[1], torch.tensor(1e12 * math.exp(-40)))
    assert torch.isinf(torch.sigmoid(s).log()[0])
    assert float((1 - torch.sigmoid(s))[1]) == 0


def test_a_gated_step_cannot_grow_but_an_exponential_one_can():
    net = shaken(MaskedMLP(4, (9,), 2), 2.0).double()
    z = 50 * torch.randn(100, 4, generator=seeded(), dtype=torch.float64)
    m, _ = net(z).unbind(1)
    bounded, _ = AutoregressiveStep(net, gated)(z)
    assert (bounded.abs() <= torch.maximum(z.abs(), m.abs()) + 1e-9).all()
    free, _ = AutoregressiveStep(net, shift_and_scale)(z)
    assert free.abs().max() > 1e6


def test_the_gate_starts_open_by_the_bias():
    """Section 4: s near +1 or +2, so that a step begins nearly as the identity."""
    z = torch.randn(100, 6, generator=seeded())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        step = iaf_chain(6, steps=1, s_bias=1.5).parts[0]
    s = step.net(z)[:, 1]
    assert float(s.detach().mean()) == pytest.approx(1.5, abs=0.3)
    assert (F.logsigmoid(s) > -0.7).all()


def test_steps_alternate_the_order():
    chain = iaf_chain(5, steps=3)
    places = [part.net.degrees(0).tolist() for part in chain.parts]
    assert places == [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [1, 2, 3, 4, 5]]


def test_samples_come_with_the_density_that_the_slow_direction_finds():
    model = shaken(IAF(4, hidden=(16,)), 0.5).double()
    with torch.no_grad():
        x, log_prob = model.draw(20, generator=seeded())
        torch.testing.assert_close(model.log_prob(x), log_prob)
    torch.testing.assert_close(model.log_prob(x).detach(), log_prob)  # with gradients: D passes


# -- the duality with MAF


def pair(dim: int = 5) -> tuple[MAF, Flow]:
    """A MAF, and an IAF that has its weights: the same steps, read from noise to data."""
    maf = shaken(MAF(dim, layers=3, hidden=(16,), batch_norm=False), 0.2).double()
    steps = []
    for i, part in enumerate(maf.bijection.parts):
        order = list(range(dim))[:: 1 if i % 2 == 0 else -1]
        step = AutoregressiveStep(MaskedMLP(dim, (16,), 2, orders=[order]), exp_scale).double()
        step.load_state_dict(part.state_dict())
        steps.append(step)
    return maf, Flow(Inverse(Chain(*steps)), StandardNormal((dim,))).double()


def test_iaf_with_the_weights_of_a_maf_is_its_inverse_to_the_last_bit():
    maf, iaf = pair()
    x = torch.randn(10, 5, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        for one, other in zip(maf.bijection(x), iaf.bijection.inverse(x), strict=True):
            assert torch.equal(one, other)
        for one, other in zip(maf.bijection.inverse(x), iaf.bijection(x), strict=True):
            assert torch.equal(one, other)


def test_what_one_does_in_one_pass_costs_the_other_as_many_as_there_are_dimensions(monkeypatch):
    """Counted in passes of the network, with the naive sampler in the fast one's place."""
    maf, iaf = pair()
    monkeypatch.setattr("gdm_lib.flows.iaf.sequential", sequential_naive)
    passes, forward = [], MaskedMLP.forward
    monkeypatch.setattr(MaskedMLP, "forward", lambda *a: passes.append(1) or forward(*a))

    def counted(call) -> int:
        passes.clear()
        with torch.no_grad():
            call()
        return len(passes) // 3  # layers

    x = torch.zeros(2, 5).double()
    assert counted(lambda: maf.log_prob(x)) == 1
    assert counted(lambda: iaf.sample(2)) == 1
    assert counted(lambda: maf.sample(2)) == 5
    assert counted(lambda: iaf.log_prob(x)) == 5


def test_gradients_choose_the_algorithm(monkeypatch):
    calls = []
    for name, f in (("sequential", sequential), ("sequential_naive", sequential_naive)):
        monkeypatch.setattr(
            f"gdm_lib.flows.iaf.{name}", lambda *a, name=name, f=f: calls.append(name) or f(*a)
        )
    model = IAF(3, steps=1)
    x = torch.zeros(2, 3)
    model.log_prob(x).sum().backward()
    with torch.no_grad():
        model.log_prob(x)
    assert calls == ["sequential_naive", "sequential"]


# -- as the posterior of a VAE


def test_as_the_posterior_of_a_vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FlowVAE(
            FlowEncoder((6,), 3, 4, (12,)),
            iaf_chain(3, context_dim=4, hidden=(16,)),
            Decoder(3, (6,), (12,)),
            Bernoulli(),
            latent_dim=3,
        ).double()
    x = torch.bernoulli(torch.full((5, 6), 0.5).double(), generator=seeded())
    model.loss(x, generator=seeded())["loss"].backward()
    for name, p in model.named_parameters():
        assert p.grad.abs().sum() > 0, name
    with torch.no_grad():
        z, log_q = model.posterior(x, generator=seeded())
        mu, log_var, h = model.encoder(x)
        z0, logdet = model.flow.inverse(z[0], h)
        q0 = torch.distributions.Normal(mu, (log_var / 2).exp()).log_prob(z0).sum(1)
    torch.testing.assert_close(log_q[0], q0 + logdet)


def test_one_linear_step_makes_any_gaussian():
    """Section 5.1 / appendix A: a linear autoregressive step turns a diagonal Gaussian into one of
    full covariance. Fitted by the free energy to a correlated Gaussian, the KL goes to zero."""
    cov = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    target = torch.distributions.MultivariateNormal(torch.zeros(2), cov)
    step = AutoregressiveStep(MaskedMLP(2, (), 2), shift_and_scale)
    for p in step.parameters():
        nn.init.zeros_(p)
    flow = Flow(Inverse(step), StandardNormal((2,)))
    optimiser = torch.optim.Adam(flow.parameters(), 0.03)
    for i in range(300):
        optimiser.zero_grad()
        x, log_q = flow.draw(256, generator=seeded(i))
        (log_q - target.log_prob(x)).mean().backward()
        optimiser.step()
    with torch.no_grad():
        x, log_q = flow.draw(5000, generator=seeded())
        assert float((log_q - target.log_prob(x)).mean()) < 0.01


def test_a_network_without_two_outputs_is_refused():
    with pytest.raises(ValueError, match="net must give 2 parameters for each variable, got 1"):
        AutoregressiveStep(MaskedMLP(3, (4,)))
