"""``fit_adversarial``: the Dirac-GAN, whose recursion has a closed form, and a small whole GAN."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from gdm_lib.protocols import AdversarialModel
from gdm_lib.training import History, NonFiniteLossError, fit_adversarial

fit_adversarial = partial(fit_adversarial, progress=False)
RATE = 0.1
SGD = partial(torch.optim.SGD, lr=RATE)


# A whole adversarial model in forty lines, as a reader might write it


class RingGAN(nn.Module):
    """The paper's game (1406.2661) on vectors, with noise on the discriminator's inputs."""

    def __init__(self, dim: int = 2, latents: int = 3, width: int = 8) -> None:
        super().__init__()
        self.latents = latents
        self.generator = nn.Sequential(
            nn.Linear(latents, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, dim)
        )
        self.discriminator = nn.Sequential(
            nn.Linear(dim, width), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(width, 1)
        )

    def make(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.generator(torch.randn(n, self.latents, generator=generator))

    def score(self, x: Tensor) -> Tensor:
        return self.discriminator(x + 0.1 * torch.randn_like(x))

    def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        with torch.no_grad():
            made = self.make(len(real))
        right = nn.functional.softplus(-self.score(real)).mean()
        wrong = nn.functional.softplus(self.score(made)).mean()
        return {"loss": right + wrong, "on real": right.detach()}

    def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
        return {"loss": nn.functional.softplus(-self.score(self.make(n))).mean()}

    @torch.no_grad()
    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return self.make(n, generator)


def ring(seed: int = 0) -> RingGAN:
    torch.manual_seed(seed)
    return RingGAN()


def points(n: int = 40) -> Tensor:
    angle = 2 * torch.pi * torch.rand(n, generator=torch.Generator().manual_seed(7))
    return torch.stack([angle.cos(), angle.sin()], 1)


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# The Dirac-GAN (Mescheder et al. 2018, 1801.04406, section 2): the data are all 0, the generator
# makes one point, theta, and the critic is x -> psi x. With WGAN's objective each of the critic's
# turns is psi -= h theta, and the generator's is theta += h psi.


class Point(nn.Module):
    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at, dtype=torch.float64))


class DiracGAN(nn.Module):
    def __init__(self, theta: float = 1.0, psi: float = 0.5) -> None:
        super().__init__()
        self.generator, self.discriminator = Point(theta), Point(psi)
        self.asked: list[tuple[bool, bool]] = []
        self.seen: list[Tensor] = []

    def watch(self) -> None:
        parts = self.generator, self.discriminator
        self.asked.append(tuple(part.at.requires_grad for part in parts))

    def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        self.watch()
        self.seen.append(real)
        made, psi = self.generator.at, self.discriminator.at
        return {"loss": psi * made - (psi * real).mean()}

    def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
        self.watch()
        return {"loss": -self.generator.at * self.discriminator.at, "n": torch.tensor(float(n))}

    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return self.generator.at.detach().expand(n)


ZEROS = torch.zeros(12, dtype=torch.float64)


def closed_form(theta: float, psi: float, steps: int, turns: int) -> tuple[float, float]:
    """``(theta, psi)`` after so many steps: a linear recursion, so a power of a matrix."""
    critic = torch.tensor([[1.0, 0.0], [-turns * RATE, 1.0]], dtype=torch.float64)
    generator = torch.tensor([[1.0, RATE], [0.0, 1.0]], dtype=torch.float64)
    start = torch.tensor([theta, psi], dtype=torch.float64)
    return tuple((torch.linalg.matrix_power(generator @ critic, steps) @ start).tolist())


@pytest.mark.parametrize("turns", [1, 3])
def test_the_dirac_gan_follows_its_closed_form(turns: int) -> None:
    model = DiracGAN()
    history = fit_adversarial(
        model, ZEROS, steps=50, batch_size=4, critic_steps=turns, optimizer=SGD
    )
    expected = closed_form(1.0, 0.5, 50, turns)
    assert (model.generator.at.item(), model.discriminator.at.item()) == pytest.approx(expected)
    assert history.train_steps == list(range(1, 51))
    before = closed_form(1.0, 0.5, 49, turns)  # the critic's last turn of step 50 begins here,
    psi = before[1] - (turns - 1) * RATE * before[0]  # after its turns before in the same step
    assert history.train["discriminator loss"][-1] == pytest.approx(psi * before[0])
    assert history.train["generator loss"][-1] == pytest.approx(-before[0] * expected[1])
    assert history.train["generator n"][-1] == 4
    assert set(history.train) == {"discriminator loss", "generator loss", "generator n"}


def test_alternating_steps_keep_the_dirac_gan_on_an_ellipse() -> None:
    # The determinant of a step is 1 and its eigenvalues lie on the unit circle, so it neither
    # converges nor explodes: theta^2 - h theta psi + psi^2 stays. (Steps at once would spiral out.)
    model = DiracGAN()

    def invariant() -> float:
        theta, psi = model.generator.at.item(), model.discriminator.at.item()
        return theta**2 - RATE * theta * psi + psi**2

    start = invariant()
    fit_adversarial(model, ZEROS, steps=400, batch_size=4, optimizer=SGD)
    assert invariant() == pytest.approx(start)


def test_while_one_plays_the_other_asks_for_no_gradients_and_all_is_given_back() -> None:
    model = DiracGAN()
    model.spare = nn.Parameter(torch.zeros(1), requires_grad=False)
    fit_adversarial(model, ZEROS, steps=2, batch_size=4, critic_steps=2, optimizer=SGD)
    assert model.asked == [(False, True), (False, True), (True, False)] * 2
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert not model.spare.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_a_frozen_part_stays_frozen() -> None:
    model = ring()
    model.generator[0].weight.requires_grad_(False)
    before = model.generator[0].weight.clone()
    fit_adversarial(model, points(), steps=3, batch_size=8)
    assert torch.equal(before, model.generator[0].weight)
    assert not model.generator[0].weight.requires_grad


def test_the_weights_are_clipped_after_each_of_the_critics_steps() -> None:
    def clip(critic: nn.Module) -> None:
        assert not torch.is_grad_enabled()
        for parameter in critic.parameters():
            parameter.clamp_(0.42, 0.55)
        clipped.append(model.discriminator.at.item())

    clipped: list[float] = []
    model = DiracGAN()
    fit_adversarial(
        model, ZEROS, steps=2, batch_size=4, critic_steps=2, optimizer=SGD, after_critic=clip
    )
    assert clipped[:2] == pytest.approx([0.42, 0.42])  # from 0.5 it would go to 0.4
    assert model.generator.at.item() == pytest.approx(1 + RATE * sum(clipped[1::2]))


def test_each_turn_of_the_critic_takes_a_new_batch_and_an_epoch_repeats_none() -> None:
    model = DiracGAN()
    data = torch.arange(12, dtype=torch.float64)
    fit_adversarial(model, data, steps=2, batch_size=3, critic_steps=2, optimizer=SGD)
    assert sorted(torch.cat(model.seen).tolist()) == data.tolist()


def test_every_turn_has_noise_of_its_own() -> None:
    class Listener(DiracGAN):
        def watch(self) -> None:
            drawn.append(torch.rand(2).tolist())

    drawn: list[list[float]] = []
    fit_adversarial(Listener(), ZEROS, steps=4, batch_size=4, critic_steps=2, optimizer=SGD)
    assert len({tuple(numbers) for numbers in drawn}) == 12


def test_the_generator_gets_the_labels_of_the_last_batch() -> None:
    class Labelled(DiracGAN):
        def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            labels.append(y)
            assert torch.equal(real.long(), y)
            return super().discriminator_loss(0 * real)

        def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
            assert torch.equal(labels[-1], y)
            assert n == 3
            return super().generator_loss(n)

    labels: list[Tensor] = []
    x = torch.arange(12, dtype=torch.float64)
    fit_adversarial(Labelled(), (x, x.long()), steps=3, batch_size=3, critic_steps=2)
    assert len(labels) == 6


def test_the_average_is_of_the_generator() -> None:
    thetas: list[float] = []
    model = DiracGAN()
    history = fit_adversarial(
        *(model, ZEROS),
        steps=12,
        batch_size=4,
        optimizer=SGD,
        ema=0.5,
        callback=lambda step, model, history: thetas.append(model.generator.at.item()),
        callback_every=1,
    )
    expected = thetas[0]
    for t, theta in enumerate(thetas):
        decay = min(0.5, t / (t + 9))
        expected = decay * expected + (1 - decay) * theta
    assert history.ema is not None
    assert history.ema.generator.at.item() == pytest.approx(expected)
    assert history.ema.discriminator.at.item() == model.discriminator.at.item()


def test_two_optimizers_each_with_its_own_rate_and_one_schedule() -> None:
    model = DiracGAN()
    fit_adversarial(
        *(model, ZEROS),
        steps=1,
        batch_size=4,
        optimizer=SGD,
        critic_optimizer=partial(torch.optim.SGD, lr=0.4),
        schedule=lambda step: 0.5,
    )
    assert model.discriminator.at.item() == pytest.approx(0.5 - 0.5 * 0.4)
    assert model.generator.at.item() == pytest.approx(1 + 0.5 * RATE * 0.3)


def test_the_defaults_are_those_of_dcgan() -> None:
    made: list[torch.optim.Optimizer] = []
    original = torch.optim.Adam.__init__

    def spy(self: torch.optim.Adam, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "__init__", spy)
        fit_adversarial(ring(), points(), steps=1, batch_size=8)
    assert [(o.defaults["lr"], o.defaults["betas"]) for o in made] == [(2e-4, (0.5, 0.999))] * 2


# A batch in parts


def test_accumulated_parts_are_one_large_batch() -> None:
    class Plain(DiracGAN):
        """Its losses depend on every item, and their mean is over the batch."""

        def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            sizes.append(len(real))
            psi, theta = self.discriminator.at, self.generator.at
            return {"loss": (psi * real).square().mean() + psi * theta, "mean": real.mean()}

    sizes: list[int] = []
    data = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    runs = []
    for parts in (1, 4):
        model = Plain()
        history = fit_adversarial(
            *(model, data), steps=6, batch_size=8, optimizer=SGD, accumulate=parts
        )
        runs.append((model.generator.at.item(), model.discriminator.at.item()))
        runs.append(history.train["discriminator mean"])
    assert sizes == [8] * 6 + [2] * 24
    assert runs[0] == pytest.approx(runs[2])
    assert runs[1] == pytest.approx(runs[3])


# What is measured


def test_measurements_are_kept_and_change_nothing() -> None:
    def measure(model: RingGAN) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        drawn.append(model.sample(3))
        return {"radius": model.sample(50).norm(dim=1).mean(), "of": 50}

    drawn: list[Tensor] = []
    alone, measured = ring(), ring()
    fit_adversarial(alone, points(), steps=11, batch_size=8)
    history = fit_adversarial(
        measured, points(), steps=11, batch_size=8, measure=measure, measure_every=4
    )
    assert same(alone, measured)
    assert history.measured_steps == [4, 8, 11]
    assert set(history.measured) == {"radius", "of"}
    assert history.measured["of"] == [50.0] * 3
    assert len(set(history.measured["radius"])) == 3
    history = fit_adversarial(
        *(ring(), points()), steps=3, batch_size=8, ema=0.9,
        measure=lambda model: {"it": float(model is not measured)},
    )  # fmt: skip
    assert history.measured_steps == [3]


def test_the_averaged_copy_is_what_is_measured() -> None:
    seen: list[nn.Module] = []
    model = ring()

    def measure(copy: nn.Module) -> dict[str, float]:
        seen.append(copy)
        return {}

    history = fit_adversarial(model, points(), steps=2, batch_size=8, ema=0.9, measure=measure)
    assert seen == [history.ema]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (3.0, "measure must return a dict of numbers by name, got 3.0"),
        ({"fid": "low"}, "measure must return a dict of numbers by name"),
        ({"fid": torch.zeros(2)}, "measure must return a dict of numbers by name"),
    ],
)
def test_bad_measurements_are_named(found: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_adversarial(ring(), points(), steps=1, batch_size=8, measure=lambda model: found)


def test_names_of_measurements_must_stay_the_same() -> None:
    names = iter(["a", "b"])
    with pytest.raises(ValueError, match=r"the same names each time, got \['b'\] after \['a'\]"):
        fit_adversarial(
            *(ring(), points()), steps=2, batch_size=8, measure_every=1,
            measure=lambda model: {next(names): 0.0},
        )  # fmt: skip


# Checkpoints and stops


@pytest.mark.parametrize("optimizer", [None, partial(torch.optim.RMSprop, lr=0.01)])
def test_a_resumed_game_repeats_an_uninterrupted_one(optimizer: object, tmp_path: Path) -> None:
    run = partial(
        fit_adversarial,
        data=points(),
        batch_size=8,
        critic_steps=2,
        optimizer=optimizer,
        schedule=lambda step: 1 / (1 + step),
        ema=0.9,
        transform=lambda x, generator: x + 0.1 * torch.randn(x.shape, generator=generator),
        measure=lambda model: {"x": model.sample(4).mean()},
        measure_every=3,
    )
    path = tmp_path / "game.safetensors"
    whole, parts = ring(), ring()
    expected = run(whole, steps=15)
    run(parts, steps=7, checkpoint=path)
    parts = ring(seed=1)
    torch.manual_seed(5)
    history = run(parts, steps=15, checkpoint=path, resume=True)
    assert same(whole, parts)
    assert expected.train == history.train
    keep = [i for i, step in enumerate(history.measured_steps) if step != 7]
    assert [history.measured["x"][i] for i in keep] == expected.measured["x"]
    assert expected.ema is not None
    assert history.ema is not None
    assert same(expected.ema, history.ema)
    with pytest.raises(ValueError, match="critic_steps was 2 there and is 1 now"):
        run(ring(), steps=20, checkpoint=path, resume=True, critic_steps=1)
    with pytest.raises(ValueError, match=r"critic_optimizer was .* there and is SGD now"):
        run(ring(), steps=20, checkpoint=path, resume=True, critic_optimizer=SGD)


@pytest.mark.parametrize("who", ["discriminator", "generator"])
def test_a_term_that_is_not_finite_names_the_player_and_keeps_its_weights(who: str) -> None:
    class Breaks(RingGAN):
        turns = 0

        def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
            return self.spoilt("generator", super().generator_loss(n))

        def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            return self.spoilt("discriminator", super().discriminator_loss(real))

        def spoilt(self, player: str, terms: dict[str, Tensor]) -> dict[str, Tensor]:
            self.turns += player == who
            if player == who and self.turns == 4:
                self.before = {k: v.clone() for k, v in getattr(self, who).named_parameters()}
                terms["loss"] = terms["loss"] * float("nan")
            return terms

    torch.manual_seed(0)
    model = Breaks()
    with pytest.raises(
        NonFiniteLossError, match=f"""step 4, the {who}'s term "loss" is nan"""
    ) as caught:
        fit_adversarial(model, points(), steps=9, batch_size=8)
    assert f"The {who}'s turn was not taken" in str(caught.value)
    assert caught.value.history.train_steps == [1, 2, 3]
    now = dict(getattr(model, who).named_parameters())
    assert all(torch.equal(now[k], v) for k, v in model.before.items())
    assert all(p.requires_grad for p in model.parameters())


