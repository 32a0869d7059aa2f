"""Whoever samples or evaluates need not think of modes: of every model, only ``loss`` trains."""

import threading
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gdm_lib.autoregression import Autoregressive
from gdm_lib.autoregressive import MADE, WaveNet
from gdm_lib.bijections import BatchNorm, Chain, Flow, StandardNormal
from gdm_lib.flows import MAF, FlowVAE, Glow, RealNVP, maf_mog
from gdm_lib.flows.glow import ActNorm
from gdm_lib.flows.planar_radial import Planar
from gdm_lib.likelihoods import Bernoulli, Gaussian
from gdm_lib.nn import evaluates, evaluating, learning, trains
from gdm_lib.vae import VAE
from tests.helpers import normal, seeded
from tests.zoo import ZOO, bits, made


class Encoder(nn.Module):
    """With a batch norm and dropout of torch's, as a user may have."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.net = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, sum(sizes))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.net(x).split(self.sizes, 1)


def decoder() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6))


def vae() -> VAE:
    return VAE(Encoder(2, 2), decoder(), Bernoulli(), data_shape=(6,), latent_dim=2)


def flow_vae() -> FlowVAE:
    return FlowVAE(Encoder(2, 2, 3), Planar(2, 3), decoder(), Bernoulli(), latent_dim=2)


def dropping() -> nn.Module:
    return nn.Sequential(nn.Tanh(), nn.Dropout(0.5))


OWN: dict[str, Any] = {
    "a VAE of a user's networks": (vae, partial(bits, shape=(6,))),
    "a flow VAE of a user's networks": (flow_vae, partial(bits, shape=(6,))),
    "a base that is a model with dropout": (
        lambda: maf_mog(4, layers=1, hidden=(8,), components=2, activation=dropping),
        lambda n, generator: torch.randn(n, 4, generator=generator) + 1,
    ),
    "a MADE with dropout": (
        lambda: MADE((4,), (8,), likelihood=Gaussian(), activation=dropping),
        lambda n, generator: torch.randn(n, 4, generator=generator) + 1,
    ),
    "couplings with dropout": (
        lambda: RealNVP.vector(4, hidden=(8,), activation=dropping),
        lambda n, generator: torch.randn(n, 4, generator=generator) + 1,
    ),
}
EVERY = [*ZOO, *OWN]


def built(name: str) -> Any:
    """A fresh model, which has not seen data, in train mode."""
    if name in ZOO:
        return made(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return OWN[name][0]()


def data(name: str, n: int, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    if name in ZOO:
        return ZOO[name].data(n, seed)
    return OWN[name][1](n, generator=seeded(seed)), None


def trained(name: str) -> Any:
    """The same after one loss, so that layers that look at their first batch have."""
    model = built(name)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model.loss(*data(name, 8, seed=5))
    return model


def calls(name: str, model: Any) -> dict[str, Any]:
    """All that evaluates, by name, with the randomness of each fixed."""
    x, y = data(name, 5)
    found = {
        "log_prob": lambda: model.log_prob(x, y),
        "sample": lambda: model.sample(5, y, generator=seeded()),
    }
    if isinstance(model, Flow):
        found["draw"] = lambda: torch.cat([v.flatten() for v in model.draw(5, y)])
        found["encode"] = lambda: model.encode(x, y)
        found["decode"] = lambda: model.decode(model.encode(x, y), y)
    if isinstance(model, VAE):
        found["encode"] = lambda: torch.cat(model.encode(x))
        found["decode"] = lambda: model.decode(normal(5, 2).float())
        found["decode_mean"] = lambda: model.decode_mean(normal(5, 2).float())
    if isinstance(model, FlowVAE):
        found["posterior"] = lambda: torch.cat([v.flatten() for v in model.posterior(x, 2)])
    if isinstance(model, VAE | FlowVAE):
        found["importance_log_prob"] = lambda: model.importance_log_prob(x, 3)
    if isinstance(model, Autoregressive):
        known = torch.zeros_like(x, dtype=torch.bool)
        known[..., : x.shape[-1] // 2] = True
        found["complete"] = lambda: model.complete(x, known, y, generator=seeded())
        rule = lambda params, _: model.likelihood.mean(params).round().long()  # noqa: E731
        found["generate"] = lambda: model.generate(rule, 5, y)
        found["generate_naive"] = lambda: model.generate_naive(rule, 5, y)
    return found


def run(call: Any) -> Tensor:
    """With the global generator in the same state each time."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return call()


def modes(model: nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("make", [built, trained])
@pytest.mark.parametrize("name", EVERY)
def test_in_train_mode_it_does_what_eval_mode_does(name, make, gradients):
    model = make(name)
    children = list(model.children())
    children[-1].eval()  # parts may be in modes of their own
    before, were = state(model), modes(model)
    for method, call in calls(name, model).items():
        with torch.set_grad_enabled(gradients):
            found = run(call)
            assert modes(model) == were, method
            assert unchanged(model, before), method
            model.eval()
            assert torch.equal(found, run(call)), method
        for part, mode in zip(model.modules(), were, strict=True):
            part.training = mode


@pytest.mark.parametrize("name", EVERY)
def test_a_point_has_one_density_whatever_stands_beside_it(name):
    model = trained(name)
    (x, y), (one, _), (other, _) = data(name, 4), data(name, 4, seed=1), data(name, 4, seed=2)

    def of_the_first(rest: Tensor) -> Tensor:
        return run(lambda: model.log_prob(torch.cat([x[:1], rest[1:]]), y))[0]

    torch.testing.assert_close(of_the_first(one), of_the_first(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_flow_through_a_density_in_train_mode(name):
    model = trained(name)
    run(lambda: model.log_prob(*data(name, 5))).sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_modes_come_back_after_an_error(name):
    model = built(name)
    were = modes(model)
    x, y = data(name, 4)

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    for part in model.modules():
        part.register_forward_pre_hook(fails)
    with pytest.raises(ZeroDivisionError):
        model.log_prob(x, y)
    if not isinstance(model, WaveNet):  # whose queues read the weights
        with pytest.raises(ZeroDivisionError):
            model.sample(2, None if y is None else y[:2])
    assert modes(model) == were


@pytest.mark.parametrize("name", OWN)
def test_the_loss_trains_all_the_same(name):
    """Dropout and batch statistics of a model, and of a model inside it, work under ``loss``."""
    model, (x, y) = trained(name), data(name, 8)
    before = state(model)
    loud = run(lambda: model.loss(x, y)["loss"])
    assert any(key.endswith(("mean", "var")) for key in before) == (not unchanged(model, before))
    model.eval()
    assert not torch.equal(loud, run(lambda: model.loss(x, y)["loss"]))


def test_a_base_that_is_a_model_drops_out_in_training_and_nowhere_else():
    base = maf_mog(3, layers=1, hidden=(8,), components=2, activation=dropping).base
    model = Flow(Chain(), base)
    x = normal(6, 3).float()
    losses = [model.loss(x)["loss"] for _ in range(2)]
    assert losses[0] != losses[1]
    assert torch.equal(model.log_prob(x), model.log_prob(x))


def test_a_loss_made_of_a_density_trains_it():
    class Mine(Flow):
        @trains
        def loss(self, x, y=None, *, generator=None):
            return {"loss": -self.log_prob(x).mean()}

    class Undecorated(Flow):
        def loss(self, x, y=None, *, generator=None):
            return {"loss": -self.log_prob(x).mean()}

    x = normal(9, 2).float() + 5
    mine = Mine(BatchNorm(2), StandardNormal((2,)))
    mine.loss(x)
    assert bool((mine.bijection.mean > 0.3).all())
    other = Undecorated(BatchNorm(2), StandardNormal((2,)))
    with learning(other):
        other.loss(x)
    assert torch.equal(other.bijection.mean, mine.bijection.mean)


def test_another_model_in_a_loss_is_only_evaluated():
    teacher = Flow(BatchNorm(2), StandardNormal((2,)))

    class Student(nn.Module):
        @trains
        def loss(self, x: Tensor) -> Tensor:
            return teacher.log_prob(x).mean()

    Student().loss(normal(9, 2).float() + 5)
    assert not bool(teacher.bijection.mean.any())


def test_several_threads_evaluate_one_model():
    """None gives the modes back while another still needs them."""
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with evaluating(model):
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(5)
    with evaluating(model[0]), evaluating(model):
        leave.set()
        thread.join()
        assert modes(model) == [False] * 3
    assert modes(model) == [True] * 3


def test_parts_that_hold_each_other_are_visited_once():
    one, two = nn.Linear(1, 1), nn.Linear(1, 1)
    one.other, two.other = two, one
    with evaluating(one):
        assert not one.training
        assert not two.training
    assert one.training
    assert two.training


# Batch norm and actnorm


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(50, 3), (9, 3, 2, 2)])
def test_batch_norm_never_undoes_another_map_than_its_own(shape, affine):
    norm, x = BatchNorm(3, affine=affine).double(), 4 * normal(*shape) + 19
    z, logdet = norm(x)
    with pytest.raises(RuntimeError, match=r"no inverse in train mode.*call eval\(\)"):
        norm.inverse(z)
    with evaluating(norm):
        z, logdet = norm(x)
        back, back_logdet = norm.inverse(z)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(back_logdet, -logdet)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RealNVP.vector(4, couplings=2, hidden=(8,)),
        lambda: MAF(4, layers=2, hidden=(8,)),
        lambda: Flow(Chain(ActNorm(4), BatchNorm(4, affine=True)), StandardNormal((4,))),
    ],
)
def test_samples_have_the_density_that_they_are_told(make):
    torch.manual_seed(0)
    model, x = make().double(), 3 * normal(100, 4) + 19
    for _ in range(5):
        model.loss(x)
    drawn, told = model.draw(20)
    torch.testing.assert_close(model.log_prob(drawn), told)
    torch.testing.assert_close(model.decode(model.encode(x)), x)