def test_a_gradient_that_is_not_finite_names_player_and_parameter() -> None:
    class Root(DiracGAN):
        def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
            at = self.generator.at
            return {"loss": (at - at.detach()).sqrt()}

    message = "step 1, the generator's gradient of generator.at is not finite"
    with pytest.raises(NonFiniteLossError, match=message):
        fit_adversarial(Root(), ZEROS, steps=1, batch_size=4)


def test_a_gradient_whose_square_overflows_is_no_reason_to_stop() -> None:
    class Steep(DiracGAN):
        def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
            return {"loss": 1e30 * self.generator.at}

    model = Steep().float()
    sign = partial(torch.optim.SGD, lr=1e-30)
    fit_adversarial(model, ZEROS.float(), steps=2, batch_size=4, optimizer=sign)
    assert model.generator.at.item() == pytest.approx(-1.0)


def test_an_interrupt_in_a_critics_turn_ends_the_run_after_the_step(tmp_path: Path) -> None:
    class Interrupted(RingGAN):
        calls = 0

        def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            self.calls += 1
            if self.calls == 9:  # the first of three turns of step 4
                signal.raise_signal(signal.SIGINT)
            return super().discriminator_loss(real)

    run = partial(fit_adversarial, data=points(), steps=10, batch_size=8, critic_steps=2)
    path = tmp_path / "c.safetensors"
    whole = ring()
    expected = run(whole)
    torch.manual_seed(0)
    model = Interrupted()
    history = run(model, checkpoint=path, checkpoint_every=100)
    assert history.interrupted
    assert history.train_steps == [1, 2, 3, 4, 5]
    assert history.train["generator loss"] == expected.train["generator loss"][:5]
    resumed = ring(seed=3)
    history = run(resumed, checkpoint=path, resume=True)
    assert same(whole, resumed)
    assert history.train == expected.train