def test_a_fresh_glow_is_initialised_by_its_loss_alone():
    model, (x, _) = made("glow"), ZOO["glow"].data(8)
    norms = [part for part in model.modules() if isinstance(part, ActNorm)]
    first = model.sample(3, generator=seeded())
    value = model.log_prob(x, generator=seeded())
    assert torch.equal(model.sample(3, generator=seeded()), first)
    assert torch.equal(model.log_prob(x, generator=seeded()), value)
    assert not any(bool(norm.ready) for norm in norms)
    model.eval().loss(x)
    assert not any(bool(norm.ready) for norm in norms)
    model.train().loss(x)
    assert all(bool(norm.ready) for norm in norms)
    assert not torch.equal(model.log_prob(x, generator=seeded()), value)


def test_actnorm_is_initialised_by_an_explicit_call_in_any_mode():
    norm, x = ActNorm(3).eval(), 3 * normal(40, 3).float() + 1
    norm.initialise(x)
    z, _ = norm(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(3))


# Compiled


@pytest.mark.parametrize("training", [False, True])
def test_evaluating_methods_compile_without_a_break(training):
    model = MAF(3, layers=1, hidden=(8,)).train(training)
    x = normal(5, 3).float()
    compiled = torch.compile(model.log_prob, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model.log_prob(x))
    loss = torch.compile(model.loss, fullgraph=True, backend="eager")
    loss(x)
    assert modes(model) == [training] * len(modes(model))


def test_the_switch_keeps_a_method_s_name_and_signature():
    import inspect

    assert Flow.log_prob.__name__ == "log_prob"
    assert "generator" in inspect.signature(Flow.log_prob).parameters
    assert "generator" in inspect.signature(evaluates(Glow.sample)).parameters