# Several processes


def test_two_processes_play_like_one(tmp_path: Path) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    script = str(Path(__file__).with_name("ddp_fit_adversarial.py"))
    for processes in (1, 2):
        out = str(tmp_path / str(processes))
        subprocess.run(
            [sys.executable, "-W", "ignore", script, str(processes), out],
            env=env, check=True, timeout=120, capture_output=True,
        )  # fmt: skip
    one, two = load_file(tmp_path / "1"), load_file(tmp_path / "2")
    assert len(one) == 16
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
    logged = []
    for processes in (1, 2):
        with safe_open(tmp_path / str(processes), "pt") as file:
            logged.append(json.loads(file.metadata()["logged"]))
    assert logged[0].keys() == logged[1].keys()
    assert {"discriminator penalty", "generator loss", "mean"} <= logged[0].keys()
    for name, values in logged[0].items():
        assert len(values) == 10
        assert values == pytest.approx(logged[1][name], abs=1e-6)


# Bad input


class NoLoss(DiracGAN):
    generator_loss = None  # type: ignore[assignment]


class Stray(DiracGAN):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": nn.Linear(1, 1)}, "must have a module generator, Linear hasn't"),
        ({"model": NoLoss()}, r"must have a method generator_loss\(n, y=None\), NoLoss hasn't"),
        ({"model": Stray()}, r"model.embedding.weight is in neither model.generator nor"),
        (
            {"model": DiracGAN().requires_grad_(False)},
            "model.generator must have parameters that require gradients",
        ),
        ({"critic_steps": 0}, "critic_steps must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 13}, r"batch_size must lie in 1\.\.12"),
        ({"accumulate": 0}, "accumulate must be at least 1 part, got 0"),
        ({"accumulate": 3}, "batch_size must divide evenly into 3 parts, got 4"),
        ({"measure_every": 0}, "measure_every must be at least 1 step, got 0"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\)"),
        ({"resume": True}, "resume needs checkpoint"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    good = {"model": DiracGAN(), "data": ZEROS, "steps": 3, "batch_size": 4}
    with pytest.raises(ValueError, match=message):
        fit_adversarial(**(good | change))


def test_bad_losses_name_their_method() -> None:
    model = DiracGAN()
    model.generator_loss = lambda n, y=None: {"loss": model.discriminator.at * 1.0}
    message = "of model.generator_loss must depend on the generator's parameters"
    with pytest.raises(ValueError, match=message):
        fit_adversarial(model, ZEROS, steps=1, batch_size=4)
    model.generator_loss = lambda n, y=None: model.generator.at
    with pytest.raises(ValueError, match=r"model.generator_loss must return a dict .* got Param"):
        fit_adversarial(model, ZEROS, steps=1, batch_size=4)


def test_the_forty_lines_keep_the_contract_and_what_is_shown_names_both(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ring()
    assert isinstance(model, AdversarialModel)
    history = fit_adversarial(model, points(), steps=30, batch_size=8, progress=True)
    out, err = capsys.readouterr()
    assert out.startswith("step 30/30  discriminator loss ")
    assert "generator loss" in out
    assert err == ""
    assert isinstance(history, History)
